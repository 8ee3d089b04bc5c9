//! What a version answers to the commands that it shares with 4.2.

use mongodb::bson::{Bson, DateTime, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, raw::RawBson};

use super::{
    Period,
    cursor::Batch,
    entry::{as_timestamp, number},
    message::{append, fields},
};

/// The addresses of a set's members: the real one, and the one that clients know.
#[derive(Debug, Default)]
pub(super) struct Addresses(pub(super) Vec<(String, String)>);

impl Addresses {
    /// Puts the known addresses in the place of real ones, however deep.
    pub(super) fn translate(&self, value: &mut Bson) {
        match value {
            Bson::String(text) => {
                if let Some((_, known)) = self.0.iter().find(|(real, _)| real == text) {
                    text.clone_from(known);
                }
            }
            Bson::Array(values) => values.iter_mut().for_each(|value| self.translate(value)),
            Bson::Document(document) => document.iter_mut().for_each(|(_, value)| self.translate(value)),
            _ => {}
        }
    }

    pub(super) fn translate_document(&self, document: &mut Document) {
        document.iter_mut().for_each(|(_, value)| self.translate(value));
    }
}

/// A real answer without what came with later versions, whatever the command.
///
/// Read: `operationTime` and `$clusterTime` came with 3.6.
pub(super) fn common(period: Period, answer: &RawDocument) -> RawDocumentBuf {
    let mut rest = RawDocumentBuf::new();
    for (name, value) in fields(answer) {
        let is_later = matches!(name, "operationTime" | "$clusterTime" | "lastCommittedOpTime");
        if !is_later || period >= Period::V3_6 {
            append(&mut rest, name, value);
        }
    }
    rest
}

