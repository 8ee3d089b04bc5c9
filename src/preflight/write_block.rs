//! Rule for blocking writes on the source at the cutover.

use bson::{Bson, Document};

use super::grant::{self, Grant};
use super::{Context, SideFacts};
use crate::config::Settings;
use crate::error::{FindingCode, Finding};

/// Action that the source's user needs on the cluster.
const ACTION: &str = "setUserWriteBlockMode";

/// Checks the server's version, its feature compatibility version and the privilege.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    check_source(context.settings, context.source, findings);
}

/// Like [`check`], with facts of the source only.
pub(super) fn check_source(settings: &Settings, source: &SideFacts, findings: &mut Vec<Finding>) {
    if !settings.block_source_writes {
        return;
    }
    let [major, minor, _] = source.deployment.version;
    let [compatible, with] = source.deployment.feature_compatibility;
    if [major, minor] < [6, 0] {
        findings.push(Finding::blocker(
            FindingCode::WriteBlockUnavailable,
            format!("writes are to be blocked on the source, which has version {major}.{minor}; servers support this from 6.0 on"),
            "start with `.block_source_writes(false)`, and stop the writers in the future that is passed to `cutover`",
        ));
        return;
    }
    if [compatible, with] < [6, 0] {
        findings.push(Finding::blocker(
            FindingCode::WriteBlockUnavailable,
            format!(
                "writes are to be blocked on the source, whose feature compatibility version is {compatible}.{with}; servers support this \
                 from 6.0 on"
            ),
            "on the source, if nothing prevents it: `db.adminCommand({ setFeatureCompatibilityVersion: \"6.0\" })`; or start with \
             `.block_source_writes(false)`",
        ));
        return;
    }
    if let (Some(privileges), Some(user)) = (&source.inspection.privileges, source.user())
        && !is_allowed(privileges)
    {
        findings.push(Finding::blocker(
            FindingCode::MissingPrivilege,
            format!("the user on the source lacks the privilege {ACTION}, which it needs to block writes on the source at the cutover"),
            grant::alone((&user.0, &user.1), &[Grant::of_cluster(ACTION)]),
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
                .any(|allowed| allowed == ACTION || allowed == "anyAction")
    })
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes, findings};

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
            (doc! { "cluster": true }, ACTION, true),
            (doc! { "anyResource": true }, "anyAction", true),
            (doc! { "cluster": true }, "bypassWriteBlockingMode", false),
            (doc! { "db": "", "collection": "" }, ACTION, false),
        ] {
            facts.source.inspection.privileges = Some(vec![doc! { "resource": resource, "actions": [action] }]);
            let found = findings(&facts, check);
            assert_eq!(found.is_empty(), allowed, "{found:?}");
            for finding in found {
                assert_eq!(finding.code, "missing_privilege");
                for part in ["setUserWriteBlockMode", "createRole", "grantRolesToUser(\"anna\""] {
                    assert!(finding.fix.contains(part), "{part}: {}", finding.fix);
                }
            }
        }
    }
}
