//! Detects servers and services that are not MongoDB replica sets.

use bson::Document;

/// Returns the name of the product or service that sent these answers, if it is not MongoDB.
pub(crate) fn imitation(hello: &Document, build: &Document) -> Option<&'static str> {
    if let Some((_, name)) = BUILDS.iter().find(|(field, _)| build.contains_key(field)) {
        return Some(name);
    }
    let listed = hello.get_array("hosts").map(Vec::as_slice).unwrap_or_default();
    let names = listed
        .iter()
        .filter_map(|name| name.as_str())
        .chain(hello.get_str("me").ok());
    for name in names {
        if let Some(service) = service_of(name) {
            return Some(service);
        }
    }
    // Every release since 3.0 reports its storage engines and the commit it was built from.
    let is_bare = !build.is_empty() && !build.contains_key("storageEngines") && !build.contains_key("gitVersion");
    is_bare.then_some("a service that speaks MongoDB's protocol")
}

/// Endings of host names that identify a service.
pub(crate) const SERVICES: &[(&str, &str)] = &[
    (".docdb.amazonaws.com", "Amazon DocumentDB"),
    (".docdb-elastic.amazonaws.com", "Amazon DocumentDB"),
    (".cosmos.azure.com", "Azure Cosmos DB"),
    (".documents.azure.com", "Azure Cosmos DB"),
    (".firestore.goog", "Google Firestore"),
];

/// Fields of `buildInfo` that MongoDB does not have.
pub(crate) const BUILDS: &[(&str, &str)] = &[
    ("ferretdb", "FerretDB"),
    ("ferretdbVersion", "FerretDB"),
    ("ferretdbFeatures", "FerretDB"),
    ("documentdb", "Amazon DocumentDB"),
    ("tigris", "Tigris"),
];

pub(crate) fn service_of(host: &str) -> Option<&'static str> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    SERVICES
        .iter()
        .find(|(ending, _)| host.ends_with(ending))
        .map(|(_, name)| *name)
}
