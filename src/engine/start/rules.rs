//! What becomes of a copy that was made under other filters and transforms, or with another choice for documents for which they fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, CollectionState, FailedDocuments};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, matches_pattern};
use crate::rules::{RuleIdentity, RuleKind, RuleRecord, RuleSet, Transform};
use crate::runtime::job::Job;
use crate::runtime::shaping::dead_letters::DeadLetters;
use crate::sink::CatalogCommand;

impl Job {
    /// Continues under the rules of this run. Collections that were copied under rules with other results are copied again, as a repair.
    /// Returns the documents for which rules failed in an earlier run, and which this run has to look at.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) as for [`take_dead_letters`](Self::take_dead_letters), or a server error.
    pub(super) async fn take_rules(&self, checkpoint: &mut Checkpoint) -> Result<Vec<FailedDocuments>> {
        self.take_dead_letters(checkpoint).await?;
        let left = self.shaping.resume(&checkpoint.failed).await?;
        let now = self.settings.rules.records();
        if now == checkpoint.rules {
            return Ok(left);
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
        self.store.save(&checkpoint.encode()?).await?;
        Ok(left)
    }

    /// Continues with the collection for dead letters of this run, if there is one. That of an earlier run is dropped: nobody would keep it
    /// up to date, and it has documents as no rule has changed them.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if this run has another one than the earlier run, and it exists, or if others keep documents in that of
    /// the earlier run; or a server error.
    pub(super) async fn take_dead_letters(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        let now = self.shaping.letters();
        if now == checkpoint.dead_letters.as_ref() {
            return Ok(());
        }
        if let Some(letters) = now {
            let standing = self.sink.collections_named(&BTreeSet::from([letters.clone()])).await?;
            if !standing.is_empty() {
                return Err(refused(
                    letters,
                    "the target already has a collection of this name, where dead letters are to go: choose another one, or drop it",
                ));
            }
        }
        if let Some(namespace) = checkpoint.dead_letters.take() {
            let earlier = DeadLetters::new(Arc::clone(&self.sink), namespace.clone());
            if earlier.has_others().await? {
                return Err(refused(
                    &namespace,
                    "the dead letters of an earlier start are to be dropped, and their collection has other documents: move these away",
                ));
            }
            self.sink.execute(&CatalogCommand::Drop { namespace }).await?;
        }
        checkpoint.dead_letters = now.cloned();
        // Before the first letter, so that a later start finds its own collection.
        self.store.save(&checkpoint.encode()?).await
    }
}

fn refused(letters: &Namespace, message: &str) -> Error {
    Error::new(
        ErrorKind::Refused,
        "keep the documents for which a rule failed",
        message,
    )
    .with_context("namespace", letters)
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
