//! Keeps a process that no longer holds the lease from writing.
//!
//! A process can be stopped at any moment, wake up a minute later, and go on as if nothing had happened, while another one has taken the
//! migration over. Whatever it wrote then would be old. So every call that writes goes through a [`Fence`], which is open only while the
//! lease is held for certain.
//!
//! # What is guaranteed
//! - The lease is renewed every second. From the moment in which a renewal that a majority then acknowledged was *begun*, the fence is open
//!   for [`HOLD`]; another process takes the lease after [`EXPIRY`] without a renewal, which is longer. Both are measured on each process's
//!   own monotonic clock, so that clocks of hosts need not agree.
//! - The fence is looked at before a call begins and again before each step of it, not only once a call. A process that was stopped in
//!   the middle of a batch finds it closed, asks for a renewal, and goes on only if it still holds the lease; else the call ends with
//!   [`ErrorKind::Lease`] and what it had not sent yet is dropped. The same fence stands before the checkpoint store, of whatever kind.
//! - What had reached the target before is waited for: the process that takes over calls [`Sink::quiesce`] before it reads anything.
//! - On a [`SinkStore`](crate::checkpoint::SinkStore) the target itself refuses the checkpoint of a stale holder, whatever that holder's
//!   clock says: the new one has [claimed](CheckpointStore::claim) the record, and each save names the one that it replaces. The lease
//!   record is kept in the same way.
//!
//! # What is not
//! MongoDB cannot make a write depend on a lease without a transaction around it. One batch of each applier and walker can still arrive late
//! when the process is stopped between the look at the fence and the system call that sends the batch, or when the network held the
//! batch back for longer than the lease lasts. On Linux the clock stands still while the whole machine is suspended; then the next renewal
//! is what tells, at most a second later. The comparison at cutover finds what such a batch has done.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::checkpoint::CheckpointStore;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Batch, Collection, CollectionKind, Deployment, Inspection, Namespace, Position, Write};
use crate::order::Key;
use crate::sink::{CatalogCommand, Refusal, Sink, SinkRead, WritesSeen};

/// A lease that is not renewed for so long belongs to a process that is gone.
pub(crate) const EXPIRY: Duration = Duration::from_secs(6);

/// How long a renewal lets its holder write. What was sent last has the rest of [`EXPIRY`] to be carried out.
pub(crate) const HOLD: Duration = Duration::from_secs(5);

/// Whether this process may write to the target at this moment. Clones are one fence.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No run has the lease: what wants to write waits until one has.
    Free,
    /// The lease is held until then, or longer when it is renewed meanwhile.
    HeldChanges { until: Instant },
    /// The lease is another's: what wants to write fails.
    Lost,
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::Free)),
        }
    }
}

impl Fence {
    /// A renewal that was begun at that moment has been acknowledged.
    pub fn renewed(&self, begun: Instant) {
        self.state.send_replace(State::HeldChanges { until: begun + HOLD });
    }

    /// The lease is lost: everything that wants to write fails from now on.
    pub fn lose(&self) {
        self.state.send_replace(State::Lost);
    }

    /// The lease was given up: what wants to write waits for the next run.
    pub fn free(&self) {
        self.state.send_replace(State::Free);
    }

    /// Makes progress with `call` only while the lease is held for certain.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) when the lease is lost, or the call's own.
    ///
    /// # Cancellation
    /// As that of `call`.
    pub async fn guard<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut call = pin!(call);
        loop {
            if !self.is_open() {
                self.opened(operation).await?;
            }
            // A call sends only when it is polled, so that the look comes right before whatever it sends.
            let polled = poll_fn(|context| {
                if self.is_open() {
                    call.as_mut().poll(context).map(Some)
                } else {
                    Poll::Ready(None)
                }
            });
            if let Some(answer) = polled.await {
                return answer;
            }
        }
    }

    fn is_open(&self) -> bool {
        self.state.borrow().is_open()
    }

    async fn opened(&self, operation: &'static str) -> Result<()> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| state.is_open() || *state == State::Lost).await;
        if known.is_ok_and(|state| *state != State::Lost) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Lease,
            operation,
            "this process no longer holds the migration's lease on the target",
        ))
    }
}

impl State {
    fn is_open(&self) -> bool {
        matches!(self, Self::HeldChanges { until } if Instant::now() < *until)
    }
}

