//! A sink in memory, for tests.

mod calls;
mod foreign_writes;
mod journal;
mod read;
mod state;
#[cfg(test)]
mod tests;
mod unique;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;

use self::calls::Cuts;
use self::foreign_writes::ForeignHistory;
use self::state::State;
use super::{CatalogCommand, Refusal, RefusalReason, Sink, SinkRead, WritesSeen};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    Account, AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Deployment, Namespace,
    Operation, Position, Selection, Write,
};
use crate::order::Key;
use crate::test_util::{Faults, Gate, Moment, digest, lock};

pub use self::calls::SinkCall;
pub use self::journal::JournalEntry;

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
    cuts: Mutex<Cuts>,
    foreign: ForeignHistory,
}

impl MemorySink {
    /// Creates an empty replica set.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new()),
                faults: Faults::new(),
                cuts: Mutex::default(),
                foreign: ForeignHistory::default(),
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
        lock(&self.shared.cuts).plan(call, documents, error);
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
        self.shared.foreign.add(namespace);
        Ok(())
    }

    /// Forgets the sink's history up to now, so that no watch can start from an earlier position.
    pub fn forget_history(&self) {
        self.shared.foreign.forget();
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
        lock(&self.shared.cuts).take(call, documents)
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
        self.shared.foreign.watch(after).map(Some)
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
        let batches = read::batches(self.clone(), request);
        self.answer(SinkCall::Read, batches).await
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
