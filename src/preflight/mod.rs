//! Preflight: finds every reason why a migration would fail, before anything changes.
//!
//! [`Migration::preflight`](crate::Migration::preflight) collects facts from both sides (an [`Inspection`]) and applies every rule of the
//! table below to them. It returns a [`Plan`]: what a start would do, and all findings at once. A start is refused if there is any blocker.
//!
//! Failures to connect are reported earlier, as an error of [`MongoSource::connect`](crate::MongoSource::connect) or
//! [`MongoSink::connect`](crate::MongoSink::connect). Such an error carries [findings](crate::Error::findings) of the same form, so a host
//! can show one list.
//!
//! A rule that lacks the privilege for its facts reports `unchecked`. The other rules still run.
//!
//! # Rules
//! | code | severity | condition |
//! |---|---|---|
//! | `connection_string` | blocker | when connecting: the connection string can be parsed |
//! | `unknown_host` | blocker | when connecting: the host names resolve on this machine |
//! | `not_reached` | blocker | when connecting: a server listens at the address and answers |
//! | `no_answer` | blocker, warning | each side answers every question in time, also when connecting; a warning if the answer is not essential |
//! | `no_primary` | blocker | when connecting: the set has a primary |
//! | `primary_not_reached` | blocker | when connecting: the primary can be reached by its name in the set |
//! | `not_primary` | blocker | when connecting: with a direct connection, the member is the primary |
//! | `other_set` | blocker | when connecting: the set has the name that the connection string gives |
//! | `standalone` | blocker | when connecting: the server belongs to a replica set |
//! | `not_initiated` | blocker | when connecting: the set has a configuration |
//! | `mongos` | blocker | when connecting: the deployment is not a sharded cluster |
//! | `server_too_old` | blocker | when connecting: the server is 4.2 or newer; a source may be 2.6 or newer with the feature `legacy` |
//! | `tls_required` | blocker | when connecting: TLS is used if the server requires it |
//! | `tls_not_offered` | blocker | when connecting: TLS is used only if the server offers it |
//! | `tls_too_old` | blocker | when connecting to a source before 4.2: both sides have a TLS cipher in common |
//! | `tls_files` | blocker | when connecting: the certificate files can be read |
//! | `certificate` | blocker | when connecting: the server's certificate is valid, issued for this host, and signed by the given authority |
//! | `client_certificate` | blocker | when connecting: the server accepts the client's certificate |
//! | `credentials_refused` | blocker | when connecting: the server accepts the user and the password |
//! | `same_deployment` | blocker | source and target are two different replica sets |
//! | `member_unhealthy` | warning | every member is primary, secondary or arbiter; none is recovering or down |
//! | `no_majority` | blocker | data-bearing members that are up form a majority; arbiters do not count |
//! | `delayed_majority` | blocker, warning | they form a majority even without delayed members; a warning for the source |
//! | `default_write_concern` | warning | enough members are up for the target's default write concern, which applies to clients that state none |
//! | `unused_member` | note | there are no hidden or delayed members |
//! | `direct_connection` | warning | the client connects to the whole set, so that it can follow elections |
//! | `read_preference` | note | the source's read preference is `primary`; other values are ignored |
//! | `downgrade` | blocker | the target is not older than the source |
//! | `source_too_old` | blocker | the source is 4.2 or newer, or 2.6 or newer with the feature `legacy` |
//! | `source_promise` | warning | the source never loses writes that a majority has acknowledged; 2.6, 3.0 and protocol version 0 can |
//! | `path_not_offered` | blocker | the path is one of [`PathPolicy::Hosted`], if that policy is chosen |
//! | `untested_path` | warning | the path is covered by tests, see [below](#versions) |
//! | `version_jump` | warning | at most one major version lies between both sides |
//! | `test_application` | note, warning | both sides have the same version; otherwise test the application first; a warning from 4.0 and before |
//! | `feature_compatibility_changing` | blocker | the feature compatibility version is not being changed |
//! | `feature_compatibility_lower` | blocker | the target's feature compatibility version is not lower than the source's |
//! | `feature_compatibility_behind` | warning, note | the feature compatibility version matches the binaries; a warning for the target |
//! | `not_mongodb` | blocker | both sides are MongoDB, not a service that imitates it |
//! | `oplog_refused` | blocker | the source is not a hosting tier that hides its oplog |
//! | `unencrypted` | blocker | traffic to other hosts is encrypted, or [accepted](crate::MigrationBuilder::accept_unencrypted) unencrypted |
//! | `missing_privilege` | blocker | both users have the required privileges, see [below](#privileges) |
//! | `unchecked` | note | every rule had access to its facts |
//! | `same_target` | blocker | no two collections are mapped to the same name |
//! | `database_case` | blocker | no database on the target differs from a migrated one only in the case of letters |
//! | `name_too_long` | blocker | names have at most 255 bytes, 120 on 4.2; names of databases at most 63 |
//! | `collection_option` | blocker | the target accepts the options of every collection |
//! | `option_not_kept` | warning | the target keeps all options; the [summary](crate::Summary::not_kept) lists lost ones too, not as differences |
//! | `time_series` | blocker | time-series collections have buckets on both sides; servers of 9.0 and newer create them without |
//! | `view_without_collection` | warning | the collection behind each view exists and is migrated |
//! | `queryable_encryption` | blocker | no collection uses queryable encryption |
//! | `client_encryption` | warning | no collection has fields encrypted by clients |
//! | `geo_haystack` | blocker | there are no geoHaystack indexes if the target is 5.0 or newer |
//! | `index_key_limit` | warning | the target does not enforce the limit of 1024 bytes for index keys |
//! | `index_option` | blocker | index specifications have no unknown fields |
//! | `index_value` | blocker | index specifications have no values that servers no longer accept |
//! | `index_option_not_kept` | note | indexes have no fields without effect, which the target drops; the summary lists them too |
//! | `id_index_version` | note | an existing collection on the target has the same version of the index on `_id` as the source |
//! | `id_index_option` | warning | indexes on `_id` have no special options |
//! | `id_index_missing` | blocker, warning | every collection has an index on `_id`; a blocker for 2.6 and 3.0, whose documents can move while they are read |
//! | `filter_unsupported` | blocker | filters use [supported](crate::rules::Query) operators |
//! | `ruled_collection` | blocker | no capped or time-series collection has filters or transforms |
//! | `ruled_view` | warning | no view reads a collection with filters or transforms |
//! | `rule_fails` | blocker, warning | filters and transforms have a result for each document of a sample; a warning if [the run goes on](crate::OnRuleError) |
//! | `rule_unsteady` | blocker | filters and transforms return the same for the same document |
//! | `ruled_index` | blocker, warning | no index is on fields that a transform changes; a blocker if documents of a sample would expire by a TTL index during the run |
//! | `ruled_unique_index` | blocker | the transformed documents of a sample differ in the keys of unique indexes |
//! | `ruled_validator` | warning | the validators accept the transformed documents of a sample |
//! | `nested_document` | warning | documents have at most 180 levels ([scan](crate::MigrationBuilder::scan_documents) only) |
//! | `misplaced_id` | blocker | documents begin with their `_id` (scan only) |
//! | `unique_violation` | blocker | no two documents share a key in a unique index (scan only) |
//! | `unindexed_documents` | blocker | on a source before 4.2, the index on `_id` has every document, as far as [counts](crate::docs::versions#sources-before-42) tell |
//! | `existing_data` | blocker, warning | no collection on the target is in the way, also of dead letters; a warning names what will be dropped or made equal |
//! | `lease_held` | blocker | no other process runs this migration |
//! | `overlapping_migration` | blocker | no other migration that is not complete may ever write to the same names on the target |
//! | `other_migration` | blocker | the checkpoint belongs to this migration |
//! | `already_complete` | blocker | the migration is not complete already |
//! | `other_tool` | warning | no other tool keeps its state on the target |
//! | `writes_blocked` | blocker | the target accepts writes, or its user may bypass a block (6.0) |
//! | `write_block_unavailable` | blocker | the source can block writes, if [that](crate::MigrationBuilder::block_source_writes) is chosen |
//! | `disk_space` | warning | the target's disk has room for the uncompressed data |
//! | `small_cache` | warning | the target's cache is at least half as large as the source's |
//! | `small_oplog` | note | the target's oplog is at least half as large as the source's |
//! | `clock_skew` | warning | the clocks differ by at most 5 s |
//! | `oplog_window` | note | reports how long the process may be down |
//! | `long_transaction` | warning | no transaction has been open for 30 s or more |
//! | `index_build` | warning | no index build is running on the source |
//! | `profiler` | note | the profilers of the source's databases are off (from 5.0 on) |
//! | `heavy_load` | warning | at most 100 operations wait for a lock on the source |
//! | `users_unsupported` | blocker | source and sink can carry users and roles, if [that](crate::MigrationBuilder::users) is chosen; so for the rows below |
//! | `users_existing` | blocker, warning | the target has no other content under the names of carried users and roles; a warning names what will be kept or replaced |
//! | `user_credentials_old` | warning | every user has credentials that the target knows; others are left out |
//! | `user_mechanism_off` | warning | the target accepts a mechanism for which each user has credentials |
//! | `user_external` | warning, note | the target can check users whose credentials are kept elsewhere (`$external`) |
//! | `role_missing` | warning | every role that a user or role has is built in, carried or on the target |
//! | `role_action_unknown` | blocker | the target knows every action of the roles |
//! | `role_renamed` | warning | the privileges of roles name collections by their names on the target |
//! | `lenient_index_keys` | warning | `failIndexKeyTooLong` is not off on the source |
//!
//! # Versions
//! | version | support |
//! |---|---|
//! | 2.6, 3.0, 3.2, 3.4, 3.6, 4.0 | as a source, with the feature `legacy`: known from the servers' source code and run as an emulation to targets of 6.0 and, for 4.0, 4.2; 2.6.12 and 3.0.15 also by entries that were captured from them; refused without that feature |
//! | 4.2, 4.4, 5.0, 6.0 | tested on real servers: every upward path between them, and from each to itself |
//! | 7.0, 8.0 | known from the servers' source code: entries, listings and options are understood and tested with hand-made samples; no such server was run |
//! | 9.0 | as 7.0 and 8.0; time-series collections are refused on either side, because 9.0 stores them without buckets |
//! | newer | unknown: anything unfamiliar stops the run |
//!
//! # Privileges
//! The source's user needs the roles `readAnyDatabase` and `clusterMonitor`. The target's user needs `readWriteAnyDatabase`,
//! `dbAdminAnyDatabase` and `clusterMonitor`, and also `restore` if a `system.js` is migrated. All these roles are on `admin`. Preflight
//! tries each operation that needs a privilege, in a way that leaves nothing behind, or looks the privilege up in the list that the server
//! returns. Other roles with the same privileges work as well. On a source before 4.2 the user also needs `backup`, which lets it write the
//! entry without effect that confirms the primary at a cutover; without it, a cutover from 2.6 to 3.2 takes 13 seconds longer. If writes are
//! to be blocked at the cutover, the source's user also needs `setUserWriteBlockMode` on the cluster, which `backup` includes. If users and
//! roles are to be carried, the source's user also needs `backup` and the target's user `restore`.

