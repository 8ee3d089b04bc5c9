//! The connection to the real server, and commands on their way to it.

use std::io;

use mongodb::bson::{Document, RawDocument, RawDocumentBuf};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Period, commands,
    message::{self, Query, Reply, Request, query_flags},
    reply,
};

/// A command as it came.
pub(super) struct Call<'a> {
    pub(super) id: i32,
    pub(super) database: &'a str,
    pub(super) body: &'a RawDocument,
    pub(super) message: &'a [u8],
    /// Unless it came in an `OP_MSG`.
    pub(super) query: Option<&'a Query>,
}

impl Call<'_> {
    /// Whether a secondary may answer.
    pub(super) fn takes_secondaries(&self) -> bool {
        match self.query {
            Some(query) => query.flags & query_flags::SLAVE_OK != 0,
            None => {
                let preference = self.body.get_document("$readPreference");
                preference.is_ok_and(|preference| preference.get_str("mode").ok() != Some("primary"))
            }
        }
    }
}

/// The real server behind one client.
pub(super) struct Upstream {
    period: Period,
    stream: TcpStream,
}

impl Upstream {
    pub(super) async fn connect(period: Period, address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { period, stream })
    }

    /// Sends a message that has no answer.
    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message).await
    }

    /// Passes a command, and takes from the answer what came later.
    pub(super) async fn forward(&mut self, call: &Call<'_>) -> io::Result<RawDocumentBuf> {
        let answer = body(&self.pass(call.message).await?)?;
        self.in_form(&answer)
    }

    pub(super) async fn forward_as(&mut self, call: &Call<'_>, command: &RawDocument) -> io::Result<RawDocumentBuf> {
        let message = match call.query {
            None => message::msg(call.id, 0, command),
            Some(query) => Query {
                id: query.id,
                flags: query.flags,
                namespace: query.namespace.clone(),
                batch: query.batch,
                query: command.to_owned(),
                projection: None,
            }
            .to_bytes(),
        };
        let answer = body(&self.pass(&message).await?)?;
        self.in_form(&answer)
    }

    fn in_form(&self, answer: &RawDocument) -> io::Result<RawDocumentBuf> {
        let answer = reply::common(self.period, answer);
        if answer.get("errmsg").ok().flatten().is_none() {
            return Ok(answer);
        }
        let mut error = document(&answer)?;
        commands::as_of(self.period, &mut error);
        Ok(raw(&error))
    }

    /// Runs a command of the period server's own.
    pub(super) async fn run(&mut self, database: &str, command: Document, flags: i32) -> io::Result<Document> {
        let query = Query {
            id: 1,
            flags: flags & query_flags::SLAVE_OK,
            namespace: format!("{database}.$cmd"),
            batch: -1,
            query: raw(&command),
            projection: None,
        };
        let answer = self.pass(&query.to_bytes()).await?;
        document(&body(&answer)?)
    }

    /// Sends a message to the real server and waits for the answer.
    pub(super) async fn pass(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        self.send(message).await?;
        message::read(&mut self.stream).await
    }
}

/// The one document of a command's answer.
fn body(message: &[u8]) -> io::Result<RawDocumentBuf> {
    if let Ok(Request::Msg { body, .. }) = Request::parse(message) {
        return Ok(body);
    }
    let mut reply = Reply::parse(message)?;
    reply
        .documents
        .pop()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer"))
}

pub(super) fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap_or_default()
}

pub(super) fn document(raw: &RawDocument) -> io::Result<Document> {
    Document::try_from(raw).map_err(io::Error::other)
}
