//! Random documents and random queries of them.
//!
//! Names and values come from small pools, so that many queries find something.

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{Bson, DateTime, Document, RawDocumentBuf, Regex, Timestamp, bson, doc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::scenarios::order::values::Values;

const NAMES: &[&str] = &["a", "b", "c", "0", "1"];

pub struct Maker {
    random: StdRng,
    values: Values,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            values: Values::new(seed),
        }
    }

    /// A document with its number in the field `n`.
    pub fn document(&mut self, number: i32) -> RawDocumentBuf {
        let mut bytes = vec![0; 4];
        if self.chance(0.5) {
            let key = self.values.id();
            field(
                &mut bytes,
                "_id",
                (key.as_raw().element_type(), key.as_raw().bytes().to_vec()),
            );
        }
        for name in ["a", "b", "c", "0"] {
            if self.chance(0.7) {
                let value = self.value(3);
                field(&mut bytes, name, value);
            }
        }
        field(&mut bytes, "n", as_raw(&Bson::Int32(number)));
        RawDocumentBuf::from_bytes(framed(bytes)).unwrap()
    }

    fn value(&mut self, depth: usize) -> (u8, Vec<u8>) {
        match self.random.random_range(0..if depth > 0 { 20 } else { 10 }) {
            0..8 => as_raw(&self.simple()),
            8..10 => self.values.any(),
            10..16 => self.fields(0x04, depth - 1),
            _ => self.fields(0x03, depth - 1),
        }
    }

    fn fields(&mut self, element_type: u8, depth: usize) -> (u8, Vec<u8>) {
        let mut bytes = vec![0; 4];
        for index in 0..self.random.random_range(0..4) {
            let name = match element_type {
                0x04 => index.to_string(),
                _ => self.pick(NAMES).to_owned(),
            };
            let value = self.value(depth);
            field(&mut bytes, &name, value);
        }
        (element_type, framed(bytes))
    }

    /// A value from a small pool.
    fn simple(&mut self) -> Bson {
        match self.random.random_range(0..26) {
            0..6 => Bson::Int32(self.random.random_range(0..4)),
            6 => Bson::Int64(1),
            7 => Bson::Double(1.0),
            8 => Bson::Double(1.5),
            9 => Bson::Decimal128(self.pick(&["1", "1.00", "NaN", "-0", "2.5"]).parse().unwrap()),
            10 => Bson::Double(self.pick(&[f64::NAN, -0.0, f64::INFINITY, -1.0, 1e19, -2.5])),
            11..14 => Bson::String(self.pick(&["a", "b", ""]).to_owned()),
            14 => Bson::Symbol("a".to_owned()),
            15..18 => Bson::Null,
            18 => Bson::Undefined,
            19 => Bson::Boolean(self.chance(0.5)),
            20 => Bson::DateTime(DateTime::from_millis(self.random.random_range(-1..2))),
            21 => Bson::Timestamp(Timestamp {
                time: 1,
                increment: self.random.random_range(0..2),
            }),
            22 => Bson::ObjectId(ObjectId::from_bytes([self.random.random_range(0..2); 12])),
            23 => self.pick(&[Bson::MinKey, Bson::MaxKey]),
            24 => Bson::RegularExpression(Regex {
                pattern: cstr!("a").to_owned(),
                options: cstr!("i").to_owned(),
            }),
            _ => self.pick(&[
                Bson::Array(vec![]),
                bson!({}),
                bson!([1]),
                bson!({ "a": 1 }),
                bson!([[1]]),
            ]),
        }
    }

    /// A query of the supported operators.
    pub fn query(&mut self, documents: &[RawDocumentBuf]) -> Document {
        match self.chance(0.6) {
            true => {
                let operators = self.operators(documents, 2, 1);
                doc! { self.path(): operators }
            }
            false => self.document_query(documents, 3),
        }
    }

    fn document_query(&mut self, documents: &[RawDocumentBuf], depth: usize) -> Document {
        let mut query = Document::new();
        for _ in 0..self.random.random_range(1..3) {
            if depth > 0 && self.chance(0.4) {
                let count = self.random.random_range(1..4);
                let parts: Vec<Bson> = (0..count)
                    .map(|_| self.document_query(documents, depth - 1).into())
                    .collect();
                query.insert(self.pick(&["$and", "$or", "$nor"]), parts);
            } else if self.chance(0.3) {
                let operand = self.operand(documents);
                // Without an operator, a regular expression is a search, and undefined is refused.
                query.insert(self.path(), operand);
            } else {
                let count = self.random.random_range(1..3);
                let operators = self.operators(documents, depth, count);
                query.insert(self.path(), operators);
            }
        }
        query
    }

    fn operators(&mut self, documents: &[RawDocumentBuf], depth: usize, count: usize) -> Document {
        let mut operators = Document::new();
        for _ in 0..count {
            match self.random.random_range(0..if depth > 0 { 20 } else { 16 }) {
                0..8 => {
                    let operator = self.pick(&["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]);
                    operators.insert(operator, self.operand(documents));
                }
                8..10 => {
                    operators.insert(self.pick(&["$in", "$nin"]), self.operands(documents));
                }
                10 => {
                    operators.insert("$exists", self.chance(0.5));
                }
                11..13 => {
                    let types = self.types();
                    operators.insert("$type", types);
                }
                13 => {
                    let divisor = self.pick(&[1, 2, 3, -1, -2, 4_000_000_000_i64]);
                    operators.insert(
                        "$mod",
                        vec![Bson::Int64(divisor), self.random.random_range(-1..3).into()],
                    );
                }
                14 => {
                    operators.insert("$size", self.random.random_range(0..4));
                }
                15 => {
                    operators.insert("$all", self.operands(documents));
                }
                16 => {
                    let inner = self.operators(documents, depth - 1, 1);
                    operators.insert("$not", inner);
                }
                17 => {
                    let inner = self.operators(documents, depth - 1, 1);
                    operators.insert("$all", vec![bson!({ "$elemMatch": inner })]);
                }
                18 => {
                    let count = self.random.random_range(1..3);
                    let inner = self.operators(documents, depth - 1, count);
                    operators.insert("$elemMatch", inner);
                }
                _ => {
                    let inner = self.document_query(documents, depth - 1);
                    operators.insert("$elemMatch", inner);
                }
            }
        }
        operators
    }

    fn types(&mut self) -> Bson {
        let one = |maker: &mut Self| match maker.chance(0.5) {
            true => Bson::Int32(maker.random.random_range(1..20)),
            false => maker
                .pick(&[
                    "number",
                    "string",
                    "array",
                    "object",
                    "null",
                    "minKey",
                    "maxKey",
                    "int",
                    "undefined",
                    "regex",
                ])
                .into(),
        };
        match self.chance(0.7) {
            true => one(self),
            false => vec![one(self), one(self)].into(),
        }
    }

    fn operands(&mut self, documents: &[RawDocumentBuf]) -> Vec<Bson> {
        let count = self.random.random_range(0..4);
        (0..count).map(|_| self.operand(documents)).collect()
    }

    /// A value that a query may compare with: from the pool, or one that some document has.
    fn operand(&mut self, documents: &[RawDocumentBuf]) -> Bson {
        loop {
            let operand = match self.chance(0.5) {
                true => self.simple(),
                false => self.existing(documents).unwrap_or(Bson::Null),
            };
            if !matches!(operand, Bson::RegularExpression(_) | Bson::Undefined) {
                return operand;
            }
        }
    }

    /// `None` if the value has a part that the `bson` crate does not decode.
    fn existing(&mut self, documents: &[RawDocumentBuf]) -> Option<Bson> {
        let document = documents.choose(&mut self.random)?;
        let name = self.pick(NAMES);
        let mut value = Bson::try_from(document.get(name).ok()??).ok()?;
        while self.chance(0.4) {
            value = match value {
                Bson::Array(elements) => elements.choose(&mut self.random)?.clone(),
                Bson::Document(fields) => {
                    let fields: Vec<Bson> = fields.into_iter().map(|(_, value)| value).collect();
                    fields.choose(&mut self.random)?.clone()
                }
                other => other,
            };
        }
        Some(value)
    }

    fn path(&mut self) -> String {
        if self.chance(0.03) {
            return "_id".to_owned();
        }
        let count = self.pick(&[1, 1, 1, 2, 2, 3]);
        let names: Vec<&str> = (0..count).map(|_| self.pick(NAMES)).collect();
        names.join(".")
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices.choose(&mut self.random).unwrap().clone()
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }
}

fn as_raw(value: &Bson) -> (u8, Vec<u8>) {
    let bytes = RawDocumentBuf::try_from(&doc! { "v": value }).unwrap().into_bytes();
    (bytes[4], bytes[7..bytes.len() - 1].to_vec())
}

fn field(bytes: &mut Vec<u8>, name: &str, (element_type, value): (u8, Vec<u8>)) {
    bytes.push(element_type);
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.extend(value);
}

fn framed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(0);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}
