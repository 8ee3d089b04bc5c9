//! One migration in the console: what is known of it, and its run.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::api::handle::MigrationHandle;
use crate::api::records::KnownMigration;
use crate::api::verify::VerifyReport;
use crate::console::build::{Build, HostWayBack, Overrides, StopWrites, Tell};
use crate::console::endpoint::Party;
use crate::console::event_log::EventLog;
use crate::console::history::History;
use crate::console::lock;
use crate::console::waits::Waits;
use crate::error::{Error, Finding};
use crate::preflight::Plan;
use crate::report::{CollectionStatus, CutoverStep, Outcome, Status, Summary};

/// A migration that the console knows.
#[derive(Debug)]
pub(super) struct Managed {
    pub id: String,
    pub origin: Origin,
    pub direction: Direction,
    pub events: EventLog,
    pub history: History,
    pub waits: Arc<Waits>,
    /// Held by the cutover until its result is noted. The end of the run is noted after that.
    pub handing_over: Arc<tokio::sync::Mutex<()>>,
    /// Changes when a start has ended.
    pub stage_changed: watch::Sender<()>,
    state: Mutex<State>,
}

/// Who has made the migration known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Origin {
    /// The host.
    Host,
    /// Someone in the page.
    Page,
    /// The target, which has its records.
    Target,
}

/// Whether the migration takes back another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    Forward,
    Reverse,
}

/// What changes about a migration.
#[derive(Debug)]
pub(super) struct State {
    /// How it is built; `None` if it cannot be started here.
    pub build: Option<Build>,
    pub calls: HostCalls,
    pub overrides: Overrides,
    pub source: Option<Party>,
    pub target: Option<Party>,
    pub stage: Stage,
    /// When the stage changed last.
    pub since: Instant,
    /// What the target knows of it.
    pub known: Option<KnownMigration>,
    pub plan: Option<Preflighted>,
    pub preflight_running: bool,
    /// Whether its records are being removed.
    pub forgetting: bool,
    /// Number of starts.
    pub starts: u64,
    /// Whether there was a run, so that the target may have records.
    pub had_run: bool,
    pub summary: Option<Arc<Summary>>,
    pub verify: Verify,
    pub cutover: Cutover,
}

/// Functions of the host for one migration.
#[derive(Clone, Default)]
pub(super) struct HostCalls {
    pub stop_writes: Option<StopWrites>,
    pub way_back: Option<HostWayBack>,
}

/// Where a migration stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// It has not been started here.
    Idle,
    /// It is connecting, in preflight, or waits for its lease.
    Starting(CancellationToken),
    Running(MigrationHandle),
    Ended(Box<Last>),
}

/// What is left of a run.
#[derive(Debug, Default)]
pub(super) struct Last {
    /// `None` if the start failed.
    pub status: Option<Status>,
    pub collections: Vec<Arc<CollectionStatus>>,
    pub error: Option<Error>,
}

/// Result of a preflight.
#[derive(Clone, Debug)]
pub(super) enum Preflighted {
    Plan(Arc<Plan>),
    /// No connection could be made, and the error has findings.
    NotReached(Error),
}

/// Comparison at request.
#[derive(Clone, Debug, Default)]
pub(super) struct Verify {
    pub running: bool,
    pub report: Option<Arc<VerifyReport>>,
    pub repaired: Option<u64>,
    pub error: Option<Error>,
}

/// The cutover in progress, or the last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Cutover {
    pub running: bool,
    /// Number of cutovers so far.
    pub count: u64,
    /// The current step, or the one that failed.
    pub step: Option<CutoverStep>,
    pub complete: bool,
    /// Whether the comparison found differences.
    pub differs: bool,
    pub error: Option<Error>,
    /// When `stop_writes` began.
    pub stopped: Option<Instant>,
    /// From the beginning of `stop_writes` to the end.
    pub downtime: Option<Duration>,
}

