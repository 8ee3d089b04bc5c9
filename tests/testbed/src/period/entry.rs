//! The form of each oplog entry.

use std::collections::HashMap;

use mongodb::bson::{
    Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc,
    raw::{RawBson, RawBsonRef},
};

use super::{
    Period,
    message::{append, fields},
};

/// The entry of a 4.2 as `period` would have written it, or `None` where it wrote none.
pub(super) fn rewrite(period: Period, entry: &RawDocument, indexes: &IndexKeys) -> Option<RawDocumentBuf> {
    let (operation, namespace) = (entry.get_str("op").ok()?, entry.get_str("ns").ok()?);
    if !is_written(period, operation, namespace, entry) {
        return None;
    }
    let object = entry.get_document("o").ok()?;
    let part = match operation {
        "c" => command(period, namespace, object, indexes)?,
        // Seen: no `$v`. Read: 3.6 writes it with its own feature compatibility version.
        "u" if period < Period::V3_6 => Part::same(operation, namespace, without(object, &["$v"])),
        _ => Part::same(operation, namespace, object.to_owned()),
    };

    let mut rewritten = RawDocumentBuf::new();
    for (name, value) in fields(entry) {
        match name {
            // The term came with protocol version 1, which is the default of sets made by 3.2 (read).
            "t" if period < Period::V3_2 => {}
            "h" => append(&mut rewritten, "h", hash(timestamp(entry)?)),
            "op" => append(&mut rewritten, "op", part.operation),
            "ns" => append(&mut rewritten, "ns", part.namespace.as_str()),
            // Seen: only updates have it. How many documents a collection had came with 4.2 (read).
            "o2" if operation == "c" && (period < Period::V3_6 || has(value, "numRecords")) => {}
            // `fromMigrate` is set by chunk migrations alone before 4.2 (read).
            "o" | "fromMigrate" => {}
            _ if !is_field_of(period, name, object) => {}
            _ => append(&mut rewritten, name, value),
        }
        // Seen on 2.6 and 3.0: every deletion has it, before `o`. Read: none since.
        if name == "ns" && operation == "d" && period <= Period::V3_0 {
            append(&mut rewritten, "b", true);
        }
    }
    append(&mut rewritten, "o", part.object.as_ref());
    Some(rewritten)
}

/// An entry that stands for several of 4.2, in the place of `entry`.
pub(super) fn replacement(period: Period, entry: &RawDocument, namespace: &str, object: &Document) -> RawDocumentBuf {
    let mut rewritten = RawDocumentBuf::new();
    for (name, value) in fields(entry) {
        match name {
            "t" if period < Period::V3_2 => {}
            "h" => append(&mut rewritten, "h", timestamp(entry).map_or(1, hash)),
            "ts" | "t" | "v" | "op" => append(&mut rewritten, name, value),
            "ns" => append(&mut rewritten, "ns", namespace),
            _ => {}
        }
    }
    append(&mut rewritten, "o", raw(object).as_ref());
    rewritten
}

/// The time stamp of an entry as a number that is ordered as time stamps are.
pub(super) fn timestamp(entry: &RawDocument) -> Option<u64> {
    entry.get_timestamp("ts").ok().map(number)
}

pub(super) fn number(timestamp: Timestamp) -> u64 {
    u64::from(timestamp.time) << 32 | u64::from(timestamp.increment)
}

pub(super) fn as_timestamp(number: u64) -> Timestamp {
    Timestamp {
        time: (number >> 32) as u32,
        increment: number as u32,
    }
}

/// The name of the command in an entry, and the collection that it is for.
pub(super) fn command_of(entry: &RawDocument) -> Option<(&str, Option<&str>)> {
    if entry.get_str("op").ok() != Some("c") {
        return None;
    }
    let (name, value) = fields(entry.get_document("o").ok()?).next()?;
    Some((name, value.as_str()))
}

/// The keys of indexes by collection and name, for commands that name a key where 4.2 names the index.
#[derive(Debug, Default)]
pub(super) struct IndexKeys(HashMap<(String, String), RawDocumentBuf>);

impl IndexKeys {
    /// Takes notice of an entry of 4.2.
    pub(super) fn note(&mut self, entry: &RawDocument) {
        let (Some((name, Some(collection))), Ok(namespace)) = (command_of(entry), entry.get_str("ns")) else {
            return;
        };
        let Ok(object) = entry.get_document("o") else {
            return;
        };
        match name {
            "createIndexes" => {
                if let (Ok(name), Ok(key)) = (object.get_str("name"), object.get_document("key")) {
                    let of = format!("{}.{collection}", database(namespace));
                    self.0.insert((of, name.to_owned()), key.to_owned());
                }
            }
            "renameCollection" => {
                let to = object.get_str("to").unwrap_or_default();
                let moved: Vec<_> = self.0.extract_if(|(of, _), _| of == collection).collect();
                let moved = moved.into_iter().map(|((_, name), key)| ((to.to_owned(), name), key));
                self.0.extend(moved);
            }
            _ => {}
        }
    }

