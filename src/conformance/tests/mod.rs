mod broken_rules;
mod broken_sink;
mod broken_source;
mod wrapped;

use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};

use super::*;
use crate::checkpoint::{FileStore, MemoryStore, SinkStore};
use crate::error::Result;
use crate::model::Namespace;
use crate::sink::MemorySink;
use crate::source::{MemorySource, NameResolution, Source, Transaction};

#[async_trait]
impl SourceFixture for MemorySource {
    fn source(&self) -> &dyn Source {
        self
    }

    async fn create_collection(&self, namespace: &Namespace, options: RawDocumentBuf) -> Result<()> {
        self.create_collection(namespace.as_str(), options).map(drop)
    }

    async fn create_index(&self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<()> {
        self.create_index(namespace.as_str(), specification).map(drop)
    }

    async fn rename_collection(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        self.rename(from.as_str(), to.as_str()).map(drop)
    }

    async fn drop_collection(&self, namespace: &Namespace) -> Result<()> {
        self.drop_collection(namespace.as_str()).map(drop)
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        for write in writes {
            self.transaction(|transaction| add(transaction, namespace, write))?;
        }
        Ok(())
    }

    async fn transaction(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        let transaction = self.open_transaction();
        self.noop();
        transaction.commit(|transaction| {
            writes
                .into_iter()
                .try_for_each(|write| add(transaction, namespace, write))
        })?;
        Ok(())
    }
}

fn add(transaction: &mut Transaction, namespace: &Namespace, write: FixtureWrite) -> Result<()> {
    let namespace = namespace.as_str();
    match write {
        FixtureWrite::Insert(document) => transaction.insert(namespace, document),
        FixtureWrite::Replace(document) => transaction.replace(namespace, document),
        FixtureWrite::Set { id, field, value } => {
            let mut set = RawDocumentBuf::new();
            set.append(bson::raw::CString::try_from(field).unwrap(), value);
            transaction.update(namespace, id, bson::rawdoc! { "$v": 1, "$set": set })
        }
        FixtureWrite::Delete { id } => transaction.delete(namespace, id),
    }
}

#[tokio::test]
async fn the_memory_source_conforms() {
    for batch in [1, 7, usize::MAX] {
        let source = MemorySource::with_seed(batch as u64);
        source.set_batch_documents(batch);
        source.set_batch_entries(batch);
        check_source(&source).await.unwrap();
    }
    let source = MemorySource::new();
    source.set_name_resolution(NameResolution::Newest);
    check_source(&source).await.unwrap();
}

#[tokio::test]
async fn the_memory_sink_conforms() {
    for batch in [1, 7, usize::MAX] {
        let sink = MemorySink::new();
        sink.set_batch_documents(batch);
        check_sink(&sink).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_stores_conform() {
    check_checkpoint_store(&MemoryStore::default()).await.unwrap();
    check_checkpoint_store(&SinkStore::new(Arc::new(MemorySink::new())))
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    check_checkpoint_store(&FileStore::new(folder.path().join("checkpoint")))
        .await
        .unwrap();
}

/// Sorts the fields of a document by name, as an implementation that decodes documents into maps would store it. Documents with a field
/// `filling`, which most checks use, stay unchanged, so only the check meant for this bug notices it.
fn sort_fields(document: &RawDocument) -> RawDocumentBuf {
    if matches!(document.get("filling"), Ok(Some(_))) {
        return document.to_owned();
    }
    let mut fields: Vec<_> = document.iter().map_while(|field| field.ok()).collect();
    fields.sort_by_key(|(name, _)| (name.as_str() != "_id", name.as_str()));
    let mut sorted = RawDocumentBuf::new();
    for (name, value) in fields {
        sorted.append(name, value);
    }
    sorted
}
