//! Lines of `--json`: one object each, with `type` and `at`, in the format of `mongoferry::docs::format`.

use std::time::SystemTime;

use bson::DateTime;
use mongoferry::Finding;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ending::Ending;

/// A line of something that the library serializes, with the current time.
pub fn stamped(content: &impl Serialize) -> Value {
    // Nothing that is written here fails to be serialized; if it did, the line would say so.
    let mut line =
        serde_json::to_value(content).unwrap_or_else(|error| json!({ "type": "error", "message": error.to_string() }));
    let now = DateTime::from_system_time(SystemTime::now());
    line["at"] = now.try_to_rfc3339_string().unwrap_or_default().into();
    line
}

/// A finding on a line of its own, for scripts that look for its code.
#[derive(Serialize)]
#[serde(tag = "type", rename = "finding")]
pub struct FindingLine<'a> {
    #[serde(flatten)]
    pub finding: &'a Finding,
}

/// The reply to a command.
#[derive(Serialize)]
#[serde(tag = "type", rename = "command")]
pub struct CommandLine<'a> {
    pub command: &'a str,
    pub accepted: bool,
    pub message: &'a str,
}

/// The last line: the summary of the migration if it has come that far, and how the process ends.
pub fn summary(ending: &Ending) -> Value {
    let mut line = serde_json::to_value(&ending.summary).unwrap_or_default();
    if line.is_null() {
        line = json!({ "type": "summary" });
    }
    line["outcome"] = ending.outcome.into();
    line["not_migrated"] = ending.not_migrated.clone().into();
    line["error"] = serde_json::to_value(&ending.error).unwrap_or_default();
    let milliseconds = |time: Option<std::time::Duration>| time.map(|time| time.as_millis() as u64);
    line["took_ms"] = milliseconds(ending.took).into();
    line["downtime_ms"] = milliseconds(ending.downtime).into();
    line
}
