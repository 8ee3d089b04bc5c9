//! Reads the oplog and hands its entries to the router.
//!
//! It reads no faster than the throttle allows, and no further ahead than there is memory for.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::messages::ReadAhead;
use crate::error::{Error, Result};
use crate::oplog::Entry;
use crate::runtime::limits::memory::MemoryBudget;
use crate::runtime::progress::RunState;
use crate::source::EntryStream;

/// Maximum number of vectors of entries read ahead. There are fewer if they are large.
pub(crate) const READ_AHEAD: usize = 4;

/// Reads the tail and sends its entries to the router until the run ends.
///
/// # Errors
/// Errors of the tail.
pub(crate) async fn read_oplog(
    mut tail: EntryStream,
    router: mpsc::Sender<ReadAhead>,
    budget: MemoryBudget,
    progress: Arc<RunState>,
    cancel: CancellationToken,
) -> Result<()> {
    loop {
        let read = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            read = tail.next() => read,
        };
        let Some(read) = read else {
            return Err(Error::stopped("follow the oplog"));
        };
        let mut rest = read?;
        while !rest.is_empty() {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = progress.limits.tail.ready() => {}
            }
            let part = portion(&mut rest, progress.limits.tail.portion(u64::MAX));
            let operations: u64 = part.iter().map(|entry| entry.items.len() as u64).sum();
            progress.limits.tail.spend(operations);
            progress.read_operations.fetch_add(operations, Relaxed);
            if part.iter().any(|entry| entry.users_changed) {
                progress.users.changed();
            }
            if let Some(last) = part.last() {
                progress.set_read(last.position.max(progress.read()));
            }
            let bytes = part.iter().map(Entry::size_in_memory).sum();
            let taken = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                taken = budget.take(bytes) => taken?,
            };
            if router.send(ReadAhead { entries: part, taken }).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Splits off the first entries, with about `operations` operations in total. Takes at least one entry.
fn portion(rest: &mut Vec<Entry>, operations: u64) -> Vec<Entry> {
    let mut taken = 0;
    let end = rest.iter().position(|entry| {
        let enough = taken >= operations;
        taken += entry.items.len() as u64;
        enough
    });
    match end {
        None => std::mem::take(rest),
        Some(end) => {
            let later = rest.split_off(end.max(1));
            std::mem::replace(rest, later)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use bson::{DateTime, RawDocumentBuf, Uuid};
    use futures::stream;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::config::Throttle;
    use crate::oplog::{Command, CommandOperation, Item};
    use crate::report::Events;
    use crate::test_util::at;

    /// An entry with the given number of operations and bytes.
    fn entry(time: u32, operations: usize, bytes: usize) -> Entry {
        let item = Item::Command(Command {
            position: at(time),
            collection: Some(Uuid::from_bytes([1; 16])),
            operation: CommandOperation::Unsupported {
                namespace: String::new(),
                reason: String::new(),
            },
            raw: RawDocumentBuf::new(),
        });
        Entry {
            position: at(time),
            resume: at(time),
            wall: DateTime::now(),
            items: vec![item; operations],
            bytes,
            continues: false,
            users_changed: false,
        }
    }

    /// Runs `read_oplog` with a budget of `budget` bytes on vectors of `count` entries each. Returns the counter of vectors read, the
    /// router's receiver and the task.
    fn pumping(
        budget: usize,
        count: usize,
        bytes: usize,
        progress: &Arc<RunState>,
    ) -> (
        Arc<AtomicUsize>,
        mpsc::Receiver<ReadAhead>,
        tokio::task::JoinHandle<Result<()>>,
    ) {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let tail = stream::repeat_with(move || {
            let first = counted.fetch_add(1, Relaxed) * count;
            Ok((first..first + count)
                .map(|number| entry(number as u32, 1, bytes))
                .collect())
        })
        .boxed();
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let (progress, cancel) = (Arc::clone(progress), CancellationToken::new());
        let read_oplog = tokio::spawn(read_oplog(tail, sender, MemoryBudget::new(budget), progress, cancel));
        (read, receiver, read_oplog)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_ahead_is_bounded_by_bytes() {
        let progress = Arc::new(RunState::new(Events::new()));
        // Whatever the size of the vectors, one more is read than there is room for.
        for (count, bytes, most) in [(1, 10, READ_AHEAD + 1), (10, 10_000, 2), (10, 1 << 20, 2)] {
            let (read, mut router, read_oplog) = pumping(150_000, count, bytes, &progress);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(read.load(Relaxed), most, "{count} entries of {bytes} bytes");
            let entries = router.recv().await.unwrap();
            sleep(Duration::from_secs(1)).await;
            // What the router has taken but not handled yet still counts.
            let queued = if count == 1 { most + 1 } else { most };
            assert_eq!(read.load(Relaxed), queued);
            drop(entries);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(read.load(Relaxed), most + 1);
            drop(router);
            read_oplog.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_tail_keeps_to_its_limit() {
        let progress = Arc::new(RunState::new(Events::new()));
        progress.limits.set(Throttle {
            tail_operations_per_second: Some(100),
            ..Throttle::default()
        });
        let (_, mut router, _reader) = pumping(1 << 20, 1000, 10, &progress);
        let (started, mut next) = (Instant::now(), 0);
        while next < 3000 {
            for entry in router.recv().await.unwrap().entries {
                assert_eq!(entry.position, at(next), "one after the other");
                next += 1;
            }
        }
        let took = started.elapsed().as_secs_f64();
        assert!((29.0..31.0).contains(&took), "{took}");
        assert!(progress.read_operations.load(Relaxed) >= 3000);
    }

    #[test]
    fn a_portion_has_at_least_one_entry() {
        let entries = || vec![entry(1, 5, 1), entry(2, 0, 1), entry(3, 1, 1)];
        for (operations, expected) in [(1, 1), (5, 1), (6, 3), (u64::MAX, 3)] {
            let mut rest = entries();
            assert_eq!(portion(&mut rest, operations).len(), expected, "{operations}");
            assert_eq!(rest.len(), 3 - expected);
        }
    }
}
