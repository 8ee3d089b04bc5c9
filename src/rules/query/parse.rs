//! Reads a query, and refuses what is not supported.

use bson::{Bson, Document, RawBsonRef, RawDocumentBuf};

use super::Unsupported;
use super::condition::{Comparison, Condition, Expression, Test, type_bit};
use super::path::Path;
use crate::order::{Element, Elements, Key, RawValue, element_type};

/// Maximum depth of operators in a query. Servers allow 100, and a rewritten query has up to twice the depth.
const MAX_DEPTH: usize = 40;

/// Maximum depth of a value in a query.
const MAX_VALUE_DEPTH: usize = 100;

const TYPES: [(&str, u8); 21] = [
    ("double", element_type::DOUBLE),
    ("string", element_type::STRING),
    ("object", element_type::DOCUMENT),
    ("array", element_type::ARRAY),
    ("binData", element_type::BINARY),
    ("undefined", element_type::UNDEFINED),
    ("objectId", element_type::OBJECT_ID),
    ("bool", element_type::BOOLEAN),
    ("date", element_type::DATE),
    ("null", element_type::NULL),
    ("regex", element_type::REGEX),
    ("dbPointer", element_type::DB_POINTER),
    ("javascript", element_type::CODE),
    ("symbol", element_type::SYMBOL),
    ("javascriptWithScope", element_type::CODE_WITH_SCOPE),
    ("int", element_type::INT32),
    ("timestamp", element_type::TIMESTAMP),
    ("long", element_type::INT64),
    ("decimal", element_type::DECIMAL128),
    ("minKey", element_type::MIN_KEY),
    ("maxKey", element_type::MAX_KEY),
];

/// Reads the whole query, or one document of `$and`, `$or` or `$nor`, or the operand of `$elemMatch`.
pub(super) fn document(query: &Document, depth: usize) -> Result<Expression, Unsupported> {
    let mut parts = Vec::new();
    for (name, operand) in query {
        if depth > MAX_DEPTH {
            return Err(unsupported(
                name,
                "",
                "it is nested too deep; use fewer levels of operators",
            ));
        }
        match name.as_str() {
            "$comment" => {}
            "$and" => parts.push(Expression::And(documents(name, operand, depth)?)),
            "$or" => parts.push(Expression::Or(documents(name, operand, depth)?)),
            "$nor" => parts.push(Expression::Nor(documents(name, operand, depth)?)),
            name if name.starts_with('$') => return Err(unknown(name, "")),
            path => parts.push(field(path, operand, depth)?),
        }
    }
    Ok(Expression::And(parts))
}

/// The codes of types, as `$type` takes them.
pub(super) fn type_codes(types: u32) -> impl Iterator<Item = i32> {
    TYPES
        .into_iter()
        .filter(move |(_, code)| types & type_bit(*code) != 0)
        .map(|(_, code)| match code {
            element_type::MIN_KEY => -1,
            code => code.into(),
        })
}

fn documents(operator: &str, operand: &Bson, depth: usize) -> Result<Vec<Expression>, Unsupported> {
    const EXPECTED: &str = "its operand must be an array of at least one query";
    let parts = match operand {
        Bson::Array(parts) if !parts.is_empty() => parts,
        _ => return Err(unsupported(operator, "", EXPECTED)),
    };
    let read = |part: &Bson| match part {
        Bson::Document(part) => document(part, depth + 1),
        _ => Err(unsupported(operator, "", EXPECTED)),
    };
    parts.iter().map(read).collect()
}

fn field(text: &str, operand: &Bson, depth: usize) -> Result<Expression, Unsupported> {
    let path = Path::new(text).ok_or_else(|| {
        let reason = "the path has an empty name or too many names; write names with a dot between them";
        unsupported("$eq", text, reason)
    })?;
    let condition = match operand {
        Bson::Document(document) if is_operators(document) => operators(text, document, depth)?,
        Bson::RegularExpression(_) => return Err(unknown("$regex", text)),
        Bson::Document(document) if document.keys().any(|name| name.starts_with('$')) => {
            let reason =
                "operators and fields are mixed, or it is a reference; write `{$eq: value}` to compare with a value";
            return Err(unsupported("$eq", text, reason));
        }
        operand => compare("$eq", Comparison::Equal, text, operand)?,
    };
    Ok(Expression::Field(path, condition))
}

/// Whether a document consists of operators, as the server decides it.
fn is_operators(document: &Document) -> bool {
    let first = document.keys().next();
    first.is_some_and(|name| name.starts_with('$') && !matches!(name.as_str(), "$ref" | "$id" | "$db"))
}

/// Reads the operators of one field.
fn operators(path: &str, operators: &Document, depth: usize) -> Result<Condition, Unsupported> {
    let read = |(name, operand): (&String, &Bson)| operator(name, path, operand, depth);
    Ok(Condition::All(operators.iter().map(read).collect::<Result<_, _>>()?))
}

