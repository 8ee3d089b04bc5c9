//! Merges two `$v: 2` deltas into one.

use bson::{RawDocument, RawDocumentBuf};

use super::scan::{Element, elements, find};
use super::write::Writer;
use super::{DeltaError, DeltaFormat, format_of, into_document};
use crate::order::element_type;

/// Maximum product of the field counts of two deltas to merge. The cost is proportional to it, because each name is searched among the
/// others.
const MOST_COMPARISONS: usize = 10_000;

/// Merges two deltas of the same document into one with the same effect.
///
/// Both must only change or remove top-level fields, and add none: then only the last value of each field counts. Returns `None` for all
/// other deltas, which must not be merged, and for replacements.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] for a `$v` other than 1 or 2, [`DeltaError::Malformed`] if a section or field is malformed.
pub fn merge(earlier: &RawDocument, later: &RawDocument) -> Result<Option<RawDocumentBuf>, DeltaError> {
    if format_of(earlier)? != Some(DeltaFormat::V2) || format_of(later)? != Some(DeltaFormat::V2) {
        return Ok(None);
    }
    let (Some(earlier), Some(later)) = (Fields::parse(earlier)?, Fields::parse(later)?) else {
        return Ok(None);
    };
    if earlier.count() * later.count() > MOST_COMPARISONS {
        return Ok(None);
    }
    let names = |fields: &[Element<'_>], name: &[u8]| fields.iter().any(|field| field.name == name);
    if later.updated.iter().any(|field| names(&earlier.removed, field.name)) {
        // No server logs this: a removed field is added again, not updated.
        return Ok(None);
    }
    let mut output = Writer::with_capacity(64);
    let delta = output.open();
    output.value(element_type::INT32, b"$v", &2_i32.to_le_bytes())?;
    output.head(element_type::DOCUMENT, b"diff");
    let diff = output.open();
    let stays = |field: &&Element<'_>| !names(&later.removed, field.name) && !names(&later.updated, field.name);
    let removed = earlier.removed.iter().filter(stays).chain(&later.removed);
    write_section(&mut output, b"d", removed)?;
    let updated = earlier.updated.iter().filter(stays).chain(&later.updated);
    write_section(&mut output, b"u", updated)?;
    output.close(diff)?;
    output.close(delta)?;
    into_document(output).map(Some)
}

/// Writes fields as one subdocument. Writes nothing if there are no fields.
pub(super) fn write_section<'a>(
    output: &mut Writer,
    name: &[u8],
    fields: impl Iterator<Item = &'a Element<'a>>,
) -> Result<(), DeltaError> {
    let mut fields = fields.peekable();
    if fields.peek().is_none() {
        return Ok(());
    }
    output.head(element_type::DOCUMENT, name);
    let section = output.open();
    for field in fields {
        output.element(field)?;
    }
    output.close(section)
}

/// The content of a `$v: 2` delta that adds no fields and changes none in part.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub removed: Vec<Element<'a>>,
    pub updated: Vec<Element<'a>>,
}

impl<'a> Fields<'a> {
    pub(super) fn count(&self) -> usize {
        self.removed.len() + self.updated.len()
    }

    /// Returns `None` for any other `$v: 2` delta.
    pub(super) fn parse(delta: &'a RawDocument) -> Result<Option<Self>, DeltaError> {
        let malformed = |reason| DeltaError::Malformed { reason };
        let diff = find(delta.as_bytes(), b"diff")?.and_then(|diff| diff.document());
        let mut all = Self::default();
        for section in elements(diff.ok_or(malformed("a $v: 2 update has no diff document"))?) {
            let section = section?;
            let fields = match section.name {
                b"d" => &mut all.removed,
                b"u" => &mut all.updated,
                _ => return Ok(None),
            };
            let document = section
                .document()
                .ok_or(malformed("a diff section is not a document"))?;
            for field in elements(document) {
                let field = field?;
                if !is_plain_field(&field) {
                    return Ok(None);
                }
                fields.push(field);
            }
        }
        Ok(Some(all))
    }
}

/// Whether a name has the same meaning in an operator as in a diff. Excludes `_id`: a diff may change its type, which operators cannot do.
fn is_plain_field(field: &Element<'_>) -> bool {
    !(field.name.is_empty() || field.name == b"_id" || field.name.starts_with(b"$") || field.name.contains(&b'.'))
}
