//! Rule for blocking writes on the source at the cutover.

use bson::{Bson, Document};

use super::grant::{self, Grant, SET_WRITE_BLOCK};
use super::privilege::Lack;
use super::{Context, SideFacts};
use crate::config::Settings;
use crate::error::{Finding, FindingCode, Severity};

/// First series that can block the writes of clients.
const SINCE: [u32; 2] = [6, 0];

/// Checks the source's version and its feature compatibility version. The rule for privileges checks that its user may block writes.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    versions(context.settings, context.source, findings);
}

/// Checks the source alone: the versions, and the privilege.
pub(super) fn check_source(settings: &Settings, source: &SideFacts, findings: &mut Vec<Finding>) {
    versions(settings, source, findings);
    if let (Some(lack), Some((user, database))) = (missing_privilege(settings, source), source.user()) {
        let fix = grant::alone((user, database), &lack.grants);
        findings.push(Finding::blocker(FindingCode::MissingPrivilege, lack.message, fix));
    }
}

/// Returns what the source's user lacks to block writes, on servers that can.
pub(super) fn missing_privilege(settings: &Settings, source: &SideFacts) -> Option<Lack> {
    let [major, minor, _] = source.deployment.version;
    let can = [major, minor] >= SINCE && source.deployment.feature_compatibility >= SINCE;
    let privileges = source.inspection.privileges.as_deref()?;
    if !settings.block_source_writes || !can || is_allowed(privileges) {
        return None;
    }
    Some(Lack {
        severity: Severity::Blocker,
        message: format!(
            "the user on the source lacks the privilege {SET_WRITE_BLOCK}, which it needs to block writes on the source at the cutover"
        ),
        affected: Vec::new(),
        grants: vec![Grant::of_cluster(SET_WRITE_BLOCK)],
    })
}

fn versions(settings: &Settings, source: &SideFacts, findings: &mut Vec<Finding>) {
    if !settings.block_source_writes {
        return;
    }
    let [major, minor, _] = source.deployment.version;
    let [compatible, with] = source.deployment.feature_compatibility;
    if [major, minor] < SINCE {
        findings.push(Finding::blocker(
            FindingCode::WriteBlockUnavailable,
            format!("writes are to be blocked on the source, which has version {major}.{minor}; servers support this from 6.0 on"),
            "start with `.block_source_writes(false)`, and stop the writers in the future that is passed to `cutover`",
        ));
        return;
    }
    if [compatible, with] < SINCE {
        findings.push(Finding::blocker(
            FindingCode::WriteBlockUnavailable,
            format!(
                "writes are to be blocked on the source, whose feature compatibility version is {compatible}.{with}; servers support this \
                 from 6.0 on"
            ),
            "on the source, if nothing prevents it: `db.adminCommand({ setFeatureCompatibilityVersion: \"6.0\" })`; or start with \
             `.block_source_writes(false)`",
        ));
    }
}

/// Whether the privileges allow the action on the cluster.
fn is_allowed(privileges: &[Document]) -> bool {
    privileges.iter().any(|privilege| {
        let on_cluster = privilege.get_document("resource").is_ok_and(|resource| {
            ["cluster", "anyResource"]
                .iter()
                .any(|name| resource.get_bool(name).unwrap_or(false))
        });
        let listed = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        on_cluster
            && listed
                .iter()
                .filter_map(Bson::as_str)
                .any(|allowed| allowed == SET_WRITE_BLOCK || allowed == "anyAction")
    })
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes};

    #[test]
    fn only_a_source_that_can_and_a_user_who_may_pass() {
        let wanted = |version: [u32; 3], feature_compatibility: [u32; 2]| {
            let mut facts = Facts::new();
            facts.settings.block_source_writes = true;
            facts.source.deployment.version = version;
            facts.source.deployment.feature_compatibility = feature_compatibility;
            facts
        };
        assert_eq!(codes(&wanted([6, 0, 5], [6, 0]), check), [""; 0]);
        for (version, feature_compatibility) in [([5, 0, 4], [5, 0]), ([6, 0, 5], [5, 0])] {
            let mut facts = wanted(version, feature_compatibility);
            assert_eq!(codes(&facts, check), ["write_block_unavailable"]);
            facts.settings.block_source_writes = false;
            assert_eq!(codes(&facts, check), [""; 0]);
        }
        let mut facts = wanted([6, 0, 5], [6, 0]);
        facts.source.inspection.connection.user = Some(("anna".to_owned(), "shop".to_owned()));
        for (resource, action, allowed) in [
            (doc! { "cluster": true }, SET_WRITE_BLOCK, true),
            (doc! { "anyResource": true }, "anyAction", true),
            (doc! { "cluster": true }, "bypassWriteBlockingMode", false),
            (doc! { "db": "", "collection": "" }, SET_WRITE_BLOCK, false),
        ] {
            facts.source.inspection.privileges = Some(vec![doc! { "resource": resource, "actions": [action] }]);
            let mut found = Vec::new();
            check_source(&facts.settings, &facts.source, &mut found);
            assert_eq!(found.is_empty(), allowed, "{found:?}");
            assert_eq!(codes(&facts, check), [""; 0], "the rule for privileges reports it");
            for finding in found {
                assert_eq!(finding.code, "missing_privilege");
                for part in ["setUserWriteBlockMode", "createRole", "grantRolesToUser(\"anna\""] {
                    assert!(finding.fix.contains(part), "{part}: {}", finding.fix);
                }
            }
        }
    }
}