impl Managed {
    pub fn new(id: String, origin: Origin, direction: Direction, state: State) -> Self {
        Self {
            id,
            origin,
            direction,
            events: EventLog::default(),
            history: History::default(),
            waits: Arc::default(),
            handing_over: Arc::default(),
            stage_changed: watch::Sender::default(),
            state: Mutex::new(state),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The handle of the run, if there is one.
    pub fn handle(&self) -> Option<MigrationHandle> {
        match &self.state().stage {
            Stage::Running(handle) => Some(handle.clone()),
            _ => None,
        }
    }

    /// Receives reports of waiting while there is no run.
    pub fn tell(&self) -> Tell {
        let waits = Arc::clone(&self.waits);
        Arc::new(move |wait| waits.note(wait))
    }

    /// What a script of mongosync has chosen.
    pub fn overrides(&self) -> Overrides {
        self.state().overrides.clone()
    }

    /// State of each collection of the run, or of the last one.
    pub fn collections(&self) -> Vec<Arc<CollectionStatus>> {
        match &self.state().stage {
            Stage::Running(handle) => handle.collections(),
            Stage::Ended(last) => last.collections.clone(),
            _ => Vec::new(),
        }
    }
}

impl State {
    pub fn new(build: Option<Build>) -> Self {
        Self {
            build,
            calls: HostCalls::default(),
            overrides: Overrides::default(),
            source: None,
            target: None,
            stage: Stage::Idle,
            since: Instant::now(),
            known: None,
            plan: None,
            preflight_running: false,
            forgetting: false,
            starts: 0,
            had_run: false,
            summary: None,
            verify: Verify::default(),
            cutover: Cutover::default(),
        }
    }

    pub fn enter(&mut self, stage: Stage) {
        // Its owner is this process from here on, until the target is listed again.
        if let (Stage::Running(_), Some(known)) = (&stage, &mut self.known) {
            known.owner = None;
        }
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Whether it is complete, by what this process or the target knows.
    pub fn is_complete(&self) -> bool {
        match &self.stage {
            Stage::Ended(last) => {
                use crate::error::ErrorKind::AlreadyComplete;
                use crate::report::Phase::Complete;
                last.status.as_ref().is_some_and(|status| status.phase == Complete)
                    || last.error.as_ref().is_some_and(|error| error.kind() == AlreadyComplete)
            }
            Stage::Idle => self.known.as_ref().is_some_and(|known| known.complete),
            _ => false,
        }
    }

    /// Status of the run, or the last one.
    pub fn status(&self) -> Option<Status> {
        match &self.stage {
            Stage::Running(handle) => Some(handle.status()),
            Stage::Ended(last) => last.status.clone(),
            _ => None,
        }
    }

    /// Whether it is neither running nor about to.
    pub fn is_still(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Ended(_))
    }
}

impl Cutover {
    /// Notes that a step has begun.
    pub fn enter(&mut self, step: CutoverStep) {
        if self.stopped.is_none() && step == CutoverStep::StopWrites {
            self.stopped = Some(Instant::now());
        }
        self.step = Some(step);
    }

    /// Begins another one.
    pub fn begin(&mut self) {
        *self = Self {
            running: true,
            count: self.count + 1,
            ..Self::default()
        };
    }

    /// Notes the end.
    pub fn end(&mut self, ended: &crate::error::Result<Summary>) {
        self.running = false;
        match ended {
            Ok(summary) if summary.outcome == Outcome::Complete => self.complete = true,
            Ok(_) => self.differs = true,
            Err(error) => self.error = Some(error.clone()),
        }
        self.downtime = self.stopped.map(|since| since.elapsed());
    }
}

impl Preflighted {
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Plan(plan) => &plan.findings,
            Self::NotReached(error) => error.findings(),
        }
    }
}

/// Without a connection, there is a plan that has findings and nothing else.
impl Serialize for Preflighted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plan(plan) => plan.serialize(serializer),
            Self::NotReached(error) => serde_json::json!({
                "type": "plan", "source": null, "target": null, "findings": error.findings(), "collections": [],
                "total": { "documents": 0, "bytes": 0 }, "indexes": 0, "estimate": null, "to_drop": [], "not_migrated": [],
            })
            .serialize(serializer),
        }
    }
}

impl std::fmt::Debug for HostCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostCalls").finish_non_exhaustive()
    }
}
