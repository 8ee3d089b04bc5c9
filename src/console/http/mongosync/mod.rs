//! The API of mongosync, for scripts that were written for it.

mod progress;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::console::build::Overrides;
use crate::console::http::extract::{Json, Posted};
use crate::console::http::handlers::Nothing;
use crate::console::http::problem::Problem;
use crate::console::managed::{Managed, Stage};
use crate::console::registry::Console;
use crate::console::view::Action;
use crate::console::{actions, describe, run};
use crate::error::{Error, ErrorKind};
use crate::model::Selection;

pub(super) use self::progress::{ProgressAnswer, progress};

/// Whether a request was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncAnswer)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    success: bool,
    /// Kind of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<String>,
}

/// What to start. Everything else that mongosync knows is refused by its name.
#[derive(Default, ToSchema)]
#[schema(as = MongosyncStart, rename_all = "camelCase")]
#[allow(dead_code, reason = "it is the description of a body that is read field by field")]
pub(super) struct Start {
    /// `cluster0`.
    source: String,
    /// `cluster1`.
    destination: String,
    /// What to migrate, if the host has not chosen that.
    #[schema(required = false)]
    include_namespaces: Vec<Filter>,
    #[schema(required = false)]
    exclude_namespaces: Vec<Filter>,
    /// Whether `reverse` will be possible. Default: yes.
    reversible: Option<bool>,
    /// Whether the cutover blocks client writes on the source. Default: as the host has it.
    enable_user_write_blocking: Option<bool>,
    /// `afterDataCopy`.
    build_indexes: Option<String>,
    verification: Option<Enabled>,
}

/// A database, or some of its collections.
#[derive(Deserialize, ToSchema)]
#[schema(as = MongosyncNamespaces)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    database: String,
    #[serde(default)]
    collections: Vec<String>,
}

/// The verification, which cannot be turned off here.
#[derive(Deserialize, ToSchema)]
#[schema(as = MongosyncVerification)]
#[serde(deny_unknown_fields)]
pub(super) struct Enabled {
    enabled: bool,
}

/// Parameters of mongosync that have no meaning here.
const WITHOUT_MEANING: &[&str] = &[
    "copyInNaturalOrder",
    "createSupportingIndexes",
    "detectRandomId",
    "documentFilter",
    "hashedIndexes",
    "namespaceRemap",
    "preExistingDestinationData",
    "sharding",
];

/// How long `resume` and `start` wait for a start. A preflight of many collections takes its time.
const STARTED: Duration = Duration::from_secs(600);

impl From<Result<(), Problem>> for Answer {
    fn from(done: Result<(), Problem>) -> Self {
        match done {
            Ok(()) => Self {
                success: true,
                error: None,
                error_description: None,
            },
            Err(problem) => Self {
                success: false,
                error: Some(kind_of(problem.error.as_ref()).unwrap_or_else(|| "InvalidRequest".to_owned())),
                error_description: Some(problem.detail),
            },
        }
    }
}

/// The kind of an error, as the variant is called.
fn kind_of(error: Option<&Error>) -> Option<String> {
    error.map(|error| format!("{:?}", error.kind()))
}

fn answer(done: Result<(), Problem>) -> Response {
    let status = done.as_ref().err().map_or(StatusCode::OK, |problem| problem.status);
    Json(status, Answer::from(done)).into_response()
}

/// The migration, or the one that takes it back, if there is one.
fn current(console: &Console) -> Result<Arc<Managed>, Problem> {
    let first = console.inner.choices.single.as_ref().and_then(|id| console.find(id));
    let mut current = first.ok_or_else(Problem::gone)?;
    while let Some(back) = console.find(&format!("{}-reverse", current.id)) {
        current = back;
    }
    Ok(current)
}

pub(super) async fn start(
    State(console): State<Console>,
    Posted(body): Posted<serde_json::Map<String, serde_json::Value>>,
) -> Response {
    let started = async {
        let managed = current(&console)?;
        let overrides = read(body)?;
        {
            let mut state = managed.state();
            if !matches!(state.stage, Stage::Idle) || state.is_complete() {
                return Err(Problem::not_possible(Action::Start, &state));
            }
            state.overrides = overrides;
        }
        start_and_wait(&console, &managed).await
    };
    answer(started.await)
}

/// Starts, and waits until there is a run: mongosync refuses at once what it cannot start.
async fn start_and_wait(console: &Console, managed: &Arc<Managed>) -> Result<(), Problem> {
    let mut changed = managed.stage_changed.subscribe();
    run::start(console, managed)?;
    let has_begun = timeout(
        STARTED,
        changed.wait_for(|()| !matches!(managed.state().stage, Stage::Starting(_))),
    );
    if has_begun.await.is_err() {
        return Err(Problem::conflict("it is still starting: see `progress`"));
    }
    let state = managed.state();
    match &state.stage {
        Stage::Ended(last) if last.status.is_none() => {
            let error = last.error.clone();
            drop(state);
            // mongosync is idle again after a start that failed.
            if error
                .as_ref()
                .is_some_and(|error| error.kind() != ErrorKind::AlreadyComplete)
            {
                managed.state().enter(Stage::Idle);
            }
            Err(error.map_or_else(Problem::gone, Problem::from))
        }
        _ => Ok(()),
    }
}

