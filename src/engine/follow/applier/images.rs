//! Changes that rules cannot follow: the document is read from the source instead, and takes the form that the rules give it.
//!
//! It is read at the position of the changes, so that the target is at one position and can be compared. If the source has no snapshot of
//! that position any more, the document is refetched as it is now.

use bson::raw::RawDocumentBuf;

use super::refetched::Refetched;
use super::*;
use crate::compare::by_id::{self, Portions};
use crate::model::Namespace;
use crate::rules::{DocumentRule, ShapedDelta};
use crate::runtime::shaping::Form;
use crate::source::{PointRequest, ReadMode};

/// Maximum number of documents, and their approximate number of bytes, that are read from the source at once. As many are written meanwhile.
const IMAGES: usize = 500;
const IMAGES_BYTES: usize = 1 << 20;

/// After a refused snapshot, documents are read as they are now for this long.
const NO_SNAPSHOTS: Duration = Duration::from_millis(500);

/// Documents of one collection to read in place of their changes.
pub(super) struct Images {
    rule: Option<Arc<DocumentRule>>,
    /// Position of the last change in the batch.
    newest: Position,
    /// Position of the last change of each document.
    documents: HashMap<Key, Position>,
    /// Documents that the batch has inserted on the source and that the rules leave out. The target has none of them.
    left_out: HashSet<Key>,
}

/// What to do with a write that has the form of its document on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Apply it.
    Apply,
    /// Nothing.
    Nothing,
    /// Read the document.
    Image,
    /// A new document is left out. Its delete has nothing to do, unless an earlier run may have written the document.
    LeaveOut,
}

impl Images {
    pub fn new(rule: Option<Arc<DocumentRule>>, newest: Position) -> Self {
        Self {
            rule,
            newest,
            documents: HashMap::new(),
            left_out: HashSet::new(),
        }
    }

    pub fn has_rule(&self) -> bool {
        self.rule.is_some()
    }

    pub fn rule(&self) -> Option<Arc<DocumentRule>> {
        self.rule.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.documents.contains_key(key)
    }

    /// Notes that a document has to be read after its change at `position`.
    pub fn add(&mut self, key: Key, position: Position) {
        self.documents.insert(key, position);
    }

    /// Notes that a document need not be read.
    pub fn remove(&mut self, key: &Key) {
        self.documents.remove(key);
    }

    /// Returns `true` if the image of the document will contain this write. A write of a whole document needs no image.
    pub fn cover(&mut self, write: &Write, position: Position) -> bool {
        match write.operation {
            Operation::Delta(_) => match self.documents.get_mut(&write.key) {
                Some(at) => {
                    *at = position;
                    true
                }
                None => false,
            },
            _ => {
                self.documents.remove(&write.key);
                false
            }
        }
    }

    /// Notes that the target has no document of this key.
    pub fn leave_out(&mut self, key: Key) {
        self.left_out.insert(key);
    }

    /// Returns `true` if a write has nothing to do, because its document is left out.
    pub fn is_idle(&mut self, write: &Write) -> bool {
        match write.operation {
            Operation::Delete | Operation::Delta(_) => self.left_out.contains(&write.key),
            Operation::Insert(_) | Operation::Replace(_) => {
                self.left_out.remove(&write.key);
                false
            }
        }
    }
}

/// Gives a write the form that its document has on the target. Returns what to do with it. `any_failed` says whether rules have failed for
/// documents of the namespace.
///
/// # Errors
/// [`Rule`](ErrorKind::Rule) if a rule failed and the run has to end then.
pub(super) fn shape(
    shaping: &Shaping,
    rule: &DocumentRule,
    (namespace, any_failed): (&Namespace, bool),
    write: &mut Write,
    outcomes: &mut Outcomes,
) -> Result<Step> {
    let is_insert = matches!(write.operation, Operation::Insert(_));
    let document = match &write.operation {
        Operation::Insert(document) | Operation::Replace(document) => document,
        Operation::Delta(delta) => {
            return Ok(match rule.delta(namespace, delta) {
                ShapedDelta::Same => Step::Apply,
                ShapedDelta::Changed(changed) => {
                    write.operation = Operation::Delta(changed);
                    Step::Apply
                }
                ShapedDelta::Nothing => Step::Nothing,
                ShapedDelta::Image => Step::Image,
            });
        }
        Operation::Delete => {
            if any_failed || !outcomes.is_empty() {
                outcomes.succeeded(write.key.clone());
            }
            return Ok(Step::Apply);
        }
    };
    let form = shaping.form(rule, namespace, document)?;
    match &form {
        Form::Failed(failed) => outcomes.failed(write.key.clone(), failed.clone(), document),
        _ if any_failed || !outcomes.is_empty() => outcomes.succeeded(write.key.clone()),
        _ => {}
    }
    let is_absent = matches!(form, Form::Absent);
    match form {
        Form::Same => {}
        Form::Changed(changed) => {
            write.operation = match write.operation {
                Operation::Insert(_) => Operation::Insert(changed),
                _ => Operation::Replace(changed),
            }
        }
        Form::Absent | Form::Failed(_) => write.operation = Operation::Delete,
    }
    Ok(if is_insert && is_absent {
        Step::LeaveOut
    } else {
        Step::Apply
    })
}

