//! MongoDB's comparison order of BSON values.
//!
//! It is the order of the `_id` index of a collection without a collation. Ranges of `_id` are split, routed and merged by it. If it
//! differed from the server's order for a single pair of values, a document could fall between two ranges or into both. So it follows the
//! *index keys* (the server's KeyString format). They ignore two things that comparisons in queries see: names inside arrays, and what
//! follows a NUL in the namespace of a DBPointer. If two bounds differ only in these, `find` with `min` and `max` may refuse them, because
//! the server compares the bounds with each other by value. No current driver writes such values.
//!
//! The rules, in order:
//! - Types: MinKey, undefined, null, numbers, strings and symbols, documents, arrays, binary data, ObjectId, boolean, date,
//!   timestamp, regular expression, DBPointer, code, code with scope, MaxKey.
//! - Numbers of all four types by their exact mathematical value. NaN is the least, all NaNs are equal, and -0 equals 0.
//! - Strings, symbols and code by their bytes; a prefix is less. They need not be UTF-8, and may contain NULs.
//! - Documents field by field: type, then name, then value. Arrays element by element.
//! - Binary data by length, then subtype, then bytes. DBPointers by the length of the namespace, then namespace, then id.
//! - Timestamps as unsigned, dates as signed numbers. Regular expressions by pattern, then options. Code with scope by code, then scope.
//!
//! Malformed bytes have an order too, so that nothing here can fail. The first unreadable element of a document and everything after it
//! count as one element that is greater than all others; two of these compare by their bytes. Documents nested more than 256 levels deep,
//! which no server stores, compare by their bytes below that level.

mod canonical;
pub(crate) mod element_type;
mod extended_json;
mod hash;
mod key;
mod number;
mod raw_value;
mod wide;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use bson::{RawBsonRef, RawDocument};

use self::canonical::{By, Canonical, Names, compare_elements};

pub(crate) use self::hash::Feed;
pub use self::key::Key;
pub(crate) use self::raw_value::{Element, Elements};
pub use self::raw_value::{RawValue, id_of};

/// Compares two values as the server's `_id` index does.
///
/// This is a total order on all values. It never fails and does not allocate, except to copy a DBPointer. Values that the `bson` crate does
/// not decode can be compared as [`RawValue`].
pub fn compare(left: RawBsonRef<'_>, right: RawBsonRef<'_>) -> Ordering {
    Canonical::from(left).cmp(&Canonical::from(right))
}

/// Compares two documents field by field: the type, then the name, then the value. A document that ends first is less.
pub fn compare_documents(left: &RawDocument, right: &RawDocument) -> Ordering {
    compare_elements(left.as_bytes(), right.as_bytes(), Names::Compared, By::IndexKey, 0)
}

/// A hash that is equal for values that [`compare()`] treats as equal, such as the integer 1 and the decimal 1.00.
///
/// There is no random state: a value has the same hash in every process. [`Key::stable_hash`] returns the same hash for the same value, as
/// does the method of [`RawValue`].
pub fn hash_key(value: RawBsonRef<'_>) -> u64 {
    Canonical::from(value).stable_hash()
}
