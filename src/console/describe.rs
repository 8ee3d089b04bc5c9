//! What people describe in the page: migrations, their connections, and the way back.

use std::sync::Arc;

use crate::api::reverse;
use crate::checkpoint::WayBack;
use crate::console::build::{Build, Described, known_checkpoint, known_selection};
use crate::console::endpoint::{Connection, Endpoint};
use crate::console::http::problem::Problem;
use crate::console::managed::{Direction, Managed, Origin, State};
use crate::console::registry::Console;
use crate::console::settings::{NewEndpoints, NewMigration, Settings};
use crate::console::view::{Action, actions};
use crate::report::{Certificate, Summary};

/// Creates a migration that someone has described.
///
/// # Errors
/// The host does not allow it, or something is malformed.
pub(super) fn create(console: &Console, body: NewMigration) -> Result<Arc<Managed>, Problem> {
    may_connect(console)?;
    let mut settings = Settings::default();
    settings.change(body.changes())?;
    settings.selection.get_or_insert_default();
    let source = body.source.read("source")?;
    let target = target(console, body.target, None)?;
    let described = Described {
        source,
        target,
        settings,
        way_back: None,
    };
    let state = described_state(described);
    Ok(console.insert(body.id, Origin::Page, Direction::Forward, state)?)
}

/// Replaces connections and settings of a migration that is not running.
///
/// # Errors
/// The host does not allow it, it is running, the host builds it, or something is malformed.
pub(super) async fn set_endpoints(console: &Console, managed: &Managed, body: NewEndpoints) -> Result<(), Problem> {
    may_connect(console)?;
    let (before, is_hosts) = {
        let state = managed.state();
        (
            state.build.as_ref().and_then(|build| build.described().cloned()),
            matches!(state.build, Some(Build::Host(_) | Build::HostBack(..))),
        )
    };
    if is_hosts || managed.origin == Origin::Host {
        return Err(Problem::conflict(
            "the host connects this migration: change its connections there",
        ));
    }
    let changes = body.changes();
    let source = match (body.source, &before) {
        (Some(source), _) => source.read("source")?,
        (None, Some(before)) => before.source.clone(),
        (None, None) => return Err(Problem::invalid("the source's connection is not known: give `source`")),
    };
    let is_back = before.as_ref().is_some_and(|before| before.way_back.is_some());
    let target = match (&before, is_back) {
        // The way back leads away from the fixed target.
        (Some(before), true) => match body.target {
            Some(target) => target.read("target")?,
            None => before.target.clone(),
        },
        _ => target(console, body.target, before.as_ref().map(|before| &before.target))?,
    };
    let mut settings = before
        .as_ref()
        .map(|before| before.settings.clone())
        .unwrap_or_default();
    settings.change(changes)?;
    // That of the way back follows from the hand-over.
    if settings.selection.is_none() && !is_back {
        settings.selection = Some(match &console.inner.targets.fixed {
            // A migration resumes only with the selection that it has had.
            Some(fixed) => known_selection(&fixed.sink().await?, &managed.id)
                .await?
                .unwrap_or_default(),
            None => Default::default(),
        });
    }
    let described = Described {
        source,
        target,
        settings,
        way_back: before.and_then(|before| before.way_back),
    };
    let mut state = managed.state();
    if !state.is_still() || state.preflight_running || state.forgetting {
        return Err(Problem::conflict(
            "it is running or being checked: wait for that to end, or abandon it",
        ));
    }
    state.source = Some(described.source.party.clone());
    state.target = Some(described.target.party.clone());
    state.build = Some(Build::Page(Box::new(described)));
    state.plan = None;
    Ok(())
}

fn described_state(described: Described) -> State {
    let (source, target) = (described.source.party.clone(), described.target.party.clone());
    let mut state = State::new(Some(Build::Page(Box::new(described))));
    (state.source, state.target) = (Some(source), Some(target));
    state
}

fn may_connect(console: &Console) -> Result<(), Problem> {
    match console.inner.choices.can_create {
        true => Ok(()),
        false => Err(Problem::forbidden(
            "the host does not let people enter connections in this console",
        )),
    }
}

/// The target: the fixed one, the one that was given, or the one from before.
fn target(console: &Console, given: Option<Endpoint>, before: Option<&Connection>) -> Result<Connection, Problem> {
    match (&console.inner.targets.fixed, given, before) {
        (Some(_), Some(_), _) => Err(Problem::invalid("this console has a fixed target: leave out `target`")),
        (Some(fixed), None, _) => Ok(Connection {
            options: fixed.connection.options.clone(),
            party: fixed.party(),
        }),
        (None, Some(given), _) => Ok(given.read("target")?),
        (None, None, Some(before)) => Ok(before.clone()),
        (None, None, None) => Err(Problem::invalid("the target's connection is not known: give `target`")),
    }
}

