//! A collection of the in-memory source, with all versions of its documents.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bson::Uuid;
use bson::raw::RawDocumentBuf;

use crate::model::{Batch, CollectionKind, Namespace, Position, Range};
use crate::order::Key;
use crate::source::ReadMode;
use crate::test_util::Random;

/// A collection. A dropped collection stays here, for reads in the past.
pub(super) struct Table {
    pub(super) id: Uuid,
    pub(super) kind: CollectionKind,
    pub(super) options: RawDocumentBuf,
    pub(super) indexes: Vec<RawDocumentBuf>,
    /// The names of the collection, each valid from its position on. The last one is `None` once the collection is dropped. Never empty.
    names: Vec<(Position, Option<Namespace>)>,
    documents: BTreeMap<Key, Vec<Version>>,
    next_record: u64,
}

struct Version {
    position: Position,
    /// Place in natural order. It stays the same while the document exists.
    record: u64,
    /// `None` for a deletion.
    document: Option<RawDocumentBuf>,
}

/// Which versions a read sees.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) at: Position,
    pub(super) mode: ReadMode,
}

/// Maximum size of a batch.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) documents: usize,
    pub(super) bytes: usize,
}

impl Limits {
    pub(super) fn reached(self, batch: &Batch) -> bool {
        batch.len() >= self.documents.max(1) || (!batch.is_empty() && batch.size_in_bytes() >= self.bytes)
    }
}

impl Table {
    pub(super) fn new(
        id: Uuid,
        position: Position,
        namespace: Namespace,
        kind: CollectionKind,
        options: RawDocumentBuf,
    ) -> Self {
        Self {
            id,
            kind,
            options,
            indexes: Vec::new(),
            names: vec![(position, Some(namespace))],
            documents: BTreeMap::new(),
            next_record: 0,
        }
    }

    /// Its current name; `None` if it is dropped.
    pub(super) fn name(&self) -> Option<&Namespace> {
        self.names.last()?.1.as_ref()
    }

    /// The position at which it got its current name, or was dropped.
    pub(super) fn named_at(&self) -> Position {
        self.names.last().map_or(Position::ZERO, |(position, _)| *position)
    }

    pub(super) fn name_at(&self, at: Position) -> Option<&Namespace> {
        let count = self.names.partition_point(|(position, _)| *position <= at);
        self.names[..count].last()?.1.as_ref()
    }

    pub(super) fn set_name(&mut self, position: Position, name: Option<Namespace>) {
        self.names.push((position, name));
    }

    /// Forgets everything after the position. A table that did not exist then is left without names.
    pub(super) fn restore(&mut self, at: Position) {
        self.names.retain(|(position, _)| *position <= at);
        for versions in self.documents.values_mut() {
            versions.retain(|version| version.position <= at);
        }
        self.documents.retain(|_, versions| !versions.is_empty());
    }

    pub(super) fn newest(&self, key: &Key) -> Option<&RawDocumentBuf> {
        self.documents.get(key)?.last()?.document.as_ref()
    }

    /// The current documents with their keys, in `_id` order.
    pub(super) fn live_documents(&self) -> impl Iterator<Item = (&Key, &RawDocumentBuf)> {
        self.documents
            .iter()
            .filter_map(|(key, versions)| Some((key, versions.last()?.document.as_ref()?)))
    }

    /// The documents at the position: in natural order for capped collections, otherwise in `_id` order.
    pub(super) fn documents_at(&self, at: Position) -> Vec<RawDocumentBuf> {
        let mut found: Vec<_> = self
            .documents
            .values()
            .filter_map(|versions| {
                let count = versions.partition_point(|version| version.position <= at);
                let version = versions[..count].last()?;
                Some((version.record, version.document.clone()?))
            })
            .collect();
        if self.kind == CollectionKind::Capped {
            found.sort_by_key(|(record, _)| *record);
        }
        found.into_iter().map(|(_, document)| document).collect()
    }

    /// The documents after `after` in `_id` order, up to the limits, and the last key that was examined. The batch is empty at the end.
    pub(super) fn read_range(
        &self,
        random: &mut Random,
        range: &Range,
        after: Option<&Key>,
        view: View,
        limits: Limits,
    ) -> (Batch, Option<Key>) {
        let mut batch = Batch::new();
        let mut last = None;
        let lower = after.or(range.lower.as_ref());
        if let (Some(lower), Some(upper)) = (lower, range.upper.as_ref())
            && lower >= upper
        {
            return (batch, last);
        }
        let bounds = (
            lower.map_or(Bound::Unbounded, Bound::Excluded),
            range.upper.as_ref().map_or(Bound::Unbounded, Bound::Included),
        );
        for (key, versions) in self.documents.range::<Key, _>(bounds) {
            if limits.reached(&batch) {
                break;
            }
            last = Some(key.clone());
            if let Some(document) = view
                .choose(random, versions)
                .and_then(|version| version.document.as_ref())
            {
                batch.push(document);
            }
        }
        (batch, last)
    }

    /// The documents of a range in natural order.
    pub(super) fn read_natural(&self, random: &mut Random, range: &Range, view: View) -> VecDeque<RawDocumentBuf> {
        let mut found = Vec::new();
        for (key, versions) in &self.documents {
            if range.contains(key)
                && let Some(version) = view.choose(random, versions)
                && let Some(document) = &version.document
            {
                found.push((version.record, document.clone()));
            }
        }
        found.sort_by_key(|(record, _)| *record);
        found.into_iter().map(|(_, document)| document).collect()
    }

    pub(super) fn read_key(&self, random: &mut Random, key: &Key, view: View) -> Option<RawDocumentBuf> {
        view.choose(random, self.documents.get(key)?)?.document.clone()
    }

    /// Adds a newest version.
    pub(super) fn put(&mut self, position: Position, key: Key, document: Option<RawDocumentBuf>) {
        let versions = self.documents.entry(key).or_default();
        let record = match versions.last() {
            Some(version) if version.document.is_some() => version.record,
            _ => {
                self.next_record += 1;
                self.next_record
            }
        };
        versions.push(Version {
            position,
            record,
            document,
        });
    }
}

impl View {
    /// The version to read. A snapshot sees the version at the position; an interval read sees that one or a random later one.
    fn choose<'a>(&self, random: &mut Random, versions: &'a [Version]) -> Option<&'a Version> {
        let count = versions.partition_point(|version| version.position <= self.at);
        let later = match self.mode {
            ReadMode::Snapshot => 0,
            ReadMode::Interval => random.below(versions.len() - count + 1),
        };
        versions[..count + later].last()
    }
}
