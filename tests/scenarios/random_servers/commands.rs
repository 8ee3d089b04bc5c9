//! Random commands of an application that does everything.

use bson::raw::{RawDocumentBuf, cstr};
use bson::{Bson, DateTime, Document, doc, rawdoc};
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongoferry_testbed::Version;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::Mutex;

/// Renames from one database into another are made one at a time: two that go in opposite directions lock 4.4 up for good.
static BETWEEN_DATABASES: Mutex<()> = Mutex::const_new(());

const DATABASES: [&str; 2] = ["one", "two"];
const COLLECTIONS: [&str; 4] = ["a", "b", "c", "d"];

/// Milliseconds of a time in 2033, so that nothing expires: what a server deletes by itself would go on after the writers have ended.
const FUTURE: i64 = 2_000_000_000_000;

/// The commands of one writer.
pub(in crate::scenarios) struct Commands {
    version: Version,
    random: StdRng,
    /// How many different `_id`s there are.
    ids: i32,
    /// Of a hundred commands, so many change the catalog.
    catalog: u32,
}

/// One step of a writer.
pub(in crate::scenarios) enum Step {
    Run(&'static str, Document),
    /// Inserts a document that has names twice, into a collection.
    Insert(&'static str, &'static str, RawDocumentBuf),
    Transaction(Vec<(&'static str, Document)>, bool),
}

impl Step {
    /// What the server refuses, as it does where writers meet, is part of the workload.
    pub async fn perform(self, client: &Client, loud: bool) {
        match self {
            Step::Run(database, command) => {
                let _turn = match command.contains_key("renameCollection") {
                    true => Some(BETWEEN_DATABASES.lock().await),
                    false => None,
                };
                let answer = client.database(database).run_command(command.clone()).await;
                if loud {
                    let result = answer.as_ref().map_or_else(ToString::to_string, ToString::to_string);
                    eprintln!("{database} {command}: {result}");
                }
                accept(answer.map(drop));
            }
            Step::Insert(database, collection, document) => {
                let collection = client.database(database).collection::<RawDocumentBuf>(collection);
                let answer = collection.insert_one(&document).await;
                if loud {
                    eprintln!("{database} insert {document:?}: {}", answer.is_ok());
                }
                accept(answer.map(drop));
            }
            Step::Transaction(commands, commit) => {
                let mut session = client.start_session().await.unwrap();
                session.start_transaction().await.unwrap();
                for (database, command) in &commands {
                    let database = client.database(database);
                    let run = database.run_command(command.clone());
                    if run.session(&mut session).await.is_err() {
                        break;
                    }
                }
                let ended = match commit {
                    true => session.commit_transaction().await,
                    false => session.abort_transaction().await,
                };
                if loud {
                    eprintln!("transaction {commands:?}, commit {commit}: {ended:?}");
                }
                accept(ended);
            }
        }
    }
}

/// Refusals are what the application would see; anything else would be a broken test.
fn accept(answer: Result<(), mongodb::error::Error>) {
    if let Err(error) = answer {
        let is_refusal = matches!(
            *error.kind,
            ErrorKind::Command(_) | ErrorKind::Write(_) | ErrorKind::Transaction { .. }
        );
        assert!(is_refusal, "the source does not answer: {error}");
    }
}

impl Commands {
    pub fn new(version: Version, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            version,
            ids: [10, 60, 400][random.random_range(0..3)],
            catalog: [0, 3, 10, 30][random.random_range(0..4)],
            random,
        }
    }

    pub fn next(&mut self) -> Step {
        let database = self.database();
        if self.random.random_range(0..100) < self.catalog {
            let (database, command) = self.catalog(database);
            return Step::Run(database, command);
        }
        if self.random.random_bool(0.03) {
            return Step::Insert(database, self.collection(), self.repeated());
        }
        if self.random.random_bool(0.1) && self.version >= Version::V4_0 {
            let commands = (0..self.random.random_range(1..6)).map(|_| (self.database(), self.write()));
            let commands = commands.collect();
            return Step::Transaction(commands, self.random.random_bool(0.8));
        }
        Step::Run(database, self.write())
    }

    /// A change of the catalog.
    pub fn next_of_catalog(&mut self) -> Step {
        let database = self.database();
        let (database, command) = self.catalog(database);
        Step::Run(database, command)
    }

    fn database(&mut self) -> &'static str {
        if self.random.random_bool(0.7) {
            DATABASES[0]
        } else {
            DATABASES[1]
        }
    }

    fn collection(&mut self) -> &'static str {
        self.one(&COLLECTIONS)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.random).unwrap()
    }

    fn id(&mut self) -> Bson {
        let number = self.random.random_range(0..self.ids);
        match self.random.random_range(0..10) {
            0 => Bson::String(format!("{number}")),
            1 => Bson::Double(f64::from(number) + 0.5),
            2 => Bson::Document(doc! { "k": number }),
            _ => Bson::Int32(number),
        }
    }

    fn value(&mut self) -> Bson {
        let number = self.random.random_range(0..20);
        match self.random.random_range(0..9) {
            0 => Bson::Null,
            1 => Bson::String("x".repeat(number as usize * 20)),
            2 => Bson::Array((0..number % 5).map(Bson::Int32).collect()),
            3 => Bson::Document(doc! { "a": number, "b": { "c": [number, { "d": 1 }] } }),
            4 => Bson::Double(f64::from(number) / 4.0),
            5 => Bson::Int64(i64::from(number)),
            6 => Bson::DateTime(DateTime::from_millis(FUTURE + i64::from(number))),
            7 => Bson::Boolean(number % 2 == 0),
            _ => Bson::Int32(number),
        }
    }

    fn field(&mut self) -> &'static str {
        self.one(&["a", "b", "n", "u", "list", "sub.a", "sub.b", "list.0", "sub.deep.x"])
    }

    fn document(&mut self) -> Document {
        let mut document = doc! {};
        for field in ["b", "a", "n", "u", "list", "sub", "text", "at"] {
            if self.random.random_bool(0.5) {
                let value = match field {
                    "u" => Bson::Int32(self.random.random_range(0..self.ids)),
                    "list" => Bson::Array((0..self.random.random_range(0..4)).map(|_| self.value()).collect()),
                    "sub" => Bson::Document(doc! { "a": self.value(), "b": self.value() }),
                    "n" => Bson::Int32(1),
                    _ => self.value(),
                };
                document.insert(field, value);
            }
        }
        document
    }

    /// A document with names that stand twice. It has none of the fields by which several documents are chosen: servers of 5.0 and newer
    /// abort when such a document is changed by a pipeline.
    fn repeated(&mut self) -> RawDocumentBuf {
        let value = self.random.random_range(0..5);
        let mut sub = rawdoc! { "x": value, "y": 1 };
        sub.append(cstr!("x"), value + 1);
        let mut document = rawdoc! { "_id": self.repeated_id(), "sub": sub, "y": value };
        for _ in 0..self.random.random_range(0..3) {
            document.append(cstr!("y"), rawdoc! { "x": value });
        }
        document
    }

    fn repeated_id(&mut self) -> String {
        format!("twice {}", self.random.random_range(0..5))
    }

    fn change_repeated(&mut self) -> Document {
        let field = self.one(&["sub.x", "sub.y", "sub.z", "x", "y", "sub", "y.x"]);
        match self.random.random_range(0..4) {
            0 => doc! { "$unset": { field: "" } },
            1 => doc! { "$inc": { field: 1 } },
            _ => doc! { "$set": { field: self.value() } },
        }
    }

    /// Changes many elements of an array, each of which is a path of its own in the oplog.
    fn change_wide(&mut self) -> Document {
        match self.random.random_bool(0.3) {
            true => doc! { "$set": { "wide": (0..2000).collect::<Vec<i32>>() } },
            false => doc! { "$inc": { "wide.$[]": 1 } },
        }
    }

    fn write(&mut self) -> Document {
        let collection = self.collection();
        match self.random.random_range(0..200) {
            0..8 => {
                let change = self.change_repeated();
                return doc! { "update": collection, "updates": [{ "q": { "_id": self.repeated_id() }, "u": change }] };
            }
            8 => {
                let change = self.change_wide();
                return doc! { "update": collection, "updates": [{ "q": { "_id": "wide" }, "u": change, "upsert": true }] };
            }
            _ => {}
        }
        match self.random.random_range(0..20) {
            0..=5 => {
                let count = if self.random.random_bool(0.1) { 40 } else { 3 };
                let documents = (0..self.random.random_range(1..=count)).map(|_| {
                    let mut document = doc! { "_id": self.id() };
                    document.extend(self.document());
                    document
                });
                let documents: Vec<Document> = documents.collect();
                doc! { "insert": collection, "documents": documents, "ordered": self.random.random_bool(0.5) }
            }
            6..=14 => {
                let multi = self.random.random_bool(0.1);
                let change = self.change(multi);
                let query = match multi {
                    true => doc! { "n": { "$gte": self.random.random_range(0..3) } },
                    false => doc! { "_id": self.id() },
                };
                let upsert = !multi && self.random.random_bool(0.3);
                doc! { "update": collection, "updates": [{ "q": query, "u": change, "multi": multi, "upsert": upsert }] }
            }
            15..=17 => doc! { "delete": collection, "deletes": [{ "q": { "_id": self.id() }, "limit": 1 }] },
            18 => {
                let number = self.random.random_range(0..20);
                doc! { "delete": collection, "deletes": [{ "q": { "a": number }, "limit": 0 }] }
            }
            _ => {
                let change = self.change(true);
                doc! { "findAndModify": collection, "query": { "_id": self.id() }, "update": change, "new": true }
            }
        }
    }

    fn change(&mut self, operators_only: bool) -> Bson {
        let field = self.field();
        let value = self.value();
        let number = self.random.random_range(-2..5);
        let operators = match self.random.random_range(0..15) {
            0 | 1 => doc! { "$set": { field: value } },
            2 => doc! { "$unset": { field: "" } },
            3 => doc! { "$inc": { "n": number } },
            4 => doc! { "$inc": { "u": number } },
            5 => doc! { "$push": { "list": { "$each": [value, 1], "$position": 0, "$slice": -6 } } },
            6 => doc! { "$push": { "list": value } },
            7 => doc! { "$pop": { "list": if number > 0 { 1 } else { -1 } } },
            8 => doc! { "$pull": { "list": value } },
            9 => doc! { "$addToSet": { "list": value } },
            10 => doc! { "$rename": { "a": "sub.a", "b": "text" } },
            11 => {
                doc! { "$set": { "sub": { "b": value }, "at": DateTime::from_millis(FUTURE) }, "$unset": { "text": "" } }
            }
            12 if self.version >= Version::V4_2 => {
                let pipeline = vec![
                    doc! { "$set": { "sub": { "$mergeObjects": ["$sub", { "p": value }] }, "n": { "$add": [1, 2] } } },
                    doc! { "$unset": "text" },
                ];
                return Bson::from(pipeline);
            }
            _ if operators_only => doc! { "$min": { "n": number }, "$currentDate": { "now": true } },
            _ => self.document(),
        };
        Bson::Document(operators)
    }

    /// A command on the catalog, and the database that it runs on.
    fn catalog(&mut self, database: &'static str) -> (&'static str, Document) {
        let collection = self.collection();
        let other = self.collection();
        let command = match self.random.random_range(0..20) {
            0 | 1 => self.create(collection),
            2..=6 => self.create_index(collection),
            7 | 8 => {
                let name = self.one(&["a_1", "u_1", "text_text", "at_1", "list_1_n_-1", "*"]);
                doc! { "dropIndexes": collection, "index": name }
            }
            9 | 10 => self.modify(collection),
            11 | 12 => doc! { "drop": collection },
            13..=15 => {
                let to = format!("{}.{other}", self.database());
                let rename = doc! {
                    "renameCollection": format!("{database}.{collection}"),
                    "to": to,
                    "dropTarget": self.random.random_bool(0.5),
                };
                return ("admin", rename);
            }
            16 => {
                let stage = match self.random.random_bool(0.5) || self.version < Version::V4_2 {
                    true => doc! { "$out": other },
                    false => doc! { "$merge": { "into": other } },
                };
                doc! { "aggregate": collection, "pipeline": [{ "$match": { "n": { "$exists": true } } }, stage], "cursor": {} }
            }
            17 => doc! { "convertToCapped": collection, "size": 100_000 },
            18 => doc! { "cloneCollectionAsCapped": collection, "toCollection": other, "size": 100_000 },
            _ if self.random.random_bool(0.3) => doc! { "dropDatabase": 1 },
            _ if self.version < Version::V3_4 => doc! { "create": other },
            _ => doc! { "create": "view", "viewOn": collection, "pipeline": [{ "$match": { "n": 1 } }] },
        };
        (database, command)
    }

    fn create(&mut self, collection: &str) -> Document {
        let mut create = doc! { "create": collection };
        create.extend(match self.random.random_range(0..8) {
            0 => doc! {},
            // What the version does not know yet it keeps as it is written, without a meaning.
            2 | 7 if self.version < Version::V3_4 => doc! {},
            3 | 4 | 6 if self.version < Version::V3_2 => doc! {},
            // As older servers and drivers left them: numbers of other types, and what is the default or without a meaning by now.
            5 => doc! { "capped": true, "size": 50_000.0, "max": 40_i64 },
            6 => doc! { "autoIndexId": true, "validationAction": "error" },
            7 => doc! { "idIndex": { "v": 1, "key": { "_id": 1 }, "name": "_id_" } },
            1 => doc! { "capped": true, "size": 50_000, "max": 40 },
            2 => doc! { "collation": { "locale": "en", "strength": 2 } },
            3 => doc! { "validator": { "n": { "$not": { "$type": "string" } } }, "validationAction": "warn" },
            _ if self.version >= Version::V6_0 => doc! { "changeStreamPreAndPostImages": { "enabled": true } },
            _ => doc! { "validationLevel": "moderate" },
        });
        create
    }

    fn create_index(&mut self, collection: &str) -> Document {
        let index = match self.random.random_range(0..10) {
            7 => doc! { "key": { "a": 1.0 }, "name": "a_1", "v": 1, "background": true },
            8 => doc! { "key": { "n": -1_i64 }, "name": "n_-1", "sparse": 1, "v": 1 },
            9 => doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 1_500_000_000.0, "unique": false },
            0 => doc! { "key": { "a": 1 }, "name": "a_1" },
            1 | 2 if self.version < Version::V3_2 => doc! { "key": { "u": 1 }, "name": "u_1", "sparse": true },
            1 | 2 => {
                doc! { "key": { "u": 1 }, "name": "u_1", "unique": true, "partialFilterExpression": { "u": { "$exists": true } } }
            }
            3 => doc! { "key": { "text": "text" }, "name": "text_text" },
            4 => doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 1_500_000_000 },
            5 => doc! { "key": { "list": 1, "n": -1 }, "name": "list_1_n_-1", "sparse": true },
            _ => doc! { "key": { "b": "hashed" }, "name": "b_hashed" },
        };
        doc! { "createIndexes": collection, "indexes": [index] }
    }

    fn modify(&mut self, collection: &str) -> Document {
        let mut modify = doc! { "collMod": collection };
        modify.extend(match self.random.random_range(0..4) {
            0 | 1 if self.version < Version::V3_2 => {
                doc! { "index": { "name": "at_1", "expireAfterSeconds": 1_500_000_000 } }
            }
            0 => doc! { "validator": { "n": { "$not": { "$type": "string" } } }, "validationAction": "warn" },
            1 => doc! { "validator": {}, "validationLevel": "off" },
            2 if self.version >= Version::V4_4 => doc! { "index": { "name": "a_1", "hidden": self.random.random_bool(0.5) } },
            _ => doc! { "index": { "name": "at_1", "expireAfterSeconds": 1_500_000_000 + self.random.random_range(0..100) } },
        });
        modify
    }
}
