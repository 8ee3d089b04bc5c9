//! How a migration is shown: as an entry of the list, and in detail.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::verify::VerifyReport;
use crate::console::endpoint::Party;
use crate::console::http::openapi;
use crate::console::managed::{Cutover, Direction, Managed, Origin, Preflighted, Stage, State};
use crate::console::settings::Settings;
use crate::error::{Error, Severity};
use crate::model::{Amount, Wait, format};
use crate::report::{Call, CutoverStep, Phase, Status, Summary};
use crate::runtime::lease::LeaseOwner;

/// Where a migration stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// Described, and never started here.
    Created,
    /// Connecting, in preflight, or waiting for its lease.
    Starting,
    /// There is a run, which may be paused.
    Running,
    /// Complete, stopped or failed.
    Ended,
    /// Found on the target from before a restart.
    Stored,
    /// Another process runs it.
    Elsewhere,
}

/// What can be done with a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Preflight,
    Start,
    Pause,
    Resume,
    Throttle,
    Extend,
    Verify,
    Repair,
    Cutover,
    CutoverNow,
    Reverse,
    Abandon,
    Forget,
}

/// A migration in the list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entry {
    pub id: String,
    pub state: Standing,
    pub origin: Origin,
    pub direction: Direction,
    pub source: Option<Party>,
    pub target: Option<Party>,
    #[schema(schema_with = openapi::optional_phase)]
    pub phase: Option<Phase>,
    pub lag_ms: Option<u64>,
    #[schema(schema_with = openapi::optional_amount)]
    pub copied: Option<Amount>,
    #[schema(schema_with = openapi::optional_amount)]
    pub total: Option<Amount>,
    pub can_cut_over: bool,
    #[serde(serialize_with = "format::optional_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cutover_deadline: Option<SystemTime>,
    pub cutover_estimate_ms: Option<u64>,
    /// Documents that differed in comparisons during the run.
    pub differences: u64,
    /// Warnings of the last preflight and of the run.
    pub warnings: usize,
    /// The process that runs it, if it is another one.
    #[schema(schema_with = openapi::optional_lease_owner)]
    pub owner: Option<LeaseOwner>,
    /// Why the start or the run failed.
    #[schema(schema_with = openapi::optional_error)]
    pub error: Option<Error>,
    /// What is possible at this moment.
    pub actions: Vec<Action>,
}

/// A migration in detail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Detail {
    #[serde(flatten)]
    pub entry: Entry,
    /// `null` for a migration of the host.
    pub settings: Option<Settings>,
    /// Result of the last preflight. Left out of the events of a stream, because it can be large.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = openapi::optional_plan)]
    pub plan: Option<Option<Preflighted>>,
    pub preflight_running: bool,
    /// What it waits for now, newest last.
    #[schema(schema_with = openapi::waits)]
    pub waits: Vec<Wait>,
    #[schema(schema_with = openapi::optional_status)]
    pub status: Option<Status>,
    /// Result of the last cutover.
    #[serde(serialize_with = "crate::console::shared")]
    #[schema(schema_with = openapi::optional_summary)]
    pub summary: Option<Arc<Summary>>,
    /// Whether there is a certificate to download.
    pub certificate: bool,
    pub verify: VerifyView,
    pub cutover: Option<CutoverView>,
    /// Where the applications find the data after the cutover.
    pub new_connection: NewConnection,
    pub documents_on_request: bool,
}

/// Comparison at request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VerifyView {
    pub running: bool,
    #[serde(serialize_with = "crate::console::shared")]
    #[schema(schema_with = openapi::optional_verify_report)]
    pub report: Option<Arc<VerifyReport>>,
    /// Number of documents that were written again.
    pub repaired: Option<u64>,
    #[schema(schema_with = openapi::optional_error)]
    pub error: Option<Error>,
}

/// The cutover that is possible, in progress, or over.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CutoverView {
    /// Names what has been seen, for `POST cutover`.
    pub token: String,
    /// Whether the host stops the applications. If not, people have to.
    pub host_stops_writes: bool,
    pub steps: Vec<StepView>,
    #[schema(schema_with = openapi::optional_error)]
    pub error: Option<Error>,
    /// How long the applications stood still, as far as the console can see.
    pub downtime_ms: Option<u64>,
}

