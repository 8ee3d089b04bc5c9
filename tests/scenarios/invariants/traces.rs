//! What a subscriber of `tracing` sees of a run: where it is, what happens, and nothing that is private.

use std::sync::{Arc, LazyLock, Mutex};

use mongoferry::source::SourceCall;
use mongoferry::{CollectionKind, Error, ErrorKind, Event, MongoSource, Operation, Write};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Metadata, Subscriber};
use tracing_core::span::Current;

use super::*;

/// In a document, in a write that is refused, and in a connection string.
const SECRET: &str = "s3cret";

/// Keeps everything as text. The tests have one thread, so spans are entered and left one within another.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Captured>>);

#[derive(Default)]
struct Captured {
    /// Name and fields of each span, after those of the spans it is in.
    spans: Vec<String>,
    metadata: Vec<&'static Metadata<'static>>,
    entered: Vec<Id>,
    /// Level and fields of each event, after the spans it is in.
    events: Vec<String>,
}

impl Capture {
    /// Captures what this thread does.
    fn subscribe() -> (Self, impl Drop) {
        // With a single subscriber in the process, what another thread meets first would count as wanted by nobody.
        static OTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
        LazyLock::force(&OTHER);
        let capture = Self::default();
        (capture.clone(), tracing::subscriber::set_default(capture))
    }

    fn spans(&self) -> Vec<String> {
        self.0.lock().unwrap().spans.clone()
    }

    fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().events.clone()
    }

    #[track_caller]
    fn assert_span(&self, parts: &[&str]) {
        let spans = self.spans();
        assert!(spans.iter().any(|span| has(span, parts)), "{parts:?} in {spans:#?}");
    }

    #[track_caller]
    fn assert_event(&self, parts: &[&str]) {
        let events = self.events();
        assert!(events.iter().any(|event| has(event, parts)), "{parts:?} in {events:#?}");
    }
}

fn has(text: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| text.contains(part))
}

