//! Filters and transforms in a run: which form each document has on the target, and what becomes of those that have none.

pub(crate) mod dead_letters;
mod failed;
pub(crate) mod source;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bson::raw::{RawDocument, RawDocumentBuf};

use self::dead_letters::{DeadLetters, Letter};
use self::failed::Failed;
use crate::checkpoint::FailedDocuments;
use crate::compare::by_id::Portions;
use crate::config::OnRuleError;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position};
use crate::order::Key;
use crate::report::{Event, Events};
use crate::rules::{DocumentRule, FailedRule, RuleError, RuleSet, Shaped};
use crate::source::{PointRequest, ReadMode, Source};

/// Maximum number of namespaces whose rules are kept at hand.
const MOST_KNOWN: usize = 10_000;

/// Approximate number of bytes of documents that are read at once.
const PORTION: usize = 4 << 20;

/// The rules of a migration, and the documents for which they failed.
#[derive(Debug)]
pub(crate) struct Shaping {
    rules: RuleSet,
    policy: OnRuleError,
    /// `None` unless the policy needs it.
    letters: Option<DeadLetters>,
    events: Events,
    failed: Failed,
    known: RwLock<HashMap<Namespace, Option<Arc<DocumentRule>>>>,
}

/// What the target has in place of a document.
#[derive(Debug)]
pub(crate) enum Form {
    /// The same document.
    Same,
    /// Another document with the same `_id`.
    Changed(RawDocumentBuf),
    /// Nothing, because a rule says so.
    Absent,
    /// Nothing, because a rule failed and the host wants the run to go on.
    Failed(FailedRule),
}

impl Shaping {
    pub fn new(rules: RuleSet, policy: OnRuleError, letters: Option<DeadLetters>, events: Events) -> Self {
        Self {
            rules,
            policy,
            letters,
            events,
            failed: Failed::default(),
            known: RwLock::default(),
        }
    }

    /// Without rules.
    pub fn none() -> Self {
        Self::new(RuleSet::default(), OnRuleError::Fail, None, Events::new())
    }

