//! Finds collections that need no comparison at cutover, because the run has verified them.

use std::collections::HashSet;
use std::time::Duration;

use bson::Uuid;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::checkpoint::CollectionState;
use crate::cutover::compare;
use crate::engine::messages::{Request, Requests, VerificationRequest};
use crate::error::Result;
use crate::model::{ByName, Namespace, Position};
use crate::order::Key;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;

/// Returns the collections that were verified during the run, and whose documents that have changed since are the same on both sides now
/// that these stand still. `ours` and `theirs` are the current listings of both sides, and `at` is the position of the collections.
///
/// Other programs may have written to the target since the verification. The caller must have watched for such writes. A collection counts
/// as verified only if no such write was seen, and if both sides have the same number of documents and bytes, or rules make these differ.
/// Some small collections never count: their digests cost next to nothing and are independent of all this.
///
/// # Errors
/// A server error.
pub(crate) async fn verified_while_running(
    engine: &Job,
    progress: &RunState,
    requests: &Requests,
    (states, at): (&[&CollectionState], Position),
    (ours, theirs): (&ByName<'_>, &ByName<'_>),
) -> Result<HashSet<Uuid>> {
    let mut verified = HashSet::new();
    let foreign = progress.foreign_writes.all();
    let size = |listed: &ByName<'_>, namespace: &Namespace| {
        listed
            .get(namespace)
            .map(|collection| (collection.bytes, collection.documents))
    };
    let continuous = |state: &&&CollectionState| engine.settings.collections.of(&state.namespace).is_continuous();
    let sized = states
        .iter()
        .filter(continuous)
        .map(|state| (size(ours, &state.namespace), *state));
    let mut smallest_first: Vec<_> = sized.collect();
    smallest_first.sort_by_key(|(size, _)| *size);
    // Rules leave documents out and change their sizes.
    let is_ruled = |state: &CollectionState| engine.shaping.of(&state.namespace).is_some();
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
            && (is_ruled(state) || here == size(theirs, &state.target))
            && compare::are_same(engine, state, &keys, at).await?
        {
            verified.insert(state.id);
        }
    }
    Ok(verified)
}

/// Waits until all writes that other programs made to the target before the call are known. Returns `true` if they are, and if collections
/// can be [verified](verified_while_running) at all.
///
/// # Errors
/// A server error.
pub(crate) async fn watched_until_now(engine: &Job, progress: &RunState) -> Result<bool> {
    if !engine.settings.collections.any_continuous() {
        return Ok(false);
    }
    let newest = engine.sink.sentinel().await?;
    Ok(watched_until(progress, newest.unwrap_or(Position::ZERO)).await)
}

pub(crate) async fn watched_until(progress: &RunState, newest: Position) -> bool {
    let watched = async {
        loop {
            match progress.foreign_writes.known_until() {
                Some(until) if until < newest => sleep(POLL_INTERVAL).await,
                until => return until.is_some(),
            }
        }
    };
    timeout(WATCHED, watched).await.unwrap_or(false)
}

/// Returns the only documents that may differ in this collection; `None` if that is not known.
pub(crate) async fn open_documents(requests: &Requests, collection: Uuid) -> Option<Vec<Key>> {
    let sender = requests.borrow().clone()?;
    let (reply, answer) = oneshot::channel();
    let request = Request::Verify(VerificationRequest::Open { collection, reply });
    sender.send(request).await.ok()?;
    answer.await.ok()?
}

/// Polling interval for the progress of the watch.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum wait at cutover for the watch for writes of other programs. The watch is usually only moments behind.
pub(crate) const WATCHED: Duration = Duration::from_secs(5);

/// Maximum number of small collections that are compared by digest. Each takes some commands on both sides.
pub(crate) const MOST_CROSS_CHECKED: usize = 200;
