//! Values in the form that the server compares.

use std::borrow::Cow;
use std::cmp::Ordering;

use bson::RawBsonRef;
use bson::raw::RawDocumentBuf;

use super::hash::{Feed, StableHasher};
use super::number::Number;
use super::raw_value::{Element, Elements, id_of, until_nul};

/// Documents nested deeper than this are compared as bytes. No server stores a document deeper than 250 levels, so this only prevents
/// crafted bytes from exhausting the stack.
pub(super) const MAX_DEPTH: usize = 256;

/// A value reduced to what the comparison uses, with one variant for each class of types that compare with each other. The variants are in
/// the server's order of types.
pub(super) enum Canonical<'a> {
    MinKey,
    Undefined,
    Null,
    Number(Number),
    /// Strings and symbols.
    Text(&'a [u8]),
    /// Including length and terminator.
    Document(&'a [u8]),
    /// Including length and terminator.
    Array(&'a [u8]),
    /// `length` includes the inner length that values of the old subtype 2 start with. `inner_length` is that inner length.
    Binary {
        length: usize,
        subtype: u8,
        inner_length: [u8; 4],
        content: &'a [u8],
    },
    ObjectId([u8; 12]),
    Boolean(bool),
    /// Milliseconds since the Unix epoch.
    DateTime(i64),
    /// Seconds in the upper 32 bits, increment in the lower ones.
    Timestamp(u64),
    RegularExpression {
        pattern: &'a [u8],
        options: &'a [u8],
    },
    DbPointer {
        namespace: Cow<'a, [u8]>,
        id: [u8; 12],
    },
    Code(&'a [u8]),
    CodeWithScope {
        code: &'a [u8],
        scope: &'a [u8],
    },
    MaxKey,
    /// Bytes that are not a valid value.
    Malformed(&'a [u8]),
}

const OLD_BINARY: u8 = 2;

impl<'a> Canonical<'a> {
    /// `content` is the bytes after the subtype byte.
    pub(super) fn binary(subtype: u8, content: &'a [u8]) -> Self {
        let length = content.len();
        match content.split_first_chunk() {
            Some((inner_length, content)) if subtype == OLD_BINARY => Self::Binary {
                length,
                subtype,
                inner_length: *inner_length,
                content,
            },
            _ => Self::Binary {
                length,
                subtype,
                inner_length: [0; 4],
                content,
            },
        }
    }

    pub(super) fn cmp(&self, other: &Canonical<'_>) -> Ordering {
        self.compare(other, By::IndexKey, 0)
    }

    pub(super) fn cmp_in_query(&self, other: &Canonical<'_>) -> Ordering {
        self.compare(other, By::Value, 0)
    }

    pub(super) fn stable_hash(&self) -> u64 {
        let mut hasher = StableHasher::new();
        self.feed(&mut hasher);
        hasher.finish()
    }

    /// The rank of the value's type in the order of types.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::MinKey => 0,
            Self::Undefined => 1,
            Self::Null => 2,
            Self::Number(_) => 3,
            Self::Text(_) => 4,
            Self::Document(_) => 5,
            Self::Array(_) => 6,
            Self::Binary { .. } => 7,
            Self::ObjectId(_) => 8,
            Self::Boolean(_) => 9,
            Self::DateTime(_) => 10,
            Self::Timestamp(_) => 11,
            Self::RegularExpression { .. } => 12,
            Self::DbPointer { .. } => 13,
            Self::Code(_) => 14,
            Self::CodeWithScope { .. } => 15,
            Self::MaxKey => 16,
            Self::Malformed(_) => 17,
        }
    }

    fn compare(&self, other: &Canonical<'_>, by: By, depth: usize) -> Ordering {
        use Canonical as C;
        match (self, other) {
            (C::Number(left), C::Number(right)) => left.cmp(right),
            (C::Text(left), C::Text(right)) | (C::Code(left), C::Code(right)) => left.cmp(right),
            (C::Document(left), C::Document(right)) => compare_elements(left, right, Names::Compared, by, depth),
            (C::Array(left), C::Array(right)) => compare_elements(left, right, by.names_in_arrays(), by, depth),
            (
                C::Binary {
                    length,
                    subtype,
                    inner_length,
                    content,
                },
                C::Binary {
                    length: length2,
                    subtype: subtype2,
                    inner_length: inner_length2,
                    content: content2,
                },
            ) => (length, subtype, inner_length, content).cmp(&(length2, subtype2, inner_length2, content2)),
            (C::ObjectId(left), C::ObjectId(right)) => left.cmp(right),
            (C::Boolean(left), C::Boolean(right)) => left.cmp(right),
            (C::DateTime(left), C::DateTime(right)) => left.cmp(right),
            (C::Timestamp(left), C::Timestamp(right)) => left.cmp(right),
            (
                C::RegularExpression { pattern, options },
                C::RegularExpression {
                    pattern: pattern2,
                    options: options2,
                },
            ) => (pattern, options).cmp(&(pattern2, options2)),
            (
                C::DbPointer { namespace, id },
                C::DbPointer {
                    namespace: namespace2,
                    id: id2,
                },
            ) => {
                let (namespace, namespace2) = (by.namespace(namespace), by.namespace(namespace2));
                (namespace.len(), namespace, id).cmp(&(namespace2.len(), namespace2, id2))
            }
            (
                C::CodeWithScope { code, scope },
                C::CodeWithScope {
                    code: code2,
                    scope: scope2,
                },
            ) => code
                .cmp(code2)
                .then_with(|| compare_elements(scope, scope2, Names::Compared, by, depth)),
            (C::Malformed(left), C::Malformed(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// Feeds the same words for all values that compare as equal, and others for all other values.
    pub(super) fn feed(&self, hasher: &mut impl Feed) {
        self.feed_nested(hasher, 0);
    }

    fn feed_nested(&self, hasher: &mut impl Feed, depth: usize) {
        hasher.word(self.rank().into());
        match self {
            Self::MinKey | Self::Undefined | Self::Null | Self::MaxKey => {}
            Self::Number(number) => number.feed(hasher),
            Self::Text(bytes) | Self::Code(bytes) | Self::Malformed(bytes) => hasher.bytes(bytes),
            Self::Document(document) => feed_elements(document, Names::Compared, hasher, depth),
            Self::Array(array) => feed_elements(array, Names::Ignored, hasher, depth),
            Self::Binary {
                length,
                subtype,
                inner_length,
                content,
            } => {
                hasher.word(*length as u64);
                hasher.word((*subtype).into());
                hasher.word(u32::from_le_bytes(*inner_length).into());
                hasher.bytes(content);
            }
            Self::ObjectId(id) => hasher.bytes(id),
            Self::Boolean(value) => hasher.word((*value).into()),
            Self::DateTime(milliseconds) => hasher.word(milliseconds.cast_unsigned()),
            Self::Timestamp(timestamp) => hasher.word(*timestamp),
            Self::RegularExpression { pattern, options } => {
                hasher.bytes(pattern);
                hasher.bytes(options);
            }
            Self::DbPointer { namespace, id } => {
                hasher.bytes(By::IndexKey.namespace(namespace));
                hasher.bytes(id);
            }
            Self::CodeWithScope { code, scope } => {
                hasher.bytes(code);
                feed_elements(scope, Names::Compared, hasher, depth);
            }
        }
    }
}

impl<'a> From<RawBsonRef<'a>> for Canonical<'a> {
    fn from(value: RawBsonRef<'a>) -> Self {
        match value {
            RawBsonRef::MinKey => Self::MinKey,
            RawBsonRef::Undefined => Self::Undefined,
            RawBsonRef::Null => Self::Null,
            RawBsonRef::Double(double) => Self::Number(double.into()),
            RawBsonRef::Int32(integer) => Self::Number(i64::from(integer).into()),
            RawBsonRef::Int64(integer) => Self::Number(integer.into()),
            RawBsonRef::Decimal128(decimal) => Self::Number(decimal.into()),
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => Self::Text(text.as_bytes()),
            RawBsonRef::Document(document) => Self::Document(document.as_bytes()),
            RawBsonRef::Array(array) => Self::Array(array.as_bytes()),
            RawBsonRef::Binary(binary) => match u8::from(binary.subtype) {
                OLD_BINARY => Self::Binary {
                    length: binary.bytes.len() + 4,
                    subtype: OLD_BINARY,
                    inner_length: (binary.bytes.len() as u32).to_le_bytes(),
                    content: binary.bytes,
                },
                subtype => Self::binary(subtype, binary.bytes),
            },
            RawBsonRef::ObjectId(id) => Self::ObjectId(id.bytes()),
            RawBsonRef::Boolean(boolean) => Self::Boolean(boolean),
            RawBsonRef::DateTime(date_time) => Self::DateTime(date_time.timestamp_millis()),
            RawBsonRef::Timestamp(timestamp) => {
                Self::Timestamp(u64::from(timestamp.time) << 32 | u64::from(timestamp.increment))
            }
            RawBsonRef::RegularExpression(expression) => Self::RegularExpression {
                pattern: expression.pattern.as_str().as_bytes(),
                options: expression.options.as_str().as_bytes(),
            },
            RawBsonRef::DbPointer(_) => db_pointer_of(value),
            RawBsonRef::JavaScriptCode(code) => Self::Code(code.as_bytes()),
            RawBsonRef::JavaScriptCodeWithScope(code) => Self::CodeWithScope {
                code: code.code.as_bytes(),
                scope: code.scope.as_bytes(),
            },
            RawBsonRef::MaxKey => Self::MaxKey,
        }
    }
}

/// The `bson` crate does not expose the parts of a DBPointer, so this reads them from its bytes.
fn db_pointer_of(value: RawBsonRef<'_>) -> Canonical<'static> {
    let mut document = RawDocumentBuf::new();
    document.append(bson::raw::cstr!("_id"), value);
    match id_of(&document).map(|value| value.canonical()) {
        Some(Canonical::DbPointer { namespace, id }) => Canonical::DbPointer {
            namespace: Cow::Owned(namespace.into_owned()),
            id,
        },
        _ => Canonical::Malformed(&[]),
    }
}

/// What a comparison sees of two values.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum By {
    /// What index keys store.
    IndexKey,
    /// Everything, as queries do.
    Value,
}

impl By {
    /// Index keys store only the elements of arrays.
    fn names_in_arrays(self) -> Names {
        match self {
            Self::IndexKey => Names::Ignored,
            Self::Value => Names::Compared,
        }
    }

    /// Index keys store the namespace of a DBPointer as a C string.
    fn namespace(self, namespace: &[u8]) -> &[u8] {
        match self {
            Self::IndexKey => until_nul(namespace),
            Self::Value => namespace,
        }
    }
}

/// Whether field names are compared.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Names {
    Compared,
    Ignored,
}

/// Compares field by field: the class of the type, then the name, then the value. A document that ends first is less. Malformed bytes are
/// greater than any element.
pub(super) fn compare_elements(left: &[u8], right: &[u8], names: Names, by: By, depth: usize) -> Ordering {
    if depth >= MAX_DEPTH {
        return left.cmp(right);
    }
    let (mut left, mut right) = (Elements::of(left), Elements::of(right));
    loop {
        let ordering = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(Element::Malformed(left)), Some(Element::Malformed(right))) => return left.cmp(right),
            (Some(Element::Malformed(_)), Some(_)) => Ordering::Greater,
            (Some(_), Some(Element::Malformed(_))) => Ordering::Less,
            (
                Some(Element::Field { name, value }),
                Some(Element::Field {
                    name: name2,
                    value: value2,
                }),
            ) => {
                let (value, value2) = (value.canonical(), value2.canonical());
                let by_name = || {
                    if names == Names::Compared {
                        name.cmp(name2)
                    } else {
                        Ordering::Equal
                    }
                };
                value
                    .rank()
                    .cmp(&value2.rank())
                    .then_with(by_name)
                    .then_with(|| value.compare(&value2, by, depth + 1))
            }
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

fn feed_elements(document: &[u8], names: Names, hasher: &mut impl Feed, depth: usize) {
    if depth >= MAX_DEPTH {
        return hasher.bytes(document);
    }
    for element in Elements::of(document) {
        match element {
            Element::Field { name, value } => {
                if names == Names::Compared {
                    hasher.bytes(name);
                }
                value.canonical().feed_nested(hasher, depth + 1);
            }
            Element::Malformed(bytes) => Canonical::Malformed(bytes).feed_nested(hasher, depth),
        }
    }
    // No type has this rank, so it marks the end of the document.
    hasher.word(u64::MAX);
}
