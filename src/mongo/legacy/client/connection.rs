//! One connection: requests go out and replies come in, one at a time, each within its time.

use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Settings;
use super::stream::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::mongo::client::of_system;
use crate::mongo::legacy::auth::{self, Commands};
use crate::mongo::legacy::error::{CommandError, server_error};
use crate::mongo::legacy::is_master::IsMaster;
use crate::mongo::legacy::wire::{self, Prefix, Query, QueryFlags, Reply};

const OPERATION: &str = "talk to the server";

/// The slowest reply, in bytes per second, that is still waited for.
const SLOWEST: usize = 64 * 1024;

/// An open connection. Dropping it closes it.
pub(in crate::mongo::legacy) struct Connection {
    stream: Stream,
    is_master: IsMaster,
    request: i32,
    /// A request without a reply that goes out before the next one.
    before: Vec<u8>,
    exchange: Exchange,
    /// When it was opened.
    pub opened: Instant,
    /// When it was last used.
    pub last_used: Instant,
}

/// A request that is being sent, and the reply that is being read. It lives in the connection, so that a call that was dropped can be continued
/// by the next one.
struct Exchange {
    is_open: bool,
    /// What is still to be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// What has been read of the reply.
    head: Vec<u8>,
    prefix: Option<Prefix>,
    body: Vec<u8>,
    /// When something was last sent or read, and when the whole reply must have been read.
    since: Instant,
    end: Instant,
}

impl Exchange {
    fn new(out: Vec<u8>) -> Self {
        let now = Instant::now();
        Self {
            is_open: false,
            out,
            sent: 0,
            head: Vec::new(),
            prefix: None,
            body: Vec::new(),
            since: now,
            end: now,
        }
    }
}

impl Connection {
    /// Connects, encrypts, and asks the server what it is.
    ///
    /// # Errors
    /// [`Connection`](ErrorKind::Connection), or an error of [`Tls`](super::tls::Tls).
    pub async fn open(settings: &Settings, address: &str) -> Result<Self> {
        let limit = settings.options.connect_timeout;
        let opened = timeout(limit, async {
            let tcp = TcpStream::connect(address).await.map_err(broken)?;
            tcp.set_nodelay(true).map_err(broken)?;
            let stream = match &settings.tls {
                Some(tls) => tls.connect(address, tcp).await?,
                None => Stream::Plain(tcp),
            };
            let mut connection = Self {
                stream,
                is_master: IsMaster::default(),
                request: 0,
                before: Vec::new(),
                exchange: Exchange::new(Vec::new()),
                opened: Instant::now(),
                last_used: Instant::now(),
            };
            connection.greet(settings).await?;
            Ok(connection)
        });
        opened.await.unwrap_or_else(|_| Err(late()))
    }

