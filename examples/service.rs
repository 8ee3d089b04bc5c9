//! A small service that hosts several migrations, with HTTP to watch them and to cut over.
//!
//! `cargo run --example service -- migrations.json 8080` runs the migrations of a list:
//!
//! ```json
//! [{ "id": "shop", "source": "mongodb://…", "target": "mongodb://…", "selection": { "include": ["shop.*"] } }]
//! ```
//!
//! | request | reply |
//! |---|---|
//! | `GET /migrations` | the state of each: its status, or the error that its start failed with |
//! | `GET /migrations/{id}` | the state of one |
//! | `POST /migrations/{id}/cutover` | hands over, and replies with the summary. Stop the applications before |
//!
//! `GET /` is the same as `GET /migrations`. Replies are in the crate's own format, which the guide `format` describes. A process that was
//! stopped or killed continues from the checkpoints when it is started again with the same list. A migration that cannot be started waits
//! for its operator, who removes the cause and starts the service again. There is no authentication, so the service listens on this machine
//! only.
//!
//! Without arguments, the example starts its own servers, and runs until it is interrupted.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use futures::future::join_all;
use mongoferry::{
    Error, ErrorKind, Migration, MigrationHandle, MongoSink, MongoSource, Phase, Resources, Selection, Status, Throttle,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Memory in bytes that all migrations share.
const MEMORY_BYTES: usize = 512 << 20;
/// How long the migrations may take to stop. What is not finished then is done again by the next process.
const SHUTDOWN: Duration = Duration::from_secs(20);
/// How long clients may take for their requests after that.
const LINGER: Duration = Duration::from_secs(2);

/// A migration of the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    /// Must stay the same, because it names the checkpoint.
    id: String,
    source: String,
    target: String,
    #[serde(default)]
    selection: Selection,
    #[serde(default)]
    throttle: Throttle,
}

/// The migrations by id. A slot is empty until the start has succeeded or failed.
type Hosted = BTreeMap<String, OnceLock<mongoferry::Result<MigrationHandle>>>;

/// The state of a migration. Both fields are null while it starts.
#[derive(Default, Serialize)]
struct Shown {
    status: Option<Status>,
    error: Option<Error>,
}

impl Shown {
    fn of(slot: &OnceLock<mongoferry::Result<MigrationHandle>>) -> Self {
        let mut shown = Self::default();
        match slot.get() {
            None => {}
            Some(Ok(run)) => shown.status = Some(run.status()),
            Some(Err(error)) => shown.error = Some(error.clone()),
        }
        shown
    }
}

async fn all(State(hosted): State<Arc<Hosted>>) -> Response {
    let all: BTreeMap<_, _> = hosted.iter().map(|(id, slot)| (id, Shown::of(slot))).collect();
    Json(all).into_response()
}

async fn one(State(hosted): State<Arc<Hosted>>, Path(id): Path<String>) -> Response {
    match hosted.get(&id) {
        Some(slot) => Json(Shown::of(slot)).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A client that disconnects cancels its cutover: the run then continues to follow the source.
async fn cutover(State(hosted): State<Arc<Hosted>>, Path(id): Path<String>) -> Response {
    let refuse = |error: Error| (StatusCode::CONFLICT, Json(error)).into_response();
    let run = match hosted.get(&id).and_then(OnceLock::get) {
        Some(Ok(run)) => run,
        Some(Err(error)) => return refuse(error.clone()),
        None => return StatusCode::NOT_FOUND.into_response(),
    };
    // Applications that are stopped already must not wait for the copy.
    if !matches!(run.status().phase, Phase::Ready | Phase::Cutover) {
        let message = "the run is not ready: wait until `phase` of the status is `ready`";
        return refuse(Error::new(ErrorKind::WrongPhase, "cut over", message));
    }
    // The operator has stopped the applications.
    match run.cutover(async {}).await {
        Ok(summary) => Json(summary).into_response(),
        Err(error) => refuse(error),
    }
}

/// Starts a migration, or resumes it from its checkpoint, and logs its events until the run ends.
async fn run(hosted: Arc<Hosted>, described: Described, resources: Resources) {
    let Some(slot) = hosted.get(&described.id) else { return };
    let start = async {
        let source = MongoSource::connect(&described.source).await?;
        let sink = MongoSink::connect(&described.target).await?;
        let migration = Migration::builder(source, sink)
            .id(&described.id)
            .selection(described.selection)
            .throttle(described.throttle)
            .resources(&resources)
            .build()?;
        let events = migration.events();
        Ok((migration.start().await?, events))
    };
    let mut events = match start.await {
        Ok((handle, events)) => {
            let _ = slot.set(Ok(handle));
            events
        }
        Err(error) => {
            println!("{}: {error}", described.id);
            let _ = slot.set(Err(error));
            return;
        }
    };
    while let Some(event) = events.next().await {
        println!("{}: {event}", described.id);
    }
}

async fn host(migrations: Vec<Described>, port: u16) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let ids = migrations
        .iter()
        .map(|described| (described.id.clone(), OnceLock::new()));
    let hosted: Arc<Hosted> = Arc::new(ids.collect());
    if hosted.len() < migrations.len() {
        return Err("two migrations have the same id: give each its own".into());
    }
    println!("http://{}/migrations", listener.local_addr()?);
    let resources = Resources::new().memory_bytes(MEMORY_BYTES);
    let mut runs = JoinSet::new();
    for described in migrations {
        runs.spawn(run(Arc::clone(&hosted), described, resources.clone()));
    }
    let router = Router::new()
        .route("/", get(all))
        .route("/migrations", get(all))
        .route("/migrations/{id}", get(one))
        .route("/migrations/{id}/cutover", post(cutover))
        .with_state(Arc::clone(&hosted));
    let (stopped, when_stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async { drop(when_stopped.await) });
    let stop = async {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        // Requests are answered meanwhile. A cutover in progress ends first.
        let handles = hosted.values().filter_map(|slot| slot.get()?.as_ref().ok());
        join_all(handles.map(|handle| handle.shutdown(SHUTDOWN))).await;
        runs.shutdown().await;
        let _ = stopped.send(());
        sleep(LINGER).await;
    };
    tokio::select! { served = server.into_future() => Ok(served?), () = stop => Ok(()) }
}

/// Reads the list. An error names the place in the file, not its contents, which may have passwords.
fn read(file: &str) -> Result<Vec<Described>> {
    let list = std::fs::read(file).map_err(|error| format!("cannot read `{file}`: {error}"))?;
    serde_json::from_slice(&list).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("`{file}` is not a list of migrations: see line {line}, column {column}").into()
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = arguments.get(1).map_or(Ok(8080), |port| port.parse());
    match (arguments.as_slice(), port) {
        ([], _) => demonstration::run().await,
        ([file] | [file, _], Ok(port)) => host(read(file)?, port).await,
        _ => {
            eprintln!("usage: cargo run --example service -- FILE [PORT]");
            std::process::exit(2)
        }
    }
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry::bson::doc;
    use mongoferry_testbed::{ReplicaSet, Version};

    use super::*;

    pub async fn run() -> Result<()> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        let mut migrations = Vec::new();
        for id in ["shop", "zoo", "bank"] {
            let documents = (0..1000).map(|number| doc! { "_id": number });
            let collection = old.client().await?.database(id).collection("things");
            collection.insert_many(documents).await?;
            let mut selection = Selection::all();
            selection.include(&format!("{id}.*"))?;
            migrations.push(Described {
                id: id.to_owned(),
                source: old.uri(),
                target: new.uri(),
                selection,
                throttle: Throttle::default(),
            });
        }
        host(migrations, 0).await
    }
}
