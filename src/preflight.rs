//! Finds every reason why a migration would fail, before anything is changed.

use std::collections::BTreeMap;
use std::fmt;

use crate::document::{Collection, CollectionKind};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Amount;
use crate::migration::ExistingData;
use crate::namespace::Namespace;
use crate::source::Deployment;

/// What a run would do, and everything that stands in its way.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The deployment that is migrated.
    pub source: Deployment,
    /// The deployment that it is migrated to.
    pub target: Deployment,
    /// What was found, blockers first.
    pub findings: Vec<Finding>,
    /// The collections and views to be migrated.
    pub collections: Vec<PlannedCollection>,
    /// Documents and bytes to be copied.
    pub total: Amount,
    /// What is left out.
    pub not_migrated: Vec<String>,
}

/// Something that preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// A stable name of the rule, such as `downgrade`.
    pub code: &'static str,
    /// What was seen, and where.
    pub message: String,
    /// How to put it right.
    pub fix: String,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The migration cannot succeed.
    Blocker,
    /// It can, but something may not be as expected.
    Warning,
    /// Good to know.
    Note,
}

/// A collection or view that would be migrated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCollection {
    /// Its name on the source.
    pub namespace: Namespace,
    /// Its name on the target.
    pub target: Namespace,
    /// How its documents are kept.
    pub kind: CollectionKind,
    /// Documents and bytes, as the source's metadata counts them.
    pub amount: Amount,
    /// How many indexes it has, the one on `_id` included.
    pub indexes: usize,
}

impl Plan {
    /// The findings that make a start impossible.
    pub fn blockers(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
    }

    /// An error that names every blocker, if there is one.
    pub(crate) fn refuse(&self) -> Result<()> {
        let blockers: Vec<String> = self
            .blockers()
            .map(|finding| format!("{} ({})", finding.message, finding.fix))
            .collect();
        if blockers.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Refused,
            "start the migration",
            blockers.join("; "),
        ))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |deployment: &Deployment| {
            let [major, minor, patch] = deployment.version;
            format!("{} ({major}.{minor}.{patch})", deployment.name)
        };
        writeln!(f, "{} -> {}", version(&self.source), version(&self.target))?;
        for finding in &self.findings {
            writeln!(
                f,
                "{:?} [{}] {}; {}",
                finding.severity, finding.code, finding.message, finding.fix
            )?;
        }
        writeln!(
            f,
            "{:<40} {:>12} {:>14} {:>8}",
            "collection", "documents", "bytes", "indexes"
        )?;
        for collection in &self.collections {
            let (name, amount) = (collection.namespace.to_string(), collection.amount);
            writeln!(
                f,
                "{name:<40} {:>12} {:>14} {:>8}",
                amount.documents, amount.bytes, collection.indexes
            )?;
        }
        writeln!(
            f,
            "{:<40} {:>12} {:>14}",
            "in all", self.total.documents, self.total.bytes
        )?;
        for left_out in &self.not_migrated {
            writeln!(f, "not migrated: {left_out}")?;
        }
        Ok(())
    }
}

