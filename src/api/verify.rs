//! Comparison of both sides during a run, at the host's request.

use std::time::Duration;

use bson::raw::RawDocumentBuf;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::compare::difference::Difference;
use crate::engine::messages::{Request, Requests, VerificationRequest};
use crate::engine::track::verification::{CollectionVerification, VerificationState};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position, format};
use crate::order::Key;
use crate::runtime::job::Job;
use crate::source::{PointRequest, ReadMode};

/// Interval at which the progress of a comparison is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Result of a comparison of both sides; see [`MigrationHandle::verify`](crate::MigrationHandle::verify).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The requested collections, by their names on the source.
    pub collections: Vec<ComparedCollection>,
}

/// Result of the comparison for one collection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ComparedCollection {
    /// The collection's name on the source.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// The collection's name on the target.
    #[serde(serialize_with = "format::name")]
    pub target: Namespace,
    /// The source position at which the collection's last range was compared; `None` if no range was compared.
    pub position: Option<Position>,
    /// Number of source documents compared.
    pub documents: u64,
    /// Number of bytes in these documents.
    pub bytes: u64,
    /// The documents that differ, at most 1000 of them.
    pub differences: Vec<Difference>,
    /// Total number of documents that differ.
    pub difference_count: u64,
    /// Why the collection was not compared, or not completely.
    pub not_compared: Option<String>,
}

/// One document from both sides; see [`MigrationHandle::read_both`](crate::MigrationHandle::read_both). It contains documents, so it does
/// not implement `Serialize`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DocumentPair {
    /// The document on the source; `None` if it does not exist there.
    pub source: Option<RawDocumentBuf>,
    /// The document on the target; `None` if it does not exist there.
    pub target: Option<RawDocumentBuf>,
}

impl VerifyReport {
    /// Returns `true` if everything was compared and is identical on both sides.
    pub fn is_identical(&self) -> bool {
        self.collections
            .iter()
            .all(|collection| collection.difference_count == 0 && collection.not_compared.is_none())
    }

    /// Returns the number of documents that differ.
    pub fn difference_count(&self) -> u64 {
        self.collections
            .iter()
            .map(|collection| collection.difference_count)
            .sum()
    }
}

/// Writes the result as a whole next to that of each collection.
impl Serialize for VerifyReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("VerifyReport", 4)?;
        fields.serialize_field("type", "verify_report")?;
        fields.serialize_field("identical", &self.is_identical())?;
        fields.serialize_field("difference_count", &self.difference_count())?;
        fields.serialize_field("collections", &self.collections)?;
        fields.end()
    }
}

/// Compares the collections, or all if none are named, and waits for the result. If `keep` is set, the comparison continues afterwards.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a collection that is not migrated, or the error that `check` returns.
pub(crate) async fn verify(
    requests: &Requests,
    collections: &[Namespace],
    check: impl Fn() -> Result<()>,
) -> Result<VerifyReport> {
    let begin = |reply| VerificationRequest::Begin {
        collections: collections.to_vec(),
        reply,
    };
    ask(requests, begin, &check).await?;
    let states = loop {
        let states = ask(
            requests,
            |reply| VerificationRequest::State {
                collections: collections.to_vec(),
                reply,
            },
            &check,
        );
        let states = states.await?;
        if let Some(unknown) = collections
            .iter()
            .find(|name| !states.iter().any(|state| state.namespace == **name))
        {
            return Err(not_migrated(unknown));
        }
        // The run has restarted from its checkpoint.
        if states
            .iter()
            .any(|state| matches!(state.state, VerificationState::NotWanted))
        {
            ask(requests, begin, &check).await?;
        } else if !states
            .iter()
            .any(|state| matches!(state.state, VerificationState::Pending))
        {
            break states;
        }
        sleep(POLL_INTERVAL).await;
    };
    let end = |reply| VerificationRequest::End {
        collections: collections.to_vec(),
        reply,
    };
    ask(requests, end, &check).await?;
    let mut collections: Vec<ComparedCollection> = states.into_iter().map(report).collect();
    collections.sort_by(|left, right| left.namespace.cmp(&right.namespace));
    Ok(VerifyReport { collections })
}

