//! Delta updates of the oplog, applied to a document in memory.
//!
//! An update that is not a replacement is logged as what changed: `$v: 1` (`$set` and `$unset` over dotted paths, written by
//! 4.4 and earlier) or `$v: 2` (a nested diff, written by 5.0 and later). [`apply`] gives the document that the server would
//! store, byte for byte and with its fields in the same order. Nothing is decoded, so values and names that are not UTF-8,
//! deprecated types and NaN payloads go through as they are.

use bson::{RawDocument, RawDocumentBuf};

mod fields;
mod identity;
mod merge;
mod operators;
mod paths;
mod scan;
#[cfg(test)]
mod tests;
mod v1;
mod v2;
mod write;

pub use merge::merge;
pub use operators::{v1_as_operators, v1_as_ordered_operators, v1_needs_ordered_sets, v1_path_count, v2_as_operators};

use scan::find;
use write::Writer;

/// The largest document a server handles internally: the 16 MiB of a user document and 16 KiB more.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024 + 16 * 1024;

/// How deep a diff or path may go. Servers store 180 levels, and `applyOps` lets 200 through.
const MAX_DEPTH: usize = 250;

/// How many nulls a `$v: 1` path may add before the element it sets; the server's own limit.
const MAX_BACKFILL: usize = 1_500_000;

/// How an update entry's `o` says what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeltaFormat {
    /// `$set` and `$unset` over dotted paths.
    V1,
    /// A nested diff.
    V2,
}

/// Why a delta could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The update is neither `$v: 1` nor `$v: 2`; a replacement is not a delta either.
    #[error("the update's format is not known: its $v is neither 1 nor 2")]
    UnknownFormat,
    /// The delta has a part that its format does not have, so a part of the change would be lost.
    #[error("the delta has an unexpected section '{section}'")]
    UnexpectedSection {
        /// The name of the section.
        section: String,
    },
    /// A `$set` path leads through a value that can have no such field. Servers answer with code 28, `PathNotViable`.
    #[error("cannot create field '{field}' of the path '{path}': its parent is neither a document nor a fitting array")]
    PathConflict {
        /// The whole path.
        path: String,
        /// The part that cannot be created.
        field: String,
    },
    /// Two paths name one array element in two spellings, such as `l.1` and `l.01`. What a server makes of that depends on
    /// how it stores the change, and 5.0 and later end themselves over it; only reading the document again is exact.
    #[error("an array element is named in two spellings: '{path}'")]
    AliasedIndex {
        /// One of the paths, or the array's own.
        path: String,
    },
    /// The delta changes a field of which the document has several with the same name. An operator changes the first of them, a
    /// pipeline may have changed all, and the log does not say which it was; only reading the document again is exact.
    #[error("the document has more than one field '{name}', and which of them the delta changes is not known")]
    RepeatedName {
        /// The name.
        name: String,
    },
    /// The delta would change the document's `_id`.
    #[error("the delta would change the immutable field '_id'")]
    ImmutableId,
    /// A `$set` path would add more nulls to an array than a server does.
    #[error("the delta would add more than {MAX_BACKFILL} elements to an array")]
    Backfill,
    /// The document would grow larger than a server's limit of 16 MiB (and 16 KiB for its own use).
    #[error("the document would exceed {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// The delta goes deeper than any document a server stores.
    #[error("the delta goes deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// The document or the delta is broken.
    #[error("the document or the delta is malformed: {reason}")]
    Malformed {
        /// What was found.
        reason: &'static str,
    },
}

/// Tells the format of an update entry's `o`; `None` is a replacement.
///
/// A replacement carries its `_id` and a delta never does, so a replacement may have a field of its own that is called `$v`:
/// 5.0 and later store such fields.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] for a `$v` other than 1 or 2, [`DeltaError::Malformed`] for broken BSON.
pub fn format_of(update: &RawDocument) -> Result<Option<DeltaFormat>, DeltaError> {
    let update = update.as_bytes();
    if find(update, b"_id")?.is_some() {
        return Ok(None);
    }
    match find(update, b"$v")? {
        None => Ok(None),
        Some(version) => match version.integer() {
            Some(1) => Ok(Some(DeltaFormat::V1)),
            Some(2) => Ok(Some(DeltaFormat::V2)),
            _ => Err(DeltaError::UnknownFormat),
        },
    }
}

/// Gives the document as it is after a logged delta, an update entry's `o`.
///
/// A `$v: 2` delta can be applied to a newer document than it was made for: what does not fit becomes null, as on a server,
/// and later deltas put it right. A `$v: 1` delta then may end in [`DeltaError::PathConflict`] instead.
///
/// # Errors
///
/// See [`DeltaError`]. The result is never partly changed: there is a whole document or an error.
pub fn apply(document: &RawDocument, delta: &RawDocument) -> Result<RawDocumentBuf, DeltaError> {
    let before = document.as_bytes();
    let format = format_of(delta)?.ok_or(DeltaError::UnknownFormat)?;
    let delta = delta.as_bytes();
    let mut output = Writer::with_capacity(before.len() + delta.len());
    match format {
        DeltaFormat::V1 => v1::apply_to_document(before, delta, &mut output)?,
        DeltaFormat::V2 => {
            let diff = find(delta, b"diff")?.and_then(|diff| diff.document());
            let diff = diff.ok_or(DeltaError::Malformed {
                reason: "a $v: 2 update has no diff document",
            })?;
            v2::apply_to_document(before, diff, &mut output, 1)?;
        }
    }
    let after = into_document(output)?;
    if identity::changes_id(before, after.as_bytes())? {
        return Err(DeltaError::ImmutableId);
    }
    Ok(after)
}

fn into_document(output: Writer) -> Result<RawDocumentBuf, DeltaError> {
    RawDocumentBuf::from_bytes(output.into_bytes()).map_err(|_| DeltaError::Malformed {
        reason: "the result is not a document",
    })
}

/// The number that a name made of digits stands for; none for other names and for numbers no array can reach.
fn parse_index(name: &[u8]) -> Option<usize> {
    if name.is_empty() || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    name.iter().try_fold(0_usize, |index, digit| {
        index.checked_mul(10)?.checked_add(usize::from(digit - b'0'))
    })
}
