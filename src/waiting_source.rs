//! A source that tells when it keeps a run waiting.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;

use crate::document::{Batch, Collection, Position};
use crate::error::Result;
use crate::event::{Events, Side};
use crate::inspection::{Inspection, TransactionFacts};
use crate::namespace::Namespace;
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{Deployment, PointRequest, ReadRequest, Source, WriteLoad};
use crate::waiting::Waits;

/// Forwards each call, so that none can be forgotten. A tail tells nothing of its entries: an idle source has none.
pub(crate) struct WaitingSource {
    source: Arc<dyn Source>,
    waits: Waits,
}

impl WaitingSource {
    pub fn new(source: Arc<dyn Source>, events: Events) -> Self {
        Self {
            source,
            waits: Waits::new(events, Side::Source),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Source for WaitingSource {
    async fn describe(&self) -> Result<Deployment> {
        self.waits.call("describe the source", self.source.describe()).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        self.waits.call("ask for the members", self.source.members()).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.waits
            .unbounded("list the collections", self.source.collections())
            .await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.waits
            .unbounded("look for collections", self.source.collections_named(names))
            .await
    }

    async fn position(&self) -> Result<Position> {
        self.waits
            .call("ask for the newest position", self.source.position())
            .await
    }

    async fn sentinel(&self) -> Result<Position> {
        self.waits
            .call("confirm the position of the last write", self.source.sentinel())
            .await
    }

    async fn read_position(&self) -> Result<Position> {
        self.waits
            .call("ask for the position of what was read", self.source.read_position())
            .await
    }

    async fn start_position(&self) -> Result<Position> {
        self.waits
            .call("ask for the position to start from", self.source.start_position())
            .await
    }

    async fn oldest_position(&self) -> Result<Position> {
        self.waits
            .call("ask for the oldest position", self.source.oldest_position())
            .await
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        self.waits.call("open the oplog", self.source.tail(after)).await
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        self.waits
            .unbounded("divide a collection into ranges", self.source.split(collection, bytes))
            .await
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        self.waits.read(self.source.read(request)).await
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        self.waits
            .call("read documents", self.source.read_documents(request))
            .await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.waits.call("inspect the source", self.source.inspect()).await
    }

    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        self.waits
            .unbounded(
                "look for duplicate keys",
                self.source.duplicates(collection, index, limit),
            )
            .await
    }

    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        self.waits
            .call("block writes or lift the block", self.source.set_write_block(blocked))
            .await
    }

    async fn writes_blocked(&self) -> Result<bool> {
        self.waits
            .call("ask whether writes are blocked", self.source.writes_blocked())
            .await
    }

    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        self.waits
            .call("ask for open transactions", self.source.open_transactions())
            .await
    }

    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        self.waits
            .call("ask how long writes take", self.source.write_load())
            .await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.waits
            .unbounded("compute the digest of a collection", self.source.digest(namespace))
            .await
    }
}
