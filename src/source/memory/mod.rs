//! A source in memory, for tests.

mod catalog;
mod history;
mod read;
mod state;
mod table;
mod tail;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;
use tokio::sync::watch;

use self::state::State;
use super::{PointRequest, ReadRequest, Source, WriteLoad};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Accounts, Batch, Collection, Deployment, Namespace, Position, Selection, TransactionFacts};
use crate::oplog::Entry;
use crate::order::Key;
use crate::test_util::{Faults, Gate, Moment, digest, lock};

pub use self::transaction::{OpenTransaction, Transaction};

/// A replica set in memory, for tests. It keeps its whole history, so a snapshot can be read at any position.
///
/// Clones share the same data: a test keeps one clone to write to and passes another one to the migration. Reads in
/// [`ReadMode::Interval`](super::ReadMode::Interval) mix versions as much as the contract allows. Each document is as of a point of its
/// own, which the seed determines.
///
/// Capped collections keep their order but evict nothing. Unique indexes are not enforced. While writes are blocked, writes to documents
/// are refused, but catalog changes are not.
#[derive(Clone)]
pub struct MemorySource {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    state: Mutex<State>,
    /// Counts changes of the state, so that tasks can wait for one.
    changes: watch::Sender<u64>,
    faults: Faults<SourceCall>,
}

/// Points of a [`MemorySource`] where a test can inject faults and gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceCall {
    /// [`Source::describe`]
    Describe,
    /// [`Source::collections`] and [`Source::collections_selected`]
    Collections,
    /// [`Source::collections_named`]
    CollectionsNamed,
    /// [`Source::databases`]
    Databases,
    /// [`Source::position`]
    Position,
    /// [`Source::sentinel`]
    Sentinel,
    /// [`Source::start_position`]
    StartPosition,
    /// [`Source::oldest_position`]
    OldestPosition,
    /// [`Source::tail`]
    Tail,
    /// A tail that is about to yield entries. The tail takes them from the history after the gate, so they may include entries that were
    /// appended while it waited.
    TailEntries,
    /// [`Source::split`]
    Split,
    /// [`Source::read`]
    Read,
    /// A read that is about to yield a batch.
    ReadBatch,
    /// [`Source::read_documents`]
    ReadDocuments,
    /// [`Source::digest`]
    Digest,
    /// [`Source::set_write_block`]
    SetWriteBlock,
    /// [`Source::writes_blocked`]
    WritesBlocked,
    /// [`Source::open_transactions`]
    OpenTransactions,
    /// [`Source::write_load`]
    WriteLoad,
    /// [`Source::accounts`]
    Accounts,
}

/// Which collection a read by name finds if names have changed since its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameResolution {
    /// The collection that had the name at the position, as the contract requires. The default.
    AtPosition,
    /// The collection that has the name now, as on a server. A name that was assigned after the position makes a snapshot unavailable. A
    /// name that is gone reads as empty. A cursor fails with a connection error once its collection loses the name.
    Newest,
}

