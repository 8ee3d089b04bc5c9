//! Compares the migrated documents on both sides.

use bson::raw::{RawDocument, RawDocumentBuf};
use futures::{StreamExt, TryStreamExt};

use crate::checkpoint::CollectionState;
use crate::compare::by_id::{self, Portions};
use crate::compare::merge::MergeDiff;
use crate::error::Result;
use crate::model::{Batch, CollectionKind, Operation, Position, Range};
use crate::order::Key;
use crate::runtime::job::Job;
use crate::sink::SinkRead;
use crate::source::{PointRequest, ReadMode, ReadRequest};

/// Maximum number of differing documents named per collection.
const NAMED: usize = 20;

/// Batch size in bytes for reading both sides.
const BATCH_BYTES: usize = 1 << 20;

/// Result of comparing a collection's documents.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Descriptions of the differences.
    pub differences: Vec<String>,
    /// The digest, if it is the same on both sides.
    pub digest: Option<String>,
}

/// Compares the documents of a collection on both sides.
///
/// # Errors
/// A server error.
pub(crate) async fn compare_documents(engine: &Job, state: &CollectionState) -> Result<Comparison> {
    let one_by_one = |differences| Comparison {
        differences,
        digest: None,
    };
    if state.kind == CollectionKind::View {
        return Ok(Comparison::default());
    }
    // A difference in insertion order is reported by its place.
    if state.kind == CollectionKind::Capped {
        return compare_in_order(engine, state).await.map(one_by_one);
    }
    // The servers know nothing of rules.
    if engine.shaping.of(&state.namespace).is_none() {
        let (ours, theirs) = futures::try_join!(
            engine.source.digest(&state.namespace),
            engine.sink.digest(&state.target)
        )?;
        if ours.is_some() && ours == theirs {
            return Ok(Comparison {
                differences: Vec::new(),
                digest: ours,
            });
        }
    }
    if state.kind.has_ranges() {
        compare_by_id(engine, state).await.map(one_by_one)
    } else {
        compare_one_by_one(engine, state).await.map(one_by_one)
    }
}

