//! Writes BSON by copying bytes, so that values need not be valid UTF-8.

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::order::{RawValue, element_type};

/// Builds a document. Nested documents and arrays are opened and closed in order.
#[derive(Debug)]
pub(crate) struct RawWriter {
    bytes: Vec<u8>,
    /// Offsets of the length prefixes of the open documents. That of the outermost one is 0.
    open: Vec<usize>,
}

impl RawWriter {
    /// Creates an empty document with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(64));
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, open: vec![0] }
    }

    /// Opens a nested document.
    pub fn open_document(&mut self, name: &str) -> &mut Self {
        self.open_nested(element_type::DOCUMENT, name)
    }

    /// Opens an array. The caller names its elements by their index.
    pub fn open_array(&mut self, name: &str) -> &mut Self {
        self.open_nested(element_type::ARRAY, name)
    }

    fn open_nested(&mut self, kind: u8, name: &str) -> &mut Self {
        self.head(kind, name);
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self
    }

    /// Closes the document or array that was opened last.
    pub fn close(&mut self) -> &mut Self {
        self.bytes.push(0);
        if let Some(start) = self.open.pop() {
            let length = u32::try_from(self.bytes.len() - start)
                .unwrap_or(u32::MAX)
                .to_le_bytes();
            if let Some(field) = self.bytes.get_mut(start..start + 4) {
                field.copy_from_slice(&length);
            }
        }
        self
    }

    /// Appends a string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        self.head(element_type::STRING, name);
        self.bytes
            .extend_from_slice(&(u32::try_from(value.len()).unwrap_or(u32::MAX) + 1).to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self
    }

    /// Appends a boolean.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.head(element_type::BOOLEAN, name);
        self.bytes.push(u8::from(value));
        self
    }

    /// Appends a 32-bit integer.
    pub fn int32(&mut self, name: &str, value: i32) -> &mut Self {
        self.head(element_type::INT32, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a 64-bit integer.
    pub fn int64(&mut self, name: &str, value: i64) -> &mut Self {
        self.head(element_type::INT64, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a copy of a document.
    pub fn document(&mut self, name: &str, document: &RawDocument) -> &mut Self {
        self.value_bytes(name, element_type::DOCUMENT, document.as_bytes())
    }

    /// Appends copies of all elements of a document.
    pub fn elements(&mut self, document: &RawDocument) -> &mut Self {
        if let [_, _, _, _, elements @ .., _] = document.as_bytes() {
            self.bytes.extend_from_slice(elements);
        }
        self
    }

    /// Appends an array, given as bytes.
    pub fn array(&mut self, name: &str, array: &[u8]) -> &mut Self {
        self.value_bytes(name, element_type::ARRAY, array)
    }

    /// Appends a copy of a value.
    pub fn value(&mut self, name: &str, value: RawValue<'_>) -> &mut Self {
        self.value_bytes(name, value.element_type(), value.bytes())
    }

    /// Appends a value, given as a type and bytes.
    pub fn value_bytes(&mut self, name: &str, kind: u8, value: &[u8]) -> &mut Self {
        self.head(kind, name);
        self.bytes.extend_from_slice(value);
        self
    }

    fn head(&mut self, kind: u8, name: &str) {
        debug_assert!(!name.contains('\0'), "names in commands are our own");
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
    }

    /// Closes everything that is still open, and returns the document.
    pub fn finish(mut self) -> RawDocumentBuf {
        while !self.open.is_empty() {
            self.close();
        }
        // The writer has framed the bytes, so this fails only beyond the 2 GB that a length can express. The server refuses the empty
        // document as an empty command.
        RawDocumentBuf::from_bytes(self.bytes).unwrap_or_default()
    }
}

/// Generates the names of array elements, "0", "1" and so on, without an allocation for each.
#[derive(Debug)]
pub(crate) struct IndexNames {
    /// The digits of the next name, right-aligned.
    digits: [u8; 20],
    count: usize,
}

impl Default for IndexNames {
    fn default() -> Self {
        Self {
            digits: [b'0'; 20],
            count: 0,
        }
    }
}

impl IndexNames {
    /// The next name.
    pub fn next(&mut self) -> &str {
        if self.count == 0 {
            self.count = 1;
        } else {
            let nines = self.digits.iter().rev().take_while(|digit| **digit == b'9').count();
            for (at, digit) in self.digits.iter_mut().rev().enumerate().take(nines + 1) {
                *digit = if at < nines { b'0' } else { *digit + 1 };
            }
            self.count = self.count.max(nines + 1);
        }
        let digits = self.digits.get(self.digits.len() - self.count..).unwrap_or_default();
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn elements_of_arrays_are_named_by_their_index() {
        let mut names = IndexNames::default();
        for index in 0..12_345 {
            assert_eq!(names.next(), index.to_string());
        }
    }

    #[test]
    fn it_writes_what_the_bson_crate_writes() {
        let mut splice = RawWriter::with_capacity(0);
        splice.string("a", "x").boolean("b", true).int32("c", -1).int64("d", 5);
        splice.open_array("e");
        splice.open_document("0").document("f", &rawdoc! { "g": 1 });
        splice.close().close();
        splice.array("h", rawdoc! { "0": 1 }.as_bytes());
        let expected = rawdoc! {
            "a": "x", "b": true, "c": -1, "d": 5_i64, "e": [{ "f": { "g": 1 } }], "h": [1],
        };
        assert_eq!(splice.finish(), expected);
    }
}
