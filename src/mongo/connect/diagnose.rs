//! Diagnoses why a connection fails: each cause has a code and a fix.

use std::time::Duration;

use bson::Document;
use futures::future::join_all;
use mongodb::Client;
use mongodb::error::{Error as DriverError, ErrorKind as DriverErrorKind};
use mongodb::options::{AuthMechanism, ClientOptions, ServerAddress, Tls};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::pem::name_of;
use super::tls::{diagnose_plain, diagnose_tls};
use super::{OPERATION, greet, other_primary};
use crate::error::{Error, ErrorKind, Finding, FindingCode};
use crate::mongo::client::{self, Answer};

/// Timeout for asking a server what it is.
const GLANCE: Duration = Duration::from_secs(3);

/// State of a given host, as far as it can be determined.
pub(super) enum Seen {
    /// A problem that does not go away by itself.
    Lasting(ErrorKind, Finding),
    /// A problem that may go away by itself.
    Passing(Finding),
    /// A member of the requested set, with its own description.
    Member(Document),
}

/// Asks every given host what it is.
pub(super) async fn look(options: &ClientOptions) -> Vec<(ServerAddress, Seen)> {
    let hosts = options
        .hosts
        .iter()
        .map(|host| async move { (host.clone(), look_at(options, host).await) });
    join_all(hosts).await
}

/// Returns the error of the first host with a problem that does not go away by itself.
pub(super) fn lasting(seen: &[(ServerAddress, Seen)]) -> Option<Error> {
    seen.iter().find_map(|(_, seen)| match seen {
        Seen::Lasting(kind, finding) => Some(Error::refused(OPERATION, vec![finding.clone()]).with_kind(*kind)),
        _ => None,
    })
}

/// Returns the error for a set without a reachable primary, with a finding for each host.
pub(super) fn unreached(seen: &[(ServerAddress, Seen)]) -> Error {
    let findings = seen.iter().map(|(host, seen)| match seen {
        Seen::Lasting(_, finding) | Seen::Passing(finding) => finding.clone(),
        Seen::Member(hello) => match hello.get_str("primary") {
            Ok(primary) => Finding::blocker(
                FindingCode::PrimaryNotReached,
                format!("{host} says that the primary is {primary}, which cannot be reached from here"),
                "make this name known here, in DNS or in /etc/hosts, and its port open",
            ),
            Err(_) => Finding::blocker(
                FindingCode::NoPrimary,
                format!("{host} knows of no primary"),
                "run `rs.status()` on it to see which members are up; more than half of the voting members must be",
            ),
        },
    });
    Error::refused(OPERATION, findings.collect())
        .with_kind(ErrorKind::Connection)
        .with_retryable(true)
}

/// Returns the error for a client that the host has created and that reaches no primary.
pub(super) fn unreached_client(error: Option<&DriverError>) -> Error {
    let said = error.map_or_else(|| "no answer in time".to_owned(), |error| Answer::of(error).to_string());
    let (kind, code, fix) = match error.map(|error| &*error.kind) {
        Some(DriverErrorKind::Authentication { .. }) => (
            ErrorKind::Unauthorized,
            FindingCode::CredentialsRefused,
            "give the client the credentials of a user that the server knows",
        ),
        _ => (
            ErrorKind::Connection,
            FindingCode::NotReached,
            "see whether the members run, and whether the client can reach them from here",
        ),
    };
    let finding = Finding::blocker(code, format!("the client reaches no primary: {said}"), fix);
    Error::refused(OPERATION, vec![finding])
        .with_kind(kind)
        .with_retryable(kind == ErrorKind::Connection)
}

/// Whether an error of the driver does not go away by itself.
pub(super) fn is_final(error: &DriverError) -> bool {
    is_too_old(error)
        || matches!(
            &*error.kind,
            DriverErrorKind::Authentication { .. } | DriverErrorKind::InvalidTlsConfig { .. }
        )
}

/// Returns the crate's error for an error of the driver that does not go away by itself.
pub(super) fn of_driver(options: &ClientOptions, error: &DriverError) -> Option<Error> {
    let (kind, finding) = match &*error.kind {
        DriverErrorKind::Authentication { .. } => (ErrorKind::Unauthorized, refused_credentials(options)),
        DriverErrorKind::InvalidTlsConfig { .. } => (ErrorKind::InvalidConfiguration, tls_files(options, error)),
        _ if is_too_old(error) => (ErrorKind::Refused, too_old(error)),
        _ => return None,
    };
    Some(Error::refused(OPERATION, vec![finding]).with_kind(kind))
}

