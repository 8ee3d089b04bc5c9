//! Rules for the versions of source and target.

use bson::Document;

use super::{Context, SideFacts, old_source};
use crate::config::PathPolicy;
use crate::error::{Finding, FindingCode, Severity};

/// A release series, such as `[4, 2]`.
pub(super) type Series = [u32; 2];

/// Series covered by the tests of this crate: all upward paths between them, and from each to itself.
const TESTED: &[Series] = &[[4, 2], [4, 4], [5, 0], [6, 0]];

/// Newest series whose oplog entries and listings are known from the servers' source code. No server newer than those of `TESTED` was run.
const NEWEST_READ: Series = [9, 0];

/// Paths of [`PathPolicy::Hosted`].
const HOSTED: &[(Series, Series)] = &[
    ([2, 6], [4, 2]),
    ([3, 0], [4, 2]),
    ([3, 2], [4, 2]),
    ([3, 4], [4, 2]),
    ([3, 6], [4, 2]),
    ([4, 0], [4, 2]),
    ([4, 2], [4, 2]),
    ([4, 4], [4, 4]),
    ([5, 0], [5, 0]),
];

/// Oldest series whose oplog entries are understood and that can be connected to.
const OLDEST: Series = if cfg!(feature = "legacy") { [2, 6] } else { DRIVER };

/// Oldest series that the driver can connect to.
pub(super) const DRIVER: Series = [4, 2];

/// Up to this series, applications are known to rely on behaviour that newer servers have dropped.
const OLD_HABITS: Series = [4, 0];

/// Checks the versions of both sides.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let (source, target) = (series(context.source), series(context.target));
    if source < OLDEST {
        findings.push(Finding::blocker(
            FindingCode::SourceTooOld,
            format!(
                "the source runs {}; {} is the oldest version whose oplog can be followed",
                text(source),
                text(OLDEST)
            ),
            match source >= [2, 6] && !cfg!(feature = "legacy") {
                true => "build with the feature `legacy`, which reads from 2.6 to 4.0; or upgrade the source to 4.2 first, one major version \
                         after the other"
                    .to_owned(),
                false => format!(
                    "upgrade the source to {} first, one major version after the other",
                    text(OLDEST)
                ),
            },
        ));
    }
    if (OLDEST..DRIVER).contains(&source) {
        old_source::check(context, findings);
    }
    if target < source {
        findings.push(Finding::blocker(
            FindingCode::Downgrade,
            format!(
                "the target runs {}, which is older than the source's {}",
                text(target),
                text(source)
            ),
            format!("make the target a replica set of {} or newer", text(source)),
        ));
    } else {
        upward(context.settings.path_policy, source, target, findings);
    }
    feature_compatibility(context, findings);
}

fn upward(policy: PathPolicy, source: Series, target: Series, findings: &mut Vec<Finding>) {
    match policy {
        PathPolicy::Hosted if !HOSTED.contains(&(source, target)) => {
            let offered: Vec<String> = HOSTED
                .iter()
                .filter(|(from, _)| *from == source)
                .map(|(_, to)| text(*to))
                .collect();
            let fix = match offered.is_empty() {
                true => format!(
                    "no path leads from {}; upgrade the source to a version that has one",
                    text(source)
                ),
                false => format!("make the target a replica set of {}", offered.join(" or ")),
            };
            findings.push(Finding::blocker(
                FindingCode::PathNotOffered,
                format!(
                    "the path from {} to {} is not among the allowed ones",
                    text(source),
                    text(target)
                ),
                fix,
            ));
        }
        PathPolicy::Upward if source >= DRIVER && !(TESTED.contains(&source) && TESTED.contains(&target)) => {
            let tested: Vec<String> = TESTED.iter().map(|series| text(*series)).collect();
            let known = match target <= NEWEST_READ {
                true => "what these versions write and list was read from the servers' source, and never run here",
                false => "this version of mongoferry is older, and stops at what it does not know",
            };
            findings.push(Finding::warning(
                FindingCode::UntestedPath,
                format!(
                    "the path from {} to {} is not covered by tests: {known}",
                    text(source),
                    text(target)
                ),
                format!(
                    "rehearse with a copy of the data, or use {} on both sides",
                    tested.join(", ")
                ),
            ));
        }
        _ => {}
    }
    let jump = target[0].saturating_sub(source[0]);
    if jump > 1 {
        findings.push(Finding::warning(
            FindingCode::VersionJump,
            format!(
                "from {} to {} is {jump} major versions; features deprecated in one are removed in the next",
                text(source),
                text(target)
            ),
            "read the compatibility notes of every version between, and test the application on the target's",
        ));
    }
    if source != target {
        let make = if source <= OLD_HABITS {
            Finding::warning
        } else {
            Finding::note
        };
        findings.push(make(
            FindingCode::TestApplication,
            format!(
                "the application will talk to {} instead of {}",
                text(target),
                text(source)
            ),
            "test the application and its driver with the target's version before the cutover",
        ));
    }
}

