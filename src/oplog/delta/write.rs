//! Writes documents element by element into a buffer of limited size.

use super::scan::Element;
use super::{DeltaError, MAX_DOCUMENT_BYTES};
use crate::order::element_type;

/// The buffer for the result of a delta.
///
/// Every write checks the size. A delta that asks for a huge array fails instead of using up all memory.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// Offset of the length prefix of a document or array that is being written.
#[must_use]
pub(super) struct Opened(usize);

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes.min(MAX_DOCUMENT_BYTES)),
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Begins the outermost document, or the value of an element after its head.
    pub(super) fn open(&mut self) -> Opened {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        Opened(start)
    }

    pub(super) fn close(&mut self, opened: Opened) -> Result<(), DeltaError> {
        self.bytes.push(0);
        let length = self.bytes.len() - opened.0;
        self.check()?;
        // The check above ensures that the length fits into an int32.
        self.bytes[opened.0..opened.0 + 4].copy_from_slice(&(length as i32).to_le_bytes());
        Ok(())
    }

    /// Writes a type byte and a name. The value must follow.
    pub(super) fn head(&mut self, kind: u8, name: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
    }

    pub(super) fn element(&mut self, element: &Element<'_>) -> Result<(), DeltaError> {
        self.value(element.kind, element.name, element.value)
    }

    pub(super) fn value(&mut self, kind: u8, name: &[u8], value: &[u8]) -> Result<(), DeltaError> {
        self.head(kind, name);
        self.bytes.extend_from_slice(value);
        self.check()
    }

    pub(super) fn null(&mut self, name: &[u8]) -> Result<(), DeltaError> {
        self.value(element_type::NULL, name, &[])
    }

    fn check(&self) -> Result<(), DeltaError> {
        if self.bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(DeltaError::TooLarge);
        }
        Ok(())
    }
}

/// The name of an array element, formatted without an allocation.
pub(super) struct IndexName {
    digits: [u8; 20],
    start: usize,
}

impl IndexName {
    pub(super) fn new(mut index: usize) -> Self {
        let mut name = Self {
            digits: [b'0'; 20],
            start: 20,
        };
        loop {
            name.start -= 1;
            name.digits[name.start] = b'0' + (index % 10) as u8;
            index /= 10;
            if index == 0 {
                return name;
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}
