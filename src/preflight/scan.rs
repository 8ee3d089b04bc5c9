//! Scan of every document, if the host asks for it.

use bson::raw::{RawArray, RawBsonRef, RawDocument};
use futures::StreamExt;

use crate::error::{ErrorKind, Finding, FindingCode, Result};
use crate::model::{Collection, CollectionKind, Range};
use crate::order::Key;
use crate::source::{ReadMode, ReadRequest, Source};

/// Maximum nesting depth of documents that servers accept from clients. Some of the commands that carry documents add levels of their own.
const DEPTH: usize = 180;

/// Maximum number of documents named in a finding.
const NAMED: usize = 5;

/// Reports documents of the selected collections that a target would refuse.
///
/// # Errors
/// The connection broke.
pub(super) async fn check(source: &dyn Source, selected: &[&Collection], findings: &mut Vec<Finding>) -> Result<()> {
    for collection in selected {
        if collection.kind == CollectionKind::View {
            continue;
        }
        let looked = async {
            documents(source, collection, findings).await?;
            unique(source, collection, findings).await
        };
        match looked.await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
            Err(error) => findings.push(
                Finding::note(
                    FindingCode::Unchecked,
                    format!(
                        "the documents of `{}` could not be inspected: {error:#}",
                        collection.namespace
                    ),
                    "see the reason",
                )
                .about(collection.namespace.as_str())
                .because("scan"),
            ),
        }
    }
    Ok(())
}

/// Documents with the same problem.
#[derive(Default)]
struct Found {
    count: u64,
    ids: Vec<String>,
}

impl Found {
    fn add(&mut self, document: &RawDocument) {
        self.count += 1;
        if self.ids.len() < NAMED {
            let id = Key::of_document(document).map_or("(without an _id)".to_owned(), |key| format!("{key:?}"));
            self.ids.push(id);
        }
    }
}

async fn documents(source: &dyn Source, collection: &Collection, findings: &mut Vec<Finding>) -> Result<()> {
    let request = ReadRequest {
        namespace: collection.namespace.clone(),
        kind: collection.kind,
        range: Range::FULL,
        at: source.position().await?,
        mode: ReadMode::Interval,
        batch_bytes: 4 << 20,
        document_bytes: usize::try_from(collection.bytes / collection.documents.max(1)).unwrap_or_default(),
    };
    let (mut nested, mut misplaced) = (Found::default(), Found::default());
    let mut batches = source.read(request).await?;
    while let Some(batch) = batches.next().await {
        for document in batch?.iter() {
            if is_deeper(document, DEPTH) {
                nested.add(document);
            }
            let first = document.iter().next();
            if !matches!(first, Some(Ok((name, _))) if name.as_str() == "_id") {
                misplaced.add(document);
            }
        }
    }
    let namespace = &collection.namespace;
    if nested.count > 0 {
        let finding = Finding::warning(
            FindingCode::NestedDocument,
            format!(
                "{} documents of `{namespace}` are nested deeper than the {DEPTH} levels that clients may write: {}",
                nested.count,
                nested.ids.join(", ")
            ),
            "flatten or delete them if the run reports that the target refused them",
        );
        findings.push(finding.about(namespace.as_str()));
    }
    if misplaced.count > 0 {
        let finding = Finding::blocker(
            FindingCode::MisplacedId,
            format!(
                "{} documents of `{namespace}` do not begin with their `_id`, unlike documents that a server writes: {}",
                misplaced.count,
                misplaced.ids.join(", ")
            ),
            "on the source: replace each by itself, `c.replaceOne({ _id: ID }, c.findOne({ _id: ID }))`",
        );
        findings.push(finding.about(namespace.as_str()));
    }
    Ok(())
}

async fn unique(source: &dyn Source, collection: &Collection, findings: &mut Vec<Finding>) -> Result<()> {
    for index in &collection.indexes {
        let is_unique = index
            .get("unique")
            .ok()
            .flatten()
            .is_some_and(|value| !matches!(value, RawBsonRef::Boolean(false) | RawBsonRef::Int32(0)));
        if !is_unique {
            continue;
        }
        let duplicates = source.duplicates(collection, index, NAMED).await?;
        if duplicates.is_empty() {
            continue;
        }
        let pairs = duplicates.iter().map(|[first, last]| format!("{first:?} and {last:?}"));
        findings.push(
            Finding::blocker(
                FindingCode::UniqueViolation,
                format!(
                    "documents of `{}` have the same key in the unique index `{}`, with these `_id`s: {}",
                    collection.namespace,
                    index.get_str("name").unwrap_or("(without a name)"),
                    pairs.collect::<Vec<_>>().join(", ")
                ),
                "on the source: change or delete all but one of each, and run `validate` on the collection",
            )
            .about(format!(
                "{} index {}",
                collection.namespace,
                index.get_str("name").unwrap_or("(without a name)")
            )),
        );
    }
    Ok(())
}

/// Whether a document has more than `levels` levels. The document itself counts as one.
fn is_deeper(document: &RawDocument, levels: usize) -> bool {
    let Some(inner) = levels.checked_sub(1) else {
        return true;
    };
    document
        .iter()
        .flatten()
        .any(|(_, value)| is_value_deeper(value, inner))
}

fn is_array_deeper(array: &RawArray, levels: usize) -> bool {
    let Some(inner) = levels.checked_sub(1) else {
        return true;
    };
    array.into_iter().flatten().any(|value| is_value_deeper(value, inner))
}

fn is_value_deeper(value: RawBsonRef<'_>, levels: usize) -> bool {
    match value {
        RawBsonRef::Document(document) => is_deeper(document, levels),
        RawBsonRef::Array(array) => is_array_deeper(array, levels),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn levels_are_counted() {
        let mut document = rawdoc! { "_id": 1 };
        for levels in 1..=10 {
            assert!(!is_deeper(&document, levels), "{levels}");
            assert!(is_deeper(&document, levels - 1), "{levels}");
            document = match levels % 2 {
                0 => rawdoc! { "a": document },
                _ => {
                    let mut array = bson::raw::RawArrayBuf::new();
                    array.push(1);
                    let mut outer = rawdoc! { "a": document };
                    outer.append(bson::raw::cstr!("b"), array);
                    outer
                }
            };
        }
    }
}
