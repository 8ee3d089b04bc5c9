//! Fence that stops a process from writing once it no longer holds the lease.
//!
//! A process can be suspended at any moment and resume a minute later, while another process has taken over the migration. Its writes would
//! then be stale. Every writing call therefore goes through a [`Fence`], which is open only while the process certainly holds the lease.
//!
//! # Guarantees
//! - The lease is renewed every second. A renewal that a majority acknowledges opens the fence for [`HOLD`], counted from the moment the
//!   renewal *began*. Another process takes the lease only after [`EXPIRY`] without a renewal, which is longer. Both durations are measured
//!   on each process's own monotonic clock, so the clocks of the hosts need not agree.
//! - The fence is checked before a call begins and again before each step of the call. A process that was suspended in the middle of a
//!   batch finds the fence closed and waits for a renewal. It continues only if it still holds the lease. Otherwise the call fails with
//!   [`ErrorKind::LeaseLost`], and whatever it had not sent yet is dropped. The same fence guards the checkpoint store, of whatever kind.
//! - Writes that reached the target before are waited for: the process that takes over calls [`Sink::quiesce`] before it reads anything.
//! - On a [`SinkStore`](crate::checkpoint::SinkStore) the target itself refuses the checkpoint of a stale holder, independent of any clock:
//!   the new holder has [claimed](CheckpointStore::claim) the record, and each save names the one that it replaces. The lease record is
//!   protected in the same way.
//!
//! # Limits
//! MongoDB cannot make a write depend on a lease without a transaction around it. One batch of each applier and walker can still arrive
//! late: if the process is suspended between the check of the fence and the system call that sends the batch, or if the network delays the
//! batch for longer than the lease lasts. On Linux the monotonic clock stops while the whole machine is suspended. The next renewal then
//! detects the lost lease, at most a second later. The comparison at cutover finds what such a batch has changed.

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
use crate::model::{
    AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Deployment, Inspection, Namespace,
    Position, Selection, Write,
};
use crate::order::Key;
use crate::sink::{CatalogCommand, Refusal, Sink, SinkRead, WritesSeen};

/// A lease without a renewal for this long has expired: its process is gone.
pub(crate) const EXPIRY: Duration = Duration::from_secs(6);

/// How long a renewal allows its holder to write. The rest of [`EXPIRY`] is left for the last calls to complete.
pub(crate) const HOLD: Duration = Duration::from_secs(5);

/// Permission of this process to write to the target. Clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No run holds the lease: writers wait until one does.
    Free,
    /// The lease is held until this moment, or longer if it is renewed.
    Held { until: Instant },
    /// Another process holds the lease: writers fail.
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
    /// Records an acknowledged renewal that began at `begun`.
    pub fn renewed(&self, begun: Instant) {
        self.state.send_replace(State::Held { until: begun + HOLD });
    }

    /// Records that the lease is lost: every write fails from now on.
    pub fn lose(&self) {
        self.state.send_replace(State::Lost);
    }

    /// Records that the lease was released: writers wait for the next run.
    pub fn free(&self) {
        self.state.send_replace(State::Free);
    }

    /// Polls `call` only while the process certainly holds the lease.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) if the lease is lost, or the error of `call`.
    ///
    /// # Cancellation
    /// That of `call`.
    pub async fn guard<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut call = pin!(call);
        loop {
            if !self.is_open() {
                self.opened(operation).await?;
            }
            // A call sends only while it is polled, so this check comes right before anything that it sends.
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

    /// Whether the lease is certainly held now.
    pub fn is_open(&self) -> bool {
        self.state.borrow().is_open()
    }

    async fn opened(&self, operation: &'static str) -> Result<()> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| state.is_open() || *state == State::Lost).await;
        if known.is_ok_and(|state| *state != State::Lost) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::LeaseLost,
            operation,
            "this process no longer holds the migration's lease on the target",
        ))
    }
}

impl State {
    fn is_open(&self) -> bool {
        matches!(self, Self::Held { until } if Instant::now() < *until)
    }
}

/// A sink that writes only while the lease is held. Reads need no lease.
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

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        self.sink.collections_selected(selection).await
    }

    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        self.sink.names_in(database).await
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.sink.identities(names).await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        let call = self.sink.execute(command);
        self.fence.guard("change the target's catalog", call).await
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

    fn losses(&self) -> u64 {
        self.sink.losses()
    }

    async fn flush(&self) -> Result<()> {
        self.fence.guard("flush the target", self.sink.flush()).await
    }

    async fn quiesce(&self, selection: &Selection) -> Result<()> {
        self.sink.quiesce(selection).await
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

    async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
        self.sink.accounts(names).await
    }

    async fn unknown_actions(&self, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
        self.sink.unknown_actions(actions).await
    }

    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        let call = self.sink.change_accounts(changes);
        self.fence.guard("change users and roles", call).await
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

/// A checkpoint store that changes only while the lease is held.
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

    /// A call of three steps, one second apart.
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
        // The process is suspended for a minute. When it resumes, its timers and sockets are ready.
        advance(Duration::from_secs(60)).await;
        assert!(timeout(Duration::from_secs(10), &mut call).await.is_err());
        assert_eq!(sent.load(SeqCst), 1);
        // If it still holds the lease, nothing is lost.
        fence.renewed(Instant::now());
        assert!(futures::poll!(&mut call).is_pending());
        assert_eq!(sent.load(SeqCst), 2);
        fence.lose();
        assert_eq!(call.await.unwrap_err().kind(), ErrorKind::LeaseLost);
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
        assert_eq!(call().await.unwrap().unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(sent.load(SeqCst), 0);
    }
}
