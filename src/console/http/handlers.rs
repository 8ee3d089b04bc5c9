//! The handlers of the routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::verify::VerifyReport;
use crate::config::Throttle;
use crate::console::endpoint::{Endpoint, Party};
use crate::console::history::Sample;
use crate::console::http::extract::{Asked, Json, Named, Posted};
use crate::console::http::problem::Problem;
use crate::console::http::{openapi, stream};
use crate::console::managed::{Managed, Preflighted, Stage};
use crate::console::registry::Console;
use crate::console::settings::{NewEndpoints, NewMigration};
use crate::console::view::{self, Action, Detail, Entry};
use crate::console::{actions, describe, run};
use crate::error::{Error, Finding};
use crate::model::{Amount, Namespace, format};
use crate::report::{CollectionStatus, Status, Summary};

type Answer<T> = Result<Json<T>, Problem>;

/// Maximum number of collections in an answer.
const COLLECTIONS: usize = 1000;

/// What the console offers.
#[derive(Serialize, ToSchema)]
#[schema(as = Console)]
pub(super) struct About {
    version: &'static str,
    /// Whether people enter no target.
    fixed_target: bool,
    /// The fixed target.
    target: Option<Party>,
    /// Why the fixed target could not be listed.
    #[schema(schema_with = openapi::optional_error)]
    target_error: Option<Error>,
    can_create: bool,
    documents_on_request: bool,
    #[serde(serialize_with = "format::time")]
    #[schema(value_type = String, format = DateTime)]
    now: SystemTime,
}

/// All migrations.
#[derive(Serialize, ToSchema)]
pub(super) struct Migrations {
    migrations: Vec<Entry>,
}

/// An empty object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Some of the collections.
#[derive(Serialize, ToSchema)]
pub(super) struct Collections {
    /// Number of all collections.
    total: usize,
    /// Number of those that were asked for.
    matching: usize,
    /// Numbers of all collections by phase.
    by_phase: BTreeMap<&'static str, usize>,
    #[serde(serialize_with = "crate::console::shared_list")]
    #[schema(schema_with = openapi::collections)]
    collections: Vec<Arc<CollectionStatus>>,
}

/// Which collections are asked for.
#[derive(Deserialize)]
pub(super) struct WhichCollections {
    filter: Option<String>,
    phase: Option<String>,
    #[serde(default)]
    sort: Sort,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    #[default]
    Name,
    Progress,
    Lag,
}

/// Samples of the whole run.
#[derive(Serialize, ToSchema)]
pub(super) struct Samples {
    samples: Vec<Sample>,
}

/// Which document is asked for.
#[derive(Deserialize)]
pub(super) struct WhichDocument {
    namespace: String,
    id: String,
}

/// A document on both sides.
#[derive(Serialize, ToSchema)]
pub(super) struct Pair {
    /// `null` if it does not exist there.
    source: Option<serde_json::Value>,
    target: Option<serde_json::Value>,
}

/// The last comparisons.
#[derive(Serialize, ToSchema)]
pub(super) struct Differences {
    #[serde(serialize_with = "crate::console::shared")]
    #[schema(schema_with = openapi::optional_verify_report)]
    report: Option<Arc<VerifyReport>>,
    #[serde(serialize_with = "crate::console::shared")]
    #[schema(schema_with = openapi::optional_summary)]
    summary: Option<Arc<Summary>>,
}

/// By how much to extend the cutover window.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Extend {
    #[schema(example = 86_400_000)]
    by_ms: u64,
}

/// Collections by their names on the source.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Names {
    /// Empty for all.
    #[serde(default)]
    collections: Vec<String>,
}

/// A cutover that someone has decided on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CutOver {
    /// `cutover.token` of the detail that the decision is based on.
    token: String,
    /// Whether not to wait until everything is compared that can be compared before.
    #[serde(default)]
    now: bool,
}

/// Connections of the migration that is taken back, where the console does not know them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reverse {
    /// The old source, which becomes the target.
    source: Option<Endpoint>,
    /// The old target, which becomes the source.
    target: Option<Endpoint>,
}

impl Console {
    /// A migration in detail.
    pub(super) fn detail(&self, managed: &Managed, with_plan: bool) -> Detail {
        let documents = self.inner.choices.documents_on_request;
        view::detail(managed, documents, with_plan, |state, status| {
            actions::token(self, managed, state, status)
        })
    }

    fn answer(&self, status: StatusCode, managed: &Managed) -> Json<Detail> {
        Json(status, self.detail(managed, true))
    }
}