mod collection;
mod connection;
mod facts;
#[cfg(test)]
mod fixture;
mod grant;
mod group;
mod index;
mod kind;
mod old_source;
mod path;
mod plan;
mod privilege;
mod ruled_expiry;
mod rules;
mod sample;
mod scan;
mod source;
mod target;
mod time_series;
mod topology;
mod unindexed;
mod users;
mod write_block;

use std::collections::BTreeSet;

use crate::catalog::not_migrated::{is_view_of_buckets, leave_indexes_out, not_migrated};
use crate::catalog::{self, NotKept, Part};
use crate::config::{ExistingData, Settings};
use crate::error::{Result, refuse};
use crate::model::{Amount, Collection, CollectionKind, Namespace, Side, shown, takes_name};
use crate::report::users_not_migrated;
use crate::runtime::job::Job;
use crate::runtime::register::Register;

use self::facts::{
    ASKED, Checkpointed, INSPECT, SideFacts, TargetRecords, asked, side_facts, source_facts, target_facts,
};
use self::users::UsersOutlook;

pub use self::plan::{Estimate, Plan, PlannedCollection};
pub use crate::config::PathPolicy;
pub use crate::error::{Finding, Severity};
pub use crate::model::{Access, Connection, Inspection, Member, OplogFacts, Probe, TransactionFacts};

