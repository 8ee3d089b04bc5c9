//! The router, made from the table of routes.

use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use crate::console::audit::{AuditOutcome, AuditRecord};
use crate::console::http::guard::guard;
use crate::console::http::openapi::{self, Described};
use crate::console::http::problem::Problem;
use crate::console::http::table::routes;
use crate::console::http::{handlers, page};
use crate::console::registry::Console;
use crate::console::view::Detail;
use crate::model::MigrationId;

/// One route.
pub(super) struct Route {
    pub method: Method,
    pub path: &'static str,
    /// Also the action in audit records, unless the method is safe.
    pub name: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub parameters: &'static [Parameter],
    pub body: Option<Described>,
    pub answers: Vec<Answer>,
    handler: MethodRouter<Console>,
}

/// A parameter behind the question mark.
pub(super) struct Parameter {
    pub name: &'static str,
    pub required: bool,
    pub is_number: bool,
    pub description: &'static str,
}

/// An answer that is no problem.
pub(super) struct Answer {
    pub status: u16,
    pub description: &'static str,
    /// Content type and schema.
    pub content: Option<(&'static str, Described)>,
}

const JSON: &str = "application/json";

/// Creates the router of a console, for a host to mount in its own server.
///
/// It can be mounted at any path with [`nest_service`](axum::Router::nest_service): all addresses of the page are relative to that.
/// ([`nest`](axum::Router::nest) works as well, but does not find the path with a slash at its end.) It answers only requests that name a
/// [known host](crate::console::ConsoleBuilder::allow_host). Who may use it is the host's decision: put your own authentication around it.
///
/// ```no_run
/// # fn serve(console: mongoferry::console::Console) -> axum::Router {
/// axum::Router::new().nest_service("/console", mongoferry::console::router(console))
/// # }
/// ```
pub fn router(console: Console) -> Router {
    let is_single = console.inner.choices.single.is_some();
    let mut router = Router::new();
    let mut described = Vec::new();
    for mut route in routes(is_single) {
        let handler = std::mem::take(&mut route.handler);
        let handler = match route.method.is_safe() {
            true => handler,
            false => {
                let (console, action) = (console.clone(), route.name);
                handler.layer(from_fn_with_state(
                    console,
                    move |State(console): State<Console>, params: RawPathParams, request: Request, next: Next| {
                        audited(console, action, params, request, next)
                    },
                ))
            }
        };
        router = router.route(route.path, handler);
        described.push(route);
    }
    let description = serde_json::to_vec(&openapi::describe(&described)).unwrap_or_default();
    let description: std::sync::Arc<[u8]> = description.into();
    let describe = get(move || {
        let description = axum::body::Bytes::from_owner(std::sync::Arc::clone(&description));
        async move { ([(axum::http::header::CONTENT_TYPE, JSON)], description) }
    });
    router
        .route("/", get(page::index))
        .route("/{file}", get(page::named))
        .route(DESCRIPTION, describe)
        .fallback(|| async { page::not_found() })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "the method is not possible here: `api/v1/openapi.json` describes what is",
            )
        })
        .layer(from_fn_with_state(console.clone(), guard))
        .with_state(console)
}

/// Where the description is. It is in the table without a handler, because it needs the table.
const DESCRIPTION: &str = "/api/v1/openapi.json";

/// Reports an action.
async fn audited(
    console: Console,
    action: &'static str,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    // What is no id may be anything, and does not belong into a log.
    let id = params
        .iter()
        .find(|(name, id)| *name == "id" && id.parse::<MigrationId>().is_ok());
    let id = id.map(|(_, id)| id.to_owned());
    let id = id.or_else(|| console.inner.choices.single.clone());
    let response = next.run(request).await;
    let status = response.status();
    let outcome = match status.is_success() {
        true => AuditOutcome::Accepted,
        false => AuditOutcome::Refused(status.as_u16()),
    };
    console.audit(AuditRecord::new(action, id.as_deref(), outcome));
    response.into_response()
}

impl Route {
    pub fn new(
        method: Method,
        path: &'static str,
        name: &'static str,
        summary: &'static str,
        handler: MethodRouter<Console>,
    ) -> Self {
        Self {
            method,
            path,
            name,
            tag: "migrations",
            summary,
            parameters: &[],
            body: None,
            answers: Vec::new(),
            handler,
        }
    }

    pub fn tag(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    pub fn asks(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }

    pub fn takes(mut self, body: Described) -> Self {
        self.body = Some(body);
        self
    }

    pub fn takes_nothing(self) -> Self {
        self.takes(Described::of::<handlers::Nothing>())
    }

    pub fn gives(self, status: u16, description: &'static str, described: Described) -> Self {
        self.gives_as(status, description, JSON, described)
    }

    pub fn gives_as(
        mut self,
        status: u16,
        description: &'static str,
        kind: &'static str,
        described: Described,
    ) -> Self {
        let content = Some((kind, described));
        self.answers.push(Answer {
            status,
            description,
            content,
        });
        self
    }

    pub fn gives_nothing(mut self, status: u16, description: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            description,
            content: None,
        });
        self
    }

    pub fn gives_detail(self, status: u16) -> Self {
        self.gives(status, "The migration as it is now.", Described::of::<Detail>())
    }
}
