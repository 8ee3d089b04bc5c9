//! The history of a sink in memory, which has only the writes of other programs.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position};
use crate::sink::WritesSeen;

/// Interval at which a watch yields an empty item if there are no writes.
const WATCHED: Duration = Duration::from_secs(1);

/// Writes of other programs.
#[derive(Debug, Default)]
pub(super) struct ForeignHistory {
    /// The collections that other programs wrote to, one per write, and the number of writes at the front that the history has forgotten.
    written: watch::Sender<(Vec<Namespace>, usize)>,
}

impl ForeignHistory {
    /// Adds a write to this collection.
    pub fn add(&self, namespace: Namespace) {
        self.written.send_modify(|(written, _)| written.push(namespace));
    }

    /// Forgets the history up to now, so that no watch can start from an earlier position.
    pub fn forget(&self) {
        self.written.send_modify(|(written, forgotten)| {
            written.push(Namespace::new("admin", "$cmd"));
            *forgotten = written.len();
        });
    }

    /// Reports the writes after a position, or from now on.
    ///
    /// # Errors
    /// [`PositionLost`](ErrorKind::PositionLost) if the history no longer has the position.
    pub fn watch(&self, after: Option<Position>) -> Result<BoxStream<'static, Result<WritesSeen>>> {
        let mut history = self.written.subscribe();
        let (length, forgotten) = {
            let (written, forgotten) = &*history.borrow_and_update();
            (written.len(), *forgotten)
        };
        let seen = after.map_or(length, |after| after.increment as usize);
        if !(forgotten..=length).contains(&seen) {
            return Err(Error::new(
                ErrorKind::PositionLost,
                "watch for other writers",
                "the history is forgotten",
            ));
        }
        let seen = stream::unfold((history, seen, true), |(mut history, seen, is_first)| async move {
            if !is_first && history.borrow().0.len() == seen {
                tokio::select! {
                    changed = history.changed() => changed.ok()?,
                    () = sleep(WATCHED) => {}
                }
            }
            let mut collections = Vec::new();
            if !is_first {
                collections.extend_from_slice(&history.borrow_and_update().0[seen..]);
            }
            let now = seen + collections.len();
            let until = Position {
                time: 1,
                increment: now as u32,
                term: 1,
            };
            Some((Ok(WritesSeen { collections, until }), (history, now, false)))
        });
        Ok(seen.boxed())
    }
}
