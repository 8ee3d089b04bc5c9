//! Random documents and random updates of them.
//!
//! The names come from a small pool, so that two documents have much in common, and hold the words that the delta formats
//! use themselves, numbers, and where a server stores them empty, dotted and `$` names.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

const PLAIN_NAMES: &[&str] = &[
    "a", "b", "c", "d", "i", "l", "s", "u", "sa", "su", "u0", "diff", "0", "1", "2", "02", "9", "10", "é",
];
const ODD_NAMES: &[&str] = &["", ".", "a.b", "sa.0", "l.1"];
const DOLLAR_NAMES: &[&str] = &["$x", "$set", "$v"];

/// Stands for bytes that are not UTF-8; see [`super::bytes::raw`].
pub const NOT_UTF8: &str = "\u{1}BAD\u{1}";

/// Makes documents and updates from one seed.
pub struct Chaos {
    random: StdRng,
    /// Whether the server stores names that start with `$`.
    dollar_names: bool,
    /// Whether the update being made may spell an index with a leading zero. It may not name one in any other way too:
    /// 5.0 and later abort when one array element is named in two spellings.
    leading_zeros: bool,
}

/// One statement of an `update` command.
#[derive(Debug)]
pub struct Update {
    /// What to look for besides the `_id`.
    pub filter: Document,
    pub change: Bson,
    pub array_filters: Vec<Document>,
}