fn feature_compatibility(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for side in context.sides() {
        let (binary, compatibility) = (series(side), side.deployment.feature_compatibility);
        let command = |version: Series| {
            let confirmation = if binary >= [7, 0] { ", confirm: true" } else { "" };
            format!(
                "db.adminCommand({{ setFeatureCompatibilityVersion: \"{}\"{confirmation} }})",
                text(version)
            )
        };
        if is_changing(&side.inspection.parameters) {
            findings.push(Finding::blocker(
                FindingCode::FeatureCompatibilityChanging,
                format!(
                    "the feature compatibility version of the {} is being changed",
                    side.name
                ),
                format!("on the {}: `{}`, and wait until it is done", side.name, command(binary)),
            ));
        } else if compatibility < binary {
            findings.push(Finding::new(
                side.severity(Severity::Note, Severity::Warning),
                FindingCode::FeatureCompatibilityBehind,
                format!(
                    "the {} runs {} with the feature compatibility version {}",
                    side.name,
                    text(binary),
                    text(compatibility)
                ),
                format!("on the {}: `{}`", side.name, command(binary)),
            ));
        }
    }
    let (source, target) = (&context.source.deployment, &context.target.deployment);
    if target.feature_compatibility < source.feature_compatibility && series(context.target) >= series(context.source) {
        findings.push(too_low(
            context,
            &format!("is lower than the source's {}", text(source.feature_compatibility)),
        ));
    }
}

/// Returns the finding for a target whose feature compatibility version has to be raised, because it is what `why` says.
pub(super) fn too_low(context: &Context<'_>, why: &str) -> Finding {
    Finding::blocker(
        FindingCode::FeatureCompatibilityLower,
        format!(
            "the target's feature compatibility version {} {why}",
            text(context.target.deployment.feature_compatibility)
        ),
        format!(
            "on the target: `db.adminCommand({{ setFeatureCompatibilityVersion: \"{}\" }})`",
            text(series(context.target))
        ),
    )
}

/// Whether an upgrade or downgrade of the feature compatibility version is in progress.
fn is_changing(parameters: &Document) -> bool {
    parameters
        .get_document("featureCompatibilityVersion")
        .is_ok_and(|version| version.contains_key("targetVersion"))
}

pub(super) fn series(side: &SideFacts) -> Series {
    let [major, minor, _] = side.deployment.version;
    [major, minor]
}

