//! Documents with a name that stands twice, updated while a migration follows: the target stays up, and both sides are equal byte for
//! byte.
//!
//! `MONGOFERRY_SEED=17` runs one seed, `MONGOFERRY_SEEDS=100` that many from `MONGOFERRY_FIRST_SEED` on. All pairs of versions are an
//! ignored test.

use bson::raw::{CStr, RawArrayBuf, RawBson, RawDocumentBuf, cstr};
use bson::{Timestamp, rawdoc};
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Migration, MigrationHandle, Outcome};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::deadline::{cut_over, ready};

const DOCUMENTS: i32 = 60;

/// Few names, so that they are repeated. The last are none that a path can have.
const NAMES: [&CStr; 9] = [
    cstr!("a"),
    cstr!("b"),
    cstr!("c"),
    cstr!("x"),
    cstr!("y"),
    cstr!("0"),
    cstr!("2"),
    cstr!("a.b"),
    cstr!("$x"),
];
const PATH_NAMES: usize = 7;

#[tokio::test(flavor = "multi_thread")]
async fn repeated_names_from_4_2_to_6_0() {
    seeds(Version::V4_2, Version::V6_0, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_names_from_4_4_to_4_4() {
    seeds(Version::V4_4, Version::V4_4, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_names_from_5_0_to_5_0() {
    seeds(Version::V5_0, Version::V5_0, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_names_from_6_0_to_6_0() {
    seeds(Version::V6_0, Version::V6_0, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_names_from_6_0_27_to_6_0_27() {
    seeds(Version::V6_0_27, Version::V6_0_27, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn repeated_names_on_every_pair() {
    for from in Version::ALL {
        for to in Version::ALL.into_iter().filter(|to| *to >= from) {
            seeds(from, to, 10).await;
        }
    }
}

async fn seeds(from: Version, to: Version, count: u64) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(from).start(),
        ReplicaSet::builder(to).name("rs1").start()
    )
    .unwrap();
    let only = number("MONGOFERRY_SEED");
    let first = only.or_else(|| number("MONGOFERRY_FIRST_SEED")).unwrap_or(1);
    let count = only.map_or_else(|| number("MONGOFERRY_SEEDS").unwrap_or(count), |_| 1);
    for seed in first..first + count {
        eprintln!("{from} to {to}: seed {seed}");
        for set in [&source, &target] {
            let client = set.client().await.unwrap();
            for database in client.list_database_names().await.unwrap() {
                if !["admin", "config", "local"].contains(&database.as_str()) {
                    client.database(&database).drop().await.unwrap();
                }
            }
        }
        one(&source, &target, seed).await;
    }
}

async fn one(source: &ReplicaSet, target: &ReplicaSet, seed: u64) {
    let mut random = Random::new(seed, source.version());
    let (writer, reader) = (source.client().await.unwrap(), target.client().await.unwrap());
    let documents: Vec<Vec<Field>> = (0..DOCUMENTS).map(|_| random.document()).collect();
    let (copied, followed) = documents.split_at(documents.len() * 3 / 4);
    insert(&writer, 0, copied).await;
    let mut run = start(source, target).await;
    ready(&run).await;
    insert(&writer, copied.len() as i32, followed).await;
    for round in 0..6 {
        let mut statements = RawArrayBuf::new();
        for (id, document) in (0_i32..).zip(&documents) {
            if random.chance(0.7) {
                statements.push(rawdoc! { "q": { "_id": id }, "u": random.update(document) });
            }
        }
        // Paths that conflict make some of them fail.
        let update = rawdoc! { "update": "c", "ordered": false, "updates": statements };
        writer.database("d").run_raw_command(update).await.unwrap();
        if round == 2 && seed.is_multiple_of(2) {
            // A sink that has not seen the documents go over.
            run.abandon().await;
            run = start(source, target).await;
        }
    }
    let summary = cut_over(&run).await;
    assert_identical(&writer, &reader, &CompareOptions::default())
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(summary.outcome, Outcome::Complete, "seed {seed}: {summary:#?}");
}

async fn start(source: &ReplicaSet, target: &ReplicaSet) -> MigrationHandle {
    let (from, to) = (source.uri(), target.uri());
    let (reader, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
    let migration = Migration::builder(reader, sink).build().unwrap();
    migration.start().await.unwrap()
}

async fn insert(client: &Client, first: i32, documents: &[Vec<Field>]) {
    let mut array = RawArrayBuf::new();
    for (id, fields) in (first..).zip(documents) {
        let mut document = rawdoc! { "_id": id };
        append(&mut document, fields);
        array.push(document);
    }
    let insert = rawdoc! { "insert": "c", "documents": array };
    let reply = client.database("d").run_raw_command(insert).await.unwrap();
    assert!(!reply.contains_key("writeErrors"), "{reply}");
}

type Field = (&'static CStr, Value);

/// A value that may have a name twice.
#[derive(Clone)]
enum Value {
    Scalar(RawBson),
    Document(Vec<Field>),
    Array(Vec<Value>),
}

impl Value {
    fn raw(&self) -> RawBson {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::Document(fields) => {
                let mut document = RawDocumentBuf::new();
                append(&mut document, fields);
                RawBson::Document(document)
            }
            Self::Array(items) => {
                let mut array = RawArrayBuf::new();
                for item in items {
                    array.push(item.raw());
                }
                RawBson::Array(array)
            }
        }
    }

    fn has_repeated_names(&self) -> bool {
        match self {
            Self::Scalar(_) => false,
            Self::Document(fields) => has_twice(fields) || fields.iter().any(|(_, value)| value.has_repeated_names()),
            Self::Array(items) => items.iter().any(Self::has_repeated_names),
        }
    }
}

fn has_twice(fields: &[Field]) -> bool {
    let mut names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

fn append(document: &mut RawDocumentBuf, fields: &[Field]) {
    for (name, value) in fields {
        document.append(*name, value.raw());
    }
}

struct Random {
    random: StdRng,
    version: Version,
}

impl Random {
    fn new(seed: u64, version: Version) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            version,
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    /// A document without `_id`, with a pad that makes a diff of it smaller than itself.
    fn document(&mut self) -> Vec<Field> {
        let mut fields = self.fields(0);
        fields.retain(|(name, _)| *name != cstr!("$x"));
        fields.push((cstr!("pad"), Value::Scalar("p".repeat(500).into())));
        fields
    }

    fn fields(&mut self, depth: u32) -> Vec<Field> {
        let count = self.random.random_range(0..7);
        let mut fields: Vec<Field> = Vec::new();
        let repeats = self.chance(0.5);
        for _ in 0..count {
            let name = *NAMES.choose(&mut self.random).unwrap();
            if repeats || fields.iter().all(|(known, _)| *known != name) {
                fields.push((name, self.value(depth + 1)));
            }
        }
        fields
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.random.random_range(0..10) {
            0..4 if depth < 4 => Value::Document(self.fields(depth)),
            4..6 if depth < 4 => {
                let count = self.random.random_range(0..5);
                Value::Array((0..count).map(|_| self.value(depth + 1)).collect())
            }
            6 => Value::Scalar(Timestamp { time: 0, increment: 0 }.into()),
            7 => Value::Scalar("text".to_owned().into()),
            _ => Value::Scalar(self.random.random_range(0..5).into()),
        }
    }

    fn update(&mut self, document: &[Field]) -> RawBson {
        match self.random.random_range(0..12) {
            0 => RawBson::Array(self.pipeline(document)),
            1 => {
                let mut replacement = RawDocumentBuf::new();
                append(&mut replacement, &self.document());
                RawBson::Document(replacement)
            }
            _ => RawBson::Document(self.operators(document)),
        }
    }

    /// 5.0 and later abort over a pipeline that changes what stands twice, or changes what holds such in part.
    fn pipeline(&mut self, document: &[Field]) -> RawArrayBuf {
        let name = NAMES[self.random.random_range(0..PATH_NAMES)];
        let mut stages = RawArrayBuf::new();
        let standing: Vec<_> = document.iter().filter(|(known, _)| *known == name).collect();
        let harmless = match standing.as_slice() {
            [(_, value)] => !value.has_repeated_names(),
            _ => self.version < Version::V5_0,
        };
        match self.random.random_range(0..3) {
            0 => stages.push(rawdoc! { "$unset": name.to_string() }),
            1 if harmless => {
                let mut fields = RawDocumentBuf::new();
                fields.append(name, self.random.random_range(5..9));
                stages.push(rawdoc! { "$set": fields });
            }
            _ => stages.push(rawdoc! { "$set": { "fresh": { "$literal": self.random.random_range(5..9) } } }),
        }
        stages
    }

    fn operators(&mut self, document: &[Field]) -> RawDocumentBuf {
        let (mut set, mut unset, mut push, mut rename) = Default::default();
        for _ in 0..self.random.random_range(1..4) {
            let path = self.path(document);
            match self.random.random_range(0..8) {
                0..4 => add(&mut set, &path, self.value(2).raw()),
                4..6 => add(&mut unset, &path, RawBson::Boolean(true)),
                6 => add(&mut push, &path, self.value(3).raw()),
                _ => add(&mut rename, &path, RawBson::String(self.path(document))),
            }
        }
        let mut update = RawDocumentBuf::new();
        for (operator, paths) in [
            (cstr!("$set"), set),
            (cstr!("$unset"), unset),
            (cstr!("$push"), push),
            (cstr!("$rename"), rename),
        ] {
            let paths: RawDocumentBuf = paths;
            if !paths.is_empty() {
                update.append(operator, paths);
            }
        }
        update
    }

    /// A path that mostly leads to something.
    fn path(&mut self, document: &[Field]) -> String {
        let mut parts: Vec<String> = Vec::new();
        let mut at = Value::Document(document.to_vec());
        loop {
            let (part, next) = match &at {
                Value::Document(fields) => {
                    let known: Vec<_> = fields.iter().filter(|(name, _)| is_path_name(name)).collect();
                    match known.choose(&mut self.random) {
                        Some((name, _)) if self.random.random_bool(0.85) => {
                            let first = fields.iter().find(|(known, _)| known == name).map(|(_, value)| value);
                            (name.to_string(), first)
                        }
                        _ => (NAMES[self.random.random_range(0..PATH_NAMES)].to_string(), None),
                    }
                }
                Value::Array(items) => {
                    let index = self.random.random_range(0..items.len() + 2);
                    (index.to_string(), items.get(index))
                }
                Value::Scalar(_) => return parts.join("."),
            };
            parts.push(part);
            match next {
                Some(value) if self.random.random_bool(0.6) => at = value.clone(),
                _ => return parts.join("."),
            }
        }
    }
}

fn is_path_name(name: &CStr) -> bool {
    NAMES[..PATH_NAMES].contains(&name)
}

fn add(paths: &mut RawDocumentBuf, path: &str, value: RawBson) {
    if let Ok(path) = bson::raw::CString::try_from(path) {
        paths.append(&path, value);
    }
}
