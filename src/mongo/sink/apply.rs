//! Applies logged writes, in order for each document.

use std::collections::{HashMap, HashSet};

use bson::raw::RawDocument;

use super::by_id::{Part, find, takes_in};
use super::connection::TargetConnection;
use super::delta;
use super::insert::insert_all;
use super::replace::{Stored, command_filter, needs_comparison, reason_of, store_all};
use super::write_commands::{Items, Verb, send};
use crate::error::Result;
use crate::model::raw::writer::{IndexNames, RawWriter};
use crate::model::{CollectionKind, Namespace, Operation, Write};
use crate::order::Key;
use crate::sink::{Refusal, RefusalReason};

pub(super) const OPERATION: &str = "apply writes";

/// Applies writes; see [`Sink::apply`](crate::Sink::apply).
///
/// # Errors
/// Any error that concerns more than single writes.
pub(super) async fn apply(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    writes: &[Write],
) -> Result<Vec<Refusal>> {
    let mut steps = if keeps_order(kind, writes) {
        runs(writes)
    } else {
        rounds(writes)
    };
    let mut refused = Vec::new();
    // Documents that an update has not found. Further updates will not find them either.
    let mut missing: HashSet<&Key> = HashSet::new();
    for step in &mut steps {
        step.deltas.retain(|delta| {
            let is_missing = missing.contains(delta.key);
            if is_missing {
                refused.push((delta.write, delta::no_document()));
            }
            !is_missing
        });
        let step = &*step;
        // Deletes go first: they may free a key of a unique index that another write of the step takes. A capped collection of 5.0 or older
        // deletes documents by itself and refuses delete commands.
        if kind != CollectionKind::Capped || target.is_at_least(6, 0) {
            refused.extend(delete(target, namespace, kind, &step.deletes).await?);
        }
        refused.extend(store_all(target, OPERATION, namespace, &step.replacements).await?);
        let refused_deltas = delta::apply(target, namespace, kind, &step.deltas).await?;
        refused.extend(insert(target, namespace, &step.inserts).await?);
        for stored in step.replacements.iter().chain(&step.inserts) {
            missing.remove(stored.key);
        }
        for (write, reason) in refused_deltas {
            if let (RefusalReason::NoDocument(_), Some(write)) = (&reason, writes.get(write)) {
                missing.insert(&write.key);
            }
            refused.push((write, reason));
        }
    }
    refused.sort_by_key(|(write, _)| *write);
    Ok(refused
        .into_iter()
        .map(|(index, reason)| Refusal { index, reason })
        .collect())
}

/// Whether writes of different documents must stay in order. A capped collection keeps the order of its inserts. Under a collation, `_id`s
/// with strings that differ here may be equal.
fn keeps_order(kind: CollectionKind, writes: &[Write]) -> bool {
    match kind {
        CollectionKind::Capped => true,
        CollectionKind::Unordered => writes.iter().any(|write| write.key.is_collated()),
        _ => false,
    }
}

/// Writes of different documents. They may be sent together.
#[derive(Default)]
struct Step<'a> {
    deletes: Vec<(usize, &'a Key)>,
    replacements: Vec<Stored<'a>>,
    deltas: Vec<Stored<'a>>,
    inserts: Vec<Stored<'a>>,
}

impl<'a> Step<'a> {
    fn push(&mut self, index: usize, write: &'a Write) {
        let stored = |document: &'a RawDocument| Stored {
            write: index,
            key: &write.key,
            document,
        };
        match &write.operation {
            Operation::Insert(document) => self.inserts.push(stored(document)),
            Operation::Replace(document) => self.replacements.push(stored(document)),
            Operation::Delta(delta) => self.deltas.push(stored(delta)),
            Operation::Delete => self.deletes.push((index, &write.key)),
        }
    }
}

/// Puts the first writes of all documents into one step, the second ones into the next, and so on.
fn rounds(writes: &[Write]) -> Vec<Step<'_>> {
    let mut counts: HashMap<&Key, usize> = HashMap::with_capacity(writes.len());
    let mut steps: Vec<Step<'_>> = Vec::new();
    for (index, write) in writes.iter().enumerate() {
        let count = counts.entry(&write.key).or_default();
        if *count == steps.len() {
            steps.push(Step::default());
        }
        if let Some(step) = steps.get_mut(*count) {
            step.push(index, write);
        }
        *count += 1;
    }
    steps
}

