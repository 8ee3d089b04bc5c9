//! Builds indexes on the target.

use std::collections::BTreeSet;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, Document, Uuid, doc, rawdoc};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};

use super::connection::TargetConnection;
use crate::catalog::expiry::TTL_DISABLED_SECONDS;
use crate::catalog::{are_same_keys, index_difference, index_for, is_id_index, name_of, seconds};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::model::raw::writer::RawWriter;
use crate::mongo::retry::{COMMAND_TIMEOUT, RetryPolicy};
use crate::mongo::{client, listing};

const OPERATION: &str = "create an index";

/// Maximum number of calls that wait for one build.
const MOST_ASKED: usize = 3;

/// Builds one index, however long it takes; see [`Sink::create_index`](crate::Sink::create_index).
///
/// # Errors
/// [`TargetRefused`](ErrorKind::TargetRefused) with the server's reason, or a connection error once the patience has run out.
pub(super) async fn create(
    target: &TargetConnection,
    namespace: &Namespace,
    specification: &RawDocument,
) -> Result<()> {
    if comes_with_collection(specification) {
        return Ok(());
    }
    match build(target, namespace, specification, Expiry::AsGiven).await {
        Err(error) if is_expiry_of_capped(&error) => build(target, namespace, specification, Expiry::Left).await,
        Err(error) if is_expiry_too_long(&error) => build_with_long_expiry(target, namespace, specification).await,
        Err(error) if is_conflict(&error) && exists(target, namespace, specification).await? => Ok(()),
        other => other,
    }
    .map_err(|error| refusal(error, namespace, specification))
}

/// Builds an index with a long expiry, for servers that refuse it for a new index. They accept it for an existing one.
async fn build_with_long_expiry(
    target: &TargetConnection,
    namespace: &Namespace,
    specification: &RawDocument,
) -> Result<()> {
    match build(target, namespace, specification, Expiry::HeldBack).await {
        Err(error) if is_conflict(&error) && exists(target, namespace, specification).await? => return Ok(()),
        built => built?,
    }
    let seconds = seconds(specification).unwrap_or_default();
    let change = rawdoc! { "name": name_of(specification), "expireAfterSeconds": seconds };
    let modify = rawdoc! { "collMod": namespace.collection(), "index": change };
    target
        .write_durably(OPERATION, namespace.database(), &modify)
        .await
        .map(|_| ())
}

/// How to send the `expireAfterSeconds` of a specification.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expiry {
    AsGiven,
    Left,
    HeldBack,
}

/// Whether the target refuses an expiry that, counted back from now, lies before 1970.
fn is_expiry_too_long(error: &Error) -> bool {
    client::code(error) == Some(67) && client::answer(error).contains("must be within an acceptable range")
}

/// Whether the target refuses an index of a capped collection that expires documents. Servers up to 5.0 accept such an index. Its expiry
/// never takes effect, since documents of a capped collection cannot be deleted there. 6.0 refuses the index.
pub(super) fn is_expiry_of_capped(error: &Error) -> bool {
    // CannotCreateIndex and, from `collMod`, InvalidOptions.
    matches!(client::code(error), Some(67 | 72)) && {
        let answer = client::answer(error);
        answer.contains("TTL index") && answer.contains("capped collection")
    }
}

