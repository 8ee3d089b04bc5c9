//! Source that reports when it keeps a run waiting.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;

use super::Waiting;
use crate::error::Result;
use crate::model::{
    Accounts, Batch, Collection, Deployment, Inspection, Namespace, Position, Selection, TransactionFacts,
};
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{PointRequest, ReadRequest, Source, WriteLoad};

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Source for Waiting<dyn Source> {
    async fn describe(&self) -> Result<Deployment> {
        self.call("describe the source", self.inner.describe()).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        self.call("ask for the members", self.inner.members()).await
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

    async fn databases(&self) -> Result<BTreeSet<String>> {
        self.unbounded("list the databases", self.inner.databases()).await
    }

    async fn position(&self) -> Result<Position> {
        self.call("ask for the newest position", self.inner.position()).await
    }

    async fn sentinel(&self) -> Result<Position> {
        self.call("confirm the position of the last write", self.inner.sentinel())
            .await
    }

    async fn read_position(&self) -> Result<Position> {
        self.call("ask for the position of what was read", self.inner.read_position())
            .await
    }

    async fn start_position(&self) -> Result<Position> {
        self.call("ask for the position to start from", self.inner.start_position())
            .await
    }

    async fn oldest_position(&self) -> Result<Position> {
        self.call("ask for the oldest position", self.inner.oldest_position())
            .await
    }

    async fn restore_identities(&self, known: &BTreeMap<Namespace, Uuid>) -> Result<()> {
        self.call(
            "restore the identities of collections",
            self.inner.restore_identities(known),
        )
        .await
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        self.call("open the oplog", self.inner.tail(after)).await
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        self.unbounded("divide a collection into ranges", self.inner.split(collection, bytes))
            .await
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        self.read(self.inner.read(request)).await
    }

    async fn read_matching(
        &self,
        request: ReadRequest,
        query: &RawDocument,
    ) -> Result<BoxStream<'static, Result<Batch>>> {
        self.read(self.inner.read_matching(request, query)).await
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        self.call("read documents", self.inner.read_documents(request)).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.call("inspect the source", self.inner.inspect()).await
    }

    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        self.unbounded(
            "look for duplicate keys",
            self.inner.duplicates(collection, index, limit),
        )
        .await
    }

    async fn unindexed(&self, collection: &Collection) -> Result<Option<u64>> {
        self.unbounded("count the documents of an index", self.inner.unindexed(collection))
            .await
    }

    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        let operation = if blocked {
            "block writes"
        } else {
            "lift the block of writes"
        };
        self.call(operation, self.inner.set_write_block(blocked)).await
    }

    async fn writes_blocked(&self) -> Result<bool> {
        self.call("ask whether writes are blocked", self.inner.writes_blocked())
            .await
    }

    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        self.call("ask for open transactions", self.inner.open_transactions())
            .await
    }

    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        self.call("ask how long writes take", self.inner.write_load()).await
    }

    async fn accounts(&self) -> Result<Accounts> {
        self.call("read users and roles", self.inner.accounts()).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.unbounded("compute the digest of a collection", self.inner.digest(namespace))
            .await
    }
}
