//! The documents of the copy, the same for the same scale: S has many small ones, M has three secondary indexes, L has large ones.

use bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use bson::{Document, doc, oid::ObjectId, rawdoc};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::arguments::scaled;

/// The database of everything that is migrated.
pub(crate) const DATABASE: &str = "bench";

const SEED: u64 = 2026;

/// The values of a field with an index that tells documents little apart.
const STATUS: [&str; 4] = ["new", "paid", "sent", "back"];

/// A collection of the copy.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Small,
    Medium,
    Large,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    pub fn collection(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }

    pub fn documents(self, scale: f64) -> u64 {
        match self {
            Self::Small => scaled(2_000_000, scale),
            Self::Medium => scaled(500_000, scale),
            Self::Large => scaled(3_000, scale),
        }
    }

    /// How many documents one command takes: 1 to 4 MB are best for a server.
    fn batch(self) -> u64 {
        match self {
            Self::Small => 5_000,
            Self::Medium => 1_000,
            Self::Large => 8,
        }
    }

    fn document(self, number: u64, text: &Text, random: &mut SmallRng) -> RawDocumentBuf {
        let number = number as i64;
        let at = bson::DateTime::from_millis(1_700_000_000_000 + number * 37);
        match self {
            Self::Small => {
                let mut id = [0x65; 12];
                id[4..].copy_from_slice(&number.to_be_bytes());
                rawdoc! {
                    "_id": ObjectId::from_bytes(id),
                    "sensor": random.random_range(0..5_000),
                    "at": at,
                    "value": random.random::<f64>(),
                    "note": text.slice(110, random),
                }
            }
            Self::Medium => {
                let status = STATUS[random.random_range(0..STATUS.len())];
                rawdoc! {
                    "_id": number,
                    "email": format!("user-{number}@example.com"),
                    "customer": random.random_range(0..50_000),
                    "at": at,
                    "status": status,
                    "address": { "street": text.slice(40, random), "city": text.slice(12, random) },
                    "lines": [
                        { "sku": random.random_range(0..9_999), "count": 1, "text": text.slice(180, random) },
                        { "sku": random.random_range(0..9_999), "count": 2, "text": text.slice(180, random) },
                    ],
                    "comment": text.slice(840, random),
                }
            }
            Self::Large => rawdoc! {
                "_id": format!("file-{number:06}"),
                "at": at,
                "content": text.slice(500_000, random),
            },
        }
    }

    /// The commands that insert its documents, ready to be sent, and the bytes of these.
    pub fn inserts(self, scale: f64) -> (Vec<RawDocumentBuf>, u64) {
        let text = Text::new();
        let mut random = SmallRng::seed_from_u64(SEED);
        let (mut commands, mut bytes, mut next) = (Vec::new(), 0, 0);
        while next < self.documents(scale) {
            let end = (next + self.batch()).min(self.documents(scale));
            let mut documents = RawArrayBuf::new();
            for number in next..end {
                let document = self.document(number, &text, &mut random);
                bytes += document.as_bytes().len() as u64;
                documents.push(document);
            }
            next = end;
            commands.push(insert(self.collection(), documents));
        }
        (commands, bytes)
    }

    /// Its secondary indexes.
    pub fn indexes(self) -> Vec<Document> {
        match self {
            Self::Medium => vec![
                doc! { "key": { "email": 1 }, "name": "email_1", "unique": true },
                doc! { "key": { "customer": 1, "at": -1 }, "name": "customer_1_at_-1" },
                doc! { "key": { "status": 1 }, "name": "status_1" },
            ],
            Self::Small | Self::Large => Vec::new(),
        }
    }
}

/// An `insert` that a primary acknowledges by itself.
pub(crate) fn insert(collection: &str, documents: RawArrayBuf) -> RawDocumentBuf {
    let mut command = rawdoc! { "insert": collection, "ordered": false, "writeConcern": { "w": 1 } };
    command.append(cstr!("documents"), documents);
    command
}

/// Words to cut texts from, so that they compress about as texts do.
pub(crate) struct Text(String);

impl Text {
    const BYTES: usize = 4 << 20;

    pub fn new() -> Self {
        let mut random = SmallRng::seed_from_u64(SEED);
        let words: Vec<String> = (0..4_000)
            .map(|_| {
                let letters = random.random_range(2..10);
                (0..letters).map(|_| random.random_range('a'..='z')).collect()
            })
            .collect();
        let mut text = String::with_capacity(Self::BYTES);
        while text.len() < Self::BYTES {
            text.push_str(&words[random.random_range(0..words.len())]);
            text.push(' ');
        }
        Self(text)
    }

    pub fn slice(&self, bytes: usize, random: &mut SmallRng) -> &str {
        let start = random.random_range(0..self.0.len() - bytes);
        &self.0[start..start + bytes]
    }
}
