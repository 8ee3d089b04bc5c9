//! What a server or the driver said, as text for people.
//!
//! The driver's own errors are not passed on. They show the raw reply (with sessions and cluster times), what the driver knows of the set,
//! and what servers quote from documents and commands.

use std::error::Error as StdError;
use std::fmt;

use mongodb::error::{Error as DriverError, ErrorKind as DriverErrorKind, WriteFailure};

/// Maximum length of a text, in characters. The rest is cut off.
const LONGEST: usize = 300;

/// The answer of a server or the driver. It is the source of an [`Error`](crate::Error).
#[derive(Debug)]
pub(crate) struct Answer {
    code: Option<i32>,
    text: String,
}

impl Answer {
    /// Creates the answer from an error of the driver.
    pub fn of(error: &DriverError) -> Self {
        Self {
            code: code_of(error),
            text: text_of(error),
        }
    }

    /// Creates the answer from a server's reply to a command that it carried out in part.
    pub fn of_reply(code: i32, message: &str) -> Self {
        Self {
            code: Some(code),
            text: format!("{} (code {code})", plain(message)),
        }
    }

    /// Creates the answer from what a server said, which may have no code.
    #[cfg(feature = "legacy")]
    pub fn of_server(code: Option<i32>, name: Option<&str>, message: &str) -> Self {
        let message = plain(message);
        let text = match (code, name) {
            (Some(code), Some(name)) => format!("{message} (code {code}, {name})"),
            (Some(code), None) => format!("{message} (code {code})"),
            (None, _) => message,
        };
        Self { code, text }
    }

    /// The server's error code, if this is a server's answer.
    pub fn code(&self) -> Option<i32> {
        self.code
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Answer {}

/// Returns a server's message without what it quotes: documents, commands and their strings.
pub(crate) fn plain(message: &str) -> String {
    // The command itself would say nothing: its values are left out, and its name is in the operation.
    let message = message.split(" to execute command").next().unwrap_or_default();
    let mut shown = String::new();
    // Number of open braces, whether a string is open, and whether the next character is escaped.
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for character in message.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                if depth == 0 && quoted {
                    shown.push_str("\"...\"");
                }
            }
            _ if quoted => {}
            '{' => {
                if depth == 0 {
                    shown.push_str("{...}");
                }
                depth += 1;
            }
            '}' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ => shown.push(character),
        }
    }
    // Error numbers of the operating system mean nothing to people.
    while let Some(start) = shown.find(" (os error ") {
        let Some(length) = shown[start..].find(')') else { break };
        shown.replace_range(start..=start + length, "");
    }
    match shown.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &shown[..end]),
        None => shown,
    }
}

/// Returns the server's error code, if the error is a server's answer.
pub(super) fn code_of(error: &DriverError) -> Option<i32> {
    match &*error.kind {
        DriverErrorKind::Command(error) => Some(error.code),
        DriverErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        DriverErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        _ => None,
    }
}

fn text_of(error: &DriverError) -> String {
    match &*error.kind {
        DriverErrorKind::Command(error) => {
            format!("{} (code {}, {})", plain(&error.message), error.code, error.code_name)
        }
        DriverErrorKind::Write(WriteFailure::WriteError(error)) => {
            format!("{} (code {})", plain(&error.message), error.code)
        }
        DriverErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
            format!("{} (code {})", plain(&error.message), error.code)
        }
        DriverErrorKind::Io(error) => match error.kind() {
            std::io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            std::io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => of_system(&error.to_string()),
        },
        DriverErrorKind::ServerSelection { message, .. } => no_server(message),
        DriverErrorKind::ConnectionPoolCleared { message, .. } => match between(message, "pool for ", " cleared") {
            Some(address) => format!("the connections to {address} broke"),
            None => "the connections to the server broke".to_owned(),
        },
        DriverErrorKind::Authentication { message, .. }
        | DriverErrorKind::DnsResolve { message, .. }
        | DriverErrorKind::InvalidArgument { message, .. }
        | DriverErrorKind::InvalidTlsConfig { message, .. } => plain(message),
        DriverErrorKind::InvalidResponse { .. } | DriverErrorKind::Bson(_) => {
            "the answer of the server cannot be read".to_owned()
        }
        DriverErrorKind::InsertMany(_) | DriverErrorKind::BulkWrite(_) | DriverErrorKind::GridFs(_) => {
            "the write failed".to_owned()
        }
        other => plain(&other.to_string()),
    }
}

/// Returns the message of an operating system error in a form that fits into a sentence.
pub(crate) fn of_system(text: &str) -> String {
    let text = plain(text);
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

/// Returns what the driver knows of the set's members when none of them is the primary. The driver reports that only as one text.
fn no_server(message: &str) -> String {
    if !message.starts_with("Server selection timeout") {
        return plain(message);
    }
    let members: Vec<String> = message
        .split("{ Address: ")
        .skip(1)
        .filter_map(|member| {
            let (address, rest) = member.split_once(", ")?;
            Some(match between(rest, "I/O error: ", ", labels") {
                Some(reason) => format!("{address}: {}", of_system(reason)),
                None => match between(rest, "Type: ", ",").or(between(rest, "Type: ", " ")) {
                    Some("RsSecondary") => format!("{address}: a secondary"),
                    Some("RsArbiter") => format!("{address}: an arbiter"),
                    _ => format!("{address}: not usable"),
                },
            })
        })
        .collect();
    match members.is_empty() {
        true => "no primary was found".to_owned(),
        false => format!("no primary was found ({})", members.join("; ")),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_quote_of_documents_is_left_out() {
        for (message, shown) in [
            (
                "E11000 duplicate key error collection: shop.orders index: u_1 dup key: { u: \"s3cret\" }",
                "E11000 duplicate key error collection: shop.orders index: u_1 dup key: {...}",
            ),
            (
                "not authorized on admin to execute command { find: \"x\", lsid: { id: UUID(\"a\") }, $clusterTime: { a: 1 } }",
                "not authorized on admin",
            ),
            (
                "The field 'x' must be an array but is of type int in document {_id: \"a } b\"} here",
                "The field 'x' must be an array but is of type int in document {...} here",
            ),
            (r#"cannot parse "s3c\"ret" at 3"#, "cannot parse \"...\" at 3"),
            ("broken { a: 1", "broken {...}"),
            ("ns not found", "ns not found"),
            ("No such file (os error 2): a", "No such file: a"),
        ] {
            assert_eq!(plain(message), shown);
        }
        assert_eq!(plain(&"x".repeat(1_000)).len(), LONGEST + 3);
    }

    #[test]
    fn a_set_without_a_primary_is_described_by_its_members() {
        let message = "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary, Set Name: rs0, Servers: [ \
                       { Address: 127.0.0.1:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {\"a\"}, \
                       source: None, server response: None }, { Address: h:2, Type: RsSecondary, Average RTT: 1ms } ] }";
        assert_eq!(
            no_server(message),
            "no primary was found (127.0.0.1:1: connection refused; h:2: a secondary)"
        );
    }
}
