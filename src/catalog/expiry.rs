//! Keeps documents from expiring on the target before the cutover.

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::catalog::seconds;
use crate::error::{Error, Result};

/// The options that a collection is created with before the cutover: without expiry, so that documents expire on the source only.
pub(crate) fn expiry_held_back(options: &RawDocument) -> RawDocumentBuf {
    let mut kept = RawDocumentBuf::new();
    for (field, value) in options.into_iter().filter_map(Result::ok) {
        if field != "expireAfterSeconds" {
            kept.append(field, value);
        }
    }
    kept
}

/// The `expireAfterSeconds` of indexes on the target before the cutover. With this value, only documents dated before 1973 could expire. A
/// larger value is not possible: servers before 6.0 refuse one that reaches back beyond 1970. The value is a constant because it must not
/// change when a run resumes from its checkpoint.
pub(crate) const TTL_DISABLED_SECONDS: i32 = 1_700_000_000;

/// The index as built before the cutover: with an expiry that never takes effect, so that documents expire on the source only.
pub(crate) fn held_back(specification: &RawDocument) -> RawDocumentBuf {
    if seconds(specification).is_none_or(|seconds| seconds >= i64::from(TTL_DISABLED_SECONDS)) {
        return specification.to_owned();
    }
    replace_field(specification, "expireAfterSeconds", TTL_DISABLED_SECONDS)
        .unwrap_or_else(|_| specification.to_owned())
}

/// Returns a copy of `document` with the value of the field `name` replaced, if the field exists.
pub(crate) fn replace_field(document: &RawDocument, name: &str, value: i32) -> Result<RawDocumentBuf> {
    let malformed = |error| Error::malformed("read an index specification", error);
    let mut changed = RawDocumentBuf::new();
    for element in document {
        let (field, old) = element.map_err(malformed)?;
        if field == name {
            changed.append(field, value);
        } else {
            changed.append(field, old);
        }
    }
    Ok(changed)
}
