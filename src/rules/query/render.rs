//! A parsed query as a query of the server, in a form that has the same meaning on all versions.
//!
//! Comparisons with null are written in another way: servers before 8.0 find undefined equal to null, and later ones do not. `$mod` has no
//! such form: versions differ on decimals, and on numbers that do not fit into 64 bits.

use super::condition::{Comparison, Condition, Expression, Test};
use super::parse::type_codes;
use crate::model::raw::writer::{IndexNames, RawWriter};
use crate::order::{Key, element_type};

/// Appends the fields of the query. Returns `None` if there is no form that has the same meaning on all versions.
pub(super) fn render(expression: &Expression, writer: &mut RawWriter) -> Option<()> {
    match expression {
        Expression::And(parts) => match parts.as_slice() {
            [] => Some(()),
            [part] => render(part, writer),
            parts => all_of("$and", parts, writer),
        },
        Expression::Or(parts) => all_of("$or", parts, writer),
        Expression::Nor(parts) => all_of("$nor", parts, writer),
        Expression::Field(path, condition) => render_condition(&path.text, condition, writer),
    }
}

fn all_of(operator: &str, parts: &[Expression], writer: &mut RawWriter) -> Option<()> {
    each(operator, parts, writer, render)
}

fn render_condition(path: &str, condition: &Condition, writer: &mut RawWriter) -> Option<()> {
    match condition {
        Condition::Test(test) => render_test(path, test, writer),
        Condition::Not(condition) => each(
            "$nor",
            std::slice::from_ref(condition.as_ref()),
            writer,
            |part, writer| render_condition(path, part, writer),
        ),
        Condition::All(conditions) => match conditions.as_slice() {
            [condition] => render_condition(path, condition, writer),
            conditions => each("$and", conditions, writer, |part, writer| {
                render_condition(path, part, writer)
            }),
        },
        Condition::Never => {
            writer.open_document(path).open_array("$in").close().close();
            Some(())
        }
    }
}

fn render_test(path: &str, test: &Test, writer: &mut RawWriter) -> Option<()> {
    match test {
        Test::Compare(comparison, operand) if is_null(operand) => match comparison {
            // Nothing is less or greater than null.
            Comparison::Less | Comparison::Greater => {
                operators(path, writer, |writer| {
                    writer.value(comparison.operator(), operand.as_raw())
                });
            }
            Comparison::Equal | Comparison::LessOrEqual | Comparison::GreaterOrEqual => is_null_or(path, &[], writer),
        },
        Test::Compare(comparison, operand) if depends_on_indexes(*comparison, operand) => return None,
        Test::Compare(comparison, operand) => {
            operators(path, writer, |writer| {
                writer.value(comparison.operator(), operand.as_raw())
            });
        }
        Test::In(operands) if operands.iter().any(is_null) => {
            let others: Vec<&Key> = operands.iter().filter(|operand| !is_null(operand)).collect();
            is_null_or(path, &others, writer);
        }
        Test::In(operands) => is_in(path, &operands.iter().collect::<Vec<_>>(), writer),
        Test::Exists => operators(path, writer, |writer| writer.boolean("$exists", true)),
        Test::Type(types) => operators(path, writer, |writer| {
            writer.open_array("$type");
            let mut names = IndexNames::default();
            for code in type_codes(*types) {
                writer.int32(names.next(), code);
            }
            writer.close()
        }),
        Test::Mod { .. } => return None,
        Test::Size(size) => {
            let size = i64::try_from(*size).ok()?;
            operators(path, writer, |writer| writer.int64("$size", size));
        }
        Test::ElementFits(expression) => {
            writer.open_document(path).open_document("$elemMatch");
            render(expression, writer)?;
            writer.close().close();
        }
        // Operators of one element cannot be joined by `$or`.
        Test::ElementIs { condition, .. } if !is_the_same_everywhere(condition) => return None,
        Test::ElementIs { operators: given, .. } => {
            operators(path, writer, |writer| writer.document("$elemMatch", given));
        }
    }
    Some(())
}

/// The path leads to null, to undefined or nowhere, or to one of the others.
fn is_null_or(path: &str, others: &[&Key], writer: &mut RawWriter) {
    writer.open_array("$or");
    writer.open_document("0").open_document(path);
    writer.value_bytes("$eq", element_type::NULL, &[]).close().close();
    writer.open_document("1").open_document(path);
    writer.int32("$type", element_type::UNDEFINED.into()).close().close();
    if !others.is_empty() {
        writer.open_document("2");
        is_in(path, others, writer);
        writer.close();
    }
    writer.close();
}

fn is_in(path: &str, operands: &[&Key], writer: &mut RawWriter) {
    operators(path, writer, |writer| {
        writer.open_array("$in");
        let mut names = IndexNames::default();
        for operand in operands {
            writer.value(names.next(), operand.as_raw());
        }
        writer.close()
    });
}

fn operators(path: &str, writer: &mut RawWriter, write: impl FnOnce(&mut RawWriter) -> &mut RawWriter) {
    write(writer.open_document(path)).close();
}

/// Appends an array of documents.
fn each<T>(
    operator: &str,
    parts: &[T],
    writer: &mut RawWriter,
    write: impl Fn(&T, &mut RawWriter) -> Option<()>,
) -> Option<()> {
    writer.open_array(operator);
    let mut names = IndexNames::default();
    for part in parts {
        writer.open_document(names.next());
        write(part, writer)?;
        writer.close();
    }
    writer.close();
    Some(())
}

/// Whether all versions decide a condition in the same way as it was given.
fn is_the_same_everywhere(condition: &Condition) -> bool {
    match condition {
        Condition::Test(test) => match test {
            Test::Compare(comparison, operand) => !is_null(operand) && !depends_on_indexes(*comparison, operand),
            Test::In(operands) => !operands.iter().any(is_null),
            Test::Mod { .. } => false,
            Test::ElementIs { condition, .. } => is_the_same_everywhere(condition),
            Test::ElementFits(expression) => expression_is_the_same_everywhere(expression),
            Test::Exists | Test::Type(_) | Test::Size(_) => true,
        },
        Condition::Never => true,
        Condition::Not(condition) => is_the_same_everywhere(condition),
        Condition::All(conditions) => conditions.iter().all(is_the_same_everywhere),
    }
}

fn expression_is_the_same_everywhere(expression: &Expression) -> bool {
    match expression {
        Expression::And(parts) | Expression::Or(parts) | Expression::Nor(parts) => {
            parts.iter().all(expression_is_the_same_everywhere)
        }
        Expression::Field(_, condition) => is_the_same_everywhere(condition),
    }
}

/// Servers refuse the negation of a comparison with an array, a symbol or a DBPointer if the field has an index, as `_id` has. 4.2 finds the
/// ends less and greater than themselves there.
fn depends_on_indexes(comparison: Comparison, operand: &Key) -> bool {
    comparison != Comparison::Equal
        && matches!(
            operand.as_raw().element_type(),
            element_type::ARRAY
                | element_type::SYMBOL
                | element_type::DB_POINTER
                | element_type::MIN_KEY
                | element_type::MAX_KEY
        )
}

fn is_null(operand: &Key) -> bool {
    operand.as_raw().element_type() == element_type::NULL
}

impl Comparison {
    fn operator(self) -> &'static str {
        match self {
            Self::Equal => "$eq",
            Self::Less => "$lt",
            Self::LessOrEqual => "$lte",
            Self::Greater => "$gt",
            Self::GreaterOrEqual => "$gte",
        }
    }
}
