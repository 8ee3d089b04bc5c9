//! A server that random updates are made on, and its answers compared with what the crate makes in memory.

use std::collections::BTreeMap;

use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use mongoferry::oplog::delta::{self, DeltaError, DeltaFormat};
use mongoferry_testbed::{ReplicaSet, Version};

use super::bytes::{
    as_a_server_reads, assert_same, can_be_forwarded, has_new_null, id_of, raw, readable, readable_document, with_id,
};
use super::random::{Chaos, Update};
use super::wire::Connection;

const DATABASE: &str = "delta";
/// Documents in one round: an update command, one read of the oplog and a few more commands.
pub const ROUND: usize = 500;

/// What became of some documents by a few updates.
pub struct Round {
    pub documents: Vec<Document>,
    pub before: BTreeMap<i64, RawDocumentBuf>,
    /// The `o` of each update entry, in the order of the oplog.
    pub entries: Vec<(i64, RawDocumentBuf)>,
    pub after: BTreeMap<i64, RawDocumentBuf>,
}

/// A server and what the scenarios do with it.
pub struct Bench {
    set: ReplicaSet,
    connection: Connection,
    seed: u64,
}

impl Bench {
    pub async fn start(version: Version, seed: u64) -> Self {
        let set = ReplicaSet::builder(version).start().await.unwrap();
        let connection = Connection::open(&set.member_address(0)).await;
        Self { set, connection, seed }
    }

    pub fn writes_v2(&self) -> bool {
        self.set.version() >= Version::V5_0
    }

    /// Inserts random documents and updates each.
    pub async fn round(&self, chaos: &mut Chaos, updates: impl Fn(&mut Chaos, &Document) -> Vec<Update>) -> Round {
        let documents: Vec<Document> = (0..ROUND).map(|_| chaos.document()).collect();
        let inserts: Vec<RawDocumentBuf> = (0..)
            .zip(&documents)
            .map(|(id, document)| with_id(id, document))
            .collect();
        let mut statements = RawArrayBuf::new();
        for (id, document) in (0_i32..).zip(&documents) {
            for update in updates(chaos, document) {
                let mut filter = doc! { "_id": id };
                filter.extend(update.filter);
                let mut statement = doc! { "q": filter, "u": update.change };
                if !update.array_filters.is_empty() {
                    statement.insert("arrayFilters", update.array_filters);
                }
                statements.push(raw(&statement));
            }
        }
        Round {
            documents,
            ..self.run(inserts.iter(), statements).await
        }
    }

    /// Updates some documents and reads what was logged and stored. Statements may fail.
    pub async fn run(&self, documents: impl Iterator<Item = &RawDocumentBuf>, statements: RawArrayBuf) -> Round {
        let ids = self.insert("source", documents).await;
        let before = self.read("source", &ids).await;
        let newest = doc! { "find": "oplog.rs", "sort": { "$natural": -1 }, "limit": 1, "singleBatch": true };
        let newest = self.connection.find("local", raw(&newest)).await;
        let start = newest[0].get_timestamp("ts").unwrap();
        self.update("source", statements).await;
        let after = self.read("source", &before).await;
        let entries = self.entries_after(start).await;
        Round {
            documents: Vec::new(),
            before,
            entries,
            after,
        }
    }

    async fn entries_after(&self, start: Timestamp) -> Vec<(i64, RawDocumentBuf)> {
        let filter = doc! { "ts": { "$gt": start }, "op": "u", "ns": format!("{DATABASE}.source") };
        let mut find = doc! { "find": "oplog.rs", "filter": filter, "batchSize": 1_000_000 };
        if self.set.version() < Version::V4_4 {
            // Older servers look at every entry from the oldest on without it.
            find.insert("oplogReplay", true);
        }
        let entries = self.connection.find("local", raw(&find)).await;
        let entries = entries.iter().map(|entry| {
            let id = id_of(entry.get_document("o2").unwrap());
            (id, entry.get_document("o").unwrap().to_owned())
        });
        entries.collect()
    }

