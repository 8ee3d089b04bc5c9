//! A stream of typed oplog entries that goes on through elections and restarts.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::{fmt, vec};

use futures::stream::{self, BoxStream, Stream, StreamExt};
use mongodb::Client;
use mongodb::options::SelectionCriteria;

use crate::error::Result;
use crate::model::Position;
use crate::mongo::oplog::tail::{Settings, Tail};
use crate::oplog::entry::Entry;

/// The history of a replica set after a position: a stream of [`Entry`] in order, without a gap, of which only majority-committed ones are
/// ever seen, so that none can be rolled back.
///
/// ```no_run
/// # async fn example(client: mongodb::Client) -> Result<(), mongoferry::Error> {
/// use futures::StreamExt;
/// use mongoferry::oplog::OplogCursor;
///
/// let mut cursor = OplogCursor::builder(&client).build();
/// while let Some(entry) = cursor.next().await {
///     let entry = entry?;
///     println!("{}: {} items", entry.position, entry.items.len());
///     // Keep `entry.resume`, and a later cursor goes on `after` it.
/// }
/// # Ok(())
/// # }
/// ```
///
/// It reads `local.oplog.rs` with read concern majority, and opens its server cursor again by itself after elections, restarts, killed
/// cursors and broken connections, from the last entry read; nothing is yielded twice or left out. A transaction is yielded as one
/// entry at the position of its commit, however many entries it has in the oplog.
///
/// A silent source is asked about once a second; a server that answers nothing for 30 seconds counts as lost. A runtime of the tokio crate
/// must be running: a task of the cursor's own asks for the next batch while the last one is looked at, and for no more than that. It ends
/// with the cursor.
///
/// # Errors
/// The stream ends after its first error, which is
/// [`PositionLost`](crate::ErrorKind::PositionLost) when the oplog does not hold the position (any more),
/// [`Connection`](crate::ErrorKind::Connection) when the set could not be reached for about a minute,
/// [`Unauthorized`](crate::ErrorKind::Unauthorized) when the oplog may not be read (the role `clusterMonitor` allows it),
/// [`Panic`](crate::ErrorKind::Panic) when the task behind the cursor panicked, or
/// [`Io`](crate::ErrorKind::Io) when open transactions outgrow [`OplogCursorBuilder::transaction_bytes`] and the temporary folder has no room.
///
/// # Cancellation
/// Polling may stop at any time without losing an entry. Dropping the cursor kills it on the server.
pub struct OplogCursor {
    batches: BoxStream<'static, Result<Vec<Entry>>>,
    ready: vec::IntoIter<Entry>,
    position: Option<Position>,
    resume: Option<Position>,
    kept: Arc<AtomicUsize>,
}

impl OplogCursor {
    /// Starts building a cursor that reads with `client`.
    pub fn builder(client: &Client) -> OplogCursorBuilder {
        OplogCursorBuilder {
            client: client.clone(),
            settings: Settings::default(),
        }
    }

    /// The position of the entry yielded last; before the first one that which was given to [`OplogCursorBuilder::after`].
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The position to give to [`OplogCursorBuilder::after`] so that a new cursor misses nothing that this one has not yielded. It may
    /// yield entries again that this one has yielded, namely while a transaction is open.
    pub fn resume_position(&self) -> Option<Position> {
        self.resume
    }

    /// How many bytes of entries are kept in memory now of transactions that have neither committed nor aborted.
    pub fn transaction_bytes(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// The same stream in vectors of at least one entry and at most about one megabyte of them.
    pub fn into_batches(self) -> BoxStream<'static, Result<Vec<Entry>>> {
        let ready: Vec<Entry> = self.ready.collect();
        if ready.is_empty() {
            self.batches
        } else {
            stream::iter([Ok(ready)]).chain(self.batches).boxed()
        }
    }
}

impl Stream for OplogCursor {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.ready.next() {
                self.position = Some(entry.position);
                self.resume = Some(entry.resume);
                return Poll::Ready(Some(Ok(entry)));
            }
            match self.batches.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(entries))) => self.ready = entries.into_iter(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl fmt::Debug for OplogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OplogCursor")
            .field("position", &self.position)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// Options of an [`OplogCursor`].
#[must_use = "nothing is read before `build`"]
pub struct OplogCursorBuilder {
    client: Client,
    settings: Settings,
}

impl OplogCursorBuilder {
    /// Starts after this position, which the oplog must still hold: the [`resume`](Entry::resume) of any entry yielded before. By default
    /// the cursor starts at what is newest when it is first polled, or before the first entry of the oldest transaction open then.
    pub fn after(mut self, position: Position) -> Self {
        self.settings.after = Some(position);
        self
    }

    /// How many bytes of entries may be kept in memory of transactions that are neither committed nor aborted, one entry more at most; 16 MiB
    /// by default. What is more goes to a temporary file, and such a transaction is yielded [in parts](Entry::continues).
    pub fn transaction_bytes(mut self, bytes: usize) -> Self {
        self.settings.transaction_bytes = bytes;
        self
    }

    /// Which member is read from; by default what the client's own options say, which is the primary where they say nothing.
    pub fn selection_criteria(mut self, criteria: SelectionCriteria) -> Self {
        self.settings.selection = Some(criteria);
        self
    }

    /// The cursor. Nothing is sent to the server until it is polled.
    pub fn build(self) -> OplogCursor {
        let after = self.settings.after;
        let kept = self.settings.kept.clone();
        let tail = Tail::new(self.client, self.settings);
        let batches = stream::unfold(Some(tail), |tail| async {
            let mut tail = tail?;
            match tail.next().await {
                Ok(entries) => Some((Ok(entries), Some(tail))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed();
        OplogCursor {
            batches,
            ready: Vec::new().into_iter(),
            position: after,
            resume: after,
            kept,
        }
    }
}

impl fmt::Debug for OplogCursorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OplogCursorBuilder")
            .field("after", &self.settings.after)
            .finish_non_exhaustive()
    }
}
