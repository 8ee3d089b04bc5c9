//! A sink in memory, for tests.

mod state;
#[cfg(test)]
mod tests;
mod unique;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tokio::time::sleep;

use self::state::State;
use super::{CatalogCommand, Refusal, RefusalReason, Sink, SinkRead, WritesSeen};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    Account, AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Deployment, Namespace,
    Operation, Position, Selection, Write,
};
use crate::order::Key;
use crate::test_util::{Faults, Gate, Moment, digest, lock};

/// A replica set in memory, for tests. It tracks what is durable and keeps a journal of what was written.
///
/// Clones share the same data: a test keeps one clone to inspect and passes another one to the migration. Unique indexes are enforced,
/// except those with a partial filter. Capped collections keep their order but evict nothing. As on a server, a write creates a missing
/// collection; the journal records this.
#[derive(Clone)]
pub struct MemorySink {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    faults: Faults<SinkCall>,
    /// Planned cuts: after how many documents the next call of a kind fails, and with which error.
    cuts: Mutex<Vec<(SinkCall, usize, Error)>>,
    /// The collections that other programs wrote to, one per write, and the number of writes at the front that the history has forgotten.
    foreign: watch::Sender<(Vec<Namespace>, usize)>,
}

/// Interval at which a watch for foreign writes yields an empty item if there are no writes.
const WATCHED: Duration = Duration::from_secs(1);

/// Points of a [`MemorySink`] where a test can inject faults and gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SinkCall {
    /// [`Sink::describe`]
    Describe,
    /// [`Sink::collections`]
    Collections,
    /// [`Sink::identities`]
    Identities,
    /// [`Sink::execute`]
    Execute,
    /// [`Sink::create_index`]
    CreateIndex,
    /// [`Sink::insert`]
    Insert,
    /// [`Sink::apply`]
    Apply,
    /// [`Sink::flush`]
    Flush,
    /// [`Sink::read`]
    Read,
    /// A read that is about to yield a batch.
    ReadBatch,
    /// [`Sink::read_documents`]
    ReadDocuments,
    /// [`Sink::digest`]
    Digest,
    /// [`Sink::load_record`]
    LoadRecord,
    /// [`Sink::save_record`]
    SaveRecord,
    /// [`Sink::delete_record`]
    DeleteRecord,
    /// [`Sink::accounts`]
    Accounts,
    /// [`Sink::change_accounts`]
    ChangeAccounts,
}

/// An action of a [`MemorySink`]. The journal lists them in the order in which they happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JournalEntry {
    /// A call of [`Sink::insert`] wrote these documents.
    Inserted {
        /// The collection.
        namespace: Namespace,
        /// Their `_id`s, in order.
        keys: Vec<Key>,
    },
    /// A call of [`Sink::apply`] made this write.
    Applied {
        /// The collection.
        namespace: Namespace,
        /// The write.
        write: Write,
    },
    /// A write or document was refused.
    Refused {
        /// The collection.
        namespace: Namespace,
        /// The document's `_id`.
        key: Key,
        /// The reason.
        reason: RefusalReason,
    },
    /// A command was executed.
    Executed(CatalogCommand),
    /// A write found no collection and created one with default options.
    ImplicitlyCreated {
        /// The collection.
        namespace: Namespace,
    },
    /// An index that did not exist before was built.
    IndexBuilt {
        /// The collection.
        namespace: Namespace,
        /// The index's name.
        name: String,
    },
    /// Everything before this entry became durable.
    Flushed,
    /// Everything since the last flush was lost.
    Crashed,
    /// A record was stored.
    RecordSaved {
        /// Its name.
        name: String,
        /// Its fence.
        fence: i64,
    },
    /// A record was deleted.
    RecordDeleted {
        /// Its name.
        name: String,
    },
}