    fn of(&self, namespace: &str, name: &str) -> Option<&RawDocumentBuf> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// What is written of an entry.
struct Part {
    operation: &'static str,
    namespace: String,
    object: RawDocumentBuf,
}

impl Part {
    fn same(operation: &str, namespace: &str, object: RawDocumentBuf) -> Part {
        let operation = ["i", "u", "d", "c", "n"].into_iter().find(|known| *known == operation);
        Part {
            operation: operation.unwrap_or("n"),
            namespace: namespace.to_owned(),
            object,
        }
    }
}

/// Whether the version wrote such an entry at all.
fn is_written(period: Period, operation: &str, namespace: &str, entry: &RawDocument) -> bool {
    let text = |name| entry.get_document("o").ok()?.get_str(name).ok();
    let message = text("msg").unwrap_or_default();
    let collection = command_of(entry).map(|(_, collection)| collection.unwrap_or_default());
    match (operation, database(namespace)) {
        // Written by 4.2 alone.
        ("n", _) if message.starts_with("Creating indexes") => false,
        // Every ten seconds while nothing else is written, since 3.4 (read); seen: not on 3.0.
        ("n", _) if message == "periodic noop" => period >= Period::V3_4,
        // Since protocol version 1 (read).
        ("n", _) if message == "new primary" => period >= Period::V3_2,
        // The images of retryable writes, since 3.6 (read).
        ("n", database) if !database.is_empty() => period >= Period::V3_6,
        // Sessions, transactions and the keys of cluster times, since 3.6 (read).
        (_, "config") => period >= Period::V3_6,
        (_, "admin") if namespace == "admin.system.keys" || collection == Some("system.keys") => period >= Period::V3_6,
        (_, "admin") if text("_id") == Some("featureCompatibilityVersion") => period >= Period::V3_4,
        // The feature compatibility version changed, since 3.6 (read).
        ("c", _) if is_empty_coll_mod(entry) => period >= Period::V3_6,
        _ => true,
    }
}

fn is_empty_coll_mod(entry: &RawDocument) -> bool {
    command_of(entry).is_some_and(|(name, _)| name == "collMod")
        && entry.get_document("o").is_ok_and(|object| fields(object).count() == 1)
}

/// Whether entries have this field (read), besides those that are made anew.
fn is_field_of(period: Period, name: &str, object: &RawDocument) -> bool {
    match name {
        "ui" | "wall" => period >= Period::V3_6,
        "lsid" | "txnNumber" | "stmtId" | "prevOpTime" | "preImageOpTime" | "postImageOpTime" => {
            // A transaction, which came with 4.0, is shown to 3.6 as an `applyOps` of a user.
            period >= Period::V4_0 || period == Period::V3_6 && object.get_array("applyOps").is_err()
        }
        _ => true,
    }
}

/// A stable hash that is never zero. Servers chain it from entry to entry; clients can only compare it.
fn hash(timestamp: u64) -> i64 {
    let mixed = (timestamp ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)) as i64 | 1
}

/// The command of an entry. To 3.4 the whole object is made anew, from 3.6 on it has 4.2's form (read).
fn command(period: Period, namespace: &str, object: &RawDocument, indexes: &IndexKeys) -> Option<Part> {
    let (name, _) = fields(object).next()?;
    if name == "applyOps" {
        let object = if period < Period::V4_0 {
            plain_apply_ops(period, object)
        } else {
            object.to_owned()
        };
        return Some(Part::same("c", namespace, object));
    }
    if period >= Period::V3_6 {
        return Some(Part::same("c", namespace, object.to_owned()));
    }
    let database = database(namespace);
    let mut namespace = namespace.to_owned();
    let mut object = Document::try_from(object).ok()?;
    match name {
        // Read: with the version 2 of the `_id` index, since 3.4. Seen: 3.0 has `create` alone for what inserts made.
        "create" if period < Period::V3_4 => {
            object.remove("idIndex");
        }
        "createIndexes" => {
            return Some(Part {
                operation: "i",
                namespace: format!("{database}.system.indexes"),
                object: raw(&index_insert(period, database, object)),
            });
        }
        "renameCollection" => {
            let is_onto = object.remove("dropTarget").is_some();
            if period <= Period::V3_0 {
                // Seen: the command as it was sent, on `admin`.
                namespace = "admin.$cmd".to_owned();
                object.remove("stayTemp");
                if is_onto {
                    object.insert("dropTarget", true);
                }
            } else {
                // Read: always both.
                object.insert("stayTemp", false);
                object.insert("dropTarget", is_onto);
            }
        }
        "collMod" => key_pattern(database, &mut object, indexes),
        _ => {}
    }
    Some(Part::same("c", &namespace, raw(&object)))
}

