//! Errors as `application/problem+json`.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::console::http::openapi;
use crate::console::managed::{Stage, State};
use crate::console::view::Action;
use crate::error::{Error, ErrorKind, Finding};

/// An error of a request: a problem of RFC 9457, with the error of the crate behind it. It never repeats the body of the request.
#[derive(Debug)]
pub(in crate::console) struct Problem {
    pub status: StatusCode,
    pub detail: String,
    pub error: Option<Error>,
}

/// A problem as it is written.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Written<'a> {
    #[schema(example = "about:blank")]
    r#type: &'static str,
    #[schema(example = "Conflict")]
    title: &'static str,
    #[schema(example = 409)]
    status: u16,
    /// What, where, and how to fix it.
    detail: &'a str,
    #[schema(schema_with = openapi::optional_error)]
    error: Option<&'a Error>,
    /// The findings of the error.
    #[schema(schema_with = openapi::findings)]
    findings: &'a [Finding],
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            error: None,
        }
    }

    /// Something in the request cannot work.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// The request does not fit the present state.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// The host does not allow it.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// The console has ended during the request.
    pub fn gone() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the console was closed meanwhile: open it again",
        )
    }

    /// An action that is not possible at the moment.
    pub fn not_possible(action: Action, state: &State) -> Self {
        let action = serde_json::to_value(action).ok();
        let action = action.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
        let why = match &state.stage {
            _ if state.forgetting => "its records are being removed: wait for that to end",
            Stage::Idle | Stage::Ended(_) if state.preflight_running => "it is being checked: wait for that to end",
            Stage::Idle if state.known.as_ref().is_some_and(|known| known.owner.is_some()) => {
                "another process runs it: act there, or end that process first"
            }
            Stage::Idle => "it is not running: start it first",
            Stage::Starting(_) => "it is starting: wait for that to end, or abandon it",
            Stage::Ended(_) if state.is_complete() => "it is complete",
            Stage::Ended(_) => "its run has ended: start it again first",
            Stage::Running(_) if state.cutover.running => "a cutover is in progress: wait for it to end",
            Stage::Running(run) => {
                let phase = run.status().phase;
                let detail =
                    format!("`{action}` is not possible in the phase `{phase}`: `actions` lists what is possible");
                return Self::conflict(detail);
            }
        };
        Self::conflict(format!("`{action}` is not possible now: {why}"))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidConfiguration | ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::WrongPhase
            | ErrorKind::LeaseHeld
            | ErrorKind::LeaseLost
            | ErrorKind::AlreadyComplete
            | ErrorKind::CheckpointMismatch
            | ErrorKind::OperationsUnderWay
            | ErrorKind::WritesAfterStop
            | ErrorKind::WindowClosed
            | ErrorKind::CatalogChanged
            | ErrorKind::VersionChanged
            | ErrorKind::Stopped => StatusCode::CONFLICT,
            ErrorKind::Panic | ErrorKind::Protocol | ErrorKind::Io | ErrorKind::Hook => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            // A replica set behind this server.
            _ => StatusCode::BAD_GATEWAY,
        };
        Self {
            status,
            detail: error.report(),
            error: Some(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let written = Written {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            error: self.error.as_ref(),
            findings: self.error.as_ref().map_or(&[][..], Error::findings),
        };
        let body = serde_json::to_vec(&written).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
