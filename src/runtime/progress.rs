//! State of a run that all tasks update and the host reads.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::Span;

use crate::error::Error;
use crate::model::{Namespace, Position};
use crate::report::{ChangeCounts, CutoverStep, Event, Events, IndexCounts, LateWatch, Phase, Recent, Status};
use crate::runtime::application::Application;
use crate::runtime::collections::CollectionStatuses;
use crate::runtime::comparison::ComparisonProgress;
use crate::runtime::completion::Completion;
use crate::runtime::copy_progress::CopyProgress;
use crate::runtime::expiry::ExpiryForm;
use crate::runtime::foreign_writes::ForeignWriteCounts;
use crate::runtime::lag::OplogSpan;
use crate::runtime::left_selection::AllLeft;
use crate::runtime::limits::throttle::RateLimiters;
use crate::runtime::limits::walker_slots::WalkerSlots;
#[cfg(feature = "metrics")]
use crate::runtime::metrics::Metrics;
use crate::runtime::refused_documents::RefusedDocuments;
use crate::runtime::shaping::Shaping;
use crate::runtime::spans::Spans;
use crate::runtime::users::UsersState;
use crate::runtime::whole_copies::WholeCopies;
use crate::runtime::window;
use crate::runtime::write_block::WriteBlock;

/// State shared by all tasks of a run and by its handle.
#[derive(Debug)]
pub(crate) struct RunState {
    pub events: Events,
    pub spans: Spans,
    #[cfg(feature = "metrics")]
    pub metrics: Metrics,
    pub copy: CopyProgress,
    pub comparison: ComparisonProgress,
    pub applied: AtomicU64,
    pub dropped: AtomicU64,
    pub held_bytes: AtomicU64,
    phase: watch::Sender<Phase>,
    watermark: watch::Sender<Option<Position>>,
    source_position: watch::Sender<Option<Position>>,
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
    pub foreign_writes: ForeignWriteCounts,
    pub refused: RefusedDocuments,
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
            copy: CopyProgress::default(),
            comparison: ComparisonProgress::default(),
            applied: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Preflight),
            watermark: watch::Sender::new(None),
            source_position: watch::Sender::new(None),
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
            foreign_writes: ForeignWriteCounts::default(),
            refused: RefusedDocuments::default(),
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
        }
    }

    /// Notes that a checkpoint was saved.
    pub fn checkpoint_saved(&self) {
        *self.last_saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(bson::DateTime::now());
    }

    pub fn last_saved(&self) -> Option<bson::DateTime> {
        *self.last_saved.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.refused.add(namespace.clone(), text);
        self.events.send(Event::DocumentRefused { namespace, id, reason });
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
        let copy_complete = self.copy.is_copied();
        let window = *self.oplog_window.lock().unwrap_or_else(PoisonError::into_inner);
        let running = matches!(phase, Phase::Index | Phase::CatchUp | Phase::Ready);
        Status {
            phase,
            failure: self.failure(),
            position: *self.watermark.borrow(),
            source_position: *self.source_position.borrow(),
            lag,
            copy_complete,
            can_cut_over: running && self.copy.is_indexed_but_for(max_lag) && lag.is_some_and(|lag| lag <= max_lag),
            copied: self.copy.amount(),
            total: self.copy.total(),
            changes: ChangeCounts {
                applied: self.applied.load(Relaxed),
                dropped: self.dropped.load(Relaxed),
                held_bytes: self.held_bytes.load(Relaxed),
            },
            compared: self.comparison.amount(),
            all_compared: self.comparison.is_done(),
            differences: self.comparison.differences(),
            time_left: if copy_complete {
                Some(Duration::ZERO)
            } else {
                self.copy.time_left()
            },
            oplog_window: window.map(|window| window.span),
            oplog_time_left: window.and_then(|window| window.left),
            cutover_estimate: lag
                .filter(|_| copy_complete)
                .map(|lag| self.comparison.cutover_estimate(lag, self.copy.speed())),
            cutover_deadline: self.window.deadline(),
            throttle: self.limits.get(),
            walkers: self.walker_slots.most(),
            lag_history: self.recent.lags(),
            applied_per_second: self.recent.rate(self.applied.load(Relaxed)),
            retries: self.retries.load(Relaxed),
            refused_documents: self.refused.count(),
            rule_failures: self.shaping.failed(),
            foreign_writes: self.foreign_writes.total(),
            indexes: *self.indexes.lock().unwrap_or_else(PoisonError::into_inner),
            users: self.users.status(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Amount;
    use crate::runtime::refused_documents::MOST_NAMED;

    const LAG: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn small_work_that_comes_later_does_not_put_the_cutover_off() {
        let progress = RunState::new(Events::new());
        progress.copy.begin(Amount::default(), Amount::default());
        progress.set_watermark(Position::ZERO);
        progress.set_source_position(Position::ZERO);
        progress.set_phase(Phase::CatchUp);
        let ready = || progress.status(LAG).can_cut_over;
        progress.copy.set_done(true, false);
        assert!(!ready(), "what there was at the beginning is not done");
        progress.copy.set_done(true, true);
        assert!(ready());
        for (copied, indexed) in [(true, false), (false, true)] {
            progress.copy.set_done(copied, indexed);
            assert!(ready());
            tokio::time::advance(LAG).await;
            progress.copy.set_done(copied, indexed);
            assert!(ready());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!ready(), "it takes longer than a cutover may");
            progress.copy.set_done(true, true);
            assert!(ready());
        }
        // A run that resumes from its checkpoint.
        progress.copy.begin(Amount::default(), Amount::default());
        progress.copy.set_done(true, false);
        assert!(!ready());
    }

    #[test]
    fn refused_documents_are_all_counted_and_some_are_named() {
        let progress = RunState::new(Events::new());
        let name = Namespace::new("shop", "orders");
        for id in 0..=MOST_NAMED {
            progress.document_refused(name.clone(), id.to_string(), "a reason".to_owned());
        }
        assert_eq!(progress.status(LAG).refused_documents, MOST_NAMED as u64 + 1);
        assert_eq!(progress.refused.of(&name).len(), MOST_NAMED);
    }
}
