//! The table of routes, from which both the router and its description are made.

use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};

use crate::console::http::openapi::{self, Described};
use crate::console::http::routes::{Parameter, Route};
use crate::console::http::{handlers, mongosync};
use crate::console::settings::{NewEndpoints, NewMigration};
use crate::console::view::Detail;

/// All routes but the page. Those of mongosync exist only for one migration.
pub(super) fn routes(is_single: bool) -> Vec<Route> {
    let mut routes = reading();
    routes.extend(downloads());
    routes.extend(acting());
    if is_single {
        routes.extend(mongosync_routes());
    }
    routes
}

const fn optional(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        required: false,
        is_number: false,
        description,
    }
}

const COLLECTIONS: &[Parameter] = &[
    optional("filter", "Part of the name."),
    optional("phase", "Phase of the collection, such as `copying`."),
    optional(
        "sort",
        "`name`, `progress` or `lag`: what is furthest behind comes first. Default: `name`.",
    ),
    Parameter {
        name: "offset",
        required: false,
        is_number: true,
        description: "Number of collections to skip. Default: 0.",
    },
    Parameter {
        name: "limit",
        required: false,
        is_number: true,
        description: "Maximum number of collections, up to 1000. Default: 50.",
    },
];

const DOCUMENTS: &[Parameter] = &[
    Parameter {
        name: "namespace",
        required: true,
        is_number: false,
        description: "The collection's name on the source.",
    },
    Parameter {
        name: "id",
        required: true,
        is_number: false,
        description: "The `_id` as canonical extended JSON.",
    },
];

fn reading() -> Vec<Route> {
    let of = |path, name, summary, handler| Route::new(Method::GET, path, name, summary, handler);
    vec![
        of(
            "/api/v1/openapi.json",
            "openapi",
            "This description.",
            MethodRouter::new(),
        )
        .tag("console")
        .gives(200, "OpenAPI 3.1.", openapi::of_itself()),
        of(
            "/api/v1/console",
            "console",
            "What this console offers.",
            get(handlers::console),
        )
        .tag("console")
        .gives(200, "What the host allows.", Described::of::<handlers::About>()),
        of(
            "/api/v1/migrations",
            "migrations",
            "Lists all migrations by id.",
            get(handlers::migrations),
        )
        .gives(200, "All migrations.", Described::of::<handlers::Migrations>()),
        of(
            "/api/v1/migrations/{id}",
            "migration",
            "One migration in detail.",
            get(handlers::migration),
        )
        .gives_detail(200),
        of(
            "/api/v1/migrations/{id}/status",
            "status",
            "Status of the run, or of the last one.",
            get(handlers::status),
        )
        .gives(200, "The status.", Described::plain(openapi::status())),
        of(
            "/api/v1/migrations/{id}/collections",
            "collections",
            "State of the collections.",
            get(handlers::collections),
        )
        .asks(COLLECTIONS)
        .gives(
            200,
            "Some of the collections.",
            Described::of::<handlers::Collections>(),
        ),
        of(
            "/api/v1/migrations/{id}/history",
            "history",
            "Samples of the whole run.",
            get(handlers::history),
        )
        .gives(
            200,
            "At most 600 samples, oldest first.",
            Described::of::<handlers::Samples>(),
        ),
        of(
            "/api/v1/migrations/{id}/events",
            "events",
            "Events of the migration, as they come. `Last-Event-ID` resumes; `detail` comes every second.",
            get(handlers::events),
        )
        .gives_as(
            200,
            "Server-sent events: those of the crate with `at`, `missed`, and `detail` with a Detail without `plan`.",
            "text/event-stream",
            Described::plain(openapi::event()),
        ),
        of(
            "/api/v1/migrations/{id}/documents",
            "documents",
            "Reads a document from both sides, if the host allows it.",
            get(handlers::documents),
        )
        .asks(DOCUMENTS)
        .gives(200, "Canonical extended JSON.", Described::of::<handlers::Pair>()),
    ]
}

fn downloads() -> Vec<Route> {
    let of = |path, name, summary, handler| Route::new(Method::GET, path, name, summary, handler).tag("downloads");
    vec![
        of(
            "/api/v1/migrations/{id}/findings",
            "findings",
            "The findings of the last preflight or error, to download.",
            get(handlers::findings),
        )
        .gives(200, "All findings.", Described::plain(openapi::findings())),
        of(
            "/api/v1/migrations/{id}/differences",
            "differences",
            "The last comparison, to download: on request, or of the cutover.",
            get(handlers::differences),
        )
        .gives(
            200,
            "The report of a comparison, and the summary of a cutover.",
            Described::of::<handlers::Differences>(),
        ),
        of(
            "/api/v1/migrations/{id}/certificate",
            "certificate",
            "The certificate of the hand-over, to download.",
            get(handlers::certificate),
        )
        .gives_as(
            200,
            "BSON, as `Certificate::encode` has it.",
            "application/bson",
            Described::plain(openapi::object()),
        ),
        of(
            "/api/v1/migrations/{id}/recording",
            "recording",
            "A recording of the run, to download.",
            get(handlers::recording),
        )
        .gives_as(
            200,
            "JSON lines.",
            "application/x-ndjson",
            Described::plain(openapi::object()),
        ),
    ]
}

