//! MongoDB's comparison order of BSON values, as the `_id` index of a collection without collation keeps it.
//!
//! Ranges of `_id` are cut, routed and merged by this order. Were it to differ from the server's for a single pair of values, a
//! document could fall between two ranges or into both. It is therefore the order of the *index keys* (the server's KeyString
//! format), which ignores a little of what the comparison of values in queries sees: names inside arrays, and what follows a NUL
//! in the namespace of a DBPointer. (Where only these tell two bounds apart, `find` with `min` and `max` may refuse them, as the
//! server compares the bounds with one another by value. No driver of today writes such values.)
//!
//! The rules, first to last:
//! - Types: MinKey, undefined, null, numbers, strings and symbols, documents, arrays, binary data, ObjectId, boolean, date,
//!   timestamp, regular expression, DBPointer, code, code with scope, MaxKey.
//! - Numbers of all four types by their exact mathematical value. NaN is the least, and all NaN are equal; -0 equals 0.
//! - Strings, symbols and code by their bytes; a prefix is less. They need not be UTF-8, and may hold NULs.
//! - Documents field by field: type, then name, then value. Arrays element by element.
//! - Binary data by length, then subtype, then bytes. DBPointers by length of the namespace, then namespace, then id.
//! - Timestamps unsigned, dates signed. Regular expressions by pattern, then options. Code with scope by code, then scope.
//!
//! Bytes that are no BSON get an order too, so that nothing here can fail: within a document the first element that cannot be read
//! and all that follows it count as one element that is greater than every other, and such rests compare by their bytes. Documents
//! nested more than 256 levels deep, which no server stores, compare by their bytes below that.

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

use self::canonical::{Canonical, Names, compare_elements};

pub use self::key::Key;
pub(crate) use self::raw_value::{Element, Elements};
pub use self::raw_value::{RawValue, id_of};

/// Compares two values as the server's `_id` index does.
///
/// This is a total order on all values; it never fails and takes no memory (only DBPointers are copied). Values that the `bson` crate
/// does not decode can be compared as [`RawValue`].
pub fn compare(left: RawBsonRef<'_>, right: RawBsonRef<'_>) -> Ordering {
    Canonical::from(left).cmp(&Canonical::from(right))
}

/// Compares two documents field by field: the type, then the name, then the value. The one that ends first is less.
pub fn compare_documents(left: &RawDocument, right: &RawDocument) -> Ordering {
    compare_elements(left.as_bytes(), right.as_bytes(), Names::Compared, 0)
}

/// A hash of the value that is equal for values that [`compare()`] equal, such as the integer 1 and the decimal 1.00.
///
/// It has no random state: the same value has the same hash in every process. The hash of a [`Key`] or [`RawValue`] with the same
/// value is [`Key::stable_hash`].
pub fn hash_key(value: RawBsonRef<'_>) -> u64 {
    Canonical::from(value).stable_hash()
}