fn operator(name: &str, path: &str, operand: &Bson, depth: usize) -> Result<Condition, Unsupported> {
    if depth > MAX_DEPTH {
        return Err(unsupported(
            name,
            path,
            "it is nested too deep; use fewer levels of operators",
        ));
    }
    Ok(match name {
        "$eq" => compare(name, Comparison::Equal, path, operand)?,
        "$ne" => not(compare(name, Comparison::Equal, path, operand)?),
        "$lt" => compare(name, Comparison::Less, path, operand)?,
        "$lte" => compare(name, Comparison::LessOrEqual, path, operand)?,
        "$gt" => compare(name, Comparison::Greater, path, operand)?,
        "$gte" => compare(name, Comparison::GreaterOrEqual, path, operand)?,
        "$in" => Condition::Test(Test::In(list(name, path, operand)?)),
        "$nin" => not(Condition::Test(Test::In(list(name, path, operand)?))),
        "$exists" => match operand {
            Bson::Boolean(true) | Bson::Int32(1) | Bson::Int64(1) => Condition::Test(Test::Exists),
            Bson::Boolean(false) | Bson::Int32(0) | Bson::Int64(0) => not(Condition::Test(Test::Exists)),
            _ => return Err(unsupported(name, path, "its operand must be true or false")),
        },
        "$type" => Condition::Test(Test::Type(types(name, path, operand)?)),
        "$not" => match operand {
            Bson::Document(inner) if is_operators(inner) => not(operators(path, inner, depth + 1)?),
            Bson::RegularExpression(_) => return Err(unknown("$regex", path)),
            _ => return Err(unsupported(name, path, "its operand must be a document of operators")),
        },
        "$mod" => modulo(name, path, operand)?,
        "$size" => match integer(operand).map(u64::try_from) {
            Some(Ok(size)) => Condition::Test(Test::Size(size)),
            _ => {
                return Err(unsupported(
                    name,
                    path,
                    "its operand must be a whole number that is not negative",
                ));
            }
        },
        "$all" => all(name, path, operand, depth)?,
        "$elemMatch" => element_match(name, path, operand, depth)?,
        _ => return Err(unknown(name, path)),
    })
}

fn compare(name: &str, comparison: Comparison, path: &str, operand: &Bson) -> Result<Condition, Unsupported> {
    Ok(Condition::Test(Test::Compare(comparison, value(name, path, operand)?)))
}

fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

fn list(name: &str, path: &str, operand: &Bson) -> Result<Vec<Key>, Unsupported> {
    let Bson::Array(values) = operand else {
        return Err(unsupported(name, path, "its operand must be an array"));
    };
    let read = |operand: &Bson| match operand {
        Bson::Document(document) if document.keys().next().is_some_and(|name| name.starts_with('$')) => {
            Err(unsupported(name, path, "its operand must not have operators"))
        }
        operand => value(name, path, operand),
    };
    values.iter().map(read).collect()
}

/// The documents after `$all` are values, or all of them `$elemMatch`.
fn all(name: &str, path: &str, operand: &Bson, depth: usize) -> Result<Condition, Unsupported> {
    let Bson::Array(values) = operand else {
        return Err(unsupported(name, path, "its operand must be an array"));
    };
    let element_matches: Option<Vec<&Bson>> = values
        .iter()
        .map(|value| match value {
            Bson::Document(document) if document.len() == 1 => document.get("$elemMatch"),
            _ => None,
        })
        .collect();
    let conditions: Vec<Condition> = match element_matches {
        _ if values.is_empty() => return Ok(Condition::Never),
        Some(operands) => {
            let read = |operand| element_match("$elemMatch", path, operand, depth + 1);
            operands.into_iter().map(read).collect::<Result<_, _>>()?
        }
        None => {
            let equal = |key| Condition::Test(Test::Compare(Comparison::Equal, key));
            list(name, path, operand)?.into_iter().map(equal).collect()
        }
    };
    Ok(Condition::All(conditions))
}

fn element_match(name: &str, path: &str, operand: &Bson, depth: usize) -> Result<Condition, Unsupported> {
    let Bson::Document(query) = operand else {
        return Err(unsupported(name, path, "its operand must be a document"));
    };
    let is_logical = |name: &String| matches!(name.as_str(), "$and" | "$or" | "$nor" | "$comment");
    let test = match is_operators(query) && !query.keys().next().is_some_and(is_logical) {
        true => Test::ElementIs {
            condition: Box::new(operators(path, query, depth + 1)?),
            operators: RawDocumentBuf::try_from(query).map_err(|_| malformed(name, path))?,
        },
        false => Test::ElementFits(Box::new(document(query, depth + 1)?)),
    };
    Ok(Condition::Test(test))
}

/// Fractions are refused, because not all versions cut them off.
fn modulo(name: &str, path: &str, operand: &Bson) -> Result<Condition, Unsupported> {
    let operands = match operand {
        Bson::Array(operands) => match operands.as_slice() {
            [divisor, remainder] => integer(divisor).zip(integer(remainder)),
            _ => None,
        },
        _ => None,
    };
    match operands {
        Some((divisor, remainder)) if divisor != 0 => Ok(Condition::Test(Test::Mod { divisor, remainder })),
        _ => Err(unsupported(
            name,
            path,
            "its operand must be two whole numbers, the first of which is not 0",
        )),
    }
}

