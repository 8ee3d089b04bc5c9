//! A copy for tests, in which some fields are masked.
//!
//! `cargo run --example redact -- SOURCE TARGET email phone` migrates from one replica set to the other. In every document that arrives, the
//! fields `email` and `phone` have a made-up value. At the end, the example looks for other values on the target. Without arguments, the
//! example starts its own servers, writes to them, and masks the names and addresses of a small shop.
//!
//! The source is wrapped, not the sink, so that everything that the run reads is masked: documents, changes, and both comparisons. The run
//! is complete if the target has exactly the masked documents.
//!
//! A mask depends on the document's `_id` and the field's name only. It stays the same as long as the document exists, whatever is written
//! to the field. So each change can be masked without the document that it belongs to, it says nothing about the value, and a unique index
//! on the field stays unique. Fields are those at the top of a document, each with everything in it, in all collections, so that no rename
//! gets around the mask.
//!
//! Not masked: `_id`s, and the options of collections and indexes, such as validators. An index that needs values of a certain type, such as
//! `2dsphere`, cannot be on a masked field. A capped collection of masked documents has room for another number of them: exclude it.
//! Time-series collections store their fields in another way, and are refused. Never [reverse](mongoferry::Summary::reverse) such a
//! migration: the masked documents would replace those of the source.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use mongoferry::bson::raw::{RawDocument, RawDocumentBuf, RawElement};
use mongoferry::bson::{Document, doc};
use mongoferry::mongodb::Client;
use mongoferry::oplog::{Command, CommandOperation, Entry, Item};
use mongoferry::order::Key;
use mongoferry::source::{PointRequest, ReadRequest, Source, SourceLayer};
use mongoferry::{
    Batch, Change, CollectionKind, Error, ErrorKind, Layered, Migration, MongoSink, MongoSource, Namespace, Operation,
    Outcome, Position, Result,
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

type AnyError = Box<dyn StdError + Send + Sync>;

/// The names of the fields to mask.
#[derive(Clone)]
struct Masks(Arc<BTreeSet<String>>);

impl Masks {
    /// Sets a field to its mask.
    fn set(&self, field: &str, id: &Key) -> Result<Edit> {
        let mask = format!("{field}-{:016x}", id.stable_hash());
        let masked = RawDocumentBuf::try_from(&doc! { field: mask });
        Ok(Edit::Set(masked.map_err(|_| failure("a field has no valid name"))?))
    }

    fn has(&self, field: &str) -> bool {
        self.0.contains(field)
    }

    fn document(&self, document: &RawDocument) -> Result<RawDocumentBuf> {
        let id = Key::of_document(document).ok_or_else(|| failure("a document has no `_id`"))?;
        edit(document, |element| {
            let field = element.key().as_str();
            Ok(match self.has(field) {
                true => self.set(field, &id)?,
                false => Edit::Keep,
            })
        })
    }

    fn batch(&self, batch: &Batch) -> Result<Batch> {
        let mut masked = Batch::new();
        for document in batch.iter() {
            masked.push(&self.document(document)?);
        }
        Ok(masked)
    }

    /// Masks the changes of an entry. Those that change nothing but what is inside of masked fields are left out.
    fn entry(&self, mut entry: Entry) -> Result<Entry> {
        let mut items = Vec::with_capacity(entry.items.len());
        for item in entry.items {
            match item {
                Item::Change(change) if change.namespace.time_series().is_some() => {
                    items.push(Item::Command(unsupported(&change)));
                }
                Item::Change(mut change) => {
                    change.write.operation = match change.write.operation {
                        Operation::Insert(document) => Operation::Insert(self.document(&document)?),
                        Operation::Replace(document) => Operation::Replace(self.document(&document)?),
                        Operation::Delta(delta) => match self.delta(&delta, &change.write.key)? {
                            Some(delta) => Operation::Delta(delta),
                            None => continue,
                        },
                        Operation::Delete => Operation::Delete,
                    };
                    items.push(Item::Change(change));
                }
                Item::Command(command) => items.push(Item::Command(command)),
            }
        }
        entry.items = items;
        Ok(entry)
    }

    /// Masks an update of either format, see [`mongoferry::oplog::delta`]. Returns `None` if nothing remains of it.
    fn delta(&self, delta: &RawDocument, id: &Key) -> Result<Option<RawDocumentBuf>> {
        let mut is_empty = true;
        let masked = edit(delta, |section| {
            let masked = match (section.key().as_str(), nested(section)?) {
                ("$v", _) => return Ok(Edit::Keep),
                ("diff", Some(diff)) => self.diff(diff, id)?,
                ("$set", Some(paths)) => self.paths(paths, id)?,
                // `$unset`: there is nothing inside of a mask that it could remove.
                _ => {
                    is_empty = false;
                    return Ok(Edit::Keep);
                }
            };
            is_empty &= masked.is_empty();
            Ok(replace(section, masked))
        })?;
        Ok((!is_empty).then_some(masked))
    }

    /// Masks the `diff` of a `$v: 2` update.
    fn diff(&self, diff: &RawDocument, id: &Key) -> Result<RawDocumentBuf> {
        edit(diff, |section| {
            let name = section.key().as_str();
            let masked = match (name, nested(section)?) {
                // Fields that get a new value, where they are or at the end of the document.
                ("u" | "i", Some(fields)) => edit(fields, |element| match element.key().as_str() {
                    field if self.has(field) => self.set(field, id),
                    _ => Ok(Edit::Keep),
                })?,
                // Fields of which a part gets new bytes.
                ("b", Some(fields)) => edit(fields, |element| match self.has(element.key().as_str()) {
                    true => Ok(Edit::Remove),
                    false => Ok(Edit::Keep),
                })?,
                // A nested diff of the field that is named after the `s`.
                (name, _) if name.strip_prefix('s').is_some_and(|field| self.has(field)) => return Ok(Edit::Remove),
                _ => return Ok(Edit::Keep),
            };
            Ok(replace(section, masked))
        })
    }

    /// Masks the paths that a `$v: 1` update sets. If a path leads inside of a masked field, the document has the field afterwards, whether
    /// or not it had it before.
    fn paths(&self, paths: &RawDocument, id: &Key) -> Result<RawDocumentBuf> {
        let mut done = BTreeSet::new();
        edit(paths, |path| {
            let path = path.key().as_str();
            let field = path.split_once('.').map_or(path, |(field, _)| field);
            match self.has(field) {
                true if done.insert(field.to_owned()) => self.set(field, id),
                true => Ok(Edit::Remove),
                false => Ok(Edit::Keep),
            }
        })
    }
}

/// What becomes of a field.
enum Edit {
    Keep,
    Remove,
    /// The field of this document takes its place.
    Set(RawDocumentBuf),
}

/// Copies a document with some of its fields edited. The others are copied byte for byte, even if their values are not valid.
fn edit(document: &RawDocument, mut edit: impl FnMut(&RawElement<'_>) -> Result<Edit>) -> Result<RawDocumentBuf> {
    let mut bytes = vec![0; 4];
    let mut start = 4;
    for element in document.iter_elements() {
        let element = element.map_err(|_| failure("a document or a change is malformed"))?;
        // The type, the name and the zero after it, the value.
        let end = start + 1 + element.key().as_str().len() + 1 + element.size();
        match edit(&element)? {
            Edit::Keep => bytes.extend_from_slice(document.as_bytes().get(start..end).unwrap_or_default()),
            Edit::Remove => {}
            Edit::Set(field) => {
                let field = field.as_bytes();
                bytes.extend_from_slice(field.get(4..field.len() - 1).unwrap_or_default());
            }
        }
        start = end;
    }
    bytes.push(0);
    let length = i32::try_from(bytes.len()).map_err(|_| failure("a masked document is too large"))?;
    bytes.splice(..4, length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).map_err(|_| failure("a masked document is malformed"))
}

/// The edit that leaves a section out if nothing remains of it.
fn replace(section: &RawElement<'_>, masked: RawDocumentBuf) -> Edit {
    if masked.is_empty() {
        return Edit::Remove;
    }
    let mut field = RawDocumentBuf::new();
    field.append(section.key(), masked);
    Edit::Set(field)
}

fn nested<'a>(element: &RawElement<'a>) -> Result<Option<&'a RawDocument>> {
    let value = element.value().map_err(|_| failure("a change is malformed"))?;
    Ok(value.as_document())
}

