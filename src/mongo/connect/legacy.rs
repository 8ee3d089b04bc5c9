//! Connects to a source that the driver does not talk to.

use std::time::Duration;

use futures::future::{join_all, pending};
use mongodb::options::{ClientOptions, Tls};
use tokio::time::{sleep, timeout};

use super::known::connection_of;
use super::options::To;
use super::pem::PemFile;
use super::{ConnectOptions, LIMIT, LOOK_AFTER, OPERATION, hosts_of, parse};
use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};
use crate::model::{Connection, Side};
use crate::mongo::legacy::{LegacyClient, LegacyOptions};

/// Highest wire version of the servers that are read without the driver: that of 4.2, for drivers that ask for more.
const NEWEST: i32 = 8;

/// Timeout for asking a host for its version.
const GLANCE: Duration = Duration::from_secs(3);

/// A client that has reached the primary, and the facts about its connection.
pub(crate) struct LegacyConnected {
    pub client: LegacyClient,
    /// The highest wire version of the primary.
    pub wire_version: i32,
    pub connection: Connection,
    /// Certificates that were given in memory. The client reads them for each connection.
    pub files: Vec<PemFile>,
}

/// Whether the driver's error leaves it possible that the servers are only too old for it. Those that it cannot agree with on a cipher do not
/// get as far as telling their version.
pub(crate) fn may_be_too_old(error: &Error, options: &ConnectOptions) -> bool {
    const CODES: &[FindingCode] = &[
        FindingCode::ServerTooOld,
        FindingCode::ClientCertificate,
        FindingCode::NotReached,
    ];
    !matches!(options.to, To::Client(_)) && has(error, CODES)
}

/// Waits until a host says that it is too old for the driver. Does not return if none does.
///
/// Servers before 3.6 do not know the driver's messages and close its connections, so the driver would try until its time is over.
///
/// # Cancellation
/// Dropping the future closes its connections.
pub(crate) async fn found_too_old(options: &ConnectOptions) {
    sleep(LOOK_AFTER).await;
    let mut parsed = match &options.to {
        // A malformed connection string is reported by the driver's connection.
        To::Uri(uri) => ClientOptions::parse(uri).await.ok(),
        To::Options(options) => Some((**options).clone()),
        To::Client(_) => None,
    };
    let files = match &mut parsed {
        Some(parsed) => options.tls.clone().add_to(parsed).await.ok(),
        None => None,
    };
    if let Some((parsed, _files)) = parsed.zip(files) {
        // No host wants a login before it says its version.
        let options = LegacyOptions {
            credential: None,
            ..LegacyOptions::from(parsed)
        };
        let hosts = options.hosts.clone();
        let Ok(client) = LegacyClient::new(options) else {
            return pending().await;
        };
        loop {
            let versions = hosts.iter().map(|host| async {
                let described = timeout(GLANCE, client.is_master(host)).await;
                Some(described.ok()?.ok()?.max_wire_version)
            });
            let versions = join_all(versions).await;
            if versions.into_iter().flatten().any(|version| version < NEWEST) {
                return;
            }
            sleep(LOOK_AFTER).await;
        }
    }
    pending().await
}

/// Returns the one of both errors that says more: that of the driver, unless the servers are too old for it, or for its TLS.
pub(crate) fn more_telling(of_driver: Error, of_legacy: Error) -> Error {
    match has(&of_driver, &[FindingCode::ServerTooOld]) || has(&of_legacy, &[FindingCode::TlsTooOld]) {
        true => of_legacy,
        false => of_driver,
    }
}

fn has(error: &Error, codes: &[FindingCode]) -> bool {
    let mut findings = error.findings().iter();
    findings.any(|finding| codes.contains(&finding.code))
}

/// Creates a client for old servers and waits until it reaches a primary.
///
/// # Errors
/// As for [`connect`](super::connect). [`Refused`](ErrorKind::Refused) if the servers are newer than those of which such a client is of use.
pub(crate) async fn connect_legacy(options: ConnectOptions, side: Side) -> Result<LegacyConnected> {
    let forced = options.legacy;
    let ConnectOptions { to, tls, on_wait, .. } = options;
    let mut options: ClientOptions = match to {
        To::Uri(uri) => parse(&uri, side, &on_wait).await?,
        To::Options(options) => *options,
        To::Client(_) => {
            let finding = Finding::blocker(
                FindingCode::ServerTooOld,
                "a client of the driver cannot read from a server of this age",
                "give a connection string, or the options of the client",
            );
            return Err(Error::refused(OPERATION, vec![finding]));
        }
    };
    let files = tls.add_to(&mut options).await?;
    let limit = options.server_selection_timeout.unwrap_or(LIMIT);
    options.server_selection_timeout.get_or_insert(Duration::from_secs(15));
    let connection = connection_of(&options);
    let (hosts, encrypted) = (hosts_of(&options), matches!(options.tls, Some(Tls::Enabled(_))));
    let mut options = LegacyOptions::from(options);
    options.wire_version_limit = forced;
    let client = LegacyClient::new(options)?;
    let reached = timeout(limit, client.primary());
    let operation = format!("connect to {hosts}");
    let reached = on_wait.report_waits(side, operation, Some(limit), reached).await;
    let primary = reached
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Connection, OPERATION, "no primary answers")))
        .map_err(|error| explained(error, encrypted).with_context("hosts", &hosts))?;
    if primary.is_master.max_wire_version > NEWEST && forced.is_none() {
        let finding = Finding::blocker(
            FindingCode::NotReached,
            "the servers are not too old for the driver, and it does not reach them",
            "see whether they can be reached from here",
        );
        return Err(Error::refused(OPERATION, vec![finding]).with_kind(ErrorKind::Connection));
    }
    let wire_version = primary.is_master.max_wire_version;
    Ok(LegacyConnected {
        client,
        wire_version: forced.map_or(wire_version, |limit| wire_version.min(limit)),
        connection,
        files,
    })
}

/// Adds what to do about an old server that is not reached.
fn explained(error: Error, encrypted: bool) -> Error {
    if !error.findings().is_empty() {
        return error;
    }
    let (code, fix) = match error.kind() {
        ErrorKind::Unauthorized => (
            FindingCode::CredentialsRefused,
            "correct the user and the password, and name the database that holds the user as `authSource`; 2.6 has MONGODB-CR alone, which is \
             used without an `authMechanism` in the connection string",
        ),
        _ if encrypted && !cfg!(feature = "legacy-openssl") => (
            FindingCode::NotReached,
            "servers up to 3.4 have no key exchange in common with rustls: build with the feature `legacy-openssl`, or put a tunnel such as \
             stunnel in front of them",
        ),
        _ => (
            FindingCode::NotReached,
            "see whether the members run, and whether they can be reached from here",
        ),
    };
    let retryable = error.is_retryable();
    let kind = error.kind();
    let finding = Finding::blocker(code, error.report(), fix);
    Error::refused(OPERATION, vec![finding])
        .with_kind(kind)
        .with_retryable(retryable)
}
