//! The MongoDB sink against real servers: every document is compared byte for byte.

mod absent;
mod catalog;
mod corpus;
mod deltas;
mod durability;
mod ranges;
mod whole_documents;
mod writes;

use bson::raw::{RawBson, RawDocumentBuf};
use futures::TryStreamExt;
use mongoferry::order::Key;
use mongoferry::sink::{MongoSink, Sink, SinkRead};
use mongoferry::{Batch, CollectionKind, Namespace, Range};
use mongoferry_testbed::{ReplicaSet, Version};

/// A server and a sink on it.
struct Bench {
    set: ReplicaSet,
    sink: MongoSink,
}

impl Bench {
    async fn start(version: Version) -> Self {
        let set = ReplicaSet::builder(version).start().await.unwrap();
        let sink = MongoSink::connect(&set.uri()).await.unwrap();
        Self { set, sink }
    }

    /// Runs a command on the server itself.
    async fn command(&self, database: &str, command: bson::Document) -> bson::Document {
        let client = self.set.client().await.unwrap();
        client.database(database).run_command(command).await.unwrap()
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace::new("test", name)
}

fn key(value: impl Into<RawBson>) -> Key {
    Key::from(value.into().as_raw_bson_ref())
}

fn batch<'a>(documents: impl IntoIterator<Item = &'a RawDocumentBuf>) -> Batch {
    let mut batch = Batch::new();
    for document in documents {
        batch.push(document);
    }
    batch
}

/// The documents of a range, in the order in which the sink gives them.
async fn read_range(
    sink: &dyn Sink,
    namespace: &Namespace,
    kind: CollectionKind,
    range: Range,
    batch_bytes: usize,
) -> Vec<RawDocumentBuf> {
    let request = SinkRead {
        namespace: namespace.clone(),
        kind,
        range,
        batch_bytes,
        document_bytes: 100,
    };
    let batches: Vec<Batch> = sink.read(request).await.unwrap().try_collect().await.unwrap();
    batches
        .iter()
        .flat_map(|batch| batch.iter().map(|document| document.to_owned()))
        .collect()
}

async fn read_all(sink: &dyn Sink, namespace: &Namespace) -> Vec<RawDocumentBuf> {
    read_range(sink, namespace, CollectionKind::Plain, Range::FULL, 1 << 20).await
}

/// The same test on several versions.
macro_rules! on_versions {
    ($test:ident: $($name:ident $version:ident),+ $(,)?) => {
        mod $test {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$test(mongoferry_testbed::Version::$version).await;
                }
            )+
        }
    };
    ($test:ident) => {
        $crate::scenarios::mongo_sink::on_versions!($test: v4_2 V4_2, v4_4 V4_4, v5_0 V5_0, v6_0 V6_0);
    };
}
use on_versions;
