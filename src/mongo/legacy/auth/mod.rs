//! Logins: SCRAM, MONGODB-CR and X.509.

mod challenge_response;
mod keys;
mod scram;

use std::borrow::Cow;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, Uuid, rawdoc};

pub(super) use self::keys::KeyCache;
use self::scram::{Conversation, Hash};
use super::is_master::IsMaster;
use super::options::{LegacyCredential, LegacyMechanism};
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "log in";

/// The first wire version of a server with SCRAM, and of one that takes the user of a certificate from the certificate.
const SCRAM: i32 = 3;
const NAMELESS_CERTIFICATE: i32 = 5;

/// Maximum number of messages of a conversation. SCRAM has three, the last of which is empty.
const MAX_STEPS: u32 = 6;

/// Runs commands on the connection that logs in.
pub(super) trait Commands {
    /// Sends a command and returns the reply.
    ///
    /// # Errors
    /// What the server says if it refuses the command, or a connection error.
    fn run(&mut self, database: &str, command: &RawDocument) -> impl Future<Output = Result<RawDocumentBuf>> + Send;
}

/// Checks what can be checked without a server.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the mechanism is not one of the client's, or lacks a user or a password.
pub(super) fn check(credential: &LegacyCredential) -> Result<()> {
    if let Some(LegacyMechanism::Other(name)) = &credential.mechanism {
        return Err(unusable(format!(
            "the login `{name}` does not exist for servers before 4.2; use SCRAM-SHA-1, SCRAM-SHA-256, MONGODB-CR or MONGODB-X509"
        )));
    }
    match credential.mechanism {
        Some(LegacyMechanism::X509) => Ok(()),
        _ => user_and_password(credential).map(drop),
    }
}

/// The name by which `isMaster` is asked for the mechanisms of the user.
pub(super) fn negotiated_user(credential: &LegacyCredential) -> Option<String> {
    let user = credential.user.as_ref()?;
    credential
        .mechanism
        .is_none()
        .then(|| format!("{}.{user}", credential.source))
}

/// Logs in.
///
/// # Errors
/// [`Unauthorized`](ErrorKind::Unauthorized) if the server refuses the credentials, [`Protocol`](ErrorKind::Protocol) for answers that no
/// server gives, or the errors of `connection`.
pub(super) async fn log_in(
    connection: &mut (impl Commands + Send),
    credential: &LegacyCredential,
    is_master: &IsMaster,
    keys: &KeyCache,
) -> Result<()> {
    let mechanism = mechanism(credential, is_master);
    let logged_in = match mechanism {
        LegacyMechanism::X509 => by_certificate(connection, credential, is_master).await,
        LegacyMechanism::Cr => by_challenge(connection, credential).await,
        LegacyMechanism::ScramSha1 => by_scram(connection, credential, Hash::Sha1, keys).await,
        LegacyMechanism::ScramSha256 => by_scram(connection, credential, Hash::Sha256, keys).await,
        LegacyMechanism::Other(_) => check(credential),
    };
    logged_in.map_err(|error| error.with_context("authSource", &credential.source))
}

/// The mechanism that is given, or else the best one that the server has for the user.
fn mechanism(credential: &LegacyCredential, is_master: &IsMaster) -> LegacyMechanism {
    if let Some(given) = &credential.mechanism {
        return given.clone();
    }
    let offered = is_master.raw.get_array("saslSupportedMechs");
    let offers = |name: &str| {
        offered
            .as_ref()
            .is_ok_and(|offered| offered.into_iter().flatten().any(|one| one.as_str() == Some(name)))
    };
    if offers(Hash::Sha256.mechanism()) {
        LegacyMechanism::ScramSha256
    } else if is_master.max_wire_version >= SCRAM {
        // From 3.0 to 3.6 this works for users that have only the credentials of MONGODB-CR, too.
        LegacyMechanism::ScramSha1
    } else {
        LegacyMechanism::Cr
    }
}

