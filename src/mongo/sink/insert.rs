//! Inserts documents that are expected to be new.

use bson::raw::RawDocument;

use super::connection::TargetConnection;
use super::replace::{Shape, Stored, shape_of, store_all, store_one, store_refused};
use super::write_commands::{Items, Verb, send};
use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::writer::RawWriter;
use crate::model::{Batch, Namespace};
use crate::order::Key;
use crate::sink::{Refusal, RefusalReason};

/// Documents of ordinary shape, sent with consecutive `insert` commands.
struct Inserts<'a> {
    documents: &'a [&'a RawDocument],
    whole: Option<&'a [u8]>,
    ordered: bool,
}

impl Items for Inserts<'_> {
    fn verb(&self) -> Verb {
        Verb::Insert
    }

    fn is_ordered(&self) -> bool {
        self.ordered
    }

    fn count(&self) -> usize {
        self.documents.len()
    }

    fn size(&self, item: usize) -> usize {
        self.documents.get(item).map_or(0, |document| document.as_bytes().len())
    }

    fn write(&self, item: usize, name: &str, command: &mut RawWriter) {
        if let Some(document) = self.documents.get(item) {
            command.document(name, document);
        }
    }

    fn whole(&self) -> Option<&[u8]> {
        self.whole
    }
}

/// Inserts a batch in order; see [`Sink::insert`](crate::Sink::insert).
///
/// # Errors
/// Any error that concerns more than the documents.
pub(super) async fn insert_batch(
    target: &TargetConnection,
    namespace: &Namespace,
    batch: &Batch,
) -> Result<Vec<Refusal>> {
    let documents: Vec<&RawDocument> = batch.iter().collect();
    let refused = insert_all(
        target,
        "insert documents",
        namespace,
        &documents,
        Some(batch.as_array().as_bytes()),
    )
    .await?;
    Ok(refused
        .into_iter()
        .map(|(index, reason)| Refusal { index, reason })
        .collect())
}

/// Inserts documents in order. `whole` is the array of all of them, if there is one. The result is by index in `documents`.
///
/// An `_id` exists already if, for example, the same documents were sent before and the answer was lost. After the first such document, the
/// inserts no longer stop at existing documents, which are replaced afterwards. New documents are still inserted in order, because a capped
/// collection keeps that order.
///
/// # Errors
/// Any error that concerns more than the documents.
pub(super) async fn insert_all(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    documents: &[&RawDocument],
    whole: Option<&[u8]>,
) -> Result<Vec<(usize, RefusalReason)>> {
    target.unique_names().write(namespace, documents.iter().copied());
    let mut refused = Vec::new();
    let mut first = 0;
    let mut ordered = true;
    while let Some(rest) = documents.get(first..).filter(|rest| !rest.is_empty()) {
        let ordinary = rest
            .iter()
            .take_while(|document| shape_of(document) == Shape::Ordinary)
            .count();
        let Some((run, _)) = rest.split_at_checked(ordinary) else {
            break;
        };
        if run.is_empty() {
            if let Some(document) = rest.first() {
                let outcome = match shape_of(document) {
                    // A document without `_id` has no key to store it by.
                    Shape::Misplaced => Some(misplaced()),
                    _ => {
                        let key = key_of(operation, document)?;
                        let item = Stored {
                            write: first,
                            key: &key,
                            document,
                        };
                        store_one(target, operation, namespace, item).await?
                    }
                };
                refused.extend(outcome.map(|reason| (first, reason)));
            }
            first += 1;
            continue;
        }
        let inserts = Inserts {
            documents: run,
            whole: whole.filter(|_| run.len() == documents.len()),
            ordered,
        };
        let outcome = send(target, operation, namespace, &inserts).await?;
        let (known, other): (Vec<_>, Vec<_>) = outcome.errors.into_iter().partition(|error| error.on_id);
        ordered = ordered && known.is_empty();
        for error in other {
            let Some(document) = run.get(error.index) else { continue };
            let write = first + error.index;
            let key = key_of(operation, document)?;
            let item = Stored {
                write,
                key: &key,
                document,
            };
            refused.extend(
                store_refused(target, operation, namespace, item, error)
                    .await?
                    .map(|reason| (write, reason)),
            );
        }
        let keys = known
            .iter()
            .filter_map(|error| run.get(error.index))
            .map(|document| key_of(operation, document))
            .collect::<Result<Vec<_>>>()?;
        let replacements: Vec<Stored<'_>> = known
            .iter()
            .zip(&keys)
            .filter_map(|(error, key)| {
                run.get(error.index).map(|document| Stored {
                    write: first + error.index,
                    key,
                    document,
                })
            })
            .collect();
        refused.extend(store_all(target, operation, namespace, &replacements).await?);
        first += outcome.stopped.unwrap_or(run.len());
    }
    refused.sort_by_key(|(index, _)| *index);
    Ok(refused)
}

fn misplaced() -> RefusalReason {
    RefusalReason::Other {
        code: 0,
        message: "the document does not begin with its _id; a server would move it there".to_owned(),
    }
}

fn key_of(operation: &'static str, document: &RawDocument) -> Result<Key> {
    Key::of_document(document)
        .ok_or_else(|| Error::new(ErrorKind::Protocol, operation, "a document's _id cannot be read"))
}
