//! Measures one thing once.

use mongoferry_testbed::ReplicaSet;
use serde_json::{Value, json};

use crate::Result;
use crate::child::Helper;
use crate::usage;

/// What one thing has taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub seconds: f64,
    /// CPU time in seconds, where the process is ours.
    pub client_cpu: Option<f64>,
    pub source_cpu: f64,
    pub target_cpu: f64,
    /// In MB.
    pub peak_memory: Option<f64>,
    /// The machine's load when it was done, which tells whether something else was going on.
    pub load: f64,
}

impl Sample {
    pub fn to_json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "client_cpu_seconds": self.client_cpu,
            "source_cpu_seconds": self.source_cpu,
            "target_cpu_seconds": self.target_cpu,
            "peak_memory_mb": self.peak_memory,
            "load": self.load,
        })
    }
}

/// The CPU times at the beginning.
pub(crate) struct Meter {
    source: Option<u32>,
    target: Option<u32>,
    client_cpu: f64,
    source_cpu: f64,
    target_cpu: f64,
}

impl Meter {
    /// Begins to measure. A target that is written by nobody need not be named.
    pub fn start(client: Option<&Helper>, source: &ReplicaSet, target: Option<u32>) -> Self {
        let source = source.process_id(0);
        Self {
            source,
            target,
            client_cpu: client.map_or(0.0, Helper::cpu_seconds),
            source_cpu: source.map_or(0.0, usage::cpu_seconds),
            target_cpu: target.map_or(0.0, usage::cpu_seconds),
        }
    }

    /// Ends it. The time is for whoever did it to say.
    ///
    /// # Errors
    /// The client's process has failed.
    pub fn stop(self, client: Option<&Helper>, seconds: f64) -> Result<Sample> {
        Ok(Sample {
            seconds,
            client_cpu: client.map(|client| client.cpu_seconds() - self.client_cpu),
            source_cpu: self.source.map_or(0.0, usage::cpu_seconds) - self.source_cpu,
            target_cpu: self.target.map_or(0.0, usage::cpu_seconds) - self.target_cpu,
            peak_memory: client.map(Helper::peak_memory_mb).transpose()?,
            load: usage::load(),
        })
    }
}