    /// Empties the collection and inserts these documents. Returns them by `_id`.
    pub async fn insert(
        &self,
        collection: &str,
        documents: impl Iterator<Item = &RawDocumentBuf>,
    ) -> BTreeMap<i64, RawDocumentBuf> {
        let everything = doc! { "delete": collection, "deletes": [{ "q": {}, "limit": 0 }] };
        self.connection.run(DATABASE, raw(&everything)).await;
        let documents: BTreeMap<i64, RawDocumentBuf> =
            documents.map(|document| (id_of(document), document.clone())).collect();
        let mut array = RawArrayBuf::new();
        for document in documents.values() {
            array.push(document.clone());
        }
        let reply = self
            .connection
            .run(DATABASE, rawdoc! { "insert": collection, "documents": array })
            .await;
        assert_eq!(
            reply.get_i32("n").unwrap() as usize,
            documents.len(),
            "{}",
            readable(&reply)
        );
        documents
    }

    /// Runs statements in order, going on after errors. Returns the codes of the errors by the statement's place.
    pub async fn update(&self, collection: &str, statements: RawArrayBuf) -> BTreeMap<i64, i32> {
        let command = rawdoc! { "update": collection, "updates": statements, "ordered": false };
        let reply = self.connection.run(DATABASE, command).await;
        let Ok(errors) = reply.get_array("writeErrors") else {
            return BTreeMap::new();
        };
        let errors = errors.into_iter().map(|error| {
            let error = error.unwrap().as_document().unwrap();
            (
                i64::from(error.get_i32("index").unwrap()),
                error.get_i32("code").unwrap(),
            )
        });
        errors.collect()
    }

    pub async fn read<T>(&self, collection: &str, expected: &BTreeMap<i64, T>) -> BTreeMap<i64, RawDocumentBuf> {
        let documents = self
            .connection
            .find(DATABASE, rawdoc! { "find": collection, "batchSize": 1_000_000 })
            .await;
        let documents: BTreeMap<_, _> = documents
            .into_iter()
            .map(|document| (id_of(&document), document))
            .collect();
        assert!(
            documents.keys().eq(expected.keys()),
            "seed {}: documents are missing",
            self.seed
        );
        documents
    }

    /// Applies the round's last deltas to documents that they were not made for, in memory and on the server. Returns how
    /// many did not fit.
    pub async fn check_on_other_documents(&self, chaos: &mut Chaos, round: &Round) -> usize {
        let mut deltas: BTreeMap<i64, &RawDocumentBuf> = BTreeMap::new();
        for (id, entry) in &round.entries {
            if can_be_forwarded(entry) {
                deltas.insert(*id, entry);
            }
        }
        let others: BTreeMap<i64, RawDocumentBuf> = deltas
            .keys()
            .map(|id| {
                let other = if chaos.index(2) == 0 {
                    chaos.document()
                } else {
                    chaos.variant_of(&round.documents[usize::try_from(*id).unwrap()])
                };
                (*id, with_id(*id, &other))
            })
            .collect();
        let mut conflicts = 0;
        let all = deltas;
        for way in Way::of(self.set.version()) {
            let deltas: BTreeMap<i64, &RawDocumentBuf> = all
                .iter()
                .filter(|(id, entry)| *way != Way::Operators || operators(entry, &others[*id]).is_some())
                .map(|(id, entry)| (*id, *entry))
                .collect();
            let inserted = self.insert("other", others.values()).await;
            let before = self.read("other", &inserted).await;
            let errors = self.forward(*way, &deltas, &others).await;
            let after = self.read("other", &before).await;
            for (place, (id, entry)) in (0_i64..).zip(&deltas) {
                let story = || {
                    format!(
                        "{}\non {}\nby {way:?}",
                        round.story(self.seed, *id),
                        readable(&before[id])
                    )
                };
                match (delta::apply(&before[id], &as_a_server_reads(entry)), errors.get(&place)) {
                    (Ok(document), None) => assert_same(&document, &after[id], story),
                    (Err(DeltaError::PathConflict { .. }), Some(28)) => {
                        conflicts += 1;
                        assert_same(&before[id], &after[id], story);
                    }
                    // It leaves out the paths in conflict and goes on with the others.
                    (Err(DeltaError::PathConflict { .. }), None) if *way == Way::ApplyOps => conflicts += 1,
                    (ours, theirs) => panic!("in memory {ours:?}, on the server {theirs:?}\n{}", story()),
                }
                conflicts += usize::from(self.writes_v2() && has_new_null(&before[id], &after[id]));
            }
        }
        conflicts
    }

