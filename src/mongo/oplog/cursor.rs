//! A stream of typed oplog entries that continues through elections and restarts.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, vec};

use bson::Timestamp;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use mongodb::Client;
use mongodb::options::SelectionCriteria;

use crate::error::Result;
use crate::model::{Position, Selection};
use crate::mongo::oplog::tail::{Settings, Start, Tail};
use crate::oplog::entry::Entry;
use crate::oplog::filter::Filter;

/// The history of a replica set after a position, as a stream of [`Entry`].
///
/// Entries come in order and without a gap. Only majority-committed entries are yielded, so none can be rolled back.
///
/// ```no_run
/// # async fn example(client: mongoferry::mongodb::Client) -> Result<(), mongoferry::Error> {
/// use futures::StreamExt;
/// use mongoferry::Selection;
/// use mongoferry::oplog::OplogCursor;
///
/// let mut shop = Selection::all();
/// shop.include("shop.*")?;
/// let mut cursor = OplogCursor::builder(&client).namespaces(shop).build();
/// while let Some(entry) = cursor.next().await {
///     let entry = entry?;
///     // Names, `_id`s and the names of changed fields, but no contents of documents.
///     println!("{entry}");
///     // Store `entry.resume`: a later cursor continues `after` it.
/// }
/// # Ok(())
/// # }
/// ```
///
/// It reads `local.oplog.rs` with read concern majority. After elections, restarts, killed cursors and broken connections, it reopens its
/// server cursor at the last entry read. No entry is yielded twice or left out. A transaction is yielded as one entry at the position of
/// its commit, however many entries it has in the oplog.
///
/// A silent source is polled about once a second. A server that does not answer for 30 seconds counts as lost. The cursor needs a running
/// tokio runtime: a background task requests the next batch, and no more than that, while the last one is processed. The task ends with the
/// cursor.
///
/// # Errors
/// The stream ends after its first error:
///
/// - [`PositionLost`](crate::ErrorKind::PositionLost) if the oplog no longer contains the position or time to start at, or never did, or
///   if the cursor was so slow that entries were removed before it read them.
/// - [`Connection`](crate::ErrorKind::Connection) if the set could not be reached for about a minute.
/// - [`Unauthorized`](crate::ErrorKind::Unauthorized) if the oplog may not be read. The role `clusterMonitor` allows it.
/// - [`Panic`](crate::ErrorKind::Panic) if the background task of the cursor panicked.
/// - [`Io`](crate::ErrorKind::Io) if open transactions exceed [`OplogCursorBuilder::transaction_bytes`] and the temporary folder has no
///   room.
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
    /// Returns a builder for a cursor that reads with `client`.
    pub fn builder(client: &Client) -> OplogCursorBuilder {
        OplogCursorBuilder {
            client: client.clone(),
            settings: Settings::default(),
            filter: None,
        }
    }

    /// The position of the last entry yielded. Before the first entry, it is the position passed to [`OplogCursorBuilder::after`].
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The position to pass to [`OplogCursorBuilder::after`] so that a new cursor misses nothing that this one has not yielded. While a
    /// transaction is open, the new cursor may yield entries again that this one has yielded.
    pub fn resume_position(&self) -> Option<Position> {
        self.resume
    }

    /// The number of bytes of entries currently kept in memory for transactions that have neither committed nor aborted.
    pub fn transaction_bytes(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// Converts the cursor into a stream of vectors. Each holds at least one entry and at most about one megabyte of them.
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
    filter: Option<Selection>,
}

impl OplogCursorBuilder {
    /// Starts at the newest position when the cursor is first polled, or before the first entry of the oldest transaction that is open
    /// then. This is the default.
    pub fn from_now(mut self) -> Self {
        self.settings.start = Start::Now;
        self
    }

    /// Starts after this position, which the oplog must still contain: the [`resume`](Entry::resume) of any entry yielded before.
    pub fn after(mut self, position: Position) -> Self {
        self.settings.start = Start::After(position);
        self
    }

    /// Starts with the first entry at or after this time of the set's own clock: the `ts` of an entry, or the `operationTime` of a reply.
    /// The oplog must contain an older entry, unless the set was created after the time. A time in the future starts now.
    ///
    /// A transaction is at its commit: one that began before the time and was committed after it is yielded as a whole.
    pub fn from_timestamp(mut self, time: Timestamp) -> Self {
        self.settings.start = Start::From(time);
        self
    }

    /// Like [`from_timestamp`](Self::from_timestamp), with the beginning of the second that `time` is in. The clocks of this machine and of
    /// the set may differ.
    pub fn from_time(self, time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.from_timestamp(Timestamp {
            time: u32::try_from(seconds).unwrap_or(u32::MAX),
            increment: 0,
        })
    }

    /// Yields only what concerns selected namespaces. By default everything is yielded, the server's own databases included, which no
    /// selection contains. Renames of the selection are ignored.
    ///
    /// A rename is yielded if either of its names is selected. Entries without any item left are skipped, except the last one of each batch
    /// of entries read, so that [`Entry::resume`] continues to advance. The filter is applied here, not on the server: the whole oplog is
    /// read.
    pub fn namespaces(mut self, selection: Selection) -> Self {
        self.filter = Some(selection);
        self
    }

    /// Maximum number of bytes of entries kept in memory for transactions that have neither committed nor aborted; 16 MiB by default. One
    /// more entry may exceed it. The rest goes to a temporary file, and such a transaction is yielded [in parts](Entry::continues).
    pub fn transaction_bytes(mut self, bytes: usize) -> Self {
        self.settings.transaction_bytes = bytes;
        self
    }

    /// Selects the member to read from. By default the client's own options apply, which select the primary if they do not say otherwise.
    pub fn selection_criteria(mut self, criteria: SelectionCriteria) -> Self {
        self.settings.selection = Some(criteria);
        self
    }

    /// Builds the cursor. Nothing is sent to the server until it is polled.
    pub fn build(self) -> OplogCursor {
        let after = match self.settings.start {
            Start::After(position) => Some(position),
            Start::Now | Start::From(_) => None,
        };
        let kept = self.settings.kept.clone();
        let tail = Tail::new(self.client, self.settings);
        let mut filter = self.filter.map(Filter::new);
        let batches = stream::unfold(Some(tail), |tail| async {
            let mut tail = tail?;
            match tail.next().await {
                Ok(entries) => Some((Ok(entries), Some(tail))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .map(move |entries| match &mut filter {
            Some(filter) => entries.map(|entries| filter.apply(entries)),
            None => entries,
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
            .field("start", &self.settings.start)
            .finish_non_exhaustive()
    }
}
