//! Parts of requests. What is wrong with them becomes a problem.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::console::http::problem::Problem;
use crate::console::registry::Console;

/// Maximum size of a body. Two sides with certificates fit several times.
pub(super) const BODY_BYTES: usize = 64 << 10;

/// A body of JSON.
pub(super) struct Posted<T>(pub T);

/// The id of a migration in the path.
#[derive(serde::Deserialize)]
struct Id {
    id: String,
}

/// The migration that the path names.
pub(super) struct Named(pub std::sync::Arc<crate::console::managed::Managed>);

/// Parameters behind the question mark.
pub(super) struct Asked<T>(pub T);

/// An answer in JSON.
pub(super) struct Json<T>(pub StatusCode, pub T);

impl<T: DeserializeOwned> FromRequest<Console> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Console) -> Result<Self, Problem> {
        check_type(request.headers())?;
        let declared = request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > BODY_BYTES) {
            return Err(too_large());
        }
        let body: Bytes = to_bytes(request.into_body(), BODY_BYTES)
            .await
            .map_err(|_| too_large())?;
        read(&body).map(Self)
    }
}

/// Reads a body.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        if !error.is_data() {
            let detail = format!("the body is not JSON at {at}: post an object, `{{}}` if there is nothing to say");
            return Problem::new(StatusCode::BAD_REQUEST, detail);
        }
        Problem::invalid(format!(
            "the body is not as described at {at}: {}",
            expected(&error.to_string())
        ))
    })
}

/// What was expected, without what was found, which may be a password.
fn expected(error: &str) -> String {
    // What was found comes first, so only the last of these words are surely not from the body.
    let error = error.rsplit_once(" at line ").map_or(error, |(error, _)| error);
    if error.starts_with("missing field") {
        return error.to_owned();
    }
    match error.rsplit_once(", expected ") {
        Some((found, expected)) if found.starts_with("unknown field") => {
            format!(
                "a field is unknown; known are {}",
                expected.trim_start_matches("one of ")
            )
        }
        Some((_, expected)) => format!("expected {expected}"),
        None => "a value or a field does not fit".to_owned(),
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    match essence.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON: send `content-type: application/json`, and `{}` if there is nothing to say",
        )),
    }
}

fn too_large() -> Problem {
    let detail = format!("the body is larger than {} KiB", BODY_BYTES >> 10);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

impl FromRequestParts<Console> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Problem> {
        // By its name, because the host may have parameters of its own in front.
        let path = Path::<Id>::from_request_parts(parts, console).await;
        let unknown = || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "there is no such migration: `GET migrations` lists all",
            )
        };
        let Path(Id { id }) = path.map_err(|_| unknown())?;
        console.find(&id).map(Self).ok_or_else(unknown)
    }
}

impl<T: DeserializeOwned> FromRequestParts<Console> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Problem> {
        let asked = Query::<T>::from_request_parts(parts, console).await;
        let invalid = |_| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "a parameter is missing or malformed: see `openapi.json`",
            )
        };
        asked.map(|Query(asked)| Self(asked)).map_err(invalid)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(body) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = self.0;
                let kind = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(_) => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer cannot be written as JSON",
            )
            .into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::settings::NewMigration;

    #[test]
    fn what_is_wrong_with_a_body_is_said_without_repeating_it() {
        for (body, status, told) in [
            (r#"{"id": s3cret}"#, 400, "not JSON at line 1, column 8"),
            (r#"{"id": 5, "s3cret": 1}"#, 422, "expected a string"),
            (
                r#"{"id": "a", "source": {"uri": "s3cret"}, "s3cret": 1}"#,
                422,
                "a field is unknown; known are `id`",
            ),
            (
                r#"{"id": "a", "source": {"uri": "s3cret"}, "walkers": "a, expected s3cret at line 1"}"#,
                422,
                "expected usize",
            ),
            (
                r#"{"id": "a", "source": {"uri": "s3cret"}, "ddl_policy": "s3cret"}"#,
                422,
                "expected one of `apply`",
            ),
            (r#"{"source": {"uri": "s3cret"}}"#, 422, "missing field `id`"),
            (r#""s3cret""#, 422, "expected struct NewMigration"),
            ("", 400, "not JSON"),
        ] {
            let problem = read::<NewMigration>(body.as_bytes()).err().unwrap();
            assert_eq!(problem.status.as_u16(), status, "{body}");
            assert!(problem.detail.contains(told), "{}", problem.detail);
            assert!(!problem.detail.contains("s3cret"), "{}", problem.detail);
        }
    }
}
