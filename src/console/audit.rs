//! Records of what people have done.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::model::format;
use crate::report::TARGET;

/// One action of someone in the page, or its end. It says nothing about who it was: the host knows its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuditRecord {
    /// When it was, by the clock of this process.
    #[serde(serialize_with = "format::time")]
    pub at: SystemTime,
    /// What was to be done, such as `cutover`; `request` for a request that was refused before it was looked at.
    pub action: &'static str,
    /// The migration, if the action concerns one.
    pub migration: Option<String>,
    /// What came of it.
    pub outcome: AuditOutcome,
}

/// What came of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditOutcome {
    /// It was done, or was begun and goes on.
    Accepted,
    /// It was not done. The field is the status of HTTP.
    Refused(u16),
    /// What an accepted action had begun has succeeded.
    Completed,
    /// What an accepted action had begun has failed.
    Failed,
}

/// The host's callback.
#[derive(Clone, Default)]
pub(super) struct Auditor(Option<Arc<Callback>>);

type Callback = dyn Fn(&AuditRecord) + Send + Sync;

impl AuditRecord {
    /// A record of now.
    pub(super) fn new(action: &'static str, migration: Option<&str>, outcome: AuditOutcome) -> Self {
        Self {
            at: SystemTime::now(),
            action,
            migration: migration.map(str::to_owned),
            outcome,
        }
    }
}

impl Auditor {
    pub fn new(tell: impl Fn(&AuditRecord) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Reports to the host's log, and to the callback.
    pub fn tell(&self, record: AuditRecord) {
        let (migration, outcome) = (record.migration.as_deref(), record.outcome);
        tracing::info!(target: TARGET, event = "console_action", action = record.action, migration, outcome = ?outcome, "someone acted in the console");
        if let Some(tell) = &self.0 {
            tell(&record);
        }
    }
}

impl fmt::Debug for Auditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auditor")
    }
}
