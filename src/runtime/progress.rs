//! State of a run that all tasks update and the host reads.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Span;

use crate::error::Error;
use crate::model::{Amount, Namespace, Position};
use crate::report::{
    ChangeCounts, CutoverStep, Event, Events, ForeignWrites, IndexCounts, LateWatch, Phase, Recent, Status,
};
use crate::runtime::application::Application;
use crate::runtime::collections::CollectionStatuses;
use crate::runtime::completion::Completion;
use crate::runtime::cutover_estimate::{ComparedAtCutover, CutoverWork};
use crate::runtime::expiry::ExpiryForm;
use crate::runtime::lag::OplogSpan;
use crate::runtime::left_selection::AllLeft;
use crate::runtime::limits::throttle::RateLimiters;
use crate::runtime::limits::walker_slots::WalkerSlots;
#[cfg(feature = "metrics")]
use crate::runtime::metrics::Metrics;
use crate::runtime::shaping::Shaping;
use crate::runtime::spans::Spans;
use crate::runtime::users::UsersState;
use crate::runtime::whole_copies::WholeCopies;
use crate::runtime::window;
use crate::runtime::write_block::WriteBlock;

/// Maximum number of refused documents named in the summary.
const MOST_REFUSED: usize = 1000;

/// Maximum number of collections with writes of other programs that are named.
const MOST_FOREIGN: usize = 1000;

/// Whether anything remains to be done: collections to be copied and indexes to be built, or documents to be compared.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// The initial work is not done yet.
    First,
    Done,
    /// Everything was done before. The source has made more work since then.
    More(Instant),
}

impl Work {
    fn set(&mut self, is_done: bool) {
        *self = match *self {
            _ if is_done => Self::Done,
            Self::Done => Self::More(Instant::now()),
            before => before,
        };
    }

    /// Whether everything is done, except for work that the source has made within `latest`. Without this exception an application that
    /// keeps creating small collections and indexes would never be ready for cutover. The cutover waits for such work as it does for the
    /// lag.
    fn is_done_but_for(self, latest: Duration) -> bool {
        match self {
            Self::First => false,
            Self::Done => true,
            Self::More(since) => since.elapsed() <= latest,
        }
    }
}

/// What is compared during a run and at its cutover.
#[derive(Debug, Default)]
struct Comparison {
    /// What remains to be compared during the run; `None` if nothing is compared then.
    while_running: Option<Work>,
    at_cutover: ComparedAtCutover,
}

/// State shared by all tasks of a run and by its handle.
#[derive(Debug)]
pub(crate) struct RunState {
    pub events: Events,
    pub spans: Spans,
    #[cfg(feature = "metrics")]
    pub metrics: Metrics,
    pub copied_documents: AtomicU64,
    pub copied_bytes: AtomicU64,
    pub applied: AtomicU64,
    pub dropped: AtomicU64,
    pub held_bytes: AtomicU64,
    compared_documents: AtomicU64,
    compared_bytes: AtomicU64,
    comparison: Mutex<Comparison>,
    cutover_work: Mutex<CutoverWork>,
    differences: AtomicU64,
    total_documents: AtomicU64,
    total_bytes: AtomicU64,
    copied: AtomicBool,
    work: Mutex<Work>,
    phase: watch::Sender<Phase>,
    watermark: watch::Sender<Option<Position>>,
    source_position: watch::Sender<Option<Position>>,
    pace: Mutex<Option<(Instant, u64)>>,
    /// Average speed of the copy in bytes per second, once the copy is complete.
    copy_speed: Mutex<Option<f64>>,
    /// Position up to which this run or an earlier one has read the source's oplog.
    read: Mutex<Position>,
    /// Number of operations read since this process began.
    pub read_operations: AtomicU64,
    /// Position from which the source's oplog would be read if the run resumed from its last checkpoint.
    resume: Mutex<Option<Position>>,
    oplog_window: Mutex<Option<OplogSpan>>,
    pub shaping: Arc<Shaping>,
    pub limits: RateLimiters,
    pub walker_slots: WalkerSlots,
    pub whole_copies: WholeCopies,
    /// When this run saved a checkpoint last.
    last_saved: Mutex<Option<bson::DateTime>>,
    pub late_writes: LateWatch,
    pub window: window::Window,
    pub write_block: WriteBlock,
    pub users: UsersState,
    pub application: Application,
    pub expiry: ExpiryForm,
    pub completion: Completion,
    pub collections: CollectionStatuses,
    failure: Mutex<Option<Error>>,
    recent: Recent,
    indexes: Mutex<IndexCounts>,
    pub left_selection: AllLeft,
    resyncs: AtomicU32,
    retries: AtomicU64,
    /// Documents that the target refused for good: the namespace, and a text that says which document and why.
    refused: Mutex<Vec<(Namespace, String)>>,
    /// Number of all of them.
    refused_count: AtomicU64,
    /// Number of writes to the target's collections made by other programs.
    foreign_writes: Mutex<BTreeMap<Namespace, u64>>,
    /// Position in the target's history up to which all such writes are known, as far as they can be detected at all.
    foreign_writes_until: Mutex<Option<Position>>,
    /// Position up to which such writes were counted by this run, or an earlier one of this process.
    foreign_writes_counted: Mutex<Option<Position>>,
}

