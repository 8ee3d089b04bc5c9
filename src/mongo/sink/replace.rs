//! Stores whole documents byte for byte.

use bson::raw::RawDocument;

use super::by_id::{self, Part};
use super::connection::{TargetConnection, WriteError};
use super::names::is_empty_timestamp;
use super::write_commands::{Items, Verb, send};
use crate::error::{ErrorKind, Result};
use crate::model::raw::writer::RawWriter;
use crate::model::{CollectionKind, Namespace};
use crate::order::{Element, Elements, Key, element_type};
use crate::sink::RefusalReason;

/// A document to insert, or to replace the one with its `_id`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    /// Index of the write, for the result.
    pub write: usize,
    pub key: &'a Key,
    pub document: &'a RawDocument,
}

/// How a document can be stored unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The server does not change it, but some versions may refuse it.
    Ordinary,
    /// It contains a `Timestamp(0, 0)`, for which an insert or replacement would substitute the current time.
    EmptyTimestamp,
    /// The server would move its `_id` to the front, or add one.
    Misplaced,
}

/// Determines the shape from the names and types of the document's top-level fields. Nothing is decoded.
pub(super) fn shape_of(document: &RawDocument) -> Shape {
    let mut shape = Shape::Misplaced;
    for (at, element) in Elements::of(document.as_bytes()).enumerate() {
        match element {
            Element::Field { name, .. } if at == 0 => {
                if name != b"_id" {
                    return Shape::Misplaced;
                }
                shape = Shape::Ordinary;
            }
            Element::Field { value, .. } => {
                if is_empty_timestamp(value) {
                    return Shape::EmptyTimestamp;
                }
            }
            Element::Malformed(_) => {}
        }
    }
    shape
}

/// Replacements with `update`. Each is an upsert.
struct Replacements<'a> {
    items: &'a [Stored<'a>],
    /// Whether the update is a pipeline with the document as a literal, which the server does not change.
    as_literal: bool,
}

impl Items for Replacements<'_> {
    fn verb(&self) -> Verb {
        Verb::Update
    }

    fn count(&self) -> usize {
        self.items.len()
    }

    fn size(&self, item: usize) -> usize {
        self.items.get(item).map_or(0, |item| {
            item.document.as_bytes().len() + item.key.document_bytes().len() + 64
        })
    }

    fn write(&self, item: usize, name: &str, command: &mut RawWriter) {
        let Some(item) = self.items.get(item) else { return };
        command.open_document(name);
        command_filter(command, item.key);
        if self.as_literal {
            command.open_array("u").open_document("0").open_document("$replaceWith");
            command.document("$literal", item.document);
            command.close().close().close();
        } else {
            command.document("u", item.document);
        }
        command.boolean("upsert", true).close();
    }
}

/// Writes the filter `q` for one `_id`. Without an explicit comparison, a regular expression or array would be matched against.
pub(super) fn command_filter(command: &mut RawWriter, key: &Key) {
    if needs_comparison(key) {
        command.open_document("q").open_document("_id");
        command.value("$eq", key.as_raw());
        command.close().close();
    } else {
        command.value_bytes("q", element_type::DOCUMENT, key.document_bytes());
    }
}

/// Whether the document, together with its `_id` for the filter, does not fit into one command.
fn is_oversized(item: &Stored<'_>) -> bool {
    const MOST_BYTES: usize = 16 * 1024 * 1024;
    item.key.document_bytes().len() + item.document.as_bytes().len() > MOST_BYTES
}

/// Whether the bare value in a filter or within `$in` would not mean the value itself.
pub(super) fn needs_comparison(key: &Key) -> bool {
    matches!(
        key.as_raw().element_type(),
        element_type::REGEX | element_type::ARRAY | element_type::UNDEFINED
    )
}