pub(super) async fn console(State(console): State<Console>) -> Json<About> {
    console.list_targets();
    let fixed = console.inner.targets.fixed.as_ref();
    Json(
        StatusCode::OK,
        About {
            version: env!("CARGO_PKG_VERSION"),
            fixed_target: fixed.is_some(),
            target: fixed.map(|fixed| fixed.party()),
            target_error: fixed.and_then(|fixed| fixed.error()),
            can_create: console.inner.choices.can_create,
            documents_on_request: console.inner.choices.documents_on_request,
            now: SystemTime::now(),
        },
    )
}

pub(super) async fn migrations(State(console): State<Console>) -> Json<Migrations> {
    console.list_targets();
    let migrations = console.all().iter().map(|managed| view::entry(managed)).collect();
    Json(StatusCode::OK, Migrations { migrations })
}

pub(super) async fn create(
    State(console): State<Console>,
    Posted(body): Posted<NewMigration>,
) -> Result<Response, Problem> {
    let managed = describe::create(&console, body)?;
    Ok(created(&console, &managed, "migrations/"))
}

/// The answer for a new migration. `Location` is relative to the address of the request.
fn created(console: &Console, managed: &Managed, prefix: &str) -> Response {
    let mut response = console.answer(StatusCode::CREATED, managed).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("{prefix}{}", managed.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

pub(super) async fn endpoints(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(body): Posted<NewEndpoints>,
) -> Answer<Detail> {
    describe::set_endpoints(&console, &managed, body).await?;
    Ok(console.answer(StatusCode::OK, &managed))
}

pub(super) async fn migration(State(console): State<Console>, Named(managed): Named) -> Json<Detail> {
    console.answer(StatusCode::OK, &managed)
}

pub(super) async fn forget(State(console): State<Console>, Named(managed): Named) -> Result<StatusCode, Problem> {
    actions::forget(&console, &managed).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn status(Named(managed): Named) -> Answer<Status> {
    let status = managed.state().status();
    let status = status.ok_or_else(|| missing("there was no run in this process: start the migration"))?;
    Ok(Json(StatusCode::OK, status))
}

pub(super) async fn collections(Named(managed): Named, Asked(which): Asked<WhichCollections>) -> Json<Collections> {
    let all = managed.collections();
    let total = all.len();
    let mut by_phase = BTreeMap::new();
    for collection in &all {
        *by_phase.entry(collection.phase.as_str()).or_default() += 1;
    }
    let filter = which.filter.unwrap_or_default().to_lowercase();
    let is_asked_for = |collection: &Arc<CollectionStatus>| {
        let matches = |name: &Namespace| name.as_str().to_lowercase().contains(&filter);
        (matches(&collection.namespace) || matches(&collection.target))
            && which
                .phase
                .as_ref()
                .is_none_or(|phase| phase == collection.phase.as_str())
    };
    let mut matching: Vec<_> = all.into_iter().filter(is_asked_for).collect();
    match which.sort {
        Sort::Name => matching.sort_by(|one, other| one.namespace.cmp(&other.namespace)),
        Sort::Progress => matching.sort_by_cached_key(|collection| {
            (
                permille(collection.copied, collection.total),
                collection.namespace.clone(),
            )
        }),
        Sort::Lag => matching.sort_by_cached_key(|collection| {
            let left = collection.total.bytes.saturating_sub(collection.copied.bytes);
            (std::cmp::Reverse(left), collection.namespace.clone())
        }),
    }
    let limit = which.limit.unwrap_or(50).min(COLLECTIONS);
    Json(
        StatusCode::OK,
        Collections {
            total,
            matching: matching.len(),
            by_phase,
            collections: matching.into_iter().skip(which.offset).take(limit).collect(),
        },
    )
}

/// How much is copied, in thousandths.
fn permille(copied: Amount, total: Amount) -> u64 {
    match total.bytes {
        0 => 1000,
        total => u64::try_from(u128::from(copied.bytes) * 1000 / u128::from(total)).unwrap_or(u64::MAX),
    }
}

pub(super) async fn history(Named(managed): Named) -> Json<Samples> {
    let samples = managed.history.samples();
    Json(StatusCode::OK, Samples { samples })
}

pub(super) async fn events(
    State(console): State<Console>,
    Named(managed): Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    stream::open(&console, &managed, &headers)
}

pub(super) async fn documents(
    State(console): State<Console>,
    Named(managed): Named,
    Asked(which): Asked<WhichDocument>,
) -> Answer<Pair> {
    let namespace = which.namespace.parse()?;
    let [source, target] = actions::documents(&console, &managed, &namespace, &which.id).await?;
    Ok(Json(StatusCode::OK, Pair { source, target }))
}

pub(super) async fn findings(Named(managed): Named) -> Response {
    let findings: Vec<Finding> = {
        let state = managed.state();
        let of_error = match &state.stage {
            Stage::Ended(last) => last.error.as_ref().map(|error| error.findings().to_vec()),
            _ => None,
        };
        let of_plan = state.plan.as_ref().map(|plan| plan.findings().to_vec());
        of_error
            .filter(|findings| !findings.is_empty())
            .or(of_plan)
            .unwrap_or_default()
    };
    download(&managed, "findings.json", Json(StatusCode::OK, findings))
}

pub(super) async fn differences(Named(managed): Named) -> Response {
    let state = managed.state();
    let (report, summary) = (state.verify.report.clone(), state.summary.clone());
    drop(state);
    download(
        &managed,
        "differences.json",
        Json(StatusCode::OK, Differences { report, summary }),
    )
}

pub(super) async fn certificate(Named(managed): Named) -> Result<Response, Problem> {
    let summary = managed.state().summary.clone();
    let certificate = summary.as_ref().and_then(|summary| summary.certificate.as_ref());
    let certificate = certificate
        .ok_or_else(|| missing("there is no certificate: a cutover in this process that completes makes one"))?;
    let encoded = certificate.encode()?;
    let kind = [(header::CONTENT_TYPE, "application/bson")];
    Ok(download(
        &managed,
        "certificate.bson",
        (kind, Body::from(encoded.into_bytes())),
    ))
}

pub(super) async fn recording(Named(_): Named) -> Problem {
    missing("there is no recording of this migration")
}

fn missing(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// An answer that the browser saves to a file. An id has only characters that fit into a header.
fn download(managed: &Managed, name: &str, content: impl IntoResponse) -> Response {
    let mut response = content.into_response();
    let disposition = format!("attachment; filename=\"{}-{name}\"", managed.id);
    if let Ok(disposition) = HeaderValue::try_from(disposition) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

pub(super) async fn preflight(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(Nothing {}): Posted<Nothing>,
) -> Answer<Preflighted> {
    Ok(Json(StatusCode::OK, run::preflight(&console, &managed).await?))
}

pub(super) async fn start(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(Nothing {}): Posted<Nothing>,
) -> Answer<Detail> {
    run::start(&console, &managed)?;
    Ok(console.answer(StatusCode::ACCEPTED, &managed))
}

pub(super) async fn pause(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(Nothing {}): Posted<Nothing>,
) -> Answer<Detail> {
    actions::running(&managed, Action::Pause)?.pause().await?;
    Ok(console.answer(StatusCode::OK, &managed))
}

pub(super) async fn resume(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(Nothing {}): Posted<Nothing>,
) -> Answer<Detail> {
    actions::running(&managed, Action::Resume)?.resume()?;
    Ok(console.answer(StatusCode::OK, &managed))
}

pub(super) async fn abandon(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(Nothing {}): Posted<Nothing>,
) -> Answer<Detail> {
    actions::abandon(&managed).await?;
    Ok(console.answer(StatusCode::OK, &managed))
}

pub(super) async fn throttle(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(throttle): Posted<Throttle>,
) -> Answer<Detail> {
    actions::throttle(&managed, throttle)?;
    Ok(console.answer(StatusCode::OK, &managed))
}

pub(super) async fn extend(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(extend): Posted<Extend>,
) -> Answer<Detail> {
    let by = Duration::from_millis(extend.by_ms);
    actions::running(&managed, Action::Extend)?.extend(by).await?;
    Ok(console.answer(StatusCode::OK, &managed))
}

pub(super) async fn verify(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(names): Posted<Names>,
) -> Answer<Detail> {
    let names = names
        .collections
        .iter()
        .map(|name| name.parse())
        .collect::<Result<Vec<_>, _>>()?;
    actions::verify(&console, &managed, names)?;
    Ok(console.answer(StatusCode::ACCEPTED, &managed))
}

pub(super) async fn repair(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(Nothing {}): Posted<Nothing>,
) -> Answer<Detail> {
    actions::repair(&console, &managed)?;
    Ok(console.answer(StatusCode::ACCEPTED, &managed))
}

pub(super) async fn cutover(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(decided): Posted<CutOver>,
) -> Answer<Detail> {
    actions::cut_over(&console, &managed, Some(&decided.token), decided.now)?;
    Ok(console.answer(StatusCode::ACCEPTED, &managed))
}

pub(super) async fn reverse(
    State(console): State<Console>,
    Named(managed): Named,
    Posted(body): Posted<Reverse>,
) -> Result<Response, Problem> {
    let back = describe::take_back(&console, &managed, (body.source, body.target)).await?;
    Ok(created(&console, &back, "../"))
}
