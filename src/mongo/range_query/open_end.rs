//! The filter for a range that ends with MaxKey.
//!
//! An index scan that begins at `min` and has no `max` ends before MaxKey, and there is no value above MaxKey to use as `max`. The filter
//! for a range without an upper end therefore excludes what is not in the range: the values up to `lower` of the same type, and all types
//! below. Each of these is an interval that the server skips in the scan, or a type with a handful of documents at most.

use crate::model::raw::writer::RawWriter;
use crate::order::{Key, element_type};

/// Appends a filter for all documents above `lower`.
pub(super) fn write(command: &mut RawWriter, lower: &Key) {
    match rank(lower.as_raw().element_type()) {
        Some(rank) => leave_out(command, lower, rank),
        None => compare_each(command, lower),
    }
}

/// Writes the filter for the three types without intervals on the server: arrays, regular expressions, DBPointers. Of these, the server
/// accepts only DBPointers as an `_id` from a client. There can be only few documents above such a value, so the server may examine each
/// one.
fn compare_each(command: &mut RawWriter, lower: &Key) {
    /// The `$type` numbers of these types and of all types above them, in index order.
    const ABOVE: [i32; 11] = [4, 5, 7, 8, 9, 17, 11, 12, 13, 15, 127];
    let own = i32::from(lower.as_raw().element_type());
    command.open_document("filter");
    command.open_document("_id").open_array("$type");
    for (index, id) in ABOVE.iter().skip_while(|id| **id != own).enumerate() {
        command.int32(&index.to_string(), *id);
    }
    command.close().close();
    command.open_document("$expr").open_array("$gt").string("0", "$_id");
    command.open_document("1").value("$literal", lower.as_raw());
    command.close().close().close().close();
}

fn leave_out(command: &mut RawWriter, lower: &Key, rank: usize) {
    command.open_document("filter").open_array("$and");
    let mut index = 0;
    let mut condition = |command: &mut RawWriter, operator: &str, write: &dyn Fn(&mut RawWriter)| {
        command.open_document(&index.to_string()).open_document("_id");
        match operator {
            "$ne" => write(command),
            _ => {
                command.open_document("$not");
                write(command);
                command.close();
            }
        }
        command.close().close();
        index += 1;
    };
    for (below, bracket) in BRACKETS.iter().enumerate().take(rank + 1) {
        match bracket {
            Bracket::Types(types) => condition(command, "$type", &|command| {
                command.open_array("$type");
                for (index, id) in types.iter().enumerate() {
                    command.int32(&index.to_string(), *id);
                }
                command.close();
            }),
            Bracket::From(_, first) if below < rank => condition(command, "$gte", &|command| {
                let (element_type, bytes) = *first;
                command.value_bytes("$gte", element_type, bytes);
            }),
            Bracket::From(..) => condition(command, "$lte", &|command| {
                // A symbol compares as the string it holds, but the server has no interval for symbols.
                let value = lower.as_raw();
                let element_type = match value.element_type() {
                    element_type::SYMBOL => element_type::STRING,
                    other => other,
                };
                command.value_bytes("$lte", element_type, value.bytes());
            }),
        }
        // In query comparisons, NaN is neither less nor greater than a number. In the index, NaN is the least.
        if matches!(bracket, Bracket::From([element_type::DOUBLE, ..], _)) {
            condition(command, "$ne", &|command| {
                command.value_bytes("$ne", element_type::DOUBLE, &f64::NAN.to_le_bytes());
            });
        }
    }
    command.close().close();
}

/// Types that query comparisons treat as one, in index order.
enum Bracket {
    /// The types, and the type and bytes of their least value other than NaN.
    From(&'static [u8], (u8, &'static [u8])),
    /// Types with few documents, by their numbers in `$type`. The filter excludes all of their documents.
    Types(&'static [i32]),
}

const BRACKETS: &[Bracket] = &[
    Bracket::Types(&[-1]),
    Bracket::Types(&[6]),
    Bracket::Types(&[10]),
    Bracket::From(
        &[
            element_type::DOUBLE,
            element_type::INT32,
            element_type::INT64,
            element_type::DECIMAL128,
        ],
        (element_type::DOUBLE, &f64::NEG_INFINITY.to_le_bytes()),
    ),
    Bracket::From(
        &[element_type::STRING, element_type::SYMBOL],
        (element_type::STRING, &[1, 0, 0, 0, 0]),
    ),
    Bracket::From(&[element_type::DOCUMENT], (element_type::DOCUMENT, &[5, 0, 0, 0, 0])),
    Bracket::Types(&[4]),
    Bracket::From(&[element_type::BINARY], (element_type::BINARY, &[0; 5])),
    Bracket::From(&[element_type::OBJECT_ID], (element_type::OBJECT_ID, &[0; 12])),
    Bracket::From(&[element_type::BOOLEAN], (element_type::BOOLEAN, &[0])),
    Bracket::From(&[element_type::DATE], (element_type::DATE, &i64::MIN.to_le_bytes())),
    Bracket::From(&[element_type::TIMESTAMP], (element_type::TIMESTAMP, &[0; 8])),
    Bracket::Types(&[11]),
    Bracket::Types(&[12]),
    Bracket::From(&[element_type::CODE], (element_type::CODE, &[1, 0, 0, 0, 0])),
    Bracket::From(
        &[element_type::CODE_WITH_SCOPE],
        (
            element_type::CODE_WITH_SCOPE,
            &[14, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0],
        ),
    ),
];

/// Returns the index of a type's bracket, or `None` if the server has no interval for its values.
fn rank(element_type: u8) -> Option<usize> {
    let number = match element_type {
        element_type::MIN_KEY => -1,
        element_type::ARRAY | element_type::REGEX | element_type::DB_POINTER => return None,
        other => i32::from(other),
    };
    BRACKETS.iter().position(|bracket| match bracket {
        Bracket::From(types, _) => types.contains(&element_type),
        Bracket::Types(types) => types.contains(&number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawBsonRef, rawdoc};

    #[test]
    fn what_is_below_is_left_out() {
        let mut command = RawWriter::with_capacity(0);
        write(&mut command, &Key::from(RawBsonRef::String("x")));
        let nan = f64::NAN;
        assert_eq!(
            command.finish(),
            rawdoc! { "filter": { "$and": [
                { "_id": { "$not": { "$type": [-1] } } },
                { "_id": { "$not": { "$type": [6] } } },
                { "_id": { "$not": { "$type": [10] } } },
                { "_id": { "$not": { "$gte": f64::NEG_INFINITY } } },
                { "_id": { "$ne": nan } },
                { "_id": { "$not": { "$lte": "x" } } },
            ] } }
        );
    }
}
