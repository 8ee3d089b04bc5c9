//! Compares what was migrated on both sides: documents, options, indexes.

use std::collections::BTreeMap;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::rawdoc;
use futures::StreamExt;

use crate::by_id::{self, Portions};
use crate::checkpoint::CollectionState;
use crate::document::{Collection, CollectionKind, Operation, Position, Range};
use crate::engine::Engine;
use crate::error::Result;
use crate::event::IndexSummary;
use crate::index::{name_of, seconds};
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

/// What differs between the options of a collection on both sides, in words.
pub(crate) fn compare_options(source: &Collection, target: Option<&Collection>) -> Vec<String> {
    let Some(target) = target else {
        return vec!["it does not exist on the target".to_owned()];
    };
    let mut found = Vec::new();
    if source.kind != target.kind {
        found.push(format!(
            "it is {:?} on the source and {:?} on the target",
            source.kind, target.kind
        ));
    }
    found.extend(
        option_differences(&source.options, &target.options)
            .into_iter()
            .map(|(field, what)| format!("the option `{field}` {what}")),
    );
    found
}

/// The options that differ between both sides, each with what is the matter with it.
pub(crate) fn option_differences(source: &RawDocument, target: &RawDocument) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for (side, other, only) in [
        (source, target, "is on the source only"),
        (target, source, "is on the target only"),
    ] {
        for (field, value) in side.into_iter().filter_map(std::result::Result::ok) {
            // The server's own notes, which differ between any two collections and versions.
            if field == "uuid" || field == "temp" || announces_mixed_types(field.as_str(), value) {
                continue;
            }
            match other.get(field.as_str()) {
                Ok(Some(other)) if other == value => {}
                // Said when the source's were looked at.
                Ok(Some(_)) if std::ptr::eq(side, target) => {}
                Ok(Some(_)) => found.push((field.as_str().to_owned(), "differs")),
                _ => found.push((field.as_str().to_owned(), only)),
            }
        }
    }
    found
}

/// Whether an option says no more than that buckets of a time-series collection may hold values of different types. The sink announces
/// it for each, as it can't know their past; late releases of 6.0 list it among the options, earlier ones keep it to themselves.
fn announces_mixed_types(option: &str, value: RawBsonRef<'_>) -> bool {
    let announcement =
        rawdoc! { "wiredTiger": { "configString": "app_metadata=(timeseriesBucketsMayHaveMixedSchemaData=true)" } };
    option == "storageEngine" && value == RawBsonRef::Document(&announcement)
}

/// Each index of a collection on the source, and whether the target has it; then those that only the target has.
pub(crate) fn compare_indexes(source: &Collection, target: Option<&Collection>) -> Vec<IndexSummary> {
    let theirs = target.map(|target| target.indexes.as_slice()).unwrap_or_default();
    let summary = |index: &RawDocument, reason: Option<String>| IndexSummary {
        namespace: source.namespace.clone(),
        name: name_of(index).to_owned(),
        ok: reason.is_none(),
        reason,
    };
    let mut all: Vec<IndexSummary> = source
        .indexes
        .iter()
        .map(
            |ours| match theirs.iter().find(|theirs| name_of(theirs) == name_of(ours)) {
                None => summary(ours, Some("it is missing on the target".to_owned())),
                Some(theirs) => summary(ours, index_difference(ours, theirs, source.kind)),
            },
        )
        .collect();
    for extra in theirs
        .iter()
        .filter(|theirs| !source.indexes.iter().any(|ours| name_of(ours) == name_of(theirs)))
    {
        all.push(summary(extra, Some("it is on the target only".to_owned())));
    }
    all
}

/// What differs between two indexes of one name, in words; `kind` is that of the collection.
pub(crate) fn index_difference(ours: &RawDocument, theirs: &RawDocument, kind: CollectionKind) -> Option<String> {
    for (side, other, name) in [(ours, theirs, "source"), (theirs, ours, "target")] {
        for (field, value) in side.into_iter().filter_map(std::result::Result::ok) {
            // Servers up to 4.2 note the namespace in each index, newer ones do not.
            if field == "ns" {
                continue;
            }
            // It never takes effect in a capped collection, and servers from 6.0 on refuse it there.
            let other = other.get(field.as_str());
            if field == "expireAfterSeconds"
                && name == "source"
                && kind == CollectionKind::Capped
                && matches!(other, Ok(None))
            {
                continue;
            }
            match other {
                Ok(Some(other)) if other == value => {}
                // One server may keep the seconds as a double or long where the other has an int.
                Ok(Some(_)) if field == "expireAfterSeconds" && seconds(ours) == seconds(theirs) => {}
                Ok(Some(other))
                    if field == "wildcardProjection"
                        && projected(value).is_some_and(|paths| projected(other) == Some(paths)) => {}
                Ok(Some(_)) => return Some(format!("`{}` differs", field.as_str())),
                _ => return Some(format!("`{}` is on the {name} only", field.as_str())),
            }
        }
    }
    None
}

/// Which paths a wildcard index takes or leaves. Servers up to 4.4 keep the projection as it was given, newer ones as they read it: with
/// booleans, dotted names nested, and `_id` said to be left out where nothing was said of it.
fn projected(projection: RawBsonRef<'_>) -> Option<BTreeMap<String, bool>> {
    fn collect(prefix: &str, fields: &RawDocument, paths: &mut BTreeMap<String, bool>) -> Option<()> {
        for (name, value) in fields.into_iter().filter_map(std::result::Result::ok) {
            let path = format!("{prefix}{}", name.as_str());
            let taken = match value {
                RawBsonRef::Document(nested) => {
                    collect(&format!("{path}."), nested, paths)?;
                    continue;
                }
                RawBsonRef::Boolean(taken) => taken,
                RawBsonRef::Int32(number) => number != 0,
                RawBsonRef::Int64(number) => number != 0,
                RawBsonRef::Double(number) => number != 0.0,
                _ => return None,
            };
            paths.insert(path, taken);
        }
        Some(())
    }
    let mut paths = BTreeMap::from([("_id".to_owned(), false)]);
    collect("", projection.as_document()?, &mut paths)?;
    Some(paths)
}

/// The collection of this name in a listing.
pub(crate) fn find<'a>(listed: &'a [Collection], namespace: &crate::namespace::Namespace) -> Option<&'a Collection> {
    listed.iter().find(|collection| collection.namespace == *namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wildcard(projection: RawDocumentBuf) -> RawDocumentBuf {
        rawdoc! { "v": 2, "key": { "$**": 1 }, "name": "$**_1", "wildcardProjection": projection }
    }

    #[test]
    fn a_wildcard_projection_is_the_same_however_it_is_written() {
        let given = wildcard(rawdoc! { "a": 1, "b.c": 1.0 });
        let kept_by_5_0 = wildcard(rawdoc! { "a": true, "b": { "c": true }, "_id": false });
        assert_eq!(index_difference(&given, &kept_by_5_0, CollectionKind::Plain), None);
        for other in [
            rawdoc! { "a": true, "b": { "c": true }, "_id": true },
            rawdoc! { "a": true, "b": { "d": true }, "_id": false },
            rawdoc! { "a": true, "_id": false },
            rawdoc! { "a": false, "b": { "c": false }, "_id": false },
            rawdoc! { "a": "unknown", "_id": false },
        ] {
            assert!(index_difference(&given, &wildcard(other), CollectionKind::Plain).is_some());
        }
    }
}
