//! Converts deltas to operators for an ordinary `update` command.

use bson::{RawDocument, RawDocumentBuf};

use super::merge::{Fields, write_section};
use super::paths::{Numbering, path_parts};
use super::scan::elements;
use super::v1::Sections;
use super::write::Writer;
use super::{DeltaError, DeltaFormat, format_of, into_document};
use crate::order::element_type;

/// Maximum number of fields to change by operators. The time that a server takes grows with the square of that number: 50 ms for 2,000
/// fields, where the logged form takes 8 ms (6.0).
const MOST_OPERATORS: usize = 100;

/// Converts a `$v: 1` update to an ordinary update document: the same operators without `$v`.
///
/// Servers from 5.0 on add new fields with numeric names in numeric order, whatever the order of the paths. See [`v1_needs_ordered_sets`].
///
/// # Errors
///
/// [`DeltaError::UnexpectedSection`] and [`DeltaError::Malformed`] if this is not a `$v: 1` update. An update without operators is refused,
/// too: the rest of it would replace the whole document.
///
/// [`DeltaError::AliasedIndex`] if two paths could refer to the same array element: 5.0 and later abort on such an update. It is harmless
/// if they are names in a document, but the paths alone do not tell. [`apply`](super::apply) can tell.
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

/// Returns `true` if a target of 5.0 or later could add the new fields of the update in another order than the source did. This happens if
/// `$set` lists a larger number before a smaller one below the same parent (`10` before `9`). Such a target needs
/// [`v1_as_ordered_operators`].
///
/// # Errors
///
/// As [`v1_as_operators`], except that an update without operators returns `false`.
pub fn v1_needs_ordered_sets(delta: &RawDocument) -> Result<bool, DeltaError> {
    Ok(numbering(&Sections::parse(delta.as_bytes())?)?.descends)
}

/// Returns `true` if a target of 4.2 or later could add the new fields of an [unversioned](DeltaFormat::Unversioned) update in another order
/// than the source did: its `$set` lists the paths in another order than by name. Such a target needs [`v1_as_ordered_operators`].
///
/// Servers from 5.0 on compare names that are numbers as such. The order is the same everywhere only if [`v1_needs_ordered_sets`] returns
/// `false`, too.
///
/// # Errors
///
/// As [`v1_needs_ordered_sets`].
pub fn unversioned_needs_ordered_sets(delta: &RawDocument) -> Result<bool, DeltaError> {
    let mut last = Vec::new();
    for path in Sections::parse(delta.as_bytes())?.set.into_iter().flat_map(elements) {
        let parts = path_parts(path?.name)?;
        if parts < last {
            return Ok(true);
        }
        last = parts;
    }
    Ok(false)
}

/// Returns the number of paths that a `$v: 1` update sets and removes.
///
/// # Errors
///
/// [`DeltaError::UnexpectedSection`] and [`DeltaError::Malformed`] if this is not a `$v: 1` update.
pub fn v1_path_count(delta: &RawDocument) -> Result<usize, DeltaError> {
    let sections = Sections::parse(delta.as_bytes())?;
    let sections = sections.set.into_iter().chain(sections.unset);
    sections
        .flat_map(elements)
        .try_fold(0, |count, path| path.map(|_| count + 1))
}

/// Converts a `$v: 1` update to several update documents, to be sent in order: one `$set` for each path in listed order, then the `$unset`.
///
/// # Errors
///
/// As [`v1_as_operators`], except that an update without operators returns no documents.
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

/// Converts a `$v: 2` update to `$set` and `$unset`, if these do the same: it changes or removes top-level fields, and adds none. Returns
/// `None` for other updates, and if there are too many fields.
///
/// A server needs a quarter less time for operators than for the logged form, a pipeline (6.0), unless there are many fields. `$set` cannot
/// express an added field, because it leaves an existing field in its place. Nor can it express a field whose name would be read as a path
/// or an operator.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] if this is not a `$v: 2` update, [`DeltaError::Malformed`] if it is malformed.
pub fn v2_as_operators(delta: &RawDocument) -> Result<Option<RawDocumentBuf>, DeltaError> {
    if format_of(delta)? != Some(DeltaFormat::V2) {
        return Err(DeltaError::UnknownFormat);
    }
    // An update without operators would replace the document.
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

/// Builds an update document with one operator.
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
