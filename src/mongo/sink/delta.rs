//! Applies updates that the source logged as deltas.

use std::collections::{HashMap, HashSet};

use bson::raw::{RawDocument, RawDocumentBuf};
use futures::{StreamExt, TryStreamExt};

use super::apply::OPERATION;
use super::by_id::{self, CONCURRENCY, Part, find};
use super::connection::{TargetConnection, WriteError};
use super::names::{makes_care, needs_care};
use super::replace::{Stored, command_filter, store_all};
use super::write_commands::{Items, Verb, send};
use crate::error::{Error, Result};
use crate::model::raw::writer::RawWriter;
use crate::model::{CollectionKind, Namespace};
use crate::mongo::retry::{RetryPolicy, retry};
use crate::oplog::delta::{self, DeltaFormat};
use crate::order::Key;
use crate::sink::RefusalReason;

/// Maximum number of paths in one update. The time that the server needs grows with the square of the paths. Deltas with more paths are
/// applied here, in one pass.
const MOST_PATHS: usize = 100;

/// Maximum number of paths where each path needs its own update. Each of these updates writes and logs the whole document.
const MOST_ORDERED_PATHS: usize = 4;

/// One update statement.
struct Statement<'a> {
    delta: Stored<'a>,
    update: Update<'a>,
}

enum Update<'a> {
    /// The logged delta, which the server applies as a secondary does.
    Logged(&'a RawDocument),
    /// Ordinary update operators.
    Operators(RawDocumentBuf),
}

struct Statements<'a>(Vec<Statement<'a>>);

impl Items for Statements<'_> {
    fn verb(&self) -> Verb {
        Verb::Update
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn size(&self, item: usize) -> usize {
        self.0.get(item).map_or(0, |statement| {
            let update = match &statement.update {
                Update::Logged(update) => update.as_bytes().len() + 64,
                Update::Operators(update) => update.as_bytes().len(),
            };
            update + statement.delta.key.document_bytes().len() + 32
        })
    }

    fn write(&self, item: usize, name: &str, command: &mut RawWriter) {
        let Some(statement) = self.0.get(item) else { return };
        command.open_document(name);
        command_filter(command, statement.delta.key);
        match &statement.update {
            Update::Logged(update) => {
                command
                    .open_array("u")
                    .open_document("0")
                    .open_document("$_internalApplyOplogUpdate");
                command.document("oplogUpdate", update);
                command.close().close().close();
            }
            Update::Operators(update) => {
                command.document("u", update);
            }
        }
        command.close();
    }
}

