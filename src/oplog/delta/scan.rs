//! Scans raw BSON by lengths only, without decoding values.
//!
//! A replica set may contain strings and names that are not UTF-8, deprecated types and NaN payloads. Copying the bytes of elements
//! preserves them; decoding and encoding them would not.

use super::DeltaError;
use crate::order::element_type;

/// The bytes of an empty document: its own length and the terminator.
pub(super) const EMPTY_DOCUMENT: [u8; 5] = [5, 0, 0, 0, 0];

/// One element of a document or array, as bytes. The name comes without its terminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub kind: u8,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Element<'a> {
    /// The bytes of the value, if it is a document.
    pub(super) fn document(&self) -> Option<&'a [u8]> {
        (self.kind == element_type::DOCUMENT).then_some(self.value)
    }

    /// The value as an integer, if it is a number without a fraction. Decimals are not supported.
    pub(super) fn integer(&self) -> Option<i64> {
        match self.kind {
            element_type::INT32 => Some(i64::from(i32::from_le_bytes(self.value.try_into().ok()?))),
            element_type::INT64 => Some(i64::from_le_bytes(self.value.try_into().ok()?)),
            element_type::DOUBLE => {
                let number = f64::from_le_bytes(self.value.try_into().ok()?);
                let whole = number.trunc() as i64;
                (whole as f64 == number).then_some(whole)
            }
            _ => None,
        }
    }
}

/// Iterates over the elements of a document or array, given with its length prefix and terminator.
///
/// A malformed document yields one error and then ends.
pub(super) fn elements(document: &[u8]) -> Elements<'_> {
    Elements {
        rest: body(document),
        failed: false,
    }
}

/// Returns the first element called `name`.
pub(super) fn find<'a>(document: &'a [u8], name: &[u8]) -> Result<Option<Element<'a>>, DeltaError> {
    for element in elements(document) {
        let element = element?;
        if element.name == name {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

/// The iterator behind [`elements`].
pub(super) struct Elements<'a> {
    rest: Option<&'a [u8]>,
    failed: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, DeltaError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let parsed = match self.rest {
            Some([]) => return None,
            Some(rest) => split_element(rest),
            None => None,
        };
        match parsed {
            Some((element, rest)) => {
                self.rest = Some(rest);
                Some(Ok(element))
            }
            None => {
                self.failed = true;
                Some(Err(DeltaError::Malformed {
                    reason: "an element does not fit the document that holds it",
                }))
            }
        }
    }
}

/// The bytes between the length prefix and the terminator, if both match the slice.
fn body(document: &[u8]) -> Option<&[u8]> {
    let length = length_at(document)?;
    if length < EMPTY_DOCUMENT.len() || length != document.len() || document[length - 1] != 0 {
        return None;
    }
    document.get(4..length - 1)
}

fn split_element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (name, rest) = split_name(rest)?;
    let length = value_length(kind, rest)?;
    let value = rest.get(..length)?;
    Some((Element { kind, name, value }, &rest[length..]))
}

fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn value_length(kind: u8, bytes: &[u8]) -> Option<usize> {
    match kind {
        element_type::NULL | element_type::UNDEFINED | element_type::MIN_KEY | element_type::MAX_KEY => Some(0),
        element_type::BOOLEAN => Some(1),
        element_type::INT32 => Some(4),
        element_type::DOUBLE | element_type::DATE | element_type::TIMESTAMP | element_type::INT64 => Some(8),
        element_type::OBJECT_ID => Some(12),
        element_type::DECIMAL128 => Some(16),
        element_type::STRING | element_type::CODE | element_type::SYMBOL => length_at(bytes)?.checked_add(4),
        element_type::DB_POINTER => length_at(bytes)?.checked_add(4 + 12),
        element_type::BINARY => length_at(bytes)?.checked_add(4 + 1),
        element_type::DOCUMENT | element_type::ARRAY => {
            length_at(bytes).filter(|&length| length >= EMPTY_DOCUMENT.len())
        }
        element_type::CODE_WITH_SCOPE => length_at(bytes).filter(|&length| length >= 4),
        element_type::REGEX => {
            let (pattern, rest) = split_name(bytes)?;
            let (options, _) = split_name(rest)?;
            Some(pattern.len() + options.len() + 2)
        }
        _ => None,
    }
}

/// Reads the little-endian length prefix of a document, string or binary. `None` if it is negative.
fn length_at(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.get(..4)?.try_into().ok()?;
    usize::try_from(i32::from_le_bytes(prefix)).ok()
}