pub(super) fn text([major, minor]: Series) -> String {
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes};

    fn facts(source: Series, target: Series, policy: PathPolicy) -> Facts {
        let mut facts = Facts::new();
        for (side, [major, minor]) in [(&mut facts.source, source), (&mut facts.target, target)] {
            side.deployment.version = [major, minor, 3];
            side.deployment.feature_compatibility = [major, minor];
        }
        facts.settings.path_policy = policy;
        facts
    }

    #[test]
    fn every_path_that_tests_cover_is_open() {
        for (index, source) in TESTED.iter().enumerate() {
            for target in &TESTED[index..] {
                let found = codes(&facts(*source, *target, PathPolicy::Upward), check);
                let expected: &[&str] = match (source == target, target[0] - source[0]) {
                    (true, _) => &[],
                    (false, 0 | 1) => &["test_application"],
                    _ => &["version_jump", "test_application"],
                };
                assert_eq!(found, expected, "{source:?} to {target:?}");
            }
        }
    }

    #[test]
    fn every_downgrade_is_blocked() {
        for (index, target) in TESTED.iter().enumerate() {
            for source in &TESTED[index + 1..] {
                for policy in [PathPolicy::Upward, PathPolicy::Hosted] {
                    assert_eq!(codes(&facts(*source, *target, policy), check)[0], "downgrade");
                }
            }
        }
    }

    #[test]
    fn each_row_of_the_hosted_table_is_open_and_no_other_path() {
        let all: &[Series] = &[
            [2, 6],
            [3, 0],
            [3, 2],
            [3, 4],
            [3, 6],
            [4, 0],
            [4, 2],
            [4, 4],
            [5, 0],
            [6, 0],
            [7, 0],
            [8, 0],
        ];
        for source in all {
            for target in all.iter().filter(|target| *target >= source) {
                let found = codes(&facts(*source, *target, PathPolicy::Hosted), check);
                let expected = match (source, target) {
                    ([4, 4], [4, 4]) | ([5, 0], [5, 0]) => true,
                    (from, [4, 2]) => *from <= [4, 2],
                    _ => false,
                };
                assert_eq!(
                    !found.contains(&"path_not_offered"),
                    expected,
                    "{source:?} to {target:?}"
                );
                assert_eq!(found.contains(&"source_too_old"), *source < OLDEST, "{source:?}");
                assert!(cfg!(feature = "legacy") || OLDEST == [4, 2]);
            }
        }
    }

    #[test]
    fn what_is_not_tested_is_warned_about() {
        assert_eq!(
            codes(&facts([6, 0], [7, 0], PathPolicy::Upward), check),
            ["untested_path", "test_application"]
        );
        assert_eq!(
            codes(&facts([7, 0], [7, 0], PathPolicy::Upward), check),
            ["untested_path"]
        );
    }

    #[test]
    fn a_path_that_is_not_tested_says_what_is_known_of_it() {
        for (target, words) in [
            ([7, 0], "read from the servers' source"),
            ([8, 2], "read from the servers' source"),
            ([9, 0], "read from the servers' source"),
            ([9, 1], "stops at what it does not know"),
        ] {
            let found = crate::preflight::fixture::findings(&facts([6, 0], target, PathPolicy::Upward), check);
            let finding = found.iter().find(|finding| finding.code == "untested_path").unwrap();
            assert!(finding.message.contains(words), "{finding:?}");
        }
    }

    #[test]
    #[cfg(feature = "legacy")]
    fn an_old_source_says_what_it_promises() {
        for (source, election, expected) in [
            ([2, 6], "5f0000000000000000000001", true),
            ([3, 0], "5f0000000000000000000001", true),
            ([3, 2], "5f0000000000000000000001", true),
            ([3, 4], "7fffffff0000000000000001", false),
            ([3, 6], "7fffffff0000000000000001", false),
            ([4, 0], "7fffffff0000000000000001", false),
        ] {
            let mut facts = facts(source, [4, 2], PathPolicy::Hosted);
            let election = bson::oid::ObjectId::parse_str(election).unwrap();
            facts.source.inspection.hello = doc! { "electionId": election };
            let found = codes(&facts, check);
            assert_eq!(found.contains(&"source_promise"), expected, "{source:?}");
            assert!(found.contains(&"untested_path"), "{source:?}");
            assert!(!found.contains(&"feature_compatibility_lower"), "{source:?}");
        }
    }

    #[test]
    #[cfg(feature = "legacy")]
    fn an_old_source_needs_a_target_without_old_limits() {
        let mut facts = facts([4, 0], [4, 2], PathPolicy::Hosted);
        facts.target.deployment.feature_compatibility = [4, 0];
        assert!(codes(&facts, check).contains(&"feature_compatibility_lower"));
    }

    #[test]
    fn an_application_of_4_0_is_to_be_tested() {
        for (source, severity) in [([4, 0], "warning"), ([4, 2], "note")] {
            let found = crate::preflight::fixture::findings(&facts(source, [4, 4], PathPolicy::Upward), check);
            let finding = found.iter().find(|finding| finding.code == "test_application").unwrap();
            assert_eq!(finding.severity.to_string(), severity);
        }
    }

    #[test]
    fn feature_compatibility_fits_binary_and_other_side() {
        let mut behind = facts([5, 0], [6, 0], PathPolicy::Upward);
        behind.target.deployment.feature_compatibility = [5, 0];
        assert_eq!(
            codes(&behind, check),
            ["test_application", "feature_compatibility_behind"]
        );
        let mut lower = facts([6, 0], [6, 0], PathPolicy::Upward);
        lower.target.deployment.feature_compatibility = [5, 0];
        assert_eq!(
            codes(&lower, check),
            ["feature_compatibility_behind", "feature_compatibility_lower"]
        );
        let mut changing = facts([6, 0], [6, 0], PathPolicy::Upward);
        changing.source.inspection.parameters =
            doc! { "featureCompatibilityVersion": { "version": "5.0", "targetVersion": "6.0" } };
        assert_eq!(codes(&changing, check), ["feature_compatibility_changing"]);
    }
}
