//! Random writes and changes to the catalog that a replica set would have let pass: within a collection no two documents ever have
//! the same `u`, so that a unique index on it can be made at any time.

use bson::raw::{RawBson, RawDocumentBuf};
use bson::{RawBsonRef, cstr, rawdoc};
use mongoferry::source::{MemorySource, OpenTransaction, Transaction};
use mongoferry::{Collection, CollectionKind, Result, Source};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Migrated names, then names that are left out.
const NAMES: [&str; 6] = ["shop.a", "shop.b", "shop.c", "shop.d", "shop.tmp_x", "other.y"];

/// How often what happens.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Document ids that a collection can have.
    pub ids: i32,
    /// Of a hundred steps, so many change the catalog.
    pub catalog: u32,
    /// Whether collections are dropped and renamed, beside indexes and options.
    pub moves: bool,
    /// Whether unique indexes are made.
    pub unique: bool,
    /// Whether updates are logged in the old format too.
    pub old_deltas: bool,
    /// Whether there are views and capped collections.
    pub kinds: bool,
}

pub struct Workload {
    pub source: MemorySource,
    random: StdRng,
    habits: Habits,
    open: Vec<OpenTransaction>,
    next: i32,
}

impl Workload {
    pub fn new(source: MemorySource, seed: u64, habits: Habits) -> Self {
        Self {
            source,
            random: StdRng::seed_from_u64(seed),
            habits,
            open: Vec::new(),
            next: 0,
        }
    }

    /// What is there before the migration starts.
    pub async fn load(&mut self) {
        for name in NAMES {
            if self.random.random_bool(0.6) {
                let options = self.options();
                self.source.create_collection(name, options).unwrap();
                for value in 0..self.random.random_range(0..self.habits.ids * 3 / 2) {
                    let id = self.id();
                    let document = self.document(id, value);
                    // The id may be taken.
                    let _ = self.source.insert(name, document);
                }
                if self.random.random_bool(0.4) {
                    self.create_index(name);
                }
            }
        }
        if self.habits.kinds {
            self.source
                .create_collection("shop.log", rawdoc! { "capped": true, "size": 1 << 20 })
                .unwrap();
            for _ in 0..self.random.random_range(0..30) {
                self.append();
            }
            self.source
                .create_collection("shop.view", rawdoc! { "viewOn": "a", "pipeline": [] })
                .unwrap();
        }
    }

    /// One step: usually a write.
    pub async fn step(&mut self) {
        let roll = self.random.random_range(0..100);
        if roll < self.habits.catalog {
            self.change_catalog().await;
            return;
        }
        match self.random.random_range(0..20) {
            0 => {
                if self.open.len() < 3 {
                    self.open.push(self.source.open_transaction());
                }
            }
            1 => {
                if !self.open.is_empty() {
                    let at = self.random.random_range(0..self.open.len());
                    let open = self.open.swap_remove(at);
                    if self.random.random_bool(0.7) {
                        let writes = self.transaction().await;
                        let _ = open.commit(|transaction| writes.into_iter().try_for_each(|write| write(transaction)));
                    }
                }
            }
            2..5 => {
                let writes = self.transaction().await;
                let _ = self
                    .source
                    .transaction(|transaction| writes.into_iter().try_for_each(|write| write(transaction)));
            }
            5 if self.habits.kinds => self.append(),
            6 => {
                self.source.noop();
            }
            7 => self.swap().await,
            _ => {
                if let Some(name) = self.some_collection().await {
                    self.write_one(&name);
                }
            }
        }
    }

    /// Ends every transaction that is open.
    pub fn end(&mut self) {
        self.open.clear();
        self.source.noop();
    }

    async fn plain(&self) -> Vec<Collection> {
        let mut listed = self.source.collections().await.unwrap();
        listed.retain(|collection| matches!(collection.kind, CollectionKind::Plain | CollectionKind::Unordered));
        listed
    }

    async fn some_collection(&mut self) -> Option<String> {
        let listed = self.plain().await;
        let found = listed.choose(&mut self.random)?;
        Some(found.namespace.to_string())
    }

    /// Inserts into the capped collection, where it is not dropped; else the insert would make one that is not capped.
    fn append(&mut self) {
        if self
            .source
            .modify("shop.log", rawdoc! { "validationLevel": "strict" })
            .is_err()
        {
            return;
        }
        self.next += 1;
        let document = rawdoc! { "_id": self.random.random_range(0..1000) * 10_000 + self.next, "n": self.next };
        let _ = self.source.insert("shop.log", document);
    }

    /// Sometimes those of a collection that can only be read as a whole.
    fn options(&mut self) -> RawDocumentBuf {
        if self.habits.kinds && self.random.random_bool(0.2) {
            rawdoc! { "collation": { "locale": "en" } }
        } else {
            rawdoc! {}
        }
    }

    fn id(&mut self) -> RawBson {
        match self.random.random_range(0..self.habits.ids) {
            id if id % 4 == 0 => RawBson::String(format!("id {id}")),
            id if id % 4 == 1 => RawBson::Double(f64::from(id) + 0.5),
            id => RawBson::Int32(id),
        }
    }