/// Replaces documents, and inserts those that are missing. Returns the writes that the target refused.
///
/// # Errors
/// Any error that concerns more than the documents.
pub(super) async fn store_all(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    items: &[Stored<'_>],
) -> Result<Vec<(usize, RefusalReason)>> {
    target
        .unique_names()
        .write(namespace, items.iter().map(|item| item.document));
    let (ordinary, special): (Vec<_>, Vec<_>) = items
        .iter()
        .partition(|item| shape_of(item.document) == Shape::Ordinary && !is_oversized(item));
    let mut refused = Vec::new();
    let outcome = send(
        target,
        operation,
        namespace,
        &Replacements {
            items: &ordinary,
            as_literal: false,
        },
    )
    .await?;
    for error in outcome.errors {
        let Some(item) = ordinary.get(error.index) else {
            continue;
        };
        if let Some(reason) = store_refused(target, operation, namespace, *item, error).await? {
            refused.push((item.write, reason));
        }
    }
    for item in special {
        if let Some(reason) = store_one(target, operation, namespace, item).await? {
            refused.push((item.write, reason));
        }
    }
    Ok(refused)
}

/// Replaces or inserts one document in whatever way stores it exactly.
///
/// # Errors
/// Any error that concerns more than the document.
pub(super) async fn store_one(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    item: Stored<'_>,
) -> Result<Option<RefusalReason>> {
    match shape_of(item.document) {
        // This command contains the `_id` only once.
        Shape::Ordinary if is_oversized(&item) => {
            let refused = apply_as_logged(target, operation, namespace, item.document).await?;
            Ok(refused.map(|message| RefusalReason::Other { code: 0, message }))
        }
        Shape::Ordinary => match replace(target, operation, namespace, item, false).await? {
            Some(error) => store_refused(target, operation, namespace, item, error).await,
            None => Ok(None),
        },
        Shape::EmptyTimestamp => {
            // The server logs the new content of a document as a replacement, unless the difference is smaller. The primary stores it as it
            // is, but secondaries put the current time in place of empty timestamps, and so would each member after a crash. The insert of a
            // new document is logged and applied as it is. That also avoids the comparison with a document in which a name occurs twice,
            // which aborts 5.0.4 and 6.0.5.
            let key = &[item.key];
            let found = by_id::find(target, namespace, CollectionKind::Plain, key, Part::Whole).await?;
            match found.first() {
                Some(found) if found.as_bytes() == item.document.as_bytes() => return Ok(None),
                Some(_) => delete(target, operation, namespace, item.key).await?,
                None => {}
            }
            let error = match replace(target, operation, namespace, item, true).await? {
                Some(error) if is_id_changed(&error) => {
                    delete(target, operation, namespace, item.key).await?;
                    replace(target, operation, namespace, item, true).await?
                }
                Some(error) if error.on_id => replace(target, operation, namespace, item, true).await?,
                other => other,
            };
            Ok(error.map(reason_of))
        }
        Shape::Misplaced => Ok(Some(RefusalReason::Other {
            code: 0,
            message: "the document does not begin with its _id; a server would move it there".to_owned(),
        })),
    }
}

/// Stores one document of ordinary shape after its replacement or insert has failed.
///
/// # Errors
/// Any error that concerns more than the document.
pub(super) async fn store_refused(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    item: Stored<'_>,
    error: WriteError,
) -> Result<Option<RefusalReason>> {
    let error = match error {
        // Two upserts raced to create the document. It exists now.
        error if error.on_id => match replace(target, operation, namespace, item, false).await? {
            Some(error) => error,
            None => return Ok(None),
        },
        error => error,
    };
    if is_duplicate(&error) {
        return Ok(Some(reason_of(error)));
    }
    if is_id_changed(&error) {
        // The existing document has an `_id` that is equal only by the collection's collation.
        delete(target, operation, namespace, item.key).await?;
        let error = replace(target, operation, namespace, item, false).await?;
        return Ok(error.map(reason_of));
    }
    // `applyOps` accepts what older servers refuse from clients: names with a `$`, deeper nesting, any `_id`.
    match apply_as_logged(target, operation, namespace, item.document).await? {
        None => Ok(None),
        Some(_) => Ok(Some(reason_of(error))),
    }
}

async fn replace(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    item: Stored<'_>,
    as_literal: bool,
) -> Result<Option<WriteError>> {
    let items = [item];
    let replacement = Replacements {
        items: &items,
        as_literal,
    };
    let outcome = send(target, operation, namespace, &replacement).await?;
    Ok(outcome.errors.into_iter().next())
}

async fn delete(target: &TargetConnection, operation: &'static str, namespace: &Namespace, key: &Key) -> Result<()> {
    let mut command = RawWriter::with_capacity(256);
    command.string("delete", namespace.collection());
    command.open_document("writeConcern").int32("w", 1).close();
    command.open_array("deletes").open_document("0");
    command_filter(&mut command, key);
    command.int32("limit", 1);
    let command = command.finish();
    target
        .write(operation, namespace.database(), || command.clone())
        .await?;
    Ok(())
}

/// Writes the document as a secondary does that reads the insert in the oplog: a document with the same `_id` is replaced. Returns the
/// error message, if there is one.
async fn apply_as_logged(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    document: &RawDocument,
) -> Result<Option<String>> {
    let mut command = RawWriter::with_capacity(document.as_bytes().len() + 256);
    command.open_array("applyOps").open_document("0");
    command
        .string("op", "i")
        .string("ns", namespace.as_str())
        .document("o", document);
    command.close().close();
    // The reply does not state its term. Once a majority has the write, the term does not matter.
    command.open_document("writeConcern").string("w", "majority").close();
    let command = command.finish();
    match target.write(operation, "admin", || command.clone()).await {
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::Server | ErrorKind::Unauthorized) => Ok(Some(error.report())),
        Err(error) => Err(error),
    }
}

fn is_duplicate(error: &WriteError) -> bool {
    matches!(error.code, 11000 | 11001 | 12582)
}

/// Whether the error is ImmutableField.
fn is_id_changed(error: &WriteError) -> bool {
    error.code == 66
}

/// Returns the reason to report for a failed write.
pub(super) fn reason_of(error: WriteError) -> RefusalReason {
    if is_duplicate(&error) {
        RefusalReason::DuplicateKey(error.message)
    } else {
        RefusalReason::Other {
            code: error.code,
            message: error.message,
        }
    }
}