/// Seen on 2.6 and 3.0, with the fields as sent: `{ns, options…, name, key}`. Read: the same to 3.4, whose indexes have `v: 2`.
fn index_insert(period: Period, database: &str, mut entry: Document) -> Document {
    let collection = entry.remove("createIndexes");
    let collection = collection.as_ref().and_then(Bson::as_str).unwrap_or_default();
    let mut insert = doc! { "ns": format!("{database}.{collection}") };
    let name = entry.remove("name").unwrap_or(Bson::Null);
    let mut key = match entry.remove("key") {
        Some(Bson::Document(key)) => key,
        _ => Document::new(),
    };
    if key.contains_key("_fts") {
        // As users write it: each field of the text with `text`.
        let weights = entry.get_document("weights").cloned().unwrap_or_default();
        let stored = std::mem::take(&mut key);
        for (field, direction) in stored {
            match field.as_str() {
                "_fts" => key.extend(weights.keys().map(|field| (field.clone(), "text".into()))),
                "_ftsx" => {}
                _ => {
                    key.insert(field, direction);
                }
            }
        }
        let is_default = |weight: &Bson| [weight.as_i32().map(f64::from), weight.as_f64()].contains(&Some(1.0));
        if weights.values().all(is_default) {
            entry.remove("weights");
        }
    }
    let defaults = [("default_language", "english"), ("language_override", "language")];
    for (option, value) in entry {
        let is_filled_in = matches!(option.as_str(), "ns" | "textIndexVersion" | "2dsphereIndexVersion")
            || option == "v" && period < Period::V3_4
            || defaults.contains(&(&option, value.as_str().unwrap_or_default()));
        if !is_filled_in {
            insert.insert(option, value);
        }
    }
    insert.insert("name", name);
    insert.insert("key", key);
    insert
}

/// Seen on 2.6 and 3.0: the index of a `collMod` is named by its key, as drivers of the time did.
fn key_pattern(database: &str, object: &mut Document, indexes: &IndexKeys) {
    let namespace = format!("{database}.{}", object.get_str("collMod").unwrap_or_default());
    let Ok(index) = object.get_document_mut("index") else {
        return;
    };
    let known = index.get_str("name").ok().and_then(|name| indexes.of(&namespace, name));
    if let Some(key) = known.and_then(|key| Document::try_from(key.as_ref()).ok()) {
        index.remove("name");
        let options = std::mem::take(index);
        index.insert("keyPattern", key);
        index.extend(options);
    }
}

/// Seen on 2.6 and 3.0: operations as they were sent.
fn plain_apply_ops(period: Period, object: &RawDocument) -> RawDocumentBuf {
    let mut plain = RawDocumentBuf::new();
    for (name, value) in fields(object) {
        // 4.2 keeps what its driver sends besides.
        if name.starts_with('$') || name == "lsid" {
            continue;
        }
        let Some(operations) = value.as_array().filter(|_| name == "applyOps") else {
            append(&mut plain, name, value);
            continue;
        };
        let operations: RawArrayBuf = operations
            .into_iter()
            .map_while(Result::ok)
            .filter_map(RawBsonRef::as_document)
            .map(|operation| RawBson::Document(plain_operation(period, operation)))
            .collect();
        append(&mut plain, name, &*operations);
    }
    plain
}

fn plain_operation(period: Period, operation: &RawDocument) -> RawDocumentBuf {
    let mut plain = RawDocumentBuf::new();
    for (name, value) in fields(operation) {
        match (name, value.as_document()) {
            ("ui", _) if period < Period::V3_6 => {}
            ("o", Some(object)) if period < Period::V3_6 => {
                append(&mut plain, name, without(object, &["$v", "idIndex"]).as_ref());
            }
            _ => append(&mut plain, name, value),
        }
    }
    plain
}

fn database(namespace: &str) -> &str {
    namespace.split('.').next().unwrap_or_default()
}

fn has(value: RawBsonRef<'_>, name: &str) -> bool {
    value
        .as_document()
        .is_some_and(|document| matches!(document.get(name), Ok(Some(_))))
}

fn without(document: &RawDocument, names: &[&str]) -> RawDocumentBuf {
    let mut rest = RawDocumentBuf::new();
    for (name, value) in fields(document) {
        if !names.contains(&name) {
            append(&mut rest, name, value);
        }
    }
    rest
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap_or_default()
}
