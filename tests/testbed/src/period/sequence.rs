//! Entries of 4.2 that were one entry, or none, before.
//!
//! Whether an entry belongs to such a sequence shows only in those that follow. The first one waits for them for a while;
//! what is decided then holds for every member of the set, whose oplogs have to be the same.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};

use super::{
    Period,
    entry::{command_of, replacement, timestamp},
    message::fields,
};

/// How long an entry waits for the rest of a command that writes all its entries at once.
const AT_ONCE: Duration = Duration::from_millis(200);
/// How long an entry waits for the rest of a command that copies documents.
const COPYING: Duration = Duration::from_secs(1);

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// Written, in the form of the version.
    Kept,
    /// Not written.
    Dropped,
    /// Written as this entry, which has the form of the version.
    Replaced(RawDocumentBuf),
}

/// What has been decided for the members of a set, by time stamp.
#[derive(Debug, Default)]
pub(super) struct Fates(Mutex<HashMap<u64, Fate>>);

impl Fates {
    /// What becomes of the first of `pending`, which came `waited` ago. `None`: what follows has to be seen.
    pub(super) fn of_first(
        &self,
        period: Period,
        pending: &VecDeque<RawDocumentBuf>,
        waited: Duration,
    ) -> Option<Fate> {
        let Some((first, at)) = pending.front().and_then(|first| Some((first, timestamp(first)?))) else {
            return Some(Fate::Dropped);
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fate) = known.get(&at) {
            return Some(fate.clone());
        }
        match look(period, first, pending) {
            Look::Alone => Some(Fate::Kept),
            Look::Wait(longest) if waited < longest => None,
            Look::Wait(_) => {
                known.insert(at, Fate::Kept);
                Some(Fate::Kept)
            }
            Look::Sequence(fates) => {
                known.extend(fates);
                known.get(&at).cloned()
            }
        }
    }
}

/// What the entries that follow one say about it.
enum Look {
    Alone,
    Wait(Duration),
    /// The fates of all entries that belong together.
    Sequence(Vec<(u64, Fate)>),
}

fn look(period: Period, first: &RawDocument, pending: &VecDeque<RawDocumentBuf>) -> Look {
    let (Some((name, Some(collection))), Ok(namespace)) = (command_of(first), first.get_str("ns")) else {
        return Look::Alone;
    };
    if period >= Period::V3_6 {
        return Look::Alone;
    }
    let database = namespace.trim_end_matches(".$cmd");
    match name {
        "create" if collection.starts_with("tmp") && collection.contains(".convertToCapped.") => {
            converted(period, database, collection, first, pending)
        }
        "create" if collection.starts_with("tmp") && collection.ends_with(".renameCollection") => {
            renamed(period, database, collection, pending)
        }
        "create" if period == Period::V2_6 => implicit(database, collection, first, pending),
        "drop" => dropped(database, pending),
        _ => Look::Alone,
    }
}

/// Seen on 2.6 and 3.0, read for 3.2 and 3.4: `convertToCapped` is one entry, without the copied documents.
fn converted(
    period: Period,
    database: &str,
    copy: &str,
    first: &RawDocument,
    pending: &VecDeque<RawDocumentBuf>,
) -> Look {
    let namespace = format!("{database}.{copy}");
    let Some(rename) = pending.iter().position(|entry| is_rename_of(entry, &namespace)) else {
        return unfinished(&namespace, pending);
    };
    let original = copy
        .split_once(".convertToCapped.")
        .map_or(copy, |(_, original)| original);
    let size = first
        .get_document("o")
        .ok()
        .and_then(|object| object.get("size").ok().flatten());
    let size = size
        .and_then(|size| Bson::try_from(size).ok())
        .unwrap_or(Bson::Int32(0));
    let command = doc! { "convertToCapped": original, "size": size };
    let entry = replacement(period, &pending[rename], &format!("{database}.$cmd"), &command);
    let mut fates = fates_of(&namespace, pending.iter().take(rename));
    fates.push((timestamp(&pending[rename]).unwrap_or_default(), Fate::Replaced(entry)));
    Look::Sequence(fates)
}

