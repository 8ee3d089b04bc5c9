//! Rules for the target: no other migration, no conflicting data, enough capacity.

use super::privilege::passes_write_block;
use super::{Checkpointed, Context};
use crate::config::{ExistingData, OnRuleError};
use crate::error::{Finding, FindingCode};
use crate::model::Namespace;

/// Databases in which other migration tools keep their state.
const OTHER_TOOLS: &[(&str, &str)] = &[
    ("__mdb_internal_mongosync", "mongosync"),
    ("mongosync_reserved_for_internal_use", "mongosync"),
    ("mongomirror", "mongomirror"),
    ("percona_clustersync_mongodb", "Percona ClusterSync"),
    ("percona_link_mongodb", "Percona ClusterSync"),
    ("mongoshake", "MongoShake"),
    ("mongopush", "mongopush"),
];

/// Maximum difference of the clocks in milliseconds. A larger one disturbs TTL indexes and the timestamps of the application.
const CLOCK_SKEW_MS: i64 = 5_000;

/// Checks what exists on the target, and its capacity.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    records(context, findings);
    if matches!(context.checkpointed, Checkpointed::Not) {
        existing(context, findings);
        existing_letters(context, findings);
    }
    let inspection = &context.target.inspection;
    if inspection.writes_blocked == Some(true) && !passes_write_block(context.target) {
        findings.push(Finding::blocker(
            FindingCode::WritesBlocked,
            "the target blocks writes of clients (setUserWriteBlockMode)",
            "on the target: `db.adminCommand({ setUserWriteBlockMode: 1, global: false })`",
        ));
    }
    sizes(context, findings);
    let clocks = (context.source.inspection.clock_ahead_ms, inspection.clock_ahead_ms);
    if let (Some(source), Some(target)) = clocks
        && (target - source).abs() > CLOCK_SKEW_MS
    {
        findings.push(Finding::warning(
            FindingCode::ClockSkew,
            format!(
                "the target's clock is {:.1} s {} the source's",
                (target - source).abs() as f64 / 1e3,
                if target > source { "ahead of" } else { "behind" }
            ),
            "synchronise both with NTP: `timedatectl set-ntp true`",
        ));
    }
}

/// Checks the records of this migration and of others.
fn records(context: &Context<'_>, findings: &mut Vec<Finding>) {
    match context.checkpointed {
        Checkpointed::Not | Checkpointed::Yes => {}
        Checkpointed::Complete => findings.push(Finding::blocker(
            FindingCode::AlreadyComplete,
            "the checkpoint says that this migration is complete",
            "start another one with another id, or call `Migration::forget` to run this one again",
        )),
        Checkpointed::Otherwise(reason) => findings.push(Finding::blocker(
            FindingCode::OtherMigration,
            format!("the checkpoint is of another migration: {reason}"),
            "use another id or another checkpoint store, or call `Migration::forget` if that migration is over",
        )),
    }
    if let Some(holder) = context.lease_holder {
        findings.push(Finding::blocker(
            FindingCode::LeaseHeld,
            format!("{holder} runs this migration"),
            "stop it, or wait for it to end",
        ));
    }
    findings.extend(
        context
            .register
            .conflicts(&context.settings.id, &context.settings.selection),
    );
    for database in &context.target.inspection.databases {
        if let Some((_, tool)) = OTHER_TOOLS.iter().find(|(name, _)| name == database) {
            findings.push(Finding::warning(
                FindingCode::OtherTool,
                format!("the target has the database `{database}`, where {tool} keeps its state"),
                format!("make sure that {tool} is stopped, then on the target: `db.getSiblingDB(\"{database}\").dropDatabase()`"),
            ));
        }
    }
}

