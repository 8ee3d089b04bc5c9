//! Reads the fields of an oplog entry in one pass over its bytes.

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::spec::BinarySubtype;
use bson::{DateTime, Uuid};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::oplog::parse::is_of_storage;

/// The operation in errors about unreadable entries.
pub(super) const OPERATION: &str = "read an oplog entry";

/// An oplog entry, or an operation inside an `applyOps`, borrowed from the bytes that the server sent.
///
/// Only the top level is read, so that documents pass through whatever they contain. Fields may be in any order, because it differs between
/// versions of the server. Unknown fields are ignored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawEntry<'a> {
    /// The position. Operations inside an `applyOps` have none.
    pub position: Option<Position>,
    /// Time of the server's clock when the entry was written.
    pub wall: Option<DateTime>,
    /// One letter: `i`, `u`, `d`, `c`, `n`. Operations of the [storage](is_of_storage) have two.
    pub op: &'a str,
    /// The namespace; `db.$cmd` for commands.
    pub ns: &'a str,
    /// The UUID of the collection.
    pub ui: Option<Uuid>,
    /// The document, the update or the command.
    pub o: &'a RawDocument,
    /// For updates, the `_id`.
    pub o2: Option<&'a RawDocument>,
    /// The session of a retryable write or transaction.
    pub lsid: Option<&'a RawDocument>,
    /// The number of the retryable write or transaction within the session.
    pub txn_number: Option<i64>,
    /// The position of the previous entry of the same transaction or retryable write.
    pub previous: Option<Position>,
    /// Whether this is an `applyOps` with a session that groups retryable writes (7.0 and newer), and not part of a transaction.
    pub groups_retryable_writes: bool,
}

impl<'a> RawEntry<'a> {
    /// Reads the fields of an entry.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not BSON, or if a field is missing or has a type that no known server writes.
    pub fn read(raw: &'a RawDocument) -> Result<Self> {
        let mut ts = None;
        let mut term = None;
        let mut op = None;
        let mut o = None;
        let mut wrong = None;
        let mut entry = RawEntry {
            position: None,
            wall: None,
            op: "",
            ns: "",
            ui: None,
            o: raw,
            o2: None,
            lsid: None,
            txn_number: None,
            previous: None,
            groups_retryable_writes: false,
        };
        for element in raw.iter_elements() {
            let element = element.map_err(malformed)?;
            let name = element.key().as_str();
            if !matches!(
                name,
                "ts" | "t"
                    | "op"
                    | "ns"
                    | "ui"
                    | "o"
                    | "o2"
                    | "wall"
                    | "lsid"
                    | "txnNumber"
                    | "prevOpTime"
                    | "multiOpType"
            ) {
                continue;
            }
            match (name, element.value().map_err(malformed)?) {
                ("ts", RawBsonRef::Timestamp(value)) => ts = Some(value),
                ("t", RawBsonRef::Int64(value)) => term = Some(value),
                ("op", RawBsonRef::String(value)) => op = Some(value),
                ("ns", RawBsonRef::String(value)) => entry.ns = value,
                ("ui", value) => entry.ui = uuid(value),
                ("o", RawBsonRef::Document(value)) => o = Some(value),
                ("o2", RawBsonRef::Document(value)) => entry.o2 = Some(value),
                ("wall", RawBsonRef::DateTime(value)) => entry.wall = Some(value),
                ("lsid", RawBsonRef::Document(value)) => entry.lsid = Some(value),
                ("txnNumber", RawBsonRef::Int64(value)) => entry.txn_number = Some(value),
                ("prevOpTime", RawBsonRef::Document(value)) => entry.previous = previous(value)?,
                ("multiOpType", value) => {
                    entry.groups_retryable_writes = matches!(value, RawBsonRef::Int32(1) | RawBsonRef::Int64(1));
                }
                (name, value) => wrong = wrong.or(Some((name, value.element_type()))),
            }
        }
        // Entries without a term are from replication protocol version 0, which ended with 4.0.
        entry.position = ts.map(|ts| Position::new(ts, term.unwrap_or(Position::ZERO.term)));
        entry.op = op.ok_or_else(|| missing("op"))?;
        if is_of_storage(entry.op) {
            // Such entries are ignored, whatever their fields are.
            return Ok(entry);
        }
        if let Some((name, kind)) = wrong {
            let message = format!("its field `{name}` is of type {kind:?}");
            return Err(Error::new(ErrorKind::Protocol, OPERATION, message));
        }
        entry.o = o.ok_or_else(|| missing("o"))?;
        Ok(entry)
    }

