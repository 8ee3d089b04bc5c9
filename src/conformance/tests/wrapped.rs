//! The suite through layers, `Arc` and `Box`: each forwards every method.

use std::collections::BTreeMap;

use bson::Uuid;

use super::*;
use crate::checkpoint::CheckpointStoreLayer;
use crate::model::{Collection, Inspection, Layered, TransactionFacts};
use crate::sink::{Sink, SinkLayer};
use crate::source::{SourceLayer, WriteLoad};

/// A layer that changes nothing.
struct Plain<T>(T);

impl<T: Source> SourceLayer for Plain<T> {
    fn inner(&self) -> &dyn Source {
        &self.0
    }
}

impl<T: Sink> SinkLayer for Plain<T> {
    fn inner(&self) -> &dyn Sink {
        &self.0
    }
}

impl<T: CheckpointStore> CheckpointStoreLayer for Plain<T> {
    fn inner(&self) -> &dyn CheckpointStore {
        &self.0
    }
}

/// The memory source, read through a wrapper of it.
struct Wrapped {
    memory: MemorySource,
    source: Box<dyn Source>,
}

#[async_trait]
impl SourceFixture for Wrapped {
    fn source(&self) -> &dyn Source {
        // Not what is in the box.
        &self.source
    }

    async fn create_collection(&self, namespace: &Namespace, options: RawDocumentBuf) -> Result<()> {
        SourceFixture::create_collection(&self.memory, namespace, options).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<()> {
        SourceFixture::create_index(&self.memory, namespace, specification).await
    }

    async fn rename_collection(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        self.memory.rename_collection(from, to).await
    }

    async fn drop_collection(&self, namespace: &Namespace) -> Result<()> {
        SourceFixture::drop_collection(&self.memory, namespace).await
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        self.memory.write(namespace, writes).await
    }

    async fn transaction(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        SourceFixture::transaction(&self.memory, namespace, writes).await
    }
}

#[tokio::test]
async fn a_wrapped_source_conforms() {
    let shared: fn(MemorySource) -> Box<dyn Source> = |source| Box::new(Arc::new(source) as Arc<dyn Source>);
    for wrap in [|source| Box::new(Layered(Plain(source))) as Box<dyn Source>, shared] {
        let memory = MemorySource::new();
        let source = wrap(memory.clone());
        check_source(&Wrapped { memory, source }).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrapped_sink_conforms() {
    let shared: Arc<dyn Sink> = Arc::new(MemorySink::new());
    check_sink(&shared).await.unwrap();
    let boxed: Box<dyn Sink> = Box::new(Layered(Plain(MemorySink::new())));
    check_sink(&boxed).await.unwrap();
}

#[tokio::test]
async fn a_wrapped_checkpoint_store_conforms() {
    let shared: Arc<dyn CheckpointStore> = Arc::new(MemoryStore::default());
    check_checkpoint_store(&shared).await.unwrap();
    let boxed: Box<dyn CheckpointStore> = Box::new(Layered(Plain(MemoryStore::default())));
    check_checkpoint_store(&boxed).await.unwrap();
}

/// A source whose methods with defaults answer something else than the defaults.
struct Special(MemorySource);

#[async_trait]
impl SourceLayer for Special {
    fn inner(&self) -> &dyn Source {
        &self.0
    }

    async fn members(&self) -> Result<Vec<String>> {
        Ok(vec!["special.example".to_owned()])
    }

    async fn collections_named(&self, _: &std::collections::BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        Err(Error::new(crate::ErrorKind::Server, "look for collections", "special"))
    }

    async fn restore_identities(&self, _: &BTreeMap<Namespace, Uuid>) -> Result<()> {
        Err(Error::new(crate::ErrorKind::Server, "restore identities", "special"))
    }

    async fn inspect(&self) -> Result<Inspection> {
        Err(Error::new(crate::ErrorKind::Server, "inspect", "special"))
    }

    async fn writes_blocked(&self) -> Result<bool> {
        Ok(true)
    }

    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        Err(Error::new(crate::ErrorKind::Server, "list", "special"))
    }

    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        Ok(Some(WriteLoad::default()))
    }
}

#[tokio::test]
async fn wrappers_forward_methods_that_have_defaults() {
    let source: Arc<dyn Source> = Arc::new(Layered(Special(MemorySource::new())));
    let source: Box<dyn Source> = Box::new(Layered(Plain(source)));
    // The method of `Source for Box`, not that of the trait object in the box.
    let source: &dyn Source = &source;
    assert_eq!(source.members().await.unwrap(), ["special.example"]);
    assert!(source.writes_blocked().await.unwrap());
    assert!(source.write_load().await.unwrap().is_some());
    assert!(source.collections_named(&Default::default()).await.is_err());
    assert!(source.restore_identities(&BTreeMap::new()).await.is_err());
    assert!(source.inspect().await.is_err());
    assert!(source.open_transactions().await.is_err());
    assert!(source.collections().await.is_ok());
}
