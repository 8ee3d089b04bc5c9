//! What becomes of a copy that was made under other filters and transforms.

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, CollectionState};
use crate::error::Result;
use crate::model::{Namespace, matches_pattern};
use crate::rules::{RuleIdentity, RuleKind, RuleRecord, RuleSet, Transform};
use crate::runtime::job::Job;

impl Job {
    /// Continues under the rules of this run. Collections that were copied under rules with other results are copied again, as a repair.
    ///
    /// # Errors
    /// A server error.
    pub(super) async fn take_rules(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        self.shaping.resume(&checkpoint.failed).await?;
        let now = self.settings.rules.records();
        if now == checkpoint.rules {
            return Ok(());
        }
        for state in &mut checkpoint.collections {
            match since(&self.settings.rules, &checkpoint.rules, &state.namespace) {
                Since::Same => {}
                Since::Kept => state.compared = None,
                Since::Changed => {
                    self.shaping.forget(&state.namespace).await?;
                    copy_again(state);
                    checkpoint.copied = false;
                }
            }
        }
        checkpoint.rules = now;
        checkpoint.failed = self.shaping.failed_documents();
        // Before anything is written under the new rules, so that a run under the old ones would copy again, too.
        self.store.save(&checkpoint.encode()?).await
    }
}

/// What the rules of a namespace mean for documents that were written under earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// The rules are the same.
    Same,
    /// The rules say that the documents are right.
    Kept,
    /// The documents may be wrong.
    Changed,
}

fn since(rules: &RuleSet, earlier: &[RuleRecord], namespace: &Namespace) -> Since {
    let of_kind = |records: &[RuleRecord], kind| -> Vec<RuleIdentity> {
        let matching =
            |record: &&RuleRecord| record.kind == kind && matches_pattern(&record.pattern, namespace.as_str());
        let identity = |record: &RuleRecord| RuleIdentity::new(&record.name, &record.version);
        records.iter().filter(matching).map(identity).collect()
    };
    let now = rules.records();
    if of_kind(earlier, RuleKind::Filter) != of_kind(&now, RuleKind::Filter) {
        return Since::Changed;
    }
    let (before, after) = (
        of_kind(earlier, RuleKind::Transform),
        of_kind(&now, RuleKind::Transform),
    );
    if before == after {
        return Since::Same;
    }
    let rule = rules.of(namespace);
    let transforms: Vec<_> = rule.iter().flat_map(|rule| rule.transforms()).collect();
    let keeps = |((transform, before), after): ((&&Arc<dyn Transform>, &RuleIdentity), &RuleIdentity)| {
        before == after || transform.keeps_copy_of(before)
    };
    let is_kept = before.len() == after.len() && transforms.iter().zip(&before).zip(&after).all(keeps);
    if is_kept { Since::Kept } else { Since::Changed }
}

/// The target has the documents, some of them in another form.
fn copy_again(state: &mut CollectionState) {
    state.ranges.clear();
    state.compared = None;
}
