//! Finds every reason why a migration would fail, before anything is changed.
//!
//! [`Migration::preflight`](crate::Migration::preflight) asks both sides for facts (an [`Inspection`]), puts every rule of the table below
//! to them, and answers with a [`Plan`]: what would be done, and all findings at once. A start is refused while there is a blocker.
//!
//! What keeps a connection from being made at all is an error of [`MongoSource::connect`](crate::MongoSource::connect) or
//! [`MongoSink::connect`](crate::MongoSink::connect), with [findings](crate::Error::findings) of the same form, so that a host shows one list.
//!
//! A rule that may not look says so as `unchecked`, and the others go on.
//!
//! # Rules
//! | code | severity | what it checks |
//! |---|---|---|
//! | `connection_string` | blocker | when connecting: the connection string can be read |
//! | `unknown_host` | blocker | when connecting: the names of the hosts are known here |
//! | `not_reached` | blocker | when connecting: something listens there and answers |
//! | `no_answer` | blocker, warning | a side answers what it is asked in time, also when connecting; a warning where the answer is not needed |
//! | `no_primary` | blocker | when connecting: the set has a primary |
//! | `primary_not_reached` | blocker | when connecting: the primary can be reached by the name that the set has for it |
//! | `not_primary` | blocker | when connecting: a member that is talked to alone is the primary |
//! | `other_set` | blocker | when connecting: the set has the name that the connection string gives it |
//! | `standalone` | blocker | when connecting: the server belongs to a replica set |
//! | `not_initiated` | blocker | when connecting: the set has a configuration |
//! | `mongos` | blocker | when connecting: it is no sharded cluster |
//! | `server_too_old` | blocker | when connecting: the server is 4.2 or newer |
//! | `tls_required` | blocker | when connecting: TLS is used where the server asks for it |
//! | `tls_not_offered` | blocker | when connecting: TLS is not asked of a server without |
//! | `tls_files` | blocker | when connecting: the files with certificates can be read |
//! | `certificate` | blocker | when connecting: the server's certificate is valid, for this host, and of the given authority |
//! | `client_certificate` | blocker | when connecting: the server takes the client's certificate |
//! | `credentials_refused` | blocker | when connecting: the server knows the user and the password |
//! | `same_deployment` | blocker | source and target are two replica sets |
//! | `member_unhealthy` | warning | every member is primary, secondary or arbiter; none is recovering or down |
//! | `no_majority` | blocker | members with data that are up make a majority, arbiters not counted |
//! | `delayed_majority` | blocker, warning | they do so without those that stay behind on purpose; a warning for the source |
//! | `default_write_concern` | warning | enough members are up for the write concern of the target's clients that state none |
//! | `unused_member` | note | hidden and delayed members |
//! | `direct_connection` | warning | the whole set is connected to, so that elections can be followed |
//! | `read_preference` | note | the source's read preference is `primary`; others are not used |
//! | `downgrade` | blocker | the target is not older than the source |
//! | `source_too_old` | blocker | the source is 4.2 or newer |
//! | `path_not_offered` | blocker | the path is one of those of [`PathPolicy::Hosted`], where that is chosen |
//! | `untested_path` | warning | the path is covered by tests, as [below](#versions) |
//! | `version_jump` | warning | there is at most one major version between both sides |
//! | `test_application` | note, warning | both sides are of one version, else the application is to be tested; a warning from 4.0 and before |
//! | `feature_compatibility_changing` | blocker | no change of the feature compatibility version is under way |
//! | `feature_compatibility_lower` | blocker | the target's is not lower than the source's |
//! | `feature_compatibility_behind` | warning, note | it is that of the binaries; a warning for the target |
//! | `not_mongodb` | blocker | both sides are MongoDB, and not a service that imitates it |
//! | `oplog_refused` | blocker | the source is not a tier that keeps its oplog to itself |
//! | `unencrypted` | blocker | traffic to other hosts is encrypted, or [accepted](crate::MigrationBuilder::accept_unencrypted) in the clear |
//! | `missing_privilege` | blocker | the users may do all that is needed, as [below](#privileges) |
//! | `unchecked` | note | a rule could look at what it looks at |
//! | `same_target` | blocker | no two collections become one |
//! | `database_case` | blocker | no database on the target differs from a migrated one in the case of letters alone |
//! | `name_too_long` | blocker | names have up to 255 bytes, 120 on 4.2; those of databases 63 |
//! | `collection_option` | blocker | the target takes the options of every collection |
//! | `option_not_kept` | warning | and keeps them; what it does not is [named at the end](crate::Summary::not_kept) too, and is no difference |
//! | `time_series` | blocker | time-series collections have buckets, on both sides: servers of 9.0 and newer make them without |
//! | `view_without_collection` | warning | what views show exists and is migrated |
//! | `queryable_encryption` | blocker | no collection is encrypted so that it can be queried |
//! | `client_encryption` | warning | no collection has fields that clients encrypt |
//! | `geo_haystack` | blocker | no geoHaystack indexes for a target of 5.0 or newer |
//! | `index_key_limit` | warning | the target does not enforce the limit of 1024 bytes for keys of indexes |
//! | `index_option` | blocker | specifications of indexes have no unknown fields |
//! | `index_value` | blocker | nor values that servers no longer take |
//! | `index_version` | blocker | nor version 0 |
//! | `index_option_not_kept` | note | nor fields without effect that the target leaves out; they too are named at the end |
//! | `id_index_version` | note | the index on `_id` has the source's version where the collection stands on the target already |
//! | `id_index_option` | warning | indexes on `_id` are ordinary |
//! | `id_index_missing` | warning | every collection has one |
//! | `nested_document` | warning | documents have up to 180 levels ([scan](crate::MigrationBuilder::scan_documents) only) |
//! | `misplaced_id` | blocker | documents begin with their `_id` (scan only) |
//! | `unique_violation` | blocker | no two documents have one key in a unique index (scan only) |
//! | `existing_data` | blocker, warning | nothing stands in the way on the target; a warning names what is dropped or made equal |
//! | `lease_held` | blocker | no other process migrates to the target |
//! | `other_migration` | blocker | the checkpoint is of this very migration |
//! | `already_complete` | blocker | it is not complete |
//! | `other_tool` | warning | no other tool keeps its state on the target |
//! | `writes_blocked` | blocker | the target takes writes, or its user may pass a block (6.0) |
//! | `write_block_unavailable` | blocker | the source can block writes, where [that](crate::MigrationBuilder::block_source_writes) is chosen |
//! | `disk_space` | warning | the target's disk has room for the data, uncompressed |
//! | `small_cache` | warning | the target's cache is at least half the source's |
//! | `small_oplog` | note | so is its oplog |
//! | `clock_skew` | warning | the clocks are at most 5 s apart |
//! | `oplog_window` | note | how long the process may be down |
//! | `long_transaction` | warning | no transaction has been open for 30 s or more |
//! | `index_build` | warning | no index is being built on the source |
//! | `profiler` | note | the source's profilers are off (from 5.0 on) |
//! | `heavy_load` | warning | at most 100 operations wait for a lock on the source |
//! | `lenient_index_keys` | warning | `failIndexKeyTooLong` is not off on the source |
//!
//! # Versions
//! | version | what is known of it |
//! |---|---|
//! | 2.6 to 4.0 | refused: their history cannot be followed, and the driver does not talk to the oldest of them |
//! | 4.2, 4.4, 5.0, 6.0 | tested: every path upward between them and to themselves, on real servers |
//! | 7.0, 8.0 | read from the servers' source: entries, listings and options of these versions are understood, and tests have them by hand-made samples; no such server was run |
//! | 9.0 | as 7.0 and 8.0; time-series collections, which it keeps without buckets, are refused on either side |
//! | newer | nothing: what is met that is not known stops the run |
//!
//! # Privileges
//! The source's user needs the roles `readAnyDatabase` and `clusterMonitor`, the target's user `readWriteAnyDatabase`,
//! `dbAdminAnyDatabase` and `clusterMonitor`, and `restore` where a `system.js` is migrated, all on `admin`. What is needed of them is tried, in a way that leaves nothing behind, or
//! looked up in the list of privileges that the server gives; roles by other names that allow the same do as well. Where writes are to be
//! blocked at the cutover the source's user needs `setUserWriteBlockMode` on the cluster too, as `backup` has it.

