//! What preflight asks both sides.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Purpose, topology};
use crate::config::OnRuleError;
use crate::error::{ErrorKind, Result, Severity};
use crate::model::{Access, Collection, Deployment, Inspection, Side};
use crate::mongo::retry::answered;
use crate::runtime::job::Job;
use crate::runtime::lease;
use crate::runtime::register::Register;
use crate::runtime::users::Record;
use crate::runtime::waiting::LONGEST_CALL;
use crate::users::Made;

/// Timeout for all questions to one side. A single question without an answer becomes a finding sooner.
pub(super) const ASKED: Duration = Duration::from_secs(120);

/// Names of the operations that preflight waits for.
const DESCRIBE: &str = "describe the deployment";
pub(super) const INSPECT: &str = "inspect the deployment";
const LIST: &str = "list the collections";

/// Facts about one side of a migration.
pub(super) struct SideFacts {
    pub side: Side,
    /// Name of the side in messages.
    pub name: &'static str,
    pub deployment: Deployment,
    pub inspection: Inspection,
    /// Reason why its collections could not be listed.
    pub unlisted: Option<String>,
}

impl SideFacts {
    pub fn user(&self) -> Option<&(String, String)> {
        self.inspection.connection.user.as_ref()
    }

    /// Returns the severity for this side.
    pub fn severity(&self, on_source: Severity, on_target: Severity) -> Severity {
        match self.side {
            Side::Source => on_source,
            Side::Target => on_target,
        }
    }
}

/// What the stored checkpoint says about this migration.
#[derive(Clone, Debug, Default)]
pub(super) enum Checkpointed {
    #[default]
    Not,
    Yes,
    Complete,
    /// The checkpoint belongs to another migration, for this reason.
    Otherwise(String),
}

/// What the target has of this migration and of others.
#[derive(Default)]
pub(super) struct TargetRecords {
    pub checkpointed: Checkpointed,
    /// The process that currently holds the lease.
    pub lease_holder: Option<String>,
    pub register: Register,
    /// The users and roles that an earlier run has made.
    pub made: Made,
}

impl TargetRecords {
    /// Reads the records, if the target can answer.
    ///
    /// # Errors
    /// A server error.
    pub async fn read(engine: &Job, purpose: Purpose, target: &SideFacts) -> Result<Self> {
        // Reading a record with majority guarantees involves a write. A target that accepts no writes or has no majority gets a finding of
        // its own.
        let takes_writes = !target.inspection.unanswered.contains(&Access::WriteRecords);
        if !takes_writes || !topology::has_prompt_majority(target) {
            return Ok(Self::default());
        }
        let (side, limit) = (Side::Target, Some(LONGEST_CALL));
        Ok(Self {
            checkpointed: asked(engine, side, "load the checkpoint", limit, checkpointed(engine)).await?,
            lease_holder: asked(engine, side, "look for the lease", limit, lease_holder(engine, purpose)).await?,
            register: asked(engine, side, "read the register of migrations", limit, register(engine)).await?,
            made: asked(engine, side, "read the record of users", limit, made(engine)).await?,
        })
    }
}

/// Returns the facts about the source, with all that the selection may contain, and the names of all databases.
pub(super) async fn source_facts(engine: &Job) -> Result<(SideFacts, Vec<Collection>, BTreeSet<String>)> {
    let (side, source) = (Side::Source, &engine.source);
    let deployment = asked(engine, side, DESCRIBE, Some(ASKED), source.describe()).await?;
    let inspection = asked(engine, side, INSPECT, Some(ASKED), source.inspect()).await?;
    let all = async {
        futures::try_join!(
            source.collections_selected(&engine.settings.selection),
            source.databases()
        )
    };
    let listed = unless_unauthorized(asked(engine, side, LIST, None, all).await)?;
    let (listed, databases) = match listed {
        Ok((listed, databases)) => (Ok(listed), databases),
        Err(refusal) => (Err(refusal), BTreeSet::new()),
    };
    let (facts, listed) = side_facts(side, "source", deployment, inspection, listed);
    Ok((facts, listed, databases))
}

