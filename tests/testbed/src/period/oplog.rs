//! A member's oplog, as the version would have written it.
//!
//! It is kept in memory and follows the real one. A client that reads it waits until it has all that the real one
//! has at that moment, so that no client sees a document whose entry is still to come.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use mongodb::{Client, bson::RawDocumentBuf, options::CursorType};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    Period,
    entry::{self, IndexKeys},
    sequence::{Fate, Fates},
};

/// How often an entry that waits for others is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long a client waits for the real oplog to be followed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rewritten oplog of one member. Dropping it ends its task.
#[derive(Debug)]
pub(super) struct Oplog {
    state: watch::Sender<State>,
    _reader: JoinSet<()>,
}

/// What the oplog holds now.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Counts how often it was read from its beginning, which ends every cursor.
    pub(super) generation: u64,
    /// In the order of their time stamps.
    pub(super) entries: Vec<Entry>,
    /// The time stamp of the newest real entry that has been dealt with.
    pub(super) seen: u64,
    /// Entries up to this one are gone, as when an oplog is full.
    pub(super) rolled_off: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) document: RawDocumentBuf,
}

impl Oplog {
    /// Follows the oplog of the member that `client` is connected to.
    pub(super) fn start(period: Period, client: Client, fates: Arc<Fates>) -> Oplog {
        let (state, _) = watch::channel(State::default());
        let mut reader = JoinSet::new();
        reader.spawn(follow(period, client, fates, state.clone()));
        Oplog { state, _reader: reader }
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Waits until the real entry at `bound` and those before it have been dealt with; `false` when that takes too long.
    pub(super) async fn reaches(&self, bound: u64) -> bool {
        let mut state = self.state.subscribe();
        let reached = timeout(PATIENCE, state.wait_for(|state| state.seen >= bound)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// The newest entry that is not newer than `bound`; zero when there is none.
    pub(super) fn newest_until(&self, bound: u64) -> u64 {
        self.state.borrow().newest_until(bound)
    }

    /// Removes all entries but the newest `kept`, for good.
    pub(super) fn roll_off(&self, kept: usize) {
        self.state.send_modify(|state| {
            let count = state.entries.len().saturating_sub(kept);
            if let Some(last) = state.entries.drain(..count).next_back() {
                state.rolled_off = last.at;
            }
        });
    }
}

impl State {
    pub(super) fn newest_until(&self, bound: u64) -> u64 {
        let after = self.entries.partition_point(|entry| entry.at <= bound);
        after.checked_sub(1).map_or(0, |index| self.entries[index].at)
    }
}

/// Reads the real oplog from its beginning, again whenever the cursor is lost: a rollback changes what was read.
async fn follow(period: Period, client: Client, fates: Arc<Fates>, state: watch::Sender<State>) {
    loop {
        state.send_modify(|state| {
            state.generation += 1;
            state.entries.clear();
            state.seen = 0;
        });
        // The next attempt tells what is wrong, or nothing is.
        let _ = follow_once(period, &client, &fates, &state).await;
        tokio::time::sleep(POLL).await;
    }
}

async fn follow_once(
    period: Period,
    client: &Client,
    fates: &Fates,
    state: &watch::Sender<State>,
) -> mongodb::error::Result<()> {
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let mut real = oplog
        .find(mongodb::bson::Document::new())
        .cursor_type(CursorType::TailableAwait)
        .max_await_time(Duration::from_secs(1))
        .await?;
    let mut indexes = IndexKeys::default();
    let mut pending = VecDeque::new();
    let mut first_came = Instant::now();
    loop {
        match timeout(POLL, real.next()).await {
            Ok(Some(next)) => {
                if pending.is_empty() {
                    first_came = Instant::now();
                }
                pending.push_back(next?);
            }
            Ok(None) => return Ok(()),
            // Those that are pending have waited a little longer.
            Err(_) => {}
        }
        while let Some(fate) = pending
            .front()
            .and_then(|_| fates.of_first(period, &pending, first_came.elapsed()))
        {
            let Some(first) = pending.pop_front() else {
                break;
            };
            first_came = Instant::now();
            let at = entry::timestamp(&first).unwrap_or_default();
            let written = match fate {
                Fate::Kept => entry::rewrite(period, &first, &indexes),
                Fate::Dropped => None,
                Fate::Replaced(entry) => Some(entry),
            };
            indexes.note(&first);
            state.send_modify(|state| {
                state.seen = at;
                if let Some(document) = written.filter(|_| at > state.rolled_off) {
                    state.entries.push(Entry { at, document });
                }
            });
        }
    }
}
