//! Progress as mongosync has it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::{answer, current, kind_of};
use crate::console::endpoint::Party;
use crate::console::http::extract::Json;
use crate::console::managed::{Direction, Managed, Stage, State as ManagedState};
use crate::console::registry::Console;
use crate::console::view::{self, Action};
use crate::report::{CollectionStatus, Phase, Status};

/// How long a round trip is waited for.
const PING: Duration = Duration::from_secs(2);

/// The progress of the migration.
#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncProgressAnswer)]
#[serde(rename_all = "camelCase")]
pub(in crate::console::http) struct ProgressAnswer {
    progress: Progress,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncProgress)]
#[serde(rename_all = "camelCase")]
struct Progress {
    state: Stand,
    can_commit: bool,
    can_write: bool,
    info: Option<&'static str>,
    lag_time_seconds: Option<u64>,
    total_events_applied: u64,
    collection_copy: CollectionCopy,
    index_building: IndexBuilding,
    direction_mapping: Option<DirectionMapping>,
    #[serde(rename = "mongosyncID")]
    mongosync_id: &'static str,
    #[serde(rename = "coordinatorID")]
    coordinator_id: &'static str,
    source: Ping,
    destination: Ping,
    verification: Verification,
}

/// A state of mongosync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MongosyncState)]
#[serde(rename_all = "UPPERCASE")]
enum Stand {
    Idle,
    Running,
    Paused,
    Committing,
    Committed,
    Reversing,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncCollectionCopy)]
#[serde(rename_all = "camelCase")]
struct CollectionCopy {
    estimated_total_bytes: u64,
    estimated_copied_bytes: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncIndexBuilding)]
#[serde(rename_all = "camelCase")]
struct IndexBuilding {
    indexes_built: u64,
    total_indexes_to_build: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncDirectionMapping)]
#[serde(rename_all = "PascalCase")]
struct DirectionMapping {
    source: String,
    destination: String,
}

/// Round trip of one command; -1 if it is not known.
#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncPing)]
#[serde(rename_all = "camelCase")]
struct Ping {
    ping_latency_ms: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MongosyncVerificationProgress)]
struct Verification {
    source: Hashed,
    destination: Hashed,
}

#[derive(Clone, Serialize, ToSchema)]
#[schema(as = MongosyncHashed)]
#[serde(rename_all = "camelCase")]
struct Hashed {
    phase: &'static str,
    estimated_document_count: u64,
    hashed_document_count: u64,
    lag_time_seconds: Option<u64>,
    total_collection_count: usize,
    scanned_collection_count: usize,
}

pub(in crate::console::http) async fn progress(State(console): State<Console>) -> Response {
    let managed = match current(&console) {
        Ok(managed) => managed,
        Err(problem) => return answer(Err(problem)),
    };
    let (source, destination) = pings(&managed).await;
    let (failure, progress) = {
        let state = managed.state();
        let status = state.status();
        let failure = match &state.stage {
            Stage::Ended(last) => last.error.clone(),
            _ => None,
        };
        let can_commit = view::actions(&managed, &state, status.as_ref()).contains(&Action::Cutover);
        let parties = (state.source.clone(), state.target.clone());
        let stand = stand(&managed, &state, status.as_ref());
        let status = status.unwrap_or_default();
        drop(state);
        let collections = managed.collections();
        let hashed = hashed(&status, &collections);
        let progress = Progress {
            state: stand,
            can_commit,
            can_write: stand == Stand::Committed,
            info: info(stand, status.phase),
            lag_time_seconds: status.lag.map(|lag| lag.as_secs()),
            total_events_applied: status.changes.applied,
            collection_copy: CollectionCopy {
                estimated_total_bytes: status.total.bytes,
                estimated_copied_bytes: status.copied.bytes,
            },
            index_building: IndexBuilding {
                indexes_built: status.indexes.built,
                total_indexes_to_build: status.indexes.total,
            },
            direction_mapping: direction(managed.direction, parties),
            mongosync_id: "coordinator",
            coordinator_id: "coordinator",
            source,
            destination,
            verification: Verification {
                source: hashed.clone(),
                destination: hashed,
            },
        };
        (failure, progress)
    };
    let answer = ProgressAnswer {
        progress,
        success: failure.is_none(),
        error: kind_of(failure.as_ref()),
        error_description: failure.map(|error| error.report()),
    };
    Json(StatusCode::OK, answer).into_response()
}

fn stand(managed: &Managed, state: &ManagedState, status: Option<&Status>) -> Stand {
    match status.map(|status| status.phase) {
        _ if state.is_complete() => Stand::Committed,
        Some(Phase::Complete) => Stand::Committed,
        Some(Phase::Paused | Phase::Stopped) => Stand::Paused,
        Some(Phase::Cutover) => Stand::Committing,
        Some(Phase::Failed) => Stand::Idle,
        Some(_) if state.cutover.running => Stand::Committing,
        Some(_) => Stand::Running,
        None if managed.direction == Direction::Reverse => Stand::Reversing,
        None => Stand::Idle,
    }
}

fn info(stand: Stand, phase: Phase) -> Option<&'static str> {
    match (stand, phase) {
        (Stand::Committed, _) => Some("commit completed"),
        (Stand::Committing, _) => Some("waiting for commit to complete"),
        (Stand::Running, Phase::Preflight | Phase::Copy) => Some("collection copy"),
        (Stand::Running, _) => Some("change event application"),
        _ => None,
    }
}

/// The first cluster is the source of the migration that the host has described, in both directions.
fn direction(direction: Direction, parties: (Option<Party>, Option<Party>)) -> Option<DirectionMapping> {
    let (source, destination) = (parties.0?, parties.1?);
    let [first, second] = match direction {
        Direction::Forward => ["cluster0", "cluster1"],
        Direction::Reverse => ["cluster1", "cluster0"],
    };
    let shown = |cluster, party: Party| format!("{cluster}: {}", party.hosts.join(","));
    Some(DirectionMapping {
        source: shown(first, source),
        destination: shown(second, destination),
    })
}

fn hashed(status: &Status, collections: &[Arc<CollectionStatus>]) -> Hashed {
    Hashed {
        phase: match status.all_compared {
            _ if status.compared.documents == 0 => "idle",
            true => "stream hashing",
            false => "initial hashing",
        },
        estimated_document_count: status.total.documents,
        hashed_document_count: status.compared.documents,
        lag_time_seconds: status.lag.map(|lag| lag.as_secs()),
        total_collection_count: collections.len(),
        scanned_collection_count: collections.iter().filter(|collection| collection.all_compared).count(),
    }
}

/// Measures the round trips to both sides of a run.
async fn pings(managed: &Managed) -> (Ping, Ping) {
    let Some(run) = managed.handle() else {
        return (Ping { ping_latency_ms: -1 }, Ping { ping_latency_ms: -1 });
    };
    let job = run.job();
    futures::join!(
        ping(job.source.read_position().map(|answer| answer.is_ok())),
        ping(job.sink.load_record("ping").map(|answer| answer.is_ok()))
    )
}

async fn ping(answer: impl Future<Output = bool>) -> Ping {
    let begun = Instant::now();
    let answered = timeout(PING, answer).await.unwrap_or(false);
    let took = i64::try_from(begun.elapsed().as_millis()).unwrap_or(-1);
    Ping {
        ping_latency_ms: if answered { took } else { -1 },
    }
}
