//! The history of the in-memory source as a stream.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use super::{MemorySource, SourceCall};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::oplog::Entry;
use crate::test_util::lock;

struct Tail {
    source: MemorySource,
    changes: watch::Receiver<u64>,
    started: Position,
    after: Position,
    disconnects: u64,
}

pub(super) fn tail(source: MemorySource, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
    let changes = source.shared.changes.subscribe();
    let disconnects = {
        let state = lock(&source.shared.state);
        state.check_tail(after)?;
        state.disconnects
    };
    let tail = Tail {
        source,
        changes,
        started: after,
        after,
        disconnects,
    };
    Ok(stream::unfold(Some(tail), |tail| async move {
        let mut tail = tail?;
        match tail.next().await {
            Ok(entries) => Some((Ok(entries), Some(tail))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

impl Tail {
    /// Waits for entries, or for an error that ends the tail.
    async fn next(&mut self) -> Result<Vec<Entry>> {
        loop {
            // Marks the change as seen before looking at the state, so a change in between wakes the wait below.
            self.changes.borrow_and_update();
            if !self.entries()?.is_empty() {
                break;
            }
            // The sender lives in the source, so the wait cannot fail.
            let _ = self.changes.changed().await;
        }
        self.source.before(SourceCall::TailEntries).await?;
        let entries = self.entries()?;
        if let Some(last) = entries.last() {
            self.after = last.position;
        }
        Ok(entries)
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let state = lock(&self.source.shared.state);
        if state.disconnects != self.disconnects {
            return Err(Error::new(
                ErrorKind::Connection,
                "read the history",
                "the connection broke",
            ));
        }
        state.entries_after(self.after, self.started)
    }
}
