//! Finds values in BSON bytes without decoding them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use bson::RawDocument;
use bson::spec::ElementType;

use super::canonical::Canonical;
use super::extended_json;
use super::hash::Feed;

/// A raw BSON value: its type byte, and its bytes in the document.
///
/// Unlike [`bson::RawBsonRef`], it can hold values that the server stores but the `bson` crate refuses to decode, such as strings that are
/// not UTF-8. The length of the bytes always matches the type.
///
/// `Ord`, `Eq` and `Hash` follow the server's order (see [`compare`](super::compare())).
#[derive(Clone, Copy)]
pub struct RawValue<'a> {
    element_type: u8,
    bytes: &'a [u8],
}

impl<'a> RawValue<'a> {
    /// Creates a value from its type byte and its bytes. Returns `None` if `bytes` is not exactly one value of that type.
    ///
    /// Only lengths and terminators are checked, not UTF-8 or the elements of embedded documents.
    pub fn from_parts(element_type: u8, bytes: &'a [u8]) -> Option<Self> {
        (value_length(element_type, bytes)? == bytes.len()).then_some(Self { element_type, bytes })
    }

    /// The type byte of the value.
    pub fn element_type(&self) -> u8 {
        self.element_type
    }

    /// The bytes of the value in the document, after the field name.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The hash that [`hash_key`](super::hash_key) returns for this value. It is the same in every process.
    pub fn stable_hash(&self) -> u64 {
        self.canonical().stable_hash()
    }

    /// Returns `true` if both values are of types that queries compare with each other, such as an integer and a decimal.
    pub(crate) fn compares_with(&self, other: &RawValue<'_>) -> bool {
        self.element_type == other.element_type || self.canonical().rank() == other.canonical().rank()
    }

    /// Compares as queries do. Unlike the `_id` index, they see the names in arrays and whole namespaces.
    pub(crate) fn compare_in_query(&self, other: &RawValue<'_>) -> Ordering {
        self.canonical().cmp_in_query(&other.canonical())
    }

    /// Returns `true` for a number that is not a number.
    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.canonical(), Canonical::Number(number) if number.is_nan())
    }

    /// The whole part of a number, if it is finite and fits.
    pub(crate) fn truncated(&self) -> Option<i64> {
        match self.canonical() {
            Canonical::Number(number) => number.truncated(),
            _ => None,
        }
    }

    /// Feeds the same for all values that compare as equal, and something else for all other values.
    pub(crate) fn feed(&self, feed: &mut impl Feed) {
        self.canonical().feed(feed);
    }

    /// Creates a value from bytes that are known to be a value of this type.
    pub(super) fn trusted(element_type: u8, bytes: &'a [u8]) -> Self {
        Self { element_type, bytes }
    }

    pub(super) fn canonical(&self) -> Canonical<'a> {
        let bytes = self.bytes;
        match ElementType::from(self.element_type) {
            Some(ElementType::MinKey) => Canonical::MinKey,
            Some(ElementType::Undefined) => Canonical::Undefined,
            Some(ElementType::Null) => Canonical::Null,
            Some(ElementType::Double) => Canonical::Number(f64::from_le_bytes(first(bytes)).into()),
            Some(ElementType::Int32) => Canonical::Number(i64::from(i32::from_le_bytes(first(bytes))).into()),
            Some(ElementType::Int64) => Canonical::Number(i64::from_le_bytes(first(bytes)).into()),
            Some(ElementType::Decimal128) => Canonical::Number(bson::Decimal128::from_bytes(first(bytes)).into()),
            Some(ElementType::String | ElementType::Symbol) => Canonical::Text(text(bytes)),
            Some(ElementType::EmbeddedDocument) => Canonical::Document(bytes),
            Some(ElementType::Array) => Canonical::Array(bytes),
            Some(ElementType::Binary) => {
                let (subtype, content) = after(bytes, 4).split_first().unwrap_or((&0, &[]));
                Canonical::binary(*subtype, content)
            }
            Some(ElementType::ObjectId) => Canonical::ObjectId(first(bytes)),
            Some(ElementType::Boolean) => Canonical::Boolean(bytes != [0]),
            Some(ElementType::DateTime) => Canonical::DateTime(i64::from_le_bytes(first(bytes))),
            Some(ElementType::Timestamp) => Canonical::Timestamp(u64::from_le_bytes(first(bytes))),
            Some(ElementType::RegularExpression) => {
                let pattern = until_nul(bytes);
                Canonical::RegularExpression {
                    pattern,
                    options: until_nul(after(bytes, pattern.len() + 1)),
                }
            }
            Some(ElementType::DbPointer) => {
                let (namespace, id) = bytes
                    .split_at_checked(bytes.len().saturating_sub(12))
                    .unwrap_or((&[], &[]));
                Canonical::DbPointer {
                    namespace: Cow::Borrowed(text(namespace)),
                    id: first(id),
                }
            }
            Some(ElementType::JavaScriptCode) => Canonical::Code(text(bytes)),
            Some(ElementType::JavaScriptCodeWithScope) => {
                let rest = after(bytes, 4);
                let length = string_length(rest).unwrap_or(rest.len());
                let (code, scope) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                Canonical::CodeWithScope {
                    code: text(code),
                    scope,
                }
            }
            Some(ElementType::MaxKey) => Canonical::MaxKey,
            // Unreachable: `value_length` accepts no other type.
            None => Canonical::Malformed(bytes),
        }
    }
}

