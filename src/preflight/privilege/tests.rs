use bson::doc;

use super::*;
use crate::model::Probe;
use crate::preflight::fixture::{Facts, codes, findings};

#[test]
fn each_access_that_is_needed_blocks_and_each_other_is_noted() {
    let shop = || "shop".to_owned();
    for (access, severity) in [
        (Access::ReadOplog, Severity::Blocker),
        (Access::ReadTransactions, Severity::Blocker),
        (Access::ListDatabases, Severity::Blocker),
        (Access::ListCollections(shop()), Severity::Blocker),
        (Access::ListIndexes(shop()), Severity::Blocker),
        (Access::CollectionStatistics(shop()), Severity::Blocker),
        (Access::ReadData(shop()), Severity::Blocker),
        (
            Access::ReadSystemCollection(Namespace::new("shop", "system.js")),
            Severity::Blocker,
        ),
        (Access::WriteRecords, Severity::Blocker),
        (Access::ReplicaSetConfiguration, Severity::Note),
        (Access::ReplicaSetStatus, Severity::Note),
        (Access::ServerStatus, Severity::Note),
        (Access::Parameters, Severity::Note),
        (Access::CurrentOperations, Severity::Note),
        (Access::DatabaseStatistics, Severity::Note),
    ] {
        let mut facts = Facts::new();
        facts.source.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
        facts.source.inspection.probes = vec![Probe::new(access.clone(), None)];
        assert_eq!(codes(&facts, check), [""; 0]);
        let refusal = "not authorized (code 13, Unauthorized)".to_owned();
        facts.source.inspection.probes = vec![Probe::new(access.clone(), Some(refusal))];
        let found = findings(&facts, check);
        assert_eq!(found.len(), 1, "{access:?}: {found:?}");
        assert_eq!(found[0].severity, severity, "{access:?}");
        assert!(
            found[0].fix.contains("createRole") && found[0].fix.contains("\"anna\""),
            "{found:?}"
        );
    }
}

#[test]
fn each_action_that_the_list_of_privileges_lacks_is_named() {
    for taken in TARGET_ACTIONS {
        let actions: Vec<&str> = TARGET_ACTIONS
            .iter()
            .filter(|action| *action != taken)
            .copied()
            .collect();
        let mut facts = Facts::new();
        facts.plan("shop.orders", "store.orders");
        facts.target.inspection.privileges = Some(vec![
            doc! { "resource": { "db": "shop", "collection": "" }, "actions": TARGET_ACTIONS },
            doc! { "resource": { "db": "store", "collection": "" }, "actions": actions },
        ]);
        let found = findings(&facts, check);
        assert_eq!(found.len(), 1, "{taken}");
        assert!(
            found[0]
                .message
                .contains(&format!("privileges {taken} on the database store")),
            "{found:?}"
        );
    }
    for (resource, action) in [
        (doc! { "db": "", "collection": "" }, TARGET_ACTIONS.join(",")),
        (doc! { "anyResource": true }, "anyAction".to_owned()),
    ] {
        let mut facts = Facts::new();
        facts.plan("shop.orders", "store.orders");
        let actions: Vec<&str> = action.split(',').collect();
        facts.target.inspection.privileges = Some(vec![doc! { "resource": resource, "actions": actions }]);
        assert_eq!(codes(&facts, check), [""; 0]);
    }
}

#[test]
fn system_collections_need_privileges_of_their_own() {
    let ordinary = doc! { "resource": { "db": "", "collection": "" }, "actions": ["anyAction"] };
    let on = |resource: Document, actions: &[&str]| doc! { "resource": resource, "actions": actions };
    let buckets = "store.system.buckets.readings";
    for (name, sufficient, insufficient, granted) in [
        (
            "store.system.js",
            vec![
                doc! { "db": "", "collection": "system.js" },
                doc! { "db": "store", "collection": "system.js" },
            ],
            vec![
                doc! { "db": "shop", "collection": "system.js" },
                doc! { "system_buckets": "" },
            ],
            "{ db: \"store\", collection: \"system.js\" }",
        ),
        (
            buckets,
            vec![
                doc! { "system_buckets": "" },
                doc! { "db": "", "system_buckets": "" },
                doc! { "db": "store", "system_buckets": "" },
                doc! { "db": "store", "system_buckets": "readings" },
                doc! { "system_buckets": "readings" },
                doc! { "db": "store", "collection": "system.buckets.readings" },
            ],
            vec![
                doc! { "db": "shop", "system_buckets": "" },
                doc! { "db": "store", "system_buckets": "other" },
                doc! { "db": "store", "collection": "readings" },
            ],
            "{ db: \"store\", system_buckets: \"\" }",
        ),
    ] {
        let mut facts = Facts::new();
        facts.target.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
        facts.plan(&name.replace("store", "shop"), name);
        for resource in sufficient {
            facts.target.inspection.privileges =
                Some(vec![ordinary.clone(), on(resource.clone(), SYSTEM_COLLECTION_ACTIONS)]);
            assert_eq!(codes(&facts, check), [""; 0], "{resource}");
            for taken in SYSTEM_COLLECTION_ACTIONS {
                let actions: Vec<&str> = SYSTEM_COLLECTION_ACTIONS
                    .iter()
                    .filter(|action| *action != taken)
                    .copied()
                    .collect();
                facts.target.inspection.privileges = Some(vec![ordinary.clone(), on(resource.clone(), &actions)]);
                let found = findings(&facts, check);
                assert_eq!(found.len(), 1, "{found:?}");
                assert!(
                    found[0].message.contains(&format!("privileges {taken} on ")),
                    "{found:?}"
                );
                assert!(found[0].message.ends_with(name), "{found:?}");
                let privilege = format!("resource: {granted}, actions: [{taken:?}]");
                assert!(found[0].fix.contains(&privilege), "{found:?}");
            }
        }
        for resource in insufficient {
            facts.target.inspection.privileges =
                Some(vec![ordinary.clone(), on(resource.clone(), SYSTEM_COLLECTION_ACTIONS)]);
            assert_eq!(codes(&facts, check), ["missing_privilege"], "{resource}");
        }
    }
}