/// A step of a cutover.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepView {
    #[schema(schema_with = openapi::cutover_step)]
    pub step: CutoverStep,
    pub state: StepState,
    pub detail: Option<String>,
}

/// State of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StepState {
    Waiting,
    Running,
    Done,
    Failed,
}

/// Where the applications find the data.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct NewConnection {
    pub hosts: Vec<String>,
    pub replica_set: Option<String>,
}

/// Returns the entry of a migration.
pub(super) fn entry(managed: &Managed) -> Entry {
    let state = managed.state();
    let status = state.status();
    entry_of(managed, &state, status.as_ref())
}

/// Returns a migration in detail, with or without its plan. `token` makes the token of a cutover.
pub(super) fn detail(
    managed: &Managed,
    documents_on_request: bool,
    with_plan: bool,
    token: impl FnOnce(&State, &Status) -> String,
) -> Detail {
    let state = managed.state();
    let status = state.status();
    let cutover = match (&state.stage, &status) {
        (Stage::Running(_), Some(status)) => Some(cutover_view(&state, token(&state, status))),
        (Stage::Ended(_), Some(status)) if state.cutover.count > 0 => Some(cutover_view(&state, token(&state, status))),
        _ => None,
    };
    let target = state.target.clone().unwrap_or_default();
    let settings = state.build.as_ref().and_then(|build| build.described());
    Detail {
        entry: entry_of(managed, &state, status.as_ref()),
        settings: settings.map(|described| described.settings.clone()),
        plan: with_plan.then(|| state.plan.clone()),
        preflight_running: state.preflight_running,
        waits: managed.waits.current(),
        certificate: state
            .summary
            .as_ref()
            .is_some_and(|summary| summary.certificate.is_some()),
        summary: state.summary.clone(),
        verify: VerifyView {
            running: state.verify.running,
            report: state.verify.report.clone(),
            repaired: state.verify.repaired,
            error: state.verify.error.clone(),
        },
        cutover,
        new_connection: NewConnection {
            hosts: target.hosts,
            replica_set: (!target.name.is_empty()).then_some(target.name),
        },
        documents_on_request,
        status,
    }
}

/// A duration as whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn entry_of(managed: &Managed, state: &State, status: Option<&Status>) -> Entry {
    let known = state.known.as_ref();
    let findings = state.plan.as_ref().map_or(&[][..], Preflighted::findings);
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    let known_phase = known
        .filter(|_| matches!(state.stage, Stage::Idle))
        .map(|known| known.phase);
    let running = matches!(state.stage, Stage::Running(_));
    Entry {
        id: managed.id.clone(),
        state: standing(managed, state),
        origin: managed.origin,
        direction: managed.direction,
        source: state.source.clone(),
        target: state.target.clone(),
        phase: status.map(|status| status.phase).or(known_phase),
        lag_ms: status.and_then(|status| status.lag).map(milliseconds),
        copied: status.map(|status| status.copied),
        total: status.map(|status| status.total),
        can_cut_over: running && status.is_some_and(|status| status.can_cut_over),
        cutover_deadline: status.and_then(|status| status.cutover_deadline),
        cutover_estimate_ms: status.and_then(|status| status.cutover_estimate).map(milliseconds),
        differences: status.map_or(0, |status| status.differences),
        warnings: warnings.count() + managed.events.warnings(),
        owner: known.filter(|_| state.is_still()).and_then(|known| known.owner.clone()),
        error: match &state.stage {
            Stage::Ended(last) => last.error.clone(),
            _ => None,
        },
        actions: actions(managed, state, status),
    }
}

fn standing(managed: &Managed, state: &State) -> Standing {
    let is_elsewhere = state.known.as_ref().is_some_and(|known| known.owner.is_some());
    match &state.stage {
        Stage::Starting(_) => Standing::Starting,
        Stage::Running(_) => Standing::Running,
        _ if is_elsewhere => Standing::Elsewhere,
        Stage::Ended(_) => Standing::Ended,
        Stage::Idle if state.known.is_some() || managed.origin == Origin::Target => Standing::Stored,
        Stage::Idle => Standing::Created,
    }
}