/// A sink that writes only while the lease is held. Reading needs no lease.
pub(crate) struct FencedSink {
    sink: Arc<dyn Sink>,
    fence: Fence,
}

impl FencedSink {
    pub fn new(sink: Arc<dyn Sink>, fence: Fence) -> Self {
        Self { sink, fence }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Sink for FencedSink {
    async fn describe(&self) -> Result<Deployment> {
        self.sink.describe().await
    }

    async fn members(&self) -> Result<Vec<String>> {
        self.sink.members().await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        self.sink.foreign_writes(after).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.sink.collections().await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.sink.collections_named(names).await
    }

    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        self.sink.names_in(database).await
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.sink.identities(names).await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        let call = self.sink.execute(command);
        self.fence.guard("change the target's catalogue", call).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        let call = self.sink.create_index(namespace, specification);
        self.fence.guard("create an index", call).await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        let call = self.sink.insert(namespace, batch);
        self.fence.guard("insert documents", call).await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        let call = self.sink.apply(namespace, kind, writes);
        self.fence.guard("apply writes", call).await
    }

    async fn flush(&self) -> Result<()> {
        self.fence.guard("flush the target", self.sink.flush()).await
    }

    async fn quiesce(&self) -> Result<()> {
        self.sink.quiesce().await
    }

    async fn sentinel(&self) -> Result<Option<Position>> {
        self.sink.sentinel().await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.sink.read(request).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.sink.read_documents(namespace, keys).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.sink.inspect().await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.sink.digest(namespace).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.sink.load_record(name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        let call = self.sink.save_record(name, record, expected);
        self.fence.guard("save a record", call).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.fence.guard("delete a record", self.sink.delete_record(name)).await
    }
}

/// A checkpoint store that is changed only while the lease is held.
pub(crate) struct FencedStore {
    store: Arc<dyn CheckpointStore>,
    fence: Fence,
}

impl FencedStore {
    pub fn new(store: Arc<dyn CheckpointStore>, fence: Fence) -> Self {
        Self { store, fence }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CheckpointStore for FencedStore {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        self.store.load().await
    }

    async fn claim(&self) -> Result<()> {
        self.fence.guard("claim the checkpoint", self.store.claim()).await
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        self.fence
            .guard("save the checkpoint", self.store.save(checkpoint))
            .await
    }

    async fn clear(&self) -> Result<()> {
        self.fence.guard("remove the checkpoint", self.store.clear()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::time::{advance, sleep, timeout};

    use super::*;

    /// A call of three steps, each a second after the other.
    async fn steps(sent: &AtomicUsize) -> Result<usize> {
        for _ in 0..3 {
            sent.fetch_add(1, SeqCst);
            sleep(Duration::from_secs(1)).await;
        }
        Ok(sent.load(SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_as_long_as_the_lease_is_renewed() {
        let (fence, sent) = (Fence::default(), AtomicUsize::new(0));
        fence.renewed(Instant::now());
        assert_eq!(fence.guard("test", steps(&sent)).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_process_sends_no_second_part_of_its_batch() {
        let (fence, sent) = (Fence::default(), AtomicUsize::new(0));
        fence.renewed(Instant::now());
        let mut call = pin!(fence.guard("test", steps(&sent)));
        assert!(futures::poll!(&mut call).is_pending());
        // The process is stopped for a minute; when it wakes up, its timers and sockets are ready.
        advance(Duration::from_secs(60)).await;
        assert!(timeout(Duration::from_secs(10), &mut call).await.is_err());
        assert_eq!(sent.load(SeqCst), 1);
        // It may still hold the lease: then nothing is lost.
        fence.renewed(Instant::now());
        assert!(futures::poll!(&mut call).is_pending());
        assert_eq!(sent.load(SeqCst), 2);
        fence.lose();
        assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Lease);
        assert_eq!(sent.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_without_the_lease() {
        let (fence, sent) = (Fence::default(), AtomicUsize::new(0));
        let call = || timeout(Duration::from_secs(30), fence.guard("test", steps(&sent)));
        assert!(call().await.is_err(), "it waits");
        fence.renewed(Instant::now());
        advance(HOLD).await;
        assert!(call().await.is_err(), "the renewal is too old");
        fence.lose();
        assert_eq!(call().await.unwrap().unwrap_err().kind(), ErrorKind::Lease);
        assert_eq!(sent.load(SeqCst), 0);
    }
}