fn acting() -> Vec<Route> {
    let to = |path, name, summary, handler| Route::new(Method::POST, path, name, summary, handler);
    vec![
        to(
            "/api/v1/migrations",
            "create",
            "Describes a migration. Nothing is started.",
            post(handlers::create),
        )
        .takes(Described::of::<NewMigration>())
        .gives_detail(201),
        Route::new(
            Method::PUT,
            "/api/v1/migrations/{id}/endpoints",
            "endpoints",
            "Replaces connections and settings of a migration that is not running.",
            put(handlers::endpoints),
        )
        .takes(Described::of::<NewEndpoints>())
        .gives_detail(200),
        Route::new(
            Method::DELETE,
            "/api/v1/migrations/{id}",
            "forget",
            "Removes everything that the migration keeps on the target. What was copied stays.",
            delete(handlers::forget),
        )
        .gives_nothing(204, "It is forgotten."),
        to(
            "/api/v1/migrations/{id}/preflight",
            "preflight",
            "Checks both sides. Changes nothing. Takes as long as it takes.",
            post(handlers::preflight),
        )
        .takes_nothing()
        .gives(
            200,
            "What a run would do, and what prevents it.",
            Described::plain(openapi::plan()),
        ),
        to(
            "/api/v1/migrations/{id}/start",
            "start",
            "Starts or resumes the run.",
            post(handlers::start),
        )
        .takes_nothing()
        .gives_detail(202),
        to(
            "/api/v1/migrations/{id}/pause",
            "pause",
            "Stops reading and writing.",
            post(handlers::pause),
        )
        .takes_nothing()
        .gives_detail(200),
        to(
            "/api/v1/migrations/{id}/resume",
            "resume",
            "Continues after a pause.",
            post(handlers::resume),
        )
        .takes_nothing()
        .gives_detail(200),
        to(
            "/api/v1/migrations/{id}/abandon",
            "abandon",
            "Ends the run, and keeps its checkpoint.",
            post(handlers::abandon),
        )
        .takes_nothing()
        .gives_detail(200),
        to(
            "/api/v1/migrations/{id}/throttle",
            "throttle",
            "Changes the limits.",
            post(handlers::throttle),
        )
        .takes(Described::plain(openapi::throttle()))
        .gives_detail(200),
        to(
            "/api/v1/migrations/{id}/extend",
            "extend",
            "Extends the cutover window.",
            post(handlers::extend),
        )
        .takes(Described::of::<handlers::Extend>())
        .gives_detail(200),
        to(
            "/api/v1/migrations/{id}/verify",
            "verify",
            "Compares both sides during the run.",
            post(handlers::verify),
        )
        .takes(Described::of::<handlers::Names>())
        .gives_detail(202),
        to(
            "/api/v1/migrations/{id}/repair",
            "repair",
            "Writes again what the last comparison found to differ.",
            post(handlers::repair),
        )
        .takes_nothing()
        .gives_detail(202),
        to(
            "/api/v1/migrations/{id}/cutover",
            "cutover",
            "Hands over. The applications must have been stopped, unless the host does that.",
            post(handlers::cutover),
        )
        .takes(Described::of::<handlers::CutOver>())
        .gives_detail(202),
        to(
            "/api/v1/migrations/{id}/reverse",
            "reverse",
            "Describes the migration that takes the hand-over back.",
            post(handlers::reverse),
        )
        .takes(Described::of::<handlers::Reverse>())
        .gives(201, "The migration back.", Described::of::<Detail>()),
    ]
}

fn mongosync_routes() -> Vec<Route> {
    let answer = Described::of::<mongosync::Answer>;
    let to = |path, name, summary, handler| Route::new(Method::POST, path, name, summary, handler).tag("mongosync");
    vec![
        to(
            "/api/v1/start",
            "mongosync_start",
            "Starts the migration.",
            post(mongosync::start),
        )
        .takes(Described::of::<mongosync::Start>())
        .gives(200, "Whether it was started.", answer()),
        to(
            "/api/v1/pause",
            "mongosync_pause",
            "Pauses the run.",
            post(mongosync::pause),
        )
        .takes_nothing()
        .gives(200, "Whether it is paused.", answer()),
        to(
            "/api/v1/resume",
            "mongosync_resume",
            "Resumes a paused or stopped run.",
            post(mongosync::resume),
        )
        .takes_nothing()
        .gives(200, "Whether it goes on.", answer()),
        to(
            "/api/v1/commit",
            "mongosync_commit",
            "Hands over.",
            post(mongosync::commit),
        )
        .takes_nothing()
        .gives(200, "Whether the cutover has begun.", answer()),
        to(
            "/api/v1/reverse",
            "mongosync_reverse",
            "Takes the hand-over back.",
            post(mongosync::reverse),
        )
        .takes_nothing()
        .gives(200, "Whether the way back has begun.", answer()),
        Route::new(
            Method::GET,
            "/api/v1/progress",
            "mongosync_progress",
            "Progress as mongosync has it.",
            get(mongosync::progress),
        )
        .tag("mongosync")
        .gives(200, "The progress.", Described::of::<mongosync::ProgressAnswer>()),
    ]
}
