//! The messages of the wire protocol, as far as the period server has to understand them.

use std::io;

use mongodb::bson::{
    RawDocument, RawDocumentBuf,
    raw::{CStr, RawBsonRef},
};
use tokio::io::{AsyncRead, AsyncReadExt};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_GET_MORE: i32 = 2005;
const OP_KILL_CURSORS: i32 = 2007;
const OP_MSG: i32 = 2013;
/// The length of a message's header in bytes.
const HEADER: usize = 16;
/// The largest message in bytes.
const LARGEST: usize = 48_000_000 + 16 * 1024;

/// Bits of an `OP_QUERY`.
pub(super) mod query_flags {
    pub(crate) const TAILABLE: i32 = 1 << 1;
    pub(crate) const SLAVE_OK: i32 = 1 << 2;
    pub(crate) const OPLOG_REPLAY: i32 = 1 << 3;
    pub(crate) const AWAIT_DATA: i32 = 1 << 5;
}

/// Bits of an `OP_REPLY`.
pub(super) mod reply_flags {
    pub(crate) const CURSOR_NOT_FOUND: i32 = 1;
    pub(crate) const QUERY_FAILURE: i32 = 2;
    pub(crate) const AWAIT_CAPABLE: i32 = 8;
}

/// What a client sends.
#[derive(Debug)]
pub(super) enum Request {
    Query(Query),
    GetMore {
        id: i32,
        batch: i32,
        cursor: i64,
    },
    KillCursors(Vec<i64>),
    /// A command of 3.6 and newer. Documents that stand outside of the body are in the message alone.
    Msg {
        id: i32,
        body: RawDocumentBuf,
    },
    /// The writes without an answer, which pass as they are.
    Other,
}

/// An `OP_QUERY`: a query, or a command where the namespace ends with `.$cmd`.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: i32,
    pub(super) flags: i32,
    pub(super) namespace: String,
    pub(super) batch: i32,
    pub(super) query: RawDocumentBuf,
    pub(super) projection: Option<RawDocumentBuf>,
}

/// What a server answers to an `OP_QUERY` or an `OP_GET_MORE`.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) flags: i32,
    pub(super) cursor: i64,
    pub(super) documents: Vec<RawDocumentBuf>,
}

impl Request {
    pub(super) fn parse(message: &[u8]) -> io::Result<Request> {
        let mut rest = Reader(message.get(4..).ok_or_else(malformed)?);
        let (id, _) = (rest.i32()?, rest.i32()?);
        match rest.i32()? {
            OP_QUERY => {
                let (flags, namespace) = (rest.i32()?, rest.text()?);
                let (_skip, batch) = (rest.i32()?, rest.i32()?);
                let query = rest.document()?;
                let projection = if rest.0.is_empty() {
                    None
                } else {
                    Some(rest.document()?)
                };
                Ok(Request::Query(Query {
                    id,
                    flags,
                    namespace,
                    batch,
                    query,
                    projection,
                }))
            }
            OP_GET_MORE => {
                let _zero = rest.i32()?;
                let _namespace = rest.text()?;
                let (batch, cursor) = (rest.i32()?, rest.i64()?);
                Ok(Request::GetMore { id, batch, cursor })
            }
            OP_KILL_CURSORS => {
                let (_zero, count) = (rest.i32()?, rest.i32()?);
                (0..count)
                    .map(|_| rest.i64())
                    .collect::<io::Result<_>>()
                    .map(Request::KillCursors)
            }
            OP_MSG => {
                let _flags = rest.i32()?;
                loop {
                    match rest.byte()? {
                        0 => {
                            let body = rest.document()?;
                            return Ok(Request::Msg { id, body });
                        }
                        _ => rest.skip_sequence()?,
                    }
                }
            }
            _ => Ok(Request::Other),
        }
    }
}

impl Query {
    /// The database of the namespace, and the rest of it.
    pub(super) fn names(&self) -> (&str, &str) {
        self.namespace.split_once('.').unwrap_or((&self.namespace, ""))
    }

    /// The query itself, without what may be wrapped around it.
    pub(super) fn inner(&self) -> &RawDocument {
        ["$query", "query"]
            .into_iter()
            .filter(|name| self.first_field().is_some_and(|first| first == *name))
            .find_map(|name| self.query.get_document(name).ok())
            .unwrap_or(&self.query)
    }

    /// A modifier that stands beside a wrapped query, such as `$orderby`.
    pub(super) fn modifier(&self, name: &str) -> Option<&RawDocument> {
        if !self.first_field().is_some_and(|first| first.ends_with("query")) {
            return None;
        }
        self.query
            .get_document(name)
            .or_else(|_| self.query.get_document(name.trim_start_matches('$')))
            .ok()
    }

    fn first_field(&self) -> Option<&str> {
        self.query.iter().next()?.ok().map(|(name, _)| name.as_str())
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut body = self.flags.to_le_bytes().to_vec();
        body.extend(self.namespace.as_bytes());
        body.push(0);
        body.extend(0_i32.to_le_bytes());
        body.extend(self.batch.to_le_bytes());
        body.extend(self.query.as_bytes());
        if let Some(projection) = &self.projection {
            body.extend(projection.as_bytes());
        }
        message(self.id, 0, OP_QUERY, &body)
    }
}