impl Applier {
    /// Whether a document without a counterpart on the target is one that the rules leave out.
    pub(super) fn may_be_left_out(&self, target: &CollectionMapping) -> bool {
        self.shaping.of(&target.namespace).is_some()
            && !self.shaping.any_failed(&target.namespace)
            // Documents that the target refused are missing as well.
            && !self.in_source_order.contains(&target.id)
    }

    /// Writes the images of documents as of the last of their changes.
    pub(super) async fn write_images(&mut self, target: &Arc<CollectionMapping>, images: Images) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        let at = images.documents.values().max().copied().unwrap_or(Position::ZERO);
        let newest = images.newest;
        let (mut keys, last): (Vec<Key>, HashSet<Key>) = {
            let last = images.documents.iter().filter(|(_, position)| **position == newest);
            let last = last.map(|(key, _)| key.clone()).collect();
            (images.documents.into_keys().collect(), last)
        };
        keys.sort_unstable();
        // A read at the position of one change is not exact for `_id`s that a collation takes for the same.
        let is_collated = target.kind == CollectionKind::Unordered && keys.iter().any(Key::is_collated);
        if is_collated || Instant::now() < self.images_exact_from {
            return self.refetch(target, keys).await;
        }
        let mut portions = Portions::of(&keys, IMAGES_BYTES, 0)
            .at_most(IMAGES)
            .begin_with(IMAGES / 4);
        let source = Arc::clone(&self.source);
        let mut following = read(&*source, target, portions.next(), at).await;
        while let Some((keys, documents)) = following.take() {
            let documents = match documents {
                Ok(documents) => documents,
                Err(error) if error.kind() == ErrorKind::SnapshotUnavailable => {
                    self.images_exact_from = Instant::now() + NO_SNAPSHOTS;
                    let mut rest = keys.to_vec();
                    rest.extend_from_slice(portions.rest());
                    return self.refetch(target, rest).await;
                }
                Err(error) => return Err(error.with_context("namespace", &target.namespace)),
            };
            portions.took(keys.len(), by_id::bytes_of(&documents));
            // The source reads the next ones while the target writes these.
            let reading = read(&*source, target, portions.next(), at);
            let (written, read) = futures::join!(self.write_read(target, keys, documents, at, &last), reading);
            written?;
            following = read;
        }
        Ok(())
    }

    /// Writes documents that were read at a position. Further changes of those in `last` may have the same position.
    async fn write_read(
        &mut self,
        target: &Arc<CollectionMapping>,
        keys: &[Key],
        documents: Vec<RawDocumentBuf>,
        at: Position,
        last: &HashSet<Key>,
    ) -> Result<()> {
        for key in keys {
            // The changes of a transaction have one position, and more of them may follow in the next batch.
            if last.contains(key) {
                let refetched = Refetched {
                    at,
                    read_until: at,
                    exact: true,
                };
                self.refetched.insert((target.id, key.clone()), refetched).await?;
            }
            // The image contains the changes that waited.
            self.refused.remove(&(target.id, key.clone()));
        }
        let writes = images_of(keys, documents);
        let writes = writes.into_iter().map(|write| (at, write)).collect();
        Box::pin(self.apply_group(target, writes)).await
    }
}

/// Reads documents at a position, if any are left to read. Returns their keys with them.
async fn read<'a>(
    source: &dyn Source,
    target: &CollectionMapping,
    keys: Option<&'a [Key]>,
    at: Position,
) -> Option<(&'a [Key], Result<Vec<RawDocumentBuf>>)> {
    let keys = keys?;
    let request = PointRequest {
        namespace: &target.namespace,
        keys,
        at,
        mode: ReadMode::Snapshot,
    };
    Some((keys, source.read_documents(request).await))
}

/// The writes that make documents what was read of them. Deletes come first: they may free keys of unique indexes, and to a collation, another
/// document may have the same `_id` as one that is gone.
pub(super) fn images_of(keys: &[Key], documents: Vec<RawDocumentBuf>) -> Vec<Write> {
    let mut found: HashMap<Key, Operation> = HashMap::with_capacity(documents.len());
    for document in documents {
        if let Some(key) = Key::of_document(&document) {
            found.insert(key, Operation::Replace(document));
        }
    }
    let mut writes: Vec<Write> = keys
        .iter()
        .map(|key| Write {
            key: key.clone(),
            operation: found.remove(key).unwrap_or(Operation::Delete),
        })
        .collect();
    writes.sort_by_key(|write| !matches!(write.operation, Operation::Delete));
    writes
}