/// Purpose of a preflight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Show a plan: every rule runs.
    Plan,
    /// Start: slow checks are skipped, and the holder of the lease is already known.
    Start,
}

/// Input of the rules.
struct Context<'a> {
    settings: &'a Settings,
    source: &'a SideFacts,
    target: &'a SideFacts,
    /// All collections of the source.
    listed: &'a [Collection],
    /// The listed collections that are migrated.
    selected: &'a [&'a Collection],
    /// All collections of the target.
    standing: &'a [Collection],
    planned: &'a [PlannedCollection],
    total: Amount,
    checkpointed: &'a Checkpointed,
    /// The process that currently holds the lease.
    lease_holder: Option<&'a str>,
    /// The migrations that the target knows.
    register: &'a Register,
    /// What would be carried of users and roles.
    users: &'a UsersOutlook,
}

impl Context<'_> {
    fn sides(&self) -> [&SideFacts; 2] {
        [self.source, self.target]
    }

    /// Returns the parts of a collection that the target cannot keep.
    fn not_kept(&self, collection: &Collection) -> Vec<(Part, NotKept)> {
        let target = self.settings.selection.target(&collection.namespace);
        let standing = match self.settings.existing_data {
            ExistingData::Keep => self.standing.iter().find(|standing| standing.namespace == target),
            _ => None,
        };
        catalog::not_kept(collection, standing, catalog::series(&self.target.deployment))
    }

    /// Collections on the target with the name of a migrated one.
    fn in_the_way(&self) -> impl Iterator<Item = &Collection> {
        let planned: BTreeSet<Namespace> = self.planned.iter().map(|planned| shown(&planned.target)).collect();
        self.standing
            .iter()
            .filter(|standing| takes_name(standing))
            .filter(move |standing| planned.contains(&shown(&standing.namespace)))
    }
}

