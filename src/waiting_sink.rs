//! A sink that tells when it keeps a run waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;

use crate::document::{Batch, Collection, CollectionKind, Position, Write};
use crate::error::Result;
use crate::event::{Events, Side};
use crate::inspection::Inspection;
use crate::namespace::Namespace;
use crate::order::Key;
use crate::sink::{CatalogCommand, Refusal, Sink, SinkRead, WritesSeen};
use crate::source::Deployment;
use crate::waiting::Waits;

/// Forwards each call, so that none can be forgotten. The watch of other programs' writes tells nothing of these: there may be none.
pub(crate) struct WaitingSink {
    sink: Arc<dyn Sink>,
    waits: Waits,
}

impl WaitingSink {
    pub fn new(sink: Arc<dyn Sink>, events: Events) -> Self {
        Self {
            sink,
            waits: Waits::new(events, Side::Target),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Sink for WaitingSink {
    async fn describe(&self) -> Result<Deployment> {
        self.waits.call("describe the target", self.sink.describe()).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        self.waits.call("ask for the members", self.sink.members()).await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        self.waits.call("open the oplog", self.sink.foreign_writes(after)).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.waits
            .unbounded("list the collections", self.sink.collections())
            .await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.waits
            .unbounded("look for collections", self.sink.collections_named(names))
            .await
    }

    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        self.waits
            .call("list the names of a database", self.sink.names_in(database))
            .await
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.waits
            .call("ask which collections these are", self.sink.identities(names))
            .await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.waits
            .unbounded("change the catalogue", self.sink.execute(command))
            .await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.waits
            .unbounded("build an index", self.sink.create_index(namespace, specification))
            .await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        self.waits
            .call("insert documents", self.sink.insert(namespace, batch))
            .await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        self.waits
            .call("apply changes", self.sink.apply(namespace, kind, writes))
            .await
    }

    async fn flush(&self) -> Result<()> {
        self.waits.call("flush the target", self.sink.flush()).await
    }

    async fn quiesce(&self) -> Result<()> {
        self.waits.call("wait for earlier writes", self.sink.quiesce()).await
    }

    async fn sentinel(&self) -> Result<Option<Position>> {
        self.waits
            .call("ask for the newest position", self.sink.sentinel())
            .await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.waits.read(self.sink.read(request)).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.waits
            .call("read documents", self.sink.read_documents(namespace, keys))
            .await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.waits.call("inspect the target", self.sink.inspect()).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.waits
            .unbounded("compute the digest of a collection", self.sink.digest(namespace))
            .await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.waits.call("load a record", self.sink.load_record(name)).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.waits
            .call("save a record", self.sink.save_record(name, record, expected))
            .await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.waits.call("delete a record", self.sink.delete_record(name)).await
    }
}
