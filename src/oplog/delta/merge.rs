//! Two `$v: 2` deltas as one.

use bson::{RawDocument, RawDocumentBuf};

use super::scan::{Element, elements, find};
use super::write::Writer;
use super::{DeltaError, DeltaFormat, format_of, into_document};
use crate::order::element_type;

/// Deltas of more fields, multiplied, are left as they are: each name is looked for among the others.
const MOST_COMPARISONS: usize = 10_000;

/// The two deltas of one document as one that does the same, where both change or remove fields of the document itself and add none: the
/// later value of a field is then all that counts. Deltas of any other kind must never be merged, and a replacement is none.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] for a `$v` other than 1 or 2, [`DeltaError::Malformed`] when a section or field is broken.
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
        // No server logs it, since a field that is gone is added and not updated.
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

/// Writes fields as one subdocument, unless there are none.
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

/// What a `$v: 2` delta does that adds no field and changes none in part.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub removed: Vec<Element<'a>>,
    pub updated: Vec<Element<'a>>,
}

impl<'a> Fields<'a> {
    pub(super) fn count(&self) -> usize {
        self.removed.len() + self.updated.len()
    }

    /// `None` for a `$v: 2` delta of any other kind.
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

/// Whether a name means the same in an operator as in a diff. An `_id` may be logged whose type has changed, which operators may not do.
fn is_plain_field(field: &Element<'_>) -> bool {
    !(field.name.is_empty() || field.name == b"_id" || field.name.starts_with(b"$") || field.name.contains(&b'.'))
}
