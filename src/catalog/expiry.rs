//! When documents expire on the target before the cutover.

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::catalog::seconds;
use crate::error::{Error, Result};

/// A collection's options as it is made before cutover: its documents expire on the source alone.
pub(crate) fn expiry_held_back(options: &RawDocument) -> RawDocumentBuf {
    let mut kept = RawDocumentBuf::new();
    for (field, value) in options.into_iter().filter_map(Result::ok) {
        if field != "expireAfterSeconds" {
            kept.append(field, value);
        }
    }
    kept
}

/// The `expireAfterSeconds` of indexes before cutover: only what is dated before 1973 could expire by it. Servers before 6.0 refuse a
/// value that reaches back beyond 1970 from now, and the value must stay the same when a run goes on from its checkpoint.
pub(crate) const TTL_DISABLED_SECONDS: i32 = 1_700_000_000;

/// The index as it is built before cutover: documents expire on the source alone.
pub(crate) fn held_back(specification: &RawDocument) -> RawDocumentBuf {
    if seconds(specification).is_none_or(|seconds| seconds >= i64::from(TTL_DISABLED_SECONDS)) {
        return specification.to_owned();
    }
    replace_field(specification, "expireAfterSeconds", TTL_DISABLED_SECONDS)
        .unwrap_or_else(|_| specification.to_owned())
}

/// A copy of `document` in which the field, where it exists, has another value.
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
