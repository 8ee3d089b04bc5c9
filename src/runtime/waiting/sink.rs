//! Sink that reports when it keeps a run waiting.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;

use super::Waiting;
use crate::error::Result;
use crate::model::{
    AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Deployment, Inspection, Namespace,
    Position, Selection, Write,
};
use crate::order::Key;
use crate::sink::{CatalogCommand, Refusal, Sink, SinkRead, WritesSeen};

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Sink for Waiting<dyn Sink> {
    async fn describe(&self) -> Result<Deployment> {
        self.call("describe the target", self.inner.describe()).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        self.call("ask for the members", self.inner.members()).await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        self.call("open the oplog", self.inner.foreign_writes(after)).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.unbounded("list the collections", self.inner.collections()).await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.unbounded("look for collections", self.inner.collections_named(names))
            .await
    }

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        self.unbounded("list the collections", self.inner.collections_selected(selection))
            .await
    }

    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        self.call("list the names of a database", self.inner.names_in(database))
            .await
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.call("ask which collections these are", self.inner.identities(names))
            .await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.unbounded("change the catalog", self.inner.execute(command)).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.unbounded("build an index", self.inner.create_index(namespace, specification))
            .await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        self.call("insert documents", self.inner.insert(namespace, batch)).await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        self.call("apply changes", self.inner.apply(namespace, kind, writes))
            .await
    }

    fn losses(&self) -> u64 {
        self.inner.losses()
    }

    async fn flush(&self) -> Result<()> {
        self.call("flush the target", self.inner.flush()).await
    }

    async fn quiesce(&self, selection: &Selection) -> Result<()> {
        self.call("wait for earlier writes", self.inner.quiesce(selection))
            .await
    }

    async fn sentinel(&self) -> Result<Option<Position>> {
        self.call("ask for the newest position", self.inner.sentinel()).await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.read(self.inner.read(request)).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.call("read documents", self.inner.read_documents(namespace, keys))
            .await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.call("inspect the target", self.inner.inspect()).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.unbounded("compute the digest of a collection", self.inner.digest(namespace))
            .await
    }

    async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
        self.call("read users and roles", self.inner.accounts(names)).await
    }

    async fn unknown_actions(&self, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
        self.call("ask which actions roles can have", self.inner.unknown_actions(actions))
            .await
    }

    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        self.unbounded("change users and roles", self.inner.change_accounts(changes))
            .await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.call("load a record", self.inner.load_record(name)).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.call("save a record", self.inner.save_record(name, record, expected))
            .await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.call("delete a record", self.inner.delete_record(name)).await
    }
}
