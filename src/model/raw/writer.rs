//! Writes BSON by copying bytes: documents and values go into a command as they are, valid UTF-8 or not.

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::order::{RawValue, element_type};

/// A document that is being written. Nested documents and arrays are opened and closed in order.
#[derive(Debug)]
pub(crate) struct RawWriter {
    bytes: Vec<u8>,
    /// Where the lengths of the open documents stand; the outermost is at 0.
    open: Vec<usize>,
}

impl RawWriter {
    /// An empty document with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(64));
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, open: vec![0] }
    }

    /// Opens a nested document.
    pub fn open_document(&mut self, name: &str) -> &mut Self {
        self.open_nested(element_type::DOCUMENT, name)
    }

    /// Opens an array, whose elements are named by their index.
    pub fn open_array(&mut self, name: &str) -> &mut Self {
        self.open_nested(element_type::ARRAY, name)
    }

    fn open_nested(&mut self, kind: u8, name: &str) -> &mut Self {
        self.head(kind, name);
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self
    }

    /// Closes what was opened last.
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

    /// A string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        self.head(element_type::STRING, name);
        self.bytes
            .extend_from_slice(&(u32::try_from(value.len()).unwrap_or(u32::MAX) + 1).to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self
    }

    /// A boolean.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.head(element_type::BOOLEAN, name);
        self.bytes.push(u8::from(value));
        self
    }

    /// A 32-bit integer.
    pub fn int32(&mut self, name: &str, value: i32) -> &mut Self {
        self.head(element_type::INT32, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A 64-bit integer.
    pub fn int64(&mut self, name: &str, value: i64) -> &mut Self {
        self.head(element_type::INT64, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A document, copied.
    pub fn document(&mut self, name: &str, document: &RawDocument) -> &mut Self {
        self.value_bytes(name, element_type::DOCUMENT, document.as_bytes())
    }

    /// The elements of a document, copied.
    pub fn elements(&mut self, document: &RawDocument) -> &mut Self {
        if let [_, _, _, _, elements @ .., _] = document.as_bytes() {
            self.bytes.extend_from_slice(elements);
        }
        self
    }

    /// The bytes of an array, copied.
    pub fn array(&mut self, name: &str, array: &[u8]) -> &mut Self {
        self.value_bytes(name, element_type::ARRAY, array)
    }

    /// A value, copied.
    pub fn value(&mut self, name: &str, value: RawValue<'_>) -> &mut Self {
        self.value_bytes(name, value.element_type(), value.bytes())
    }

    /// The bytes of a value of a type, copied.
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

    /// The whole document. What is still open is closed.
    pub fn finish(mut self) -> RawDocumentBuf {
        while !self.open.is_empty() {
            self.close();
        }
        // The bytes were framed above, so this fails only past the 2 GB that a length can say; an empty document is refused by
        // the server as an empty command.
        RawDocumentBuf::from_bytes(self.bytes).unwrap_or_default()
    }
}

/// The names of an array's elements: "0", "1" and so on, without an allocation for each.
#[derive(Debug)]
pub(crate) struct IndexNames {
    /// The digits of the next name stand at the end.
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
