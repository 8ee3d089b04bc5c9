//! What people do with a migration that is running, or has been.

use std::sync::Arc;
use std::time::Duration;

use bson::RawBsonRef;
use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::api::handle::MigrationHandle;
use crate::api::records::forget_on_target;
use crate::config::Throttle;
use crate::console::build::StopWrites;
use crate::console::http::problem::Problem;
use crate::console::managed::{Managed, Origin, Stage, State};
use crate::console::registry::Console;
use crate::console::run::ended;
use crate::console::view::{Action, actions};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::order::Key;
use crate::report::{Outcome, Status, Summary};
use crate::runtime::hooks::HookResult;

/// How long a cutover waits for a run that was ready a moment ago.
const STILL_READY: Duration = Duration::from_secs(60);

/// Returns the handle, if the action is possible.
///
/// # Errors
/// It is not possible now.
pub(super) fn running(managed: &Managed, action: Action) -> Result<MigrationHandle, Problem> {
    let state = managed.state();
    let status = state.status();
    match &state.stage {
        Stage::Running(run) if actions(managed, &state, status.as_ref()).contains(&action) => Ok(run.clone()),
        _ => Err(Problem::not_possible(action, &state)),
    }
}

/// Ends a run, or a start in progress.
///
/// # Errors
/// It is not possible now.
pub(super) async fn abandon(managed: &Managed) -> Result<(), Problem> {
    if let Stage::Starting(cancel) = &managed.state().stage {
        cancel.cancel();
        return Ok(());
    }
    running(managed, Action::Abandon)?.abandon().await;
    Ok(())
}

/// Changes the limits of a run.
///
/// # Errors
/// It is not possible now.
pub(super) fn throttle(managed: &Managed, throttle: Throttle) -> Result<(), Problem> {
    running(managed, Action::Throttle)?.throttle(throttle);
    Ok(())
}

/// Compares both sides in the background.
///
/// # Errors
/// It is not possible now.
pub(super) fn verify(console: &Console, managed: &Arc<Managed>, names: Vec<Namespace>) -> Result<(), Problem> {
    let run = running(managed, Action::Verify)?;
    {
        let mut state = managed.state();
        if std::mem::replace(&mut state.verify.running, true) {
            return Err(Problem::not_possible(Action::Verify, &state));
        }
        (state.verify.error, state.verify.repaired) = (None, None);
    }
    let (managed, auditor) = (Arc::clone(managed), console.inner.choices.auditor.clone());
    console.spawn(async move {
        let compared = run.verify(&names).await;
        drop(run);
        ended(&auditor, "verify", &managed, &compared);
        let mut state = managed.state();
        state.verify.running = false;
        match compared {
            Ok(report) => state.verify.report = Some(Arc::new(report)),
            Err(error) => state.verify.error = Some(error),
        }
    });
    Ok(())
}

/// Writes again, in the background, what the last comparison found to differ.
///
/// # Errors
/// It is not possible now.
pub(super) fn repair(console: &Console, managed: &Arc<Managed>) -> Result<(), Problem> {
    let run = running(managed, Action::Repair)?;
    let report = {
        let mut state = managed.state();
        let report = state.verify.report.clone();
        let Some(report) = report.filter(|_| !state.verify.running) else {
            return Err(Problem::not_possible(Action::Repair, &state));
        };
        state.verify.running = true;
        (state.verify.error, state.verify.repaired) = (None, None);
        report
    };
    let (managed, auditor) = (Arc::clone(managed), console.inner.choices.auditor.clone());
    console.spawn(async move {
        let repaired = run.repair(&report).await;
        drop(run);
        ended(&auditor, "repair", &managed, &repaired);
        let mut state = managed.state();
        state.verify.running = false;
        match repaired {
            Ok(count) => state.verify.repaired = Some(count),
            Err(error) => state.verify.error = Some(error),
        }
    });
    Ok(())
}