#[test]
fn time_series_of_a_database_are_reported_together() {
    let mut facts = Facts::new();
    facts.plan("shop.system.buckets.a", "shop.system.buckets.a");
    facts.plan("shop.system.buckets.b", "shop.system.buckets.b");
    let ordinary = doc! { "resource": { "db": "", "collection": "" }, "actions": ["anyAction"] };
    facts.target.inspection.privileges = Some(vec![ordinary]);
    assert_eq!(codes(&facts, check), ["missing_privilege"]);
}

#[test]
fn one_missing_privilege_in_many_databases_is_one_finding() {
    let mut facts = Facts::new();
    facts.target.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
    for number in 0..30 {
        facts.plan(&format!("d{number:02}.a"), &format!("d{number:02}.a"));
    }
    facts.target.inspection.privileges = Some(Vec::new());
    let refusal = |number: usize| Some(format!("not authorized on d{number:02} (code 13, Unauthorized)"));
    facts.target.inspection.probes = (0..30)
        .map(|number| Probe::new(Access::ReadData(format!("d{number:02}")), refusal(number)))
        .collect();
    let found = findings(&facts, check);
    assert_eq!(found.len(), 2, "{found:#?}");
    for finding in &found {
        assert_eq!((finding.affected.len(), finding.affected_count), (20, 30));
        assert!(finding.message.contains("d00, d01, ") && finding.message.contains(" and 20 more"));
    }
    assert!(
        found[0].message.contains("not authorized on d00 (code 13"),
        "{found:#?}"
    );
    // The one that was refused when it was tried is not reported again.
    assert!(!found[1].message.contains("privileges find"), "{found:#?}");
}

#[test]
fn one_command_grants_everything_that_a_user_lacks() {
    let mut facts = Facts::new();
    facts.settings.block_source_writes = true;
    for name in ["shop.a", "shop.system.js", "store.b"] {
        facts.plan(name, name);
    }
    for side in [&mut facts.source, &mut facts.target] {
        side.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
        side.inspection.privileges = Some(Vec::new());
        let refusal = || Some("not authorized (code 13, Unauthorized)".to_owned());
        side.inspection.probes = vec![
            Probe::new(Access::ServerStatus, refusal()),
            Probe::new(Access::ReadData("shop".to_owned()), refusal()),
            Probe::new(Access::ListDatabases, refusal()),
        ];
    }
    let found = findings(&facts, check);
    for (side, parts) in [
        (
            "source",
            &[
                "{ role: \"backup\", db: \"admin\" }",
                "{ resource: { cluster: true }, actions: [\"listDatabases\", \"setUserWriteBlockMode\", \"serverStatus\"] }",
                "{ resource: { db: \"shop\", collection: \"\" }, actions: [\"find\"] }",
            ][..],
        ),
        (
            "target",
            &[
                "{ role: \"restore\", db: \"admin\" }",
                "{ resource: { cluster: true }, actions: [\"listDatabases\", \"serverStatus\"] }",
                "{ resource: { db: \"shop\", collection: \"system.js\" }, actions: [\"find\", \"insert\"",
            ],
        ),
    ] {
        let of_side: Vec<&Finding> = found.iter().filter(|finding| finding.message.contains(side)).collect();
        assert!(of_side.len() >= 3, "{found:#?}");
        assert_eq!(of_side[0].code, FindingCode::MissingPrivilege);
        assert_eq!(of_side[0].fix.matches("createRole").count(), 1, "{}", of_side[0].fix);
        for part in parts {
            assert!(of_side[0].fix.contains(part), "{part} in {}", of_side[0].fix);
        }
        for other in &of_side[1..] {
            let pointer =
                format!("the command in the first finding `missing_privilege` about the {side} grants this too");
            assert_eq!(other.fix, pointer);
        }
    }
}

#[test]
fn a_listing_that_fails_for_reasons_not_tried_is_told() {
    let mut facts = Facts::new();
    facts.source.unlisted = Some("not authorized".to_owned());
    assert_eq!(codes(&facts, check), ["missing_privilege"]);
    facts.source.inspection.probes = vec![Probe::new(Access::ListDatabases, Some("not authorized".to_owned()))];
    assert_eq!(codes(&facts, check), ["missing_privilege"]);
}