    /// Returns the position.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the field `ts` is missing.
    pub fn position(&self) -> Result<Position> {
        self.position.ok_or_else(|| missing("ts"))
    }

    /// The name of the first field of `o`. For a command, this is its name.
    pub fn first_name(&self) -> &'a str {
        self.o
            .iter_elements()
            .next()
            .and_then(Result::ok)
            .map_or("", |element| element.key().as_str())
    }
}

/// The position in a `prevOpTime`. `None` for the null optime, which marks the first entry of a transaction.
fn previous(optime: &RawDocument) -> Result<Option<Position>> {
    let ts = optime.get_timestamp("ts").map_err(malformed)?;
    let term = optime.get_i64("t").map_err(malformed)?;
    Ok((ts.time > 0).then(|| Position::new(ts, term)))
}

/// The UUID, if the value is one of the standard subtype.
pub(super) fn uuid(value: RawBsonRef<'_>) -> Option<Uuid> {
    let binary = value.as_binary()?;
    let bytes = binary.bytes.try_into().ok()?;
    (binary.subtype == BinarySubtype::Uuid).then(|| Uuid::from_bytes(bytes))
}

/// Copies a document without the fields for which `leave_out` returns `true`. The bytes of the other fields are unchanged.
pub(super) fn without(document: &RawDocument, leave_out: impl Fn(usize, &str) -> bool) -> Result<RawDocumentBuf> {
    let bytes = document.as_bytes();
    let mut kept = vec![0; 4];
    let mut start = 4;
    for (index, element) in document.iter_elements().enumerate() {
        let element = element.map_err(malformed)?;
        // An element is a type byte, the name with its terminator, and the value.
        let end = start + 1 + element.key().as_str().len() + 1 + element.size();
        if !leave_out(index, element.key().as_str()) {
            kept.extend_from_slice(bytes.get(start..end).unwrap_or_default());
        }
        start = end;
    }
    kept.push(0);
    let length = i32::try_from(kept.len()).unwrap_or_default();
    kept[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(kept).map_err(malformed)
}

pub(super) fn malformed(error: bson::error::Error) -> Error {
    Error::malformed(OPERATION, error)
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, format!("it has no field `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{doc, rawdoc};

    #[test]
    fn fields_are_found_in_any_order_and_unknown_ones_ignored() {
        let id = Uuid::new();
        let raw = rawdoc! {
            "later": [1, 2],
            "prevOpTime": { "ts": bson::Timestamp { time: 0, increment: 0 }, "t": -1_i64 },
            "o": { "_id": 1 },
            "ui": bson::Binary::from(id),
            "t": 7_i64,
            "op": "i",
            "ns": "a.b",
            "ts": bson::Timestamp { time: 5, increment: 6 },
        };
        let entry = RawEntry::read(&raw).unwrap();
        assert_eq!(
            entry.position().unwrap(),
            Position {
                time: 5,
                increment: 6,
                term: 7
            }
        );
        assert_eq!((entry.op, entry.ns, entry.ui), ("i", "a.b", Some(id)));
        assert_eq!(entry.previous, None);
        assert_eq!(entry.first_name(), "_id");
    }

    #[test]
    fn a_field_of_a_wrong_type_or_a_missing_one_is_an_error() {
        for raw in [
            rawdoc! { "op": 1, "o": {} },
            rawdoc! { "op": "i" },
            rawdoc! { "o": {} },
            rawdoc! { "op": "i", "o": {}, "ts": 5 },
        ] {
            assert_eq!(RawEntry::read(&raw).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn fields_are_left_out_by_their_place_and_name() {
        let raw = rawdoc! { "create": "x", "capped": true, "temp": true, "size": 5_i64, "v": { "a": "b" } };
        let kept = without(&raw, |index, name| index == 0 || name == "temp").unwrap();
        assert_eq!(
            bson::Document::try_from(kept).unwrap(),
            doc! { "capped": true, "size": 5_i64, "v": { "a": "b" } }
        );
    }
}