/// Checks both sides and changes nothing.
pub(crate) async fn check(engine: &Engine) -> Result<Plan> {
    let (source, target) = futures::try_join!(engine.source.describe(), engine.sink.describe())?;
    let (listed, standing) = futures::try_join!(engine.source.collections(), engine.sink.collections())?;
    let selection = &engine.settings.selection;
    let mut findings = Vec::new();
    topology(&source, &target, &mut findings);
    let (selected, left_out): (Vec<&Collection>, Vec<&Collection>) = listed
        .iter()
        .partition(|collection| selection.contains(&collection.namespace));
    let collections: Vec<PlannedCollection> = selected
        .iter()
        .map(|collection| PlannedCollection {
            namespace: collection.namespace.clone(),
            target: selection.target(&collection.namespace),
            kind: collection.kind,
            amount: Amount {
                documents: collection.documents,
                bytes: collection.bytes,
            },
            indexes: collection.indexes.len(),
        })
        .collect();
    collisions(&collections, &mut findings);
    if engine.load().await?.is_none() {
        existing(&collections, &standing, engine.settings.existing_data, &mut findings);
    }
    let mut total = Amount::default();
    for collection in &collections {
        total.documents += collection.amount.documents;
        total.bytes += collection.amount.bytes;
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(Plan {
        source,
        target,
        findings,
        collections,
        total,
        not_migrated: not_migrated(&left_out),
    })
}

fn topology(source: &Deployment, target: &Deployment, findings: &mut Vec<Finding>) {
    if source.identity == target.identity {
        findings.push(Finding {
            severity: Severity::Blocker,
            code: "same_deployment",
            message: format!("source and target are the same replica set `{}`", source.name),
            fix: "give the connection string of another one as the target".to_owned(),
        });
    }
    let major = |deployment: &Deployment| [deployment.version[0], deployment.version[1]];
    if major(target) < major(source) {
        findings.push(Finding {
            severity: Severity::Blocker,
            code: "downgrade",
            message: format!(
                "the target runs {:?}, which is older than the source's {:?}",
                target.version, source.version
            ),
            fix: "migrate to the same or a newer version".to_owned(),
        });
    }
    if source.version < [4, 2, 0] {
        findings.push(Finding {
            severity: Severity::Blocker,
            code: "source_too_old",
            message: format!(
                "the source runs {:?}; 4.2 is the oldest version whose history can be followed",
                source.version
            ),
            fix: "upgrade the source to 4.2 first".to_owned(),
        });
    }
}

/// Collections that would become one on the target.
fn collisions(planned: &[PlannedCollection], findings: &mut Vec<Finding>) {
    let mut sources: BTreeMap<Namespace, &Namespace> = BTreeMap::new();
    for PlannedCollection { namespace, target, .. } in planned {
        // A time-series collection takes its own name and that of its buckets.
        let shown = target.time_series().unwrap_or_else(|| target.clone());
        if let Some(other) = sources.insert(shown.clone(), namespace) {
            findings.push(Finding {
                severity: Severity::Blocker,
                code: "same_target",
                message: format!("`{other}` and `{namespace}` would both become `{shown}` on the target"),
                fix: "rename one of them to another name, or exclude it".to_owned(),
            });
        }
    }
}

/// What stands on the target where migrated collections will be.
fn existing(planned: &[PlannedCollection], standing: &[Collection], choice: ExistingData, findings: &mut Vec<Finding>) {
    for collection in standing
        .iter()
        .filter(|standing| planned.iter().any(|planned| planned.target == standing.namespace))
    {
        let name = &collection.namespace;
        findings.push(match choice {
            ExistingData::Refuse => Finding {
                severity: Severity::Blocker,
                code: "existing_data",
                message: format!(
                    "the target already has `{name}` with {} documents",
                    collection.documents
                ),
                fix: "drop it, or choose to clear or keep existing data".to_owned(),
            },
            ExistingData::Clear => Finding {
                severity: Severity::Warning,
                code: "existing_data",
                message: format!(
                    "`{name}` with {} documents on the target will be dropped",
                    collection.documents
                ),
                fix: "choose to refuse or keep existing data if this is not wanted".to_owned(),
            },
            ExistingData::Keep => Finding {
                severity: Severity::Warning,
                code: "existing_data",
                message: format!(
                    "`{name}` on the target will be made equal to the source; other documents in it are deleted"
                ),
                fix: "choose to refuse existing data if this is not wanted".to_owned(),
            },
        });
    }
}

/// What a migration leaves out, of this source and always.
pub(crate) fn not_migrated(left_out: &[&Collection]) -> Vec<String> {
    let mut all = vec![
        "users and roles (admin.system.users, admin.system.roles)".to_owned(),
        "the databases admin, config and local".to_owned(),
        "profiler data (system.profile)".to_owned(),
    ];
    all.extend(
        left_out
            .iter()
            .map(|collection| format!("{} (not selected)", collection.namespace)),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(identity: &str, version: [u32; 3]) -> Deployment {
        Deployment {
            identity: identity.to_owned(),
            name: identity.to_owned(),
            version,
            feature_compatibility: [version[0], version[1]],
        }
    }

    #[test]
    fn two_collections_cannot_become_one() {
        let planned = |namespace: &str, target: &str| PlannedCollection {
            namespace: namespace.parse().unwrap(),
            target: target.parse().unwrap(),
            kind: CollectionKind::Plain,
            amount: Amount::default(),
            indexes: 1,
        };
        for (target, blocked) in [("shop.b", 1), ("shop.system.buckets.b", 1), ("shop.c", 0)] {
            let mut findings = Vec::new();
            collisions(&[planned("shop.a", target), planned("shop.b", "shop.b")], &mut findings);
            assert_eq!(findings.len(), blocked, "{target}");
        }
    }

    #[test]
    fn impossible_pairs_are_blocked() {
        for (source, target, codes) in [
            (deployment("a", [6, 0, 5]), deployment("b", [6, 0, 1]), vec![]),
            (
                deployment("a", [6, 0, 5]),
                deployment("a", [6, 0, 5]),
                vec!["same_deployment"],
            ),
            (
                deployment("a", [6, 0, 5]),
                deployment("b", [5, 0, 4]),
                vec!["downgrade"],
            ),
            (
                deployment("a", [4, 0, 1]),
                deployment("b", [5, 0, 4]),
                vec!["source_too_old"],
            ),
        ] {
            let mut findings = Vec::new();
            topology(&source, &target, &mut findings);
            assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), codes);
        }
    }
}