/// What is possible at this moment.
pub(super) fn actions(managed: &Managed, state: &State, status: Option<&Status>) -> Vec<Action> {
    match standing(managed, state) {
        Standing::Starting => vec![Action::Abandon],
        Standing::Running => status.map(|status| running_actions(state, status)).unwrap_or_default(),
        Standing::Elsewhere => Vec::new(),
        Standing::Created | Standing::Ended | Standing::Stored => still_actions(managed, state),
    }
}

fn still_actions(managed: &Managed, state: &State) -> Vec<Action> {
    let mut actions = Vec::new();
    if state.preflight_running || state.forgetting {
        return actions;
    }
    let is_complete = state.is_complete();
    if state.build.is_some() && !is_complete {
        actions.extend([Action::Preflight, Action::Start]);
    }
    if is_complete && !is_watched_only(state) {
        actions.push(Action::Reverse);
    }
    let has_records = state.build.is_some() && state.had_run;
    if managed.origin != Origin::Host || has_records || state.known.is_some() {
        actions.push(Action::Forget);
    }
    actions
}

/// Whether the host runs it by itself, so that nothing can be built.
fn is_watched_only(state: &State) -> bool {
    state.build.is_none() && state.known.is_none() && state.calls.way_back.is_none()
}

fn running_actions(state: &State, status: &Status) -> Vec<Action> {
    let phase = status.phase;
    if state.cutover.running {
        return vec![Action::Throttle, Action::Abandon];
    }
    let allowed = |call| phase.check(call).is_ok();
    let has_differences = state
        .verify
        .report
        .as_ref()
        .is_some_and(|report| report.difference_count() > 0);
    let comparing = state.verify.running;
    [
        (Action::Pause, allowed(Call::Pause) && phase != Phase::Paused),
        (Action::Resume, allowed(Call::Resume)),
        (Action::Throttle, !phase.is_last()),
        (
            Action::Extend,
            allowed(Call::Extend) && status.cutover_deadline.is_some(),
        ),
        (Action::Verify, allowed(Call::Verify) && !comparing),
        (Action::Repair, allowed(Call::Verify) && !comparing && has_differences),
        (Action::Cutover, phase == Phase::Ready && status.can_cut_over),
        (Action::CutoverNow, allowed(Call::CutOver) && status.can_cut_over),
        (Action::Abandon, !phase.is_last()),
    ]
    .into_iter()
    .filter(|(_, is_possible)| *is_possible)
    .map(|(action, _)| action)
    .collect()
}

fn cutover_view(state: &State, token: String) -> CutoverView {
    let cutover = &state.cutover;
    CutoverView {
        token,
        host_stops_writes: state.calls.stop_writes.is_some(),
        steps: steps(cutover),
        error: cutover.error.clone(),
        downtime_ms: cutover.downtime.map(milliseconds),
    }
}

fn steps(cutover: &Cutover) -> Vec<StepView> {
    let reached = cutover
        .step
        .and_then(|step| CutoverStep::ALL.iter().position(|other| *other == step));
    let has_failed = cutover.error.is_some() || cutover.differs;
    let state = |index: usize| match reached {
        _ if cutover.complete => StepState::Done,
        // It failed before its first step.
        None if index == 0 && has_failed => StepState::Failed,
        None => StepState::Waiting,
        Some(reached) if index < reached => StepState::Done,
        Some(reached) if index > reached => StepState::Waiting,
        Some(_) if has_failed => StepState::Failed,
        Some(_) if cutover.running => StepState::Running,
        Some(_) => StepState::Waiting,
    };
    let steps = CutoverStep::ALL.iter().enumerate();
    steps
        .map(|(index, step)| StepView {
            step: *step,
            state: state(index),
            detail: match (state(index), &cutover.error) {
                (StepState::Failed, Some(error)) => Some(error.to_string()),
                (StepState::Failed, None) => Some("both sides differ: the summary says where".to_owned()),
                _ => None,
            },
        })
        .collect()
}
