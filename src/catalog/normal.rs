//! Normal form of option values, in which they are compared.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bson::raw::{RawBson, RawBsonRef, RawDocument};

use crate::order::compare;

/// A value in its normal form.
#[derive(Clone, Debug)]
pub(super) enum Normal {
    /// Compared as it is: numbers by value at any depth, fields in order.
    Value(RawBson),
    /// Fields in any order.
    Fields(Fields),
}

/// Fields in any order.
pub(super) type Fields = BTreeMap<String, Normal>;

impl PartialEq for Normal {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(one), Self::Value(other)) => {
                compare(one.as_raw_bson_ref(), other.as_raw_bson_ref()) == Ordering::Equal
            }
            (Self::Fields(one), Self::Fields(other)) => one == other,
            _ => false,
        }
    }
}

impl From<RawBsonRef<'_>> for Normal {
    fn from(value: RawBsonRef<'_>) -> Self {
        Self::Value(RawBson::from(value))
    }
}

impl From<i64> for Normal {
    fn from(value: i64) -> Self {
        Self::Value(RawBson::Int64(value))
    }
}

impl From<bool> for Normal {
    fn from(value: bool) -> Self {
        Self::Value(RawBson::Boolean(value))
    }
}

impl From<&str> for Normal {
    fn from(value: &str) -> Self {
        Self::Value(RawBson::String(value.to_owned()))
    }
}

/// The readable fields of a document.
pub(super) fn fields(document: &RawDocument) -> impl Iterator<Item = (&str, RawBsonRef<'_>)> {
    document
        .iter()
        .filter_map(Result::ok)
        .map(|(name, value)| (name.as_str(), value))
}

/// A number of any type; `None` for anything else.
pub(super) fn number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Int32(value) => Some(f64::from(value)),
        // No number in a specification exceeds 2^53.
        RawBsonRef::Int64(value) => Some(value as f64),
        RawBsonRef::Double(value) => Some(value),
        RawBsonRef::Decimal128(value) => value.to_string().parse().ok(),
        _ => None,
    }
}

/// A number without its fraction: servers truncate numbers where they need whole ones.
pub(super) fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int64(value) => Some(value),
        other => number(other).map(|number| number as i64),
    }
}

/// The whole number if `value` is a number, else `value` unchanged.
pub(super) fn whole_or_as_it_stands(value: RawBsonRef<'_>) -> Normal {
    whole(value).map_or_else(|| value.into(), Normal::from)
}

/// Whether servers treat a value as true.
pub(super) fn is_true(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Boolean(value) => value,
        RawBsonRef::Null | RawBsonRef::Undefined => false,
        other => number(other).is_none_or(|number| number != 0.0),
    }
}

/// A collation with all defaults filled in, or `None` for the simple one. `version` is left out: it is the version of the server's own
/// collation library.
pub(super) fn collation(value: RawBsonRef<'_>) -> Option<Normal> {
    let Some(given) = value.as_document() else {
        return Some(value.into());
    };
    let locale = given.get_str("locale").unwrap_or_default();
    if locale == "simple" {
        return None;
    }
    let mut all: Fields = [
        ("caseLevel", Normal::from(false)),
        ("caseFirst", "off".into()),
        ("strength", 3.into()),
        ("numericOrdering", false.into()),
        ("alternate", "non-ignorable".into()),
        ("maxVariable", "punct".into()),
        ("normalization", false.into()),
        // The only locale that compares accents from the end of a string.
        ("backwards", (locale == "fr_CA").into()),
    ]
    .into_iter()
    .map(|(name, default)| (name.to_owned(), default))
    .collect();
    for (name, value) in fields(given).filter(|(name, _)| *name != "version") {
        all.insert(name.to_owned(), value.into());
    }
    Some(Normal::Fields(all))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn field(document: &RawDocument) -> RawBsonRef<'_> {
        document.get("x").unwrap().unwrap()
    }

    #[test]
    fn numbers_are_equal_by_value_at_any_depth() {
        let decimal: bson::Decimal128 = "1.0".parse().unwrap();
        let all = [
            rawdoc! { "x": { "a": [{ "b": 1 }] } },
            rawdoc! { "x": { "a": [{ "b": 1_i64 }] } },
            rawdoc! { "x": { "a": [{ "b": 1.0 }] } },
            rawdoc! { "x": { "a": [{ "b": decimal }] } },
        ];
        for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (one, other))) {
            assert_eq!(Normal::from(field(one)), Normal::from(field(other)));
        }
        for other in [
            rawdoc! { "x": { "a": [{ "b": 2 }] } },
            rawdoc! { "x": { "a": [{ "c": 1 }] } },
            rawdoc! { "x": { "a": [{ "b": "1" }] } },
            rawdoc! { "x": { "a": [{ "b": true }] } },
            rawdoc! { "x": { "a": [{ "b": 1, "c": 1 }] } },
        ] {
            assert_ne!(Normal::from(field(&all[0])), Normal::from(field(&other)));
        }
    }

    #[test]
    fn truth_is_that_of_the_server() {
        for (document, expected) in [
            (rawdoc! { "x": true }, true),
            (rawdoc! { "x": 1 }, true),
            (rawdoc! { "x": -0.5 }, true),
            (rawdoc! { "x": "false" }, true),
            (rawdoc! { "x": {} }, true),
            (rawdoc! { "x": false }, false),
            (rawdoc! { "x": 0_i64 }, false),
            (rawdoc! { "x": 0.0 }, false),
            (rawdoc! { "x": RawBson::Null }, false),
        ] {
            assert_eq!(is_true(field(&document)), expected, "{document:?}");
        }
    }
}
