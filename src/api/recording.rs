//! What the flight recorder of a run gets from the calls of the host. Without the feature `recorder` there is none.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;
#[cfg(feature = "recorder")]
use crate::runtime::recorder::Recorder;

/// The recorder of a run, if the host wants one.
pub(super) struct RunRecorder {
    #[cfg(feature = "recorder")]
    recorder: Option<Recorder>,
}

#[cfg(feature = "recorder")]
impl RunRecorder {
    pub fn start(job: &Job) -> Self {
        let settings = &job.settings;
        let start = |recording| Recorder::start(recording, settings.id.as_str(), &job.events);
        Self {
            recorder: settings.recording.as_ref().map(start),
        }
    }

    pub fn observe(&self, progress: &Arc<RunState>, max_lag: Duration) {
        if let Some(recorder) = &self.recorder {
            recorder.observe(progress, max_lag);
        }
    }

    /// Records something that the host gets.
    pub fn record(&self, content: &impl Serialize) {
        if let Some(recorder) = &self.recorder {
            recorder.record(content);
        }
    }

    /// Records a call of the host and its result, which it returns.
    pub fn call<T>(&self, call: &str, result: Result<T>) -> Result<T> {
        if let Some(recorder) = &self.recorder {
            recorder.call(call, &result);
        }
        result
    }

    /// Waits until everything is written.
    pub async fn flush(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.flush().await;
        }
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&std::path::Path> {
        self.recorder.as_ref().map(Recorder::path)
    }
}

#[cfg(not(feature = "recorder"))]
impl RunRecorder {
    pub fn start(_: &Job) -> Self {
        Self {}
    }

    pub fn observe(&self, _: &Arc<RunState>, _: Duration) {}

    pub fn record(&self, _: &impl Serialize) {}

    pub fn call<T>(&self, _: &str, result: Result<T>) -> Result<T> {
        result
    }

    pub async fn flush(&self) {}
}
