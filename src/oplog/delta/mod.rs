//! Applies delta updates of the oplog to documents in memory.
//!
//! Unless an update is a replacement, the oplog contains only what changed. Before 3.6, that is `$set` and `$unset` over dotted paths.
//! `$v: 1`, written by 3.6 to 4.4, is the same with another order of new fields. `$v: 2`, written by 5.0 and later, is a nested diff. [`apply`] returns the document that the server would store, byte
//! for byte and with its fields in the same order. Nothing is decoded, so values and names that are not UTF-8, deprecated types and NaN
//! payloads pass through unchanged.

use bson::{RawDocument, RawDocumentBuf};

mod changed;
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

pub use changed::{ChangedPaths, changed_paths};
pub use merge::merge;
pub use operators::{
    unversioned_needs_ordered_sets, v1_as_operators, v1_as_ordered_operators, v1_needs_ordered_sets, v1_path_count,
    v2_as_operators,
};

use scan::{elements, find};
use write::Writer;

/// Maximum size of a document inside a server: the 16 MiB of a user document and 16 KiB more.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024 + 16 * 1024;

/// Maximum depth of a diff or path. Servers store 180 levels, and `applyOps` accepts 200.
const MAX_DEPTH: usize = 250;

/// Maximum number of nulls that a `$v: 1` path may add before the element it sets. This is the server's own limit.
const MAX_BACKFILL: usize = 1_500_000;

/// The format of a delta in the `o` of an update entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeltaFormat {
    /// `$set` and `$unset` over dotted paths, without `$v`, from before 3.6. The server added new fields in the listed order. Later servers add
    /// the new fields of an update by name, so they must not get such an update as it is.
    Unversioned,
    /// `$set` and `$unset` over dotted paths, listed by name.
    V1,
    /// A nested diff.
    V2,
}

/// Why a delta could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The update is in none of the formats of [`DeltaFormat`]. Replacements are not deltas either.
    #[error("the update's format is not known: its $v is neither 1 nor 2")]
    UnknownFormat,
    /// The delta has a section that its format does not define. Ignoring it would lose a part of the change.
    #[error("the delta has an unexpected section '{section}'")]
    UnexpectedSection {
        /// The name of the section.
        section: String,
    },
    /// A `$set` path leads through a value that cannot have such a field. Servers respond with code 28, `PathNotViable`.
    #[error("cannot create field '{field}' of the path '{path}': its parent is neither a document nor a fitting array")]
    PathConflict {
        /// The whole path.
        path: String,
        /// The part that cannot be created.
        field: String,
    },
    /// Two paths spell the same array element in two ways, such as `l.1` and `l.01`. The result on a server depends on how it stores the
    /// change, and 5.0 and later abort. The exact result is known only by reading the document again.
    #[error("an array element is named in two spellings: '{path}'")]
    AliasedIndex {
        /// One of the paths, or the path of the array.
        path: String,
    },
    /// The delta changes a field whose name the document repeats. An operator changes the first of these fields, and a pipeline may have
    /// changed all. The oplog does not tell which it was. The exact result is known only by reading the document again.
    #[error("the document has more than one field '{name}', and which of them the delta changes is not known")]
    RepeatedName {
        /// The name that the document repeats.
        name: String,
    },
    /// The delta would change the document's `_id`.
    #[error("the delta would change the immutable field '_id'")]
    ImmutableId,
    /// A `$set` path would add more nulls to an array than a server allows.
    #[error("the delta would add more than {MAX_BACKFILL} elements to an array")]
    Backfill,
    /// The document would exceed a server's limit of 16 MiB (and 16 KiB for its own use).
    #[error("the document would exceed {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// The delta is nested deeper than any document that a server stores.
    #[error("the delta goes deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// The document or the delta is malformed.
    #[error("the document or the delta is malformed: {reason}")]
    Malformed {
        /// What is malformed.
        reason: &'static str,
    },
}

/// Returns the format of the `o` of an update entry, or `None` for a replacement.
///
/// A replacement contains its `_id`, and a delta never does. So a replacement may have a field of its own called `$v`, which 5.0 and later
/// can store.
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] for a `$v` other than 1 or 2, [`DeltaError::Malformed`] for malformed BSON.
pub fn format_of(update: &RawDocument) -> Result<Option<DeltaFormat>, DeltaError> {
    let update = update.as_bytes();
    if find(update, b"_id")?.is_some() {
        return Ok(None);
    }
    match find(update, b"$v")? {
        None => {
            let first = elements(update).next().transpose()?;
            let is_operator = first.is_some_and(|first| matches!(first.name, b"$set" | b"$unset"));
            Ok(is_operator.then_some(DeltaFormat::Unversioned))
        }
        Some(version) => match version.integer() {
            Some(1) => Ok(Some(DeltaFormat::V1)),
            Some(2) => Ok(Some(DeltaFormat::V2)),
            _ => Err(DeltaError::UnknownFormat),
        },
    }
}

/// Returns `document` with a logged delta applied. `delta` is the `o` of an update entry.
///
/// A `$v: 2` delta can be applied to a newer document than it was made for. Fields that do not fit become null, as on a server, and later
/// deltas correct them. A delta of another format may fail with [`DeltaError::PathConflict`] instead.
///
/// # Errors
///
/// See [`DeltaError`]. The document is never changed in part: the result is a complete document or an error.
pub fn apply(document: &RawDocument, delta: &RawDocument) -> Result<RawDocumentBuf, DeltaError> {
    let before = document.as_bytes();
    let format = format_of(delta)?.ok_or(DeltaError::UnknownFormat)?;
    let delta = delta.as_bytes();
    let mut output = Writer::with_capacity(before.len() + delta.len());
    match format {
        DeltaFormat::Unversioned | DeltaFormat::V1 => v1::apply_to_document(before, delta, &mut output)?,
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

/// The number that a name spells in digits. `None` for other names, and for numbers too large for any array.
fn parse_index(name: &[u8]) -> Option<usize> {
    if name.is_empty() || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    name.iter().try_fold(0_usize, |index, digit| {
        index.checked_mul(10)?.checked_add(usize::from(digit - b'0'))
    })
}
