//! Preflight and runs: what the console does for a migration in the background.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::handle::MigrationHandle;
use crate::api::migration::Migration;
use crate::console::audit::{AuditOutcome, AuditRecord, Auditor};
use crate::console::build::Build;
use crate::console::http::problem::Problem;
use crate::console::managed::{Cutover, Last, Managed, Preflighted, Stage, State, Verify};
use crate::console::registry::{Console, Tasks};
use crate::console::view::{Action, actions};
use crate::error::{Error, Result};
use crate::model::Side;
use crate::report::{Event, Phase};
use crate::runtime::job::Job;

/// Interval between samples for the history.
const SAMPLES: Duration = Duration::from_secs(1);

/// Timeout for finding out the names of both sides, which are only shown.
const DESCRIBED: Duration = Duration::from_secs(10);

/// Checks a migration, and waits for the result. It goes on if the caller does not wait.
///
/// # Errors
/// The migration cannot be checked now, or the check failed without findings.
pub(super) async fn preflight(console: &Console, managed: &Arc<Managed>) -> Result<Preflighted, Problem> {
    let build = take_build(managed, Action::Preflight, |state| state.preflight_running = true)?;
    managed.waits.clear();
    let (reply, checked) = oneshot::channel();
    let (task, managed) = (console.tasks(), Arc::clone(managed));
    let ended = Ended(Arc::clone(&managed));
    console.spawn(async move {
        let ended = ended;
        let checked = async {
            let migration = build.build(&managed.id, &managed.tell(), &managed.overrides()).await?;
            let describe = describe(Arc::clone(migration.engine()), Arc::clone(&managed));
            task.spawn(describe);
            migration.preflight().await
        };
        let checked = match checked.await {
            Ok(plan) => Ok(Preflighted::Plan(Arc::new(plan))),
            Err(error) if !error.findings().is_empty() => Ok(Preflighted::NotReached(error)),
            Err(error) => Err(error),
        };
        if let Ok(checked) = &checked {
            managed.state().plan = Some(checked.clone());
        }
        drop(ended);
        // The one who asked may be gone.
        let _ = reply.send(checked);
    });
    match checked.await {
        Ok(checked) => Ok(checked?),
        Err(_) => Err(Problem::gone()),
    }
}

/// Ends a preflight, whatever comes of it.
struct Ended(Arc<Managed>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.state().preflight_running = false;
        self.0.waits.clear();
    }
}

/// Starts a migration, or resumes it.
///
/// # Errors
/// It cannot be started now.
pub(super) fn start(console: &Console, managed: &Arc<Managed>) -> Result<(), Problem> {
    let cancel = CancellationToken::new();
    let build = take_build(managed, Action::Start, |state| {
        state.enter(Stage::Starting(cancel.clone()));
        state.starts += 1;
        (state.summary, state.verify, state.cutover) = (None, Verify::default(), Cutover::default());
    })?;
    managed.waits.clear();
    managed.events.begin_run();
    managed.history.begin_run();
    let (managed, auditor) = (Arc::clone(managed), console.inner.choices.auditor.clone());
    let tasks = console.tasks();
    console.spawn(async move {
        let begin = async {
            let migration = build
                .build(&managed.id, &managed.tell(), &managed.overrides())
                .await
                .inspect_err(|error| {
                    managed.events.push(&Event::Failed { error: error.clone() });
                })?;
            begin(&tasks, &managed, migration).await
        };
        let begun = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::stopped("start the migration")),
            begun = begin => begun,
        };
        managed.waits.clear();
        let outcome = match &begun {
            Ok(_) => AuditOutcome::Completed,
            Err(_) => AuditOutcome::Failed,
        };
        auditor.tell(AuditRecord::new("start", Some(&managed.id), outcome));
        match begun {
            Ok((run, events)) => {
                let is_wanted = enter_run(&managed, run);
                managed.stage_changed.send_replace(());
                if is_wanted {
                    follow(&managed, events).await;
                }
            }
            Err(error) => {
                let mut state = managed.state();
                if matches!(state.stage, Stage::Starting(_)) {
                    state.enter(Stage::Ended(Box::new(Last {
                        error: Some(error),
                        ..Last::default()
                    })));
                }
                drop(state);
                managed.stage_changed.send_replace(());
            }
        }
    });
    Ok(())
}

/// Follows a run of the host.
pub(super) fn watch(console: &Console, managed: &Arc<Managed>, run: MigrationHandle) {
    let events = run.events();
    let describe = describe(Arc::clone(run.job()), Arc::clone(managed));
    managed.state().enter(Stage::Running(run));
    console.spawn(describe);
    let managed = Arc::clone(managed);
    console.spawn(async move { follow(&managed, events).await });
}