impl MemorySink {
    /// Creates an empty replica set.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new()),
                faults: Faults::new(),
                cuts: Mutex::new(Vec::new()),
                foreign: watch::Sender::default(),
            }),
        }
    }

    /// Sets the maximum number of documents in a batch. Default: as many as fit into the requested bytes.
    pub fn set_batch_documents(&self, documents: usize) {
        lock(&self.shared.state).batch_documents = documents;
    }

    /// Loses everything that was acknowledged since the last flush except records, as if a primary had died before it replicated. The next
    /// flush returns [`PrimaryChanged`](ErrorKind::PrimaryChanged).
    pub fn crash(&self) {
        lock(&self.shared.state).crash();
    }

    /// Number of calls of this kind that have begun.
    pub fn calls(&self, call: SinkCall) -> usize {
        self.shared.faults.calls(call)
    }

    /// Makes the next call of this kind fail before it does anything.
    pub fn fail_next(&self, call: SinkCall, error: Error) {
        self.shared.faults.fail_next(call, Moment::Before, error);
    }

    /// Makes the next call of this kind do its work and then fail with a retryable error, as if the connection broke before the response
    /// arrived.
    pub fn lose_next_answer(&self, call: SinkCall) {
        let error = Error::new(ErrorKind::Connection, "wait for the answer", "the connection broke");
        self.shared.faults.fail_next(call, Moment::Answer, error);
    }

    /// Makes the next [`SinkCall::Insert`] or [`SinkCall::Apply`] of more than `documents` documents fail once it has written that many.
    pub fn cut_next(&self, call: SinkCall, documents: usize, error: Error) {
        lock(&self.shared.cuts).push((call, documents, error));
    }

    /// Blocks every call of this kind at its beginning, until the gate is released.
    pub fn hold(&self, call: SinkCall) -> Gate {
        self.shared.faults.hold(call, Moment::Before)
    }

    /// Blocks every call of this kind once its work is done, until the gate is released. A read that is about to yield can only be held
    /// with `hold`.
    pub fn hold_answer(&self, call: SinkCall) -> Gate {
        self.shared.faults.hold(call, Moment::Answer)
    }

    /// Reports a write to this collection as one of another program, to everyone who watches for [foreign writes](Sink::foreign_writes).
    ///
    /// # Errors
    /// The name is malformed.
    pub fn tell_foreign_write(&self, namespace: &str) -> Result<()> {
        let namespace = namespace.parse()?;
        self.shared.foreign.send_modify(|(written, _)| written.push(namespace));
        Ok(())
    }

    /// Forgets the sink's history up to now, so that no watch can start from an earlier position.
    pub fn forget_history(&self) {
        self.shared.foreign.send_modify(|(written, forgotten)| {
            written.push(Namespace::new("admin", "$cmd"));
            *forgotten = written.len();
        });
    }

    /// Returns everything done so far, in order.
    pub fn journal(&self) -> Vec<JournalEntry> {
        lock(&self.shared.state).journal.clone()
    }

    /// Returns the documents: in natural order for capped collections, otherwise in `_id` order. Empty if the collection does not exist.
    ///
    /// # Errors
    /// The name is malformed.
    pub fn documents(&self, namespace: &str) -> Result<Vec<RawDocumentBuf>> {
        let namespace: Namespace = namespace.parse()?;
        Ok(lock(&self.shared.state).documents(&namespace))
    }

    /// Creates a user or role, or replaces the one of the same name, as another program would.
    pub fn put_account(&self, account: Account) {
        lock(&self.shared.state).put_account(account);
    }

    /// Returns all users and roles.
    pub fn all_accounts(&self) -> Vec<Account> {
        lock(&self.shared.state).accounts.accounts.clone()
    }

    /// Sets the user that the sink is connected as.
    pub fn connect_as(&self, name: AccountName) {
        lock(&self.shared.state).accounts.own.insert(name);
    }

    async fn before(&self, call: SinkCall) -> Result<()> {
        self.shared.faults.pass(call, Moment::Before).await
    }

    async fn answer<T>(&self, call: SinkCall, answer: T) -> Result<T> {
        self.shared.faults.pass(call, Moment::Answer).await?;
        Ok(answer)
    }

    /// Takes the planned cut for a call with `documents` documents, if there is one.
    fn cut(&self, call: SinkCall, documents: usize) -> Option<(usize, Error)> {
        let mut cuts = lock(&self.shared.cuts);
        let index = cuts
            .iter()
            .position(|(at, after, _)| *at == call && *after < documents)?;
        let (_, after, error) = cuts.remove(index);
        Some((after, error))
    }
}

