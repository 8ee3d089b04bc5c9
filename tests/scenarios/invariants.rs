//! What must hold whatever happens, each with a test that brings about the moment in which it could be broken.
//!
//! Time is paused: whenever every task waits, the clock goes on to the next timer.

mod builds;
mod compared_again;
mod collections;
mod comparing;
mod copy;
mod cutover;
mod ddl;
mod evidence;
mod ends;
mod existing;
mod expiry;
mod late_writes;
mod lost_records;
mod many_collections;
mod handle;
mod published;
mod traces;
mod hooks;
mod order;
mod recordings;
mod rehearsal;
mod pace;
mod resume;
mod resync;
mod saves;
mod settings;
mod side_by_side;
mod unsupported;
mod users;
mod verify;
mod waits;
mod window;
mod write_block;

use std::time::Duration;

use bson::raw::{RawBson, RawDocumentBuf};
use bson::rawdoc;
use mongoferry::checkpoint::MemoryStore;
use mongoferry::order::Key;
use mongoferry::sink::{JournalEntry, MemorySink};
use mongoferry::source::MemorySource;
use mongoferry::{
    Checkpoint, CheckpointStore, Migration, MigrationBuilder, MigrationHandle, Namespace, Outcome, Sink, Source,
    Verification,
};
use tokio::time::{sleep, timeout};

/// How long a wait may take, by the paused clock.
const DEADLINE: Duration = Duration::from_secs(60);

/// A source with so many documents in `shop.orders`, `_id` from 1 on, each with `n: 0`.
pub(super) fn orders(count: i32) -> MemorySource {
    let source = MemorySource::default();
    source.create_collection("shop.orders", rawdoc! {}).unwrap();
    for id in 1..=count {
        source.insert("shop.orders", rawdoc! { "_id": id, "n": 0 }).unwrap();
    }
    source
}

/// A source, a target and a checkpoint.
#[derive(Clone, Default)]
struct Bench {
    source: MemorySource,
    sink: MemorySink,
    store: MemoryStore,
}

impl Bench {
    /// With a source of [`orders`].
    fn with_orders(count: i32) -> Self {
        Self {
            source: orders(count),
            ..Self::default()
        }
    }

    fn migration(&self) -> MigrationBuilder {
        Migration::builder(self.source.clone(), self.sink.clone())
            .include("shop.*")
            .checkpoint_store(self.store.clone())
    }

    async fn start(&self) -> MigrationHandle {
        self.migration().build().unwrap().start().await.unwrap()
    }

    /// A migration whose cutover asks both sides for digests, so that it can be held there.
    fn by_digest(&self) -> MigrationBuilder {
        self.migration().verification(Verification::Digest)
    }

    /// Logs that `n` of the document has a new value.
    fn set(&self, name: &str, id: impl Into<RawBson>, n: i32) {
        self.source.update_v2(name, id, rawdoc! { "u": { "n": n } }).unwrap();
    }

    /// Waits until the checkpoint covers everything that is written so far.
    async fn caught_up(&self) -> Checkpoint {
        let position = self.source.position().await.unwrap();
        until("the watermark covers everything", || {
            self.checkpoint()
                .is_some_and(|checkpoint| checkpoint.watermark >= position)
        })
        .await;
        self.checkpoint().unwrap()
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        // The store answers at once.
        let stored = futures::FutureExt::now_or_never(self.store.load()).unwrap().unwrap()?;
        Some(Checkpoint::decode(&stored).unwrap())
    }

    /// Hands over, and compares both sides without the help of the crate.
    async fn finish(&self, handle: MigrationHandle) {
        let summary = timeout(Duration::from_secs(600), handle.cutover(async {}))
            .await
            .expect("the cutover ends")
            .unwrap();
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        let mut ours = self.source.collections().await.unwrap();
        ours.retain(|collection| collection.namespace.database() == "shop");
        let theirs = self.sink.collections().await.unwrap();
        let names = |listed: &[mongoferry::Collection]| {
            let mut names: Vec<Namespace> = listed.iter().map(|collection| collection.namespace.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&ours), names(&theirs));
        for name in names(&ours) {
            assert_eq!(
                self.source.documents(name.as_str()).unwrap(),
                self.sink.documents(name.as_str()).unwrap(),
                "{name}"
            );
        }
        self.assert_nothing_made_by_accident();
    }

    /// A write to a collection that is not there makes one, as on a server. The engine never writes there.
    fn assert_nothing_made_by_accident(&self) {
        for entry in self.sink.journal() {
            assert!(!matches!(entry, JournalEntry::ImplicitlyCreated { .. }), "{entry:?}");
        }
    }

    /// The values of `n` that were written to a document of the target by changes, in the order they were.
    fn applied(&self, id: i32) -> Vec<i32> {
        self.sink
            .journal()
            .iter()
            .filter_map(|entry| applied_to(entry, id))
            .collect()
    }
}

/// The value of `n` that this entry of the journal wrote to the document, if it is a change of it that the source logged.
fn applied_to(entry: &JournalEntry, id: i32) -> Option<i32> {
    use mongoferry::Operation;
    let JournalEntry::Applied { write, .. } = entry else {
        return None;
    };
    if write.key != key(id) {
        return None;
    }
    match &write.operation {
        Operation::Insert(document) | Operation::Replace(document) => document.get_i32("n").ok(),
        Operation::Delta(delta) => {
            let diff = delta.get_document("diff").ok()?;
            diff.get_document("u").ok()?.get_i32("n").ok()
        }
        Operation::Delete => None,
    }
}

fn key(id: i32) -> Key {
    Key::from(bson::RawBsonRef::Int32(id))
}

/// Waits until something holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Lets everything happen that can without a gate being opened; the lease of a process that is gone expires meanwhile, too.
async fn settle_down() {
    sleep(Duration::from_secs(8)).await;
}

fn documents(range: std::ops::Range<i32>, bytes: usize) -> impl Iterator<Item = RawDocumentBuf> {
    range.map(move |id| rawdoc! { "_id": id, "n": 0, "pad": "p".repeat(bytes) })
}
