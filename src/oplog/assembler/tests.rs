//! Tests the assembler on histories of randomly interleaved sessions.

use bson::raw::{RawBsonRef, RawDocumentBuf};
use bson::{Binary, Bson, Document, Timestamp, Uuid, doc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Assembler, Taken};
use crate::error::ErrorKind;
use crate::model::Position;
use crate::oplog::entry::{Entry, Item};
use crate::order::Key;

/// A history as a server would log it, and the expected result of each entry.
#[derive(Default)]
struct History {
    entries: Vec<RawDocumentBuf>,
    /// The `_id`s that each entry writes.
    expected: Vec<Vec<i32>>,
    written: i32,
}

/// An open transaction.
struct Session {
    /// `None` for a batch of writes outside of a transaction, as servers log it from 7.0 on.
    lsid: Option<Document>,
    number: i64,
    previous: Option<Position>,
    ids: Vec<i32>,
    prepared: bool,
}

impl Session {
    fn new(lsid: Option<Document>, number: i64) -> Self {
        Self {
            lsid,
            number,
            previous: None,
            ids: Vec::new(),
            prepared: false,
        }
    }
}

fn position(index: usize) -> Position {
    // Several entries per second, and gaps, as on real servers.
    Position {
        time: 100 + index as u32 / 3,
        increment: 1 + (index as u32 % 3) * 2,
        term: 1,
    }
}

fn optime(position: Option<Position>) -> Document {
    let position = position.unwrap_or(Position::ZERO);
    doc! { "ts": position.timestamp(), "t": position.term }
}

impl History {
    fn log(&mut self, mut entry: Document, expected: &[i32]) -> Position {
        let position = position(self.entries.len());
        entry.insert("ts", position.timestamp());
        entry.insert("t", position.term);
        self.entries.push(RawDocumentBuf::try_from(&entry).unwrap());
        self.expected.push(expected.to_vec());
        position
    }

    fn write(&mut self) -> (i32, Document) {
        self.written += 1;
        let id = self.written;
        let ui = Binary::from(Uuid::from_bytes([7; 16]));
        (id, doc! { "op": "i", "ns": "a.b", "ui": ui, "o": { "_id": id } })
    }

    fn plain(&mut self) {
        let (id, write) = self.write();
        self.log(write, &[id]);
    }

    /// Logs an `applyOps` of the session's transaction with additional fields.
    fn operations(&mut self, session: &mut Session, count: usize, fields: Document, commits: bool) {
        let mut operations = Vec::new();
        for _ in 0..count {
            let (id, write) = self.write();
            session.ids.push(id);
            operations.push(Bson::Document(write));
        }
        let mut o = doc! { "applyOps": operations };
        o.extend(fields);
        self.end(session, o, commits);
    }

    fn end(&mut self, session: &mut Session, o: Document, commits: bool) {
        let mut entry = doc! { "op": "c", "ns": "admin.$cmd", "prevOpTime": optime(session.previous), "o": o };
        if let Some(lsid) = &session.lsid {
            entry.extend(doc! { "lsid": lsid.clone(), "txnNumber": session.number });
        }
        let ids = if commits { session.ids.clone() } else { Vec::new() };
        session.previous = Some(self.log(entry, &ids));
    }

