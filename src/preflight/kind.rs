//! Rules for imitations of MongoDB, and for services that hide their oplog.

use super::{Context, SideFacts};
use crate::error::{Finding, FindingCode};
use crate::model::Access;
use crate::mongo::identify::{imitation, service_of};

/// Identifies both sides by their responses.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for side in context.sides() {
        let inspection = &side.inspection;
        let by_host = inspection.connection.hosts.iter().find_map(|host| service_of(host));
        if let Some(kind) = imitation(&inspection.hello, &inspection.build).or(by_host) {
            findings.push(Finding::blocker(
                FindingCode::NotMongodb,
                format!("the {} is {kind}", side.name),
                "use a replica set of MongoDB; copy the data of other services with mongodump and mongorestore",
            ));
        }
    }
    oplog(context.source, findings);
}

/// A service that hides its oplog refuses with other words than those for a missing privilege.
fn oplog(source: &SideFacts, findings: &mut Vec<Finding>) {
    let refusal = source
        .inspection
        .probes
        .iter()
        .find(|probe| probe.access == Access::ReadOplog)
        .and_then(|probe| probe.refusal.as_deref());
    if let Some(refusal) = refusal.filter(|refusal| !is_unauthorized(refusal)) {
        findings.push(Finding::blocker(
            FindingCode::OplogRefused,
            format!("the source does not allow reading its oplog: {refusal}"),
            "shared and serverless tiers hide their oplog: move the source to a dedicated replica set first",
        ));
    }
}

/// Whether the message is a server's refusal for a missing privilege.
pub(super) fn is_unauthorized(refusal: &str) -> bool {
    refusal.contains("(code 13,")
        || refusal.contains("not authorized on")
        || refusal.contains("requires authentication")
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::model::Probe;
    use crate::preflight::fixture::{Facts, codes, findings};

    #[test]
    fn imitations_are_told_by_what_they_answer() {
        let genuine = doc! { "version": "6.0.5", "gitVersion": "c9a99c12", "storageEngines": ["wiredTiger"] };
        for (hello, build, expected) in [
            (doc! { "me": "db1.example:27017" }, genuine.clone(), None),
            (doc! {}, doc! {}, None),
            (
                doc! {},
                doc! { "version": "7.0.77", "gitVersion": "1", "ferretdb": { "version": "2.1" } },
                Some("FerretDB"),
            ),
            (
                doc! {},
                doc! { "version": "6.0.42", "ferretdbVersion": "v1.24" },
                Some("FerretDB"),
            ),
            (
                doc! { "setName": "rs0", "hosts": ["a.cluster-x.eu-west-1.docdb.amazonaws.com:27017"] },
                doc! { "version": "5.0.0", "gitVersion": "1", "storageEngines": [] },
                Some("Amazon DocumentDB"),
            ),
            (
                doc! { "me": "acc.mongo.cosmos.azure.com:10255" },
                genuine,
                Some("Azure Cosmos DB"),
            ),
            (
                doc! {},
                doc! { "version": "4.2.0" },
                Some("a service that speaks MongoDB's protocol"),
            ),
        ] {
            assert_eq!(imitation(&hello, &build), expected, "{hello} {build}");
        }
    }

    #[test]
    fn an_imitation_is_blocked_on_either_side() {
        let mut facts = Facts::new();
        facts.source.inspection.build = doc! { "ferretdb": {} };
        facts.target.inspection.connection.hosts = vec!["x.docdb.amazonaws.com:27017".to_owned()];
        assert_eq!(codes(&facts, check), ["not_mongodb", "not_mongodb"]);
    }

    #[test]
    fn an_oplog_that_is_locked_away_is_no_missing_privilege() {
        let mut facts = Facts::new();
        let refuse = |text: &str| vec![Probe::new(Access::ReadOplog, Some(text.to_owned()))];
        facts.source.inspection.probes =
            refuse("user is not allowed to do action [find] on [local.oplog.rs] (code 8000, AtlasError)");
        let found = findings(&facts, check);
        assert_eq!(found[0].code, "oplog_refused");
        assert!(found[0].message.contains("AtlasError"));
        facts.source.inspection.probes = refuse("not authorized on local to execute command (code 13, Unauthorized)");
        assert_eq!(codes(&facts, check), [""; 0]);
        facts.source.inspection.probes = vec![Probe::new(Access::ReadOplog, None)];
        assert_eq!(codes(&facts, check), [""; 0]);
    }
}
