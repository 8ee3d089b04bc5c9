//! One process at a time: who is refused, who takes over, and what the one that has lost the migration can still do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use futures::stream::BoxStream;
use mongoferry::order::Key;
use mongoferry::sink::{CatalogCommand, MemorySink, Refusal, SinkRead};
use mongoferry::source::{Deployment, MemorySource};
use mongoferry::{
    Batch, Collection, CollectionKind, ErrorKind, Migration, MigrationHandle, Namespace, Outcome, Result, Sink, Write,
};
use tokio::time::{sleep, timeout};

use super::deadline::{DEADLINE, cut_over, ready};

/// The target as one process sees it, which can be cut off from the lease, as a process is that was stopped for a while: its tasks are
/// still there, and whatever they were about to send goes out when it wakes up.
#[derive(Clone)]
struct Cut {
    inner: MemorySink,
    cut: Arc<AtomicBool>,
    /// Writes that reached the target while it was cut off.
    late: Arc<AtomicUsize>,
}

impl Cut {
    fn new(inner: &MemorySink) -> Self {
        Self {
            inner: inner.clone(),
            cut: Arc::default(),
            late: Arc::default(),
        }
    }

    fn write(&self) {
        if self.cut.load(SeqCst) {
            self.late.fetch_add(1, SeqCst);
        }
    }
}

#[async_trait]
impl Sink for Cut {
    async fn describe(&self) -> Result<Deployment> {
        self.inner.describe().await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.inner.collections().await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.write();
        self.inner.execute(command).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.write();
        self.inner.create_index(namespace, specification).await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        self.write();
        self.inner.insert(namespace, batch).await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        for write in writes {
            // A batch goes out in several commands.
            self.write();
            self.inner.apply(namespace, kind, std::slice::from_ref(write)).await?;
            sleep(Duration::from_millis(400)).await;
        }
        Ok(Vec::new())
    }

    fn losses(&self) -> u64 {
        self.inner.losses()
    }

    async fn flush(&self) -> Result<()> {
        self.write();
        self.inner.flush().await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.inner.read(request).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.inner.read_documents(namespace, keys).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.inner.digest(namespace).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.inner.load_record(name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        while name.ends_with("/lease") && self.cut.load(SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        self.write();
        self.inner.save_record(name, record, expected).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.write();
        self.inner.delete_record(name).await
    }
}

struct Bench {
    source: MemorySource,
    target: MemorySink,
}

impl Bench {
    fn new() -> Self {
        let source = MemorySource::new();
        source.create_collection("shop.orders", rawdoc! {}).unwrap();
        for id in 0..40 {
            source.insert("shop.orders", rawdoc! { "_id": id, "n": 0 }).unwrap();
        }
        Self {
            source,
            target: MemorySink::new(),
        }
    }

    async fn start(&self, sink: impl Sink) -> MigrationHandle {
        let migration = Migration::builder(self.source.clone(), sink).appliers(2);
        migration.build().unwrap().start().await.unwrap()
    }

    fn set_all(&self, n: i32) {
        for id in 0..40 {
            self.source
                .update_v2("shop.orders", id, rawdoc! { "u": { "n": n } })
                .unwrap();
        }
    }
}

/// A process is stopped in the middle of a batch, and another one takes over. When it wakes up it sends nothing more: neither the rest of
/// the batch, nor what came to its appliers meanwhile, nor a checkpoint.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_taken_over_writes_nothing_more() {
    let bench = Bench::new();
    let stale = Cut::new(&bench.target);
    let first = bench.start(stale.clone()).await;
    ready(&first).await;
    bench.set_all(1);
    // Two of about twenty writes of each applier are sent.
    sleep(Duration::from_millis(700)).await;
    assert!(
        bench
            .target
            .documents("shop.orders")
            .unwrap()
            .iter()
            .any(|document| document.get_i32("n").unwrap() == 1)
    );
    stale.cut.store(true, SeqCst);
    let second = bench.start(bench.target.clone()).await;
    // What the first wrote until its last renewal ran out was its right; nobody else was at work.
    sleep(Duration::from_secs(5)).await;
    stale.late.store(0, SeqCst);
    ready(&second).await;
    bench.set_all(2);
    ready(&second).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(stale.late.load(SeqCst), 0);
    // It wakes up.
    let journal = bench.target.journal().len();
    stale.cut.store(false, SeqCst);
    let error = timeout(DEADLINE, first.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    let named = format!("process {} on host", std::process::id());
    assert!(error.to_string().contains(&named), "{error}");
    // The second has its own checkpoints to save, and nothing else to do.
    for entry in &bench.target.journal()[journal..] {
        let ours = format!("{entry:?}");
        assert!(ours.starts_with("RecordSaved") || ours.starts_with("Flushed"), "{ours}");
    }
    let summary = cut_over(&second).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(
        bench.target.documents("shop.orders").unwrap(),
        bench.source.documents("shop.orders").unwrap()
    );
}

/// A target without a primary for a while, so that the lease cannot be renewed: the run waits, and goes on where it was.
#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_waits_and_goes_on() {
    let bench = Bench::new();
    let sink = Cut::new(&bench.target);
    let run = bench.start(sink.clone()).await;
    ready(&run).await;
    sink.cut.store(true, SeqCst);
    bench.set_all(1);
    sleep(Duration::from_secs(30)).await;
    sink.cut.store(false, SeqCst);
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}

/// A target that answers no write any more: after a minute it is said why that may be, and that is not held up by giving the lease back.
#[tokio::test(start_paused = true)]
async fn a_target_that_answers_no_write_is_said_after_a_minute() {
    let bench = Bench::new();
    let sink = Cut::new(&bench.target);
    let run = bench.start(sink.clone()).await;
    ready(&run).await;
    let mut events = run.events();
    sink.cut.store(true, SeqCst);
    bench.set_all(1);
    let said = async {
        while let Some(event) = futures::StreamExt::next(&mut events).await {
            if let mongoferry::Event::Retrying { cause, .. } = event {
                return cause;
            }
        }
        panic!("the run ended");
    };
    let cause = timeout(Duration::from_secs(80), said).await.expect("it is said");
    assert!(cause.contains("fsyncLock"), "{cause}");
    sink.cut.store(false, SeqCst);
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}

/// What a second process is told.
#[tokio::test(start_paused = true)]
async fn a_second_process_is_told_who_is_at_work() {
    let bench = Bench::new();
    let first = bench.start(bench.target.clone()).await;
    ready(&first).await;
    let second = Migration::builder(bench.source.clone(), bench.target.clone());
    let start = second.build().unwrap().start();
    let error = timeout(DEADLINE, start).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseHeld);
    let text = error.to_string();
    for part in [
        &format!("process {} on host", std::process::id()),
        "working since 20",
        "last seen within 1 s",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(first.status().can_cut_over);
}

/// A process that died gives way within seconds.
#[tokio::test(start_paused = true)]
async fn the_next_process_takes_over_within_seconds() {
    let bench = Bench::new();
    let first = bench.start(bench.target.clone()).await;
    ready(&first).await;
    drop(first);
    let began = tokio::time::Instant::now();
    let second = bench.start(bench.target.clone()).await;
    let mut events = second.events();
    let started = async {
        while let Some(event) = futures::StreamExt::next(&mut events).await {
            if matches!(event, mongoferry::Event::Started { .. }) {
                return;
            }
        }
        panic!("the run ended");
    };
    timeout(DEADLINE, started).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
