//! The connection of one client, with one to the real server behind it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Period,
    catalog::{self, SystemCollections},
    commands,
    cursor::{Batch, Cursors, Failure, OplogQuery, committed, whole},
    entry::number,
    login::{self, User},
    message::{self, Query, Reply, Request, fields, query_flags, reply_flags},
    oplog::Oplog,
    reply::{self, Addresses},
    upstream::{Call, Upstream, document, raw},
};

/// How long `OP_GET_MORE` waits for entries. Read: four seconds on 2.6 and 3.0, one since.
const fn patience(period: Period) -> Duration {
    match period {
        Period::V2_6 | Period::V3_0 => Duration::from_secs(4),
        _ => Duration::from_secs(1),
    }
}

/// What the connections of a member share.
pub(super) struct Member {
    pub(super) period: Period,
    /// The address of the real server.
    pub(super) real: String,
    pub(super) addresses: Arc<Addresses>,
    pub(super) oplog: Oplog,
    pub(super) cursors: Cursors,
    pub(super) users: Arc<Mutex<Vec<User>>>,
}

/// Serves a client until one side closes its connection, or the time did not know what it sends.
pub(super) async fn serve(mut client: TcpStream, member: Arc<Member>) -> io::Result<()> {
    let upstream = Upstream::connect(member.period, &member.real).await?;
    client.set_nodelay(true)?;
    let mut connection = Connection {
        member,
        upstream,
        nonce: None,
    };
    loop {
        let message = message::read(&mut client).await?;
        let answer = match Request::parse(&message)? {
            Request::Query(query) => Some(connection.query(&query, &message).await?),
            Request::GetMore { id, batch, cursor } => Some(connection.get_more(id, batch, cursor, &message).await?),
            Request::KillCursors(cursors) => {
                let own = cursors
                    .iter()
                    .filter(|id| connection.member.cursors.close(**id))
                    .count();
                if own < cursors.len() {
                    connection.upstream.send(&message).await?;
                }
                None
            }
            // Read: no server before 3.6 knows these, and closes the connection.
            Request::Msg { .. } if connection.member.period < Period::V3_6 => return Ok(()),
            Request::Msg { id, body } => {
                let call = Call {
                    id,
                    database: body.get_str("$db").unwrap_or("admin"),
                    body: &body,
                    message: &message,
                    query: None,
                };
                let answer = connection.command(&call).await?;
                Some(message::msg(0, id, &answer))
            }
            Request::Other => {
                connection.upstream.send(&message).await?;
                None
            }
        };
        if let Some(answer) = answer {
            client.write_all(&answer).await?;
        }
    }
}

struct Connection {
    member: Arc<Member>,
    upstream: Upstream,
    /// What `getnonce` gave last.
    nonce: Option<String>,
}

impl Connection {
    /// The answer to an `OP_QUERY`, as a message.
    async fn query(&mut self, query: &Query, sent: &[u8]) -> io::Result<Vec<u8>> {
        let (database, collection) = query.names();
        let slave_ok = query.flags & query_flags::SLAVE_OK != 0;
        // Read: the type came with 3.4, and a message with one is refused as a whole.
        if self.member.period < Period::V3_4 && message::has_decimal(&query.query) {
            let reply = Reply::failure("Client Error: bad object in message: unknown type", 10_307);
            return Ok(reply.to_bytes(query.id));
        }
        let reply = match collection {
            "$cmd" => {
                let call = Call {
                    id: query.id,
                    database,
                    body: query.inner(),
                    message: sent,
                    query: Some(query),
                };
                Reply {
                    flags: reply_flags::AWAIT_CAPABLE,
                    cursor: 0,
                    documents: vec![self.command(&call).await?],
                }
            }
            "oplog.rs" if database == "local" => {
                let asked = OplogQuery::from_query(query);
                as_reply(self.open(asked, slave_ok).await?)
            }
            "system.namespaces" | "system.indexes" => {
                let found = self
                    .system_collection(database, collection, query.inner(), query.flags)
                    .await?;
                as_reply(found.map(|mut documents| {
                    if query.batch < 0 {
                        documents.truncate(query.batch.unsigned_abs() as usize);
                    }
                    Batch {
                        cursor: 0,
                        documents: documents.iter().map(raw).collect(),
                    }
                }))
            }
            "system.replset" if database == "local" => {
                let mut reply = Reply::parse(&self.upstream.pass(sent).await?)?;
                for document in &mut reply.documents {
                    *document = self.translated(document);
                }
                reply
            }
            _ => return self.upstream.pass(sent).await,
        };
        Ok(reply.to_bytes(query.id))
    }