impl Default for MemorySink {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemorySink")
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn describe(&self) -> Result<Deployment> {
        self.before(SinkCall::Describe).await?;
        let deployment = Deployment {
            identity: "memory-sink".to_owned(),
            name: "memory".to_owned(),
            version: [6, 0, 0],
            feature_compatibility: [6, 0],
        };
        self.answer(SinkCall::Describe, deployment).await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        let mut history = self.shared.foreign.subscribe();
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
        Ok(Some(seen.boxed()))
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.before(SinkCall::Collections).await?;
        let collections = lock(&self.shared.state).listed();
        self.answer(SinkCall::Collections, collections).await
    }

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| selection.target_reaches(collection.namespace.database()));
        for collection in &mut collections {
            if !selection.produces(&collection.namespace) {
                collection.indexes.clear();
            }
        }
        Ok(collections)
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.before(SinkCall::Identities).await?;
        let identities = lock(&self.shared.state).identities(names);
        self.answer(SinkCall::Identities, identities).await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.before(SinkCall::Execute).await?;
        lock(&self.shared.state).execute(command);
        self.answer(SinkCall::Execute, ()).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.before(SinkCall::CreateIndex).await?;
        lock(&self.shared.state).create_index(namespace, specification)?;
        self.answer(SinkCall::CreateIndex, ()).await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        self.before(SinkCall::Insert).await?;
        let cut = self.cut(SinkCall::Insert, batch.len());
        let refusals = {
            let mut state = lock(&self.shared.state);
            let mut refusals = Vec::new();
            let mut keys = Vec::new();
            let count = cut.as_ref().map_or(batch.len(), |(after, _)| *after);
            for (index, document) in batch.iter().enumerate().take(count) {
                let Some(key) = Key::of_document(document) else {
                    let message = "the document has no `_id`".to_owned();
                    let reason = RefusalReason::Other { code: 0, message };
                    refusals.push(Refusal { index, reason });
                    continue;
                };
                let operation = Operation::Insert(document.to_owned());
                let write = Write { key, operation };
                match state.write(namespace, &write) {
                    Ok(()) => keys.push(write.key),
                    Err(reason) => refusals.push(state.refuse(namespace, write.key, index, reason)),
                }
            }
            state.journal.push(JournalEntry::Inserted {
                namespace: namespace.clone(),
                keys,
            });
            refusals
        };
        match cut {
            Some((_, error)) => Err(error),
            None => self.answer(SinkCall::Insert, refusals).await,
        }
    }

    async fn apply(&self, namespace: &Namespace, _kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        self.before(SinkCall::Apply).await?;
        let cut = self.cut(SinkCall::Apply, writes.len());
        let refusals = {
            let mut state = lock(&self.shared.state);
            let mut refusals = Vec::new();
            let count = cut.as_ref().map_or(writes.len(), |(after, _)| *after);
            for (index, write) in writes.iter().enumerate().take(count) {
                match state.write(namespace, write) {
                    Ok(()) => state.journal.push(JournalEntry::Applied {
                        namespace: namespace.clone(),
                        write: write.clone(),
                    }),
                    Err(reason) => refusals.push(state.refuse(namespace, write.key.clone(), index, reason)),
                }
            }
            refusals
        };
        match cut {
            Some((_, error)) => Err(error),
            None => self.answer(SinkCall::Apply, refusals).await,
        }
    }

    fn losses(&self) -> u64 {
        lock(&self.shared.state).losses
    }

    async fn flush(&self) -> Result<()> {
        self.before(SinkCall::Flush).await?;
        {
            let mut state = lock(&self.shared.state);
            if std::mem::take(&mut state.primary_changed) {
                state.losses += 1;
                return Err(Error::new(
                    ErrorKind::PrimaryChanged,
                    "flush",
                    "the primary has changed since the last flush",
                ));
            }
            state.flush();
        }
        self.answer(SinkCall::Flush, ()).await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.before(SinkCall::Read).await?;
        let progress = if request.kind.has_ranges() {
            Progress::After(None)
        } else {
            Progress::Rest(lock(&self.shared.state).natural(&request.namespace).into())
        };
        let reader = Reader {
            sink: self.clone(),
            request,
            progress,
        };
        let stream = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(batch) if batch.is_empty() => None,
                Ok(batch) => Some((Ok(batch), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        });
        self.answer(SinkCall::Read, stream.boxed()).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.before(SinkCall::ReadDocuments).await?;
        let documents = {
            let state = lock(&self.shared.state);
            // The contract leaves the order open. The reversed order exposes callers that rely on one.
            keys.iter()
                .rev()
                .filter_map(|key| state.document(namespace, key))
                .collect()
        };
        self.answer(SinkCall::ReadDocuments, documents).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.before(SinkCall::Digest).await?;
        let answer = {
            let state = lock(&self.shared.state);
            match state.collections.get(namespace) {
                Some(table) if table.kind() != CollectionKind::View => {
                    Some(digest(state.documents(namespace).iter().map(AsRef::as_ref)))
                }
                _ => None,
            }
        };
        self.answer(SinkCall::Digest, answer).await
    }

    async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
        self.before(SinkCall::Accounts).await?;
        let mut accounts = lock(&self.shared.state).accounts.clone();
        accounts.accounts.retain(|account| names.contains(account.name()));
        self.answer(SinkCall::Accounts, accounts).await
    }

    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        self.before(SinkCall::ChangeAccounts).await?;
        {
            let mut state = lock(&self.shared.state);
            for account in &changes.put {
                state.put_account(account.clone());
            }
            state
                .accounts
                .accounts
                .retain(|account| !changes.drop.contains(account.name()));
        }
        self.answer(SinkCall::ChangeAccounts, ()).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.before(SinkCall::LoadRecord).await?;
        let record = lock(&self.shared.state).records.get(name).cloned();
        self.answer(SinkCall::LoadRecord, record).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.before(SinkCall::SaveRecord).await?;
        let stored = lock(&self.shared.state).save_record(name, record, expected);
        self.answer(SinkCall::SaveRecord, stored).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.before(SinkCall::DeleteRecord).await?;
        lock(&self.shared.state).delete_record(name);
        self.answer(SinkCall::DeleteRecord, ()).await
    }
}

struct Reader {
    sink: MemorySink,
    request: SinkRead,
    progress: Progress,
}

enum Progress {
    /// In `_id` order: the last key read.
    After(Option<Key>),
    /// In natural order: the documents left to yield.
    Rest(VecDeque<RawDocumentBuf>),
}

impl Reader {
    /// The next batch; empty at the end.
    async fn next(&mut self) -> Result<Batch> {
        self.sink.before(SinkCall::ReadBatch).await?;
        let request = &self.request;
        let state = lock(&self.sink.shared.state);
        match &mut self.progress {
            Progress::After(after) => {
                let (batch, last) =
                    state.read_range(&request.namespace, &request.range, after.as_ref(), request.batch_bytes);
                if last.is_some() {
                    *after = last;
                }
                Ok(batch)
            }
            Progress::Rest(rest) => {
                let mut batch = Batch::new();
                while batch.len() < state.batch_documents.max(1)
                    && (batch.is_empty() || batch.size_in_bytes() < request.batch_bytes)
                    && let Some(document) = rest.pop_front()
                {
                    batch.push(&document);
                }
                Ok(batch)
            }
        }
    }
}
