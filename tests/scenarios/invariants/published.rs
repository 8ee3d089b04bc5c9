//! The metrics of a run, and the table of them in the guide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key as MetricKey, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Error, ErrorKind, Phase};

use super::comparing::tamper;
use super::*;

const GUIDE: &str = include_str!("../../../src/docs/observability.md");

/// Keeps every value of every metric.
#[derive(Default)]
struct Everything {
    units: Mutex<BTreeMap<String, (Option<Unit>, String)>>,
    values: Mutex<BTreeMap<String, Vec<Arc<Values>>>>,
}

struct Values {
    kind: &'static str,
    labels: Vec<(String, String)>,
    values: Mutex<Vec<f64>>,
}

impl Values {
    fn add(&self, value: f64) {
        self.values.lock().unwrap().push(value);
    }
}

impl CounterFn for Values {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _: u64) {
        unreachable!("counters are counted by increments");
    }
}

impl GaugeFn for Values {
    fn increment(&self, _: f64) {
        unreachable!("gauges are set");
    }

    fn decrement(&self, _: f64) {
        unreachable!("gauges are set");
    }

    fn set(&self, value: f64) {
        self.add(value);
    }
}

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Everything {
    fn describe(&self, name: &KeyName, unit: Option<Unit>, help: &SharedString) {
        let described = (unit, help.to_string());
        self.units.lock().unwrap().insert(name.as_str().to_owned(), described);
    }

    fn register(&self, kind: &'static str, key: &MetricKey) -> Arc<Values> {
        let labels = key
            .labels()
            .map(|label| (label.key().to_owned(), label.value().to_owned()));
        let values = Arc::new(Values {
            kind,
            labels: labels.collect(),
            values: Mutex::default(),
        });
        let mut all = self.values.lock().unwrap();
        all.entry(key.name().to_owned()).or_default().push(Arc::clone(&values));
        values
    }

    /// The last value of a gauge, or the sum of a counter.
    fn value(&self, name: &str, label: Option<&str>) -> f64 {
        let all = self.values.lock().unwrap();
        let is_meant =
            |values: &&Arc<Values>| label.is_none_or(|label| values.labels.iter().any(|(_, it)| it == label));
        let found = all[name].iter().find(is_meant).unwrap();
        let values = found.values.lock().unwrap();
        match found.kind {
            "counter" => values.iter().sum(),
            _ => *values.last().unwrap(),
        }
    }
}

impl Recorder for Everything {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, unit, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, unit, &help);
    }

    fn register_counter(&self, key: &MetricKey, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register("counter", key))
    }

    fn register_gauge(&self, key: &MetricKey, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register("gauge", key))
    }

    fn register_histogram(&self, key: &MetricKey, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.register("histogram", key))
    }
}

/// Name, kind, unit and labels of each row of the guide's table.
fn documented() -> BTreeSet<[String; 4]> {
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `mongoferry_"));
    let cell = |cell: &str| cell.trim().replace('`', "");
    let rows = rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(cell);
        [(); 4].map(|()| cells.next().unwrap())
    });
    let all: Vec<_> = rows.collect();
    let unique: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(all.len(), unique.len(), "one has two rows");
    unique
}

/// Runs a migration in which everything happens that is counted.
async fn eventful(bench: &Bench) -> MigrationHandle {
    bench.source.set_history_window(40);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    let creating = bench.sink.hold(SinkCall::Execute);
    let migration = bench.migration().walkers(1).id("m-7");
    let run = migration.build().unwrap().start().await.unwrap();
    timeout(DEADLINE, creating.reached()).await.unwrap();
    // From here on only the walker asks, and the one that counts the lag.
    let positions = bench.source.hold_answer(SourceCall::Position);
    creating.release();
    until("the walker has asked for the position", || positions.waiting() == 2).await;
    bench.set("shop.orders", 2, 1);
    until("the change is dropped", || run.status().changes.dropped == 1).await;
    let reads = bench.source.hold(SourceCall::Read);
    positions.release();
    timeout(DEADLINE, reads.reached()).await.unwrap();
    bench.set("shop.orders", 1, 1);
    until("the change is held", || run.status().changes.held_bytes > 0).await;
    sleep(Duration::from_secs(2)).await;
    // The range is read again at a newer position, which has the change.
    let refused = Error::new(ErrorKind::SnapshotUnavailable, "read", "planned");
    bench.source.fail_next(SourceCall::Read, refused);
    reads.release();
    run.ready_to_cut_over().await.unwrap();
    bench.sink.tell_foreign_write("shop.orders").unwrap();
    until("the write of others is seen", || run.status().foreign_writes == 1).await;
    tamper(bench, 4).await;
    run.verify(&[]).await.unwrap();
    bench.set("shop.orders", 4, 1);
    let failure = Error::new(ErrorKind::Server, "follow", "planned").with_retryable(true);
    bench.source.fail_next(SourceCall::TailEntries, failure);
    bench.source.disconnect_tail();
    bench.set("shop.orders", 1, 2);
    until("it begins again", || run.status().retries == 1).await;
    for n in 0..100 {
        bench.source.skip_time(1);
        bench.set("shop.orders", 1, n);
        sleep(Duration::from_secs(1)).await;
    }
    run
}

