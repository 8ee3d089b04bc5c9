//! Connects by a connection string, by driver options, or with a client of the host.

mod diagnose;
mod known;
#[cfg(feature = "legacy")]
pub(crate) mod legacy;
mod options;
mod pem;
mod tls;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bson::{Document, doc};
use futures::FutureExt;
use mongodb::Client;
use mongodb::error::{Error as DriverError, ErrorKind as DriverErrorKind};
use mongodb::options::{ClientOptions, ConnectionString, ServerAddress};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::diagnose::{Seen, look};
use self::known::{connection_of, connection_of_client, names_of};
use self::options::To;
use self::pem::TlsMaterial;
use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};
use crate::model::{Connection, OnWait, Side};
use crate::mongo::client::{self, Answer};

pub use self::options::ConnectOptions;
#[cfg(feature = "legacy")]
pub(crate) use self::pem::PemFile;
#[cfg(feature = "legacy")]
pub(crate) use self::tls::certificate_problem;

const OPERATION: &str = "connect";

/// Default timeout for finding a primary: longer than an election takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Timeout for describing a server that has been reached.
const DESCRIBED: Duration = Duration::from_secs(30);

/// How long to look for a primary before asking the given hosts what they are, and the pause before asking them again.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long the members' names for each other may be unreachable before a direct connection to a given host that is the primary is used.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// A client and the facts about its connection.
pub(crate) struct Connected {
    pub client: Client,
    pub connection: Connection,
    side: Side,
    on_wait: OnWait,
}

impl Connected {
    /// Awaits an answer in which the server describes itself.
    ///
    /// # Errors
    /// The errors of `answer`, or [`Connection`](ErrorKind::Connection) if there is no answer within 30 seconds.
    pub async fn ask<T>(&self, operation: &'static str, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = timeout(DESCRIBED, answer);
        let answer = self.on_wait.report_waits(self.side, operation, Some(DESCRIBED), answer);
        answer.await.unwrap_or_else(|_| {
            let finding = Finding::blocker(
                FindingCode::NoAnswer,
                format!(
                    "the server has not answered for {} s ({operation})",
                    DESCRIBED.as_secs()
                ),
                "see on it with `db.currentOp()` what holds it up, and whether its writes are locked (`db.fsyncUnlock()` unlocks them)",
            );
            Err(Error::refused(OPERATION, vec![finding])
                .with_kind(ErrorKind::Connection)
                .with_context("hosts", self.connection.hosts.join(",")))
        })
    }
}

/// Creates a client and waits until it reaches a primary. Settings that `options` do not state get defaults that suit a migration.
///
/// If the names that the members have for each other cannot be reached from here, the client connects directly to a given host that is the
/// primary.
///
/// # Errors
/// Each error names its causes as [findings](Error::findings). [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a malformed
/// connection string or if TLS cannot be negotiated, [`Unauthorized`](ErrorKind::Unauthorized) if the credentials are refused,
/// [`Refused`](ErrorKind::Refused) if the server is not a replica set or not a primary, [`Connection`](ErrorKind::Connection) if no primary
/// is reached in time.
pub(crate) async fn connect(options: ConnectOptions, side: Side) -> Result<Connected> {
    let ConnectOptions { to, tls, on_wait, .. } = options;
    let (client, connection) = match to {
        To::Client(_) if tls.is_given() => {
            return Err(pem::unusable(
                "TLS certificates are given together with a client, which has its own",
                "give them to the client, or connect with its options instead",
            ));
        }
        To::Client(client) => {
            let greeted = greet_until(&client, Instant::now() + LIMIT);
            let hello = on_wait.report_waits(side, OPERATION, Some(LIMIT), greeted).await;
            let hello = hello.map_err(|error| diagnose::unreached_client(error.as_ref()))?;
            check(&client, &hello).await?;
            let connection = connection_of_client(&client, &hello).await;
            (client, connection)
        }
        To::Uri(uri) => connect_by(parse(&uri, side, &on_wait).await?, tls, side, &on_wait).await?,
        To::Options(options) => connect_by(*options, tls, side, &on_wait).await?,
    };
    Ok(Connected {
        client,
        connection,
        side,
        on_wait,
    })
}

