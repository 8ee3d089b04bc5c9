//! State of the in-memory replica set: its history, and every version of every document.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{DateTime, Uuid};
use tokio::time::Instant;

use super::NameResolution;
use super::table::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Accounts, Change, Collection, CollectionKind, Namespace, Operation, Position, Write};
use crate::oplog::{Entry, Item, delta};
use crate::order::Key;
use crate::source::{ReadMode, WriteLoad};
use crate::test_util::Random;

/// Approximate size in bytes of an oplog entry without its documents.
const ENTRY_OVERHEAD: usize = 120;

pub(super) struct State {
    pub(super) random: Random,
    pub(super) term: i64,
    /// Seconds by which the clock is ahead of the machine's.
    pub(super) skipped: u32,
    /// Every position ever assigned, in order.
    positions: Vec<Position>,
    /// The entries a tail can still reach. Never empty.
    history: VecDeque<Recorded>,
    pub(super) tables: Vec<Table>,
    pub(super) views: BTreeMap<Namespace, RawDocumentBuf>,
    open: BTreeMap<u64, Open>,
    next_transaction: u64,
    pub(super) snapshots: bool,
    pub(super) snapshot_window: Option<usize>,
    pub(super) snapshot_floor: Position,
    pub(super) history_window: Option<usize>,
    pub(super) name_resolution: NameResolution,
    pub(super) batch_documents: usize,
    pub(super) batch_entries: usize,
    /// How often all tails have been disconnected.
    pub(super) disconnects: u64,
    pub(super) writes_blocked: bool,
    pub(super) write_load: Option<WriteLoad>,
    pub(super) accounts: Accounts,
    /// The server version that the source reports.
    pub(super) version: [u32; 3],
}

/// An open transaction.
struct Open {
    /// Position of its first entry.
    first: Position,
    /// Position of the entry before that.
    before: Position,
    since: Instant,
}