/// Checks both sides. Changes nothing.
pub(crate) async fn check(engine: &Job, purpose: Purpose) -> Result<Plan> {
    let settings = &engine.settings;
    let ((source, mut listed, databases), (target, standing)) =
        futures::try_join!(source_facts(engine), target_facts(engine))?;
    let indexes_left_out = leave_indexes_out(&mut listed, |name| settings.collections.of(name).leaves_indexes_out());
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
            rules: settings
                .rules
                .of(&shown(&collection.namespace))
                .map(|rule| rule.records())
                .unwrap_or_default(),
        })
        .collect();
    let mut total = Amount::default();
    for collection in &planned {
        total.documents += collection.amount.documents;
        total.bytes += collection.amount.bytes;
    }
    if settings.way_back.is_some() {
        // Everything exists on the target already.
        total = Amount::default();
    }
    let records = TargetRecords::read(engine, purpose, &target).await?;
    let users = users::look(engine, &records.made).await?;
    let context = Context {
        settings,
        source: &source,
        target: &target,
        listed: &listed,
        selected: &selected,
        standing: &standing,
        planned: &planned,
        total,
        checkpointed: &records.checkpointed,
        lease_holder: records.lease_holder.as_deref(),
        register: &records.register,
        users: &users,
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
        rules::check,
        index::check,
        target::check,
        source::check,
        write_block::check,
        users::check,
    ] {
        rule(&context, &mut findings);
    }
    let to_drop = match (settings.existing_data, &records.checkpointed) {
        (ExistingData::Clear, Checkpointed::Not) => context
            .in_the_way()
            .map(|collection| collection.namespace.clone())
            .collect(),
        _ => Vec::new(),
    };
    if settings.way_back.is_none() && matches!(records.checkpointed, Checkpointed::Not) {
        let tried = rules::try_on_samples(&*engine.plain_source, settings, &selected, &mut findings);
        asked(engine, Side::Source, "try the rules on documents", None, tried).await?;
    }
    if matches!(records.checkpointed, Checkpointed::Not) {
        let counted = unindexed::check(&*engine.plain_source, &selected, &mut findings);
        asked(engine, Side::Source, "count the documents of indexes", None, counted).await?;
    }
    let mut estimate = None;
    if purpose == Purpose::Plan {
        if settings.scan_documents {
            let scan = scan::check(&*engine.plain_source, &selected, &mut findings);
            asked(engine, Side::Source, "read all documents", None, scan).await?;
        }
        if settings.way_back.is_none() {
            estimate = sample::estimate(&*engine.plain_source, &source.inspection, &selected, total).await;
        }
    }
    let planned_users = users.summary();
    let mut findings = group::group(findings);
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
        not_migrated: not_migrated(
            &databases,
            &settings.selection,
            &left_out,
            &indexes_left_out,
            users_not_migrated(&settings.users, planned_users.as_ref()),
        ),
        users: planned_users,
        source: source.deployment,
        target: target.deployment,
    })
}

/// Checks the settings that a host may have changed since the start. Everything else was checked at that start, from which the run resumes.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) with every blocker, or a server error.
pub(crate) async fn check_again(engine: &Job) -> Result<()> {
    let mut findings = Vec::new();
    rules::unsupported(&engine.settings, &mut findings);
    refuse(&findings)?;
    if !engine.settings.block_source_writes {
        return Ok(());
    }
    let both = async { futures::try_join!(engine.source.describe(), engine.source.inspect()) };
    let (deployment, inspection) = asked(engine, Side::Source, INSPECT, Some(ASKED), both).await?;
    let (source, _) = side_facts(Side::Source, "source", deployment, inspection, Ok(Vec::new()));
    write_block::check_source(&engine.settings, &source, &mut findings);
    refuse(&findings)
}
