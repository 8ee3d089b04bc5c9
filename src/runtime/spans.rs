//! Spans of `tracing`: which migration, run and phase something belongs to.
//!
//! Spans are opened for a run, a phase, a step of a cutover, a chunk, a batch and an index build, never for a single change.

use std::sync::{Mutex, PoisonError};

use tracing::{Span, info_span};

use crate::report::{Phase, TARGET};

/// The span of a migration in this process, and that of its current phase.
#[derive(Debug)]
pub(crate) struct Spans {
    migration: Span,
    phase: Mutex<Span>,
}

impl Spans {
    /// Opens the span of the first phase within the span of the migration.
    pub fn new(migration: Span) -> Self {
        let spans = Self {
            migration,
            phase: Mutex::new(Span::none()),
        };
        spans.enter(Phase::default());
        spans
    }

    /// The span of the migration, in which everything else is.
    pub fn migration(&self) -> &Span {
        &self.migration
    }

    /// Closes the span of the previous phase, and opens that of `phase` unless it is a last one.
    pub fn enter(&self, phase: Phase) {
        let mut current = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *current = match phase.is_last() {
            true => Span::none(),
            false => info_span!(target: TARGET, parent: &self.migration, "phase", phase = phase.as_str()),
        };
    }
}

/// Opens the span of a migration.
pub(crate) fn migration(id: &str) -> Span {
    info_span!(target: TARGET, "migration", migration = id)
}

/// Opens the span of a run: the `number`th in this process.
pub(crate) fn run(number: u64) -> Span {
    info_span!(target: TARGET, "run", run = number)
}

/// Opens the span of a step of a cutover.
pub(crate) fn cutover_step(name: &'static str) -> Span {
    info_span!(target: TARGET, "cutover_step", step = name)
}