/// Names what matters for a cutover. Whoever has it has seen the migration as it is.
pub(super) fn token(console: &Console, managed: &Managed, state: &State, status: &Status) -> String {
    let mut seen = Sha256::new();
    seen.update(console.inner.secret.bytes());
    let failure = status.failure.as_ref().map(ToString::to_string);
    let facts = (
        state.starts,
        state.cutover.count,
        status.phase,
        status.differences,
        failure,
    );
    seen.update(format!("{} {facts:?}", managed.id));
    seen.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Hands over in the background. `is_seen` is the token of what the caller has seen; `None` for a caller that does not look.
///
/// # Errors
/// It is not possible now, or the token is stale.
pub(super) fn cut_over(
    console: &Console,
    managed: &Arc<Managed>,
    seen: Option<&str>,
    now: bool,
) -> Result<(), Problem> {
    let action = if now { Action::CutoverNow } else { Action::Cutover };
    let run = running(managed, action)?;
    let (stop, handing_over) = {
        let mut state = managed.state();
        if seen.is_some_and(|seen| seen != token(console, managed, &state, &run.status())) {
            return Err(Problem::conflict(
                "something has changed since the page was loaded: look at the migration again, and then decide",
            ));
        }
        let Ok(handing_over) = Arc::clone(&managed.handing_over).try_lock_owned() else {
            return Err(Problem::not_possible(action, &state));
        };
        state.cutover.begin();
        (state.calls.stop_writes.clone(), handing_over)
    };
    let (managed, auditor) = (Arc::clone(managed), console.inner.choices.auditor.clone());
    console.spawn(async move {
        let handed_over = hand_over(&run, now, stop).await;
        drop(run);
        let is_complete = matches!(&handed_over, Ok(summary) if summary.outcome == Outcome::Complete);
        let outcome = match (&handed_over, is_complete) {
            (Ok(_), true) => Ok(()),
            (Ok(_), false) => Err(differs()),
            (Err(error), _) => Err(error.clone()),
        };
        ended(&auditor, "cutover", &managed, &outcome);
        let mut state = managed.state();
        state.cutover.end(&handed_over);
        if let Ok(summary) = handed_over {
            state.summary = Some(Arc::new(summary));
        }
        drop(state);
        drop(handing_over);
    });
    Ok(())
}

/// Hands over now. The page has shown that it is possible, and someone may have stopped the applications: it must not be delayed for long.
async fn hand_over(run: &MigrationHandle, now: bool, stop: Option<StopWrites>) -> Result<Summary> {
    if !now {
        let ready = timeout(STILL_READY, run.ready_to_cut_over()).await;
        ready.unwrap_or_else(|_| {
            let message = "the run is no longer ready, and did not become so within a minute: let the applications continue, and wait";
            Err(Error::new(ErrorKind::WrongPhase, "cut over", message))
        })?;
    }
    let stop_writes = async {
        let Some(stop) = stop else { return HookResult::Ok(()) };
        let stopped = std::panic::AssertUnwindSafe(async { stop().await })
            .catch_unwind()
            .await;
        stopped.unwrap_or_else(|_| Err("the host's function that stops the writers panicked".into()))
    };
    run.cutover_now(stop_writes).await
}

fn differs() -> Error {
    Error::new(ErrorKind::WrongPhase, "cut over", "both sides differ")
}

/// Removes what a migration keeps on the target, and the migration from the console unless it is the host's.
///
/// # Errors
/// It is running, or the records cannot be removed.
pub(super) async fn forget(console: &Console, managed: &Arc<Managed>) -> Result<(), Problem> {
    let (build, has_records) = {
        let mut state = managed.state();
        let status = state.status();
        if !actions(managed, &state, status.as_ref()).contains(&Action::Forget) {
            return Err(Problem::not_possible(Action::Forget, &state));
        }
        state.forgetting = true;
        (state.build.clone(), state.had_run || state.known.is_some())
    };
    let forgetting = Forgetting(managed);
    if has_records {
        match build {
            Some(build) => {
                build
                    .build(&managed.id, &managed.tell(), &managed.overrides())
                    .await?
                    .forget()
                    .await?
            }
            None => {
                let fixed = console.inner.targets.fixed.as_ref();
                let no_target = || Problem::conflict("only its host can forget it, who is connected to its target");
                let sink = fixed.ok_or_else(no_target)?.sink().await?;
                forget_on_target(sink, &managed.id).await?;
            }
        }
    }
    drop(forgetting);
    if managed.origin == Origin::Host {
        let mut state = managed.state();
        (state.known, state.had_run, state.summary, state.plan) = (None, false, None, None);
        state.enter(Stage::Idle);
    } else {
        console.remove(&managed.id);
    }
    Ok(())
}

struct Forgetting<'a>(&'a Managed);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.state().forgetting = false;
        self.0.waits.clear();
    }
}

/// Reads a document from both sides, as canonical extended JSON.
///
/// # Errors
/// The host does not allow it, the `_id` is malformed, or there is no run.
pub(super) async fn documents(
    console: &Console,
    managed: &Managed,
    namespace: &Namespace,
    id: &str,
) -> Result<[Option<serde_json::Value>; 2], Problem> {
    if !console.inner.choices.documents_on_request {
        return Err(Problem::forbidden("the host does not show documents in this console"));
    }
    let malformed = || Problem::invalid("`id` is not the canonical extended JSON of an `_id`");
    let value: serde_json::Value = serde_json::from_str(id).map_err(|_| malformed())?;
    let value = bson::Bson::try_from(value).map_err(|_| malformed())?;
    let value = bson::RawBson::try_from(value).map_err(|_| malformed())?;
    let key = Key::from(value.as_raw_bson_ref());
    let no_run = || Problem::conflict("documents are read by a run, and there is none: start the migration");
    let run = managed.handle().ok_or_else(no_run)?;
    let both = run.read_both(namespace, &key).await?;
    let shown = |document: Option<bson::RawDocumentBuf>| {
        // A key shows any value as canonical extended JSON.
        let text = document.map(|document| format!("{:?}", Key::from(RawBsonRef::Document(&document))));
        text.and_then(|text| serde_json::from_str(&text).ok())
    };
    Ok([shown(both.source), shown(both.target)])
}
