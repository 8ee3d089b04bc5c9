//! Queries of the rewritten oplog, and their cursors.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use mongodb::bson::{RawDocument, RawDocumentBuf, doc, raw::RawBsonRef};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Period,
    entry::number,
    message::{Query, append, fields, query_flags},
    oplog::Oplog,
};
use crate::wire;

/// Where the numbers of these cursors begin: no real cursor has such a one but by an unlikely chance.
const FIRST_CURSOR: i64 = 0x7e57_0000_0000;
/// The first batch of a query without a size (read: 101 documents or 1 MB).
const FIRST_DOCUMENTS: usize = 101;
const FIRST_BYTES: usize = 1024 * 1024;

/// A failed query: the text and the code.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String, pub(super) i32);

/// What is asked of the oplog.
#[derive(Debug, Default)]
pub(super) struct OplogQuery {
    from: u64,
    until: Option<u64>,
    is_backward: bool,
    projection: Option<Vec<String>>,
    limit: Option<usize>,
    /// Documents of the first batch; none means the default.
    batch: Option<usize>,
    is_single: bool,
    is_tailing: bool,
    awaits: bool,
    /// Only what a majority has.
    pub(super) is_majority: bool,
}

/// A batch of entries, and its cursor where there is more to come.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) cursor: i64,
    pub(super) documents: Vec<RawDocumentBuf>,
}

/// The open cursors of a member.
#[derive(Debug)]
pub(super) struct Cursors {
    next: AtomicI64,
    open: Mutex<HashMap<i64, Cursor>>,
}

#[derive(Debug)]
struct Cursor {
    query: OplogQuery,
    /// The entry that was given last.
    position: Option<u64>,
    generation: u64,
    given: usize,
}

impl OplogQuery {
    /// Reads an `OP_QUERY`.
    pub(super) fn from_query(query: &Query) -> Result<OplogQuery, Failure> {
        let mut oplog = OplogQuery {
            is_tailing: query.flags & query_flags::TAILABLE != 0,
            awaits: query.flags & query_flags::AWAIT_DATA != 0,
            ..OplogQuery::default()
        };
        oplog.filter(query.inner())?;
        if query.flags & query_flags::OPLOG_REPLAY != 0 && oplog.from == 0 {
            // Read.
            let text = "OplogReplay query does not contain top-level $gt or $gte over the 'ts' field.";
            return Err(Failure(text.to_owned(), 62));
        }
        for name in ["$orderby", "$hint"] {
            if let Some(order) = query.modifier(name) {
                oplog.order(order)?;
            }
        }
        oplog.projection = query.projection.as_deref().map(projection);
        match query.batch {
            0 => {}
            1 | i32::MIN..0 => {
                oplog.limit = Some(query.batch.unsigned_abs() as usize);
                oplog.is_single = true;
            }
            count => oplog.batch = Some(count as usize),
        }
        Ok(oplog)
    }

    /// Reads a `find` command.
    pub(super) fn from_command(command: &RawDocument) -> Result<OplogQuery, Failure> {
        let mut oplog = OplogQuery::default();
        for (name, value) in fields(command) {
            let count = || whole(value).map(|count| count as usize);
            match (name, value.as_document()) {
                ("filter", Some(filter)) => oplog.filter(filter)?,
                ("sort" | "hint", Some(order)) => oplog.order(order)?,
                ("projection", Some(fields)) => oplog.projection = Some(projection(fields)),
                ("limit", _) => oplog.limit = count().filter(|count| *count > 0),
                ("batchSize", _) => oplog.batch = count(),
                ("singleBatch", _) => oplog.is_single = value.as_bool() == Some(true),
                ("tailable", _) => oplog.is_tailing = value.as_bool() == Some(true),
                ("awaitData", _) => oplog.awaits = value.as_bool() == Some(true),
                ("readConcern", Some(concern)) => oplog.is_majority = concern.get_str("level").ok() == Some("majority"),
                _ => {}
            }
        }
        Ok(oplog)
    }