/// Puts consecutive writes of the same operation into one step.
fn runs(writes: &[Write]) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut keys = HashSet::new();
    let mut last = None;
    for (index, write) in writes.iter().enumerate() {
        let sort = std::mem::discriminant(&write.operation);
        if last != Some(sort) || !keys.insert(&write.key) {
            keys = HashSet::from([&write.key]);
            steps.push(Step::default());
        }
        last = Some(sort);
        if let Some(step) = steps.last_mut() {
            step.push(index, write);
        }
    }
    steps
}

async fn insert(
    target: &TargetConnection,
    namespace: &Namespace,
    inserts: &[Stored<'_>],
) -> Result<Vec<(usize, RefusalReason)>> {
    let documents: Vec<&RawDocument> = inserts.iter().map(|insert| insert.document).collect();
    let refused = insert_all(target, OPERATION, namespace, &documents, None).await?;
    Ok(refused
        .into_iter()
        .filter_map(|(at, reason)| inserts.get(at).map(|insert| (insert.write, reason)))
        .collect())
}

/// Delete statements, each for one document or for several.
struct Deletes<'a>(Vec<&'a [(usize, &'a Key)]>);

impl Items for Deletes<'_> {
    fn verb(&self) -> Verb {
        Verb::Delete
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn size(&self, item: usize) -> usize {
        self.0
            .get(item)
            .into_iter()
            .flat_map(|keys| keys.iter())
            .map(|(_, key)| key.document_bytes().len() + 8)
            .sum()
    }

    fn write(&self, item: usize, name: &str, command: &mut RawWriter) {
        command.open_document(name);
        match self.0.get(item) {
            Some([(_, key)]) => command_filter(command, key),
            Some(keys) => {
                command.open_document("q").open_document("_id").open_array("$in");
                let mut names = IndexNames::default();
                for (_, key) in *keys {
                    command.value(names.next(), key.as_raw());
                }
                command.close().close().close();
            }
            None => {}
        }
        command.int32("limit", 0).close();
    }
}

/// Splits the deletes into groups of at most `most`, whose keys fit into one command.
fn groups<'a, 'k>(deletes: &'a [(usize, &'k Key)], most: usize) -> Vec<&'a [(usize, &'k Key)]> {
    const MOST_KEY_BYTES: usize = 4 * 1024 * 1024;
    let mut groups = Vec::new();
    let mut rest = deletes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take(most).take_while(|(_, key)| {
            bytes += key.document_bytes().len();
            bytes <= MOST_KEY_BYTES
        });
        let (group, others) = rest.split_at(fitting.count().max(1));
        groups.push(group);
        rest = others;
    }
    groups
}

/// Keeps only the deletes whose document exists with exactly this `_id`. Under a collation, a delete also matches a document with another
/// `_id`. A delete that names the simple collation would scan the whole collection.
async fn retain_exact(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    deletes: &mut Vec<(usize, &Key)>,
) -> Result<()> {
    let collated: Vec<&Key> = deletes
        .iter()
        .map(|(_, key)| *key)
        .filter(|key| key.is_collated())
        .collect();
    if collated.is_empty() {
        return Ok(());
    }
    let found = find(target, namespace, kind, &collated, Part::Id).await?;
    let found: HashSet<Key> = found.iter().filter_map(|document| Key::of_document(document)).collect();
    deletes.retain(|(_, key)| !key.is_collated() || found.contains(key));
    Ok(())
}

async fn delete(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    deletes: &[(usize, &Key)],
) -> Result<Vec<(usize, RefusalReason)>> {
    /// `$in` takes half the server's time, and is accepted or refused as a whole.
    const MOST_TOGETHER: usize = 1_000;
    let together = if takes_in(kind) { MOST_TOGETHER } else { 1 };
    let mut deletes = deletes.to_vec();
    if matches!(kind, CollectionKind::Unordered | CollectionKind::Capped) {
        retain_exact(target, namespace, kind, &mut deletes).await?;
    }
    let (odd, plain): (Vec<_>, Vec<_>) = deletes.into_iter().partition(|(_, key)| needs_comparison(key));
    let mut refused = Vec::new();
    let mut failed = Vec::new();
    let statements = Deletes(groups(&plain, together).into_iter().chain(odd.chunks(1)).collect());
    for error in send(target, OPERATION, namespace, &statements).await?.errors {
        match statements.0.get(error.index) {
            Some([(write, _)]) => refused.push((*write, reason_of(error))),
            Some(keys) => failed.extend_from_slice(keys),
            None => {}
        }
    }
    let statements = Deletes(failed.chunks(1).collect());
    for error in send(target, OPERATION, namespace, &statements).await?.errors {
        if let Some((write, _)) = failed.get(error.index) {
            refused.push((*write, reason_of(error)));
        }
    }
    Ok(refused)
}
