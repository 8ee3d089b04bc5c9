//! Collections that need not be compared at the cutover, since they were while the run went on.

use std::collections::HashSet;
use std::time::Duration;

use bson::Uuid;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::checkpoint::CollectionState;
use crate::config::Verification;
use crate::cutover::compare;
use crate::engine::messages::{Request, Requests, VerificationRequest};
use crate::error::Result;
use crate::model::{ByName, Namespace, Position};
use crate::order::Key;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;

/// The collections that were compared while the run went on, and whose documents that have changed since are the same on both sides now
/// that these stand still. Both sides as they are listed now, and the position that the collections are at, come with the call.
///
/// Other programs may have written to the target since, which has to have been watched for. Unless nobody was seen, and both sides have as many documents
/// and bytes, a collection counts as not compared. So do some small ones, whose digests cost next to nothing and are independent of all this.
///
/// # Errors
/// A server error.
pub(crate) async fn verified(
    engine: &Job,
    progress: &RunState,
    requests: &Requests,
    (states, at): (&[&CollectionState], Position),
    (ours, theirs): (&ByName<'_>, &ByName<'_>),
) -> Result<HashSet<Uuid>> {
    let mut verified = HashSet::new();
    let foreign = progress.foreign_writes();
    let size = |listed: &ByName<'_>, namespace: &Namespace| {
        listed
            .get(namespace)
            .map(|collection| (collection.bytes, collection.documents))
    };
    let sized = states.iter().map(|state| (size(ours, &state.namespace), *state));
    let mut smallest_first: Vec<_> = sized.collect();
    smallest_first.sort_by_key(|(size, _)| *size);
    let (mut cross_checked, mut count) = (0, 0);
    for (here, state) in smallest_first {
        let bytes = here.map_or(0, |(bytes, _)| bytes);
        if cross_checked + bytes <= engine.settings.cross_check_bytes && count < MOST_CROSS_CHECKED {
            cross_checked += bytes;
            count += 1;
            continue;
        }
        let Some(keys) = open_documents(requests, state.id).await else {
            continue;
        };
        if !foreign.iter().any(|foreign| foreign.namespace == state.target)
            && here == size(theirs, &state.target)
            && compare::are_same(engine, state, &keys, at).await?
        {
            verified.insert(state.id);
        }
    }
    Ok(verified)
}

/// Waits until everything is known that others had written to the target before the call. Answers whether it is, and collections can
/// be [verified](verified) to be the same at all.
///
/// # Errors
/// A server error.
pub(crate) async fn watched_until_now(engine: &Job, progress: &RunState) -> Result<bool> {
    if engine.settings.verification != Verification::Continuous {
        return Ok(false);
    }
    let newest = engine.sink.sentinel().await?;
    Ok(watched_until(progress, newest.unwrap_or(Position::ZERO)).await)
}

pub(crate) async fn watched_until(progress: &RunState, newest: Position) -> bool {
    let watched = async {
        loop {
            match progress.foreign_writes_until() {
                Some(until) if until < newest => sleep(POLL_INTERVAL).await,
                until => return until.is_some(),
            }
        }
    };
    timeout(WATCHED, watched).await.unwrap_or(false)
}

/// The documents that alone may differ in this collection; `None` when that is not known.
pub(crate) async fn open_documents(requests: &Requests, collection: Uuid) -> Option<Vec<Key>> {
    let sender = requests.borrow().clone()?;
    let (reply, answer) = oneshot::channel();
    let request = Request::Verify(VerificationRequest::Open { collection, reply });
    sender.send(request).await.ok()?;
    answer.await.ok()?
}

/// How often it is looked how far the watch is.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a cutover waits for the watch for writes of others, which is as far as a moment ago as a rule.
pub(crate) const WATCHED: Duration = Duration::from_secs(5);

/// The most collections that are compared by digest for being small: each takes some commands on both sides.
pub(crate) const MOST_CROSS_CHECKED: usize = 200;