mod collection;
mod connection;
#[cfg(test)]
mod fixture;
mod grant;
mod index;
mod kind;
mod path;
mod plan;
mod privilege;
mod sample;
mod scan;
mod source;
mod target;
mod time_series;
mod topology;
mod write_block;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::catalog::not_migrated::{is_view_of_buckets, not_migrated};
use crate::catalog::{self, NotKept, Part};
use crate::config::{ExistingData, Settings};
use crate::error::{ErrorKind, Result};
use crate::model::{Amount, Collection, CollectionKind, Deployment, Namespace, Side, shown, takes_name};
use crate::mongo::retry::answered;
use crate::runtime::job::Job;
use crate::runtime::lease;
use crate::runtime::waiting::LONGEST_CALL;

pub use self::plan::{Estimate, Plan, PlannedCollection};
pub use crate::config::PathPolicy;
pub use crate::error::{Finding, Severity};
pub use crate::model::{Access, Connection, Inspection, Member, OplogFacts, Probe, TransactionFacts};

/// How long a side may take to say what is asked of it, all in all. A single question that is not answered is a finding sooner.
const ASKED: Duration = Duration::from_secs(120);

/// What is waited for.
const DESCRIBE: &str = "describe the deployment";
const INSPECT: &str = "inspect the deployment";
const LIST: &str = "list the collections";

