//! The console: its API in memory with paused time, what it refuses, and whole walks on real servers.

mod content;
mod cutover;
mod hostile;
mod listed;
mod mongosync;
mod servers;
mod starts;
mod streams;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use bson::rawdoc;
use mongoferry::console::{Console, ManagedMigration, router};
use mongoferry::sink::MemorySink;
use mongoferry::source::MemorySource;
use mongoferry::{Migration, MigrationBuilder};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::invariants::orders;

/// How long anything may take, by the paused clock or on a busy machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// A source and a target in memory.
#[derive(Clone, Default)]
struct Bench {
    source: MemorySource,
    sink: MemorySink,
}

impl Bench {
    fn with_orders(count: i32) -> Self {
        Self {
            source: orders(count),
            ..Self::default()
        }
    }

    fn builder(&self) -> MigrationBuilder {
        Migration::builder(self.source.clone(), self.sink.clone()).include("shop.*")
    }

    /// A migration of the host.
    fn managed(&self, id: &'static str) -> ManagedMigration {
        let bench = self.clone();
        ManagedMigration::new(id, move || {
            let bench = bench.clone();
            async move { bench.builder().id(id).build() }
        })
    }

    /// A console with this migration alone.
    fn console(&self) -> Console {
        let console = Console::new();
        console.add(self.managed("tenant")).unwrap();
        console
    }
}

/// A client of a console.
#[derive(Clone)]
struct Client(Router);

/// An answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("{}: no JSON: {}", self.status, self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Checks that it is a problem of this status, and returns its detail.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(
            (&problem["status"], &problem["type"]),
            (&json!(status), &json!("about:blank"))
        );
        problem["detail"].as_str().unwrap().to_owned()
    }
}

impl Client {
    fn of(console: &Console) -> Self {
        Self(router(console.clone()))
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), 16 << 20).await.unwrap().to_vec();
        Answer { status, headers, bytes }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.with_body("POST", path, body).await
    }

    async fn with_body(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = request(method, path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(request("DELETE", path).body(Body::empty()).unwrap()).await
    }

    /// The detail of a migration.
    async fn detail(&self, id: &str) -> Value {
        let answer = self.get(&format!("migrations/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Posts to a migration, which must be accepted.
    async fn act(&self, id: &str, action: &str, body: Value) -> Value {
        let answer = self.post(&format!("migrations/{id}/{action}"), body).await;
        assert!(answer.status.is_success(), "{action}: {}", answer.text());
        answer.json()
    }

    /// Waits until the detail of a migration is as wanted.
    async fn until(&self, id: &str, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let wait = async {
            loop {
                last = self.detail(id).await;
                if is_wanted(&last) {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(DEADLINE, wait).await.is_err() {
            panic!("{what}: {last:#}");
        }
        last
    }

    async fn until_ready(&self, id: &str) -> Value {
        self.until(id, "it is ready", |detail| detail["phase"] == "ready").await
    }

    /// Hands over with the token of now, and waits for the end.
    async fn cut_over(&self, id: &str) -> Value {
        let detail = self.until_ready(id).await;
        let token = &detail["cutover"]["token"];
        self.act(id, "cutover", json!({ "token": token })).await;
        self.until(id, "the cutover is over", |detail| detail["state"] == "ended")
            .await
    }
}

/// A request to the API, or to the page with a leading slash.
fn request(method: &str, path: &str) -> axum::http::request::Builder {
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/api/v1/{path}"),
    };
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:9000")
}

/// The actions of an entry.
fn actions(entry: &Value) -> Vec<&str> {
    let actions = entry["actions"].as_array().unwrap();
    actions.iter().map(|action| action.as_str().unwrap()).collect()
}
