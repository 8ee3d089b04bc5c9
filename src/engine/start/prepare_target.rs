//! Brings the target's catalog to the source's state at the time of the listing.

use std::collections::HashMap;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{RawBson, rawdoc};
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::catalog::expiry::{expiry_held_back, held_back};
use crate::catalog::{
    self, Series, index_difference, is_id_index, is_same_kind, name_of, option_differences, to_create,
};
use crate::checkpoint::LeftOver;
use crate::engine::ownership::Ownership;
use crate::engine::track::collection::CollectionProgress;
use crate::error::{ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace, Position, Selection, find, names_of, shown};
use crate::sink::{CatalogCommand, Sink};
use crate::source::Source;

/// Maximum number of collections arranged concurrently. Each waits for a majority of the target, and the waits of thousands would add up.
const AT_ONCE: usize = 32;

/// Moves or drops left-over collections, creates missing ones, and corrects options, views and indexes of existing ones. Indexes that
/// differ are dropped here. Indexes are built later, once the documents are there. Repeating the call changes nothing.
///
/// Everything under these names counts as the migration's own: the caller must have examined what exists there.
///
/// # Errors
/// A server error.
pub(crate) async fn arrange(
    source: &dyn Source,
    sink: &dyn Sink,
    selection: &Selection,
    ownership: &Ownership,
    collections: &[CollectionProgress],
    left_over: &[LeftOver],
) -> Result<()> {
    let servers = series_of(source, sink).await?;
    let standing = sink.collections_selected(selection).await?;
    for left in left_over {
        put_away(sink, ownership, left, &standing).await?;
    }
    let standing = if left_over.is_empty() {
        standing
    } else {
        sink.collections_selected(selection).await?
    };
    let by_name: HashMap<Namespace, &Collection> =
        standing.iter().map(|there| (shown(&there.namespace), there)).collect();
    let arranging: Vec<_> = collections
        .iter()
        .map(|collection| {
            let there = by_name.get(&shown(&collection.target.target)).copied();
            arrange_one(sink, ownership, collection, there, &servers).boxed()
        })
        .collect();
    let arranged: Vec<bool> = stream::iter(arranging).buffer_unordered(AT_ONCE).try_collect().await?;
    if arranged.contains(&true) {
        let standing = sink.collections_selected(selection).await?;
        look_again(ownership, collections, &standing, &servers).await?;
    }
    Ok(())
}

/// Makes one collection that other programs made on the target equal to the source's.
///
/// # Errors
/// A server error.
pub(crate) async fn arrange_kept(
    source: &dyn Source,
    sink: &dyn Sink,
    ownership: &Ownership,
    collection: &CollectionProgress,
) -> Result<()> {
    let servers = series_of(source, sink).await?;
    let names = names_of(&collection.target.target);
    let standing = sink.collections_named(&names).await?;
    let there = standing.first();
    if arrange_one(sink, ownership, collection, there, &servers).await? {
        let standing = sink.collections_named(&names).await?;
        look_again(ownership, std::slice::from_ref(collection), &standing, &servers).await?;
    }
    Ok(())
}

async fn series_of(source: &dyn Source, sink: &dyn Sink) -> Result<[Series; 2]> {
    let (ours, theirs) = futures::try_join!(source.describe(), sink.describe())?;
    Ok([catalog::series(&ours), catalog::series(&theirs)])
}

/// Recreates the collections whose options still differ after `collMod` has corrected what it can.
async fn look_again(
    ownership: &Ownership,
    collections: &[CollectionProgress],
    standing: &[Collection],
    servers: &[Series],
) -> Result<()> {
    for collection in collections {
        if let Some(there) = find(standing, &collection.target.target)
            && !differing_options(collection, there, servers).is_empty()
        {
            make_anew(ownership, collection).await?;
        }
    }
    Ok(())
}

/// Creates one collection, or corrects the existing one. Returns `true` if its options were modified, so that it has to be examined again.
async fn arrange_one(
    sink: &dyn Sink,
    ownership: &Ownership,
    collection: &CollectionProgress,
    there: Option<&Collection>,
    servers: &[Series],
) -> Result<bool> {
    let Some(there) = there else {
        return create(sink, collection).await.map(|()| false);
    };
    if !collection.rule.leaves_indexes_out() {
        drop_indexes(sink, collection, there, servers).await?;
    }
    put_options_right(sink, ownership, collection, there, servers).await
}

async fn put_away(sink: &dyn Sink, ownership: &Ownership, left: &LeftOver, standing: &[Collection]) -> Result<()> {
    let is_own = find(standing, &left.target).is_some_and(|there| left.made.is_none_or(|made| made == there.id));
    match &left.moved_to {
        Some(to) if is_own && find(standing, to).is_none() => {
            let command = CatalogCommand::Rename {
                from: left.target.clone(),
                to: to.clone(),
            };
            sink.execute(&command).await
        }
        _ => ownership
            .remove(&left.target, left.made, Position::ZERO)
            .await
            .map(drop),
    }
}