/// Applies one delta to each of several different documents. The `document` of each item is the delta. Returns the writes that could not be
/// applied.
///
/// # Errors
/// Any error that concerns more than single writes.
pub(super) async fn apply(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    deltas: &[Stored<'_>],
) -> Result<Vec<(usize, RefusalReason)>> {
    if deltas.is_empty() {
        return Ok(Vec::new());
    }
    let mut refused = HashMap::new();
    if by_id::takes_in(kind) && target.absences().are_usual_in(namespace) {
        refused.extend(missing(target, namespace, kind, deltas).await?);
    }
    let are_there: Vec<Stored<'_>> = deltas
        .iter()
        .copied()
        .filter(|delta| !refused.contains_key(&delta.write))
        .collect();
    refused.extend(apply_to_existing(target, namespace, kind, &are_there).await?);
    let missing = refused
        .values()
        .filter(|reason| matches!(reason, RefusalReason::NoDocument(_)));
    target.absences().note(namespace, missing.count(), deltas.len());
    Ok(refused.into_iter().collect())
}

/// Applies deltas whose documents are expected to exist.
async fn apply_to_existing(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    deltas: &[Stored<'_>],
) -> Result<Vec<(usize, RefusalReason)>> {
    let mut refused = HashMap::new();
    let mut in_memory = Vec::new();
    let mut statements = Statements(Vec::with_capacity(deltas.len()));
    for delta in deltas {
        if makes_care(delta.document) {
            target.unique_names().forget(namespace);
        }
        match updates(target, delta.document) {
            Ok(Some(updates)) => statements
                .0
                .extend(updates.into_iter().map(|update| Statement { delta: *delta, update })),
            Ok(None) => in_memory.push(*delta),
            Err(error) => {
                refused.insert(delta.write, RefusalReason::from(error));
            }
        }
    }
    if !target.unique_names().hold_for(namespace) {
        let doubtful = statements
            .0
            .iter()
            .filter(|statement| !suits_repeated_names(target, statement));
        let doubtful: Vec<&Key> = doubtful.map(|statement| statement.delta.key).collect();
        let mut found = find_careful(target, namespace, kind, &doubtful).await?;
        if kind == CollectionKind::Unordered {
            // The statement may match a document with another `_id` that is equal by the collation.
            found.extend(doubtful.into_iter().filter(|key| key.is_collated()).cloned());
        }
        if !found.is_empty() {
            in_memory.extend(deltas.iter().filter(|delta| found.contains(delta.key)));
            statements.0.retain(|statement| !found.contains(statement.delta.key));
        }
    }
    let outcome = send(target, OPERATION, namespace, &statements).await?;
    let mut failed: HashMap<usize, (Stored<'_>, WriteError)> = HashMap::new();
    for error in outcome.errors {
        if let Some(statement) = statements.0.get(error.index) {
            failed.entry(statement.delta.write).or_insert((statement.delta, error));
        }
    }
    for (write, (delta, error)) in failed {
        match error.code {
            // PathNotViable, DuplicateKey: the result in memory would be the same.
            28 | 11000 => {
                refused.insert(write, reason(error));
            }
            _ => in_memory.push(delta),
        }
    }
    let short: Vec<Stored<'_>> = outcome
        .short
        .into_iter()
        .flat_map(|range| statements.0.get(range).unwrap_or_default())
        .map(|statement| statement.delta)
        .filter(|delta| !refused.contains_key(&delta.write))
        .collect();
    refused.extend(missing(target, namespace, kind, &short).await?);
    in_memory.retain(|delta| !refused.contains_key(&delta.write));
    refused.extend(apply_in_memory(target, namespace, kind, &in_memory).await?);
    Ok(refused.into_iter().collect())
}

/// Whether a statement does the same to a document with repeated names as the source did, on every member. Before 5.0, the oplog contains
/// the operators themselves.
fn suits_repeated_names(target: &TargetConnection, statement: &Statement<'_>) -> bool {
    !target.is_at_least(5, 0) && matches!(delta::format_of(statement.delta.document), Ok(Some(DeltaFormat::V1)))
}

/// Returns the keys of those documents that need care. Nothing of the other documents is kept.
async fn find_careful(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    keys: &[&Key],
) -> Result<HashSet<Key>> {
    let searches = by_id::groups(kind, keys).into_iter().map(|group| {
        retry(RetryPolicy::SERVER, move || {
            let group = group.clone();
            async move {
                let mut found = Vec::new();
                let mut cursor = by_id::open(target, namespace, &group, Part::Whole).await?;
                while let Some(batch) = cursor.next().await {
                    let batch = batch?;
                    let careful = batch.iter().filter(|document| needs_care(document));
                    found.extend(careful.filter_map(Key::of_document));
                }
                Ok(found)
            }
        })
    });
    let searches: Vec<_> = searches.collect();
    let found: Vec<Vec<Key>> = futures::stream::iter(searches)
        .buffered(CONCURRENCY)
        .try_collect()
        .await
        .map_err(|error: Error| error.with_context("namespace", namespace))?;
    Ok(found.into_iter().flatten().collect())
}

/// Returns the statements that apply a delta, or `None` if it has to be applied in memory.
fn updates<'a>(
    target: &TargetConnection,
    delta: &'a RawDocument,
) -> Result<Option<Vec<Update<'a>>>, delta::DeltaError> {
    match delta::format_of(delta)? {
        Some(DeltaFormat::V2) => Ok(match delta::v2_as_operators(delta)? {
            Some(update) => Some(vec![Update::Operators(update)]),
            // The server compares the document before and after the update. It cannot do that if a name occurs twice in either. It may log
            // a replacement, which may not have empty timestamps.
            None if target.applies_deltas() && !makes_care(delta) => Some(vec![Update::Logged(delta)]),
            None => None,
        }),
        Some(format @ (DeltaFormat::Unversioned | DeltaFormat::V1)) => {
            let paths = delta::v1_path_count(delta)?;
            let ordered = (target.is_at_least(5, 0) && delta::v1_needs_ordered_sets(delta)?)
                || (format == DeltaFormat::Unversioned && delta::unversioned_needs_ordered_sets(delta)?);
            Ok(match ordered {
                true if paths > MOST_ORDERED_PATHS => None,
                false if paths > MOST_PATHS => None,
                true => {
                    let updates = delta::v1_as_ordered_operators(delta)?;
                    Some(updates.into_iter().map(Update::Operators).collect())
                }
                false => Some(vec![Update::Operators(delta::v1_as_operators(delta)?)]),
            })
        }
        None => Err(delta::DeltaError::UnknownFormat),
    }
}

/// Returns those of the deltas whose document does not exist.
async fn missing(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    deltas: &[Stored<'_>],
) -> Result<Vec<(usize, RefusalReason)>> {
    if deltas.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<&Key> = deltas.iter().map(|delta| delta.key).collect();
    let found: HashSet<Key> = find(target, namespace, kind, &keys, Part::Id)
        .await?
        .iter()
        .filter_map(|document| Key::of_document(document))
        .collect();
    Ok(deltas
        .iter()
        .filter(|delta| !found.contains(delta.key))
        .map(|delta| (delta.write, no_document()))
        .collect())
}

/// Reads the documents, applies the deltas to them in memory, and stores the whole documents.
async fn apply_in_memory(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    deltas: &[Stored<'_>],
) -> Result<Vec<(usize, RefusalReason)>> {
    let deltas: HashMap<&Key, Stored<'_>> = deltas.iter().map(|delta| (delta.key, *delta)).collect();
    let keys: Vec<&Key> = deltas.keys().copied().collect();
    let mut refused = Vec::new();
    for group in by_id::groups(kind, &keys) {
        let mut attempts = RetryPolicy::SERVER.begin();
        // The next attempt reads documents that were already stored in their new state. Applying a delta twice gives the same document.
        let refusals = loop {
            match apply_to_group(target, namespace, &deltas, &group).await {
                Ok(refusals) => break refusals,
                Err(error) => match attempts.next_pause(&error) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error.with_context("namespace", namespace)),
                },
            }
        };
        refused.extend(refusals);
    }
    Ok(refused)
}

/// Applies the deltas of one group. Holds one reply of documents at a time, up to 16 MB.
async fn apply_to_group(
    target: &TargetConnection,
    namespace: &Namespace,
    deltas: &HashMap<&Key, Stored<'_>>,
    group: &[&Key],
) -> Result<Vec<(usize, RefusalReason)>> {
    let mut refused = Vec::new();
    let mut missing: HashSet<&Key> = group.iter().copied().collect();
    let mut cursor = by_id::open(target, namespace, group, Part::Whole).await?;
    while let Some(batch) = cursor.next().await {
        let batch = batch?;
        let mut changed = Vec::with_capacity(batch.len());
        for document in batch.iter() {
            let Some(key) = Key::of_document(document) else {
                continue;
            };
            let Some(delta) = deltas.get(&key) else { continue };
            missing.remove(&key);
            match delta::apply(document, delta.document) {
                Ok(document) => changed.push((*delta, document)),
                Err(error) => refused.push((delta.write, RefusalReason::from(error))),
            }
        }
        let stored: Vec<Stored<'_>> = changed
            .iter()
            .map(|(delta, document)| Stored { document, ..*delta })
            .collect();
        refused.extend(store_all(target, OPERATION, namespace, &stored).await?);
    }
    let missing = missing.into_iter().filter_map(|key| deltas.get(key));
    refused.extend(missing.map(|delta| (delta.write, no_document())));
    Ok(refused)
}

pub(super) fn no_document() -> RefusalReason {
    RefusalReason::NoDocument("no such document".to_owned())
}

fn reason(error: WriteError) -> RefusalReason {
    match error.code {
        11000 => RefusalReason::DuplicateKey(error.message),
        _ => RefusalReason::CannotApply(error.message),
    }
}