impl MemorySource {
    /// Creates an empty replica set.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// Creates an empty replica set whose random choices depend on the seed.
    pub fn with_seed(seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                seed,
                state: Mutex::new(State::new(seed)),
                changes: watch::Sender::new(0),
                faults: Faults::new(),
            }),
        }
    }

    /// Sets the server version that the source reports. Writes cannot be blocked before 6.0. Default: 6.0.0.
    pub fn set_version(&self, version: [u32; 3]) {
        self.change(|state| state.version = version);
    }

    /// Sets whether snapshots can be read. Default: `true`.
    pub fn set_snapshots(&self, available: bool) {
        self.change(|state| state.snapshots = available);
    }

    /// Keeps snapshots for the newest `entries` entries only. Default: for all.
    pub fn set_snapshot_window(&self, entries: usize) {
        self.change(|state| state.snapshot_window = Some(entries));
    }

    /// Makes every position before the newest one too old for a snapshot.
    pub fn expire_snapshots(&self) {
        self.change(|state| state.snapshot_floor = state.newest());
    }

    /// Keeps only the newest `entries` entries of the history. A tail that still needs an older entry loses its position. Default: all.
    pub fn set_history_window(&self, entries: usize) {
        self.change(|state| {
            state.history_window = Some(entries);
            state.trim_history();
        });
    }

    /// Sets which collection a read finds if names have changed. Default: [`NameResolution::AtPosition`].
    pub fn set_name_resolution(&self, resolution: NameResolution) {
        self.change(|state| state.name_resolution = resolution);
    }

    /// Sets the maximum number of documents in a batch. Default: as many as fit into the requested bytes.
    pub fn set_batch_documents(&self, documents: usize) {
        self.change(|state| state.batch_documents = documents);
    }

    /// Sets the maximum number of entries that a tail yields at once. Default: 100.
    pub fn set_batch_entries(&self, entries: usize) {
        self.change(|state| state.batch_entries = entries);
    }

    /// Sets the write load that the source reports. Default: none.
    pub fn set_write_load(&self, load: WriteLoad) {
        self.change(|state| state.write_load = Some(load));
    }

    /// Number of calls of this kind that have begun.
    pub fn calls(&self, call: SourceCall) -> usize {
        self.shared.faults.calls(call)
    }

    /// Makes the next call of this kind fail.
    pub fn fail_next(&self, call: SourceCall, error: Error) {
        self.shared.faults.fail_next(call, Moment::Before, error);
    }

    /// Blocks every call of this kind at its beginning, until the gate is released.
    pub fn hold(&self, call: SourceCall) -> Gate {
        self.shared.faults.hold(call, Moment::Before)
    }

    /// Blocks every call of this kind once its result is computed, until the gate is released. A tail or read that is about to yield can
    /// only be held with `hold`.
    pub fn hold_answer(&self, call: SourceCall) -> Gate {
        self.shared.faults.hold(call, Moment::Answer)
    }

    /// Ends every open tail with a retryable error.
    pub fn disconnect_tail(&self) {
        self.change(|state| state.disconnects += 1);
    }

    /// Advances the clock that positions are taken from. This clock runs with the clock of the machine: it does not stop in a test with a
    /// paused clock, and does not advance with the test's clock.
    pub fn skip_time(&self, seconds: u32) {
        self.change(|state| state.skipped += seconds);
    }

    /// Returns the current documents: in natural order for capped collections, otherwise in `_id` order. Empty if the collection does not
    /// exist.
    ///
    /// # Errors
    /// The name is malformed.
    pub fn documents(&self, namespace: &str) -> Result<Vec<RawDocumentBuf>> {
        let position = lock(&self.shared.state).newest();
        self.documents_at(namespace, position)
    }

    /// Returns the documents at a position, regardless of the snapshot window.
    ///
    /// # Errors
    /// The name is malformed.
    pub fn documents_at(&self, namespace: &str, at: Position) -> Result<Vec<RawDocumentBuf>> {
        let namespace: Namespace = namespace.parse()?;
        Ok(lock(&self.shared.state).documents_at(&namespace, at))
    }

    /// Returns every entry that the history still holds.
    pub fn history(&self) -> Vec<Entry> {
        lock(&self.shared.state).history()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut lock(&self.shared.state));
        self.shared.changes.send_modify(|count| *count += 1);
        answer
    }

    async fn before(&self, call: SourceCall) -> Result<()> {
        self.shared.faults.pass(call, Moment::Before).await
    }

    async fn answer<T>(&self, call: SourceCall, answer: T) -> Result<T> {
        self.shared.faults.pass(call, Moment::Answer).await?;
        Ok(answer)
    }
}