/// Repairs the documents that differ: writes them as the source has them. Returns their number.
///
/// # Errors
/// The error that `check` returns.
pub(crate) async fn repair(requests: &Requests, report: &VerifyReport, check: impl Fn() -> Result<()>) -> Result<u64> {
    let mut repaired = 0;
    for collection in &report.collections {
        if collection.differences.is_empty() {
            continue;
        }
        let write = |reply| VerificationRequest::Repair {
            namespace: collection.namespace.clone(),
            keys: collection
                .differences
                .iter()
                .map(|difference| difference.key.clone())
                .collect(),
            reply,
        };
        ask(requests, write, &check).await?;
        repaired += collection.differences.len() as u64;
    }
    Ok(repaired)
}

/// Reads one document from both sides.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a collection that is not migrated, a server error, or the error that
/// `check` returns.
pub(crate) async fn read_both(
    engine: &Job,
    requests: &Requests,
    namespace: &Namespace,
    id: &Key,
    check: impl Fn() -> Result<()>,
) -> Result<DocumentPair> {
    let state = |reply| VerificationRequest::State {
        collections: vec![namespace.clone()],
        reply,
    };
    let state = ask(requests, state, &check).await?.pop();
    let target = state.ok_or_else(|| not_migrated(namespace))?.target;
    let keys = std::slice::from_ref(id);
    let ours = engine.source.read_documents(PointRequest {
        namespace,
        keys,
        at: engine.source.position().await?,
        mode: ReadMode::Interval,
    });
    let theirs = engine.sink.read_documents(&target, keys);
    let (mut ours, mut theirs) = futures::try_join!(ours, theirs)?;
    Ok(DocumentPair {
        source: ours.pop(),
        target: theirs.pop(),
    })
}

fn not_migrated(namespace: &Namespace) -> Error {
    Error::new(
        ErrorKind::InvalidConfiguration,
        "compare both sides",
        "this collection is not migrated: use its name on the source",
    )
    .with_context("namespace", namespace)
}

/// Sends a request to the run, and repeats it if the run has gone back to its checkpoint in the meantime.
async fn ask<T>(
    requests: &Requests,
    request: impl Fn(oneshot::Sender<T>) -> VerificationRequest,
    check: &impl Fn() -> Result<()>,
) -> Result<T> {
    loop {
        check()?;
        let sender: Option<mpsc::Sender<Request>> = requests.borrow().clone();
        if let Some(sender) = sender {
            let (reply, answer) = oneshot::channel();
            if sender.send(Request::Verify(request(reply))).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return Ok(answer);
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn report(verification: CollectionVerification) -> ComparedCollection {
    let (tally, not_compared) = match verification.state {
        VerificationState::Done(tally) => (tally, None),
        VerificationState::Failing(reason) => (Default::default(), Some(reason)),
        VerificationState::NoRanges => (
            Default::default(),
            Some(
                "it has no order in which it could be compared while it is being written to; the cutover compares it"
                    .to_owned(),
            ),
        ),
        VerificationState::NotWanted | VerificationState::Pending => {
            (Default::default(), Some("it was not compared".to_owned()))
        }
    };
    ComparedCollection {
        namespace: verification.namespace,
        target: verification.target,
        position: tally.position,
        documents: tally.documents,
        bytes: tally.bytes,
        differences: tally.differences,
        difference_count: tally.count,
        not_compared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutover::verified::watched_until;
    use crate::report::Events;
    use crate::runtime::progress::RunState;

    /// A watch that has lost its connection cannot tell what was written since.
    #[tokio::test(start_paused = true)]
    async fn what_the_watch_has_not_come_to_is_not_known() {
        let at = |increment| Position {
            time: 1,
            increment,
            term: 1,
        };
        let progress = RunState::new(Events::new());
        assert!(!watched_until(&progress, Position::ZERO).await, "there is none");
        progress.foreign_writes.set_known_until(Some(at(3)));
        assert!(watched_until(&progress, at(3)).await);
        assert!(!watched_until(&progress, at(4)).await, "the watch makes no progress");
        let later = async {
            sleep(Duration::from_secs(1)).await;
            progress.foreign_writes.set_known_until(Some(at(4)));
        };
        assert!(futures::join!(watched_until(&progress, at(4)), later).0);
        let ends = async {
            sleep(Duration::from_secs(1)).await;
            progress.foreign_writes.set_known_until(None);
        };
        assert!(!futures::join!(watched_until(&progress, at(5)), ends).0);
    }
}
