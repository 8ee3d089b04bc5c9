//! How far documents are compared during a run, and what that leaves to the cutover.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::Amount;
use crate::runtime::cutover_estimate::{ComparedAtCutover, CutoverWork};
use crate::runtime::work::Work;

/// Amounts compared during the run, and the work that remains.
#[derive(Debug, Default)]
pub(crate) struct ComparisonProgress {
    documents: AtomicU64,
    bytes: AtomicU64,
    differences: AtomicU64,
    plan: Mutex<ComparisonPlan>,
    cutover_work: Mutex<CutoverWork>,
}

/// What is compared during a run and at its cutover.
#[derive(Debug, Default)]
struct ComparisonPlan {
    /// What remains to be compared during the run; `None` if nothing is compared then.
    while_running: Option<Work>,
    at_cutover: ComparedAtCutover,
}

impl ComparisonProgress {
    /// Begins a run that compares documents during the run if `while_running` is set. The cutover compares the rest.
    pub fn begin(&self, while_running: bool, at_cutover: ComparedAtCutover) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = ComparisonPlan {
            while_running: while_running.then_some(Work::First),
            at_cutover,
        };
    }

    /// Adds to the amount compared during the run, and to the differences found.
    pub fn add(&self, compared: Amount, differences: u64) {
        self.documents.fetch_add(compared.documents, Relaxed);
        self.bytes.fetch_add(compared.bytes, Relaxed);
        self.differences.fetch_add(differences, Relaxed);
    }

    /// The amount compared during the run so far.
    pub fn amount(&self) -> Amount {
        Amount {
            documents: self.documents.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    /// Number of differences found.
    pub fn differences(&self) -> u64 {
        self.differences.load(Relaxed)
    }

    /// Sets whether everything is compared that can be compared during the run.
    pub fn set_done(&self, all: bool) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = &mut plan.while_running {
            work.set(all);
        }
    }

    /// Whether everything is compared that is compared during the run. `false` if nothing is.
    pub fn is_done(&self) -> bool {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.while_running.is_some_and(Work::is_done)
    }

    /// Whether everything is compared that can be compared during the run, except for what the source has made within `latest`.
    pub fn is_done_but_for(&self, latest: Duration) -> bool {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.while_running.is_none_or(|work| work.is_done_but_for(latest))
    }

    /// Sets what a cutover would have to examine now.
    pub fn set_cutover_work(&self, work: CutoverWork) {
        *self.cutover_work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }

    /// Estimates how long a cutover would take if it began now. `bytes_per_second` is the measured speed of the copy.
    pub fn cutover_estimate(&self, lag: Duration, bytes_per_second: Option<f64>) -> Duration {
        let work = *self.cutover_work.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        work.estimate(plan.at_cutover, lag, bytes_per_second)
    }
}
