//! A copy of a document with edits, made in one pass.

use std::ops::Range;

use crate::order::{Element, Elements, RawValue};
use crate::rules::error::RuleError;

/// Documents nested deeper than this are refused. No server stores a document deeper than 250 levels.
pub(super) const MAX_DEPTH: usize = 256;

/// Collects edits of a document in ascending order of their offsets. Nothing is copied or allocated before the first edit.
pub(super) struct Editor<'a> {
    source: &'a [u8],
    output: Vec<u8>,
    /// Number of bytes of the source that the output covers.
    copied: usize,
    edits: usize,
}

/// A document or array whose length has to be corrected if something in it is edited.
#[must_use]
pub(super) struct Opened {
    /// Offset of its length in the output.
    length_at: usize,
    edits_before: usize,
}

/// A field of a document or an element of an array, with its offsets in the source.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub start: usize,
    pub name: &'a [u8],
    pub value: RawValue<'a>,
    pub end: usize,
}

impl Field<'_> {
    pub(super) fn value_at(&self) -> usize {
        self.end - self.value.bytes().len()
    }

    pub(super) fn whole(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Iterates over the fields of a document or array at `offset` in the source.
pub(super) fn fields(document: &[u8], offset: usize) -> impl Iterator<Item = Result<Field<'_>, RuleError>> {
    let mut end = offset + 4;
    Elements::of(document).map(move |element| match element {
        Element::Field { name, value } => {
            let start = end;
            end += 1 + name.len() + 1 + value.bytes().len();
            Ok(Field {
                start,
                name,
                value,
                end,
            })
        }
        Element::Malformed(_) => Err(RuleError::Malformed),
    })
}

impl<'a> Editor<'a> {
    pub(super) fn new(source: &'a [u8]) -> Self {
        Self {
            source,
            output: Vec::new(),
            copied: 0,
            edits: 0,
        }
    }

    /// Puts `bytes` in place of a part of the source, which must not be before an earlier edit.
    pub(super) fn replace(&mut self, range: Range<usize>, bytes: &[u8]) {
        if self.edits == 0 {
            self.output.reserve(self.source.len() + bytes.len());
        }
        self.edits += 1;
        self.copy_until(range.start);
        self.output.extend_from_slice(bytes);
        self.copied = range.end;
    }

    pub(super) fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.replace(at..at, bytes);
    }

    pub(super) fn remove(&mut self, field: &Field<'_>) {
        self.replace(field.whole(), &[]);
    }

    pub(super) fn rename(&mut self, field: &Field<'_>, name: &[u8]) {
        let start = field.start + 1;
        self.replace(start..start + field.name.len(), name);
    }

    /// Gives a field another value.
    pub(super) fn set(&mut self, field: &Field<'_>, element_type: u8, value: &[u8]) {
        if field.value.element_type() != element_type {
            self.replace(field.start..field.start + 1, &[element_type]);
        }
        self.set_bytes(field, value);
    }

    /// Gives a field another value of the same type.
    pub(super) fn set_bytes(&mut self, field: &Field<'_>, value: &[u8]) {
        self.replace(field.value_at()..field.end, value);
    }

    /// Begins with the document or array at an offset in the source.
    pub(super) fn open(&self, at: usize) -> Opened {
        Opened {
            length_at: self.output.len() + (at - self.copied),
            edits_before: self.edits,
        }
    }

    /// Corrects the length of a document or array that ends at an offset in the source.
    pub(super) fn close(&mut self, opened: &Opened, end: usize) {
        if self.edits == opened.edits_before {
            return;
        }
        self.copy_until(end);
        let length = u32::try_from(self.output.len() - opened.length_at).unwrap_or(u32::MAX);
        if let Some(prefix) = self.output.get_mut(opened.length_at..opened.length_at + 4) {
            prefix.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// The edited document, or `None` if there is no edit.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (self.edits > 0).then_some(self.output)
    }

    fn copy_until(&mut self, offset: usize) {
        let unchanged = self.source.get(self.copied..offset).unwrap_or_default();
        self.output.extend_from_slice(unchanged);
        self.copied = offset;
    }
}