    /// A history of four sessions, and three batches without a session, randomly interleaved.
    fn random(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut history = History::default();
        let mut sessions: Vec<Session> = (0..7)
            .map(|session| Session::new((session < 4).then(|| doc! { "id": session }), 0))
            .collect();
        for _ in 0..100 {
            let session = random.random_range(0..9);
            let Some(session) = sessions.get_mut(session) else {
                history.plain();
                continue;
            };
            let begun = session.previous.is_some();
            let over = if session.prepared {
                let (o, commits) = [
                    (
                        doc! { "commitTransaction": 1, "commitTimestamp": Timestamp { time: 1, increment: 1 } },
                        true,
                    ),
                    (doc! { "abortTransaction": 1 }, false),
                ]
                .choose(&mut random)
                .unwrap()
                .clone();
                history.end(session, o, commits);
                true
            } else {
                let count = random.random_range(1..4);
                match random.random_range(0..5) {
                    // Only sessions prepare and abort.
                    0..=3 if session.lsid.is_none() => {
                        history.operations(session, count, doc! { "partialTxn": true }, false);
                        false
                    }
                    0 | 1 => {
                        history.operations(session, count, doc! { "partialTxn": true }, false);
                        false
                    }
                    2 => {
                        history.operations(session, count, doc! { "prepare": true }, false);
                        session.prepared = true;
                        false
                    }
                    // A new primary aborts what a failed one left unfinished.
                    3 if begun => {
                        history.end(session, doc! { "abortTransaction": 1 }, false);
                        true
                    }
                    _ => {
                        history.operations(session, count, doc! { "count": 9_i64 }, true);
                        true
                    }
                }
            };
            if over {
                session.number += 1;
                session.previous = None;
                session.ids.clear();
                session.prepared = false;
            }
        }
        history
    }

    /// The entries of an assembler that starts after `after`, and the entries for which it asked for missing parts.
    fn tail(&self, after: Position) -> (Vec<Entry>, Vec<Position>) {
        let mut assembler = Assembler::new(after, 1 << 20);
        let mut entries = Vec::new();
        let mut asked = Vec::new();
        for (index, raw) in self
            .entries
            .iter()
            .enumerate()
            .filter(|(index, _)| position(*index) > after)
        {
            loop {
                match assembler.take(raw).unwrap() {
                    Taken::Entry(entry) => {
                        assert_eq!(entry.position, position(index));
                        entries.push(entry);
                        break;
                    }
                    Taken::Missing(missing) => {
                        let at = (0..index).find(|index| position(*index) == missing).unwrap();
                        assembler.supply(&self.entries[at]).unwrap();
                        asked.push(position(index));
                    }
                    Taken::Large => panic!("it is in memory"),
                }
            }
            assert_eq!(assembler.last(), position(index));
        }
        (entries, asked)
    }
}

/// The `_id`s that an entry writes.
fn ids(entry: &Entry) -> Vec<i32> {
    let id = |item: &Item| match item {
        Item::Change(change) => (0..1000)
            .find(|id| Key::from(RawBsonRef::Int32(*id)) == change.write.key)
            .unwrap(),
        Item::Command(command) => panic!("{command:?}"),
    };
    entry.items.iter().map(id).collect()
}

fn all_ids(entries: &[Entry]) -> Vec<Vec<i32>> {
    entries.iter().map(ids).collect()
}

#[test]
fn transactions_come_whole_at_their_commit() {
    for seed in 0..200 {
        let history = History::random(seed);
        let (entries, asked) = history.tail(Position::ZERO);
        assert_eq!(all_ids(&entries), history.expected, "seed {seed}");
        assert_eq!(asked, [], "seed {seed}");
        for entry in &entries {
            for item in &entry.items {
                assert!(matches!(item, Item::Change(change) if change.position == entry.position));
            }
        }
        let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        let logged: usize = history.entries.iter().map(|raw| raw.as_bytes().len()).sum();
        assert!(bytes <= logged, "seed {seed}");
    }
}

#[test]
fn nothing_is_missed_after_any_resume_position() {
    for seed in 0..60 {
        let history = History::random(seed);
        let (entries, _) = history.tail(Position::ZERO);
        assert!(
            entries.is_sorted_by(|left, right| left.resume <= right.resume),
            "seed {seed}"
        );
        for (at, entry) in entries.iter().enumerate() {
            assert!(entry.resume <= entry.position);
            assert!(
                entry.resume == Position::ZERO || (0..=at).any(|index| position(index) == entry.resume),
                "seed {seed}: {} is no entry",
                entry.resume
            );
            let (again, asked) = history.tail(entry.resume);
            let later: Vec<_> = again
                .into_iter()
                .filter(|other| other.position > entry.position)
                .collect();
            assert_eq!(
                all_ids(&later),
                history.expected[at + 1..],
                "seed {seed} after {}",
                entry.resume
            );
            // A transaction that has committed before is returned again, and its earlier parts may be missing. One that is open is seen
            // from its beginning.
            assert!(
                asked.iter().all(|asked| *asked <= entry.position),
                "seed {seed}: {} is past the first entry of an open transaction",
                entry.resume
            );
        }
    }
}

