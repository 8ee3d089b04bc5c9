use std::io;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    login::User,
    message::{self, Query, Reply},
};

/// A connection of a client of the time: it sends `OP_QUERY` and `OP_GET_MORE`, which every server up to 5.0 takes.
#[derive(Debug)]
pub struct OldClient {
    stream: TcpStream,
    /// The number of the last request.
    last: i32,
}

/// An `OP_QUERY`. The default is a query for everything.
#[derive(Clone, Debug, Default)]
pub struct OldQuery {
    /// The query, with its modifiers around it where it has some.
    pub query: Document,
    /// The fields that are wanted.
    pub projection: Option<Document>,
    /// `numberToReturn`.
    pub batch: i32,
    /// A bit for each option, such as [`OldQuery::TAIL`].
    pub flags: i32,
}

/// An `OP_REPLY`.
#[derive(Clone, Debug, Default)]
pub struct OldReply {
    /// A bit for each, such as 1 where the cursor is gone and 2 where the query failed.
    pub flags: i32,
    /// Zero where there is no more.
    pub cursor: i64,
    /// The documents.
    pub documents: Vec<RawDocumentBuf>,
}

impl OldQuery {
    /// Also from a secondary.
    pub const SLAVE_OK: i32 = message::query_flags::SLAVE_OK;
    /// Tails the oplog, as servers do: tailable, awaiting, and from a time stamp on.
    pub const TAIL: i32 = message::query_flags::TAILABLE
        | message::query_flags::SLAVE_OK
        | message::query_flags::OPLOG_REPLAY
        | message::query_flags::AWAIT_DATA;
}

impl OldClient {
    /// Connects to a server.
    ///
    /// # Errors
    ///
    /// That of the system.
    pub async fn connect(address: &str) -> io::Result<OldClient> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(OldClient { stream, last: 0 })
    }

    /// Runs one command on a connection of its own.
    pub(crate) async fn run(address: &str, database: &str, command: Document) -> io::Result<Document> {
        OldClient::connect(address).await?.command(database, command).await
    }

    /// Runs a command. One that the server refuses is an answer with `ok: 0`, not an error.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is not one.
    pub async fn command(&mut self, database: &str, command: Document) -> io::Result<Document> {
        let query = OldQuery {
            query: command,
            batch: -1,
            ..OldQuery::default()
        };
        let answer = self.query(&format!("{database}.$cmd"), query).await?;
        match answer.documents.first() {
            Some(document) => Document::try_from(document.as_ref()).map_err(io::Error::other),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "no answer")),
        }
    }

    /// Sends a query, and gives the first batch.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is not one.
    pub async fn query(&mut self, namespace: &str, query: OldQuery) -> io::Result<OldReply> {
        self.last += 1;
        let raw = |document: &Document| RawDocumentBuf::try_from(document).map_err(io::Error::other);
        let query = Query {
            id: self.last,
            flags: query.flags,
            namespace: namespace.to_owned(),
            batch: query.batch,
            query: raw(&query.query)?,
            projection: query.projection.as_ref().map(raw).transpose()?,
        };
        self.ask(&query.to_bytes()).await
    }

    /// The next batch of a cursor.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is not one.
    pub async fn get_more(&mut self, namespace: &str, cursor: i64, batch: i32) -> io::Result<OldReply> {
        self.last += 1;
        self.ask(&message::get_more(self.last, namespace, batch, cursor)).await
    }

    /// Logs in with MONGODB-CR; gives the server's answer.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is not one.
    pub async fn log_in(&mut self, database: &str, user: &str, password: &str) -> io::Result<Document> {
        let answer = self.command(database, doc! { "getnonce": 1 }).await?;
        let nonce = answer.get_str("nonce").map_err(io::Error::other)?;
        let known = User {
            name: user.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
        };
        let key = known.key(nonce);
        let command = doc! { "authenticate": 1, "user": user, "nonce": nonce, "key": key };
        self.command(database, command).await
    }

    async fn ask(&mut self, message: &[u8]) -> io::Result<OldReply> {
        self.stream.write_all(message).await?;
        let reply = Reply::parse(&message::read(&mut self.stream).await?)?;
        Ok(OldReply {
            flags: reply.flags,
            cursor: reply.cursor,
            documents: reply.documents,
        })
    }
}