#[tokio::test(start_paused = true)]
async fn the_guide_has_every_metric_and_every_metric_has_a_value() {
    let everything = Everything::default();
    let recording = metrics::set_default_local_recorder(&everything);
    let bench = Bench::with_orders(5);
    let run = eventful(&bench).await;
    bench.finish(run).await;
    drop(recording);

    let units = everything.units.lock().unwrap().clone();
    let mut emitted = BTreeSet::new();
    for (name, all) in &*everything.values.lock().unwrap() {
        let (unit, help) = units.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        assert!(help.ends_with('.'), "{name}: {help}");
        for values in all {
            let of_migration = ("migration".to_owned(), "m-7".to_owned());
            assert!(values.labels.contains(&of_migration), "{name}: {:?}", values.labels);
            let labels: Vec<&str> = values.labels.iter().map(|(label, _)| label.as_str()).collect();
            let unit = unit.map(|unit| unit.as_str().to_owned()).unwrap_or_default();
            emitted.insert([name.clone(), values.kind.to_owned(), unit, labels.join(", ")]);
        }
        let is_known = |value: &f64| match all[0].kind {
            // A run in which a document is refused for good does not complete.
            "counter" if name == "mongoferry_refused_documents_total" => *value == 0.0,
            "counter" => *value > 0.0,
            _ => !value.is_nan(),
        };
        let known = all
            .iter()
            .any(|values| values.values.lock().unwrap().iter().any(is_known));
        assert!(known, "{name} has no value");
    }
    let described: BTreeSet<&String> = units.keys().collect();
    let registered: BTreeSet<&String> = emitted.iter().map(|[name, ..]| name).collect();
    assert_eq!(described, registered);
    assert_eq!(emitted, documented());
}

#[tokio::test(start_paused = true)]
async fn metrics_say_what_the_status_says() {
    let everything = Everything::default();
    let recording = metrics::set_default_local_recorder(&everything);
    let bench = Bench::with_orders(5);
    let run = eventful(&bench).await;
    bench.caught_up().await;
    // The last change of anything was published.
    sleep(Duration::from_secs(2)).await;
    let status = run.status();
    let value = |name: &str| everything.value(&format!("mongoferry_{name}"), None);
    let phase = |phase: Phase| everything.value("mongoferry_phase", Some(phase.as_str()));
    assert_eq!((phase(status.phase), phase(Phase::Copy)), (1.0, 0.0));
    assert!(status.changes.applied > 90 && status.differences > 0, "{status:?}");
    for (name, expected) in [
        ("copied_documents_total", status.copied.documents),
        ("copied_bytes_total", status.copied.bytes),
        ("applied_changes_total", status.changes.applied),
        ("dropped_changes_total", status.changes.dropped),
        ("compared_documents_total", status.compared.documents),
        ("compared_bytes_total", status.compared.bytes),
        ("differences_total", status.differences),
        ("retries_total", status.retries),
        ("source_documents", status.total.documents),
        ("indexes_built", 1),
        ("indexes", 1),
        ("walkers", status.walkers as u64),
        ("lag_seconds", status.lag.unwrap().as_secs()),
        ("oplog_window_seconds", status.oplog_window.unwrap().as_secs()),
        ("position_timestamp_seconds", status.position.unwrap().time.into()),
    ] {
        assert_eq!(value(name), expected as f64, "{name}: {status:?}");
    }
    assert_eq!(value("throttle_copy_bytes_per_second"), f64::INFINITY);
    run.pause().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!((phase(Phase::Paused), phase(status.phase)), (1.0, 0.0));
    run.abandon().await;
    // Without another second.
    assert_eq!(phase(Phase::Stopped), 1.0);
    drop(recording);
}

/// The page that Prometheus reads.
#[tokio::test(start_paused = true)]
async fn a_page_for_prometheus_has_the_values_of_the_status() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let recording = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let (status, text) = (run.status(), page.render());
    for line in [
        format!(
            "mongoferry_copied_documents_total{{migration=\"default\"}} {}",
            status.copied.documents
        ),
        format!(
            "mongoferry_lag_seconds{{migration=\"default\"}} {}",
            status.lag.unwrap().as_secs()
        ),
        format!("mongoferry_phase{{migration=\"default\",phase=\"{}\"}} 1", status.phase),
        "mongoferry_phase{migration=\"default\",phase=\"copy\"} 0".to_owned(),
        "mongoferry_throttle_copy_bytes_per_second{migration=\"default\"} inf".to_owned(),
        "# TYPE mongoferry_lag_seconds gauge".to_owned(),
        "# TYPE mongoferry_copied_documents_total counter".to_owned(),
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    bench.finish(run).await;
    let complete = "mongoferry_phase{migration=\"default\",phase=\"complete\"} 1";
    assert!(page.render().contains(complete));
    drop(recording);
}
