//! Compares the documents that were migrated on both sides.

use bson::raw::RawDocumentBuf;
use futures::StreamExt;

use crate::by_id::{self, Portions};
use crate::checkpoint::CollectionState;
use crate::document::{Collection, CollectionKind, Operation, Position, Range};
use crate::engine::Engine;
use crate::error::Result;
use crate::order::Key;
use crate::repair::Differences;
use crate::sink::SinkRead;
use crate::source::{PointRequest, ReadMode, ReadRequest};

/// How many differing documents of a collection are named.
const NAMED: usize = 20;

/// Bytes of a batch while both sides are read.
const BATCH_BYTES: usize = 1 << 20;

/// What was found by comparing a collection's documents.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// What differs, in words.
    pub differences: Vec<String>,
    /// The digest that both sides' servers gave.
    pub digest: Option<String>,
}

/// Compares the documents of a collection on both sides.
///
/// # Errors
/// A server error.
pub(crate) async fn compare_documents(engine: &Engine, state: &CollectionState) -> Result<Comparison> {
    let one_by_one = |differences| Comparison {
        differences,
        digest: None,
    };
    if state.kind == CollectionKind::View {
        return Ok(Comparison::default());
    }
    // The servers' digests go by `_id`; where insertion order is data they say too little.
    if state.kind == CollectionKind::Capped {
        return compare_in_order(engine, state).await.map(one_by_one);
    }
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
    if state.kind.has_ranges() {
        compare_by_id(engine, state).await.map(one_by_one)
    } else {
        compare_in_order(engine, state).await.map(one_by_one)
    }
}

/// Whether these documents of a collection, whose sides stand still, are the same.
///
/// # Errors
/// A server error.
pub(crate) async fn are_same(engine: &Engine, state: &CollectionState, keys: &[Key], at: Position) -> Result<bool> {
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

/// The average size of a document.
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

async fn compare_by_id(engine: &Engine, state: &CollectionState) -> Result<Vec<String>> {
    let (source, sink) = reads(state, engine.source.position().await?);
    let mut steps = Differences::between(engine.source.read(source).await?, engine.sink.read(sink).await?);
    let (mut found, mut count) = (Vec::new(), 0u64);
    while let Some(step) = steps.next().await? {
        let Some(write) = step else { continue };
        count += 1;
        if found.len() < NAMED {
            let what = match write.operation {
                Operation::Insert(_) => "is missing on the target",
                Operation::Delete => "is on the target only",
                Operation::Replace(_) | Operation::Delta(_) => "differs",
            };
            found.push(format!("the document with _id {:?} {what}", write.key));
        }
    }
    if count > found.len() as u64 {
        found.push(format!("{count} documents differ in all"));
    }
    Ok(found)
}

async fn compare_in_order(engine: &Engine, state: &CollectionState) -> Result<Vec<String>> {
    let (source, sink) = reads(state, engine.source.position().await?);
    let flatten = |batch: Result<crate::document::Batch>| match batch {
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

/// The collection of this name in a listing.
pub(crate) fn find<'a>(listed: &'a [Collection], namespace: &crate::namespace::Namespace) -> Option<&'a Collection> {
    listed.iter().find(|collection| collection.namespace == *namespace)
}