fn failure(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, "mask documents", message)
}

const TIME_SERIES: &str = "a time-series collection cannot be masked: exclude it";

/// Ends the run, unless the collection is not selected.
fn unsupported(change: &Change) -> Command {
    Command {
        position: change.position,
        collection: Some(change.collection),
        operation: CommandOperation::Unsupported {
            namespace: change.namespace.as_str().to_owned(),
            reason: TIME_SERIES.to_owned(),
        },
        raw: RawDocumentBuf::new(),
    }
}

/// A source whose documents and changes are masked. What it does not implement itself has no contents of documents, and is forwarded.
struct Redacted {
    inner: MongoSource,
    masks: Masks,
}

#[async_trait]
impl SourceLayer for Redacted {
    fn inner(&self) -> &dyn Source {
        &self.inner
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        let masks = self.masks.clone();
        let tail = self.inner.tail(after).await?;
        let masked = tail.map(move |entries| entries?.into_iter().map(|entry| masks.entry(entry)).collect());
        Ok(masked.boxed())
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        if request.kind == CollectionKind::TimeSeriesBuckets {
            let error = Error::new(ErrorKind::InvalidConfiguration, "mask documents", TIME_SERIES);
            return Err(error.with_context("namespace", request.namespace));
        }
        let masks = self.masks.clone();
        let batches = self.inner.read(request).await?;
        Ok(batches.map(move |batch| masks.batch(&batch?)).boxed())
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        let documents = self.inner.read_documents(request).await?;
        documents.iter().map(|document| self.masks.document(document)).collect()
    }

