//! A delta as operators that an ordinary `update` command takes.

use bson::{RawDocument, RawDocumentBuf};

use super::merge::{Fields, write_section};
use super::paths::Numbering;
use super::scan::elements;
use super::v1::Sections;
use super::write::Writer;
use super::{DeltaError, DeltaFormat, format_of, into_document};
use crate::order::element_type;

/// A server takes time by the square of the fields that operators name: 50 ms for 2,000, where the logged form takes 8 (6.0).
const MOST_OPERATORS: usize = 100;

/// The update as an ordinary update document: the same operators without `$v`.
///
/// Servers from 5.0 on add new fields with numeric names in numeric order, whatever the order of the paths; see
/// [`v1_needs_ordered_sets`].
///
/// # Errors
///
/// [`DeltaError::UnexpectedSection`] and [`DeltaError::Malformed`] when this is not a `$v: 1` update. One without any
/// operator is refused too: what is left of it would replace the whole document.
///
/// [`DeltaError::AliasedIndex`] when two paths could name one array element: 5.0 and later abort over such an update. It may
/// be harmless, if they are names in a document, but that cannot be told from the paths; [`apply`](super::apply) can tell.
pub fn v1_as_operators(delta: &RawDocument) -> Result<RawDocumentBuf, DeltaError> {
    let sections = Sections::parse(delta.as_bytes())?;
    if sections.set.is_none() && sections.unset.is_none() {
        return Err(DeltaError::Malformed {
            reason: "an update has neither $set nor $unset",
        });
    }
    numbering(&sections)?;
    let mut output = Writer::with_capacity(delta.as_bytes().len());
    let opened = output.open();
    for element in elements(delta.as_bytes()) {
        let element = element?;
        if element.name != b"$v" {
            output.element(&element)?;
        }
    }
    output.close(opened)?;
    into_document(output)
}

/// True when a 5.0 or later target could add the update's new fields in another order than the source did, because its
/// `$set` lists a larger number before a smaller one below the same parent (`10` before `9`). Such a target needs
/// [`v1_as_ordered_operators`].
///
/// # Errors
///
/// As [`v1_as_operators`], but an update without any operator needs nothing.
pub fn v1_needs_ordered_sets(delta: &RawDocument) -> Result<bool, DeltaError> {
    Ok(numbering(&Sections::parse(delta.as_bytes())?)?.descends)
}

/// How many paths a `$v: 1` update sets and removes.
///
/// # Errors
///
/// [`DeltaError::UnexpectedSection`] and [`DeltaError::Malformed`] when this is not a `$v: 1` update.
pub fn v1_path_count(delta: &RawDocument) -> Result<usize, DeltaError> {
    let sections = Sections::parse(delta.as_bytes())?;
    let sections = sections.set.into_iter().chain(sections.unset);
    sections
        .flat_map(elements)
        .try_fold(0, |count, path| path.map(|_| count + 1))
}

/// The update as several update documents to be sent one after the other: one `$set` for each path in listed order, then
/// the `$unset`.
///
/// # Errors
///
/// As [`v1_as_operators`], but an update without any operator gives no documents.
pub fn v1_as_ordered_operators(delta: &RawDocument) -> Result<Vec<RawDocumentBuf>, DeltaError> {
    let sections = Sections::parse(delta.as_bytes())?;
    numbering(&sections)?;
    let mut updates = Vec::new();
    for element in sections.set.into_iter().flat_map(elements) {
        updates.push(operator(b"$set", |paths| paths.element(&element?))?);
    }
    if let Some(unset) = sections.unset {
        let copy = |paths: &mut Writer| elements(unset).try_for_each(|path| paths.element(&path?));
        updates.push(operator(b"$unset", copy)?);
    }
    Ok(updates)
}

/// The `$v: 2` update as `$set` and `$unset`, where these do the same: it changes or removes fields of the document itself, and adds none.
///
/// A server takes a quarter less time for them than for the logged form, a pipeline (6.0), unless they are many. A field that is added is
/// not for `$set`, which leaves one that exists where it stands; nor is one whose name would be read as a path or an operator.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] when this is not a `$v: 2` update, [`DeltaError::Malformed`] when it is broken.
pub fn v2_as_operators(delta: &RawDocument) -> Result<Option<RawDocumentBuf>, DeltaError> {
    if format_of(delta)? != Some(DeltaFormat::V2) {
        return Err(DeltaError::UnknownFormat);
    }
    // Without an operator it would replace the document.
    let Some(fields) = Fields::parse(delta)?.filter(|fields| (1..=MOST_OPERATORS).contains(&fields.count())) else {
        return Ok(None);
    };
    let mut output = Writer::with_capacity(delta.as_bytes().len() + 16);
    let update = output.open();
    write_section(&mut output, b"$unset", fields.removed.iter())?;
    write_section(&mut output, b"$set", fields.updated.iter())?;
    output.close(update)?;
    into_document(output).map(Some)
}

/// An update document of one operator.
fn operator(
    name: &[u8],
    write_paths: impl FnOnce(&mut Writer) -> Result<(), DeltaError>,
) -> Result<RawDocumentBuf, DeltaError> {
    let mut output = Writer::default();
    let update = output.open();
    output.head(element_type::DOCUMENT, name);
    let paths = output.open();
    write_paths(&mut output)?;
    output.close(paths)?;
    output.close(update)?;
    into_document(output)
}

fn numbering<'a>(sections: &Sections<'a>) -> Result<Numbering<'a>, DeltaError> {
    let numbering = Numbering::of(sections)?;
    match numbering.aliased.iter().next() {
        None => Ok(numbering),
        Some(parent) => Err(DeltaError::AliasedIndex {
            path: String::from_utf8_lossy(parent.strip_suffix(b".").unwrap_or(parent)).into_owned(),
        }),
    }
}