/// What the checks are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To show a plan: everything is looked at.
    Plan,
    /// To start: what takes long is left out, and who holds the lease is known.
    Start,
}

/// One side of a migration.
struct SideFacts {
    side: Side,
    /// What messages call it.
    name: &'static str,
    deployment: Deployment,
    inspection: Inspection,
    /// Why its collections could not be listed.
    unlisted: Option<String>,
}

impl SideFacts {
    fn user(&self) -> Option<&(String, String)> {
        self.inspection.connection.user.as_ref()
    }

    /// The one severity or the other.
    fn severity(&self, on_source: Severity, on_target: Severity) -> Severity {
        match self.side {
            Side::Source => on_source,
            Side::Target => on_target,
        }
    }
}

/// Whether a run has begun.
#[derive(Clone, Debug)]
enum Checkpointed {
    Not,
    Yes,
    Complete,
    /// The checkpoint is of another migration, for this reason.
    Otherwise(String),
}

/// What the rules look at.
struct Context<'a> {
    settings: &'a Settings,
    source: &'a SideFacts,
    target: &'a SideFacts,
    /// Every collection of the source.
    listed: &'a [Collection],
    /// Those of them that are migrated.
    selected: &'a [&'a Collection],
    /// Every collection of the target.
    standing: &'a [Collection],
    planned: &'a [PlannedCollection],
    total: Amount,
    checkpointed: &'a Checkpointed,
    /// The process that holds the lease now.
    lease_holder: Option<&'a str>,
}

impl Context<'_> {
    fn sides(&self) -> [&SideFacts; 2] {
        [self.source, self.target]
    }

    /// What the target cannot keep of a collection.
    fn not_kept(&self, collection: &Collection) -> Vec<(Part, NotKept)> {
        let target = self.settings.selection.target(&collection.namespace);
        let standing = match self.settings.existing_data {
            ExistingData::Keep => self.standing.iter().find(|standing| standing.namespace == target),
            _ => None,
        };
        catalog::not_kept(collection, standing, catalog::series(&self.target.deployment))
    }

    /// Collections on the target that have the name of one that is migrated.
    fn in_the_way(&self) -> impl Iterator<Item = &Collection> {
        let planned: BTreeSet<Namespace> = self.planned.iter().map(|planned| shown(&planned.target)).collect();
        self.standing
            .iter()
            .filter(|standing| takes_name(standing))
            .filter(move |standing| planned.contains(&shown(&standing.namespace)))
    }
}