    /// The server would compute it over the documents as they are. Without it, the cutover compares the documents themselves.
    async fn digest(&self, _: &Namespace) -> Result<Option<String>> {
        Ok(None)
    }
}

/// Migrates, and looks for values on the target that are not masked. Once `stop_writes` has returned, nothing may write to the source any more.
async fn migrate(
    source: &str,
    target: &str,
    fields: &[String],
    stop_writes: impl Future<Output = ()>,
) -> std::result::Result<(), AnyError> {
    if fields.iter().any(|field| field == "_id" || field.contains('.')) {
        return Err("name fields at the top of a document, other than `_id`".into());
    }
    let redacted = Layered(Redacted {
        inner: MongoSource::connect(source).await?,
        masks: Masks(Arc::new(fields.iter().cloned().collect())),
    });
    let migration = Migration::builder(redacted, MongoSink::connect(target).await?).build()?;
    let run = migration.start().await?;
    run.ready_to_cut_over().await?;
    let summary = run.cutover(stop_writes).await?;
    println!("{:?}: the target has exactly the masked documents", summary.outcome);
    if summary.outcome != Outcome::Complete {
        return Err(format!("{summary:#?}").into());
    }
    let client = Client::with_uri_str(target).await?;
    for collection in &summary.collections {
        let name = &collection.target;
        let documents = client
            .database(name.database())
            .collection::<Document>(name.collection());
        for field in fields {
            let present = doc! { field: { "$exists": true } };
            let mask = format!(r"^\Q{field}\E-[0-9a-f]{{16}}$");
            let other = doc! { field: { "$exists": true, "$not": { "$regex": mask } } };
            let (present, other) = (
                documents.count_documents(present).await?,
                documents.count_documents(other).await?,
            );
            if other > 0 {
                return Err(format!("{name}: {other} values of `{field}` are not masked").into());
            }
            if present > 0 {
                println!("{name}: {present} values of `{field}` are masked");
            }
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> std::result::Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, target, fields @ ..]
            if [source, target].iter().all(|uri| uri.starts_with("mongodb")) && !fields.is_empty() =>
        {
            migrate(source, target, fields, applications_stopped()).await
        }
        _ => {
            eprintln!(
                "usage: cargo run --example redact -- SOURCE TARGET FIELD... (two connection strings, and names of fields)"
            );
            std::process::exit(2)
        }
    }
}

async fn applications_stopped() {
    println!("ready: stop the applications, then press Enter");
    // At the end of the input, nobody can press anything.
    let _ = BufReader::new(stdin()).read_line(&mut String::new()).await;
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry_testbed::workload::Writer;
    use mongoferry_testbed::{ReplicaSet, Version, workload};

    use super::*;

    pub async fn run() -> std::result::Result<(), AnyError> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        let client = old.client().await?;
        workload::load(&client, 5000, 1).await?;
        let writer = Writer::start(&client, 2).await?;
        let fields = ["name", "email", "address"].map(str::to_owned);
        migrate(&old.uri(), &new.uri(), &fields, async { drop(writer.stop().await) }).await
    }
}