/// Reads the body of `start`.
fn read(body: serde_json::Map<String, serde_json::Value>) -> Result<Overrides, Problem> {
    let mut overrides = Overrides::default();
    let mut selection = Selection::all();
    let (mut source, mut destination) = (None, None);
    for (name, value) in body {
        let wrong = |fix: &str| Problem::invalid(format!("`{name}` {fix}"));
        match name.as_str() {
            "source" => source = value.as_str().map(str::to_owned),
            "destination" => destination = value.as_str().map(str::to_owned),
            "includeNamespaces" | "excludeNamespaces" => {
                let malformed = |_| wrong("takes `database` and `collections` alone, without regular expressions");
                let filters: Vec<Filter> = serde_json::from_value(value).map_err(malformed)?;
                for pattern in filters.iter().flat_map(patterns) {
                    match name.as_str() {
                        "includeNamespaces" => selection.include(&pattern)?,
                        _ => selection.exclude(&pattern)?,
                    }
                }
            }
            "reversible" => overrides.reversible = Some(value.as_bool().ok_or_else(|| wrong("is true or false"))?),
            "enableUserWriteBlocking" => {
                overrides.block_source_writes = Some(value.as_bool().ok_or_else(|| wrong("is true or false here"))?);
            }
            "buildIndexes" if value == "afterDataCopy" => {}
            "buildIndexes" => return Err(wrong("can only be `afterDataCopy`: indexes are always built then")),
            "verification" => {
                let enabled = serde_json::from_value(value).is_ok_and(|Enabled { enabled }| enabled);
                if !enabled {
                    return Err(wrong(
                        "can only be `{\"enabled\": true}`: the host decides how both sides are compared",
                    ));
                }
            }
            name if WITHOUT_MEANING.contains(&name) => return Err(wrong("has no meaning here: leave it out")),
            _ => {
                return Err(Problem::invalid(
                    "a parameter is unknown: see the description in `openapi.json`",
                ));
            }
        }
    }
    if (source.as_deref(), destination.as_deref()) != (Some("cluster0"), Some("cluster1")) {
        let message =
            "`source` must be `cluster0` and `destination` must be `cluster1`: the host has set the direction";
        return Err(Problem::invalid(message));
    }
    overrides.selection = (selection != Selection::all()).then_some(selection);
    Ok(overrides)
}

fn patterns(filter: &Filter) -> Vec<String> {
    match &filter.collections[..] {
        [] => vec![format!("{}.*", filter.database)],
        names => names.iter().map(|name| format!("{}.{name}", filter.database)).collect(),
    }
}

pub(super) async fn pause(State(console): State<Console>, Posted(Nothing {}): Posted<Nothing>) -> Response {
    let paused = async { Ok(actions::running(&*current(&console)?, Action::Pause)?.pause().await?) };
    answer(paused.await)
}

/// Also starts a run that has ended, as mongosync resumes after its process was restarted.
pub(super) async fn resume(State(console): State<Console>, Posted(Nothing {}): Posted<Nothing>) -> Response {
    let resumed = async {
        let managed = current(&console)?;
        let is_still = managed.state().is_still();
        match is_still {
            true => start_and_wait(&console, &managed).await,
            false => Ok(actions::running(&managed, Action::Resume)?.resume()?),
        }
    };
    answer(resumed.await)
}

pub(super) async fn commit(State(console): State<Console>, Posted(Nothing {}): Posted<Nothing>) -> Response {
    let begun = current(&console).and_then(|managed| actions::cut_over(&console, &managed, None, false));
    answer(begun)
}

pub(super) async fn reverse(State(console): State<Console>, Posted(Nothing {}): Posted<Nothing>) -> Response {
    let reversed = async {
        let managed = current(&console)?;
        if managed.state().overrides.reversible == Some(false) {
            return Err(Problem::conflict("it was started with `\"reversible\": false`"));
        }
        let back = describe::take_back(&console, &managed, (None, None)).await?;
        start_and_wait(&console, &back).await
    };
    answer(reversed.await)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(body: serde_json::Value) -> Result<Overrides, Problem> {
        match body {
            serde_json::Value::Object(body) => read(body),
            _ => panic!("no object"),
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_its_name() {
        let with = |name: &str, value: serde_json::Value| {
            let mut body = json!({ "source": "cluster0", "destination": "cluster1" });
            body[name] = value;
            read_json(body)
        };
        for name in WITHOUT_MEANING {
            let problem = with(name, json!(true)).err().unwrap();
            assert!(problem.detail.contains(&format!("`{name}`")), "{}", problem.detail);
        }
        for (name, value) in [
            ("buildIndexes", json!("never")),
            ("verification", json!({ "enabled": false })),
            ("includeNamespaces", json!([{ "databaseRegex": { "pattern": "a" } }])),
            ("reversible", json!("yes")),
            ("source", json!("cluster1")),
        ] {
            let problem = with(name, value).err().unwrap();
            assert!(problem.detail.contains(&format!("`{name}`")), "{}", problem.detail);
        }
        assert!(with("s3cret", json!(1)).err().unwrap().detail.contains("unknown"));
        assert!(read_json(json!({})).is_err());
    }

    #[test]
    fn namespaces_become_patterns() {
        let overrides = read_json(json!({
            "source": "cluster0", "destination": "cluster1", "reversible": true, "enableUserWriteBlocking": true,
            "includeNamespaces": [{ "database": "shop", "collections": ["a", "b"] }, { "database": "store" }],
            "excludeNamespaces": [{ "database": "store", "collections": ["tmp"] }],
        }));
        let overrides = overrides.unwrap();
        assert_eq!(
            (overrides.block_source_writes, overrides.reversible),
            (Some(true), Some(true))
        );
        let selection = overrides.selection.unwrap();
        for (name, is_selected) in [
            ("shop.a", true),
            ("shop.c", false),
            ("store.x", true),
            ("store.tmp", false),
        ] {
            assert_eq!(selection.contains(&name.parse().unwrap()), is_selected, "{name}");
        }
    }
}