async fn by_certificate(
    connection: &mut impl Commands,
    credential: &LegacyCredential,
    is_master: &IsMaster,
) -> Result<()> {
    let mut command = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509" };
    match &credential.user {
        Some(user) => command.append(cstr!("user"), user.as_str()),
        None if is_master.max_wire_version < NAMELESS_CERTIFICATE => {
            return Err(unusable(
                "servers before 3.4 do not take the user from the certificate; give its subject as user, as \
                 `openssl x509 -in FILE -noout -subject -nameopt RFC2253` shows it",
            ));
        }
        None => {}
    }
    connection.run("$external", &command).await.map(drop)
}

async fn by_challenge(connection: &mut impl Commands, credential: &LegacyCredential) -> Result<()> {
    let (user, password) = user_and_password(credential)?;
    let database = &credential.source;
    let challenge = connection.run(database, &rawdoc! { "getnonce": 1 }).await?;
    let nonce = challenge
        .get_str("nonce")
        .map_err(|error| Error::malformed(OPERATION, error))?;
    let key = challenge_response::key(nonce, user, password);
    let answer = rawdoc! { "authenticate": 1, "user": user, "nonce": nonce, "key": key };
    connection.run(database, &answer).await.map(drop)
}

async fn by_scram(
    connection: &mut impl Commands,
    credential: &LegacyCredential,
    hash: Hash,
    keys: &KeyCache,
) -> Result<()> {
    let (user, password) = user_and_password(credential)?;
    let password = prepared(hash, user, password)?;
    let database = &credential.source;
    // Two random ids have 244 random bits; the RFC leaves the length open.
    let nonce = format!("{}{}", Uuid::new(), Uuid::new());
    let conversation = Conversation::new(hash, user, nonce);

    let start = rawdoc! { "saslStart": 1, "mechanism": hash.mechanism(), "payload": payload(conversation.first()) };
    let mut reply = connection.run(database, &start).await?;
    let challenge = conversation.challenge(payload_of(&reply)?)?;
    let used = keys.get(password.into_owned(), challenge.salting.clone()).await?;
    let (last, expected) = conversation.last(&challenge, &used)?;

    reply = proceed(connection, database, &reply, last).await?;
    expected.check(payload_of(&reply)?)?;
    for _ in 0..MAX_STEPS {
        if reply.get_bool("done").unwrap_or(false) {
            return Ok(());
        }
        reply = proceed(connection, database, &reply, String::new()).await?;
    }
    Err(Error::new(ErrorKind::Protocol, OPERATION, "the login does not end"))
}

async fn proceed(
    connection: &mut impl Commands,
    database: &str,
    reply: &RawDocument,
    text: String,
) -> Result<RawDocumentBuf> {
    let mut command = rawdoc! { "saslContinue": 1 };
    match reply.get("conversationId").ok().flatten() {
        Some(RawBsonRef::Int64(id)) => command.append(cstr!("conversationId"), id),
        Some(RawBsonRef::Int32(id)) => command.append(cstr!("conversationId"), id),
        _ => {
            return Err(Error::new(
                ErrorKind::Protocol,
                OPERATION,
                "the login has no conversation",
            ));
        }
    }
    command.append(cstr!("payload"), payload(text));
    connection.run(database, &command).await
}

fn payload(text: String) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.into_bytes(),
    }
}

fn payload_of(reply: &RawDocument) -> Result<&[u8]> {
    let payload = reply.get_binary("payload");
    payload
        .map(|payload| payload.bytes)
        .map_err(|error| Error::malformed(OPERATION, error))
}

/// The form of the password that a mechanism uses.
fn prepared<'a>(hash: Hash, user: &str, password: &'a str) -> Result<Cow<'a, str>> {
    match hash {
        Hash::Sha1 => Ok(challenge_response::digest(user, password).into()),
        Hash::Sha256 => stringprep::saslprep(password)
            .map_err(|_| unusable("the password contains characters that SCRAM-SHA-256 does not allow")),
    }
}

fn user_and_password(credential: &LegacyCredential) -> Result<(&str, &str)> {
    match (&credential.user, &credential.password) {
        (Some(user), Some(password)) => Ok((user, password)),
        _ => Err(unusable(
            "a login needs a user and a password; add both to the connection string",
        )),
    }
}

fn unusable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfiguration, OPERATION, message)
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::Unauthorized, OPERATION, message)
}

#[cfg(test)]
mod tests;