#[test]
fn what_was_logged_before_the_start_is_asked_for() {
    let mut asked = 0;
    for seed in 0..60 {
        let history = History::random(seed);
        for at in 0..history.entries.len() {
            let (entries, parts) = history.tail(position(at));
            assert_eq!(all_ids(&entries), history.expected[at + 1..], "seed {seed} after {at}");
            asked += parts.len();
        }
    }
    assert!(asked > 1000, "{asked}");
}

/// The entries of an assembler that keeps at most `limit` bytes in memory.
async fn tail_with(history: &History, after: Position, limit: usize) -> (Vec<Entry>, usize) {
    let mut assembler = Assembler::new(after, limit);
    let (mut entries, mut large) = (Vec::new(), 0);
    for (index, raw) in history.entries.iter().enumerate() {
        if position(index) <= after {
            continue;
        }
        loop {
            match assembler.take(raw).unwrap() {
                Taken::Entry(entry) => entries.push(entry),
                Taken::Missing(missing) => {
                    let at = (0..index).find(|index| position(*index) == missing).unwrap();
                    assembler.supply(&history.entries[at]).unwrap();
                    assembler.make_room().await.unwrap();
                    continue;
                }
                Taken::Large => {
                    large += 1;
                    while let Some(part) = assembler.next_part().await.unwrap() {
                        assert_eq!(part.position, position(index));
                        entries.push(part);
                    }
                }
            }
            break;
        }
        assembler.make_room().await.unwrap();
        assert!(assembler.bytes() <= limit);
    }
    (entries, large)
}

#[tokio::test]
async fn transactions_too_large_for_memory_come_in_parts() {
    let mut large = 0;
    for seed in 0..60 {
        let history = History::random(seed);
        let (whole, _) = history.tail(Position::ZERO);
        for (after, limit) in [(0, 0), (0, 300), (0, 1000), (7, 0), (20, 300), (31, 1000)] {
            let after = if after == 0 { Position::ZERO } else { position(after) };
            let (entries, in_parts) = tail_with(&history, after, limit).await;
            large += in_parts;
            let mut expected = whole.iter().filter(|entry| entry.position > after);
            let mut joined: Option<Entry> = None;
            for entry in entries {
                if let Some(before) = &mut joined {
                    assert_eq!(entry.position, before.position);
                    before.items.extend(entry.items);
                    (before.resume, before.continues) = (entry.resume, entry.continues);
                } else {
                    joined = Some(entry);
                }
                let Some(part) = joined.take_if(|entry| !entry.continues) else {
                    let part = joined.as_ref().unwrap();
                    assert!(part.resume < part.position, "it would be missed");
                    continue;
                };
                let expected = expected.next().unwrap();
                assert_eq!(
                    (part.position, ids(&part)),
                    (expected.position, ids(expected)),
                    "seed {seed}"
                );
                if after == Position::ZERO {
                    assert_eq!(part.resume, expected.resume, "seed {seed}");
                }
            }
            assert!(joined.is_none() && expected.next().is_none());
        }
    }
    assert!(large > 1000, "{large}");
}

#[test]
fn memory_is_counted_and_given_back() {
    let history = History::random(3);
    let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
    let mut most = 0;
    for raw in &history.entries {
        assert!(matches!(assembler.take(raw).unwrap(), Taken::Entry(_)));
        most = most.max(assembler.bytes());
    }
    assert!(most > 0);
    assert_eq!(assembler.bytes() > 0, !assembler.open.is_empty());
}

