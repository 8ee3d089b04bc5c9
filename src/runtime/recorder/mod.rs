//! The flight recorder: writes what happens in a run to a file of bounded size.
//!
//! A task of its own takes what there is to record and writes it line by line, so that a slow disk never slows down the run. What it cannot
//! keep up with is left out, and the recording says so.

mod file;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bson::DateTime;
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::file::RecordingFile;
use crate::config::Recording;
use crate::error::{Error, Result};
use crate::report::{Event, Events};
use crate::runtime::progress::RunState;

/// How often the status is recorded.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of lines that wait to be written.
const WAITING: usize = 64;

/// How long the end of a run waits for its last lines to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Records a run until it is dropped.
pub(crate) struct Recorder {
    path: PathBuf,
    lines: mpsc::Sender<Message>,
    /// The run, once it has begun.
    run: Arc<OnceLock<Observed>>,
    _task: AbortOnDropHandle<()>,
}

/// The run whose status is recorded.
struct Observed {
    progress: Arc<RunState>,
    max_lag: Duration,
}

enum Message {
    Line(Value),
    /// Replies once everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// A call of the host.
#[derive(Serialize)]
#[serde(tag = "type", rename = "call")]
struct Call<'a> {
    call: &'a str,
    error: Option<&'a Error>,
}

impl Recorder {
    /// Starts to record the events of a migration.
    pub fn start(recording: &Recording, id: &str, events: &Events) -> Self {
        let (lines, received) = mpsc::channel(WAITING);
        let run = Arc::new(OnceLock::new());
        let first = json!({ "type": "recording", "id": id, "version": env!("CARGO_PKG_VERSION") });
        let writer = Writer {
            file: RecordingFile::new(recording.path.clone(), recording.bytes),
            events: events.clone(),
            run: Arc::clone(&run),
            failed: false,
        };
        Self {
            path: recording.path.clone(),
            lines,
            run,
            // Subscribed here, so that no event is missed until the task runs.
            _task: AbortOnDropHandle::new(tokio::spawn(writer.write(first, events.subscribe(false), received))),
        }
    }

    /// Records the status from now on.
    pub fn observe(&self, progress: &Arc<RunState>, max_lag: Duration) {
        let progress = Arc::clone(progress);
        // There is one run for each recorder.
        let _ = self.run.set(Observed { progress, max_lag });
    }

    /// Records something that the host gets: a plan, a summary, a report.
    pub fn record(&self, content: &impl Serialize) {
        if let Ok(content) = serde_json::to_value(content) {
            // If the file cannot keep up, the line is left out.
            let _ = self.lines.try_send(Message::Line(content));
        }
    }

    /// Records a call of the host, and whether it failed.
    pub fn call<T>(&self, call: &str, result: &Result<T>) {
        let error = result.as_ref().err();
        self.record(&Call { call, error });
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until what was recorded before is written. A disk that does not answer delays it for two seconds at most.
    pub async fn flush(&self) {
        let flush = async {
            let (reply, written) = oneshot::channel();
            if self.lines.send(Message::Flush(reply)).await.is_ok() {
                let _ = written.await;
            }
        };
        let _ = timeout(FLUSH_LIMIT, flush).await;
    }
}

/// The task that writes the file.
struct Writer {
    file: RecordingFile,
    events: Events,
    run: Arc<OnceLock<Observed>>,
    /// Whether the host was told that the file cannot be written.
    failed: bool,
}

impl Writer {
    async fn write(
        mut self,
        first: Value,
        mut events: impl Stream<Item = Event> + Unpin,
        mut lines: mpsc::Receiver<Message>,
    ) {
        let mut ticks = interval(STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.append(first).await;
        let mut ended = false;
        loop {
            tokio::select! {
                biased;
                event = events.next(), if !ended => match event {
                    Some(event) => self.append_event(&event).await,
                    None => {
                        ended = true;
                        self.append_status().await;
                    }
                },
                message = lines.recv() => match message {
                    Some(Message::Line(line)) => self.append(line).await,
                    Some(Message::Flush(reply)) => {
                        let _ = reply.send(());
                    }
                    None => return,
                },
                _ = ticks.tick(), if !ended => self.append_status().await,
            }
        }
    }

    async fn append_event(&mut self, event: &Event) {
        if let Ok(event) = serde_json::to_value(event) {
            self.append(event).await;
        }
    }

    /// Appends the status without the history of the lag, which the recording has anyway.
    async fn append_status(&mut self) {
        let Some(run) = self.run.get() else { return };
        let mut status = run.progress.status(run.max_lag);
        status.lag_history.clear();
        if let Ok(status) = serde_json::to_value(&status) {
            self.append(status).await;
        }
    }

    async fn append(&mut self, mut line: Value) {
        if let Some(line) = line.as_object_mut() {
            let now = DateTime::now().try_to_rfc3339_string().unwrap_or_default();
            line.insert("at".to_owned(), now.into());
        }
        match self.file.append(line).await {
            Ok(()) => self.failed = false,
            Err(_) if self.failed => {}
            Err(error) => {
                self.failed = true;
                let reason = format!("{}: {error}", self.file.path().display());
                self.events.send(Event::RecordingFailed { reason });
            }
        }
    }
}
