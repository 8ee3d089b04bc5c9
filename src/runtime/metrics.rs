//! Metrics of a run for the facade crate `metrics`. The guide on observability has the table of all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, SharedString, Unit};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::sleep;

use crate::report::{Phase, Status};
use crate::runtime::progress::RunState;

/// Interval at which the gauges and counters are brought up to date.
const INTERVAL: Duration = Duration::from_secs(1);

/// The gauge that is 1 for the current phase and 0 for every other one.
const PHASE: &str = "mongoferry_phase";

/// A metric with the value that a status has for it.
struct Published<T> {
    name: &'static str,
    unit: Unit,
    help: &'static str,
    value: fn(&Status) -> T,
}

const fn published<T>(name: &'static str, unit: Unit, help: &'static str, value: fn(&Status) -> T) -> Published<T> {
    Published {
        name,
        unit,
        help,
        value,
    }
}

/// Gauges. What is not known is NaN, and a limit that is not set is infinite.
#[rustfmt::skip]
const GAUGES: &[Published<f64>] = &[
    published("mongoferry_lag_seconds", Unit::Seconds, "How far the target is behind the source.", |status| seconds(status.lag)),
    published("mongoferry_position_timestamp_seconds", Unit::Seconds, "Time of the position up to which everything is durable on the target.",
        |status| number(status.position.map(|position| f64::from(position.time)))),
    published("mongoferry_source_position_timestamp_seconds", Unit::Seconds, "Time of the newest known position of the source.",
        |status| number(status.source_position.map(|position| f64::from(position.time)))),
    published("mongoferry_source_documents", Unit::Count, "Documents on the source when it was listed.", |status| status.total.documents as f64),
    published("mongoferry_source_bytes", Unit::Bytes, "Bytes of documents on the source when it was listed.", |status| status.total.bytes as f64),
    published("mongoferry_copy_complete", Unit::Count, "1 if every collection is copied.", |status| flag(status.copy_complete)),
    published("mongoferry_copy_time_left_seconds", Unit::Seconds, "Estimated time left for the copy.", |status| seconds(status.time_left)),
    published("mongoferry_held_bytes", Unit::Bytes, "Changes that wait for chunks that are being read.", |status| status.changes.held_bytes as f64),
    published("mongoferry_all_compared", Unit::Count, "1 if everything is compared that can be compared during the run.",
        |status| flag(status.all_compared)),
    published("mongoferry_can_cut_over", Unit::Count, "1 if a cutover would go ahead now.", |status| flag(status.can_cut_over)),
    published("mongoferry_cutover_estimate_seconds", Unit::Seconds, "How long the applications would stand still if the cutover began now.",
        |status| seconds(status.cutover_estimate)),
    published("mongoferry_cutover_deadline_timestamp_seconds", Unit::Seconds, "When the cutover window ends.",
        |status| number(status.cutover_deadline.map(timestamp))),
    published("mongoferry_oplog_window_seconds", Unit::Seconds, "Time that the source's oplog spans.", |status| seconds(status.oplog_window)),
    published("mongoferry_oplog_time_left_seconds", Unit::Seconds, "How long the oplog will still contain the position to resume from.",
        |status| seconds(status.oplog_time_left)),
    published("mongoferry_indexes", Unit::Count, "Indexes of the source's collections, without those on _id.", |status| status.indexes.total as f64),
    published("mongoferry_indexes_built", Unit::Count, "Indexes built on the target.", |status| status.indexes.built as f64),
    published("mongoferry_indexes_building", Unit::Count, "Indexes that are being built on the target.", |status| status.indexes.building as f64),
    published("mongoferry_indexes_failed", Unit::Count, "Indexes that could not be built on the target.", |status| status.indexes.failed as f64),
    published("mongoferry_rule_failures", Unit::Count, "Documents left out because a filter or transform failed.", |status| status.rule_failures as f64),
    published("mongoferry_walkers", Unit::Count, "Maximum number of ranges copied or compared at the same time.", |status| status.walkers as f64),
    published("mongoferry_throttle_copy_bytes_per_second", Unit::CountPerSecond, "Limit for reading documents from the source.",
        |status| limit(status.throttle.copy_bytes_per_second)),
    published("mongoferry_throttle_tail_operations_per_second", Unit::CountPerSecond, "Limit for reading the source's oplog.",
        |status| limit(status.throttle.tail_operations_per_second)),
];

/// Counters.
#[rustfmt::skip]
const COUNTERS: &[Published<u64>] = &[
    published("mongoferry_copied_documents_total", Unit::Count, "Documents copied.", |status| status.copied.documents),
    published("mongoferry_copied_bytes_total", Unit::Bytes, "Bytes of documents copied.", |status| status.copied.bytes),
    published("mongoferry_applied_changes_total", Unit::Count, "Changes applied to the target.", |status| status.changes.applied),
    published("mongoferry_dropped_changes_total", Unit::Count, "Changes dropped because a copy contains them.", |status| status.changes.dropped),
    published("mongoferry_compared_documents_total", Unit::Count, "Documents compared during the run.", |status| status.compared.documents),
    published("mongoferry_compared_bytes_total", Unit::Bytes, "Bytes of documents compared during the run.", |status| status.compared.bytes),
    published("mongoferry_differences_total", Unit::Count, "Documents that differed in comparisons during the run.", |status| status.differences),
    published("mongoferry_refused_documents_total", Unit::Count, "Documents that the target refused for good.", |status| status.refused_documents),
    published("mongoferry_foreign_writes_total", Unit::Count, "Writes of other programs to migrated collections on the target.",
        |status| status.foreign_writes),
    published("mongoferry_retries_total", Unit::Count, "How often the run went back to its checkpoint after an error.", |status| status.retries),
];

