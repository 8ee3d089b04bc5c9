//! The comparison of both sides while a run goes on, as its host asks for it.

use std::time::Duration;

use bson::raw::RawDocumentBuf;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::compare::difference::Difference;
use crate::engine::messages::{Request, Requests, VerificationRequest};
use crate::engine::track::verification::{CollectionVerification, VerificationState};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position};
use crate::order::Key;
use crate::runtime::job::Job;
use crate::source::{PointRequest, ReadMode};

/// How often it is looked how far a comparison is.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a comparison of both sides has found; see [`MigrationHandle::verify`](crate::MigrationHandle::verify).
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyReport {
    /// Each collection that was asked for, by its name on the source.
    pub collections: Vec<ComparedCollection>,
}

/// What was found of one collection.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedCollection {
    /// Its name on the source.
    pub namespace: Namespace,
    /// Its name on the target.
    pub target: Namespace,
    /// The position in the source's history at which the last of its ranges was compared; `None` when none was.
    pub position: Option<Position>,
    /// Documents of the source that were compared.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The documents that differ, at most 1000 of them.
    pub differences: Vec<Difference>,
    /// How many differ in all.
    pub difference_count: u64,
    /// Why it was not compared, or not to its end.
    pub not_compared: Option<String>,
}

/// A document as both sides have it; see [`MigrationHandle::both_sides`](crate::MigrationHandle::both_sides).
#[derive(Clone, Debug, PartialEq)]
pub struct BothSides {
    /// The source's; `None` where it has none.
    pub source: Option<RawDocumentBuf>,
    /// The target's; `None` where it has none.
    pub target: Option<RawDocumentBuf>,
}

impl VerifyReport {
    /// Whether everything was compared and is the same on both sides.
    pub fn is_identical(&self) -> bool {
        self.collections
            .iter()
            .all(|collection| collection.difference_count == 0 && collection.not_compared.is_none())
    }

    /// How many documents differ.
    pub fn difference_count(&self) -> u64 {
        self.collections
            .iter()
            .map(|collection| collection.difference_count)
            .sum()
    }
}

/// Compares the collections, all when none are named, and waits for the end. `keep` says that the comparison goes on afterwards.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a collection that is not migrated, or what `check` answers.
pub(crate) async fn verify(
    requests: &Requests,
    collections: &[Namespace],
    keep: bool,
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
        // The run has begun again from its checkpoint.
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
    if !keep {
        let end = |reply| VerificationRequest::End {
            collections: collections.to_vec(),
            reply,
        };
        ask(requests, end, &check).await?;
    }
    let mut collections: Vec<ComparedCollection> = states.into_iter().map(report).collect();
    collections.sort_by(|left, right| left.namespace.cmp(&right.namespace));
    Ok(VerifyReport { collections })
}

/// Writes the documents that differ as the source has them. Answers how many these were.
///
/// # Errors
/// What `check` answers.
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

/// Reads a document of both sides.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a collection that is not migrated, a server error, or what `check` answers.
pub(crate) async fn both_sides(
    engine: &Job,
    requests: &Requests,
    namespace: &Namespace,
    id: &Key,
    check: impl Fn() -> Result<()>,
) -> Result<BothSides> {
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
    Ok(BothSides {
        source: ours.pop(),
        target: theirs.pop(),
    })
}

fn not_migrated(namespace: &Namespace) -> Error {
    Error::new(
        ErrorKind::InvalidConfiguration,
        "compare both sides",
        "no such collection is migrated: give its name on the source",
    )
    .with_context("namespace", namespace)
}

/// Asks the run, again where it has gone back to its checkpoint meanwhile.
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
                "it has no order in which it could be compared while it is written to; the cutover compares it"
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

    /// A watch that has lost its connection knows nothing of what was written since.
    #[tokio::test(start_paused = true)]
    async fn what_the_watch_has_not_come_to_is_not_known() {
        let at = |increment| Position {
            time: 1,
            increment,
            term: 1,
        };
        let progress = RunState::new(Events::new());
        assert!(!watched_until(&progress, Position::ZERO).await, "there is none");
        progress.set_foreign_writes_until(Some(at(3)));
        assert!(watched_until(&progress, at(3)).await);
        assert!(!watched_until(&progress, at(4)).await, "it stands still");
        let later = async {
            sleep(Duration::from_secs(1)).await;
            progress.set_foreign_writes_until(Some(at(4)));
        };
        assert!(futures::join!(watched_until(&progress, at(4)), later).0);
        let ends = async {
            sleep(Duration::from_secs(1)).await;
            progress.set_foreign_writes_until(None);
        };
        assert!(!futures::join!(watched_until(&progress, at(5)), ends).0);
    }
}