/// Describes the migration that takes a hand-over back. `source` and `target` are the connections of the migration that is taken back.
///
/// # Errors
/// It is not complete, there is no way back, or a connection is not known.
pub(super) async fn take_back(
    console: &Console,
    managed: &Managed,
    (source, target): (Option<Endpoint>, Option<Endpoint>),
) -> Result<Arc<Managed>, Problem> {
    let (build, calls, summary) = {
        let state = managed.state();
        let status = state.status();
        if !actions(managed, &state, status.as_ref()).contains(&Action::Reverse) {
            return Err(Problem::not_possible(Action::Reverse, &state));
        }
        (state.build.clone(), state.calls.clone(), state.summary.clone())
    };
    if source.is_some() || target.is_some() {
        may_connect(console)?;
    }
    let described = build.as_ref().and_then(|build| build.described());
    let id = format!("{}-reverse", managed.id);
    if let (Some(way_back), None, None) = (&calls.way_back, &source, &target) {
        let known = known_way_back(managed, build.as_ref(), summary.as_deref()).await?;
        let build = Build::HostBack(Arc::clone(way_back), Arc::new(known));
        let mut state = State::new(Some(build));
        let first = managed.state();
        (state.source, state.target) = (first.target.clone(), first.source.clone());
        drop(first);
        return Ok(console.insert(id, Origin::Host, Direction::Reverse, state)?);
    }
    let source = match (source, described) {
        (Some(source), _) => source.read("source")?,
        (None, Some(described)) => described.source.clone(),
        (None, None) => return Err(Problem::invalid("the source's connection is not known: give `source`")),
    };
    let target = match (described, target) {
        (Some(described), None) => described.target.clone(),
        (_, given) => self::target(console, given, None)?,
    };
    let mut settings = described
        .map(|described| described.settings.clone())
        .unwrap_or_default();
    let forward = Described {
        source: source.clone(),
        target: target.clone(),
        settings: settings.clone(),
        way_back: described.and_then(|described| described.way_back.clone()),
    };
    let build = match build {
        Some(build) => build,
        None => Build::Page(Box::new(with_known_selection(console, &managed.id, forward).await?)),
    };
    let way_back = known_way_back(managed, Some(&build), summary.as_deref()).await?;
    // That of the way back follows from the hand-over.
    settings.selection = None;
    let back = Described {
        source: target,
        target: source,
        settings,
        way_back: Some(Arc::new(way_back)),
    };
    Ok(console.insert(id, Origin::Page, Direction::Reverse, described_state(back))?)
}

async fn with_known_selection(console: &Console, id: &str, described: Described) -> Result<Described, Problem> {
    let mut described = described;
    if let Some(fixed) = &console.inner.targets.fixed {
        described.settings.selection = known_selection(&fixed.sink().await?, id).await?;
    }
    Ok(described)
}

/// Returns the way back from the last cutover, or from the checkpoint.
async fn known_way_back(
    managed: &Managed,
    build: Option<&Build>,
    summary: Option<&Summary>,
) -> Result<WayBack, Problem> {
    if let Some(way_back) = summary.and_then(|summary| summary.way_back.clone()) {
        return Ok(way_back);
    }
    let build = build.ok_or_else(|| Problem::invalid("the connections are not known: give `source` and `target`"))?;
    let migration = managed.build(build).await?;
    Ok(reverse::of_checkpoint(migration.engine()).await?)
}

/// Returns the certificate of the last cutover, or from the checkpoint.
///
/// # Errors
/// The target cannot be read.
pub(super) async fn certificate(console: &Console, managed: &Managed) -> Result<Option<Certificate>, Problem> {
    let (summary, build, is_complete) = {
        let state = managed.state();
        let is_complete = state.known.as_ref().is_some_and(|known| known.complete);
        (state.summary.clone(), state.build.clone(), is_complete)
    };
    let of_summary = summary.and_then(|summary| summary.certificate.clone());
    if of_summary.is_some() || !is_complete {
        return Ok(of_summary);
    }
    let of_fixed = console
        .inner
        .targets
        .fixed
        .as_ref()
        .filter(|_| managed.origin != Origin::Host);
    match (of_fixed, build) {
        (Some(fixed), _) => {
            let checkpoint = known_checkpoint(&fixed.sink().await?, &managed.id).await?;
            Ok(checkpoint.as_ref().map_or(Ok(None), Certificate::of)?)
        }
        (None, Some(build)) => Ok(managed.build(&build).await?.certificate().await?),
        (None, None) => Ok(None),
    }
}
