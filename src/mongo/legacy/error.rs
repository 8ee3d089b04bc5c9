//! The meaning of what old servers refuse: many of their errors have no code, and some codes had other meanings.

use std::borrow::Cow;

use bson::raw::{RawBsonRef, RawDocument};

use crate::error::Error;
use crate::mongo::client::{Answer, of_answer};
use crate::mongo::error_codes;

/// What a server said of a command or a query that it did not carry out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandError {
    /// The error code, which many errors before 3.2 lack.
    pub code: Option<i32>,
    /// The code's name, from 3.4 on.
    pub code_name: Option<String>,
    /// The text. It may quote documents, so it is not shown as it is.
    pub message: String,
}

const CAPPED_POSITION_LOST: i32 = 136;
const QUERY_PLAN_KILLED: i32 = 175;

/// Texts, in lower case, and the codes that newer servers have for them. The first one that occurs counts.
const TEXTS: &[(&str, i32)] = &[
    ("position in capped collection", CAPPED_POSITION_LOST),
    ("cappedpositionlost", CAPPED_POSITION_LOST),
    ("capped position lost", CAPPED_POSITION_LOST),
    ("restore tailable cursor position", CAPPED_POSITION_LOST),
    ("not master and slaveok", 13435),
    ("not master or secondary", 13436),
    ("node is recovering", 13436),
    ("node is not in primary or recovering state", 13436),
    ("not master", 10107),
    ("not primary", 10107),
    ("interrupted at shutdown", 11600),
    ("shutdown in progress", 91),
    ("replication state change", 11602),
    ("operation was interrupted", 11601),
    ("operation exceeded time limit", 50),
    ("not authorized", 13),
    ("unauthorized", 13),
    ("auth fail", 18),
    ("authentication fail", 18),
    ("no such cmd", 59),
    ("no such command", 59),
    ("ns not found", 26),
    ("ns does not exist", 26),
    ("ns doesn't exist", 26),
    ("cursor not found", 43),
    ("queryplankilled", QUERY_PLAN_KILLED),
    ("query plan killed", QUERY_PLAN_KILLED),
    ("collection dropped", QUERY_PLAN_KILLED),
    ("index dropped", QUERY_PLAN_KILLED),
];

impl CommandError {
    /// Returns the error of a reply to a command, or `None` if the command was carried out.
    pub fn of_reply(reply: &RawDocument) -> Option<Self> {
        let is_ok = match reply.get("ok").ok().flatten() {
            Some(RawBsonRef::Double(ok)) => ok == 1.0,
            Some(RawBsonRef::Int32(ok)) => ok == 1,
            Some(RawBsonRef::Int64(ok)) => ok == 1,
            Some(RawBsonRef::Boolean(ok)) => ok,
            _ => false,
        };
        (!is_ok).then(|| Self::of(reply, "errmsg"))
    }

    /// Reads the document that a query gets instead of its results.
    pub(super) fn of_query(document: &RawDocument) -> Self {
        Self::of(document, "$err")
    }

    fn of(document: &RawDocument, text: &str) -> Self {
        let string = |name: &str| document.get_str(name).ok().map(str::to_owned);
        let code = match document.get("code").ok().flatten() {
            Some(RawBsonRef::Int32(code)) => Some(code),
            Some(RawBsonRef::Int64(code)) => code.try_into().ok(),
            // Codes are whole numbers of 32 bits.
            Some(RawBsonRef::Double(code)) => Some(code as i32),
            _ => None,
        };
        Self {
            code: code.filter(|code| *code != 0),
            code_name: string("codeName"),
            message: string(text).unwrap_or_else(|| "it gave no reason".to_owned()),
        }
    }

    /// The code that 4.2 has for this error, if it has one.
    pub fn known_code(&self, max_wire_version: i32) -> Option<i32> {
        match (self.code, max_wire_version) {
            (Some(103), ..=2) | (Some(121), 3) => return Some(CAPPED_POSITION_LOST),
            (Some(173), ..=4) => return Some(QUERY_PLAN_KILLED),
            (Some(code), _) if error_codes::row(code).is_some() => return Some(code),
            _ => {}
        }
        let text = self.message.to_lowercase();
        let known = TEXTS
            .iter()
            .find(|(part, _)| text.contains(part))
            .map(|(_, code)| *code);
        known.or(self.code)
    }
}

/// Converts what a server said into an error of the crate. Its source is an answer, of which `mongo::client::code` returns the code.
pub fn server_error(operation: impl Into<Cow<'static, str>>, said: &CommandError, max_wire_version: i32) -> Error {
    let code = said.known_code(max_wire_version);
    let answer = Answer::of_server(code, said.code_name.as_deref(), &said.message);
    of_answer(operation, answer)
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::error::ErrorKind;
    use crate::mongo::client;

    fn error(reply: &RawDocument, wire_version: i32) -> Error {
        let said = CommandError::of_reply(reply).unwrap();
        server_error("read", &said, wire_version)
    }

    #[test]
    fn what_has_no_code_is_known_by_its_text() {
        for (text, code, kind) in [
            ("not master", 10107, ErrorKind::Connection),
            ("not master and slaveOk=false", 13435, ErrorKind::Connection),
            ("node is recovering", 13436, ErrorKind::Connection),
            ("interrupted at shutdown", 11600, ErrorKind::Connection),
            (
                "not authorized on local to execute command { x: 1 }",
                13,
                ErrorKind::Unauthorized,
            ),
            ("auth fails", 18, ErrorKind::Unauthorized),
            ("no such cmd: listIndexes", 59, ErrorKind::Server),
            ("ns not found", 26, ErrorKind::Server),
            (
                "getMore executor error: CollectionScan died due to position in capped collection being deleted",
                136,
                ErrorKind::PositionLost,
            ),
        ] {
            let error = error(&rawdoc! { "ok": 0.0, "errmsg": text }, 2);
            assert_eq!((client::code(&error), error.kind()), (Some(code), kind), "{text}");
            assert_eq!(error.is_retryable(), kind == ErrorKind::Connection, "{text}");
        }
    }

    #[test]
    fn codes_that_moved_are_read_by_version() {
        let reply = |code: i32| rawdoc! { "ok": 0, "errmsg": "x", "code": code };
        for (code, wire_version, means) in [
            (103, 2, 136),
            (103, 3, 103),
            (121, 3, 136),
            (121, 4, 121),
            (173, 4, 175),
            (173, 5, 173),
            (50, 7, 50),
            (262, 7, 262),
        ] {
            let error = error(&reply(code), wire_version);
            assert_eq!(client::code(&error), Some(means), "{code} of {wire_version}");
        }
    }

    #[test]
    fn a_reply_that_says_nothing_of_ok_is_an_error() {
        assert!(CommandError::of_reply(&rawdoc! {}).is_some());
        for reply in [rawdoc! { "ok": 1.0 }, rawdoc! { "ok": 1 }, rawdoc! { "ok": true }] {
            assert_eq!(CommandError::of_reply(&reply), None);
        }
        let said = CommandError::of_query(&rawdoc! { "$err": "no { a: 1 }", "code": 17287 });
        let error = server_error("read", &said, 3);
        assert_eq!((client::code(&error), error.kind()), (Some(17287), ErrorKind::Server));
        assert!(error.report().ends_with("no {...} (code 17287)"), "{error:#}");
    }
}