    /// Logs in, unless no login is given or the server is an arbiter.
    ///
    /// # Errors
    /// The server's answer, or a connection error.
    pub async fn log_in(&mut self, settings: &Settings) -> Result<()> {
        let Some(credential) = &settings.options.credential else {
            return Ok(());
        };
        if self.is_master.is_arbiter {
            return Ok(());
        }
        let is_master = self.is_master.clone();
        let limit = settings.options.connect_timeout;
        let mut commands = LoginCommands {
            connection: self,
            limit,
        };
        let logged_in = auth::log_in(&mut commands, credential, &is_master, &settings.keys);
        timeout(limit, logged_in).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks the server what it is.
    ///
    /// # Errors
    /// A connection error, or the server's answer.
    pub async fn greet(&mut self, settings: &Settings) -> Result<IsMaster> {
        let options = &settings.options;
        let mut command = rawdoc! {
            "isMaster": 1,
            "client": {
                "application": { "name": options.app_name.as_str() },
                "driver": { "name": "mongoferry", "version": env!("CARGO_PKG_VERSION") },
                "os": { "type": std::env::consts::OS },
            },
        };
        if self.request > 0 {
            // Servers take the description of a client once.
            command = rawdoc! { "isMaster": 1 };
        } else if let Some(user) = options.credential.as_ref().and_then(auth::negotiated_user) {
            command.append(cstr!("saslSupportedMechs"), user);
        }
        let reply = self.command("admin", &command, true, options.connect_timeout).await?;
        if let Some(said) = CommandError::of_reply(&reply) {
            return Err(server_error("greet the server", &said, 0));
        }
        let mut is_master = IsMaster::parse(reply)?;
        if let Some(limit) = options.wire_version_limit {
            is_master.max_wire_version = is_master.max_wire_version.min(limit);
        }
        self.is_master = is_master.clone();
        Ok(is_master)
    }

    /// What the server said of itself last.
    pub fn is_master(&self) -> &IsMaster {
        &self.is_master
    }

    /// Sends a command and returns the reply, whatever it says. `limit` is for the first byte of the reply.
    ///
    /// # Errors
    /// A connection error.
    pub async fn command(
        &mut self,
        database: &str,
        command: &RawDocument,
        slave_ok: bool,
        limit: Duration,
    ) -> Result<RawDocumentBuf> {
        self.begin(|id| encode_command(id, database, command, slave_ok))?;
        self.finish(limit).await?.into_document()
    }

    /// Begins an exchange with the request that `encode` makes with an id. [`finish`](Self::finish) sends it and reads the reply.
    ///
    /// # Errors
    /// The errors of `encode`.
    pub fn begin(&mut self, encode: impl FnOnce(i32) -> Result<Vec<u8>>) -> Result<()> {
        self.request = self.request.wrapping_add(1);
        let mut out = encode(self.request)?;
        if !self.before.is_empty() {
            out.splice(..0, std::mem::take(&mut self.before));
        }
        self.exchange = Exchange::new(out);
        self.exchange.is_open = true;
        Ok(())
    }

    /// Sends what was begun, and reads the reply. `limit` is for each part of the request, the first byte of the reply, and each later part.
    ///
    /// # Errors
    /// [`Connection`](ErrorKind::Connection) or [`Protocol`](ErrorKind::Protocol). The connection cannot be used any more then.
    ///
    /// # Cancellation
    /// If the future is dropped, another call continues where this one was. Its time does not begin anew.
    pub async fn finish(&mut self, limit: Duration) -> Result<Reply> {
        let (stream, exchange) = (&mut self.stream, &mut self.exchange);
        while exchange.sent < exchange.out.len() {
            let written = stream.write(&exchange.out[exchange.sent..]);
            match progress(exchange.since + limit, written).await? {
                0 => return Err(closed()),
                count => exchange.sent += count,
            }
            exchange.since = Instant::now();
        }
        progress(exchange.since + limit, stream.flush()).await?;
        while exchange.head.len() < Prefix::SIZE {
            let missing = Prefix::SIZE - exchange.head.len();
            fill(stream, &mut exchange.head, missing, exchange.since + limit).await?;
        }
        let prefix = match exchange.prefix {
            Some(prefix) => prefix,
            None => {
                let prefix = Prefix::parse(exchange.head.first_chunk().ok_or_else(closed)?)?;
                if prefix.answers != self.request {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        OPERATION,
                        "the server answers another request than the one that was sent",
                    ));
                }
                exchange.body.reserve_exact(prefix.length);
                exchange.since = Instant::now();
                exchange.end = exchange.since + limit + Duration::from_secs((prefix.length / SLOWEST) as u64);
                *exchange.prefix.insert(prefix)
            }
        };
        while exchange.body.len() < prefix.length {
            let missing = prefix.length - exchange.body.len();
            let end = exchange.end.min(exchange.since + limit);
            fill(stream, &mut exchange.body, missing, end).await?;
            exchange.since = Instant::now();
        }
        let body = std::mem::take(&mut exchange.body);
        *exchange = Exchange::new(Vec::new());
        self.last_used = Instant::now();
        Reply::new(prefix, body)
    }

    /// Whether the request was handed over whole, so that the server may have carried it out.
    pub fn is_sent(&self) -> bool {
        self.exchange.sent == self.exchange.out.len()
    }

    /// Whether an unused connection is still open.
    pub fn is_usable(&self) -> bool {
        !self.exchange.is_open && self.stream.is_quiet()
    }

    /// Closes cursors before the next request. There is no reply.
    ///
    /// # Errors
    /// Never for fewer cursors than fit into a message.
    pub fn kill_cursors_first(&mut self, cursors: &[i64]) -> Result<()> {
        self.request = self.request.wrapping_add(1);
        self.before = wire::kill_cursors(self.request, cursors)?;
        Ok(())
    }

    /// Closes cursors if that is possible without waiting. The connection cannot be used any more if it is not.
    pub fn kill_cursors_now(&mut self, cursors: &[i64]) -> bool {
        self.request = self.request.wrapping_add(1);
        wire::kill_cursors(self.request, cursors).is_ok_and(|message| self.stream.write_now(&message))
    }
}

/// Commands on the connection itself, before it is handed out.
struct LoginCommands<'a> {
    connection: &'a mut Connection,
    limit: Duration,
}

impl Commands for LoginCommands<'_> {
    async fn run(&mut self, database: &str, command: &RawDocument) -> Result<RawDocumentBuf> {
        let reply = self.connection.command(database, command, true, self.limit).await?;
        match CommandError::of_reply(&reply) {
            None => Ok(reply),
            Some(said) => {
                let version = self.connection.is_master.max_wire_version;
                let error = server_error("log in", &said, version);
                // Whatever the code: credentials are refused. What may pass is said by codes that are known.
                Err(match error.kind() {
                    ErrorKind::Server => error.with_kind(ErrorKind::Unauthorized),
                    _ => error,
                })
            }
        }
    }
}

/// Writes a command as the query that it is.
///
/// # Errors
/// As [`wire::query`].
pub(in crate::mongo::legacy) fn encode_command(
    id: i32,
    database: &str,
    command: &RawDocument,
    slave_ok: bool,
) -> Result<Vec<u8>> {
    let query = Query {
        namespace: &format!("{database}.$cmd"),
        flags: QueryFlags {
            slave_ok,
            ..QueryFlags::default()
        },
        number_to_skip: 0,
        number_to_return: -1,
        query: command,
        fields: None,
    };
    wire::query(id, &query)
}

/// Appends up to `missing` bytes, and at least one.
async fn fill(stream: &mut Stream, buffer: &mut Vec<u8>, missing: usize, end: Instant) -> Result<()> {
    buffer.reserve(missing);
    let mut limited = stream.take(missing as u64);
    match progress(end, limited.read_buf(buffer)).await? {
        0 => Err(closed()),
        _ => Ok(()),
    }
}

async fn progress<T>(end: Instant, work: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    match timeout_at(end, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(closed()),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(late()),
    }
}

fn late() -> Error {
    Error::new(
        ErrorKind::Connection,
        OPERATION,
        "the server has not answered in time; see whether it runs and can be reached from here, and in its `db.currentOp()` what holds it up",
    )
}

fn closed() -> Error {
    broken("the server closed the connection")
}

fn broken(why: impl ToString) -> Error {
    let message = format!(
        "the connection broke: {}; see whether the server runs and can be reached from here",
        of_system(&why.to_string())
    );
    Error::new(ErrorKind::Connection, OPERATION, message)
}
