//! Streams of events.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use crate::console::event_log::{Cursor, Next};
use crate::console::http::problem::Problem;
use crate::console::managed::Managed;
use crate::console::registry::{Console, Inner};

/// Interval between two events `detail`.
const DETAIL: Duration = Duration::from_secs(1);

/// Interval between two comments that keep connections open.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Approximate maximum number of bytes that are written at a time.
const AT_ONCE: usize = 64 << 10;

/// A reader of one migration. It holds neither the console nor the migration, so that both can end while a stream is open.
struct Reader {
    console: Weak<Inner>,
    managed: Weak<Managed>,
    changed: watch::Receiver<u64>,
    cursor: Cursor,
    next_detail: Instant,
    next_heartbeat: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Opens a stream of the events after the one that the reader has seen last.
///
/// The stream is produced as it is read: a slow reader misses events, which it is told.
///
/// # Errors
/// Too many streams are open.
pub(super) fn open(console: &Console, managed: &Arc<Managed>, headers: &HeaderMap) -> Result<Response, Problem> {
    let permit = Arc::clone(&console.inner.streams).try_acquire_owned().map_err(|_| {
        let detail =
            "too many streams of events are open: close other pages of the console, or poll `GET migrations/{id}`";
        Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    let seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let reader = Reader {
        console: Arc::downgrade(&console.inner),
        managed: Arc::downgrade(managed),
        changed: managed.events.subscribe(),
        cursor: Cursor::after(seen.unwrap_or_default()),
        next_detail: Instant::now(),
        next_heartbeat: Instant::now(),
        _permit: permit,
    };
    let chunks = stream::unfold(reader, |mut reader| async move {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(chunk), reader))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Some proxies would collect the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Reader {
    /// Waits for something to write; `None` once the migration or the console is gone.
    async fn next(&mut self) -> Option<String> {
        loop {
            self.changed.borrow_and_update();
            let text = self.ready()?;
            if !text.is_empty() {
                return Some(text);
            }
            let next = self.next_detail.min(self.next_heartbeat);
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(next) => {}
            }
        }
    }

    /// Everything that can be written now.
    fn ready(&mut self) -> Option<String> {
        let managed = self.managed.upgrade()?;
        let console = Console {
            inner: self.console.upgrade()?,
        };
        let mut text = String::new();
        let now = Instant::now();
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + HEARTBEAT;
            text += ":\n\n";
        }
        while text.len() < AT_ONCE
            && let Some(next) = managed.events.next(&mut self.cursor)
        {
            match next {
                Next::Event(entry) => write(&mut text, &entry.name, &entry.data, entry.id),
                Next::Missed(events) => write(&mut text, "missed", &format!("{{\"events\":{events}}}"), None),
            }
        }
        if now >= self.next_detail {
            self.next_detail = now + DETAIL;
            let detail = console.detail(&managed, false);
            if let Ok(detail) = serde_json::to_string(&detail) {
                write(&mut text, "detail", &detail, None);
            }
        }
        Some(text)
    }
}

/// Writes one event. JSON has no line breaks.
fn write(text: &mut String, name: &str, data: &str, id: Option<u64>) {
    if let Some(id) = id {
        // Writing to a string does not fail.
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "event: {name}\ndata: {data}\n\n");
}