/// Checks for collections on the target with the names of migrated ones.
fn existing(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for collection in context.in_the_way() {
        let (name, documents) = (&collection.namespace, collection.documents);
        let drop = drop_of(name);
        findings.push(match context.settings.existing_data {
            ExistingData::Refuse => Finding::blocker(
                FindingCode::ExistingData,
                format!("the target already has `{name}` with {documents} documents"),
                format!("{drop}, or choose to clear or keep existing data"),
            )
            .about(name.as_str()),
            ExistingData::Clear => Finding::warning(
                FindingCode::ExistingData,
                format!("`{name}` with {documents} documents on the target will be dropped"),
                "choose to refuse or keep existing data if this is not wanted",
            )
            .about(name.as_str()),
            ExistingData::Keep => Finding::warning(
                FindingCode::ExistingData,
                format!("`{name}` on the target will be made equal to the source; other documents in it are deleted"),
                "choose to refuse existing data if this is not wanted",
            )
            .about(name.as_str()),
        });
    }
}

/// Checks for a collection on the target with the name of that for dead letters. Letters would be written between its documents, and documents
/// that look like letters would be removed, so that it is refused whatever is to be done with other existing data.
fn existing_letters(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let OnRuleError::DeadLetter(letters) = &context.settings.on_rule_error else {
        return;
    };
    for collection in context
        .standing
        .iter()
        .filter(|standing| standing.namespace == *letters)
    {
        let (name, documents) = (&collection.namespace, collection.documents);
        findings.push(
            Finding::blocker(
                FindingCode::ExistingData,
                format!("the target already has `{name}`, where dead letters are to go, with {documents} documents"),
                format!("choose another collection for them, or {}", drop_of(name)),
            )
            .about(name.as_str())
            .because("dead letters"),
        );
    }
}

/// How to drop a collection of the target.
fn drop_of(name: &Namespace) -> String {
    format!(
        "on the target: `db.getSiblingDB(\"{}\").getCollection(\"{}\").drop()`",
        name.database(),
        name.collection()
    )
}