impl Default for MemorySource {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySource").field("seed", &self.shared.seed).finish()
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn describe(&self) -> Result<Deployment> {
        self.before(SourceCall::Describe).await?;
        let version @ [major, minor, _] = lock(&self.shared.state).version;
        let deployment = Deployment {
            identity: format!("memory-source-{}", self.shared.seed),
            name: "memory".to_owned(),
            version,
            feature_compatibility: [major, minor],
        };
        self.answer(SourceCall::Describe, deployment).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.before(SourceCall::Collections).await?;
        let collections = lock(&self.shared.state).listed();
        self.answer(SourceCall::Collections, collections).await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.before(SourceCall::CollectionsNamed).await?;
        let mut collections = lock(&self.shared.state).listed();
        collections.retain(|collection| names.contains(&collection.namespace));
        self.answer(SourceCall::CollectionsNamed, collections).await
    }

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| selection.reaches(collection.namespace.database()));
        for collection in &mut collections {
            if !selection.contains(&collection.namespace) {
                collection.indexes.clear();
            }
        }
        Ok(collections)
    }

    async fn databases(&self) -> Result<BTreeSet<String>> {
        self.before(SourceCall::Databases).await?;
        let listed = lock(&self.shared.state).listed();
        let databases = listed
            .iter()
            .map(|collection| collection.namespace.database().to_owned());
        self.answer(SourceCall::Databases, databases.collect()).await
    }

    async fn position(&self) -> Result<Position> {
        self.before(SourceCall::Position).await?;
        let position = lock(&self.shared.state).newest();
        self.answer(SourceCall::Position, position).await
    }

    async fn sentinel(&self) -> Result<Position> {
        self.before(SourceCall::Sentinel).await?;
        let position = lock(&self.shared.state).newest();
        self.answer(SourceCall::Sentinel, position).await
    }

    async fn start_position(&self) -> Result<Position> {
        self.before(SourceCall::StartPosition).await?;
        let position = lock(&self.shared.state).start();
        self.answer(SourceCall::StartPosition, position).await
    }

    async fn oldest_position(&self) -> Result<Position> {
        self.before(SourceCall::OldestPosition).await?;
        let position = lock(&self.shared.state).oldest();
        self.answer(SourceCall::OldestPosition, position).await
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        self.before(SourceCall::Tail).await?;
        let stream = tail::tail(self.clone(), after)?;
        self.answer(SourceCall::Tail, stream).await
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        self.before(SourceCall::Split).await?;
        let keys = lock(&self.shared.state).split(collection, bytes);
        self.answer(SourceCall::Split, keys).await
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        self.before(SourceCall::Read).await?;
        let stream = read::read(self.clone(), request).await?;
        self.answer(SourceCall::Read, stream).await
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        self.before(SourceCall::ReadDocuments).await?;
        let documents = read::read_documents(self, request).await?;
        self.answer(SourceCall::ReadDocuments, documents).await
    }

    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        self.before(SourceCall::SetWriteBlock).await?;
        if lock(&self.shared.state).version < [6, 0, 0] {
            return Err(Error::new(ErrorKind::Refused, "block writes", "it is older than 6.0"));
        }
        self.change(|state| {
            state.writes_blocked = blocked;
            // A server records the block in a collection of its own, which adds an entry to the history.
            let position = state.next_position();
            state.record(position, Vec::new());
        });
        self.answer(SourceCall::SetWriteBlock, ()).await
    }

    async fn writes_blocked(&self) -> Result<bool> {
        self.before(SourceCall::WritesBlocked).await?;
        let blocked = lock(&self.shared.state).writes_blocked;
        self.answer(SourceCall::WritesBlocked, blocked).await
    }

    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        self.before(SourceCall::OpenTransactions).await?;
        let open = lock(&self.shared.state).open_for();
        let facts = |open| TransactionFacts {
            client: "memory".to_owned(),
            open,
            ..TransactionFacts::default()
        };
        let transactions = open.into_iter().map(facts).collect();
        self.answer(SourceCall::OpenTransactions, transactions).await
    }

    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        self.before(SourceCall::WriteLoad).await?;
        let load = lock(&self.shared.state).write_load;
        self.answer(SourceCall::WriteLoad, load).await
    }

    async fn accounts(&self) -> Result<Accounts> {
        self.before(SourceCall::Accounts).await?;
        let accounts = lock(&self.shared.state).accounts.clone();
        self.answer(SourceCall::Accounts, accounts).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.before(SourceCall::Digest).await?;
        let documents = {
            let state = lock(&self.shared.state);
            state
                .live(namespace)
                .map(|_| state.documents_at(namespace, state.newest()))
        };
        let answer = documents.map(|documents| digest(documents.iter().map(AsRef::as_ref)));
        self.answer(SourceCall::Digest, answer).await
    }
}
