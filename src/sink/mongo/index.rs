//! Indexes.

use bson::Document;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};

use super::target::Target;
use crate::driver;
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::Namespace;
use crate::order::{Element, Elements};
use crate::retry::{ANSWER, RetryRule};
use crate::splice::Splice;

const OPERATION: &str = "create an index";

/// So many calls may wait for one build.
const MOST_ASKED: usize = 3;

/// Builds one index, as [`Sink::create_index`](crate::Sink::create_index) says, however long it takes.
///
/// # Errors
/// [`TargetRefused`](ErrorKind::TargetRefused) with the server's reason; a connection error once patience has run out.
pub(super) async fn create(target: &Target, namespace: &Namespace, specification: &RawDocument) -> Result<()> {
    if comes_with_collection(specification) {
        return Ok(());
    }
    match build(target, namespace, specification, Expiry::AsGiven).await {
        Err(error) if is_expiry_of_capped(&error) => build(target, namespace, specification, Expiry::Left).await,
        other => other,
    }
    .map_err(|error| refusal(error, namespace, specification))
}

/// Whether a specification is sent with its `expireAfterSeconds`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expiry {
    AsGiven,
    Left,
}

/// Whether the target refuses that an index of a capped collection expires documents. Servers up to 5.0 take such an index, and their
/// expiry never takes effect, since documents of a capped collection cannot be deleted there; 6.0 refuses it.
pub(super) fn is_expiry_of_capped(error: &Error) -> bool {
    // CannotCreateIndex and, of collMod, InvalidOptions.
    matches!(driver::code(error), Some(67 | 72)) && {
        let answer = driver::answer(error);
        answer.contains("TTL index") && answer.contains("capped collection")
    }
}

async fn build(target: &Target, namespace: &Namespace, specification: &RawDocument, expiry: Expiry) -> Result<()> {
    let mut command = Splice::with_capacity(specification.as_bytes().len() + 256);
    command.string("createIndexes", namespace.collection());
    command.open_array("indexes");
    write_specification(&mut command, target, specification, expiry);
    command.close();
    if target.is_at_least(4, 4) {
        // By default every voting member has to be ready, so that one that is down would hold the build up for as long.
        command.string("commitQuorum", "majority");
    }
    command.open_document("writeConcern").string("w", "majority").close();
    let command = command.finish();
    let mut attempts = RetryRule::SERVER.begin();
    loop {
        let began = Instant::now();
        let error = match ask(target, namespace, &command).await {
            Ok(reply) => match reply.get_document("writeConcernError") {
                // The index is there; asking again waits until a majority has it.
                Ok(error) => Error::new(
                    ErrorKind::Connection,
                    OPERATION,
                    driver::plain(error.get_str("errmsg").unwrap_or_default()),
                ),
                Err(_) => return Ok(()),
            },
            Err(error) => error,
        };
        if began.elapsed() > RetryRule::SERVER.patience {
            // The build went on for longer than elections take, so that this is a new incident.
            attempts = RetryRule::SERVER.begin();
        }
        // Asking again joins a build that survived the election.
        match attempts.next_pause(&error) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

/// Asks for the build. It may take hours, so that no limit tells an answer that was lost. Asked once more on another connection the server
/// answers at once where the index stands, and joins the build where it is going on; the first call is not dropped meanwhile, since
/// servers give up a build whose client is gone.
async fn ask(target: &Target, namespace: &Namespace, command: &RawDocumentBuf) -> Result<Document> {
    let mut asked = FuturesUnordered::new();
    let mut refused = None;
    loop {
        if asked.len() < MOST_ASKED {
            let database = namespace.database();
            asked.push(driver::run_raw(target.client(), OPERATION, database, command.clone()));
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
        match timeout(ANSWER, answers).await {
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

/// Whether the collection is never without this index: the one on `_id`, or the order in which a clustered collection is stored.
fn comes_with_collection(specification: &RawDocument) -> bool {
    let is_set = |value: RawBsonRef<'_>| value.as_bool() == Some(true);
    if specification.get("clustered").ok().flatten().is_some_and(is_set) {
        return true;
    }
    let Ok(key) = specification.get_document("key") else {
        return false;
    };
    let mut fields = key.iter();
    let is_ascending = |value: RawBsonRef<'_>| match value {
        RawBsonRef::Int32(value) => value == 1,
        RawBsonRef::Int64(value) => value == 1,
        RawBsonRef::Double(value) => value == 1.0,
        _ => false,
    };
    matches!(fields.next(), Some(Ok((name, value))) if name.as_str() == "_id" && is_ascending(value))
        && fields.next().is_none()
}

/// The specification without what says nothing on the target.
fn write_specification(command: &mut Splice, target: &Target, specification: &RawDocument, expiry: Expiry) {
    command.open_document("0");
    for element in Elements::of(specification.as_bytes()) {
        let Element::Field { name, value } = element else {
            continue;
        };
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let is_false = value.bytes() == [0];
        let says_nothing = match name {
            // The namespace of a 4.2 source may have another name here.
            "ns" => true,
            "dropDups" | "safe" => true,
            "expireAfterSeconds" => expiry == Expiry::Left,
            "hidden" if is_false => !target.is_at_least(4, 4),
            "prepareUnique" if is_false => !target.is_at_least(6, 0),
            _ => false,
        };
        if !says_nothing {
            command.value(name, value);
        }
    }
    // An index without a collation has the simple one, and a new one takes that of its collection where it states none.
    let states_collation = matches!(specification.get("collation"), Ok(Some(_)));
    if !states_collation && !is_of_first_version(specification) {
        command.open_document("collation").string("locale", "simple").close();
    }
    command.close();
}

/// Whether the index has the format of before 3.4, which knows no collation.
fn is_of_first_version(specification: &RawDocument) -> bool {
    match specification.get("v") {
        Ok(Some(RawBsonRef::Int32(version))) => version < 2,
        Ok(Some(RawBsonRef::Int64(version))) => version < 2,
        Ok(Some(RawBsonRef::Double(version))) => version < 2.0,
        _ => false,
    }
}

fn refusal(error: Error, namespace: &Namespace, specification: &RawDocument) -> Error {
    let name = specification.get_str("name").unwrap_or("(without a name)").to_owned();
    let error = if error.kind() == ErrorKind::Server {
        Error::new(ErrorKind::TargetRefused, OPERATION, driver::answer(&error))
    } else {
        error
    };
    error.with_context("namespace", namespace).with_context("index", name)
}
