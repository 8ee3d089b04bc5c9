//! Finds values in BSON bytes without decoding them, so that nothing a server may have stored can stop a comparison.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use bson::RawDocument;
use bson::spec::ElementType;

use super::canonical::Canonical;
use super::extended_json;

/// A BSON value as it stands in a document: the byte that says its type, and the bytes of the value.
///
/// Unlike [`bson::RawBsonRef`] it also holds what the server stores but the `bson` crate refuses to decode, such as strings that are
/// not UTF-8. The bytes always have the length that the type asks for.
///
/// `Ord`, `Eq` and `Hash` follow the server's order, see [`compare`](super::compare()).
#[derive(Clone, Copy)]
pub struct RawValue<'a> {
    element_type: u8,
    bytes: &'a [u8],
}

impl<'a> RawValue<'a> {
    /// Takes all of `bytes` as one value of the type that `element_type` stands for in BSON, or `None` where they are not one.
    ///
    /// Only lengths and terminators are looked at, not UTF-8 or the elements of embedded documents.
    pub fn from_parts(element_type: u8, bytes: &'a [u8]) -> Option<Self> {
        (value_length(element_type, bytes)? == bytes.len()).then_some(Self { element_type, bytes })
    }

    /// The byte that stands for the value's type in BSON.
    pub fn element_type(&self) -> u8 {
        self.element_type
    }

    /// The value's bytes as they stand in a document, after the field name.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The hash that [`hash_key`](super::hash_key) gives for this value, the same in every process.
    pub fn stable_hash(&self) -> u64 {
        self.canonical().stable_hash()
    }

    /// For bytes that are known to be a value of this type.
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
                Canonical::db_pointer(Cow::Borrowed(text(namespace)), first(id))
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
            // `value_length` lets no other type in.
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

/// Canonical extended JSON; bytes that are not UTF-8 appear as the replacement character.
impl fmt::Debug for RawValue<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        extended_json::write_value(formatter, *self)
    }
}

/// The first field named `_id` at the top level of `document`: the one the server's `_id` index holds.
///
/// `None` where there is none, or where the bytes before it cannot be read. Takes no memory; as `_id` is the first field of every
/// document that a server has stored, nothing else is looked at in practice.
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
    /// What is left from the first element that cannot be read; always the last step.
    Malformed(&'a [u8]),
}

/// The elements of a document or array, given with its length and terminator.
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

/// How many of `bytes` the value of this type that they begin with takes, or `None` where they begin with no such value.
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

/// The length of a string with its own length and its terminator, which is a NUL that the length counts.
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

/// The leading bytes of a value of fixed size; a [`RawValue`] has them all.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}