    fn filter(&mut self, filter: &RawDocument) -> Result<(), Failure> {
        let unknown = || {
            let text =
                "the period server knows conditions of the oplog on ts alone: $gt, $gte, $lt, $lte, or a time stamp";
            Failure(text.to_owned(), 2)
        };
        for (name, value) in fields(filter) {
            match (name, value) {
                ("ts", RawBsonRef::Timestamp(at)) => {
                    self.from = number(at);
                    self.until = Some(number(at));
                }
                ("ts", RawBsonRef::Document(bounds)) => {
                    for (operator, bound) in fields(bounds) {
                        let at = number(bound.as_timestamp().ok_or_else(unknown)?);
                        match operator {
                            "$gte" => self.from = at,
                            "$gt" => self.from = at + 1,
                            "$lte" => self.until = Some(at),
                            "$lt" => self.until = Some(at.saturating_sub(1)),
                            _ => return Err(unknown()),
                        }
                    }
                }
                _ => return Err(unknown()),
            }
        }
        Ok(())
    }

    fn order(&mut self, order: &RawDocument) -> Result<(), Failure> {
        match fields(order).next() {
            None => {}
            Some(("$natural", direction)) => self.is_backward = number_of(direction) < 0.0,
            Some(_) => {
                let text = "the period server knows no order of the oplog but $natural";
                return Err(Failure(text.to_owned(), 2));
            }
        }
        Ok(())
    }
}

impl Cursors {
    pub(super) fn new() -> Cursors {
        Cursors {
            next: AtomicI64::new(FIRST_CURSOR),
            open: Mutex::default(),
        }
    }

    /// Answers a new query, and keeps a cursor unless everything was given.
    pub(super) fn open(&self, oplog: &Oplog, query: OplogQuery, majority: Option<u64>) -> Batch {
        let (count, bytes) = match query.batch {
            None => (FIRST_DOCUMENTS, FIRST_BYTES),
            Some(count) => (count, usize::MAX),
        };
        let generation = oplog.watch().borrow().generation;
        let mut cursor = Cursor {
            query,
            position: None,
            generation,
            given: 0,
        };
        let (documents, is_exhausted) = cursor.take(oplog, count, bytes, majority);
        let is_over = cursor.query.is_single || is_exhausted && !cursor.query.is_tailing;
        Batch {
            cursor: if is_over { 0 } else { self.keep(None, cursor) },
            documents,
        }
    }

    /// The next batch of a cursor of the member at `address`; `None` when it is not one of these. Waits for entries where the
    /// query awaits them.
    pub(super) async fn more(
        &self,
        period: Period,
        oplog: &Oplog,
        id: i64,
        count: Option<usize>,
        patience: Duration,
        address: &str,
    ) -> Option<Result<Batch, Failure>> {
        let mut cursor = self.all().remove(&id)?;
        let count = count.filter(|count| *count > 0).unwrap_or(usize::MAX);
        // Read: until 4 MB are passed, from 3.4 on 16 MiB.
        let bytes = if period < Period::V3_4 { 4 << 20 } else { 16 << 20 };
        let deadline = Instant::now() + patience;
        loop {
            let mut state = oplog.watch();
            let bound = if cursor.query.is_majority {
                Some(committed(address).await.unwrap_or(0))
            } else {
                None
            };
            let (generation, rolled_off) = {
                let state = state.borrow_and_update();
                (state.generation, state.rolled_off)
            };
            if generation != cursor.generation {
                // A rollback; the cursor is gone, as are all of a server whose data changes backward.
                return None;
            }
            if cursor.position.is_some_and(|position| position < rolled_off) {
                return Some(Err(lost(period)));
            }
            let (documents, is_exhausted) = cursor.take(oplog, count, bytes, bound);
            let waits = documents.is_empty() && cursor.query.awaits && cursor.query.is_tailing;
            if !waits || Instant::now() >= deadline {
                let is_over = is_exhausted && !cursor.query.is_tailing;
                let cursor = if is_over { 0 } else { self.keep(Some(id), cursor) };
                return Some(Ok(Batch { cursor, documents }));
            }
            if cursor.query.is_majority {
                // The committed point moves without a new entry.
                sleep(Duration::from_millis(10)).await;
            } else {
                let _ = timeout_at(deadline, state.changed()).await;
            }
        }
    }