    async fn get_more(&mut self, id: i32, batch: i32, cursor: i64, message: &[u8]) -> io::Result<Vec<u8>> {
        if !self.member.cursors.has(cursor) {
            return self.upstream.pass(message).await;
        }
        let count = Some(batch.unsigned_abs() as usize);
        let reply = match self.more(cursor, count, patience(self.member.period)).await? {
            Some(found) => as_reply(found),
            None => Reply::cursor_not_found(),
        };
        Ok(reply.to_bytes(id))
    }

    /// The answer to a command, in the form of the version.
    async fn command(&mut self, call: &Call<'_>) -> io::Result<RawDocumentBuf> {
        let period = self.member.period;
        if let Some(refusal) = commands::refusal(period, call.body) {
            return Ok(raw(&refusal));
        }
        let (name, of) = match fields(call.body).next() {
            Some((name, value)) => (name.to_ascii_lowercase(), value),
            None => return self.upstream.forward(call).await,
        };
        let collection = of.as_str().unwrap_or_default();
        match name.as_str() {
            "getnonce" if period < Period::V4_0 => {
                let nonce = login::nonce();
                self.nonce = Some(nonce.clone());
                Ok(raw(&doc! { "nonce": nonce, "ok": 1.0 }))
            }
            "authenticate" if period < Period::V4_0 && call.body.get_str("mechanism").ok() != Some("MONGODB-X509") => {
                self.authenticate(call).await.map(|answer| raw(&answer))
            }
            // Read: it came with 4.0.
            "saslstart" if period < Period::V4_0 && call.body.get_str("mechanism").ok() == Some("SCRAM-SHA-256") => {
                let text = "Unsupported mechanism SCRAM-SHA-256";
                Ok(raw(&commands::error(period, text, 2, "BadValue")))
            }
            "find" if (call.database, collection) == ("local", "oplog.rs") => self.find_oplog(call).await,
            "find" if matches!(collection, "system.namespaces" | "system.indexes") => {
                let namespace = format!("{}.{collection}", call.database);
                Ok(reply::cursor(period, "firstBatch", Batch::default(), &namespace, None))
            }
            "find" if (call.database, collection) == ("local", "system.replset") => {
                let answer = self.upstream.forward(call).await?;
                Ok(self.translated(&answer))
            }
            "getmore" if whole(of).is_some_and(|id| self.member.cursors.has(id)) => {
                self.get_more_of_oplog(call, whole(of).unwrap_or_default()).await
            }
            "killcursors" => self.kill_cursors(call).await,
            "listcollections" | "listindexes" => self.list(call, &name).await,
            "ismaster" | "replsetgetstatus" | "replsetgetconfig" | "buildinfo" | "serverstatus" | "collstats"
            | "dbhash" | "listdatabases" => self.known(call, &name).await,
            _ => self.upstream.forward(call).await,
        }
    }

    /// A command whose answer has the form of its time.
    async fn known(&mut self, call: &Call<'_>, name: &str) -> io::Result<RawDocumentBuf> {
        let period = self.member.period;
        let real = document(&self.upstream.forward(call).await?)?;
        let newest = |bound| self.member.oplog.newest_until(bound);
        let mut answer = match name {
            "ismaster" => {
                self.reach(&real, "lastWrite", "opTime").await;
                reply::is_master(period, real, newest)
            }
            "replsetgetstatus" => {
                self.reach(&real, "optimes", "appliedOpTime").await;
                reply::status(period, &real, newest)
            }
            "buildinfo" => reply::build_info(period, &real),
            "serverstatus" => reply::server_status(period, real),
            "collstats" => reply::collection_statistics(period, real),
            "dbhash" => reply::digest(period, real),
            "listdatabases" => reply::databases(period, real),
            _ => real,
        };
        self.member.addresses.translate_document(&mut answer);
        Ok(raw(&answer))
    }

    /// Waits until the member's oplog has the position that a real answer tells, if it does.
    async fn reach(&self, real: &Document, group: &str, name: &str) {
        let position = real.get_document(group).and_then(|group| group.get_document(name));
        if let Ok(at) = position.and_then(|position| position.get_timestamp("ts")) {
            self.member.oplog.reaches(number(at)).await;
        }
    }

