//! The page: files that are part of the program.

use axum::body::Body;
use axum::extract::{OriginalUri, Path};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::console::http::problem::Problem;

const HTML: &str = "text/html; charset=utf-8";

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page with its content type.
macro_rules! file {
    ($kind:expr, $name:literal) => {
        ($name, $kind, include_bytes!(concat!("../page/", $name)))
    };
}

/// Name, content type and bytes of each file. The first one is the page itself.
const FILES: &[(&str, &str, &[u8])] = &[
    file!(HTML, "index.html"),
    file!(CSS, "migration.css"),
    file!(CSS, "narrow.css"),
    file!(CSS, "parts.css"),
    file!(CSS, "result.css"),
    file!(CSS, "style.css"),
    file!(CSS, "tables.css"),
    file!(SCRIPT, "api.js"),
    file!(SCRIPT, "app.js"),
    file!(SCRIPT, "chart.js"),
    file!(SCRIPT, "collections.js"),
    file!(SCRIPT, "comparison.js"),
    file!(SCRIPT, "connections.js"),
    file!(SCRIPT, "create.js"),
    file!(SCRIPT, "cutover.js"),
    file!(SCRIPT, "dialog.js"),
    file!(SCRIPT, "dom.js"),
    file!(SCRIPT, "endpoint.js"),
    file!(SCRIPT, "event_text.js"),
    file!(SCRIPT, "findings.js"),
    file!(SCRIPT, "format.js"),
    file!(SCRIPT, "list.js"),
    file!(SCRIPT, "live.js"),
    file!(SCRIPT, "log.js"),
    file!(SCRIPT, "migration.js"),
    file!(SCRIPT, "overview.js"),
    file!(SCRIPT, "parts.js"),
    file!(SCRIPT, "replay.js"),
    file!(SCRIPT, "result.js"),
    file!(SCRIPT, "settings.js"),
    file!(SCRIPT, "support.js"),
    file!(SCRIPT, "validate.js"),
    file!(SCRIPT, "words.js"),
];

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns what stands between `before` and the next quote.
    fn quoted<'a>(text: &'a str, before: &str, quote: char) -> impl Iterator<Item = &'a str> {
        text.split(before)
            .skip(1)
            .filter_map(move |rest| rest.split(quote).next())
    }

    #[test]
    fn every_file_of_the_page_is_served_and_nothing_else_is_asked_for() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/page");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let served: BTreeSet<String> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(served, there);
        for (name, kind, bytes) in FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            let asked: Vec<&str> = match *kind {
                HTML => quoted(text, "stylesheet\" href=\"", '"')
                    .chain(quoted(text, "src=\"", '"'))
                    .collect(),
                SCRIPT => quoted(text, "from './", '\'').collect(),
                _ => quoted(text, "url(", ')').collect(),
            };
            assert!(!(*kind == HTML && asked.len() < 2), "{name}");
            for other in asked {
                assert!(served.contains(other), "{name} asks for {other}");
            }
        }
    }

    /// What the format has, the page has words for.
    #[test]
    fn the_page_has_words_for_every_event_phase_and_kind_of_error() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../../docs/format.schema.json")).unwrap();
        let events = schema["$defs"]["event"]["oneOf"].as_array().unwrap();
        let events = events
            .iter()
            .filter_map(|event| event["properties"]["type"]["const"].as_str());
        let names = |list: &serde_json::Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
        for (file, wanted) in [
            ("event_text.js", events.map(str::to_owned).collect()),
            ("words.js", names(&schema["$defs"]["error_kind"]["enum"])),
            ("words.js", names(&schema["$defs"]["phase"]["enum"])),
            (
                "words.js",
                names(&schema["$defs"]["collection"]["properties"]["phase"]["enum"]),
            ),
            ("words.js", names(&schema["$defs"]["existing_data"]["enum"])),
            ("words.js", names(&schema["$defs"]["ddl_policy"]["enum"])),
            ("words.js", names(&schema["$defs"]["verification"]["enum"])),
            ("validate.js", names(&schema["$defs"]["collection_kind"]["enum"])),
        ] {
            let (.., bytes) = FILES.iter().find(|(name, ..)| *name == file).unwrap();
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(wanted.len() > 2);
            for name in wanted {
                assert!(text.contains(&format!("\n  {name}:")), "{file} has no words for {name}");
            }
        }
    }

    /// The policy of the page forbids both. Text that comes from servers must not become markup.
    #[test]
    fn the_page_has_neither_markup_from_text_nor_code_beside_its_files() {
        for (name, kind, bytes) in FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ] {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
            for forbidden in ["localStorage", "sessionStorage", "indexedDB", "document.cookie"] {
                assert!(!text.contains(forbidden), "{name} stores something by {forbidden}");
            }
            assert!(
                !text.contains("https://") && !text.contains("//cdn"),
                "{name} has an address elsewhere"
            );
            if *kind == HTML {
                for forbidden in ["<style", " style=", "<script>", " onclick", " onload"] {
                    assert!(!text.contains(forbidden), "{name} has {forbidden}");
                }
            }
        }
    }
}