fn types(name: &str, path: &str, operand: &Bson) -> Result<u32, Unsupported> {
    const NUMBERS: [u8; 4] = [
        element_type::DOUBLE,
        element_type::INT32,
        element_type::INT64,
        element_type::DECIMAL128,
    ];
    let named = |alias: &str| {
        TYPES
            .iter()
            .find(|(name, _)| *name == alias)
            .map(|(_, code)| type_bit(*code))
    };
    let read = |operand: &Bson| {
        let bits = match operand {
            Bson::String(alias) if alias == "number" => Some(NUMBERS.into_iter().map(type_bit).sum()),
            Bson::String(alias) => named(alias),
            number => match integer(number) {
                Some(-1) => Some(type_bit(element_type::MIN_KEY)),
                Some(code) => u8::try_from(code).ok().filter(|code| *code < 0x80).map(type_bit),
                None => None,
            },
        };
        bits.filter(|bits| *bits != 0).ok_or_else(|| {
            unsupported(
                name,
                path,
                "its operand must be the name or number of a type, or several in an array",
            )
        })
    };
    match operand {
        Bson::Array(operands) if !operands.is_empty() => {
            operands.iter().try_fold(0, |bits, operand| Ok(bits | read(operand)?))
        }
        operand => read(operand),
    }
}

/// A value to compare with.
fn value(name: &str, path: &str, operand: &Bson) -> Result<Key, Unsupported> {
    match operand {
        Bson::RegularExpression(_) => return Err(unknown("$regex", path)),
        Bson::Undefined => return Err(unsupported(name, path, "servers refuse undefined; use null")),
        operand if !is_shallow(operand, 0) => return Err(malformed(name, path)),
        _ => {}
    }
    let document = RawDocumentBuf::try_from(&bson::doc! { "v": operand.clone() }).map_err(|_| malformed(name, path))?;
    let value: Option<RawBsonRef<'_>> = document.get("v").ok().flatten();
    let key = value.map(Key::from).ok_or_else(|| malformed(name, path))?;
    match has_cut_namespace(key.as_raw()) {
        true => {
            let reason =
                "it has a DBPointer with a NUL in its namespace, of which servers differ; use a predicate of your own";
            Err(unsupported(name, path, reason))
        }
        false => Ok(key),
    }
}

/// Whether there is a DBPointer with a NUL in its namespace. From 5.0 on, servers cut the namespace there before they test for equality, but
/// not if there are several values after `$in`, and not inside documents.
fn has_cut_namespace(value: RawValue<'_>) -> bool {
    let bytes = value.bytes();
    match value.element_type() {
        // A length of 4 bytes, the namespace, its terminator, and an ObjectId.
        element_type::DB_POINTER => bytes
            .get(4..bytes.len().saturating_sub(13))
            .is_some_and(|namespace| namespace.contains(&0)),
        element_type::DOCUMENT | element_type::ARRAY => Elements::of(bytes).any(|element| match element {
            Element::Field { value, .. } => has_cut_namespace(value),
            Element::Malformed(_) => false,
        }),
        _ => false,
    }
}

fn is_shallow(value: &Bson, depth: usize) -> bool {
    depth < MAX_VALUE_DEPTH
        && match value {
            Bson::Document(document) => document.values().all(|value| is_shallow(value, depth + 1)),
            Bson::Array(array) => array.iter().all(|value| is_shallow(value, depth + 1)),
            Bson::JavaScriptCodeWithScope(code) => code.scope.values().all(|value| is_shallow(value, depth + 1)),
            _ => true,
        }
}

/// A number of any type but decimal, if it is whole.
fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => {
            let whole = *number as i64;
            (whole as f64 == *number && whole != i64::MAX).then_some(whole)
        }
        _ => None,
    }
}

fn unknown(name: &str, path: &str) -> Unsupported {
    let reason = match name {
        "$regex" | "$options" => {
            "servers use another engine for regular expressions; use comparisons or a predicate of your own"
        }
        "$where" | "$expr" | "$function" => "only servers can evaluate it; use comparisons or a predicate of your own",
        "$text" | "$near" | "$nearSphere" | "$geoWithin" | "$geoIntersects" | "$within" => {
            "it needs an index of the server; use comparisons or a predicate of your own"
        }
        _ => "use comparisons or a predicate of your own",
    };
    unsupported(name, path, reason)
}

fn malformed(name: &str, path: &str) -> Unsupported {
    unsupported(
        name,
        path,
        "its operand is nested too deep or no valid BSON; use a simpler value",
    )
}

fn unsupported(operator: &str, path: &str, reason: &'static str) -> Unsupported {
    Unsupported {
        operator: operator.to_owned(),
        path: path.to_owned(),
        reason,
    }
}
