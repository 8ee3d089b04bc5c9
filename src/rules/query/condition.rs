//! Conditions on documents and values, and how they are decided.

use super::path::{Leaf, Path, elements};
use crate::order::{Key, RawValue, element_type};
use crate::rules::error::RuleError;

/// A condition on a document.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Nor(Vec<Expression>),
    Field(Path, Condition),
}

/// A condition on the values of a path, or on one value.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    Test(Test),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Never,
}

/// A test of one value.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Compare(Comparison, Key),
    In(Vec<Key>),
    Exists,
    /// Bits by [`type_bit`].
    Type(u32),
    Mod {
        divisor: i64,
        remainder: i64,
    },
    Size(u64),
    /// Some document in an array fits.
    ElementFits(Box<Expression>),
    /// Some element of an array fulfils the condition. `operators` is the operand of the host.
    ElementIs {
        condition: Box<Condition>,
        operators: bson::RawDocumentBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Expression {
    pub(super) fn fits(&self, document: &[u8]) -> Result<bool, RuleError> {
        match self {
            Self::And(parts) => all(parts, |part| part.fits(document)),
            Self::Or(parts) => any(parts, |part| part.fits(document)),
            Self::Nor(parts) => Ok(!any(parts, |part| part.fits(document))?),
            Self::Field(path, condition) => condition.holds_at(path, document),
        }
    }

    /// Adds the top-level fields that the decision depends on.
    pub(super) fn add_fields<'a>(&'a self, fields: &mut Vec<&'a str>) {
        match self {
            Self::And(parts) | Self::Or(parts) | Self::Nor(parts) => {
                parts.iter().for_each(|part| part.add_fields(fields));
            }
            Self::Field(path, _) => fields.push(path.top()),
        }
    }
}

impl Condition {
    /// Decides for all values that a path leads to. Each test is true if it is for any of them.
    fn holds_at(&self, path: &Path, document: &[u8]) -> Result<bool, RuleError> {
        match self {
            Self::Test(test) => path.any(document, test.leaf(), &mut |value| test.holds(value)),
            Self::Not(condition) => Ok(!condition.holds_at(path, document)?),
            Self::All(conditions) => all(conditions, |condition| condition.holds_at(path, document)),
            Self::Never => Ok(false),
        }
    }

    /// Decides for one element of an array, and does not look into it.
    fn holds_for(&self, value: RawValue<'_>) -> Result<bool, RuleError> {
        match self {
            Self::Test(test) => test.holds(Some(value)),
            Self::Not(condition) => Ok(!condition.holds_for(value)?),
            Self::All(conditions) => all(conditions, |condition| condition.holds_for(value)),
            Self::Never => Ok(false),
        }
    }
}

impl Test {
    fn leaf(&self) -> Leaf {
        match self {
            Self::Size(_) | Self::ElementFits(_) | Self::ElementIs { .. } => Leaf::Whole,
            _ => Leaf::Elements,
        }
    }

    fn holds(&self, value: Option<RawValue<'_>>) -> Result<bool, RuleError> {
        Ok(match self {
            Self::Compare(comparison, operand) => comparison.holds(value, operand.as_raw()),
            Self::In(operands) => operands
                .iter()
                .any(|operand| Comparison::Equal.holds(value, operand.as_raw())),
            Self::Exists => value.is_some(),
            Self::Type(types) => value.is_some_and(|value| types & type_bit(value.element_type()) != 0),
            Self::Mod { divisor, remainder } => {
                let number = value.and_then(|value| value.truncated());
                number.is_some_and(|number| number.wrapping_rem(*divisor) == *remainder)
            }
            Self::Size(size) => match array(value) {
                Some(array) => {
                    elements(array.bytes()).try_fold(0, |count, element| element.map(|_| count + 1))? == *size
                }
                None => false,
            },
            Self::ElementFits(expression) => any_element(value, |element| match element.element_type() {
                // The server sees an array in an array as a document whose fields are the indexes.
                element_type::DOCUMENT | element_type::ARRAY => expression.fits(element.bytes()),
                _ => Ok(false),
            })?,
            Self::ElementIs { condition, .. } => any_element(value, |element| condition.holds_for(element))?,
        })
    }
}

impl Comparison {
    fn holds(self, value: Option<RawValue<'_>>, operand: RawValue<'_>) -> bool {
        let allows_equal = matches!(self, Self::Equal | Self::LessOrEqual | Self::GreaterOrEqual);
        // MinKey is less than everything, and MaxKey greater, whatever the types.
        let holds_for_all_other_types = match operand.element_type() {
            element_type::MIN_KEY => matches!(self, Self::Greater | Self::GreaterOrEqual),
            element_type::MAX_KEY => matches!(self, Self::Less | Self::LessOrEqual),
            _ => false,
        };
        let value = value.filter(|value| value.element_type() != element_type::UNDEFINED);
        let Some(value) = value else {
            return match operand.element_type() {
                element_type::NULL => allows_equal,
                _ => holds_for_all_other_types,
            };
        };
        if !value.compares_with(&operand) {
            return holds_for_all_other_types;
        }
        if value.is_nan() || operand.is_nan() {
            return allows_equal && value.is_nan() && operand.is_nan();
        }
        let ordering = value.compare_in_query(&operand);
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A bit for each type, or none for a byte that is no type.
pub(super) fn type_bit(element_type: u8) -> u32 {
    match element_type {
        element_type::MIN_KEY => 1 << 30,
        element_type::MAX_KEY => 1 << 31,
        known @ element_type::DOUBLE..=element_type::DECIMAL128 => 1 << known,
        _ => 0,
    }
}

fn array(value: Option<RawValue<'_>>) -> Option<RawValue<'_>> {
    value.filter(|value| value.element_type() == element_type::ARRAY)
}

fn any_element(
    value: Option<RawValue<'_>>,
    mut test: impl FnMut(RawValue<'_>) -> Result<bool, RuleError>,
) -> Result<bool, RuleError> {
    let Some(array) = array(value) else {
        return Ok(false);
    };
    for element in elements(array.bytes()) {
        if test(element?.1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn all<T>(parts: &[T], mut test: impl FnMut(&T) -> Result<bool, RuleError>) -> Result<bool, RuleError> {
    for part in parts {
        if !test(part)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn any<T>(parts: &[T], mut test: impl FnMut(&T) -> Result<bool, RuleError>) -> Result<bool, RuleError> {
    Ok(!all(parts, |part| Ok(!test(part)?))?)
}