/// Returns the facts about the target, with all that the selection may contain, and the collection for dead letters.
pub(super) async fn target_facts(engine: &Job) -> Result<(SideFacts, Vec<Collection>)> {
    let (side, sink) = (Side::Target, &engine.sink);
    let deployment = asked(engine, side, DESCRIBE, Some(ASKED), sink.describe()).await?;
    let inspection = asked(engine, side, INSPECT, Some(ASKED), sink.inspect()).await?;
    let settings = &engine.settings;
    let all = async {
        let mut listed = sink.collections_selected(&settings.selection).await?;
        if let OnRuleError::DeadLetter(letters) = &settings.on_rule_error
            && !listed.iter().any(|collection| collection.namespace == *letters)
        {
            listed.extend(sink.collections_named(&BTreeSet::from([letters.clone()])).await?);
        }
        Ok(listed)
    };
    let listed = unless_unauthorized(asked(engine, side, LIST, None, all).await)?;
    Ok(side_facts(side, "target", deployment, inspection, listed))
}

/// Awaits an answer for at most `limit`, and notifies the host if that takes long.
pub(super) async fn asked<T>(
    engine: &Job,
    side: Side,
    operation: &'static str,
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    let answer = async {
        match limit {
            Some(limit) => answered(operation, limit, answer).await,
            None => answer.await,
        }
    };
    engine
        .settings
        .on_wait
        .report_waits(side, operation, limit, answer)
        .await
}

pub(super) fn side_facts(
    side: Side,
    name: &'static str,
    deployment: Deployment,
    inspection: Inspection,
    listed: Result<Vec<Collection>, String>,
) -> (SideFacts, Vec<Collection>) {
    let (collections, unlisted) = match listed {
        Ok(collections) => (collections, None),
        Err(refusal) => (Vec::new(), Some(refusal)),
    };
    let facts = SideFacts {
        side,
        name,
        deployment,
        inspection,
        unlisted,
    };
    (facts, collections)
}

/// Turns a missing privilege into a value, so that the remaining rules still run.
pub(super) fn unless_unauthorized<T>(answer: Result<T>) -> Result<Result<T, String>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(Err(error.report())),
        Err(error) => Err(error),
    }
}

async fn checkpointed(engine: &Job) -> Result<Checkpointed> {
    let found = match engine.load().await {
        Ok(None) => engine.first_of_way_back().await,
        found => found,
    };
    match found {
        Ok(None) => Ok(Checkpointed::Not),
        Ok(Some(checkpoint)) if checkpoint.complete => Ok(Checkpointed::Complete),
        Ok(Some(_)) => Ok(Checkpointed::Yes),
        Err(error) if error.kind() == ErrorKind::CheckpointMismatch => {
            Ok(Checkpointed::Otherwise(error.message().to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(Checkpointed::Not),
        Err(error) => Err(error),
    }
}

async fn register(engine: &Job) -> Result<Register> {
    let register = unless_unauthorized(Register::load(&*engine.sink).await)?;
    // The rule for privileges reports a user that may not read records.
    Ok(register.unwrap_or_default())
}

/// Returns the users and roles that an earlier run has made.
async fn made(engine: &Job) -> Result<Made> {
    if engine.settings.users.selection().is_none() {
        return Ok(Made::default());
    }
    // A way back notes at its start what it knows of the old set.
    if let (Some(users), Ok(None)) = (engine.settings.users_at_hand_over(), engine.load().await) {
        return Ok(users.made());
    }
    let records = engine.records();
    let record = unless_unauthorized(Record::load(&records).await)?;
    // The rule for privileges reports a user that may not read records.
    Ok(record.unwrap_or_default().made)
}

async fn lease_holder(engine: &Job, purpose: Purpose) -> Result<Option<String>> {
    match purpose {
        // The rule for privileges reports a user that may not read records.
        Purpose::Plan => Ok(unless_unauthorized(lease::holder(&engine.records()).await)?
            .ok()
            .flatten()),
        Purpose::Start => Ok(None),
    }
}