    /// MONGODB-CR: the client proves the password to the period server, which logs in behind with SCRAM.
    async fn authenticate(&mut self, call: &Call<'_>) -> io::Result<Document> {
        let text = |name| call.body.get_str(name).unwrap_or_default();
        let nonce = self.nonce.take();
        let is_right = |user: &&User| {
            let nonce = nonce.as_deref().filter(|nonce| *nonce == text("nonce"));
            user.database == call.database
                && user.name == text("user")
                && nonce.is_some_and(|nonce| user.key(nonce) == text("key"))
        };
        let user = {
            let users = self.member.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.iter().find(is_right).cloned()
        };
        // Read: users of 3.0 and newer have no credentials for it.
        let Some(user) = user.filter(|_| self.member.period == Period::V2_6) else {
            return Ok(commands::error(
                self.member.period,
                "auth failed",
                18,
                "AuthenticationFailed",
            ));
        };
        let database = user.database.clone();
        let (mut conversation, mut command) = user.log_in();
        loop {
            let answer = self.upstream.run(&database, command, 0).await?;
            match conversation.next(&answer)? {
                Some(next) => command = next,
                None => break,
            }
        }
        Ok(doc! { "dbname": call.database, "user": user.name, "ok": 1.0 })
    }

    async fn find_oplog(&mut self, call: &Call<'_>) -> io::Result<RawDocumentBuf> {
        let period = self.member.period;
        let concern = call
            .body
            .get_document("readConcern")
            .and_then(|concern| concern.get_str("level"));
        if concern.is_ok_and(|level| level == "linearizable") {
            // Only the real server can say that it is the primary.
            let answer = self.upstream.forward(call).await?;
            if answer.get("errmsg").ok().flatten().is_some() {
                return Ok(answer);
            }
        }
        let asked = OplogQuery::from_command(call.body);
        match self.open(asked, call.takes_secondaries()).await? {
            Ok(batch) => Ok(reply::cursor(
                period,
                "firstBatch",
                batch,
                "local.oplog.rs",
                self.time(),
            )),
            Err(Failure(text, code)) => Ok(raw(&commands::error(period, &text, code, &format!("Location{code}")))),
        }
    }

    async fn get_more_of_oplog(&mut self, call: &Call<'_>, cursor: i64) -> io::Result<RawDocumentBuf> {
        let period = self.member.period;
        let count = |name| call.body.get(name).ok().flatten().and_then(whole);
        let waits = count("maxTimeMS").map_or(patience(period), |waits| Duration::from_millis(waits as u64));
        let batch = count("batchSize").map(|count| count as usize);
        match self.more(cursor, batch, waits).await? {
            Some(Ok(batch)) => Ok(reply::cursor(period, "nextBatch", batch, "local.oplog.rs", self.time())),
            Some(Err(Failure(text, code))) => {
                let name = if code == 136 {
                    "CappedPositionLost"
                } else {
                    "InternalError"
                };
                Ok(raw(&commands::error(period, &text, code, name)))
            }
            None => {
                let text = format!("Cursor not found, cursor id: {cursor}");
                Ok(raw(&commands::error(period, &text, 43, "CursorNotFound")))
            }
        }
    }

    async fn kill_cursors(&mut self, call: &Call<'_>) -> io::Result<RawDocumentBuf> {
        let cursors = call
            .body
            .get_array("cursors")
            .into_iter()
            .flatten()
            .map_while(Result::ok);
        let killed: Vec<i64> = cursors
            .filter_map(whole)
            .filter(|id| self.member.cursors.close(*id))
            .collect();
        if killed.is_empty() {
            return self.upstream.forward(call).await;
        }
        let none: [i64; 0] = [];
        let [not_found, alive, unknown] = [none.to_vec(), none.to_vec(), none.to_vec()];
        Ok(raw(&doc! {
            "cursorsKilled": killed, "cursorsNotFound": not_found, "cursorsAlive": alive, "cursorsUnknown": unknown,
            "ok": 1.0,
        }))
    }

    /// A listing of collections or indexes, in one batch: a later one would not come by here.
    async fn list(&mut self, call: &Call<'_>, name: &str) -> io::Result<RawDocumentBuf> {
        let mut whole = document(call.body)?;
        whole.insert("cursor", Document::new());
        let mut answer = document(&self.upstream.forward_as(call, &raw(&whole)).await?)?;
        if let Ok(batch) = answer
            .get_document_mut("cursor")
            .and_then(|cursor| cursor.get_array_mut("firstBatch"))
        {
            let real = std::mem::take(batch);
            let period = self.member.period;
            let listed = real.iter().filter_map(|entry| entry.as_document());
            batch.extend(listed.filter_map(|entry| match name {
                "listcollections" => catalog::collection(period, call.database, entry).map(Into::into),
                _ => Some(catalog::index(period, entry).into()),
            }));
        }
        Ok(raw(&answer))
    }

