//! The page: files that are part of the program.

use axum::body::Body;
use axum::extract::{OriginalUri, Path};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::console::http::problem::Problem;

const HTML: &str = "text/html; charset=utf-8";

/// Name, content type and bytes of each file. The first one is the page itself.
const FILES: &[(&str, &str, &[u8])] = &[("index.html", HTML, include_bytes!("../page/index.html"))];

/// Serves the page. If the path does not end with a slash, relative addresses would lead elsewhere, so the browser is sent on.
pub(super) async fn index(OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    let path = uri.path();
    if path.ends_with('/') {
        return file(FILES.first(), &headers);
    }
    // Relative, so that what a proxy has cut off in front does not matter. `nest` does not lead to the path with a slash alone.
    let last = path.rsplit('/').next().unwrap_or_default();
    let Ok(location) = HeaderValue::try_from(format!("./{last}/index.html")) else {
        return not_found().into_response();
    };
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Serves a file of the page.
pub(super) async fn named(Path(params): Path<Vec<(String, String)>>, headers: HeaderMap) -> Response {
    // The host may have parameters of its own in front.
    let name = params
        .iter()
        .rev()
        .find(|(name, _)| name == "file")
        .map(|(_, value)| value);
    let found = FILES.iter().find(|(file, ..)| name.is_some_and(|name| name == file));
    file(found, &headers)
}

fn file(found: Option<&(&str, &'static str, &'static [u8])>, headers: &HeaderMap) -> Response {
    let Some((_, kind, bytes)) = found else {
        return not_found().into_response();
    };
    let digest = Sha256::digest(bytes);
    let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{digest}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let is_known = known.is_some_and(|known| {
        known
            .split(',')
            .any(|known| known.trim().trim_start_matches("W/") == tag)
    });
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(*bytes)),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// The answer for an unknown path.
pub(super) fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "there is nothing here: `api/v1/openapi.json` describes what there is",
    )
}