fn sizes(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let (source, target) = (&context.source.inspection, &context.target.inspection);
    if let Some(free) = target.free_disk_bytes
        && free < context.total.bytes
    {
        findings.push(Finding::warning(
            FindingCode::DiskSpace,
            format!(
                "{} have to be copied and {} are free on the target's disk; the data may still fit after compression",
                gigabytes(context.total.bytes),
                gigabytes(free)
            ),
            "give the target a larger disk, or select fewer collections",
        ));
    }
    if let (Some(source), Some(target)) = (source.cache_bytes, target.cache_bytes)
        && target < source / 2
    {
        findings.push(Finding::warning(
            FindingCode::SmallCache,
            format!(
                "the target's cache of {} is less than half the source's of {}",
                gigabytes(target),
                gigabytes(source)
            ),
            format!(
                "on the target: `db.adminCommand({{ setParameter: 1, wiredTigerEngineRuntimeConfig: \"cache_size={}M\" }})` if there is \
                 memory for it",
                source >> 20
            ),
        ));
    }
    if let (Some(source), Some(target)) = (source.oplog, target.oplog)
        && target.limit_bytes < source.limit_bytes / 2
    {
        findings.push(Finding::note(
            FindingCode::SmallOplog,
            format!(
                "the target's oplog of {} is less than half the source's of {}: its secondaries and change streams may be offline for a shorter \
                 time",
                gigabytes(target.limit_bytes),
                gigabytes(source.limit_bytes)
            ),
            format!(
                "on each member of the target: `db.adminCommand({{ replSetResizeOplog: 1, size: {}.0 }})`",
                (source.limit_bytes >> 20).max(990)
            ),
        ));
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;
    use crate::model::CollectionKind;
    use crate::model::OplogFacts;
    use crate::preflight::fixture::{Facts, codes, findings};

    #[test]
    fn what_stands_in_the_way_is_as_the_host_chose() {
        for (choice, severity) in [
            (ExistingData::Refuse, "blocker"),
            (ExistingData::Clear, "warning"),
            (ExistingData::Keep, "warning"),
        ] {
            let mut facts = Facts::new();
            facts.settings.existing_data = choice;
            facts.collection("shop.a", CollectionKind::Plain, rawdoc! {});
            facts.standing("shop.a");
            facts.standing("shop.b");
            let found = findings(&facts, check);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].severity.to_string(), severity);
            assert!(found[0].message.contains("`shop.a`"));
            // Once the run has begun, what exists there is its own.
            facts.checkpointed = Checkpointed::Yes;
            assert_eq!(codes(&facts, check), [""; 0]);
        }
    }

    #[test]
    fn a_standing_collection_for_letters_is_refused() {
        for choice in [ExistingData::Refuse, ExistingData::Clear, ExistingData::Keep] {
            let mut facts = Facts::new();
            facts.settings.existing_data = choice;
            facts.settings.on_rule_error = OnRuleError::DeadLetter("kept.letters".parse().unwrap());
            facts.standing("kept.others");
            assert_eq!(codes(&facts, check), [""; 0]);
            facts.standing("kept.letters");
            let found = findings(&facts, check);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].severity.to_string(), "blocker");
            assert!(found[0].message.contains("`kept.letters`"));
            // Once the run has begun, the letters there are its own.
            facts.checkpointed = Checkpointed::Yes;
            assert_eq!(codes(&facts, check), [""; 0]);
        }
    }

    #[test]
    fn records_of_others_are_told_apart() {
        for (checkpointed, expected) in [
            (Checkpointed::Not, &[] as &[&str]),
            (Checkpointed::Yes, &[]),
            (Checkpointed::Complete, &["already_complete"]),
            (Checkpointed::Otherwise("it differs".to_owned()), &["other_migration"]),
        ] {
            let mut facts = Facts::new();
            facts.checkpointed = checkpointed;
            assert_eq!(codes(&facts, check), expected);
        }
        let mut facts = Facts::new();
        facts.lease_holder = Some("1234".to_owned());
        facts.target.inspection.databases = vec!["mongosync_reserved_for_internal_use".to_owned(), "shop".to_owned()];
        assert_eq!(codes(&facts, check), ["lease_held", "other_tool"]);
    }

    #[test]
    fn blocked_writes_block_who_may_not_pass() {
        let mut facts = Facts::new();
        facts.target.inspection.writes_blocked = Some(true);
        facts.target.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
        facts.target.inspection.privileges =
            Some(vec![doc! { "resource": { "cluster": true }, "actions": ["inprog"] }]);
        assert_eq!(codes(&facts, check), ["writes_blocked"]);
        let passing = doc! { "resource": { "cluster": true }, "actions": ["bypassWriteBlockingMode"] };
        facts.target.inspection.privileges = Some(vec![passing]);
        assert_eq!(codes(&facts, check), [""; 0]);
    }

    #[test]
    fn sizes_are_compared_with_the_plan_and_the_source() {
        let mut facts = Facts::new();
        facts.total.bytes = 10 << 30;
        facts.target.inspection.free_disk_bytes = Some(11 << 30);
        facts.source.inspection.cache_bytes = Some(4 << 30);
        facts.target.inspection.cache_bytes = Some(2 << 30);
        let oplog = |limit_bytes: u64| {
            Some(OplogFacts {
                limit_bytes,
                ..OplogFacts::default()
            })
        };
        facts.source.inspection.oplog = oplog(1 << 30);
        facts.target.inspection.oplog = oplog(1 << 29);
        assert_eq!(codes(&facts, check), [""; 0]);
        facts.target.inspection.free_disk_bytes = Some(9 << 30);
        facts.target.inspection.cache_bytes = Some(1 << 30);
        facts.target.inspection.oplog = oplog(1 << 28);
        assert_eq!(codes(&facts, check), ["disk_space", "small_cache", "small_oplog"]);
    }

    #[test]
    fn clocks_go_together() {
        for (source, target, expected) in [
            (0, 4_000, &[] as &[&str]),
            (60_000, 60_000, &[]),
            (0, 6_000, &["clock_skew"]),
            (3_000, -3_000, &["clock_skew"]),
        ] {
            let mut facts = Facts::new();
            facts.source.inspection.clock_ahead_ms = Some(source);
            facts.target.inspection.clock_ahead_ms = Some(target);
            assert_eq!(codes(&facts, check), expected);
        }
    }
}
