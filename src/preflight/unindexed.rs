//! Documents that would be missed, because the index on `_id` does not have them.

use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::is_id_index;
use crate::error::{ErrorKind, Finding, FindingCode, Result};
use crate::model::{Collection, CollectionKind};
use crate::source::Source;

/// Time for all collections. Those that are left then are not counted.
const ALL: Duration = Duration::from_secs(60);

/// Counts the documents of the selected collections in two ways. Collections without the index have another finding.
///
/// # Errors
/// The connection broke.
pub(super) async fn check(source: &dyn Source, selected: &[&Collection], findings: &mut Vec<Finding>) -> Result<()> {
    let end = Instant::now() + ALL;
    for collection in selected {
        let has_index = collection.indexes.iter().any(|index| is_id_index(index));
        if collection.kind == CollectionKind::View || !has_index {
            continue;
        }
        let namespace = &collection.namespace;
        let counted = match Instant::now() < end {
            true => source.unindexed(collection).await,
            false => Ok(None),
        };
        let reason = match counted {
            Ok(Some(0)) => continue,
            Ok(Some(count)) => {
                findings.push(missing(collection, count));
                continue;
            }
            Ok(None) => "it takes too long".to_owned(),
            Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        findings.push(
            Finding::note(
                FindingCode::Unchecked,
                format!("whether the index on `_id` of `{namespace}` has every document was not counted: {reason}"),
                "count on the source, at a quiet time",
            )
            .about(namespace.as_str())
            .because("unindexed"),
        );
    }
    Ok(())
}

fn missing(collection: &Collection, count: u64) -> Finding {
    let namespace = &collection.namespace;
    Finding::blocker(
        FindingCode::UnindexedDocuments,
        format!(
            "the index on `_id` of `{namespace}` lacks {count} documents, unless the server counts them wrong; documents that the index does \
             not have would not be migrated"
        ),
        "on the source: run `validate` on the collection, which corrects the number; look for an `_id` of more than 1024 bytes with \
         `.find().hint({ $natural: 1 })`, and replace such documents by ones with a shorter `_id`",
    )
    .about(namespace.as_str())
}