async fn create(sink: &dyn Sink, collection: &CollectionProgress) -> Result<()> {
    let command = CatalogCommand::Create {
        namespace: collection.target.target.clone(),
        kind: collection.target.kind,
        options: to_create(&expiry_held_back(&collection.options), &collection.indexes),
    };
    sink.execute(&command).await
}

async fn make_anew(ownership: &Ownership, collection: &CollectionProgress) -> Result<()> {
    let target = &collection.target;
    let options = to_create(&expiry_held_back(&collection.options), &collection.indexes);
    ownership
        .replace(&target.target, None, target.kind, options)
        .await
        .map(drop)
}

/// Drops indexes that the source does not have or defines differently.
async fn drop_indexes(
    sink: &dyn Sink,
    collection: &CollectionProgress,
    there: &Collection,
    servers: &[Series],
) -> Result<()> {
    for index in there.indexes.iter().filter(|index| !is_id_index(index)) {
        let same = collection
            .indexes
            .iter()
            .find(|ours| name_of(ours) == name_of(index))
            .is_some_and(|ours| index_difference(&held_back(ours), index, collection.target.kind, servers).is_none());
        if !same {
            let command = CatalogCommand::DropIndex {
                namespace: collection.target.target.clone(),
                name: name_of(index).to_owned(),
            };
            sink.execute(&command).await?;
        }
    }
    Ok(())
}

/// Corrects the options of an existing collection. Returns `true` if they were modified, so that the collection has to be examined again.
async fn put_options_right(
    sink: &dyn Sink,
    ownership: &Ownership,
    collection: &CollectionProgress,
    there: &Collection,
    servers: &[Series],
) -> Result<bool> {
    let is_view = collection.target.kind == CollectionKind::View && there.kind == CollectionKind::View;
    let differing = differing_options(collection, there, servers);
    let is_same = is_same_kind(collection.target.kind, there.kind);
    // The type of a number in a pipeline is visible in a view's results. So a view is recreated unless it is identical to the byte.
    if is_same && differing.is_empty() && (!is_view || collection.options == there.options) {
        return Ok(false);
    }
    // A collection of another kind is recreated. So is a view, which has no data to lose.
    if is_same
        && !is_view
        && let Some(arguments) = modification(&collection.options, &differing)
    {
        let command = CatalogCommand::Modify {
            namespace: collection.target.target.clone(),
            arguments,
        };
        match sink.execute(&command).await {
            Err(error) if error.kind() == ErrorKind::TargetRefused => {}
            other => return other.map(|()| true),
        }
    }
    make_anew(ownership, collection).await?;
    Ok(false)
}

/// Returns the options that differ from what the target must have until cutover.
fn differing_options(collection: &CollectionProgress, there: &Collection, servers: &[Series]) -> Vec<String> {
    let wanted = expiry_held_back(&collection.options);
    option_differences(collection.target.kind, &wanted, &there.options, servers)
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}

/// Returns the fields of the `collMod` that sets these options as wanted, or `None` if one of them cannot be modified.
fn modification(wanted: &RawDocument, differing: &[String]) -> Option<RawDocumentBuf> {
    let mut arguments = RawDocumentBuf::new();
    for field in differing {
        // The value that applies if a collection does not state the option.
        let (name, default): (_, RawBson) = match field.as_str() {
            "validator" => (bson::raw::cstr!("validator"), rawdoc! {}.into()),
            "validationLevel" => (bson::raw::cstr!("validationLevel"), "strict".into()),
            "validationAction" => (bson::raw::cstr!("validationAction"), "error".into()),
            "recordPreImages" => (bson::raw::cstr!("recordPreImages"), false.into()),
            "changeStreamPreAndPostImages" => (
                bson::raw::cstr!("changeStreamPreAndPostImages"),
                rawdoc! { "enabled": false }.into(),
            ),
            // Until cutover, documents expire on the source only.
            "expireAfterSeconds" => {
                arguments.append(bson::raw::cstr!("expireAfterSeconds"), "off");
                continue;
            }
            _ => return None,
        };
        match wanted.get(field).ok().flatten() {
            Some(value) => arguments.append(name, value),
            None => arguments.append(name, default),
        }
    }
    Some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_can_modify_is_modified() {
        let wanted = rawdoc! { "validator": { "a": 1 }, "expireAfterSeconds": 5 };
        let differing = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let arguments = modification(
            &wanted,
            &differing(&["validator", "validationLevel", "expireAfterSeconds"]),
        );
        let expected = rawdoc! { "validator": { "a": 1 }, "validationLevel": "strict", "expireAfterSeconds": "off" };
        assert_eq!(arguments, Some(expected));
        assert_eq!(modification(&wanted, &differing(&["validator", "collation"])), None);
    }
}