    /// Whether there are any rules.
    pub fn is_any(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The rules of a namespace of the source. `None` if its documents arrive as they are.
    pub fn of(&self, namespace: &Namespace) -> Option<Arc<DocumentRule>> {
        if self.rules.is_empty() {
            return None;
        }
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(namespace) {
            return known.clone();
        }
        let rule = self.rules.of(namespace);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(namespace.clone(), rule.clone());
        rule
    }

    /// Returns the form of a document.
    ///
    /// # Errors
    /// [`Rule`](ErrorKind::Rule) if a rule panicked, or failed and the run has to end then.
    pub fn form(&self, rule: &DocumentRule, namespace: &Namespace, document: &RawDocument) -> Result<Form> {
        match rule.apply(namespace, document) {
            Ok(Shaped::Same) => Ok(Form::Same),
            Ok(Shaped::Changed(changed)) => Ok(Form::Changed(changed)),
            Ok(Shaped::Absent) => Ok(Form::Absent),
            Err(failed) if self.policy == OnRuleError::Fail || failed.error == RuleError::Panicked => {
                let id = Key::of_document(document).map_or("none".to_owned(), |key| format!("{key:?}"));
                Err(Error::new(ErrorKind::Rule, "apply the rules", failed.to_string())
                    .with_context("namespace", namespace)
                    .with_context("_id", id))
            }
            Err(failed) => Ok(Form::Failed(failed)),
        }
    }

    /// Whether documents of the namespace are missing on the target because a rule failed.
    pub fn any_failed(&self, namespace: &Namespace) -> bool {
        self.failed.count_of(namespace) > 0
    }

    /// Number of documents of the namespace that are missing on the target because a rule failed.
    pub fn failed_of(&self, namespace: &Namespace) -> u64 {
        self.failed.count_of(namespace) as u64
    }

    /// Number of documents that are missing on the target because a rule failed.
    pub fn failed(&self) -> u64 {
        self.failed.count() as u64
    }

    /// The collection for dead letters, if the policy has one.
    pub fn letters(&self) -> Option<&Namespace> {
        self.letters.as_ref().map(DeadLetters::collection)
    }

    /// Notes the documents that an earlier run has noted. Returns those for which this run has to do what the earlier one did not: all of
    /// them if a rule that fails ends this run, or those without a letter.
    ///
    /// # Errors
    /// A server error.
    pub async fn resume(&self, noted: &[FailedDocuments]) -> Result<Vec<FailedDocuments>> {
        self.failed.restore(noted);
        let done = Failed::default();
        match (&self.letters, &self.policy) {
            (Some(letters), _) => letters.load(&done).await?,
            (None, OnRuleError::Fail) => {}
            (None, _) => return Ok(Vec::new()),
        }
        self.failed.restore(&done.records());
        Ok(done.others_of(noted))
    }

    /// The documents that are missing because a rule failed, for the checkpoint.
    pub fn failed_documents(&self) -> Vec<FailedDocuments> {
        self.failed.records()
    }

    /// Reads the documents for which a rule failed once more, so that those that are gone by now are forgotten. Nothing may be written to
    /// them any more.
    ///
    /// # Errors
    /// A server error.
    pub async fn try_again(&self, source: &dyn Source, at: Position) -> Result<()> {
        read_again(source, &self.failed.records(), at).await
    }

    /// Reads those of the documents that are still noted once more, before the changes that the checkpoint does not have are applied. Ends
    /// the run if rules may not fail in it, and writes letters if it has to.
    ///
    /// # Errors
    /// [`Rule`](ErrorKind::Rule) if a rule fails and may not, or a server error.
    pub async fn catch_up(&self, source: &dyn Source, left: &[FailedDocuments], at: Position) -> Result<()> {
        let still = left.iter().filter(|left| self.any_failed(&left.namespace));
        let still: Vec<FailedDocuments> = still.cloned().collect();
        let read = read_again(source, &still, at).await;
        read.map_err(|error| match error.kind() {
            ErrorKind::Rule => error.with_context("left out by an earlier start", self.failed.count()),
            _ => error,
        })
    }

    /// Forgets the documents of a collection that was dropped or renamed.
    ///
    /// # Errors
    /// A server error.
    pub async fn forget(&self, namespace: &Namespace) -> Result<()> {
        if let Some(letters) = &self.letters
            && self.failed.count_of(namespace) > 0
        {
            letters.forget(namespace).await?;
        }
        self.failed.forget(namespace);
        Ok(())
    }

    /// Notes what became of documents whose new form is about to be written, or was written. The last outcome of each document counts.
    ///
    /// # Errors
    /// A server error, or [`Rule`](ErrorKind::Rule) if too many documents failed.
    pub async fn settle(&self, namespace: &Namespace, outcomes: Outcomes) -> Result<()> {
        if outcomes.0.is_empty() {
            return Ok(());
        }
        let mut letters = Vec::new();
        for (key, failed) in outcomes.0 {
            match failed {
                Some(Failure { failed, document }) => {
                    if self.failed.note(namespace, &key)? {
                        let (id, reason) = (format!("{key:?}"), failed.to_string());
                        let namespace = namespace.clone();
                        self.events.send(Event::RuleFailed { namespace, id, reason });
                    }
                    if self.letters.is_some() {
                        letters.push((key, Some(Letter::new(&failed, document))));
                    }
                }
                None => {
                    if self.failed.remove(namespace, &key) && self.letters.is_some() {
                        letters.push((key, None));
                    }
                }
            }
        }
        match &self.letters {
            Some(dead) if !letters.is_empty() => dead.write(namespace, letters).await,
            _ => Ok(()),
        }
    }

    /// An empty list of outcomes of documents of a namespace.
    pub fn outcomes(&self) -> Outcomes {
        Outcomes(HashMap::new())
    }
}

/// Reads documents. A source that shapes them notes what becomes of them.
async fn read_again(source: &dyn Source, documents: &[FailedDocuments], at: Position) -> Result<()> {
    for FailedDocuments { namespace, ids } in documents {
        let mut portions = Portions::of(ids, PORTION, 0);
        while let Some(keys) = portions.next() {
            let request = PointRequest {
                namespace,
                keys,
                at,
                mode: ReadMode::Interval,
            };
            source.read_documents(request).await?;
            portions.took(keys.len(), PORTION);
        }
    }
    Ok(())
}

/// What became of documents: for each `_id`, the failure, or `None` if the rules had a result.
#[derive(Debug)]
pub(crate) struct Outcomes(HashMap<Key, Option<Failure>>);

/// A document for which a rule failed.
#[derive(Debug)]
struct Failure {
    failed: FailedRule,
    document: RawDocumentBuf,
}

impl Outcomes {
    pub fn failed(&mut self, key: Key, failed: FailedRule, document: &RawDocument) {
        let document = document.to_owned();
        self.0.insert(key, Some(Failure { failed, document }));
    }

    /// Notes that the rules had a result for a document, or that it was deleted.
    pub fn succeeded(&mut self, key: Key) {
        self.0.insert(key, None);
    }

    /// Notes that a document was looked for, unless its outcome is noted already.
    pub fn missing(&mut self, key: &Key) {
        if !self.0.contains_key(key) {
            self.0.insert(key.clone(), None);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
