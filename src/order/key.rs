//! Owned `_id` values, ordered as the server orders them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use bson::raw::{CStr, RawBson, RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{RawBsonRef, RawDocument};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::extended_json;
use super::raw_value::{RawValue, id_of};
use crate::order::element_type;

/// An owned `_id` value.
///
/// It stores the bytes of the document `{_id: <value>}`, ready for use in a command. ObjectIds, numbers, dates, UUIDs and strings of up to
/// 16 bytes are stored inline, in 32 bytes; larger values are stored on the heap. Cloning copies the bytes.
///
/// `Ord`, `Eq` and `Hash` follow the server's order (see [`compare`](super::compare())). The integer 1 and the decimal 1.00 are the same
/// key, but each keeps its own bytes.
#[derive(Clone)]
pub struct Key(Bytes);

impl Key {
    /// The key below all others.
    pub const MIN: Self = Self(Bytes::Inline(bound(0xff)));

    /// The key above all others.
    pub const MAX: Self = Self(Bytes::Inline(bound(0x7f)));

    /// The `_id` of `document`, or `None` if it has no readable one. [`id_of`] returns it without a copy.
    pub fn of_document(document: &RawDocument) -> Option<Self> {
        id_of(document).map(Self::from)
    }

    /// The raw value. Unlike [`Key::to_bson_ref`], this cannot fail.
    pub fn as_raw(&self) -> RawValue<'_> {
        let bytes = self.document_bytes();
        let value = bytes.get(VALUE_AT..bytes.len() - 1).unwrap_or_default();
        RawValue::trusted(bytes.get(4).copied().unwrap_or_default(), value)
    }

    /// The value as a type of the `bson` crate.
    ///
    /// # Errors
    /// The `bson` crate refuses some values that the server stores, such as strings that are not UTF-8.
    pub fn to_bson_ref(&self) -> bson::error::Result<RawBsonRef<'_>> {
        match RawDocument::from_bytes(self.document_bytes())?.iter_elements().next() {
            Some(element) => element?.value(),
            None => Ok(RawBsonRef::Undefined),
        }
    }

    /// The bytes of the document `{_id: <value>}`, for use as a filter, or as a bound for `min` and `max`.
    pub fn document_bytes(&self) -> &[u8] {
        match &self.0 {
            // The first bytes of a document are its length. An inline length fits into the very first byte.
            Bytes::Inline(bytes) => bytes.get(..usize::from(bytes[0])).unwrap_or(bytes),
            Bytes::Heap(bytes) => bytes,
        }
    }

    /// Whether a collation may treat this value as equal to another one.
    pub(crate) fn is_collated(&self) -> bool {
        matches!(
            self.as_raw().element_type(),
            element_type::STRING | element_type::SYMBOL | element_type::DOCUMENT | element_type::ARRAY
        )
    }

    /// The hash that [`hash_key`](super::hash_key) returns for this value. It is the same in every process.
    pub fn stable_hash(&self) -> u64 {
        self.as_raw().stable_hash()
    }

    /// Memory used by the key in bytes, including the heap.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.0 {
                Bytes::Inline(_) => 0,
                Bytes::Heap(bytes) => bytes.len(),
            }
    }

    fn of_document_bytes(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE];
        match inline.get_mut(..bytes.len()) {
            Some(start) => {
                start.copy_from_slice(bytes);
                Self(Bytes::Inline(inline))
            }
            None => Self(Bytes::Heap(bytes.into())),
        }
    }
}

/// The bytes of `{_id: <value>}`. Only the functions of this file create them, so they are always such a document.
#[derive(Clone)]
enum Bytes {
    Inline([u8; INLINE]),
    Heap(Box<[u8]>),
}

/// Number of bytes that fit next to the discriminant in 32 bytes. `{_id: <UUID>}` takes exactly this many.
const INLINE: usize = 31;

/// Offset of the value in `{_id: <value>}`: after the length, the type, and the name with its terminator.
const VALUE_AT: usize = 4 + 1 + 4;

/// `{_id: MinKey}` or `{_id: MaxKey}`.
const fn bound(element_type: u8) -> [u8; INLINE] {
    let mut bytes = [0; INLINE];
    bytes[0] = VALUE_AT as u8 + 1;
    bytes[4] = element_type;
    bytes[5] = b'_';
    bytes[6] = b'i';
    bytes[7] = b'd';
    bytes
}

impl From<RawValue<'_>> for Key {
    fn from(value: RawValue<'_>) -> Self {
        let length = VALUE_AT + value.bytes().len() + 1;
        let write = |document: &mut [u8]| {
            let parts: [&[u8]; 4] = [
                &(length as u32).to_le_bytes(),
                &[value.element_type()],
                b"_id\0",
                value.bytes(),
            ];
            for (to, from) in document.iter_mut().zip(parts.into_iter().flatten()) {
                *to = *from;
            }
        };
        let mut inline = [0; INLINE];
        if let Some(document) = inline.get_mut(..length) {
            write(document);
            return Self(Bytes::Inline(inline));
        }
        let mut document = vec![0; length];
        write(&mut document);
        Self(Bytes::Heap(document.into()))
    }
}

impl From<RawBsonRef<'_>> for Key {
    fn from(value: RawBsonRef<'_>) -> Self {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), value);
        Self::of_document_bytes(document.as_bytes())
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_raw().cmp(&other.as_raw())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_raw().hash(state);
    }
}

/// Writes canonical extended JSON. Bytes that are not UTF-8 become the replacement character.
impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        extended_json::write_value(formatter, self.as_raw())
    }
}

/// Name of the only field in the wrapped form of a key. Its value is the bytes of `{_id: <value>}`. The wrapped form cannot be mistaken for
/// an `_id`: no server stores an `_id` document whose first name begins with `$`.
const WRAPPED: &CStr = cstr!("$mongoferryKey");

/// Serializes the BSON value itself, unless some use of serde would not return it byte for byte. Such values are wrapped:
///
/// - null, which an `Option<Key>` would read as no key;
/// - values with fields of their own, where binary data of the old subtype 2 loses its inner length, and text must be UTF-8;
/// - values that the `bson` crate refuses to decode.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.to_bson_ref() {
            Ok(value) if !needs_wrapping(value) => value.serialize(serializer),
            Ok(_) | Err(_) => {
                let bytes = self.document_bytes().to_vec();
                let mut document = RawDocumentBuf::new();
                document.append(
                    WRAPPED,
                    bson::Binary {
                        subtype: BinarySubtype::Generic,
                        bytes,
                    },
                );
                document.serialize(serializer)
            }
        }
    }
}

fn needs_wrapping(value: RawBsonRef<'_>) -> bool {
    matches!(
        value,
        RawBsonRef::Null | RawBsonRef::Document(_) | RawBsonRef::Array(_) | RawBsonRef::JavaScriptCodeWithScope(_)
    )
}

/// Accepts the value itself for every type, and the wrapped form.
impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = RawBson::deserialize(deserializer)?;
        let wrapped = value.as_document().and_then(|document| document.iter().next()?.ok());
        match wrapped {
            Some((name, RawBsonRef::Binary(binary))) if name == WRAPPED => RawDocument::from_bytes(binary.bytes)
                .ok()
                .and_then(Self::of_document)
                .ok_or_else(|| D::Error::custom("a wrapped key holds no `_id`")),
            _ => Ok(Self::from(value.as_raw_bson_ref())),
        }
    }
}
