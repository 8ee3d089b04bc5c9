//! Rule for time-series collections, which servers of 9.0 and newer store without buckets.

use super::Context;
use crate::catalog::not_migrated::{TIME_SERIES, time_series_fix};
use crate::error::{Finding, FindingCode};
use crate::model::{CollectionKind, shown};

/// First series whose servers create time-series collections without buckets.
const WITHOUT_BUCKETS: [u32; 2] = [9, 0];

/// Checks that both sides store time-series collections in buckets, which is what a migration copies.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let [major, minor, _] = context.target.deployment.version;
    for collection in context.selected {
        let namespace = &collection.namespace;
        match collection.kind {
            CollectionKind::TimeSeries => findings.push(
                Finding::blocker(
                    FindingCode::TimeSeries,
                    format!("`{namespace}` cannot be migrated: {TIME_SERIES}"),
                    time_series_fix(namespace),
                )
                .about(shown(namespace).as_str()),
            ),
            CollectionKind::TimeSeriesBuckets if [major, minor] >= WITHOUT_BUCKETS => {
                let shown = shown(namespace);
                let finding = Finding::blocker(
                    FindingCode::TimeSeries,
                    format!(
                        "the time-series collection `{shown}` has buckets, which a target of {major}.{minor} does not support"
                    ),
                    format!(
                        "leave it out with `.exclude(\"{shown}\")`, or use a target of 8.x and upgrade it after the cutover"
                    ),
                );
                findings.push(finding.about(shown.as_str()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes, findings};

    #[test]
    fn a_time_series_without_buckets_is_blocked() {
        let mut facts = Facts::new();
        facts.collection("shop.weather", CollectionKind::TimeSeries, rawdoc! {});
        let found = findings(&facts, check);
        assert_eq!(found[0].code, "time_series");
        assert!(found[0].fix.contains("shop.weather"), "{found:?}");
    }

    #[test]
    fn buckets_are_for_targets_before_9_0() {
        for (version, expected) in [
            ([6, 0, 5], &[] as &[&str]),
            ([8, 3, 1], &[]),
            ([9, 0, 0], &["time_series"]),
        ] {
            let mut facts = Facts::new();
            facts.target.deployment.version = version;
            facts.collection("shop.system.buckets.a", CollectionKind::TimeSeriesBuckets, rawdoc! {});
            facts.collection("shop.b", CollectionKind::Plain, rawdoc! {});
            assert_eq!(codes(&facts, check), expected, "{version:?}");
        }
    }
}
