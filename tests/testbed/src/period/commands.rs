//! Which commands a version has, and how it refuses the rest.

use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::{Period, message::fields};

/// The commands of a real 2.6.12 and 3.0.15, one a line.
const OF_2_6: &str = include_str!("commands-2.6.txt");
const OF_3_0: &str = include_str!("commands-3.0.txt");

/// Commands that 4.2 has, with the version that they came with (read).
const SINCE: [(&str, Period); 13] = [
    ("find", Period::V3_2),
    ("getMore", Period::V3_2),
    ("killCursors", Period::V3_2),
    ("currentOp", Period::V3_2),
    ("killOp", Period::V3_2),
    ("startSession", Period::V3_6),
    ("endSessions", Period::V3_6),
    ("refreshSessions", Period::V3_6),
    ("killSessions", Period::V3_6),
    ("killAllSessions", Period::V3_6),
    ("killAllSessionsByPattern", Period::V3_6),
    ("commitTransaction", Period::V4_0),
    ("abortTransaction", Period::V4_0),
];

/// Stages of pipelines, with the version that they came with (read).
const STAGES_SINCE: [(&str, Period); 9] = [
    ("$sample", Period::V3_2),
    ("$lookup", Period::V3_2),
    ("$indexStats", Period::V3_2),
    ("$collStats", Period::V3_4),
    ("$addFields", Period::V3_4),
    ("$facet", Period::V3_4),
    ("$currentOp", Period::V3_6),
    ("$changeStream", Period::V3_6),
    ("$listLocalSessions", Period::V3_6),
];

/// The version's answer to a command that it refuses; `None` for one that it takes.
pub(super) fn refusal(period: Period, command: &RawDocument) -> Option<Document> {
    let (name, _) = fields(command).next()?;
    if name == "find" && period == Period::V3_0 {
        // Seen, without a code: the command was there for `explain` alone.
        return Some(doc! { "ok": 0.0, "errmsg": "find command not yet implemented" });
    }
    if !has_command(period, name) {
        return Some(no_such_command(period, name, command));
    }
    if name == "aggregate"
        && let Some(stage) = unknown_stage(period, command)
    {
        // Read.
        let text = format!("exception: Unrecognized pipeline stage name: '{stage}'");
        return Some(error(period, &text, 16436, "Location16436"));
    }
    refused_read_concern(period, command)
}

fn has_command(period: Period, name: &str) -> bool {
    let listed = match period {
        Period::V2_6 => OF_2_6,
        Period::V3_0 => OF_3_0,
        _ => {
            return SINCE
                .iter()
                .all(|(known, since)| !known.eq_ignore_ascii_case(name) || period >= *since);
        }
    };
    listed.lines().any(|known| known.eq_ignore_ascii_case(name)) || is_alias(name)
}

/// Names that a command has besides the one that it is listed with (read).
fn is_alias(name: &str) -> bool {
    ["deleteIndexes"].contains(&name)
}

/// Seen on 2.6 and 3.0, read for the others: 4.2's own is without `bad cmd`.
fn no_such_command(period: Period, name: &str, command: &RawDocument) -> Document {
    let text = match period {
        Period::V2_6 => format!("no such cmd: {name}"),
        Period::V3_0 => format!("no such command: {name}"),
        _ => format!("no such command: '{name}'"),
    };
    let mut answer = error(period, &text, 59, "CommandNotFound");
    if period <= Period::V3_4
        && let Ok(command) = Document::try_from(command)
    {
        answer.insert("bad cmd", command);
    }
    answer
}

fn unknown_stage<'a>(period: Period, command: &'a RawDocument) -> Option<&'a str> {
    let stages = command.get_array("pipeline").ok()?;
    let mut names = stages
        .into_iter()
        .map_while(Result::ok)
        .filter_map(|stage| fields(stage.as_document()?).next())
        .map(|(name, _)| name);
    names.find(|name: &&'a str| {
        STAGES_SINCE
            .iter()
            .any(|(known, since)| known == name && period < *since)
    })
}

/// Read: read concerns came with 3.2, `linearizable` with 3.4, those that wait for a cluster time with 3.6. With the defaults of the time, a
/// majority's data cannot be read before 3.6.
fn refused_read_concern(period: Period, command: &RawDocument) -> Option<Document> {
    let concern = command.get_document("readConcern").ok()?;
    if period < Period::V3_2 {
        return Some(error(period, "unrecognized field 'readConcern'", 2, "BadValue"));
    }
    if period < Period::V3_4 && concern.get_str("level").ok() == Some("linearizable") {
        let text = "readConcern.level must be either 'local' or 'majority'";
        return Some(error(period, text, 9, "FailedToParse"));
    }
    if period < Period::V3_6 && concern.get("afterClusterTime").ok().flatten().is_some() {
        let text = "Unrecognized option in readConcern: afterClusterTime";
        return Some(error(period, text, 72, "InvalidOptions"));
    }
    if period < Period::V3_6 && concern.get_str("level").ok() == Some("majority") {
        let text = "Majority read concern requested, but server was not started with --enableMajorityReadConcern.";
        return Some(error(period, text, 148, "ReadConcernMajorityNotEnabled"));
    }
    None
}

/// A failed command, with the name of its code from 3.4 on (read).
pub(super) fn error(period: Period, text: &str, code: i32, name: &str) -> Document {
    let mut answer = doc! { "ok": 0.0, "errmsg": text, "code": code };
    if period >= Period::V3_4 {
        answer.insert("codeName", name);
    }
    answer
}

/// An error of 4.2 in the form of the version. Read: no `codeName` before 3.4, and no `code` before 3.2 where a server
/// refuses because of its state.
pub(super) fn as_of(period: Period, error: &mut Document) {
    if period < Period::V3_4 {
        error.remove("codeName");
    }
    let is_of_state = error
        .get_str("errmsg")
        .is_ok_and(|text| text.starts_with("not master") || text.contains("node is recovering"));
    if period < Period::V3_2 && is_of_state {
        error.remove("code");
        error.insert("note", Bson::String("from execCommand".to_owned()));
    }
}