/// Seen on 2.6 and 3.0: these fields in this order. Read: what later versions added.
pub(super) fn is_master(period: Period, real: Document, newest_until: impl Fn(u64) -> u64) -> Document {
    let mut answer = Document::new();
    let set = [
        "setName",
        "setVersion",
        "ismaster",
        "secondary",
        "hosts",
        "passives",
        "arbiters",
        "primary",
        "arbiterOnly",
        "passive",
        "hidden",
        "slaveDelay",
        "tags",
        "me",
        "electionId",
        "info",
        "isreplicaset",
    ];
    for name in set {
        if let Some(value) = real.get(name) {
            answer.insert(name, value.clone());
        }
    }
    if period >= Period::V3_4
        && let Ok(last) = real.get_document("lastWrite")
    {
        answer.insert("lastWrite", last_write(period, last, newest_until));
    }
    for name in ["maxBsonObjectSize", "maxMessageSizeBytes"] {
        answer.extend(real.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    // Seen: 1,000. Read: 100,000 since 3.6.
    answer.insert("maxWriteBatchSize", if period < Period::V3_6 { 1000 } else { 100_000 });
    answer.extend(real.get("localTime").map(|time| ("localTime".to_owned(), time.clone())));
    if period >= Period::V3_6 {
        let timeout = real.get("logicalSessionTimeoutMinutes");
        answer.extend(timeout.map(|timeout| ("logicalSessionTimeoutMinutes".to_owned(), timeout.clone())));
    }
    answer.insert("maxWireVersion", period.wire_version());
    answer.insert("minWireVersion", 0);
    if period >= Period::V3_4 {
        answer.insert("readOnly", false);
    }
    if period >= Period::V4_0
        && let Some(mechanisms) = real.get("saslSupportedMechs")
    {
        answer.insert("saslSupportedMechs", mechanisms.clone());
    }
    keep_errors(&mut answer, &real);
    if period >= Period::V3_6 {
        for name in ["operationTime", "$clusterTime"] {
            answer.extend(real.get(name).map(|value| (name.to_owned(), value.clone())));
        }
    }
    answer
}

/// Read: since 3.4, and what a majority has with the defaults of 3.6. The positions are those of entries that there are.
fn last_write(period: Period, real: &Document, newest_until: impl Fn(u64) -> u64) -> Document {
    let mut last = real.clone();
    if period < Period::V3_6 {
        last.remove("majorityOpTime");
        last.remove("majorityWriteDate");
    }
    for name in ["opTime", "majorityOpTime"] {
        if let Ok(position) = last.get_document_mut(name) {
            existing(position, &newest_until);
        }
    }
    last
}

/// Moves a position to the newest entry that is not beyond it.
fn existing(position: &mut Document, newest_until: impl Fn(u64) -> u64) {
    if let Ok(at) = position.get_timestamp("ts") {
        let found = as_timestamp(newest_until(number(at)));
        position.insert("ts", found);
    }
}

/// Only what clients ask for; the modules and the compiler of 4.2 would belie it.
pub(super) fn build_info(period: Period, real: &Document) -> Document {
    let version: Vec<i32> = period
        .release()
        .split('.')
        .filter_map(|part| part.parse().ok())
        .collect();
    let mut answer = doc! {
        "version": period.release(),
        "gitVersion": "0000000000000000000000000000000000000000",
        "versionArray": [version[0], version[1], version[2], 0],
        "bits": 64,
        "debug": false,
        "maxBsonObjectSize": 16 * 1024 * 1024,
    };
    if period >= Period::V3_2 {
        // Read: the engines came with 3.0, their list with 3.2.
        answer.insert(
            "storageEngines",
            vec!["devnull", "ephemeralForTest", "mmapv1", "wiredTiger"],
        );
    }
    keep_errors(&mut answer, real);
    answer
}

/// Seen on 2.6 and 3.0: an `optime` is a time stamp, and nothing tells what a majority has. Read: `{ts, t}` since 3.2, and
/// `optimes` since 3.4.
pub(super) fn status(period: Period, real: &Document, newest_until: impl Fn(u64) -> u64) -> Document {
    let set: &[&str] = match period {
        Period::V2_6 | Period::V3_0 => &["set", "date", "myState", "members"],
        Period::V3_2 => &["set", "date", "myState", "term", "heartbeatIntervalMillis", "members"],
        _ => &[
            "set",
            "date",
            "myState",
            "term",
            "heartbeatIntervalMillis",
            "optimes",
            "members",
        ],
    };
    let mut answer = some(real, set);
    if let Ok(times) = answer.get_document_mut("optimes") {
        *times = kept(times, |name| !name.ends_with("WallTime"));
        for (_, position) in times.iter_mut() {
            if let Bson::Document(position) = position {
                existing(position, &newest_until);
            }
        }
        if period < Period::V3_6 {
            times.remove("readConcernMajorityOpTime");
        }
    }
    let member = [
        "_id",
        "name",
        "health",
        "state",
        "stateStr",
        "uptime",
        "optime",
        "optimeDurable",
        "optimeDate",
        "optimeDurableDate",
        "lastHeartbeat",
        "lastHeartbeatRecv",
        "pingMs",
        "syncingTo",
        "electionTime",
        "electionDate",
        "configVersion",
        "self",
    ];
    if let Ok(members) = answer.get_array_mut("members") {
        for entry in members.iter_mut() {
            let Bson::Document(real) = entry else { continue };
            let mut kept = some(real, &member);
            if period == Period::V2_6 {
                // Seen: it came with 3.0.
                kept.remove("configVersion");
            }
            if period < Period::V3_4 {
                kept.remove("optimeDurable");
                kept.remove("optimeDurableDate");
            }
            // Seen: a member without one has no such field.
            if kept.get_str("syncingTo").is_ok_and(str::is_empty) {
                kept.remove("syncingTo");
            }
            for name in ["optime", "optimeDurable"] {
                let Ok(position) = kept.get_document_mut(name) else {
                    continue;
                };
                existing(position, &newest_until);
                if period < Period::V3_2
                    && let Ok(at) = position.get_timestamp("ts")
                {
                    kept.insert("optimeDate", DateTime::from_millis(i64::from(at.time) * 1000));
                    kept.insert(name, at);
                }
            }
            *entry = Bson::Document(kept);
        }
    }
    if period == Period::V2_6
        && let Ok(date) = answer.get_datetime("date")
    {
        // Seen: whole seconds.
        let seconds = date.timestamp_millis() / 1000;
        answer.insert("date", DateTime::from_millis(seconds * 1000));
    }
    keep_errors(&mut answer, real);
    answer
}

/// Seen on 2.6 and 3.0: these sections. Read: what later versions added.
pub(super) fn server_status(period: Period, mut real: Document) -> Document {
    const OF_3_0: [&str; 24] = [
        "asserts",
        "connections",
        "cursors",
        "extra_info",
        "globalLock",
        "host",
        "localTime",
        "locks",
        "mem",
        "metrics",
        "network",
        "ok",
        "opcounters",
        "opcountersRepl",
        "pid",
        "process",
        "repl",
        "storageEngine",
        "uptime",
        "uptimeEstimate",
        "uptimeMillis",
        "version",
        "wiredTiger",
        "writeBacksQueued",
    ];
    if real.contains_key("version") {
        real.insert("version", period.release());
    }
    let is_error = real.contains_key("errmsg");
    real = kept(&real, |name| match name {
        _ if is_error => true,
        "storageEngine" | "wiredTiger" if period == Period::V2_6 => false,
        _ if period <= Period::V3_0 => OF_3_0.contains(&name),
        "transactions" => period >= Period::V4_0,
        "logicalSessionRecordCache" => period >= Period::V3_6,
        "flowControl" | "trafficRecording" | "flowControlStats" => false,
        _ => true,
    });
    if period < Period::V3_6
        && let Ok(set) = real.get_document_mut("repl")
    {
        set.remove("rbid");
        set.remove("lastWrite");
    }
    real
}

/// Seen: 2.6 has no `wiredTiger` section, by which clients know the engine.
pub(super) fn collection_statistics(period: Period, mut real: Document) -> Document {
    if period == Period::V2_6 {
        real.remove("wiredTiger");
        real.remove("indexDetails");
    }
    if period < Period::V4_0 {
        real.remove("scaleFactor");
        real.remove("indexBuilds");
    }
    real
}

/// Seen on 2.6 and 3.0: `numCollections` and `fromCache`. Read: the uuids came with 4.0.
pub(super) fn digest(period: Period, mut real: Document) -> Document {
    if period < Period::V4_0 {
        for name in ["uuids", "capped", "dropPendingCollections"] {
            real.remove(name);
        }
    }
    if period <= Period::V3_0
        && let Ok(collections) = real.get_document("collections")
    {
        let count = collections.len() as i32;
        real.insert("numCollections", count);
        real.insert("fromCache", Bson::Array(Vec::new()));
    }
    real
}

/// Read: there is no database for the sessions of clients before 3.6.
pub(super) fn databases(period: Period, mut real: Document) -> Document {
    if period < Period::V3_6
        && let Ok(databases) = real.get_array_mut("databases")
    {
        databases.retain(|database| {
            let name = database
                .as_document()
                .and_then(|database| database.get_str("name").ok());
            name != Some("config")
        });
    }
    real
}

/// The answer to `find` and `getMore`.
pub(super) fn cursor(period: Period, name: &str, batch: Batch, namespace: &str, time: Option<u64>) -> RawDocumentBuf {
    let documents: RawArrayBuf = batch.documents.into_iter().map(RawBson::Document).collect();
    let mut cursor = RawDocumentBuf::new();
    append(&mut cursor, name, &*documents);
    append(&mut cursor, "id", batch.cursor);
    append(&mut cursor, "ns", namespace);
    let mut answer = RawDocumentBuf::new();
    append(&mut answer, "cursor", &*cursor);
    append(&mut answer, "ok", 1.0);
    if let Some(time) = time.filter(|_| period >= Period::V3_6) {
        append(&mut answer, "operationTime", as_timestamp(time));
    }
    answer
}

fn some(document: &Document, names: &[&str]) -> Document {
    names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), document.get(name)?.clone())))
        .collect()
}

fn kept(document: &Document, is_kept: impl Fn(&str) -> bool) -> Document {
    let fields = document.iter().filter(|(name, _)| is_kept(name));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// How the command went.
fn keep_errors(answer: &mut Document, real: &Document) {
    for name in ["ok", "errmsg", "code", "codeName"] {
        if let Some(value) = real.get(name) {
            answer.insert(name, value.clone());
        }
    }
}