impl Reply {
    /// A failed query.
    pub(super) fn failure(text: &str, code: i32) -> Reply {
        let mut document = RawDocumentBuf::new();
        append(&mut document, "$err", text);
        append(&mut document, "code", code);
        Reply {
            flags: reply_flags::QUERY_FAILURE,
            cursor: 0,
            documents: vec![document],
        }
    }

    pub(super) fn cursor_not_found() -> Reply {
        Reply {
            flags: reply_flags::CURSOR_NOT_FOUND,
            ..Reply::default()
        }
    }

    /// What failed, if something did: the text and the code.
    pub(super) fn error(&self) -> Option<(String, i32)> {
        let document = self.documents.first()?;
        let text = document.get_str("$err").ok()?;
        Some((text.to_owned(), document.get_i32("code").unwrap_or_default()))
    }

    pub(super) fn parse(message: &[u8]) -> io::Result<Reply> {
        let mut rest = Reader(message.get(12..).ok_or_else(malformed)?);
        if rest.i32()? != OP_REPLY {
            return Err(malformed());
        }
        let (flags, cursor) = (rest.i32()?, rest.i64()?);
        let (_start, count) = (rest.i32()?, rest.i32()?);
        let documents = (0..count).map(|_| rest.document()).collect::<io::Result<_>>()?;
        Ok(Reply {
            flags,
            cursor,
            documents,
        })
    }

    pub(super) fn to_bytes(&self, answers: i32) -> Vec<u8> {
        let mut body = self.flags.to_le_bytes().to_vec();
        body.extend(self.cursor.to_le_bytes());
        body.extend(0_i32.to_le_bytes());
        body.extend((self.documents.len() as i32).to_le_bytes());
        for document in &self.documents {
            body.extend(document.as_bytes());
        }
        message(0, answers, OP_REPLY, &body)
    }
}

pub(super) fn get_more(id: i32, namespace: &str, batch: i32, cursor: i64) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(namespace.as_bytes());
    body.push(0);
    body.extend(batch.to_le_bytes());
    body.extend(cursor.to_le_bytes());
    message(id, 0, OP_GET_MORE, &body)
}

/// An `OP_MSG` of a body alone.
pub(super) fn msg(id: i32, answers: i32, document: &RawDocument) -> Vec<u8> {
    let mut body = vec![0; 5];
    body.extend(document.as_bytes());
    message(id, answers, OP_MSG, &body)
}

/// Reads one whole message, header included.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_i32_le().await?;
    if !(HEADER as i32..=LARGEST as i32).contains(&length) {
        return Err(malformed());
    }
    let mut message = vec![0; length as usize];
    message[..4].copy_from_slice(&length.to_le_bytes());
    stream.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// Appends a field whose name comes from a program or a document, and so has no zero in it.
pub(super) fn append<'a>(document: &mut RawDocumentBuf, name: &str, value: impl Into<RawBsonRef<'a>>) {
    if let Ok(name) = <&CStr>::try_from(name) {
        document.append(name, value.into());
    }
}

/// The document's fields, as far as it is well-formed.
pub(super) fn fields(document: &RawDocument) -> impl Iterator<Item = (&str, RawBsonRef<'_>)> {
    document
        .iter()
        .map_while(|field| field.ok().map(|(name, value)| (name.as_str(), value)))
}

/// Whether a Decimal128 stands anywhere in a document.
pub(super) fn has_decimal(document: &RawDocument) -> bool {
    fields(document).any(|(_, value)| match value {
        RawBsonRef::Decimal128(_) => true,
        RawBsonRef::Document(document) => has_decimal(document),
        RawBsonRef::Array(array) => RawDocument::from_bytes(array.as_bytes()).is_ok_and(has_decimal),
        _ => false,
    })
}

fn message(id: i32, answers: i32, kind: i32, body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    let mut message = Vec::with_capacity(length);
    for number in [length as i32, id, answers, kind] {
        message.extend(number.to_le_bytes());
    }
    message.extend(body);
    message
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a message")
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn i32(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(i32::from_le_bytes(bytes))
    }

    fn i64(&mut self) -> io::Result<i64> {
        let bytes = self.take(8)?.try_into().map_err(|_| malformed())?;
        Ok(i64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> io::Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        let text = self.take(end + 1)?;
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    fn document(&mut self) -> io::Result<RawDocumentBuf> {
        let length = self.0.first_chunk::<4>().ok_or_else(malformed)?;
        let bytes = self.take(i32::from_le_bytes(*length).max(0) as usize)?;
        RawDocumentBuf::from_bytes(bytes.to_vec()).map_err(|_| malformed())
    }

    /// The documents of an `OP_MSG` outside of its body, whose length counts itself.
    fn skip_sequence(&mut self) -> io::Result<()> {
        let length = self.i32()?;
        self.take((length - 4).max(0) as usize).map(drop)
    }
}
