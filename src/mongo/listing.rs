//! Lists the collections of a replica set, for source and target.

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, Uuid, doc};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::catalog::kind::kind_of;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace};
use crate::mongo::client::{Commands, is_gone, number, run};
use crate::mongo::retry::{RetryPolicy, retry};

const OPERATION: &str = "list the collections";

/// Maximum number of collections whose indexes and sizes are requested concurrently.
const LISTINGS: usize = 8;

/// The uuid of what has none.
const NIL: Uuid = Uuid::from_bytes([0; 16]);

/// Maximum number of collections requested by name at once.
const NAMES: usize = 1000;

/// Returns the collections and views of every database, with their options, indexes and sizes. Internal collections of the server are left
/// out.
///
/// # Errors
/// A server error. A collection that is dropped meanwhile causes none and is left out.
pub(crate) async fn collections(client: &dyn Commands) -> Result<Vec<Collection>> {
    collections_where(client, &|_| true, &|_| true).await
}

/// Returns those of [`collections`] that are in databases that `reached` wants. Only those that `wanted` wants have their indexes and
/// sizes, which take two commands for each.
///
/// # Errors
/// A server error.
pub(crate) fn collections_where<'a>(
    client: &'a dyn Commands,
    reached: &'a (dyn Fn(&str) -> bool + Sync),
    wanted: &'a (dyn Fn(&Namespace) -> bool + Sync),
) -> BoxFuture<'a, Result<Vec<Collection>>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let mut found = Vec::new();
        for database in databases(client).await?.iter().filter(|database| reached(database)) {
            found.extend(collections_of(client, database, doc! {}, wanted).await?);
        }
        Ok(found)
    }
    .boxed()
}

/// Returns the names of the databases, except those of the server and of this crate.
///
/// # Errors
/// A server error.
pub(crate) async fn databases(client: &dyn Commands) -> Result<BTreeSet<String>> {
    let listed = run(
        client,
        OPERATION,
        "admin",
        // Without the privilege to list all databases this is an error, not a migration of some of them.
        doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false },
    )
    .await?;
    let listed = listed
        .get_array("databases")
        .map_err(|error| Error::malformed(OPERATION, error))?;
    let names = listed
        .iter()
        .filter_map(|database| database.as_document()?.get_str("name").ok());
    let is_internal =
        |name: &str| matches!(name, "admin" | "local" | "config") || name.starts_with(crate::METADATA_DATABASE);
    Ok(names.filter(|name| !is_internal(name)).map(str::to_owned).collect())
}

/// Returns those of `names` that are among [`collections`].
///
/// # Errors
/// A server error.
pub(crate) async fn collections_named(client: &dyn Commands, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
    let mut found = Vec::with_capacity(names.len());
    let names: Vec<&Namespace> = names.iter().collect();
    for of_database in names.chunk_by(|a, b| a.database() == b.database()) {
        // Few enough for one command, however long the names are.
        for some in of_database.chunks(NAMES) {
            let some_names: Vec<&str> = some.iter().map(|name| name.collection()).collect();
            found.extend(
                collections_of(
                    client,
                    some[0].database(),
                    doc! { "name": { "$in": some_names } },
                    &|_| true,
                )
                .await?,
            );
        }
    }
    Ok(found)
}

/// Returns the names of those of [`collections`] that are in a database.
///
/// # Errors
/// A server error.
pub(crate) async fn names_in(client: &dyn Commands, database: &str) -> Result<BTreeSet<Namespace>> {
    let mut names = BTreeSet::new();
    for listed in listed_in(client, database, doc! {}).await? {
        let name = listed
            .get_str("name")
            .map_err(|error| Error::malformed(OPERATION, error))?;
        let namespace = Namespace::new(database, name);
        let is_over_buckets = listed.get_str("type").is_ok_and(|kind| kind == "timeseries") && !has_uuid(&listed);
        if !namespace.is_internal() && !is_over_buckets {
            names.insert(namespace);
        }
    }
    Ok(names)
}

/// Returns how a collection stores its documents, or `None` for a view or what does not exist.
///
/// # Errors
/// A server error.
pub(crate) async fn kind(client: &dyn Commands, namespace: &Namespace) -> Result<Option<CollectionKind>> {
    // If the filter contains more than the name, the server examines every collection of the database.
    let filter = doc! { "name": namespace.collection() };
    let command = doc! { "listCollections": 1, "filter": filter, "cursor": {} };
    let listed = client.documents(OPERATION, namespace.database(), command).await?;
    // Before 3.4, nothing else is listed, and no type.
    let is_collection = |listed: &&RawDocumentBuf| listed.get_str("type").unwrap_or("collection") == "collection";
    let Some(listed) = listed.iter().find(is_collection) else {
        return Ok(None);
    };
    let options = listed
        .get_document("options")
        .map_err(|error| Error::malformed(OPERATION, error))?;
    Ok(Some(kind_of(namespace, &client.meant_options(options))))
}