    /// Seen: 2.6 has both collections, 3.0 with WiredTiger finds nothing in them.
    async fn system_collection(
        &mut self,
        database: &str,
        collection: &str,
        filter: &RawDocument,
        flags: i32,
    ) -> io::Result<Result<Vec<Document>, Failure>> {
        let period = self.member.period;
        if period > Period::V2_6 {
            return Ok(Ok(Vec::new()));
        }
        let mut all = SystemCollections::default();
        let listed = match first_batch(
            self.upstream
                .run(database, doc! { "listCollections": 1 }, flags)
                .await?,
        ) {
            Ok(listed) => listed,
            Err(failure) => return Ok(Err(failure)),
        };
        for entry in listed
            .iter()
            .filter_map(|entry| catalog::collection(period, database, entry))
        {
            let command = doc! { "listIndexes": entry.get_str("name").unwrap_or_default() };
            // A collection that is dropped meanwhile has none.
            let indexes = first_batch(self.upstream.run(database, command, flags).await?).unwrap_or_default();
            let indexes = indexes.iter().map(|index| catalog::index(period, index)).collect();
            all.add(database, &entry, indexes);
        }
        Ok(all.find(database, collection, filter))
    }

    /// Opens a query of the oplog once everything is there that is in the real one.
    async fn open(&mut self, asked: Result<OplogQuery, Failure>, slave_ok: bool) -> io::Result<Result<Batch, Failure>> {
        if let Err(failure) = self.catch_up(slave_ok).await? {
            return Ok(Err(failure));
        }
        let asked = match asked {
            Ok(asked) => asked,
            Err(failure) => return Ok(Err(failure)),
        };
        let majority = if asked.is_majority {
            Some(committed(&self.member.real).await.unwrap_or(0))
        } else {
            None
        };
        Ok(Ok(self.member.cursors.open(&self.member.oplog, asked, majority)))
    }

    async fn more(
        &mut self,
        cursor: i64,
        count: Option<usize>,
        patience: Duration,
    ) -> io::Result<Option<Result<Batch, Failure>>> {
        if let Err(failure) = self.catch_up(true).await? {
            return Ok(Some(Err(failure)));
        }
        let Member {
            period,
            oplog,
            cursors,
            real,
            ..
        } = &*self.member;
        Ok(cursors.more(*period, oplog, cursor, count, patience, real).await)
    }

    /// Waits until the rewritten oplog has what the real one has now. The real server also tells here whether the client
    /// may read it: a login may be wanting, and a secondary refuses.
    async fn catch_up(&mut self, slave_ok: bool) -> io::Result<Result<(), Failure>> {
        let query = Query {
            id: 1,
            flags: if slave_ok { query_flags::SLAVE_OK } else { 0 },
            namespace: "local.oplog.rs".to_owned(),
            batch: -1,
            query: raw(&doc! { "$query": {}, "$orderby": { "$natural": -1 } }),
            projection: Some(raw(&doc! { "ts": 1 })),
        };
        let reply = Reply::parse(&self.upstream.pass(&query.to_bytes()).await?)?;
        if let Some((text, code)) = reply.error() {
            return Ok(Err(Failure(text, code)));
        }
        let newest = reply.documents.first().and_then(|entry| entry.get_timestamp("ts").ok());
        if self.member.oplog.reaches(newest.map_or(0, number)).await {
            return Ok(Ok(()));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the oplog is not followed"))
    }

    /// The time of an answer, since 3.6.
    fn time(&self) -> Option<u64> {
        let seen = self.member.oplog.watch().borrow().seen;
        Some(seen).filter(|_| self.member.period >= Period::V3_6)
    }

    fn translated(&self, answer: &RawDocument) -> RawDocumentBuf {
        match document(answer) {
            Ok(mut document) => {
                self.member.addresses.translate_document(&mut document);
                raw(&document)
            }
            Err(_) => answer.to_owned(),
        }
    }
}

/// Everything that a listing gives, or why it gives nothing.
fn first_batch(answer: Document) -> Result<Vec<Document>, Failure> {
    let batch = answer
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    match batch {
        Ok(batch) => Ok(batch.iter().filter_map(|entry| entry.as_document().cloned()).collect()),
        Err(_) => Err(Failure(
            answer.get_str("errmsg").unwrap_or("no listing").to_owned(),
            answer.get_i32("code").unwrap_or_default(),
        )),
    }
}

fn as_reply(found: Result<Batch, Failure>) -> Reply {
    match found {
        Ok(Batch { cursor, documents }) => Reply {
            flags: reply_flags::AWAIT_CAPABLE,
            cursor,
            documents,
        },
        Err(Failure(text, code)) => Reply::failure(&text, code),
    }
}