impl Captured {
    fn path(&self, id: Option<&Id>) -> String {
        id.map(|id| format!("{}:", self.spans[id.into_u64() as usize - 1]))
            .unwrap_or_default()
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut captured = self.0.lock().unwrap();
        let parent = match attributes.is_contextual() {
            true => captured.entered.last(),
            false => attributes.parent(),
        };
        let mut fields = Fields(captured.path(parent) + attributes.metadata().name());
        attributes.record(&mut fields);
        captured.spans.push(fields.0);
        captured.metadata.push(attributes.metadata());
        Id::from_u64(captured.spans.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields(String::new());
        values.record(&mut fields);
        self.0.lock().unwrap().spans[id.into_u64() as usize - 1] += &fields.0;
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut captured = self.0.lock().unwrap();
        let path = captured.path(captured.entered.last());
        let mut fields = Fields(format!("{path}{}", event.metadata().level()));
        event.record(&mut fields);
        captured.events.push(fields.0);
    }

    fn current_span(&self) -> Current {
        let captured = self.0.lock().unwrap();
        let Some(id) = captured.entered.last() else {
            return Current::none();
        };
        Current::new(id.clone(), captured.metadata[id.into_u64() as usize - 1])
    }

    fn enter(&self, id: &Id) {
        self.0.lock().unwrap().entered.push(id.clone());
    }

    fn exit(&self, id: &Id) {
        let left = self.0.lock().unwrap().entered.pop();
        assert_eq!(left.as_ref(), Some(id));
    }
}

fn planned(retryable: bool) -> Error {
    Error::new(ErrorKind::Server, "follow", "planned").with_retryable(retryable)
}

#[tokio::test(start_paused = true)]
async fn spans_say_where_and_events_say_what() {
    let (capture, _subscribed) = Capture::subscribe();
    let bench = Bench::with_orders(5);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    let run = bench.migration().id("m-7").build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    bench.source.fail_next(SourceCall::TailEntries, planned(true));
    bench.source.disconnect_tail();
    bench.set("shop.orders", 1, 7);
    until("it begins again", || run.status().retries == 1).await;
    bench.set("shop.orders", 1, 8);
    bench.caught_up().await;
    bench.finish(run).await;

    for phase in ["preflight", "copy", "index", "catch_up", "ready", "cutover"] {
        capture.assert_span(&["migration migration=\"m-7\":phase", &format!("phase=\"{phase}\"")]);
    }
    let run = "migration migration=\"m-7\":run run=";
    capture.assert_span(&[run, "run=1:chunk", "namespace=shop.orders", "chunk=0"]);
    capture.assert_span(&[run, ":batch", "changes="]);
    capture.assert_span(&[run, "run=2"]);
    capture.assert_span(&[run, ":compare", "namespace=shop.orders"]);
    capture.assert_span(&[run, ":index_build", "namespace=shop.orders", "index=\"n\""]);
    capture.assert_span(&[run, ":checkpoint", "bytes="]);
    let steps = [
        "before_cutover",
        "stop_writes",
        "open_transactions",
        "last_write",
        "apply",
        "compare",
        "complete",
    ];
    for step in steps {
        let step = format!("cutover:cutover_step step=\"{step}\"");
        capture.assert_span(&["migration migration=\"m-7\":", &step]);
    }
    capture.assert_event(&[run, "INFO", "event=\"started\"", "resumed=false"]);
    capture.assert_event(&["migration", "INFO", "event=\"phase_changed\"", "phase=\"complete\""]);
    capture.assert_event(&[run, "INFO", "event=\"index_built\"", "index=\"n\""]);
    capture.assert_event(&["migration", "WARN", "event=\"retrying\"", "planned"]);
    capture.assert_event(&[run, "DEBUG", "event=\"checkpoint_saved\""]);
    capture.assert_event(&["cutover", "DEBUG", "event=\"verified\"", "namespace=shop.orders"]);

    // One event for each of the host's.
    let bench = Bench::with_orders(5);
    let migration = bench.migration().build().unwrap();
    let (before, told) = (capture.events().len(), migration.events());
    let run = migration.start().await.unwrap();
    bench.caught_up().await;
    bench.source.unsupported("shop.orders", "it is of another world");
    run.wait().await.unwrap_err();
    let told: Vec<Event> = futures::StreamExt::collect(told).await;
    assert_eq!(capture.events().len() - before, told.len());
    capture.assert_event(&[
        "migration=\"default\"",
        "ERROR",
        "event=\"failed\"",
        "kind=UnsupportedEntry",
    ]);
}

#[tokio::test(start_paused = true)]
async fn traces_have_no_documents_and_no_secrets() {
    let (capture, _subscribed) = Capture::subscribe();
    let uri = format!("mongodb://root:{SECRET}@127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=10");
    let unreachable = MongoSource::connect(&uri).await.unwrap_err();
    let bench = Bench::default();
    bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
    let unique = rawdoc! { "v": 2, "key": { "token": 1 }, "name": "token", "unique": true };
    bench.source.create_index("shop.orders", unique).unwrap();
    let document = |id: i32, token: &str| rawdoc! { "_id": id, "n": 0, "token": format!("{SECRET}-{token}") };
    for id in 1..=5 {
        let token = id.to_string();
        bench.source.insert("shop.orders", document(id, &token)).unwrap();
    }
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    // A document that differs, one that is refused, and an error with a connection string.
    let write = |id: i32, document: RawDocumentBuf| Write {
        key: key(id),
        operation: Operation::Replace(document),
    };
    let orders: Namespace = "shop.orders".parse().unwrap();
    let writes = [write(2, document(2, "other")), write(900, document(900, "taken"))];
    bench.sink.apply(&orders, CollectionKind::Plain, &writes).await.unwrap();
    run.verify(&[]).await.unwrap();
    bench.source.insert("shop.orders", document(6, "taken")).unwrap();
    let refused = || capture.events().iter().any(|event| event.contains("document_refused"));
    until("the document is refused", refused).await;
    bench
        .source
        .fail_next(SourceCall::TailEntries, unreachable.with_retryable(true));
    bench.source.disconnect_tail();
    bench.set("shop.orders", 1, 7);
    until("it begins again", || run.status().retries > 0).await;
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Differences);
    run.abandon().await;

    capture.assert_event(&["WARN", "document_refused", "id=\"{\\\"$numberInt\\\":\\\"6\\\"}\""]);
    capture.assert_event(&["WARN", "document_differs", "token"]);
    capture.assert_event(&["WARN", "retrying", "127.0.0.1:1"]);
    capture.assert_event(&["WARN", "verified", "identical=false"]);
    for text in capture.spans().iter().chain(&capture.events()) {
        assert!(!text.contains(SECRET), "{text}");
    }
}