impl Chaos {
    pub fn new(seed: u64, dollar_names: bool) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            dollar_names,
            leading_zeros: false,
        }
    }

    pub fn index(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    /// A document without `_id`.
    pub fn document(&mut self) -> Document {
        let mut document = self.fields(8, 0);
        // A pipeline update is logged as a delta only when that is smaller than the document.
        if self.chance(0.9) {
            document.insert("pad", "p".repeat(self.random.random_range(50..400)));
        }
        document
    }

    /// An update of a document whose fields are given without the `_id`.
    pub fn update(&mut self, before: &Document) -> Update {
        if self.chance(0.5) {
            self.operators(before)
        } else {
            self.pipeline(before)
        }
    }

    /// Operators alone, which 4.4 and earlier log as deltas, other than pipelines.
    pub fn operators(&mut self, before: &Document) -> Update {
        let mut update = Update {
            filter: Document::new(),
            change: Bson::Null,
            array_filters: Vec::new(),
        };
        self.leading_zeros = self.chance(0.1);
        let mut operators = Document::new();
        let mut taken: Vec<String> = Vec::new();
        for _ in 0..self.random.random_range(1..5) {
            let (mut path, value) = self.path(before);
            if overlaps(&taken, &path) {
                continue;
            }
            let (operator, argument) = match value {
                Some(Bson::Array(items)) => self.array_operator(&mut path, &items, &mut update),
                Some(Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_)) => self.numeric_operator(),
                Some(_) => self.plain_operator(),
                None => self.creating_operator(),
            };
            let argument = if operator == "$rename" {
                let (target, _) = self.path(before);
                if overlaps(&taken, &target) || overlaps(std::slice::from_ref(&path), &target) {
                    continue;
                }
                taken.push(target.clone());
                Bson::String(target)
            } else {
                argument
            };
            taken.push(path.clone());
            let paths = operators
                .entry(operator.to_owned())
                .or_insert_with(|| Bson::Document(Document::new()));
            if let Bson::Document(paths) = paths {
                paths.insert(path, argument);
            }
        }
        if operators.is_empty() {
            operators.insert("$set", doc! { "n": self.scalar() });
        }
        update.change = Bson::Document(operators);
        update
    }

    /// A document that differs from another one in a few places.
    pub fn variant_of(&mut self, document: &Document) -> Document {
        let mut variant = document.clone();
        for _ in 0..self.random.random_range(1..6) {
            self.mutate_document(&mut variant, 0);
        }
        variant
    }

    /// A pipeline that makes some other document of this one.
    fn pipeline(&mut self, before: &Document) -> Update {
        let stage = match self.index(10) {
            0 => {
                let (path, _) = self.path(before);
                doc! { "$set": { path: { "$literal": self.value(2) } } }
            }
            1 => {
                let (path, _) = self.path(before);
                doc! { "$unset": [path] }
            }
            2 if self.dollar_names => {
                let (field, value) = (self.name(), self.value(2));
                doc! { "$replaceWith": { "$setField": {
                    "field": { "$literal": field }, "input": "$$ROOT", "value": { "$literal": value },
                } } }
            }
            3 => doc! { "$set": { "_id": { "$toDouble": "$_id" }, "n": { "$literal": self.scalar() } } },
            _ => {
                let mut after = before.clone();
                for _ in 0..self.random.random_range(1..4) {
                    self.mutate_document(&mut after, 0);
                }
                doc! { "$replaceWith": { "$mergeObjects": [{ "_id": "$_id" }, { "$literal": after }] } }
            }
        };
        Update {
            filter: Document::new(),
            change: Bson::Array(vec![stage.into()]),
            array_filters: Vec::new(),
        }
    }

    fn array_operator(&mut self, path: &mut String, items: &[Bson], update: &mut Update) -> (&'static str, Bson) {
        match self.index(if self.leading_zeros { 11 } else { 16 }) {
            0 | 1 => ("$push", self.value(2)),
            2..=5 => {
                let mut modifiers = doc! { "$each": self.values(3) };
                if self.chance(0.4) {
                    modifiers.insert("$slice", self.random.random_range(-4..5));
                }
                if self.chance(0.3) {
                    modifiers.insert("$position", self.random.random_range(-2..4));
                }
                if self.chance(0.2) {
                    modifiers.insert("$sort", if self.chance(0.5) { 1 } else { -1 });
                }
                ("$push", modifiers.into())
            }
            6 => ("$addToSet", self.value(1)),
            7 => ("$addToSet", doc! { "$each": self.values(3) }.into()),
            8 => ("$pop", Bson::Int32(if self.chance(0.5) { 1 } else { -1 })),
            9 => (
                "$pull",
                items.choose(&mut self.random).cloned().unwrap_or(Bson::Int32(1)),
            ),
            10 => (
                "$pullAll",
                Bson::Array(items.choose_multiple(&mut self.random, 2).cloned().collect()),
            ),
            11 => {
                path.push_str(".$[]");
                ("$set", self.value(1))
            }
            12 => {
                path.push_str(".$[].");
                path.push_str(self.path_name());
                ("$set", self.scalar())
            }
            13 => {
                if update.array_filters.is_empty() {
                    update
                        .array_filters
                        .push(doc! { "e": { "$type": ["int", "object", "string"] } });
                }
                path.push_str(".$[e]");
                if self.chance(0.4) {
                    ("$unset", Bson::String(String::new()))
                } else {
                    ("$set", self.value(1))
                }
            }
            14 if update.filter.is_empty() && !items.is_empty() => {
                update.filter.insert(
                    path.clone(),
                    items.choose(&mut self.random).cloned().unwrap_or(Bson::Null),
                );
                path.push_str(".$");
                ("$set", self.value(1))
            }
            _ => self.plain_operator(),
        }
    }

    fn numeric_operator(&mut self) -> (&'static str, Bson) {
        match self.index(7) {
            0 => ("$inc", Bson::Int32(self.random.random_range(-3..4))),
            1 => ("$inc", Bson::Double(0.5)),
            2 => ("$mul", Bson::Int64(3)),
            3 => ("$min", Bson::Int32(0)),
            4 => ("$max", Bson::Int32(5)),
            _ => self.plain_operator(),
        }
    }

    fn plain_operator(&mut self) -> (&'static str, Bson) {
        match self.index(10) {
            0..=4 => ("$set", self.value(3)),
            5..=7 => ("$unset", Bson::String(String::new())),
            8 => ("$rename", Bson::Null),
            _ => (
                "$currentDate",
                if self.chance(0.5) {
                    Bson::Boolean(true)
                } else {
                    doc! { "$type": "timestamp" }.into()
                },
            ),
        }
    }

    fn creating_operator(&mut self) -> (&'static str, Bson) {
        match self.index(8) {
            0..=4 => ("$set", self.value(2)),
            5 => ("$push", self.scalar()),
            6 => ("$inc", Bson::Int32(1)),
            _ => ("$addToSet", self.scalar()),
        }
    }

    /// A dotted path that mostly exists, and the value there.
    fn path(&mut self, document: &Document) -> (String, Option<Bson>) {
        let mut parts: Vec<String> = Vec::new();
        let mut at: Option<Bson> = Some(Bson::Document(document.clone()));
        loop {
            at = match at {
                Some(Bson::Document(fields)) => {
                    let names: Vec<&String> = fields.keys().filter(|name| is_path_part(name)).collect();
                    let name = match names.choose(&mut self.random) {
                        Some(name) if self.chance(0.75) => (*name).clone(),
                        _ => self.path_name().to_owned(),
                    };
                    let value = fields.get(&name).cloned();
                    parts.push(name);
                    value
                }
                Some(Bson::Array(items)) => {
                    let index = match self.index(10) {
                        0..=6 if !items.is_empty() => self.index(items.len()),
                        0..=8 => items.len() + self.index(3),
                        _ => {
                            parts.push(self.path_name().to_owned());
                            return (parts.join("."), None);
                        }
                    };
                    parts.push(if self.leading_zeros && self.chance(0.5) {
                        format!("0{index}")
                    } else {
                        index.to_string()
                    });
                    items.get(index).cloned()
                }
                other => {
                    parts.push(self.path_name().to_owned());
                    return (parts.join("."), other.and(None));
                }
            };
            let deeper = match &at {
                Some(Bson::Document(_) | Bson::Array(_)) => 0.65,
                Some(_) => 0.03,
                None => 0.2,
            };
            if parts.len() > 5 || !self.chance(deeper) {
                return (parts.join("."), at);
            }
        }
    }

    fn mutate_document(&mut self, document: &mut Document, depth: usize) {
        let mut fields: Vec<(String, Bson)> = std::mem::take(document).into_iter().collect();
        let position = if fields.is_empty() { 0 } else { self.index(fields.len()) };
        match self.index(if fields.is_empty() { 1 } else { 12 }) {
            0 | 1 => {
                let field = (self.name(), self.value(depth + 1));
                fields.push(field);
            }
            2 => {
                let field = (self.name(), self.value(depth + 1));
                fields.insert(position, field);
            }
            3 => drop(fields.remove(position)),
            4 => fields[position].1 = self.value(depth + 1),
            5 => {
                let field = fields.remove(position);
                fields.push(field);
            }
            6 => {
                let field = fields.remove(position);
                let to = self.index(fields.len() + 1);
                fields.insert(to, field);
            }
            7 if depth > 0 => fields.shuffle(&mut self.random),
            _ => self.mutate_value(&mut fields[position].1, depth + 1),
        }
        // Of two fields of one name the first stays, at its place.
        for (name, value) in fields {
            document.entry(name).or_insert(value);
        }
    }

    fn mutate_value(&mut self, value: &mut Bson, depth: usize) {
        match value {
            Bson::Document(document) => self.mutate_document(document, depth),
            Bson::Array(items) => {
                let position = if items.is_empty() { 0 } else { self.index(items.len()) };
                match self.index(if items.is_empty() { 2 } else { 10 }) {
                    0 | 1 => items.extend(self.values(3)),
                    2 => items.truncate(position),
                    3 => drop(items.remove(position)),
                    4 => {
                        let value = self.value(depth + 1);
                        items.insert(position, value);
                    }
                    5 => items[position] = self.value(depth + 1),
                    _ => self.mutate_value(&mut items[position], depth + 1),
                }
            }
            other => *other = self.value(depth),
        }
    }

    fn fields(&mut self, most: usize, depth: usize) -> Document {
        let count = self.random.random_range(0..=most);
        (0..count).map(|_| (self.name(), self.value(depth + 1))).collect()
    }

    fn values(&mut self, most: usize) -> Vec<Bson> {
        (0..self.random.random_range(0..=most)).map(|_| self.value(2)).collect()
    }

    fn value(&mut self, depth: usize) -> Bson {
        match self.index(10) {
            0..=2 if depth < 4 => Bson::Document(self.fields(5, depth)),
            3..=5 if depth < 4 => {
                let count = self.random.random_range(0..6);
                Bson::Array((0..count).map(|_| self.value(depth + 1)).collect())
            }
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Bson {
        match self.index(24) {
            0..=4 => Bson::Int32(self.random.random_range(-3..10)),
            5 => Bson::Int64(self.random.random_range(-3..10)),
            6 => Bson::Double(f64::from(self.random.random_range(-3..10))),
            7 => Bson::Double(*[f64::NAN, -0.0, f64::INFINITY, 0.1].choose(&mut self.random).unwrap()),
            8..=10 => Bson::String((*["", "x", "$a", "text", "z\0z"].choose(&mut self.random).unwrap()).to_owned()),
            11 => Bson::String("long ".repeat(self.random.random_range(1..30))),
            12 => Bson::String(NOT_UTF8.to_owned()),
            13 => Bson::Boolean(self.chance(0.5)),
            14 => Bson::Null,
            15 => Bson::Undefined,
            16 => Bson::DateTime(DateTime::from_millis(self.random.random_range(-5..5))),
            17 => Bson::Timestamp(Timestamp {
                time: self.random.random_range(0..2),
                increment: 0,
            }),
            18 => Bson::ObjectId(ObjectId::from_bytes(self.random.random())),
            19 => {
                let subtype = *[
                    BinarySubtype::Generic,
                    BinarySubtype::Uuid,
                    BinarySubtype::UserDefined(0x80),
                ]
                .choose(&mut self.random)
                .unwrap();
                Bson::Binary(Binary {
                    subtype,
                    bytes: vec![7; 16],
                })
            }
            20 => Bson::Decimal128(Decimal128::from_bytes([0x30; 16])),
            21 => Bson::JavaScriptCode("f()".to_owned()),
            22 => Bson::Symbol("symbol".to_owned()),
            _ => (*[Bson::MinKey, Bson::MaxKey].choose(&mut self.random).unwrap()).clone(),
        }
    }

    fn name(&mut self) -> String {
        match self.index(40) {
            0..=2 => (*ODD_NAMES.choose(&mut self.random).unwrap()).to_owned(),
            3 if self.dollar_names => (*DOLLAR_NAMES.choose(&mut self.random).unwrap()).to_owned(),
            4 => NOT_UTF8.to_owned(),
            _ => self.path_name().to_owned(),
        }
    }

    fn path_name(&mut self) -> &'static str {
        PLAIN_NAMES.choose(&mut self.random).unwrap()
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }
}

fn is_path_part(name: &str) -> bool {
    !name.is_empty() && !name.contains('.') && !name.starts_with('$') && name != NOT_UTF8
}

/// True when one path is the other one or leads to it, which a server refuses in one update, or when they name one array
/// element in two spellings, over which 5.0 and later abort.
fn overlaps(taken: &[String], path: &str) -> bool {
    let number = |part: &str| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.trim_start_matches('0').to_owned())
    };
    taken.iter().any(|other| {
        let first_difference = other.split('.').zip(path.split('.')).find(|(one, other)| one != other);
        first_difference.is_none_or(|(one, other)| number(one).is_some() && number(one) == number(other))
    })
}
