//! Requests.

use bson::raw::RawDocument;

use super::{HEADER, MAX_MESSAGE};
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "send a request to the server";

const OP_QUERY: i32 = 2004;
const OP_GET_MORE: i32 = 2005;
const OP_KILL_CURSORS: i32 = 2007;

/// A query, or a command, which is a query of one document on the collection `$cmd`.
#[derive(Clone, Copy, Debug)]
pub(in crate::mongo::legacy) struct Query<'a> {
    /// Database and collection, with a dot between them.
    pub namespace: &'a str,
    pub flags: QueryFlags,
    /// Number of documents of the first batch. 0 lets the server choose; a negative number makes the server close the cursor after it.
    pub number_to_return: i32,
    pub query: &'a RawDocument,
    pub fields: Option<&'a RawDocument>,
}

/// Flags of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mongo::legacy) struct QueryFlags {
    pub tailable: bool,
    pub slave_ok: bool,
    pub oplog_replay: bool,
    pub no_cursor_timeout: bool,
    pub await_data: bool,
}

impl QueryFlags {
    fn bits(self) -> i32 {
        let bit = |is_set: bool, at: u32| i32::from(is_set) << at;
        bit(self.tailable, 1)
            | bit(self.slave_ok, 2)
            | bit(self.oplog_replay, 3)
            | bit(self.no_cursor_timeout, 4)
            | bit(self.await_data, 5)
    }
}

/// Writes a query.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the namespace contains a zero byte, or the message is larger than a server
/// takes.
pub(in crate::mongo::legacy) fn query(id: i32, query: &Query<'_>) -> Result<Vec<u8>> {
    let mut message = begin(id, OP_QUERY, query.namespace.len() + query.query.as_bytes().len() + 64);
    number(&mut message, query.flags.bits());
    name(&mut message, query.namespace)?;
    number(&mut message, 0);
    number(&mut message, query.number_to_return);
    message.extend_from_slice(query.query.as_bytes());
    if let Some(fields) = query.fields {
        message.extend_from_slice(fields.as_bytes());
    }
    end(message)
}

/// Writes a request for the next batch of a cursor.
///
/// # Errors
/// As [`query`].
pub(in crate::mongo::legacy) fn get_more(
    id: i32,
    namespace: &str,
    number_to_return: i32,
    cursor: i64,
) -> Result<Vec<u8>> {
    let mut message = begin(id, OP_GET_MORE, namespace.len() + 32);
    number(&mut message, 0);
    name(&mut message, namespace)?;
    number(&mut message, number_to_return);
    message.extend_from_slice(&cursor.to_le_bytes());
    end(message)
}

/// Writes a request that closes cursors. The server sends no reply.
///
/// # Errors
/// As [`query`].
pub(in crate::mongo::legacy) fn kill_cursors(id: i32, cursors: &[i64]) -> Result<Vec<u8>> {
    let mut message = begin(id, OP_KILL_CURSORS, 8 * cursors.len() + 32);
    number(&mut message, 0);
    number(&mut message, i32::try_from(cursors.len()).map_err(|_| too_large())?);
    for cursor in cursors {
        message.extend_from_slice(&cursor.to_le_bytes());
    }
    end(message)
}

/// The header, whose length [`end`] fills in.
fn begin(id: i32, operation: i32, capacity: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + capacity);
    for part in [0, id, 0, operation] {
        number(&mut message, part);
    }
    message
}

fn number(message: &mut Vec<u8>, number: i32) {
    message.extend_from_slice(&number.to_le_bytes());
}

fn name(message: &mut Vec<u8>, name: &str) -> Result<()> {
    if name.contains('\0') {
        return Err(Error::new(
            ErrorKind::InvalidConfiguration,
            OPERATION,
            "a name of a database or collection contains a zero byte",
        ));
    }
    message.extend_from_slice(name.as_bytes());
    message.push(0);
    Ok(())
}

fn end(mut message: Vec<u8>) -> Result<Vec<u8>> {
    let length = i32::try_from(message.len()).map_err(|_| too_large())?;
    if message.len() > MAX_MESSAGE {
        return Err(too_large());
    }
    message[..4].copy_from_slice(&length.to_le_bytes());
    Ok(message)
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::InvalidConfiguration,
        OPERATION,
        "the request is larger than the 48,000,000 bytes that a server takes",
    )
}

#[cfg(test)]
mod tests {
    use bson::raw::cstr;
    use bson::rawdoc;

    use super::*;

    #[test]
    fn a_query_has_the_bytes_of_the_documentation() {
        let flags = QueryFlags {
            tailable: true,
            oplog_replay: true,
            await_data: true,
            ..QueryFlags::default()
        };
        let asked = Query {
            namespace: "a.b",
            flags,
            number_to_return: -1,
            query: &rawdoc! { "x": 1 },
            fields: Some(&rawdoc! {}),
        };
        #[rustfmt::skip]
        let expected = [
            49, 0, 0, 0,  7, 0, 0, 0,  0, 0, 0, 0,  0xD4, 0x07, 0, 0,
            0b10_1010, 0, 0, 0,  b'a', b'.', b'b', 0,  0, 0, 0, 0,  0xFF, 0xFF, 0xFF, 0xFF,
            12, 0, 0, 0, 0x10, b'x', 0, 1, 0, 0, 0, 0,
            5, 0, 0, 0, 0,
        ];
        assert_eq!(query(7, &asked).unwrap(), expected);
    }

    #[test]
    fn each_flag_has_its_bit() {
        let none = QueryFlags::default();
        let all = [
            (QueryFlags { tailable: true, ..none }, 1 << 1),
            (QueryFlags { slave_ok: true, ..none }, 1 << 2),
            (
                QueryFlags {
                    oplog_replay: true,
                    ..none
                },
                1 << 3,
            ),
            (
                QueryFlags {
                    no_cursor_timeout: true,
                    ..none
                },
                1 << 4,
            ),
            (
                QueryFlags {
                    await_data: true,
                    ..none
                },
                1 << 5,
            ),
        ];
        assert_eq!(none.bits(), 0);
        for (flags, bits) in all {
            assert_eq!(flags.bits(), bits, "{flags:?}");
        }
    }

    #[test]
    fn the_other_requests_have_the_bytes_of_the_documentation() {
        #[rustfmt::skip]
        let expected = [
            36, 0, 0, 0,  1, 0, 0, 0,  0, 0, 0, 0,  0xD5, 0x07, 0, 0,
            0, 0, 0, 0,  b'a', b'.', b'b', 0,  100, 0, 0, 0,  2, 1, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(get_more(1, "a.b", 100, 258).unwrap(), expected);
        #[rustfmt::skip]
        let expected = [
            40, 0, 0, 0,  2, 0, 0, 0,  0, 0, 0, 0,  0xD7, 0x07, 0, 0,
            0, 0, 0, 0,  2, 0, 0, 0,  1, 0, 0, 0, 0, 0, 0, 0,  0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        ];
        assert_eq!(kill_cursors(2, &[1, -1]).unwrap(), expected);
    }

    #[test]
    fn what_no_server_takes_is_refused() {
        let error = get_more(1, "a.b\0c", 0, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
        let mut large = rawdoc! {};
        large.append(cstr!("x"), "x".repeat(MAX_MESSAGE));
        let asked = Query {
            namespace: "a.b",
            flags: QueryFlags::default(),
            number_to_return: 0,
            query: &large,
            fields: None,
        };
        assert_eq!(query(1, &asked).unwrap_err().kind(), ErrorKind::InvalidConfiguration);
    }
}