    /// Lets the server apply deltas to the collection `other`. Returns the codes of its errors by the delta's place.
    async fn forward(
        &self,
        way: Way,
        deltas: &BTreeMap<i64, &RawDocumentBuf>,
        others: &BTreeMap<i64, RawDocumentBuf>,
    ) -> BTreeMap<i64, i32> {
        let mut statements = RawArrayBuf::new();
        for (id, entry) in deltas {
            let entry = (*entry).clone();
            statements.push(match way {
                Way::Operators => rawdoc! { "q": { "_id": *id }, "u": operators(&entry, &others[id]).unwrap() },
                Way::ApplyOps => {
                    rawdoc! { "op": "u", "ns": format!("{DATABASE}.other"), "o2": { "_id": *id }, "o": entry }
                }
                Way::InternalStage => {
                    let mut pipeline = RawArrayBuf::new();
                    pipeline.push(rawdoc! { "$_internalApplyOplogUpdate": { "oplogUpdate": entry } });
                    rawdoc! { "q": { "_id": *id }, "u": pipeline }
                }
            });
        }
        if way != Way::ApplyOps {
            return self.update("other", statements).await;
        }
        let reply = self.connection.run("admin", rawdoc! { "applyOps": statements }).await;
        let applied = usize::try_from(reply.get_i32("applied").unwrap()).unwrap();
        assert_eq!(applied, deltas.len(), "seed {}: {}", self.seed, readable(&reply));
        BTreeMap::new()
    }
}

/// How a client can have a server apply a logged delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Operators,
    ApplyOps,
    InternalStage,
}

impl Way {
    fn of(version: Version) -> &'static [Way] {
        match version {
            Version::V6_0 | Version::V6_0_27 => &[Way::Operators, Way::InternalStage, Way::ApplyOps],
            _ => &[Way::Operators, Way::ApplyOps],
        }
    }
}

/// The operators that a delta is sent on as, where it is. A `$v: 2` delta that fits the document finds all fields that it updates there; of
/// two that are missing, as in a newer document, `$set` adds the one that sorts first before the other.
fn operators(entry: &RawDocument, document: &RawDocument) -> Option<RawDocumentBuf> {
    if delta::format_of(entry).unwrap() == Some(DeltaFormat::V1) {
        return Some(delta::v1_as_operators(entry).unwrap());
    }
    let operators = delta::v2_as_operators(entry).unwrap()?;
    let document = readable_document(document);
    let missing = match readable_document(&operators).get_document("$set") {
        Ok(set) => set.keys().filter(|name| !document.contains_key(*name)).count(),
        Err(_) => 0,
    };
    (missing < 2).then_some(operators)
}

impl Round {
    /// Applies what was logged to the documents as they were. Returns how many deltas there were.
    pub fn check(&self, seed: u64) -> usize {
        let mut documents = self.before.clone();
        let mut deltas = 0;
        // The last delta of each document, and the document before it.
        let mut last: BTreeMap<i64, (RawDocumentBuf, RawDocumentBuf)> = BTreeMap::new();
        for (id, entry) in &self.entries {
            let document = match delta::format_of(entry).unwrap() {
                None => entry.clone(),
                Some(_) => {
                    deltas += 1;
                    delta::apply(&documents[id], entry)
                        .unwrap_or_else(|error| panic!("{error}\n{}", self.story(seed, *id)))
                }
            };
            if let Some((before, earlier)) = last.get(id)
                && let Some(both) = delta::merge(earlier, entry).unwrap()
            {
                let merged = delta::apply(before, &both).unwrap();
                assert_same(&merged, &document, || format!("merged\n{}", self.story(seed, *id)));
            }
            let before = documents.insert(*id, document).unwrap();
            last.insert(*id, (before, entry.clone()));
        }
        for (id, document) in &documents {
            assert_same(document, &self.after[id], || self.story(seed, *id));
        }
        deltas
    }

    /// Everything about one document, for the message of a failure.
    pub fn story(&self, seed: u64, id: i64) -> String {
        let mut story = format!("seed {seed}, document {id}\nbefore {}", readable(&self.before[&id]));
        for (logged, entry) in &self.entries {
            if *logged == id {
                story.push_str(&format!("\nlogged {}", readable(entry)));
            }
        }
        story.push_str(&format!("\nafter {}", readable(&self.after[&id])));
        story
    }
}