/// Notes that there is a run, unless the start was abandoned or the migration was removed meanwhile.
fn enter_run(managed: &Managed, run: MigrationHandle) -> bool {
    let mut state = managed.state();
    let is_wanted = matches!(&state.stage, Stage::Starting(cancel) if !cancel.is_cancelled());
    match (&state.stage, is_wanted) {
        (_, true) => state.enter(Stage::Running(run)),
        (Stage::Starting(_), false) => {
            let error = Some(Error::stopped("start the migration"));
            state.enter(Stage::Ended(Box::new(Last {
                error,
                ..Last::default()
            })));
        }
        _ => {}
    }
    is_wanted
}

async fn begin(
    tasks: &Tasks,
    managed: &Arc<Managed>,
    migration: Migration,
) -> Result<(MigrationHandle, impl Stream<Item = Event> + Send + Unpin + use<>)> {
    let events = migration.events();
    tasks.spawn(describe(Arc::clone(migration.engine()), Arc::clone(managed)));
    // From here on the target may have records of it.
    managed.state().had_run = true;
    match migration.start().await {
        Ok(run) => Ok((run, events)),
        Err(error) => {
            // Nobody follows the events of a start that has failed.
            managed.events.push(&Event::Failed { error: error.clone() });
            Err(error)
        }
    }
}

/// Finds out what both sides are called, to show it.
async fn describe(job: Arc<Job>, managed: Arc<Managed>) {
    let source = async { (job.source.describe().await, job.source.members().await) };
    let sink = async { (job.sink.describe().await, job.sink.members().await) };
    let Ok((source, sink)) = timeout(DESCRIBED, async { futures::join!(source, sink) }).await else {
        return;
    };
    let mut state = managed.state();
    for (party, name, members) in [(Side::Source, source.0, source.1), (Side::Target, sink.0, sink.1)]
        .map(|(side, described, members)| (side, described.ok().map(|described| described.name), members.ok()))
    {
        let party = match party {
            Side::Source => &mut state.source,
            Side::Target => &mut state.target,
        };
        let party = party.get_or_insert_default();
        if let Some(name) = name {
            party.name = name;
        }
        // Addresses that someone has given may be those that can be reached from here, unlike those of the members.
        if let Some(members) = members
            && party.hosts.is_empty()
        {
            party.hosts = members;
        }
    }
}

/// Takes events and samples until the run has ended, and notes its end.
async fn follow(managed: &Arc<Managed>, events: impl Stream<Item = Event> + Send + Unpin) {
    let mut events = pin!(events);
    let mut tick = interval(SAMPLES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => take(managed, &event),
                None => break,
            },
            _ = tick.tick() => {
                let status = managed.handle().map(|run| run.status());
                match status {
                    Some(status) => managed.history.note(&status),
                    // It was removed from the console.
                    None => return,
                }
            }
        }
    }
    let Some(run) = managed.handle() else { return };
    // Its error is part of the status.
    let _ = run.wait().await;
    let _handed_over = managed.handing_over.lock().await;
    let status = run.status();
    managed.history.note(&status);
    let last = Last {
        error: status.failure.clone(),
        collections: run.collections(),
        status: Some(status),
    };
    managed.waits.clear();
    let mut state = managed.state();
    if matches!(state.stage, Stage::Running(_)) {
        state.verify.running = false;
        state.enter(Stage::Ended(Box::new(last)));
    }
}

fn take(managed: &Managed, event: &Event) {
    managed.events.push(event);
    managed.waits.note_event(event);
    match event {
        Event::CutoverStep { step } => managed.state().cutover.enter(*step),
        // What it waited for is over.
        Event::PhaseChanged {
            phase: Phase::Paused | Phase::Ready,
        } => managed.waits.clear(),
        _ => {}
    }
}

/// Returns how the migration is built, if an action is possible that needs it, and notes that it has begun.
fn take_build(managed: &Managed, action: Action, begin: impl FnOnce(&mut State)) -> Result<Build, Problem> {
    let mut state = managed.state();
    let status = state.status();
    let is_possible = actions(managed, &state, status.as_ref()).contains(&action);
    match &state.build {
        Some(build) if is_possible => {
            let build = build.clone();
            begin(&mut state);
            Ok(build)
        }
        None if state.is_still() => Err(Problem::conflict(
            "the console does not know how to connect: give the connections with `PUT endpoints`",
        )),
        _ => Err(Problem::not_possible(action, &state)),
    }
}

/// Reports the end of what an action has begun.
pub(super) fn ended<T>(auditor: &Auditor, action: &'static str, managed: &Managed, ended: &Result<T>) {
    let outcome = match ended {
        Ok(_) => AuditOutcome::Completed,
        Err(_) => AuditOutcome::Failed,
    };
    auditor.tell(AuditRecord::new(action, Some(&managed.id), outcome));
}