const APPLY_SECONDS: &str = "mongoferry_apply_batch_seconds";
const APPLY_CHANGES: &str = "mongoferry_apply_batch_changes";
const CHUNK_SECONDS: &str = "mongoferry_chunk_seconds";
const SAVE_SECONDS: &str = "mongoferry_checkpoint_save_seconds";

/// Histograms.
const HISTOGRAMS: &[(&str, Unit, &str)] = &[
    (APPLY_SECONDS, Unit::Seconds, "Time to apply a batch of changes."),
    (APPLY_CHANGES, Unit::Count, "Changes in a batch."),
    (
        CHUNK_SECONDS,
        Unit::Seconds,
        "Time to copy a chunk, until it is durable on the target.",
    ),
    (SAVE_SECONDS, Unit::Seconds, "Time to save a checkpoint."),
];

/// The metrics of one migration. They go to the recorder that is installed when this is created.
pub(crate) struct Metrics {
    phases: Vec<(Phase, Gauge)>,
    gauges: Vec<Gauge>,
    counters: Vec<Counter>,
    /// What the counters have counted so far, as the status had it.
    counted: Mutex<Vec<u64>>,
    apply_seconds: Histogram,
    apply_changes: Histogram,
    chunk_seconds: Histogram,
    save_seconds: Histogram,
}

impl Metrics {
    /// Describes and registers the metrics of the migration with this id.
    pub fn new(id: &str) -> Self {
        describe();
        let id = SharedString::from(id.to_owned());
        let histogram = |name: &'static str| histogram!(name, "migration" => id.clone());
        Self {
            phases: Phase::ALL
                .iter()
                .map(|phase| {
                    let gauge = gauge!(PHASE, "migration" => id.clone(), "phase" => phase.as_str());
                    (*phase, gauge)
                })
                .collect(),
            gauges: GAUGES
                .iter()
                .map(|published| gauge!(published.name, "migration" => id.clone()))
                .collect(),
            counters: COUNTERS
                .iter()
                .map(|published| counter!(published.name, "migration" => id.clone()))
                .collect(),
            counted: Mutex::new(vec![0; COUNTERS.len()]),
            apply_seconds: histogram(APPLY_SECONDS),
            apply_changes: histogram(APPLY_CHANGES),
            chunk_seconds: histogram(CHUNK_SECONDS),
            save_seconds: histogram(SAVE_SECONDS),
        }
    }

    /// Brings gauges and counters up to date.
    pub fn publish(&self, status: &Status) {
        for (phase, gauge) in &self.phases {
            gauge.set(flag(*phase == status.phase));
        }
        for (published, gauge) in GAUGES.iter().zip(&self.gauges) {
            gauge.set((published.value)(status));
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for ((published, counter), counted) in COUNTERS.iter().zip(&self.counters).zip(&mut *counted) {
            let now = (published.value)(status);
            // A run that goes back to its checkpoint has copied less than before. What it copies again counts again.
            counter.increment(now.saturating_sub(*counted));
            *counted = now;
        }
    }

    pub fn note_batch(&self, changes: u64, elapsed: Duration) {
        self.apply_seconds.record(elapsed);
        self.apply_changes.record(changes as f64);
    }

    pub fn note_chunk(&self, elapsed: Duration) {
        self.chunk_seconds.record(elapsed);
    }

    pub fn note_save(&self, elapsed: Duration) {
        self.save_seconds.record(elapsed);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Brings the metrics up to date every second and at each change of phase, until the last phase.
pub(crate) async fn publish_metrics(progress: Arc<RunState>, max_lag: Duration) {
    let mut phases = progress.phases();
    loop {
        let phase = *phases.borrow_and_update();
        progress.metrics.publish(&progress.status(max_lag));
        if phase.is_last() {
            return;
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            changed = phases.changed() => if changed.is_err() { return },
        }
    }
}

fn describe() {
    describe_gauge!(
        PHASE,
        Unit::Count,
        "1 for the current phase of the run, 0 for every other one."
    );
    for published in GAUGES {
        describe_gauge!(published.name, published.unit, published.help);
    }
    for published in COUNTERS {
        describe_counter!(published.name, published.unit, published.help);
    }
    for (name, unit, help) in HISTOGRAMS {
        describe_histogram!(*name, *unit, *help);
    }
}

fn seconds(time: Option<Duration>) -> f64 {
    number(time.map(|time| time.as_secs_f64()))
}

fn number(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn limit(value: Option<u64>) -> f64 {
    value.map_or(f64::INFINITY, |value| value as f64)
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

fn timestamp(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