    fn document(&mut self, id: RawBson, value: i32) -> RawDocumentBuf {
        self.next += 1;
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), id);
        document.append(cstr!("u"), value);
        document.append(cstr!("n"), self.next);
        if self.random.random_bool(0.5) {
            document.append(cstr!("in"), rawdoc! { "x": 1, "y": self.next });
        }
        if self.random.random_bool(0.5) {
            document.append(cstr!("list"), bson::rawbson!([1, 2, 3]));
        }
        let length = self.random.random_range(0..200);
        document.append(cstr!("pad"), "p".repeat(length));
        document
    }

    /// A value of `u` that no document of the collection has.
    fn free_value(&mut self, documents: &[RawDocumentBuf]) -> i32 {
        loop {
            // Few more values than documents, so that they often move from one to another.
            let value = self.random.random_range(0..self.habits.ids * 3 / 2);
            if !documents
                .iter()
                .any(|document| document.get_i32("u").is_ok_and(|taken| taken == value))
            {
                return value;
            }
        }
    }

    fn write_one(&mut self, name: &str) {
        let documents = self.source.documents(name).unwrap();
        let value = self.free_value(&documents);
        let Some(existing) = documents.choose(&mut self.random).cloned() else {
            let id = self.id();
            let document = self.document(id, value);
            self.source.insert(name, document).unwrap();
            return;
        };
        let id: RawBson = existing.get("_id").unwrap().unwrap().into();
        match self.random.random_range(0..10) {
            0..3 => {
                let id = self.id();
                let document = self.document(id, value);
                // The id may be taken.
                let _ = self.source.insert(name, document);
            }
            3 => {
                self.source.delete(name, id).unwrap();
            }
            4 => {
                let document = self.document(id, value);
                self.source.replace(name, document).unwrap();
            }
            _ => {
                let delta = self.delta(&existing, value);
                self.source.update(name, id, delta).unwrap();
            }
        }
    }

    /// A delta as a server logs it.
    fn delta(&mut self, document: &RawDocumentBuf, value: i32) -> RawDocumentBuf {
        self.next += 1;
        let field = format!("f{}", self.random.random_range(0..4));
        let has = document.get(&field).unwrap().is_some();
        let inner = matches!(document.get("in"), Ok(Some(RawBsonRef::Document(_))));
        let list = matches!(document.get("list"), Ok(Some(RawBsonRef::Array(_))));
        if self.habits.old_deltas && self.random.random_bool(0.5) {
            return match self.random.random_range(0..5) {
                0 => rawdoc! { "$v": 1, "$set": { "u": value } },
                1 if has => {
                    let mut unset = RawDocumentBuf::new();
                    unset.append(bson::raw::CString::try_from(field).unwrap(), true);
                    rawdoc! { "$v": 1, "$unset": unset }
                }
                2 if inner => rawdoc! { "$v": 1, "$set": { "in.z": self.next, "n": self.next } },
                3 if list => rawdoc! { "$v": 1, "$set": { "list.1": self.next } },
                _ => {
                    let mut set = RawDocumentBuf::new();
                    set.append(bson::raw::CString::try_from(field).unwrap(), self.next);
                    rawdoc! { "$v": 1, "$set": set }
                }
            };
        }
        let mut named = RawDocumentBuf::new();
        named.append(bson::raw::CString::try_from(field).unwrap(), self.next);
        let diff = match self.random.random_range(0..8) {
            0 | 1 => rawdoc! { "u": { "u": value } },
            2 if has => rawdoc! { "d": named },
            3 if inner => rawdoc! { "sin": { "u": { "y": self.next } } },
            4 if inner => rawdoc! { "d": { "in": false } },
            4 => rawdoc! { "i": { "in": { "y": 0 } } },
            5 if list => rawdoc! { "slist": { "a": true, "u0": self.next } },
            6 if list => rawdoc! { "u": { "list": "no longer a list" } },
            6 => rawdoc! { "u": { "pad": "short" }, "i": { "list": [self.next] } },
            // Moves the field to the end where there is one.
            _ => rawdoc! { "i": named },
        };
        rawdoc! { "$v": 2, "diff": diff }
    }

    /// Writes for one transaction; they touch different documents.
    async fn transaction(&mut self) -> Vec<TransactionWrite> {
        let listed = self.plain().await;
        let mut writes: Vec<TransactionWrite> = Vec::new();
        for collection in &listed {
            if self.random.random_bool(0.5) {
                continue;
            }
            let name = collection.namespace.to_string();
            let documents = self.source.documents(&name).unwrap();
            let value = self.free_value(&documents);
            if let Some(existing) = documents.choose(&mut self.random) {
                let id: RawBson = existing.get("_id").unwrap().unwrap().into();
                match self.random.random_range(0..4) {
                    0 => writes.push(Box::new(move |transaction| transaction.delete(&name, id))),
                    1 => {
                        let document = self.document(id, value);
                        writes.push(Box::new(move |transaction| transaction.replace(&name, document)));
                    }
                    _ => {
                        let delta = self.delta(existing, value);
                        writes.push(Box::new(move |transaction| transaction.update(&name, id, delta)));
                    }
                }
            } else {
                let id = self.id();
                let document = self.document(id, value);
                writes.push(Box::new(move |transaction| transaction.insert(&name, document)));
            }
        }
        writes
    }

    /// Two documents exchange their values, or one takes over that of a document that is deleted or changed just before.
    async fn swap(&mut self) {
        let Some(name) = self.some_collection().await else {
            return;
        };
        let documents = self.source.documents(&name).unwrap();
        if documents.len() < 2 {
            return;
        }
        let of = |document: &RawDocumentBuf| {
            let id: RawBson = document.get("_id").unwrap().unwrap().into();
            (id, document.get_i32("u").unwrap())
        };
        let first = self.random.random_range(0..documents.len());
        let second = (first + self.random.random_range(1..documents.len())) % documents.len();
        let ((first, one), (second, two)) = (of(&documents[first]), of(&documents[second]));
        let set = |value: i32| rawdoc! { "$v": 2, "diff": { "u": { "u": value } } };
        let free = self.free_value(&documents);
        match self.random.random_range(0..3) {
            0 => {
                self.source
                    .transaction(|transaction| {
                        transaction.update(&name, first.clone(), set(free))?;
                        transaction.update(&name, second, set(one))?;
                        transaction.update(&name, first, set(two))
                    })
                    .unwrap();
            }
            1 => {
                self.source.delete(&name, first).unwrap();
                self.source.update(&name, second, set(one)).unwrap();
            }
            _ => {
                self.source.update(&name, first, set(free)).unwrap();
                self.source.update(&name, second, set(one)).unwrap();
            }
        }
    }

    fn create_index(&mut self, name: &str) {
        let number = self.random.random_range(0..3);
        let specification = match self.random.random_range(0..3) {
            0 if self.habits.unique => {
                rawdoc! { "v": 2, "key": { "u": 1 }, "name": format!("i{number}"), "unique": true }
            }
            1 => rawdoc! { "v": 2, "key": { "n": 1 }, "name": format!("i{number}"), "expireAfterSeconds": 100 },
            _ => rawdoc! { "v": 2, "key": { "pad": 1 }, "name": format!("i{number}") },
        };
        // The name may be taken.
        let _ = self.source.create_index(name, specification);
    }

    async fn change_catalog(&mut self) {
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        let other = NAMES[self.random.random_range(0..NAMES.len())];
        // What cannot be done, such as dropping what is not there, is not done.
        match self.random.random_range(0..if self.habits.moves { 14 } else { 6 }) {
            0 | 1 => self.create_index(name),
            2 => {
                let _ = self
                    .source
                    .drop_index(name, &format!("i{}", self.random.random_range(0..3)));
            }
            3 | 4 => {
                let index = format!("i{}", self.random.random_range(0..3));
                let change = match self.random.random_range(0..3) {
                    0 => rawdoc! { "validationLevel": "moderate" },
                    1 => rawdoc! { "index": { "name": index, "hidden": self.random.random_bool(0.5) } },
                    _ => {
                        rawdoc! { "index": { "name": index, "expireAfterSeconds": self.random.random_range(10..1000) } }
                    }
                };
                let _ = self.source.modify(name, change);
            }
            5 => {
                let options = self.options();
                let _ = self.source.create_collection(name, options);
            }
            6 | 7 => {
                let _ = self.source.drop_collection(name);
            }
            8..11 => {
                if name != other {
                    let _ = self.source.rename(name, other);
                }
            }
            11 => {
                // Quickly dropped and made again.
                if self.source.drop_collection(name).is_ok() {
                    let options = self.options();
                    self.source.create_collection(name, options).unwrap();
                    self.write_one(name);
                }
            }
            12 if self.habits.kinds => {
                let on = ["a", "b"][self.random.random_range(0..2)];
                if self.random.random_bool(0.5) {
                    let _ = self
                        .source
                        .create_collection("shop.view", rawdoc! { "viewOn": on, "pipeline": [] });
                } else if self.random.random_bool(0.5) {
                    let _ = self.source.drop_collection("shop.view");
                } else {
                    let _ = self.source.modify("shop.view", rawdoc! { "viewOn": on });
                }
            }
            13 if self.habits.kinds && self.random.random_bool(0.5) => {
                let other = ["shop.log2", "shop.tmp_log"][self.random.random_range(0..2)];
                match self.random.random_range(0..4) {
                    0 => drop(self.source.rename("shop.log", other)),
                    1 => {
                        if self.source.drop_collection("shop.log").is_ok() {
                            let options = rawdoc! { "capped": true, "size": 1 << 20 };
                            self.source.create_collection("shop.log", options).unwrap();
                        }
                    }
                    _ => drop(self.source.rename(other, "shop.log")),
                }
            }
            13 if self.random.random_bool(0.1) => {
                self.source.drop_database("shop").unwrap();
            }
            _ => {
                let _ = self.source.rename(name, "shop.a");
            }
        }
    }
}

type TransactionWrite = Box<dyn FnOnce(&mut Transaction) -> Result<()>>;