struct Recorded {
    entry: Entry,
    /// For a commit: the position of the transaction's first entry.
    began: Option<Position>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        let mut state = Self {
            random: Random::new(seed),
            term: 1,
            skipped: 0,
            positions: Vec::new(),
            history: VecDeque::new(),
            tables: Vec::new(),
            views: BTreeMap::new(),
            open: BTreeMap::new(),
            next_transaction: 0,
            snapshots: true,
            snapshot_window: None,
            snapshot_floor: Position::ZERO,
            history_window: None,
            name_resolution: NameResolution::AtPosition,
            batch_documents: usize::MAX,
            batch_entries: 100,
            disconnects: 0,
            writes_blocked: false,
            write_load: None,
            accounts: Accounts::default(),
            version: [6, 0, 0],
        };
        let first = state.next_position();
        state.record(first, Vec::new());
        state
    }

    pub(super) fn newest(&self) -> Position {
        self.positions.last().copied().unwrap_or(Position::ZERO)
    }

    pub(super) fn oldest(&self) -> Position {
        self.history
            .front()
            .map_or(Position::ZERO, |recorded| recorded.entry.position)
    }

    pub(super) fn start(&self) -> Position {
        self.resume_at(self.newest())
    }

    fn resume_at(&self, position: Position) -> Position {
        self.open
            .values()
            .map(|open| open.before)
            .min()
            .map_or(position, |before| before.min(position))
    }

    /// The position of the next entry. It is in the clock's current second, or in the newest entry's second if the clock is behind that.
    pub(super) fn next_position(&self) -> Position {
        let newest = self.newest();
        let now = u32::try_from(DateTime::now().timestamp_millis() / 1000).unwrap_or(u32::MAX);
        let now = now.saturating_add(self.skipped);
        if now > newest.time {
            Position {
                time: now,
                increment: 1,
                term: self.term,
            }
        } else {
            Position {
                time: newest.time,
                increment: newest.increment + 1,
                term: self.term,
            }
        }
    }

    /// Appends an entry at `position`, which [`Self::next_position`] has returned.
    pub(super) fn record(&mut self, position: Position, items: Vec<Item>) {
        self.record_commit(position, items, None);
    }

    /// Appends the entry of a change of users or roles.
    pub(super) fn record_change_of_users(&mut self) -> Position {
        let position = self.next_position();
        self.record(position, Vec::new());
        if let Some(recorded) = self.history.back_mut() {
            recorded.entry.users_changed = true;
        }
        position
    }

    fn record_commit(&mut self, position: Position, items: Vec<Item>, began: Option<Position>) {
        let bytes = items.iter().map(size_of_item).sum::<usize>() + ENTRY_OVERHEAD;
        self.positions.push(position);
        self.history.push_back(Recorded {
            entry: Entry {
                position,
                resume: self.resume_at(position),
                wall: DateTime::now(),
                items,
                bytes,
                continues: false,
                users_changed: false,
            },
            began,
        });
        self.trim_history();
    }

    pub(super) fn trim_history(&mut self) {
        if let Some(window) = self.history_window {
            while self.history.len() > window.max(1) {
                self.history.pop_front();
            }
        }
    }

    /// Forgets everything after the position.
    pub(super) fn restore(&mut self, at: Position) {
        self.positions.retain(|position| *position <= at);
        self.history.retain(|recorded| recorded.entry.position <= at);
        self.open.retain(|_, open| open.first <= at);
        for table in &mut self.tables {
            table.restore(at);
        }
        self.tables.retain(|table| table.named_at() > Position::ZERO);
        self.term += 1;
        self.disconnects += 1;
        if self.history.is_empty() {
            let position = self.next_position();
            self.record(position, Vec::new());
        }
    }

    /// Begins a transaction with a separate entry that has no effect yet. Returns the transaction's number and the entry's position.
    pub(super) fn begin(&mut self) -> (u64, Position) {
        let before = self.newest();
        let first = self.next_position();
        let number = self.next_transaction;
        self.next_transaction += 1;
        let since = Instant::now();
        self.open.insert(number, Open { first, before, since });
        self.record(first, Vec::new());
        (number, first)
    }

    /// How long each open transaction has been open.
    pub(super) fn open_for(&self) -> Vec<Duration> {
        self.open.values().map(|open| open.since.elapsed()).collect()
    }

    pub(super) fn abort(&mut self, number: u64) {
        if self.open.remove(&number).is_some() {
            let position = self.next_position();
            self.record(position, Vec::new());
        }
    }

    /// Applies all writes at one position, or none. `transaction` is the number of the open transaction to commit.
    pub(super) fn write(&mut self, writes: Vec<(Namespace, Write)>, transaction: Option<u64>) -> Result<Position> {
        if self.writes_blocked {
            return Err(Error::new(ErrorKind::Server, "write", "writes of clients are blocked"));
        }
        for (namespace, write) in &writes {
            if self.live(namespace).is_none() && matches!(write.operation, Operation::Insert(_)) {
                self.create(namespace, RawDocumentBuf::new())?;
            }
        }
        // The new state of each document, computed before anything is changed.
        let mut staged: BTreeMap<(usize, Key), Option<RawDocumentBuf>> = BTreeMap::new();
        let mut changes = Vec::with_capacity(writes.len());
        let position = self.next_position();
        for (namespace, write) in writes {
            let index = self
                .live(&namespace)
                .ok_or_else(|| refused("write", &namespace, "there is no such collection"))?;
            let table = &self.tables[index];
            let at = (index, write.key.clone());
            let before = match staged.get(&at) {
                Some(document) => document.as_ref(),
                None => table.newest(&write.key),
            };
            let after = match (&write.operation, before) {
                (Operation::Insert(document), None) | (Operation::Replace(document), Some(_)) => Some(document.clone()),
                (Operation::Delta(delta), Some(document)) => {
                    Some(delta::apply(document, delta).map_err(|error| {
                        refused("update", &namespace, "the delta does not apply").with_source(error)
                    })?)
                }
                (Operation::Delete, Some(_)) => None,
                (Operation::Insert(_), Some(_)) => {
                    return Err(refused("insert", &namespace, "the `_id` exists already"));
                }
                (_, None) => return Err(refused("write", &namespace, "there is no such document")),
            };
            staged.insert(at, after);
            changes.push(Item::Change(Change {
                position,
                collection: table.id,
                namespace: Arc::new(namespace),
                write,
            }));
        }
        for ((index, key), document) in staged {
            self.tables[index].put(position, key, document);
        }
        let began = transaction
            .and_then(|number| self.open.remove(&number))
            .map(|open| open.first);
        self.record_commit(position, changes, began);
        Ok(position)
    }

    /// Index of the collection that has the name now.
    pub(super) fn live(&self, namespace: &Namespace) -> Option<usize> {
        self.tables.iter().position(|table| table.name() == Some(namespace))
    }

    pub(super) fn add_table(
        &mut self,
        position: Position,
        namespace: Namespace,
        kind: CollectionKind,
        options: RawDocumentBuf,
    ) -> Uuid {
        let id = self.random.uuid();
        self.tables.push(Table::new(id, position, namespace, kind, options));
        id
    }

    pub(super) fn listed(&self) -> Vec<Collection> {
        let collections = self.tables.iter().filter_map(|table| {
            let documents = table.live_documents().map(|(_, document)| document);
            Some(Collection {
                id: table.id,
                namespace: table.name()?.clone(),
                kind: table.kind,
                options: table.options.clone(),
                indexes: table.indexes.clone(),
                documents: table.live_documents().count() as u64,
                bytes: documents.map(|document| document.as_bytes().len() as u64).sum(),
            })
        });
        let views = self.views.iter().map(|(namespace, options)| Collection {
            id: Uuid::from_bytes([0; 16]),
            namespace: namespace.clone(),
            kind: CollectionKind::View,
            options: options.clone(),
            indexes: Vec::new(),
            documents: 0,
            bytes: 0,
        });
        collections
            .chain(views)
            .filter(|collection| !collection.namespace.is_internal())
            .collect()
    }

    /// Checks that documents can be read in this mode at this position.
    pub(super) fn check_snapshot(&self, at: Position, mode: ReadMode) -> Result<()> {
        let window = match self.snapshot_window {
            Some(window) => self.positions[self.positions.len().saturating_sub(window.max(1))],
            None => Position::ZERO,
        };
        if mode == ReadMode::Snapshot && (!self.snapshots || at < window.max(self.snapshot_floor)) {
            return Err(Error::new(
                ErrorKind::SnapshotUnavailable,
                "read a snapshot",
                "the position is too old",
            )
            .with_context("position", at));
        }
        Ok(())
    }

    /// Index of the collection that a read of this name finds, if any.
    pub(super) fn resolve(&self, namespace: &Namespace, at: Position, mode: ReadMode) -> Result<Option<usize>> {
        match self.name_resolution {
            NameResolution::AtPosition => Ok(self
                .tables
                .iter()
                .position(|table| table.name_at(at) == Some(namespace))),
            NameResolution::Newest => {
                let found = self.live(namespace);
                let named = found.map(|index| self.tables[index].named_at());
                if mode == ReadMode::Snapshot && named.is_some_and(|position| position > at) {
                    return Err(Error::new(
                        ErrorKind::SnapshotUnavailable,
                        "read a snapshot",
                        "the collection got its name after the position",
                    )
                    .with_context("namespace", namespace));
                }
                Ok(found)
            }
        }
    }

    /// Fails if the collection has lost its name and names are resolved as on a server, where the cursor dies then.
    pub(super) fn check_cursor(&self, index: usize, namespace: &Namespace) -> Result<()> {
        if self.name_resolution == NameResolution::Newest && self.tables[index].name() != Some(namespace) {
            return Err(Error::new(
                ErrorKind::Connection,
                "read documents",
                "the cursor was killed: the collection was dropped or renamed",
            )
            .with_context("namespace", namespace));
        }
        Ok(())
    }

    /// The documents at the position, regardless of the windows: in natural order for capped collections, otherwise in `_id` order.
    pub(super) fn documents_at(&self, namespace: &Namespace, at: Position) -> Vec<RawDocumentBuf> {
        let table = self.tables.iter().find(|table| table.name_at(at) == Some(namespace));
        table.map(|table| table.documents_at(at)).unwrap_or_default()
    }

    /// Checks that a tail can start after the position.
    pub(super) fn check_tail(&self, after: Position) -> Result<()> {
        if after < self.oldest() || self.positions.binary_search(&after).is_err() {
            return Err(position_lost(after));
        }
        Ok(())
    }

    /// The entries after `after`, for a tail that started after `started`.
    pub(super) fn entries_after(&self, after: Position, started: Position) -> Result<Vec<Entry>> {
        if after < self.oldest() {
            return Err(position_lost(after));
        }
        let from = self
            .history
            .partition_point(|recorded| recorded.entry.position <= after);
        let mut entries = Vec::new();
        for recorded in self.history.iter().skip(from).take(self.batch_entries.max(1)) {
            if let Some(began) = recorded.began
                && began <= started
                && began < self.oldest()
            {
                if !entries.is_empty() {
                    break;
                }
                return Err(Error::new(
                    ErrorKind::PositionLost,
                    "read the history",
                    "the history no longer holds the first entry of a transaction that was open where the tail started",
                )
                .with_context("transaction", began)
                .with_context("started after", started));
            }
            entries.push(recorded.entry.clone());
        }
        Ok(entries)
    }

    pub(super) fn history(&self) -> Vec<Entry> {
        self.history.iter().map(|recorded| recorded.entry.clone()).collect()
    }
}

fn size_of_item(item: &Item) -> usize {
    match item {
        Item::Change(change) => change.write.size_in_bytes(),
        Item::Command(command) => command.raw.as_bytes().len(),
    }
}

fn position_lost(after: Position) -> Error {
    Error::new(
        ErrorKind::PositionLost,
        "read the history",
        "the history does not hold the position",
    )
    .with_context("position", after)
}

pub(super) fn refused(operation: &'static str, namespace: &Namespace, message: &'static str) -> Error {
    Error::new(ErrorKind::Server, operation, message).with_context("namespace", namespace)
}
