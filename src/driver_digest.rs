//! The digest over all documents of a collection that source and sink compare.

use bson::doc;
use mongodb::Client;

use crate::driver::run_within;
use crate::error::Result;
use crate::namespace::Namespace;
use crate::retry::WHOLE_COLLECTION;

/// The MD5 that `dbHash` gives for the collection: over its documents in `_id` order, or in natural order where it is capped. `None` for
/// views, collections that do not exist, and those without an index on `_id`, of which the server says no more than that.
///
/// It is the same on 4.2 to 6.0 for the same documents. The server reads the whole collection, and holds back writes to its database
/// meanwhile.
///
/// # Errors
/// A server error.
pub(crate) async fn digest(client: &Client, namespace: &Namespace) -> Result<Option<String>> {
    let name = namespace.collection();
    let reply = run_within(
        WHOLE_COLLECTION,
        client,
        "compute a collection's digest",
        namespace.database(),
        doc! { "dbHash": 1, "collections": [name] },
    )
    .await
    .map_err(|error| error.with_context("namespace", namespace))?;
    Ok(reply
        .get_document("collections")
        .ok()
        .and_then(|collections| collections.get_str(name).ok())
        .filter(|digest| digest.len() == 32 && digest.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .map(str::to_owned))
}