/// Returns the uuids of those of `names` that exist. The uuid is all zeros for what has none: a view, or the view over the buckets of a
/// time-series collection.
///
/// # Errors
/// A server error.
pub(crate) async fn identities(
    client: &dyn Commands,
    names: &BTreeSet<Namespace>,
) -> Result<BTreeMap<Namespace, Uuid>> {
    let mut found = BTreeMap::new();
    let names: Vec<&Namespace> = names.iter().collect();
    for of_database in names.chunk_by(|a, b| a.database() == b.database()) {
        let database = of_database[0].database();
        for some in of_database.chunks(NAMES) {
            let some_names: Vec<&str> = some.iter().map(|name| name.collection()).collect();
            for listed in listed_in(client, database, doc! { "name": { "$in": some_names } }).await? {
                let name = listed
                    .get_str("name")
                    .map_err(|error| Error::malformed(OPERATION, error))?;
                let namespace = Namespace::new(database, name);
                let kind = match listed.get_str("type") {
                    Ok("view") => CollectionKind::View,
                    Ok("timeseries") => CollectionKind::TimeSeries,
                    _ => CollectionKind::Plain,
                };
                let id = uuid_of(client, &listed, kind, &namespace)?;
                found.insert(namespace, id);
            }
        }
    }
    Ok(found)
}

/// Whether this is a collection that does not show its uuid. Every collection has one.
fn lacks_uuid(listed: &RawDocument) -> bool {
    listed.get_str("type").is_ok_and(|kind| kind == "collection") && !has_uuid(listed)
}

fn has_uuid(listed: &RawDocument) -> bool {
    listed
        .get_document("info")
        .is_ok_and(|info| info.get("uuid").is_ok_and(|uuid| uuid.is_some()))
}

/// Whether a name is listed twice. 4.4 lists one collection after the other, so that a rename in between can show both the old and the new
/// one.
fn has_one_twice(listed: &[RawDocumentBuf]) -> bool {
    let mut names = BTreeSet::new();
    !listed
        .iter()
        .all(|listed| listed.get_str("name").map_or(true, |name| names.insert(name)))
}

fn no_uuid() -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, "a collection has no uuid")
}

/// Returns what the server lists of a database for the filter.
fn listed_in<'a>(
    client: &'a dyn Commands,
    database: &'a str,
    filter: Document,
) -> BoxFuture<'a, Result<Vec<RawDocumentBuf>>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let command = doc! { "listCollections": 1, "filter": filter, "cursor": {} };
        retry(RetryPolicy::SERVER, || async {
            match client.documents(OPERATION, database, command.clone()).await {
                // 4.2 shows a collection without its uuid for an instant, while the collection is created.
                Ok(listed) if client.lists_uuids() && listed.iter().any(|listed| lacks_uuid(listed)) => {
                    Err(no_uuid().with_retryable(true))
                }
                Ok(listed) if has_one_twice(&listed) => Err(Error::new(
                    ErrorKind::Protocol,
                    OPERATION,
                    "a name is listed twice, as if its collection were being replaced",
                )
                .with_context("database", database)
                .with_retryable(true)),
                listed => Ok(listed),
            }
        })
        .await?
    }
    .boxed()
}

/// Returns the collections and views of a database that match the filter. Those that `wanted` does not want lack indexes and sizes.
fn collections_of<'a>(
    client: &'a dyn Commands,
    database: &'a str,
    filter: Document,
    wanted: &'a (dyn Fn(&Namespace) -> bool + Sync),
) -> BoxFuture<'a, Result<Vec<Collection>>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let is_whole = filter.is_empty();
        let listed = listed_in(client, database, filter).await?;
        let with_buckets: BTreeSet<Namespace> = listed
            .iter()
            .filter_map(|listed| Namespace::new(database, listed.get_str("name").ok()?).time_series())
            .collect();
        // A listing by name does not show whether the buckets exist.
        let has_buckets = |namespace: &Namespace| !is_whole || with_buckets.contains(namespace);
        let has_buckets: &(dyn Fn(&Namespace) -> bool + Sync) = &has_buckets;
        let completed: Vec<Option<Collection>> = stream::iter(listed)
            .map(|listed| async move { collection_of(client, database, &listed, has_buckets, wanted).await })
            .buffered(LISTINGS)
            .try_collect()
            .await?;
        Ok(completed.into_iter().flatten().collect())
    }
    .boxed()
}