impl Ord for RawValue<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(&other.canonical())
    }
}

impl PartialOrd for RawValue<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for RawValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for RawValue<'_> {}

impl Hash for RawValue<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.stable_hash());
    }
}

/// Writes canonical extended JSON. Bytes that are not UTF-8 become the replacement character.
impl fmt::Debug for RawValue<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        extended_json::write_value(formatter, *self)
    }
}

/// The first top-level field named `_id` of `document`, which is the one in the server's `_id` index.
///
/// Returns `None` if there is none, or if the bytes before it are malformed. Does not allocate. `_id` is the first field of every document
/// that a server has stored, so in practice nothing else is read.
pub fn id_of(document: &RawDocument) -> Option<RawValue<'_>> {
    for element in Elements::of(document.as_bytes()) {
        match element {
            Element::Field { name: b"_id", value } => return Some(value),
            Element::Field { .. } => {}
            Element::Malformed(_) => return None,
        }
    }
    None
}

/// One step through the bytes of a document.
pub(crate) enum Element<'a> {
    Field {
        name: &'a [u8],
        value: RawValue<'a>,
    },
    /// The rest of the document from the first malformed element on. Always the last step.
    Malformed(&'a [u8]),
}

/// Iterates over the elements of a document or array, given with its length and terminator.
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(crate) fn of(document: &'a [u8]) -> Self {
        Self {
            rest: document.get(4..document.len().saturating_sub(1)).unwrap_or_default(),
        }
    }

    fn field(&self) -> Option<(Element<'a>, &'a [u8])> {
        let (element_type, rest) = self.rest.split_first()?;
        let name_length = rest.iter().position(|byte| *byte == 0)?;
        let (name, rest) = (rest.get(..name_length)?, rest.get(name_length + 1..)?);
        let (bytes, rest) = rest.split_at_checked(value_length(*element_type, rest)?)?;
        Some((
            Element::Field {
                name,
                value: RawValue {
                    element_type: *element_type,
                    bytes,
                },
            },
            rest,
        ))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (element, rest) = self.field().unwrap_or((Element::Malformed(self.rest), &[]));
        self.rest = rest;
        Some(element)
    }
}

/// Number of bytes of the value that `bytes` starts with, or `None` if they do not start with a value of this type.
fn value_length(element_type: u8, bytes: &[u8]) -> Option<usize> {
    let length = match ElementType::from(element_type)? {
        ElementType::MinKey | ElementType::MaxKey | ElementType::Undefined | ElementType::Null => 0,
        ElementType::Boolean => 1,
        ElementType::Int32 => 4,
        ElementType::Double | ElementType::Int64 | ElementType::DateTime | ElementType::Timestamp => 8,
        ElementType::ObjectId => 12,
        ElementType::Decimal128 => 16,
        ElementType::String | ElementType::Symbol | ElementType::JavaScriptCode => string_length(bytes)?,
        ElementType::DbPointer => string_length(bytes)?.checked_add(12)?,
        ElementType::EmbeddedDocument | ElementType::Array => document_length(bytes)?,
        ElementType::Binary => declared_length(bytes)?.checked_add(5)?,
        ElementType::RegularExpression => {
            let pattern = bytes.iter().position(|byte| *byte == 0)? + 1;
            pattern + bytes.get(pattern..)?.iter().position(|byte| *byte == 0)? + 1
        }
        ElementType::JavaScriptCodeWithScope => {
            let length = declared_length(bytes)?;
            let scope = bytes.get(4..length)?;
            let scope = scope.get(string_length(scope)?..)?;
            (document_length(scope)? == scope.len()).then_some(length)?
        }
    };
    (length <= bytes.len()).then_some(length)
}

fn declared_length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(i32::from_le_bytes(*bytes.first_chunk()?)).ok()
}

/// The total length of a string: its length prefix, its content, and the terminating NUL, which the prefix counts.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let length = declared_length(bytes)?.checked_add(4)?;
    (length > 4 && bytes.get(length - 1) == Some(&0)).then_some(length)
}

fn document_length(bytes: &[u8]) -> Option<usize> {
    let length = declared_length(bytes)?;
    (length > 4 && bytes.get(length - 1) == Some(&0)).then_some(length)
}

/// The content of a string, without its length and terminator.
fn text(string: &[u8]) -> &[u8] {
    string.get(4..string.len().saturating_sub(1)).unwrap_or_default()
}

fn after(bytes: &[u8], count: usize) -> &[u8] {
    bytes.get(count..).unwrap_or_default()
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The leading bytes of a value of fixed size. A [`RawValue`] always has enough of them.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}
