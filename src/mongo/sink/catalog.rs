//! Creates, changes and drops collections, views and databases.

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, doc, rawdoc};

use super::connection::TargetConnection;
use super::index::{self, is_expiry_of_capped};
use crate::catalog::{modification_for, options_for};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CollectionKind, Namespace};
use crate::mongo::client;
use crate::sink::CatalogCommand;

/// Error codes with which the server says that the catalog already is as requested.
mod code {
    pub const NAMESPACE_NOT_FOUND: i32 = 26;
    pub const INDEX_NOT_FOUND: i32 = 27;
    pub const NAMESPACE_EXISTS: i32 = 48;
    pub const UNKNOWN_FIELD: i32 = 40415;
}

/// Changes the catalog; see [`Sink::execute`](crate::Sink::execute).
///
/// # Errors
/// [`TargetRefused`](ErrorKind::TargetRefused) with the server's reason, or a connection error once the patience has run out.
pub(super) async fn execute(target: &TargetConnection, command: &CatalogCommand) -> Result<()> {
    match command {
        CatalogCommand::Create {
            namespace,
            kind,
            options,
        } => create(target, namespace, *kind, options).await,
        // Servers drop `system.js` only together with its database.
        CatalogCommand::Drop { namespace } if namespace.collection() == "system.js" => {
            let empty = doc! { "delete": namespace.collection(), "deletes": [{ "q": {}, "limit": 0 }] };
            let database = namespace.database();
            run(target, "empty a collection", namespace, database, empty, &[]).await
        }
        CatalogCommand::Drop { namespace } => {
            target.unique_names().forget(namespace);
            let shown = shown(namespace);
            let drop = doc! { "drop": shown.collection() };
            run(
                target,
                "drop a collection",
                &shown,
                shown.database(),
                drop,
                &[code::NAMESPACE_NOT_FOUND],
            )
            .await
        }
        CatalogCommand::DropDatabase { database } => {
            target.unique_names().forget_database(database);
            let drop = doc! { "dropDatabase": 1 };
            run(
                target,
                "drop a database",
                database,
                database,
                drop,
                &[code::NAMESPACE_NOT_FOUND],
            )
            .await
        }
        CatalogCommand::Rename { from, to } if from == to => Ok(()),
        CatalogCommand::Rename { from, to } => {
            let unique_names = target.unique_names().forget(from);
            target.unique_names().forget(to);
            let rename = doc! { "renameCollection": from.as_str(), "to": to.as_str(), "dropTarget": true };
            run(
                target,
                "rename a collection",
                from,
                "admin",
                rename,
                &[code::NAMESPACE_NOT_FOUND],
            )
            .await?;
            if unique_names {
                target.unique_names().created(to);
            }
            Ok(())
        }
        CatalogCommand::Modify { namespace, arguments } => modify(target, namespace, arguments).await,
        CatalogCommand::DropIndex { namespace, name } => {
            if !target.is_at_least(4, 4) {
                index::end_builds(target, namespace, name).await?;
            }
            let drop = doc! { "dropIndexes": namespace.collection(), "index": name };
            let fine = [code::NAMESPACE_NOT_FOUND, code::INDEX_NOT_FOUND];
            run(target, "drop an index", namespace, namespace.database(), drop, &fine).await
        }
    }
}

async fn create(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    options: &RawDocument,
) -> Result<()> {
    const OPERATION: &str = "create a collection";
    let shown = shown(namespace);
    if kind == CollectionKind::TimeSeriesBuckets && target.is_at_least(9, 0) {
        let message = format!(
            "a target of 9.0 and newer takes no buckets of time-series collections: leave it out with `.exclude(\"{shown}\")`, or use a \
             target of 8.x"
        );
        return Err(Error::new(ErrorKind::TargetRefused, OPERATION, message).with_context("name", shown));
    }
    let options = options_for(kind, options, target.series());
    let command = with_fields(rawdoc! { "create": shown.collection() }, &options);
    let fine = [code::NAMESPACE_EXISTS];
    if send(target, OPERATION, &shown, shown.database(), &command, &fine).await? == Sent::Done {
        target.unique_names().created(namespace);
    }
    if kind == CollectionKind::TimeSeriesBuckets && target.is_at_least(6, 0) {
        // 5.0 puts values of different types into one bucket. Later releases accept such buckets only if they are announced. The first
        // releases of 6.0 do not know the option and accept all buckets.
        let modify = doc! { "collMod": shown.collection(), "timeseriesBucketsMayHaveMixedSchemaData": true };
        run(
            target,
            OPERATION,
            &shown,
            shown.database(),
            modify,
            &[code::UNKNOWN_FIELD],
        )
        .await?;
    }
    Ok(())
}

async fn modify(target: &TargetConnection, namespace: &Namespace, arguments: &RawDocument) -> Result<()> {
    let shown = shown(namespace);
    let arguments = modification_for(arguments, target.series());
    if arguments.is_empty() {
        return Ok(());
    }
    let command = with_fields(rawdoc! { "collMod": shown.collection() }, &arguments);
    let fine = [code::NAMESPACE_NOT_FOUND, code::INDEX_NOT_FOUND];
    send(target, "modify a collection", &shown, shown.database(), &command, &fine).await?;
    Ok(())
}

fn with_fields(mut command: RawDocumentBuf, fields: &RawDocument) -> RawDocumentBuf {
    for (name, value) in fields.iter().filter_map(std::result::Result::ok) {
        command.append(name, value);
    }
    command
}

/// Returns the name for catalog commands. They name a time-series collection, not its buckets.
fn shown(namespace: &Namespace) -> Namespace {
    namespace.time_series().unwrap_or_else(|| namespace.clone())
}

async fn run(
    target: &TargetConnection,
    operation: &'static str,
    subject: &impl std::fmt::Display,
    database: &str,
    command: Document,
    fine: &[i32],
) -> Result<()> {
    let command = RawDocumentBuf::try_from(&command).map_err(|error| Error::malformed(operation, error))?;
    send(target, operation, subject, database, &command, fine).await?;
    Ok(())
}

/// Outcome of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// The server carried it out.
    Done,
    /// The catalog already was as requested.
    AsAsked,
}

/// Sends a command until a majority has it. The error codes in `fine` mean that the catalog already is as requested.
async fn send(
    target: &TargetConnection,
    operation: &'static str,
    subject: &impl std::fmt::Display,
    database: &str,
    command: &RawDocument,
    fine: &[i32],
) -> Result<Sent> {
    let error = match target.write_durably(operation, database, command).await {
        Ok(_) => return Ok(Sent::Done),
        Err(error) => error,
    };
    match client::code(&error) {
        Some(code) if fine.contains(&code) => Ok(Sent::AsAsked),
        // The index was built without its expiry for the same reason.
        Some(_) if is_expiry_of_capped(&error) => Ok(Sent::AsAsked),
        Some(_) if error.kind() == ErrorKind::Server => {
            Err(error.with_kind(ErrorKind::TargetRefused).with_context("name", subject))
        }
        _ => Err(error.with_context("name", subject)),
    }
}