/// Completes one answer of `listCollections` with indexes and size. Returns `None` for what is not migrated or is gone. `has_buckets`
/// returns whether the buckets of a time-series collection are listed beside it.
async fn collection_of(
    client: &dyn Commands,
    database: &str,
    listed: &RawDocument,
    has_buckets: &(dyn Fn(&Namespace) -> bool + Sync),
    wanted: &(dyn Fn(&Namespace) -> bool + Sync),
) -> Result<Option<Collection>> {
    let malformed = |error| Error::malformed(OPERATION, error);
    let namespace = Namespace::new(database, listed.get_str("name").map_err(malformed)?);
    if namespace.is_internal() {
        return Ok(None);
    }
    let options = client.meant_options(listed.get_document("options").map_err(malformed)?);
    let kind = match listed.get_str("type").unwrap_or("collection") {
        "view" => CollectionKind::View,
        // The view over the buckets, which are listed as an ordinary collection. In 9.0, a time-series collection without buckets shows a
        // uuid.
        "timeseries" if !has_uuid(listed) && has_buckets(&namespace) => return Ok(None),
        "timeseries" => CollectionKind::TimeSeries,
        _ => kind_of(&namespace, &options),
    };
    let id = uuid_of(client, listed, kind, &namespace)?;
    if matches!(kind, CollectionKind::View | CollectionKind::TimeSeries) || !wanted(&namespace) {
        return Ok(Some(Collection {
            id,
            namespace,
            kind,
            options,
            indexes: Vec::new(),
            documents: 0,
            bytes: 0,
        }));
    }
    let list_indexes = doc! { "listIndexes": namespace.collection() };
    let indexes = match client.documents(OPERATION, database, list_indexes).await {
        Ok(indexes) => indexes
            .into_iter()
            .map(|index| client.meant_index(index))
            .collect::<Vec<_>>(),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error.with_context("namespace", namespace)),
    };
    let (documents, bytes) = match run(
        client,
        OPERATION,
        database,
        // The server's own note of the size. `collStats` reports the same among hundreds of other numbers.
        doc! { "dataSize": namespace.as_str(), "estimate": true },
    )
    .await
    {
        Ok(size) => (number(&size, "numObjects"), number(&size, "size")),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error.with_context("namespace", namespace)),
    };
    // Servers before 3.0 list indexes apart from collections, and list none of a collection that is gone.
    if indexes.is_empty()
        && listed_in(client, database, doc! { "name": namespace.collection() })
            .await?
            .is_empty()
    {
        return Ok(None);
    }
    Ok(Some(Collection {
        id,
        namespace,
        kind,
        options,
        indexes,
        documents,
        bytes,
    }))
}

/// Returns the uuid in an answer of `listCollections`. A view has none, and old servers show none.
fn uuid_of(client: &dyn Commands, listed: &RawDocument, kind: CollectionKind, namespace: &Namespace) -> Result<Uuid> {
    let info = listed.get_document("info").ok();
    match info.and_then(|info| info.get("uuid").ok().flatten()) {
        Some(bson::RawBsonRef::Binary(binary)) => binary.bytes.try_into().map(Uuid::from_bytes).map_err(|_| {
            Error::new(ErrorKind::Protocol, OPERATION, "a collection's uuid has a wrong length")
                .with_context("namespace", namespace)
        }),
        _ if matches!(kind, CollectionKind::View | CollectionKind::TimeSeries) || !client.lists_uuids() => Ok(NIL),
        _ => Err(no_uuid().with_context("namespace", namespace)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use async_trait::async_trait;
    use bson::rawdoc;

    use super::*;

    /// An old server on which a collection is dropped after it was listed, or stays without any index.
    struct Old {
        is_dropped: bool,
        listings: AtomicUsize,
    }

    #[async_trait]
    impl Commands for Old {
        async fn run_within(&self, _: Duration, _: &'static str, _: &str, _: Document) -> Result<Document> {
            Ok(doc! { "numObjects": 0, "size": 0 })
        }

        async fn documents_within(
            &self,
            _: usize,
            _: &'static str,
            _: &str,
            command: Document,
        ) -> Result<Option<Vec<RawDocumentBuf>>> {
            let is_listing = command.contains_key("listCollections");
            let is_there = is_listing && (self.listings.fetch_add(1, Relaxed) == 0 || !self.is_dropped);
            let uuid = bson::Binary::from(Uuid::from_bytes([1; 16]));
            let orders = || rawdoc! { "name": "orders", "options": {}, "info": { "uuid": uuid.clone() } };
            Ok(Some(is_there.then(orders).into_iter().collect()))
        }
    }

    #[tokio::test]
    async fn a_collection_that_is_dropped_while_it_is_listed_is_gone() {
        for is_dropped in [true, false] {
            let server = Old {
                is_dropped,
                listings: AtomicUsize::new(0),
            };
            let found = collections_of(&server, "shop", doc! {}, &|_| true).await.unwrap();
            assert_eq!(found.len(), usize::from(!is_dropped));
        }
    }

    #[test]
    fn a_name_that_is_listed_twice_is_seen() {
        let (a, b) = (rawdoc! { "name": "a" }, rawdoc! { "name": "b" });
        assert!(!has_one_twice(&[a.clone(), b.clone()]));
        assert!(has_one_twice(&[a.clone(), b, a]));
    }
}
