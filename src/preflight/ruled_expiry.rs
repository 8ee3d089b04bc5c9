//! Documents that a transform makes expire on the target while the run still follows the source.

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::catalog::expiry::TTL_DISABLED_SECONDS;
use crate::catalog::seconds;

/// Number of the documents that would expire at once by a TTL index, although the run holds expiry back. They are as the target would have
/// them.
pub(super) fn expired(index: &RawDocument, path: &str, documents: &[RawDocumentBuf], now: bson::DateTime) -> usize {
    let Some(seconds) = seconds(index) else { return 0 };
    let held_back = seconds.max(TTL_DISABLED_SECONDS.into()).saturating_mul(1000);
    let latest = now.timestamp_millis().saturating_sub(held_back);
    let has_expired = |document: &&RawDocumentBuf| earliest(document, path).is_some_and(|date| date <= latest);
    documents.iter().filter(has_expired).count()
}

/// The earliest date that a path leads to, in milliseconds. Only the last field may be an array.
fn earliest(document: &RawDocument, path: &str) -> Option<i64> {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (document.get(first).ok()??, rest) {
        (RawBsonRef::Document(inner), Some(rest)) => earliest(inner, rest),
        (RawBsonRef::DateTime(date), None) => Some(date.timestamp_millis()),
        (RawBsonRef::Array(dates), None) => {
            let dates = dates.into_iter().flatten().filter_map(|date| date.as_datetime());
            dates.map(bson::DateTime::timestamp_millis).min()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn dates_before_what_is_held_back_have_expired() {
        let date = bson::DateTime::from_millis;
        let now = date(1_796_000_000_000);
        let before = date(95_000_000_000);
        let documents = [
            rawdoc! { "at": before },
            rawdoc! { "at": [now, before] },
            rawdoc! { "at": { "at": before } },
            rawdoc! { "at": date(97_000_000_000) },
            rawdoc! { "at": "1970" },
            rawdoc! { "at": { "at": [] } },
            rawdoc! {},
        ];
        let index = |seconds: i64| rawdoc! { "key": { "at": 1 }, "expireAfterSeconds": seconds };
        assert_eq!(expired(&index(60), "at", &documents, now), 2);
        assert_eq!(expired(&index(60), "at.at", &documents, now), 1);
        // The index itself keeps them longer.
        assert_eq!(expired(&index(1_750_000_000), "at", &documents, now), 0);
        assert_eq!(expired(&rawdoc! { "key": { "at": 1 } }, "at", &documents, now), 0);
    }
}
