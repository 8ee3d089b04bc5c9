//! Two `$v: 2` deltas as one.

use bson::{RawDocument, RawDocumentBuf};

use super::operators::is_plain_field;
use super::scan::{Element, elements, find, kind};
use super::write::Writer;
use super::{DeltaError, DeltaFormat, format_of, into_document};

/// Deltas of more fields, multiplied, are left as they are: each name is looked for among the others.
const MOST_COMPARISONS: usize = 10_000;

/// The two deltas of one document as one that does the same, where both change or remove fields of the document itself and add none: the
/// later value of a field is then all that counts. Deltas of any other kind must never be merged, and a replacement is none.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] for a `$v` other than 1 or 2, [`DeltaError::Malformed`] when a section or field is broken.
pub fn merge(earlier: &RawDocument, later: &RawDocument) -> Result<Option<RawDocumentBuf>, DeltaError> {
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
    output.value(kind::INT32, b"$v", &2_i32.to_le_bytes())?;
    output.head(kind::DOCUMENT, b"diff");
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

fn write_section<'a>(
    output: &mut Writer,
    name: &[u8],
    fields: impl Iterator<Item = &'a Element<'a>>,
) -> Result<(), DeltaError> {
    let mut fields = fields.peekable();
    if fields.peek().is_none() {
        return Ok(());
    }
    output.head(kind::DOCUMENT, name);
    let section = output.open();
    for field in fields {
        output.element(field)?;
    }
    output.close(section)
}

/// What a delta does that adds no field and changes none in part.
#[derive(Default)]
struct Fields<'a> {
    removed: Vec<Element<'a>>,
    updated: Vec<Element<'a>>,
}

impl<'a> Fields<'a> {
    fn count(&self) -> usize {
        self.removed.len() + self.updated.len()
    }

    fn parse(delta: &'a RawDocument) -> Result<Option<Self>, DeltaError> {
        if format_of(delta)? != Some(DeltaFormat::V2) {
            return Ok(None);
        }
        let Some(diff) = find(delta.as_bytes(), b"diff")?.and_then(|diff| diff.document()) else {
            return Ok(None);
        };
        let mut all = Self::default();
        for section in elements(diff) {
            let section = section?;
            let fields = match section.name {
                b"d" => &mut all.removed,
                b"u" => &mut all.updated,
                _ => return Ok(None),
            };
            let Some(document) = section.document() else {
                return Ok(None);
            };
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
