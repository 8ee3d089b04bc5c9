//! Documents that a transform makes expire on the target while the run still follows the source.

use bson::doc;
use bson::raw::{RawDocument, RawDocumentBuf};

use crate::catalog::expiry::TTL_DISABLED_SECONDS;
use crate::catalog::seconds;
use crate::rules::Query;

/// Number of the documents that would expire at once by a TTL index, although the run holds expiry back. They are as the target would have
/// them.
pub(super) fn expired(index: &RawDocument, path: &str, documents: &[RawDocumentBuf], now: bson::DateTime) -> usize {
    let Some(seconds) = seconds(index) else { return 0 };
    let held_back = seconds.max(TTL_DISABLED_SECONDS.into()).saturating_mul(1000);
    let latest = now.timestamp_millis().saturating_sub(held_back);
    // Servers find what has expired by the same condition.
    let condition = doc! { path: { "$lte": bson::DateTime::from_millis(latest) } };
    let Ok(has_expired) = Query::new(condition) else {
        return 0;
    };
    let documents = documents.iter();
    documents
        .filter(|document| has_expired.selects(document).unwrap_or(false))
        .count()
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
        let inside = [rawdoc! { "at": [{ "at": now }, { "at": before }] }];
        assert_eq!(expired(&index(60), "at.at", &inside, now), 1);
        // The index itself keeps them longer.
        assert_eq!(expired(&index(1_750_000_000), "at", &documents, now), 0);
        assert_eq!(expired(&rawdoc! { "key": { "at": 1 } }, "at", &documents, now), 0);
    }
}