#[test]
fn a_session_that_begins_anew_gives_up_what_it_left() {
    let mut history = History::default();
    let mut session = Session::new(Some(doc! { "id": 1 }), 1);
    history.operations(&mut session, 2, doc! { "partialTxn": true }, false);
    // The primary fails, and the end of the transaction is lost with it.
    session.number = 2;
    session.previous = None;
    session.ids.clear();
    history.operations(&mut session, 1, doc! { "partialTxn": true }, false);
    history.operations(&mut session, 1, doc! { "count": 2_i64 }, true);
    let (entries, _) = history.tail(Position::ZERO);
    assert_eq!(all_ids(&entries), history.expected);
    assert_eq!(
        entries[1].resume,
        position(0),
        "the abandoned transaction holds the resume position back"
    );
    assert_eq!(entries[2].resume, position(2));
}

#[test]
fn a_part_that_does_not_follow_the_last_one_is_an_error() {
    let mut history = History::default();
    let mut session = Session::new(Some(doc! { "id": 1 }), 1);
    for fields in [
        doc! { "partialTxn": true },
        doc! { "partialTxn": true },
        doc! { "count": 3_i64 },
    ] {
        history.operations(&mut session, 1, fields, false);
    }
    let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
    assembler.take(&history.entries[0]).unwrap();
    let error = assembler.take(&history.entries[2]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}

#[test]
fn grouped_retryable_writes_are_no_transaction() {
    let mut history = History::default();
    let mut session = Session::new(Some(doc! { "id": 1 }), 1);
    session.previous = Some(position(99));
    history.operations(&mut session, 3, doc! {}, true);
    let mut entry = Document::try_from(history.entries[0].clone()).unwrap();
    entry.insert("multiOpType", 1);
    let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
    let Taken::Entry(entry) = assembler.take(&RawDocumentBuf::try_from(&entry).unwrap()).unwrap() else {
        panic!()
    };
    assert_eq!(ids(&entry), [1, 2, 3]);
}

#[test]
fn batches_without_session_are_told_apart_by_their_chains() {
    let mut history = History::default();
    let (mut one, mut other) = (Session::new(None, 0), Session::new(None, 0));
    for _ in 0..2 {
        history.operations(&mut one, 2, doc! { "partialTxn": true }, false);
        history.operations(&mut other, 2, doc! { "partialTxn": true }, false);
    }
    history.operations(&mut other, 1, doc! { "count": 5_i64 }, true);
    history.plain();
    history.operations(&mut one, 1, doc! { "count": 5_i64 }, true);
    let (entries, _) = history.tail(Position::ZERO);
    assert_eq!(all_ids(&entries), history.expected);
    assert_eq!(entries[5].resume, Position::ZERO, "the first batch is still open");
    assert_eq!(entries[6].resume, position(6));
}

#[test]
fn a_new_primary_ends_the_batches_that_the_last_one_left() {
    let mut history = History::default();
    let mut left = Session::new(None, 0);
    history.operations(&mut left, 2, doc! { "partialTxn": true }, false);
    let mut open = Session::new(Some(doc! { "id": 1 }), 1);
    history.operations(&mut open, 2, doc! { "prepare": true }, false);
    let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
    for raw in &history.entries {
        assembler.take(raw).unwrap();
    }
    assert_eq!(assembler.resume(), Position::ZERO);
    let elected = doc! {
        "op": "n", "ns": "", "o": { "msg": "new primary" },
        "ts": position(2).timestamp(), "t": position(2).term + 1,
    };
    assembler.take(&RawDocumentBuf::try_from(&elected).unwrap()).unwrap();
    assert_eq!(assembler.resume(), position(0), "what is prepared stays");
    assert_eq!(assembler.bytes(), history.entries[1].as_bytes().len());
}