/// Seen on 2.6 and 3.0, read for 3.2 and 3.4: a rename into another database is one entry, without the copied documents.
fn renamed(period: Period, database: &str, copy: &str, pending: &VecDeque<RawDocumentBuf>) -> Look {
    let namespace = format!("{database}.{copy}");
    let Some(rename) = pending.iter().position(|entry| is_rename_of(entry, &namespace)) else {
        return unfinished(&namespace, pending);
    };
    let copied = pending.iter().take(rename);
    let copied = copied
        .filter(|entry| entry.get_str("ns").ok() == Some(namespace.as_str()))
        .count();
    // The original is dropped last; how many documents it had tells it from others that are dropped meanwhile.
    let is_original = |entry: &RawDocumentBuf| {
        let count = entry
            .get_document("o2")
            .ok()
            .and_then(|count| count.get("numRecords").ok().flatten());
        let count = count.and_then(|count| count.as_i64().or(count.as_i32().map(i64::from)));
        matches!(command_of(entry), Some(("drop", _)))
            && entry.get_str("ns").ok() != Some(format!("{database}.$cmd").as_str())
            && count == Some(copied as i64)
    };
    let Some(drop) = pending.iter().skip(rename).position(is_original).map(|at| rename + at) else {
        return Look::Wait(COPYING);
    };
    let from_database = pending[drop]
        .get_str("ns")
        .unwrap_or_default()
        .trim_end_matches(".$cmd");
    let original = command_of(&pending[drop])
        .and_then(|(_, collection)| collection)
        .unwrap_or_default();
    let original = format!("{from_database}.{original}");
    let field = |name| pending[rename].get_document("o").ok()?.get(name).ok().flatten();
    let to = field("to").and_then(|to| to.as_str()).unwrap_or_default();
    let is_onto = field("dropTarget").is_some();
    let (namespace_of_command, command) = rename_command(period, from_database, &original, to, is_onto);
    let entry = replacement(period, &pending[rename], &namespace_of_command, &command);
    let mut fates = fates_of(&namespace, pending.iter().take(rename));
    fates.push((timestamp(&pending[rename]).unwrap_or_default(), Fate::Replaced(entry)));
    // What was written to the original after it had been copied is lost on 4.2.
    fates.extend(fates_of(&original, pending.iter().take(drop + 1).skip(rename + 1)));
    Look::Sequence(fates)
}

/// A copy that is dropped again, as when the command fails, is shown as it was made.
fn unfinished(copy: &str, pending: &VecDeque<RawDocumentBuf>) -> Look {
    let is_dropped = |entry: &RawDocumentBuf| touches(entry, copy) && matches!(command_of(entry), Some(("drop", _)));
    if pending.iter().any(is_dropped) {
        return Look::Alone;
    }
    Look::Wait(COPYING)
}

/// As in an entry of a rename within a database.
fn rename_command(period: Period, database: &str, from: &str, to: &str, is_onto: bool) -> (String, Document) {
    if period <= Period::V3_0 {
        let mut command = doc! { "renameCollection": from, "to": to };
        if is_onto {
            command.insert("dropTarget", true);
        }
        return ("admin.$cmd".to_owned(), command);
    }
    let command = doc! { "renameCollection": from, "to": to, "stayTemp": false, "dropTarget": is_onto };
    (format!("{database}.$cmd"), command)
}

/// Seen on 2.6: a collection that an insert or an index made has no entry. An explicit creation that is followed by an
/// insert at once cannot be told from it.
fn implicit(database: &str, collection: &str, first: &RawDocument, pending: &VecDeque<RawDocumentBuf>) -> Look {
    let has_options = first
        .get_document("o")
        .is_ok_and(|object| fields(object).any(|(name, _)| name != "create" && name != "idIndex"));
    if has_options {
        return Look::Alone;
    }
    let namespace = format!("{database}.{collection}");
    let Some(next) = pending.iter().skip(1).find(|entry| touches(entry, &namespace)) else {
        return Look::Wait(AT_ONCE);
    };
    if next.get_str("op").ok() == Some("i") || matches!(command_of(next), Some(("createIndexes", _))) {
        return Look::Sequence(vec![(timestamp(first).unwrap_or_default(), Fate::Dropped)]);
    }
    Look::Alone
}

/// Seen on 2.6 and 3.0, read for 3.2 and 3.4: `dropDatabase` is one entry, without those of its collections.
fn dropped(database: &str, pending: &VecDeque<RawDocumentBuf>) -> Look {
    let mut fates = Vec::new();
    let prefix = format!("{database}.");
    for entry in pending
        .iter()
        .filter(|entry| entry.get_str("ns").is_ok_and(|ns| ns.starts_with(&prefix)))
    {
        match command_of(entry) {
            Some(("drop", _)) => fates.push((timestamp(entry).unwrap_or_default(), Fate::Dropped)),
            Some(("dropDatabase", _)) => return Look::Sequence(fates),
            _ => return Look::Alone,
        }
    }
    Look::Wait(AT_ONCE)
}

fn is_rename_of(entry: &RawDocument, namespace: &str) -> bool {
    command_of(entry) == Some(("renameCollection", Some(namespace)))
}

/// Whether the entry is about the collection: writes to it, or a command on it.
fn touches(entry: &RawDocument, namespace: &str) -> bool {
    let Ok(at) = entry.get_str("ns") else {
        return false;
    };
    match command_of(entry) {
        Some(("renameCollection", from)) => from == Some(namespace),
        Some(("dropDatabase", _)) => namespace.starts_with(at.trim_end_matches("$cmd")),
        Some((_, Some(collection))) => namespace.strip_prefix(at.trim_end_matches("$cmd")) == Some(collection),
        _ => at == namespace,
    }
}

/// All entries about the collection, which are not written.
fn fates_of<'a>(namespace: &str, entries: impl Iterator<Item = &'a RawDocumentBuf>) -> Vec<(u64, Fate)> {
    entries
        .filter(|entry| touches(entry, namespace))
        .filter_map(|entry| Some((timestamp(entry)?, Fate::Dropped)))
        .collect()
}