async fn parse(uri: &str, side: Side, on_wait: &OnWait) -> Result<ClientOptions> {
    const OPERATION: &str = "read the connection string";
    let malformed = |error: DriverError| {
        let finding = match &*error.kind {
            DriverErrorKind::DnsResolve { .. } => {
                let unknown = Finding::blocker(
                    FindingCode::UnknownHost,
                    format!(
                        "the hosts of {} cannot be looked up: {}",
                        redacted(uri),
                        Answer::of(&error)
                    ),
                    "correct the name, or see whether DNS works here: `nslookup -type=SRV _mongodb._tcp.HOST`",
                );
                return Error::refused(OPERATION, vec![unknown]).with_kind(ErrorKind::Connection);
            }
            _ => Finding::blocker(
                FindingCode::ConnectionString,
                Answer::of(&error).to_string(),
                "write it as `mongodb://USER:PASSWORD@HOST:PORT/?replicaSet=NAME`, with special characters of the password percent-encoded",
            ),
        };
        Error::refused(OPERATION, vec![finding])
            .with_kind(ErrorKind::InvalidConfiguration)
            .with_context("uri", redacted(uri))
    };
    let parsed = ConnectionString::parse(uri).map_err(malformed)?;
    let limit = parsed.server_selection_timeout.unwrap_or(LIMIT);
    // This takes time only if names have to be looked up.
    let parse = timeout(limit, ClientOptions::parse(uri));
    let parsed = on_wait.report_waits(side, "look up the hosts of the connection string", Some(limit), parse);
    match parsed.await {
        Ok(parsed) => parsed.map_err(malformed),
        Err(_) => {
            let finding = Finding::blocker(
                FindingCode::UnknownHost,
                format!(
                    "the hosts of {} cannot be looked up: no answer within {limit:?}",
                    redacted(uri)
                ),
                "see whether DNS works here: `nslookup -type=SRV _mongodb._tcp.HOST`",
            );
            Err(Error::refused(OPERATION, vec![finding]).with_kind(ErrorKind::Connection))
        }
    }
}

async fn connect_by(
    mut options: ClientOptions,
    tls: TlsMaterial,
    side: Side,
    on_wait: &OnWait,
) -> Result<(Client, Connection)> {
    // A client reads these files when it is created, and never again. The last one is created before this function returns.
    let _files = tls.add_to(&mut options).await?;
    let limit = options.server_selection_timeout.unwrap_or(LIMIT);
    options.app_name.get_or_insert_with(|| "mongoferry".to_owned());
    options.max_pool_size.get_or_insert(64);
    options.max_connecting.get_or_insert(8);
    options.server_selection_timeout.get_or_insert(Duration::from_secs(15));
    options.connect_timeout.get_or_insert(Duration::from_secs(10));
    let connection = connection_of(&options);
    // Every command carries its own concerns. Defaults of the connection string would be added to them a second time.
    options.read_concern = None;
    options.write_concern = None;
    options.retry_writes = Some(false);
    options.selection_criteria = None;
    let client = Client::with_options(options.clone()).map_err(|error| diagnose::refused_options(&options, &error))?;
    let operation = format!("connect to {}", hosts_of(&options));
    match on_wait
        .report_waits(side, operation, Some(limit), reach(&options, &client, limit))
        .await?
    {
        Reached::Set => Ok((client, connection)),
        Reached::Alone {
            client,
            host,
            unreachable,
        } => Ok((
            client,
            Connection {
                hosts: vec![host],
                direct: true,
                unreachable,
                ..connection
            },
        )),
    }
}

/// What was reached.
enum Reached {
    /// The primary of the set.
    Set,
    /// A given host that is the primary, with a direct connection. The names of its set cannot be used here.
    Alone {
        client: Client,
        host: String,
        unreachable: Vec<String>,
    },
}

/// Waits for a primary as long as one may still appear.
async fn reach(options: &ClientOptions, client: &Client, limit: Duration) -> Result<Reached> {
    let began = Instant::now();
    let hopeless = async {
        loop {
            sleep(LOOK_AFTER).await;
            let seen = look(options).await;
            if let Some(error) = diagnose::lasting(&seen) {
                return Err(error);
            }
            if began.elapsed() >= ALONE_AFTER
                && let Some(alone) = alone(options, &seen).await
            {
                return Ok(alone);
            }
        }
    };
    let error = tokio::select! {
        greeted = greet_until(client, began + limit) => match greeted {
            Ok(hello) => return check(client, &hello).await.map(|()| Reached::Set),
            Err(error) => error,
        },
        found = hopeless => return found.map_err(|error| error.with_context("hosts", hosts_of(options))),
    };
    let error = match error.and_then(|error| diagnose::of_driver(options, &error)) {
        Some(error) => error,
        None => {
            let seen = look(options).await;
            match diagnose::lasting(&seen) {
                Some(error) => error,
                None => match alone(options, &seen).await {
                    Some(alone) => return Ok(alone),
                    None => diagnose::unreached(&seen),
                },
            }
        }
    };
    Err(error.with_context("hosts", hosts_of(options)))
}