impl RunState {
    /// Creates the state of a migration without a name of its own.
    #[cfg(any(test, feature = "test-util"))]
    pub fn new(events: Events) -> Self {
        Self::of(crate::model::DEFAULT_ID, Span::none(), events)
    }

    /// Creates the state of the migration with this id. Everything in it belongs to the span `migration`.
    pub fn of(id: &str, migration: Span, events: Events) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = id;
        Self {
            events,
            spans: Spans::new(migration),
            #[cfg(feature = "metrics")]
            metrics: Metrics::new(id),
            copied_documents: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            compared_documents: AtomicU64::new(0),
            compared_bytes: AtomicU64::new(0),
            comparison: Mutex::default(),
            cutover_work: Mutex::default(),
            differences: AtomicU64::new(0),
            total_documents: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            copied: AtomicBool::new(false),
            work: Mutex::new(Work::First),
            phase: watch::Sender::new(Phase::Preflight),
            watermark: watch::Sender::new(None),
            source_position: watch::Sender::new(None),
            pace: Mutex::new(None),
            copy_speed: Mutex::new(None),
            read: Mutex::new(Position::ZERO),
            read_operations: AtomicU64::new(0),
            resume: Mutex::new(None),
            oplog_window: Mutex::new(None),
            shaping: Arc::new(Shaping::none()),
            limits: RateLimiters::default(),
            walker_slots: WalkerSlots::default(),
            whole_copies: WholeCopies::default(),
            last_saved: Mutex::default(),
            late_writes: LateWatch::default(),
            window: window::Window::default(),
            write_block: WriteBlock::default(),
            users: UsersState::default(),
            application: Application::default(),
            expiry: ExpiryForm::default(),
            completion: Completion::default(),
            collections: CollectionStatuses::default(),
            failure: Mutex::new(None),
            recent: Recent::default(),
            indexes: Mutex::default(),
            left_selection: AllLeft::default(),
            resyncs: AtomicU32::new(0),
            retries: AtomicU64::new(0),
            refused: Mutex::new(Vec::new()),
            refused_count: AtomicU64::new(0),
            foreign_writes: Mutex::new(BTreeMap::new()),
            foreign_writes_until: Mutex::new(None),
            foreign_writes_counted: Mutex::new(None),
        }
    }

    /// Notes that a checkpoint was saved.
    pub fn checkpoint_saved(&self) {
        *self.last_saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(bson::DateTime::now());
    }

    pub fn last_saved(&self) -> Option<bson::DateTime> {
        *self.last_saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the total amount to copy, and the amount that the target already had when this process began.
    pub fn begin_copy(&self, total: Amount, already: Amount) {
        self.total_documents.store(total.documents, Relaxed);
        self.total_bytes.store(total.bytes, Relaxed);
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Work::First;
        self.copied_documents.store(already.documents, Relaxed);
        self.copied_bytes.store(already.bytes, Relaxed);
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), already.bytes));
    }

    /// Sets whether every collection is copied and every index is built.
    pub fn set_copied(&self, copied: bool, indexed: bool) {
        if copied && !self.copied.load(Relaxed) {
            let speed = self.speed_so_far(self.copied_bytes.load(Relaxed));
            let mut known = self.copy_speed.lock().unwrap_or_else(PoisonError::into_inner);
            *known = speed.or(*known);
        }
        self.copied.store(copied, Relaxed);
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set(copied && indexed);
    }

    pub fn is_copied(&self) -> bool {
        self.copied.load(Relaxed)
    }

    pub fn is_indexed(&self) -> bool {
        matches!(*self.work.lock().unwrap_or_else(PoisonError::into_inner), Work::Done)
    }

    /// Whether everything is copied and indexed, except for work that the source has made within `latest`.
    pub fn is_indexed_but_for(&self, latest: Duration) -> bool {
        let work = *self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.is_done_but_for(latest)
    }

    /// Whether everything is compared that can be compared during the run, except for what the source has made within `latest`.
    pub fn is_compared_but_for(&self, latest: Duration) -> bool {
        let comparison = self.comparison.lock().unwrap_or_else(PoisonError::into_inner);
        comparison.while_running.is_none_or(|work| work.is_done_but_for(latest))
    }

    /// Reports the next step of a cutover.
    pub fn begin_step(&self, step: CutoverStep) {
        self.events.send(Event::CutoverStep { step });
    }

    /// Emits an event for a document that the target refused for good, and keeps it for the summary.
    pub fn document_refused(&self, namespace: Namespace, id: String, reason: String) {
        let text = format!(
            "the target refused the document with _id {id}: {reason}; fix the cause and start again; the document is then read again"
        );
        self.collections.note_error(&namespace, text.clone());
        self.refused_count.fetch_add(1, Relaxed);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < MOST_REFUSED {
            refused.push((namespace.clone(), text));
        }
        drop(refused);
        self.events.send(Event::DocumentRefused { namespace, id, reason });
    }

    /// Counts a write made by another program. Returns the number of such writes to this collection, or `None` if too many collections are
    /// recorded already.
    pub fn foreign_write(&self, namespace: &Namespace) -> Option<u64> {
        let mut known = self.foreign_writes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_FOREIGN && !known.contains_key(namespace) {
            return None;
        }
        let writes = known.entry(namespace.clone()).or_default();
        *writes += 1;
        Some(*writes)
    }

    /// Sets the position up to which the target's history was watched for writes made by other programs. `None` means that some may have
    /// been missed.
    pub fn set_foreign_writes_until(&self, until: Option<Position>) {
        *self.foreign_writes_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Sets the position up to which writes made by other programs were counted.
    pub fn set_foreign_writes_counted(&self, until: Position) {
        *self
            .foreign_writes_counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub fn foreign_writes_counted(&self) -> Option<Position> {
        *self
            .foreign_writes_counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn foreign_writes_until(&self) -> Option<Position> {
        *self.foreign_writes_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collections that other programs wrote to.
    pub fn foreign_writes(&self) -> Vec<ForeignWrites> {
        let known = self.foreign_writes.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(namespace, writes)| ForeignWrites {
                namespace: namespace.clone(),
                writes: *writes,
            })
            .collect()
    }

    /// Returns the messages about refused documents of a collection.
    pub fn refused_of(&self, namespace: &Namespace) -> Vec<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused
            .iter()
            .filter(|(of, _)| of == namespace)
            .map(|(_, text)| text.clone())
            .collect()
    }

    /// Changes to `phase` if the present phase leads to it, and emits an event. Returns `true` if the phase changed. A task that acts on an
    /// outdated phase therefore changes nothing.
    pub fn set_phase(&self, phase: Phase) -> bool {
        let changed = self.phase.send_if_modified(|current| {
            let changed = current.leads_to(phase);
            if changed {
                *current = phase;
            }
            changed
        });
        if changed {
            self.spans.enter(phase);
            if phase == Phase::Ready {
                self.window.note_ready();
            }
            self.events.send(Event::PhaseChanged { phase });
        }
        changed
    }

    /// Records the error that has ended the run, emits an event for it, and enters the last phase.
    pub fn fail(&self, error: Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        self.events.send(Event::Failed { error });
        self.set_phase(Phase::Failed);
    }

    /// The error that has ended the run.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves a completion in doubt, once it is known whether the checkpoint says that the migration is complete. Everything that moves
    /// with the migration moves or stays in the same step.
    pub fn resolve_completion(&self, is_complete: bool) {
        if is_complete {
            self.write_block.keep();
            self.application.hand_over();
        }
        if self.completion.resolve(is_complete) {
            self.back_to_catch_up();
        }
    }

    /// Leaves a completion in doubt, because the checkpoint cannot be read. The hand-over to the target stands, since both sides are
    /// identical: if the checkpoint says that the migration is complete, later writes to the source would be lost. The next start finds
    /// out.
    pub fn leave_in_doubt(&self) {
        self.write_block.keep();
        self.application.hand_over();
        self.completion.leave_in_doubt();
    }

    /// Returns to following after a cutover that did not complete and that nobody waits for any more.
    pub fn back_to_catch_up(&self) {
        self.late_writes.end();
        self.write_block.give_up();
        self.application.give_up();
        self.expiry.give_up();
        if self.phase() == Phase::Cutover {
            self.set_phase(Phase::CatchUp);
        }
    }

    /// Subscribes to the phase. A receiver can miss a phase that lasts only briefly.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn set_watermark(&self, position: Position) {
        self.watermark.send_replace(Some(position));
    }

    pub fn watermark(&self) -> watch::Receiver<Option<Position>> {
        self.watermark.subscribe()
    }

    /// Begins a run that compares documents during the run if `while_running` is set. The cutover compares the rest.
    pub fn begin_comparison(&self, while_running: bool, at_cutover: ComparedAtCutover) {
        *self.comparison.lock().unwrap_or_else(PoisonError::into_inner) = Comparison {
            while_running: while_running.then_some(Work::First),
            at_cutover,
        };
    }

    /// Sets whether everything is compared that can be compared during the run.
    pub fn set_all_compared(&self, all: bool) {
        let mut comparison = self.comparison.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = &mut comparison.while_running {
            work.set(all);
        }
    }

    /// Sets what a cutover would have to examine now.
    pub fn set_cutover_work(&self, work: CutoverWork) {
        *self.cutover_work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }

    /// Adds to the amount compared during the run, and to the differences found.
    pub fn note_verified(&self, documents: u64, bytes: u64, differences: u64) {
        self.compared_documents.fetch_add(documents, Relaxed);
        self.compared_bytes.fetch_add(bytes, Relaxed);
        self.differences.fetch_add(differences, Relaxed);
    }

    pub fn source_position(&self) -> Option<Position> {
        *self.source_position.borrow()
    }

    pub fn set_source_position(&self, position: Position) {
        self.source_position.send_replace(Some(position));
        if let Some(lag) = self.lag() {
            self.recent.note(lag, self.applied.load(Relaxed));
        }
    }

    /// Sets the position up to which the source's oplog was read. Changes up to it may be applied from now on.
    pub fn set_read(&self, position: Position) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }

    pub fn read(&self) -> Position {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the position from which a new run would resume.
    pub fn set_resume(&self, position: Position) {
        *self.resume.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    }

    pub fn resume(&self) -> Option<Position> {
        *self.resume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the measured time span of the source's oplog.
    pub fn set_oplog_window(&self, window: Option<OplogSpan>) {
        *self.oplog_window.lock().unwrap_or_else(PoisonError::into_inner) = window;
    }

    /// Sets how many resyncs the migration has made. A resync compares everything with the source again.
    pub fn set_resyncs(&self, resyncs: u32) {
        self.resyncs.store(resyncs, Relaxed);
    }

    pub fn resyncs(&self) -> u32 {
        self.resyncs.load(Relaxed)
    }

    /// Counts an error after which the run goes back to its checkpoint.
    pub fn note_retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// Sets the number of indexes that exist and that are built.
    pub fn set_indexes(&self, counts: IndexCounts) {
        *self.indexes.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// Distance of the watermark from the source's newest position.
    pub fn lag(&self) -> Option<Duration> {
        let (watermark, newest) = ((*self.watermark.borrow())?, (*self.source_position.borrow())?);
        Some(Duration::from_secs(u64::from(if watermark >= newest {
            0
        } else {
            newest.time.saturating_sub(watermark.time)
        })))
    }

    /// Returns the present state of the run. A cutover is possible up to a lag of `max_lag`.
    pub fn status(&self, max_lag: Duration) -> Status {
        let phase = self.phase();
        let lag = self.lag();
        let copy_complete = self.is_copied();
        let copied = Amount {
            documents: self.copied_documents.load(Relaxed),
            bytes: self.copied_bytes.load(Relaxed),
        };
        let total = Amount {
            documents: self.total_documents.load(Relaxed),
            bytes: self.total_bytes.load(Relaxed),
        };
        let window = *self.oplog_window.lock().unwrap_or_else(PoisonError::into_inner);
        let running = matches!(phase, Phase::Index | Phase::CatchUp | Phase::Ready);
        Status {
            phase,
            failure: self.failure(),
            position: *self.watermark.borrow(),
            source_position: *self.source_position.borrow(),
            lag,
            copy_complete,
            can_cut_over: running && self.is_indexed_but_for(max_lag) && lag.is_some_and(|lag| lag <= max_lag),
            copied,
            total,
            changes: ChangeCounts {
                applied: self.applied.load(Relaxed),
                dropped: self.dropped.load(Relaxed),
                held_bytes: self.held_bytes.load(Relaxed),
            },
            compared: Amount {
                documents: self.compared_documents.load(Relaxed),
                bytes: self.compared_bytes.load(Relaxed),
            },
            all_compared: self.all_compared(),
            differences: self.differences.load(Relaxed),
            time_left: if copy_complete {
                Some(Duration::ZERO)
            } else {
                self.time_left(copied, total)
            },
            oplog_window: window.map(|window| window.span),
            oplog_time_left: window.and_then(|window| window.left),
            cutover_estimate: lag.filter(|_| copy_complete).map(|lag| self.cutover_estimate(lag)),
            cutover_deadline: self.window.deadline(),
            throttle: self.limits.get(),
            walkers: self.walker_slots.most(),
            lag_history: self.recent.lags(),
            applied_per_second: self.recent.rate(self.applied.load(Relaxed)),
            retries: self.retries.load(Relaxed),
            refused_documents: self.refused_count.load(Relaxed),
            rule_failures: self.shaping.failed(),
            foreign_writes: self
                .foreign_writes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .sum(),
            indexes: *self.indexes.lock().unwrap_or_else(PoisonError::into_inner),
            users: self.users.status(),
        }
    }

    /// Whether everything is compared that is compared during the run.
    fn all_compared(&self) -> bool {
        let comparison = self.comparison.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(comparison.while_running, Some(Work::Done))
    }

    /// Estimates how long a cutover would take if it began now.
    fn cutover_estimate(&self, lag: Duration) -> Duration {
        let work = *self.cutover_work.lock().unwrap_or_else(PoisonError::into_inner);
        let comparison = self.comparison.lock().unwrap_or_else(PoisonError::into_inner);
        let speed = *self.copy_speed.lock().unwrap_or_else(PoisonError::into_inner);
        work.estimate(comparison.at_cutover, lag, speed)
    }

    /// Estimates the time for the remaining bytes at the average speed of this process.
    fn time_left(&self, copied: Amount, total: Amount) -> Option<Duration> {
        let left = total.bytes.saturating_sub(copied.bytes) as f64;
        Duration::try_from_secs_f64(left / self.speed_so_far(copied.bytes)?).ok()
    }

    /// Returns the average speed of this process's copy, in bytes per second.
    fn speed_so_far(&self, copied_bytes: u64) -> Option<f64> {
        let (since, before) = (*self.pace.lock().unwrap_or_else(PoisonError::into_inner))?;
        let (seconds, done) = (since.elapsed().as_secs_f64(), copied_bytes.saturating_sub(before));
        (seconds >= 1.0 && done > 0).then(|| done as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn small_work_that_comes_later_does_not_put_the_cutover_off() {
        let progress = RunState::new(Events::new());
        progress.begin_copy(Amount::default(), Amount::default());
        progress.set_watermark(Position::ZERO);
        progress.set_source_position(Position::ZERO);
        progress.set_phase(Phase::CatchUp);
        let ready = || progress.status(LAG).can_cut_over;
        progress.set_copied(true, false);
        assert!(!ready(), "what there was at the beginning is not done");
        progress.set_copied(true, true);
        assert!(ready());
        for (copied, indexed) in [(true, false), (false, true)] {
            progress.set_copied(copied, indexed);
            assert!(ready());
            tokio::time::advance(LAG).await;
            progress.set_copied(copied, indexed);
            assert!(ready());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!ready(), "it takes longer than a cutover may");
            progress.set_copied(true, true);
            assert!(ready());
        }
        // A run that resumes from its checkpoint.
        progress.begin_copy(Amount::default(), Amount::default());
        progress.set_copied(true, false);
        assert!(!ready());
    }

    #[test]
    fn refused_documents_are_all_counted_and_some_are_named() {
        let progress = RunState::new(Events::new());
        let name = Namespace::new("shop", "orders");
        for id in 0..=MOST_REFUSED {
            progress.document_refused(name.clone(), id.to_string(), "a reason".to_owned());
        }
        assert_eq!(progress.status(LAG).refused_documents, MOST_REFUSED as u64 + 1);
        assert_eq!(progress.refused_of(&name).len(), MOST_REFUSED);
    }
}