async fn build(
    target: &TargetConnection,
    namespace: &Namespace,
    specification: &RawDocument,
    expiry: Expiry,
) -> Result<()> {
    let mut command = RawWriter::with_capacity(specification.as_bytes().len() + 256);
    command.string("createIndexes", namespace.collection());
    command.open_array("indexes");
    command.document("0", &to_send(target, specification, expiry));
    command.close();
    if target.is_at_least(4, 4) {
        // By default every voting member has to be ready. A member that is down would block the build for as long as it is down.
        command.string("commitQuorum", "majority");
    }
    command.open_document("writeConcern").string("w", "majority").close();
    let command = command.finish();
    let mut attempts = RetryPolicy::SERVER.begin();
    let collection = identity(target, namespace).await?.ok_or_else(gone)?;
    loop {
        let began = Instant::now();
        let error = match ask(target, namespace, collection, &command).await {
            Ok(reply) => match reply.get_document("writeConcernError") {
                // The index exists. Sending the command again waits until a majority has it.
                Ok(error) => Error::new(
                    ErrorKind::Connection,
                    OPERATION,
                    client::plain(error.get_str("errmsg").unwrap_or_default()),
                ),
                Err(_) => return Ok(()),
            },
            Err(error) => error,
        };
        if began.elapsed() > RetryPolicy::SERVER.patience {
            // The build ran longer than elections take, so this is a new incident.
            attempts = RetryPolicy::SERVER.begin();
        }
        // Sending the command again joins a build that survived the election.
        match attempts.next_pause(&error) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

async fn identity(target: &TargetConnection, namespace: &Namespace) -> Result<Option<Uuid>> {
    let names = BTreeSet::from([namespace.clone()]);
    let found = listing::identities(target.client(), &names).await?;
    Ok(found.get(namespace).copied())
}

fn gone() -> Error {
    Error::new(
        ErrorKind::TargetRefused,
        OPERATION,
        "its collection does not exist any more",
    )
}

/// Requests the build. It may take hours, so no timeout can detect a lost answer. The request is therefore sent again on another
/// connection. The server answers at once if the index exists, and joins the build if it is running. The first call is not dropped
/// meanwhile, because it may be answered first.
///
/// The server would create a missing collection. A new primary can lack a collection that the last one had, or have another one under its
/// name.
async fn ask(
    target: &TargetConnection,
    namespace: &Namespace,
    collection: Uuid,
    command: &RawDocumentBuf,
) -> Result<Document> {
    let ask_once = async || {
        if identity(target, namespace).await? != Some(collection) {
            return Err(gone());
        }
        client::run_raw(target.client(), OPERATION, namespace.database(), command.clone()).await
    };
    let mut asked = FuturesUnordered::new();
    let mut refused = None;
    loop {
        if asked.len() < MOST_ASKED {
            asked.push(ask_once());
        }
        let answers = async {
            while let Some(answer) = asked.next().await {
                match answer {
                    Err(error) if error.is_retryable() => refused = Some(error),
                    answer => return Some(answer),
                }
            }
            None
        };
        match timeout(COMMAND_TIMEOUT, answers).await {
            Ok(Some(answer)) => return answer,
            Ok(None) => {
                if let Some(error) = refused {
                    return Err(error);
                }
            }
            Err(_) => {}
        }
    }
}

/// Kills the builds of an index that this user has started. Servers from 4.4 on do that when the index is dropped.
///
/// # Errors
/// A server error.
pub(super) async fn end_builds(target: &TargetConnection, namespace: &Namespace, name: &str) -> Result<()> {
    const OPERATION: &str = "end the build of an index";
    let builds = doc! {
        "currentOp": 1, "$ownOps": true, "command.createIndexes": namespace.collection(), "command.$db": namespace.database(),
        "command.indexes.name": name,
    };
    let reply = client::run(target.client(), OPERATION, "admin", builds).await?;
    let operations = reply
        .get_array("inprog")
        .map_err(|error| Error::malformed(OPERATION, error))?;
    for operation in operations.iter().filter_map(Bson::as_document) {
        if let Some(id) = operation.get("opid") {
            client::run(target.client(), OPERATION, "admin", doc! { "killOp": 1, "op": id }).await?;
        }
    }
    Ok(())
}

/// Whether every collection has this index from the start: the one on `_id`, or the order in which a clustered collection is stored.
fn comes_with_collection(specification: &RawDocument) -> bool {
    is_id_index(specification)
        || specification
            .get_document("key")
            .is_ok_and(|key| are_same_keys(key, &rawdoc! { "_id": 1 }))
}

/// Returns the specification in the form that the target accepts.
fn to_send(target: &TargetConnection, specification: &RawDocument, expiry: Expiry) -> RawDocumentBuf {
    let mut sent = RawDocumentBuf::new();
    for (name, value) in index_for(specification, target.series())
        .iter()
        .filter_map(std::result::Result::ok)
    {
        match expiry {
            Expiry::Left if name == "expireAfterSeconds" => {}
            Expiry::HeldBack if name == "expireAfterSeconds" => sent.append(name, TTL_DISABLED_SECONDS),
            _ => sent.append(name, value),
        }
    }
    sent
}

/// Whether the target already has the index, under its name and with its specification, but written in another way than in this request.
async fn exists(target: &TargetConnection, namespace: &Namespace, specification: &RawDocument) -> Result<bool> {
    let names = BTreeSet::from([namespace.clone()]);
    let listed = listing::collections_named(target.client(), &names).await?;
    let servers = [target.series()];
    Ok(listed.iter().any(|collection| {
        collection.indexes.iter().any(|index| {
            name_of(index) == name_of(specification)
                && index_difference(specification, index, collection.kind, &servers).is_none()
        })
    }))
}

/// Whether the error is IndexOptionsConflict or IndexKeySpecsConflict.
fn is_conflict(error: &Error) -> bool {
    matches!(client::code(error), Some(85 | 86))
}

fn refusal(error: Error, namespace: &Namespace, specification: &RawDocument) -> Error {
    let name = specification.get_str("name").unwrap_or("(without a name)").to_owned();
    let error = if error.kind() == ErrorKind::Server {
        error.with_kind(ErrorKind::TargetRefused)
    } else {
        error
    };
    error.with_context("namespace", namespace).with_context("index", name)
}
