//! What a member says of itself and its set.

use bson::Timestamp;
use bson::oid::ObjectId;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::error::{Error, Result};

const OPERATION: &str = "read the server's description";

/// The answer to `isMaster`.
#[derive(Clone, Debug, Default)]
pub struct IsMaster {
    /// Whether it is the primary.
    pub is_primary: bool,
    /// Whether it is a secondary.
    pub is_secondary: bool,
    /// Whether it is an arbiter, which has no data and takes no logins.
    pub is_arbiter: bool,
    /// The set's name; `None` for a server that is in no set, or whose set has no configuration yet.
    pub set_name: Option<String>,
    /// The version of the set's configuration.
    pub set_version: Option<i64>,
    /// The members that can become primary.
    pub hosts: Vec<String>,
    /// The members with data that cannot become primary.
    pub passives: Vec<String>,
    /// The members without data.
    pub arbiters: Vec<String>,
    /// The primary that the member knows.
    pub primary: Option<String>,
    /// The name that the set has for the member.
    pub me: Option<String>,
    /// The highest wire version.
    pub max_wire_version: i32,
    /// The election that made the member primary.
    pub election_id: Option<ObjectId>,
    /// The member's last write, from 3.4 on.
    pub last_write: Option<LastWrite>,
    /// The whole answer.
    pub raw: RawDocumentBuf,
}

/// A time in the oplog. Protocol version 0 has no terms.
pub type OpTime = (Timestamp, Option<i64>);

/// The last writes that a member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastWrite {
    /// The member's newest entry.
    pub op_time: Option<OpTime>,
    /// The newest entry that a majority has. Servers report it only while they have a snapshot of it.
    pub majority_op_time: Option<OpTime>,
}

impl IsMaster {
    /// Reads the answer.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) if it is malformed.
    pub fn parse(raw: RawDocumentBuf) -> Result<Self> {
        let mut found = Self::default();
        for element in raw.iter() {
            let (name, value) = element.map_err(|error| Error::malformed(OPERATION, error))?;
            found.take(name.as_str(), value);
        }
        found.raw = raw;
        Ok(found)
    }

    fn take(&mut self, name: &str, value: RawBsonRef<'_>) {
        match name {
            "ismaster" | "isWritablePrimary" => self.is_primary = value.as_bool() == Some(true),
            "secondary" => self.is_secondary = value.as_bool() == Some(true),
            "arbiterOnly" => self.is_arbiter = value.as_bool() == Some(true),
            "setName" => self.set_name = value.as_str().map(str::to_owned),
            "setVersion" => self.set_version = integer(value),
            "hosts" => self.hosts = addresses(value),
            "passives" => self.passives = addresses(value),
            "arbiters" => self.arbiters = addresses(value),
            "primary" => self.primary = value.as_str().map(str::to_lowercase),
            "me" => self.me = value.as_str().map(str::to_lowercase),
            "maxWireVersion" => self.max_wire_version = small(value).unwrap_or_default(),
            "electionId" => self.election_id = value.as_object_id(),
            "lastWrite" => self.last_write = value.as_document().map(last_write),
            _ => {}
        }
    }

    /// Every member with data.
    pub fn members(&self) -> impl Iterator<Item = &String> {
        self.hosts.iter().chain(&self.passives)
    }
}

fn last_write(document: &RawDocument) -> LastWrite {
    LastWrite {
        op_time: document.get("opTime").ok().flatten().and_then(op_time),
        majority_op_time: document.get("majorityOpTime").ok().flatten().and_then(op_time),
    }
}

/// Reads `{ts, t}`, or a timestamp alone, which is what protocol version 0 has.
fn op_time(value: RawBsonRef<'_>) -> Option<OpTime> {
    if let Some(time) = value.as_timestamp() {
        return Some((time, None));
    }
    let document = value.as_document()?;
    let time = document.get_timestamp("ts").ok()?;
    // Under protocol version 0, 3.2 and newer report the term -1.
    let term = document
        .get("t")
        .ok()
        .flatten()
        .and_then(integer)
        .filter(|term| *term >= 0);
    Some((time, term))
}

fn addresses(value: RawBsonRef<'_>) -> Vec<String> {
    let Some(array) = value.as_array() else {
        return Vec::new();
    };
    array
        .into_iter()
        .map_while(|value| value.ok()?.as_str().map(str::to_lowercase))
        .collect()
}

fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(value) => Some(value.into()),
        RawBsonRef::Int64(value) => Some(value),
        // Counts of servers are far below 2^53.
        RawBsonRef::Double(value) => Some(value as i64),
        _ => None,
    }
}

fn small(value: RawBsonRef<'_>) -> Option<i32> {
    integer(value)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn the_answer_of_a_primary_is_read() {
        let id = ObjectId::new();
        let time = Timestamp { time: 5, increment: 1 };
        let raw = rawdoc! {
            "setName": "rs", "setVersion": 3, "ismaster": true, "secondary": false, "hosts": ["A:1", "b:2"], "passives": ["c:3"],
            "arbiters": ["d:4"], "me": "A:1", "electionId": id, "maxWireVersion": 5,
            "lastWrite": { "opTime": { "ts": time, "t": 7_i64 }, "majorityOpTime": time }, "ok": 1.0,
        };
        let read = IsMaster::parse(raw).unwrap();
        assert!(read.is_primary && !read.is_secondary);
        assert_eq!(read.members().collect::<Vec<_>>(), ["a:1", "b:2", "c:3"]);
        assert_eq!((read.me.as_deref(), read.set_version), (Some("a:1"), Some(3)));
        assert_eq!((read.election_id, read.max_wire_version), (Some(id), 5));
        let written = read.last_write.unwrap();
        assert_eq!(written.op_time, Some((time, Some(7))));
        assert_eq!(written.majority_op_time, Some((time, None)));
    }

    #[test]
    fn a_server_of_no_set_gets_defaults() {
        let read = IsMaster::parse(rawdoc! { "ismaster": true, "isreplicaset": true }).unwrap();
        assert_eq!((read.set_name, read.max_wire_version), (None, 0));
        assert!(read.last_write.is_none());
    }
}