/// Returns the error for options that the driver does not accept.
pub(super) fn refused_options(options: &ClientOptions, error: &DriverError) -> Error {
    of_driver(options, error).unwrap_or_else(|| {
        let finding = Finding::blocker(
            FindingCode::ConnectionString,
            Answer::of(error).to_string(),
            "correct the options of the connection",
        );
        Error::refused(OPERATION, vec![finding]).with_kind(ErrorKind::InvalidConfiguration)
    })
}

/// Returns the finding for a directly connected member that is not the primary.
pub(super) fn not_primary(host: &str, primary: &str) -> Finding {
    Finding::blocker(
        FindingCode::NotPrimary,
        format!("{host} is a secondary and is connected to directly; the primary is {primary}"),
        "remove `directConnection` and name the set with `replicaSet`, or give the address of the primary",
    )
}

/// Asks one server what it is, without credentials.
pub(super) async fn glance(
    options: &ClientOptions,
    host: &ServerAddress,
    tls: Option<Tls>,
) -> Result<Document, DriverError> {
    let mut options = options.clone();
    let limit = patience(&options);
    options.hosts = vec![host.clone()];
    options.direct_connection = Some(true);
    options.repl_set_name = None;
    options.load_balanced = None;
    options.credential = None;
    options.tls = tls;
    options.server_selection_timeout = Some(limit);
    options.connect_timeout = Some(limit);
    let client = Client::with_options(options)?;
    // A server that was selected may still not answer.
    match timeout(limit + GLANCE, greet(&client)).await {
        Ok(hello) => hello,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

fn patience(options: &ClientOptions) -> Duration {
    options.connect_timeout.map_or(GLANCE, |limit| limit.min(GLANCE))
}

async fn look_at(options: &ClientOptions, host: &ServerAddress) -> Seen {
    if let ServerAddress::Tcp { host: name, port } = host
        && let Some(finding) = unreachable(options, host, name, port.unwrap_or(27017)).await
    {
        return Seen::Passing(finding);
    }
    let error = match glance(options, host, options.tls.clone()).await {
        Ok(hello) => return seen(options, host, hello),
        Err(error) => error,
    };
    if is_too_old(&error) {
        return Seen::Lasting(ErrorKind::Refused, too_old(&error));
    }
    let tls = match &options.tls {
        Some(Tls::Enabled(tls)) => diagnose_tls(options, host, tls, &error).await,
        _ => diagnose_plain(options, host).await,
    };
    match tls {
        Some(finding) => Seen::Lasting(ErrorKind::InvalidConfiguration, finding),
        None => Seen::Passing(Finding::blocker(
            FindingCode::NotReached,
            format!("{host} takes connections and does not answer as MongoDB does"),
            "see whether mongod listens on this port, and whether its log says why it does not answer",
        )),
    }
}

/// Returns the reason why no connection to a host can be opened, if there is one.
async fn unreachable(options: &ClientOptions, host: &ServerAddress, name: &str, port: u16) -> Option<Finding> {
    let limit = patience(options);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let unknown = |reason: String| {
        Some(Finding::blocker(
            FindingCode::UnknownHost,
            format!("the name of {host} is not known here: {reason}"),
            format!("correct it, or make it known in DNS or in /etc/hosts (`getent hosts {name}` shows what it is)"),
        ))
    };
    let addresses: Vec<_> = match timeout(limit, lookup_host((name, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return unknown(client::of_system(&error.to_string())),
        Err(_) => return unknown(format!("DNS has not answered within {} s", limit.as_secs_f32())),
    };
    let reason = match timeout(limit, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        Ok(Err(error)) => client::of_system(&error.to_string()),
        Err(_) => format!("no answer within {} s", limit.as_secs_f32()),
    };
    Some(Finding::blocker(
        FindingCode::NotReached,
        format!("{host} cannot be reached: {reason}"),
        "correct the address, or see whether mongod runs there, and whether its `net.bindIp` and the firewalls let this host in",
    ))
}

/// Classifies a server that has answered.
fn seen(options: &ClientOptions, host: &ServerAddress, hello: Document) -> Seen {
    let Ok(name) = hello.get_str("setName") else {
        // Imitations of MongoDB are reported when the connection is established.
        let mut finding = client::not_a_replica_set(&hello, &Document::new());
        finding.message = format!("{host} belongs to no replica set: {}", finding.message);
        return Seen::Lasting(ErrorKind::Refused, finding);
    };
    if let Some(wanted) = &options.repl_set_name
        && wanted != name
    {
        let finding = Finding::blocker(
            FindingCode::OtherSet,
            format!("{host} belongs to the replica set `{name}`"),
            format!("use `replicaSet={name}`"),
        );
        return Seen::Lasting(ErrorKind::InvalidConfiguration, finding);
    }
    match other_primary(&hello) {
        Some(primary) if options.direct_connection == Some(true) => {
            Seen::Lasting(ErrorKind::Refused, not_primary(&host.to_string(), primary))
        }
        _ => Seen::Member(hello),
    }
}

/// Whether the driver says that the server is too old. The driver has two kinds of errors for that.
fn is_too_old(error: &DriverError) -> bool {
    match &*error.kind {
        DriverErrorKind::IncompatibleServer { .. } => true,
        DriverErrorKind::ServerSelection { message, .. } => message.contains("requires at least"),
        _ => false,
    }
}

fn too_old(error: &DriverError) -> Finding {
    let said = Answer::of(error).to_string();
    let version = series_of(&said).map_or_else(String::new, |series| format!("the server is a MongoDB {series}: "));
    Finding::blocker(
        FindingCode::ServerTooOld,
        format!("{version}{said}; 4.2 is the oldest version that the driver reaches"),
        "as a source, servers from 2.6 on are read with the feature `legacy` of this crate; otherwise upgrade the server to 4.2 first, one \
         major version after the other, or carry the data over with mongodump and mongorestore of its own version",
    )
}

/// The series of a server, from the driver's text about its wire version.
fn series_of(said: &str) -> Option<&'static str> {
    let (_, rest) = said.split_once("reports wire version ")?;
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    Some(match digits.parse().ok()? {
        0_u32..=2 => "2.6 or older",
        3 => "3.0",
        4 => "3.2",
        5 => "3.4",
        6 => "3.6",
        7 => "4.0",
        8 => "4.2",
        _ => return None,
    })
}

fn tls_files(options: &ClientOptions, error: &DriverError) -> Finding {
    let mut reason = Answer::of(error).to_string();
    if let Some(Tls::Enabled(tls)) = &options.tls {
        for path in [&tls.ca_file_path, &tls.cert_key_file_path].into_iter().flatten() {
            reason = reason.replace(&path.display().to_string(), &name_of(path));
        }
    }
    Finding::blocker(
        FindingCode::TlsFiles,
        reason,
        "give PEM files that this process can read as `tlsCAFile` and `tlsCertificateKeyFile`",
    )
}

fn refused_credentials(options: &ClientOptions) -> Finding {
    let credential = options.credential.as_ref();
    if credential.is_some_and(|credential| credential.mechanism == Some(AuthMechanism::MongoDbX509)) {
        return Finding::blocker(
            FindingCode::CredentialsRefused,
            "the server knows no user by the subject of the client's certificate",
            "run `db.getSiblingDB(\"$external\").createUser({ user: \"SUBJECT\", roles: [...] })` with the subject that `openssl x509 -noout \
             -subject -nameopt RFC2253` prints for it",
        );
    }
    let user = credential
        .and_then(|credential| credential.username.as_deref())
        .unwrap_or_default();
    let database = credential
        .and_then(|credential| credential.source.as_deref())
        .unwrap_or("admin");
    Finding::blocker(
        FindingCode::CredentialsRefused,
        format!("the server refuses user `{user}` of the database `{database}`, or the password"),
        "correct them, percent-encode special characters of the password, and name the database that holds the user as `authSource`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_old_server_is_named() {
        let said = |version: u32| {
            format!("Server at h:1 reports wire version {version}, but this version of the driver requires at least 8")
        };
        for (version, series) in [
            (2, Some("2.6 or older")),
            (5, Some("3.4")),
            (7, Some("4.0")),
            (30, None),
        ] {
            assert_eq!(series_of(&said(version)), series);
        }
        assert_eq!(series_of("no answer"), None);
    }
}