/// Returns `true` if these documents of a collection are the same on both sides. Both sides must stand still.
///
/// # Errors
/// A server error.
pub(crate) async fn are_same(engine: &Job, state: &CollectionState, keys: &[Key], at: Position) -> Result<bool> {
    let mut portions = Portions::of(keys, BATCH_BYTES, document_bytes(state));
    while let Some(keys) = portions.next() {
        let ours = engine.source.read_documents(PointRequest {
            namespace: &state.namespace,
            keys,
            at,
            mode: ReadMode::Interval,
        });
        let theirs = engine.sink.read_documents(&state.target, keys);
        let (ours, theirs) = futures::try_join!(ours, theirs)?;
        portions.took(keys.len(), by_id::bytes_of(&ours).max(by_id::bytes_of(&theirs)));
        if !by_id::differing(ours, theirs).is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Average size of a document in bytes.
fn document_bytes(state: &CollectionState) -> usize {
    usize::try_from(state.bytes / state.documents.max(1)).unwrap_or_default()
}

fn reads(state: &CollectionState, at: Position) -> (ReadRequest, SinkRead) {
    let document_bytes = document_bytes(state);
    let source = ReadRequest {
        namespace: state.namespace.clone(),
        kind: state.kind,
        range: Range::FULL,
        at,
        mode: ReadMode::Interval,
        batch_bytes: BATCH_BYTES,
        document_bytes,
    };
    let sink = SinkRead {
        namespace: state.target.clone(),
        kind: state.kind,
        range: Range::FULL,
        batch_bytes: BATCH_BYTES,
        document_bytes,
    };
    (source, sink)
}

async fn compare_by_id(engine: &Job, state: &CollectionState) -> Result<Vec<String>> {
    let (source, sink) = reads(state, engine.source.position().await?);
    let mut steps = MergeDiff::between(engine.source.read(source).await?, engine.sink.read(sink).await?);
    let mut found = Differing::default();
    while let Some(step) = steps.next().await? {
        let Some(write) = step else { continue };
        found.add(
            &write.key,
            match write.operation {
                Operation::Insert(_) => MISSING,
                Operation::Delete => EXTRA,
                Operation::Replace(_) | Operation::Delta(_) => DIFFERS,
            },
        );
    }
    Ok(found.in_words())
}

/// Compares documents that have no common order on both sides. Compares the source's documents with the target's by `_id`, then looks for
/// documents that only the target has.
async fn compare_one_by_one(engine: &Job, state: &CollectionState) -> Result<Vec<String>> {
    let at = engine.source.position().await?;
    let (source, sink) = reads(state, at);
    let documents = |batch: &Batch| batch.iter().map(RawDocument::to_owned).collect::<Vec<_>>();
    let mut found = Differing::default();
    let mut batches = engine.source.read(source).await?;
    while let Some(batch) = batches.try_next().await? {
        let keys: Vec<Key> = batch.iter().filter_map(Key::of_document).collect();
        let theirs = engine.sink.read_documents(&state.target, &keys).await?;
        for (key, ours, theirs) in by_id::differing(documents(&batch), theirs) {
            // Documents whose `_id`s are equal only under the collation are found when the target is read.
            if ours.is_some() {
                found.add(&key, if theirs.is_some() { DIFFERS } else { MISSING });
            }
        }
    }
    let mut batches = engine.sink.read(sink).await?;
    while let Some(batch) = batches.try_next().await? {
        let keys: Vec<Key> = batch.iter().filter_map(Key::of_document).collect();
        let request = PointRequest {
            namespace: &state.namespace,
            keys: &keys,
            at,
            mode: ReadMode::Interval,
        };
        let ours = engine.source.read_documents(request).await?;
        for (key, ours, _) in by_id::differing(ours, documents(&batch)) {
            if ours.is_none() {
                found.add(&key, EXTRA);
            }
        }
    }
    Ok(found.in_words())
}

const MISSING: &str = "is missing on the target";
const EXTRA: &str = "is on the target only";
const DIFFERS: &str = "differs";

/// Documents that differ. The first ones are named, and all are counted.
#[derive(Default)]
struct Differing {
    named: Vec<String>,
    count: u64,
}

impl Differing {
    fn add(&mut self, key: &Key, what: &str) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("the document with _id {key:?} {what}"));
        }
    }

    fn in_words(mut self) -> Vec<String> {
        if self.count > self.named.len() as u64 {
            self.named.push(format!("{} documents differ in total", self.count));
        }
        self.named
    }
}

async fn compare_in_order(engine: &Job, state: &CollectionState) -> Result<Vec<String>> {
    let (source, sink) = reads(state, engine.source.position().await?);
    let flatten = |batch: Result<Batch>| match batch {
        Ok(batch) => futures::stream::iter(
            batch
                .iter()
                .map(|document| Ok(document.to_owned()))
                .collect::<Vec<Result<_>>>(),
        ),
        Err(error) => futures::stream::iter(vec![Err(error)]),
    };
    let mut ours = engine.source.read(source).await?.flat_map(flatten);
    let mut theirs = engine.sink.read(sink).await?.flat_map(flatten);
    let mut number = 0u64;
    loop {
        let (our, their) = futures::join!(ours.next(), theirs.next());
        let (our, their) = (our.transpose()?, their.transpose()?);
        match (&our, &their) {
            (None, None) => return Ok(Vec::new()),
            (Some(our), Some(their)) if our.as_bytes() == their.as_bytes() => number += 1,
            _ => {
                let id = |document: &Option<RawDocumentBuf>| match document
                    .as_ref()
                    .and_then(|document| Key::of_document(document))
                {
                    Some(key) => format!("_id {key:?}"),
                    None => "none".to_owned(),
                };
                return Ok(vec![format!(
                    "document {number} in insertion order differs: {} on the source, {} on the target",
                    id(&our),
                    id(&their)
                )]);
            }
        }
    }
}