/// Checks both sides and changes nothing.
pub(crate) async fn check(engine: &Job, purpose: Purpose) -> Result<Plan> {
    let settings = &engine.settings;
    let ((source, listed), (target, standing)) = futures::try_join!(source_facts(engine), target_facts(engine))?;
    let (selected, left_out): (Vec<&Collection>, Vec<&Collection>) = listed
        .iter()
        .partition(|collection| settings.selection.contains(&collection.namespace) && !is_view_of_buckets(collection));
    let planned: Vec<PlannedCollection> = selected
        .iter()
        .map(|collection| PlannedCollection {
            namespace: collection.namespace.clone(),
            target: settings.selection.target(&collection.namespace),
            kind: collection.kind,
            amount: Amount {
                documents: collection.documents,
                bytes: collection.bytes,
            },
            indexes: collection.indexes.len(),
        })
        .collect();
    let mut total = Amount::default();
    for collection in &planned {
        total.documents += collection.amount.documents;
        total.bytes += collection.amount.bytes;
    }
    if settings.way_back.is_some() {
        // Everything is there already.
        total = Amount::default();
    }
    // Records are read with what a majority confirms, which takes a write; where there is none, that is a finding of its own.
    let takes_writes = !target.inspection.unanswered.contains(&Access::WriteRecords);
    let (checkpointed, lease_holder) = match takes_writes && topology::has_prompt_majority(&target) {
        true => {
            let checkpointed = asked(
                engine,
                Side::Target,
                "load the checkpoint",
                Some(LONGEST_CALL),
                checkpointed(engine),
            );
            let holder = asked(
                engine,
                Side::Target,
                "look for the lease",
                Some(LONGEST_CALL),
                lease_holder(engine, purpose),
            );
            (checkpointed.await?, holder.await?)
        }
        false => (Checkpointed::Not, None),
    };
    let context = Context {
        settings,
        source: &source,
        target: &target,
        listed: &listed,
        selected: &selected,
        standing: &standing,
        planned: &planned,
        total,
        checkpointed: &checkpointed,
        lease_holder: lease_holder.as_deref(),
    };
    let mut findings = Vec::new();
    for rule in [
        kind::check,
        topology::check,
        path::check,
        connection::check,
        privilege::check,
        collection::check,
        time_series::check,
        index::check,
        target::check,
        source::check,
        write_block::check,
    ] {
        rule(&context, &mut findings);
    }
    let to_drop = match (settings.existing_data, &checkpointed) {
        (ExistingData::Clear, Checkpointed::Not) => context
            .in_the_way()
            .map(|collection| collection.namespace.clone())
            .collect(),
        _ => Vec::new(),
    };
    let mut estimate = None;
    if purpose == Purpose::Plan {
        if settings.scan_documents {
            let scan = scan::check(&*engine.source, &selected, &mut findings);
            asked(engine, Side::Source, "read all documents", None, scan).await?;
        }
        if settings.way_back.is_none() {
            estimate = sample::estimate(&*engine.source, &source.inspection, &selected, total).await;
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    let on_id = |collection: &PlannedCollection| usize::from(collection.kind != CollectionKind::View);
    Ok(Plan {
        findings,
        indexes: planned
            .iter()
            .map(|collection| collection.indexes.saturating_sub(on_id(collection)))
            .sum(),
        collections: planned,
        total,
        estimate,
        to_drop,
        not_migrated: not_migrated(&left_out),
        source: source.deployment,
        target: target.deployment,
    })
}

/// Checks what a host may have chosen since the start that the run goes on from, which was checked whole.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) with every blocker, or a server error.
pub(crate) async fn check_again(engine: &Job) -> Result<()> {
    if !engine.settings.block_source_writes {
        return Ok(());
    }
    let both = async { futures::try_join!(engine.source.describe(), engine.source.inspect()) };
    let (deployment, inspection) = asked(engine, Side::Source, INSPECT, Some(ASKED), both).await?;
    let (source, _) = side_facts(Side::Source, "source", deployment, inspection, Ok(Vec::new()));
    let mut findings = Vec::new();
    write_block::check_source(&engine.settings, &source, &mut findings);
    crate::error::refuse(&findings)
}

async fn source_facts(engine: &Job) -> Result<(SideFacts, Vec<Collection>)> {
    let (side, source) = (Side::Source, &engine.source);
    let deployment = asked(engine, side, DESCRIBE, Some(ASKED), source.describe()).await?;
    let inspection = asked(engine, side, INSPECT, Some(ASKED), source.inspect()).await?;
    let listed = asked(engine, side, LIST, None, source.collections()).await;
    let listed = unless_unauthorized(listed)?;
    Ok(side_facts(side, "source", deployment, inspection, listed))
}

async fn target_facts(engine: &Job) -> Result<(SideFacts, Vec<Collection>)> {
    let (side, sink) = (Side::Target, &engine.sink);
    let deployment = asked(engine, side, DESCRIBE, Some(ASKED), sink.describe()).await?;
    let inspection = asked(engine, side, INSPECT, Some(ASKED), sink.inspect()).await?;
    let listed = asked(engine, side, LIST, None, sink.collections()).await;
    let listed = unless_unauthorized(listed)?;
    Ok(side_facts(side, "target", deployment, inspection, listed))
}

/// Awaits an answer, for no longer than `limit`, and tells the host when that takes long.
async fn asked<T>(
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
    engine.settings.on_wait.telling(side, operation, limit, answer).await
}

fn side_facts(
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

/// Takes a missing privilege for an answer, since the others are to be found as well.
fn unless_unauthorized<T>(answer: Result<T>) -> Result<Result<T, String>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(Err(error.to_string())),
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

async fn lease_holder(engine: &Job, purpose: Purpose) -> Result<Option<String>> {
    match purpose {
        // Without the privilege to read records this is told by the rule for privileges.
        Purpose::Plan => Ok(unless_unauthorized(lease::holder(&*engine.sink).await)?.ok().flatten()),
        Purpose::Start => Ok(None),
    }
}