/// Connects directly to a given host that is the primary under a name that its set does not use. Returns the names of the set, too.
async fn alone(options: &ClientOptions, seen: &[(ServerAddress, Seen)]) -> Option<Reached> {
    if options.direct_connection == Some(true) {
        return None;
    }
    for (host, seen) in seen {
        let Seen::Member(hello) = seen else { continue };
        let names = names_of(hello);
        if !is_primary(hello) || names.contains(&host.to_string()) {
            continue;
        }
        let mut options = options.clone();
        options.hosts = vec![host.clone()];
        options.direct_connection = Some(true);
        if let Ok(client) = Client::with_options(options)
            && greet(&client).await.is_ok()
        {
            return Some(Reached::Alone {
                client,
                host: host.to_string(),
                unreachable: names,
            });
        }
    }
    None
}

/// Asks the primary what it is.
async fn greet(client: &Client) -> Result<Document, DriverError> {
    // Every version knows this name; `hello` was added in 4.4.2.
    let admin = client.database("admin");
    let hello = admin.run_command(doc! { "isMaster": 1 }).into_future();
    // The driver panics if the runtime in which the client was created is gone.
    let hello = AssertUnwindSafe(hello).catch_unwind().await;
    hello.unwrap_or_else(|_| Err(DriverErrorKind::Shutdown.into()))
}

/// Asks until a usable server answers, or until an error shows that this will not happen. A directly connected member may still become the
/// primary. The error is the last one of the driver, if there was one.
async fn greet_until(client: &Client, end: Instant) -> Result<Document, Option<DriverError>> {
    let mut last = None;
    loop {
        match timeout_at(end, greet(client)).await {
            Ok(Ok(hello)) if is_usable(&hello) => return Ok(hello),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if diagnose::is_final(&error) => return Err(Some(error)),
            Ok(Err(error)) => last = Some(error),
            Err(_) => return Err(last),
        }
        if Instant::now() >= end {
            return Err(last);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether there is nothing to wait for: the server is a primary, or will never be one.
fn is_usable(hello: &Document) -> bool {
    is_primary(hello) || hello.get_str("setName").is_err() || other_primary(hello).is_some()
}

fn is_primary(hello: &Document) -> bool {
    hello.get_bool("ismaster").unwrap_or(false)
}

/// Returns the set's primary if it is another member than the one that answered.
fn other_primary(hello: &Document) -> Option<&str> {
    let primary = hello.get_str("primary").ok()?;
    let is_other = hello.get_str("me").map_or(true, |me| me != primary);
    (is_other && !is_primary(hello)).then_some(primary)
}

/// Returns an error unless the server that answered is a primary.
async fn check(client: &Client, hello: &Document) -> Result<()> {
    let finding = if hello.get_str("setName").is_err() {
        let admin = client.database("admin");
        let build = timeout(LOOK_AFTER, admin.run_command(doc! { "buildInfo": 1 }));
        let build = build.await.ok().and_then(Result::ok).unwrap_or_default();
        client::not_a_replica_set(hello, &build)
    } else if let Some(primary) = other_primary(hello) {
        diagnose::not_primary(hello.get_str("me").unwrap_or("the server"), primary)
    } else {
        return Ok(());
    };
    Err(Error::refused(OPERATION, vec![finding]))
}

/// Returns the connection string without user name and password.
pub(crate) fn redacted(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return "(not a connection string)".to_owned();
    };
    let hosts_end = rest.find('/').unwrap_or(rest.len());
    // A password that was not escaped may contain a slash, so the last `@` of the whole string ends the credentials.
    let rest = match rest.rfind('@') {
        Some(at) => &rest[at + 1..],
        None => &rest[..hosts_end],
    };
    let hosts = rest.split(['/', '?']).next().unwrap_or_default();
    format!("{scheme}://{hosts}")
}

fn hosts_of(options: &ClientOptions) -> String {
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    hosts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_lose_their_credentials() {
        for (uri, shown) in [
            (
                "mongodb://user:pa%40ss@h1:1,h2:2/admin?replicaSet=rs",
                "mongodb://h1:1,h2:2",
            ),
            ("mongodb://user:p/a@s@h1:1/?tls=true", "mongodb://h1:1"),
            ("mongodb://h1", "mongodb://h1"),
            ("mongodb+srv://u:p@cluster.example", "mongodb+srv://cluster.example"),
            ("user:secret", "(not a connection string)"),
        ] {
            assert_eq!(redacted(uri), shown);
        }
    }

    #[tokio::test]
    async fn a_malformed_connection_string_is_named_without_its_password() {
        for uri in [
            "mongodb://user:sec/ret@host",
            "mongo://user:secret@host",
            "mongodb://user:secret@host/?authMechanism=NOPE",
        ] {
            let error = connect(ConnectOptions::uri(uri), Side::Source).await.err().unwrap();
            assert_eq!(error.findings()[0].code, "connection_string");
            assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!text.contains("sec"), "{text}");
            }
        }
    }
}