    pub(super) fn has(&self, id: i64) -> bool {
        self.all().contains_key(&id)
    }

    /// Closes a cursor; `false` when it is not one of these.
    pub(super) fn close(&self, id: i64) -> bool {
        self.all().remove(&id).is_some()
    }

    /// Closes all, as when the primary steps down.
    pub(super) fn close_all(&self) {
        self.all().clear();
    }

    fn keep(&self, id: Option<i64>, cursor: Cursor) -> i64 {
        let id = id.unwrap_or_else(|| self.next.fetch_add(1, Ordering::SeqCst));
        self.all().insert(id, cursor);
        id
    }

    fn all(&self) -> MutexGuard<'_, HashMap<i64, Cursor>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cursor {
    /// The next entries, and whether those are all that there are now.
    fn take(
        &mut self,
        oplog: &Oplog,
        count: usize,
        bytes: usize,
        majority: Option<u64>,
    ) -> (Vec<RawDocumentBuf>, bool) {
        let watched = oplog.watch();
        let state = watched.borrow();
        let until = self.query.until.unwrap_or(u64::MAX).min(majority.unwrap_or(u64::MAX));
        let (mut low, mut high) = (self.query.from, until);
        match self.position {
            Some(position) if self.query.is_backward => high = position - 1,
            Some(position) => low = position + 1,
            None => {}
        }
        let begin = state.entries.partition_point(|entry| entry.at < low);
        let end = state.entries.partition_point(|entry| entry.at <= high).max(begin);
        let found = &state.entries[begin..end];
        let left = self.query.limit.map_or(usize::MAX, |limit| limit - self.given);
        let mut taken = Vec::new();
        let mut size = 0;
        let wanted = count.min(left);
        let mut ordered: Box<dyn Iterator<Item = _>> = if self.query.is_backward {
            Box::new(found.iter().rev())
        } else {
            Box::new(found.iter())
        };
        while taken.len() < wanted && size < bytes {
            let Some(entry) = ordered.next() else {
                break;
            };
            size += entry.document.as_bytes().len();
            self.position = Some(entry.at);
            taken.push(match &self.query.projection {
                Some(names) => projected(&entry.document, names),
                None => entry.document.clone(),
            });
        }
        self.given += taken.len();
        let is_exhausted = taken.len() == found.len() || self.query.limit.is_some_and(|limit| self.given >= limit);
        (taken, is_exhausted)
    }
}

/// Up to where a majority has the oplog of a member.
pub(super) async fn committed(address: &str) -> Option<u64> {
    let answer = wire::admin_command(address, doc! { "isMaster": 1 }).await.ok()?;
    let position = answer
        .get_document("lastWrite")
        .ok()?
        .get_document("majorityOpTime")
        .ok()?;
    position.get_timestamp("ts").ok().map(number)
}

/// Read: the codes of a cursor that was overtaken by the end of a capped collection.
fn lost(period: Period) -> Failure {
    let code = match period {
        Period::V2_6 => 103,
        Period::V3_0 => 121,
        _ => 136,
    };
    let text = "CollectionScan died due to position in capped collection being deleted.";
    Failure(text.to_owned(), code)
}

/// The fields that a projection includes.
fn projection(document: &RawDocument) -> Vec<String> {
    fields(document)
        .filter(|(_, value)| value.as_bool() == Some(true) || number_of(*value) > 0.0)
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn projected(entry: &RawDocument, names: &[String]) -> RawDocumentBuf {
    let mut some = RawDocumentBuf::new();
    for (name, value) in fields(entry) {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            append(&mut some, name, value);
        }
    }
    some
}

fn number_of(value: RawBsonRef<'_>) -> f64 {
    value
        .as_f64()
        .or(value.as_i32().map(f64::from))
        .or(value.as_i64().map(|number| number as f64))
        .unwrap_or_default()
}

/// A count in a command.
pub(super) fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    value
        .as_i64()
        .or(value.as_i32().map(i64::from))
        .or(value.as_f64().map(|number| number as i64))
}
