//! Makes the target's catalogue as the source's was when it was listed, whatever stands there.

use std::collections::HashMap;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{RawBson, rawdoc};
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::catalog::expiry_held_back;
use crate::checkpoint::LeftOver;
use crate::document::{Collection, CollectionKind};
use crate::error::{ErrorKind, Result};
use crate::index::{held_back, is_id_index, name_of};
use crate::namespace::Namespace;
use crate::sink::{CatalogCommand, Sink};
use crate::source::Source;
use crate::specification::{self, Series, index_difference, is_same_kind, option_differences, to_create};
use crate::tracked::Tracked;
use crate::verify::find;

/// How many collections are arranged at the same time. Each waits for a majority of the target, which thousands would add up.
const AT_ONCE: usize = 8;

/// Moves or drops what is left over, makes the collections that are missing, and puts options, views and indexes right of those that are
/// there. Indexes are built later, when the documents are there; those that differ are dropped here. Doing it again changes nothing.
///
/// # Errors
/// A server error.
pub(crate) async fn arrange(
    source: &dyn Source,
    sink: &dyn Sink,
    collections: &[Tracked],
    left_over: &[LeftOver],
) -> Result<()> {
    let (ours, theirs) = futures::try_join!(source.describe(), sink.describe())?;
    let servers = [specification::series(&ours), specification::series(&theirs)];
    let standing = sink.collections().await?;
    for left in left_over {
        put_away(sink, left, &standing).await?;
    }
    let standing = if left_over.is_empty() {
        standing
    } else {
        sink.collections().await?
    };
    let by_name: HashMap<&Namespace, &Collection> = standing.iter().map(|there| (&there.namespace, there)).collect();
    let arranging: Vec<_> = collections
        .iter()
        .map(|collection| {
            arrange_one(
                sink,
                collection,
                by_name.get(&collection.target.target).copied(),
                &servers,
            )
            .boxed()
        })
        .collect();
    let arranged: Vec<bool> = stream::iter(arranging).buffer_unordered(AT_ONCE).try_collect().await?;
    if arranged.contains(&true) {
        // What could be modified to be the same is the same now. The rest has to be made anew.
        let standing = sink.collections().await?;
        for collection in collections {
            if let Some(there) = find(&standing, &collection.target.target)
                && !differing_options(collection, there, &servers).is_empty()
            {
                make_anew(sink, collection).await?;
            }
        }
    }
    Ok(())
}

/// Answers whether the collection has to be looked at again, since its options were modified.
async fn arrange_one(
    sink: &dyn Sink,
    collection: &Tracked,
    there: Option<&Collection>,
    servers: &[Series],
) -> Result<bool> {
    let Some(there) = there else {
        return create(sink, collection).await.map(|()| false);
    };
    drop_indexes(sink, collection, there, servers).await?;
    put_options_right(sink, collection, there, servers).await
}

async fn put_away(sink: &dyn Sink, left: &LeftOver, standing: &[Collection]) -> Result<()> {
    let stands = |name| find(standing, name).is_some();
    let command = match &left.moved_to {
        Some(to) if stands(&left.target) && !stands(to) => CatalogCommand::Rename {
            from: left.target.clone(),
            to: to.clone(),
        },
        _ => CatalogCommand::Drop {
            namespace: left.target.clone(),
        },
    };
    sink.execute(&command).await
}

async fn create(sink: &dyn Sink, collection: &Tracked) -> Result<()> {
    let command = CatalogCommand::Create {
        namespace: collection.target.target.clone(),
        kind: collection.target.kind,
        options: to_create(&expiry_held_back(&collection.options), &collection.indexes),
    };
    sink.execute(&command).await
}

async fn make_anew(sink: &dyn Sink, collection: &Tracked) -> Result<()> {
    let namespace = collection.target.target.clone();
    sink.execute(&CatalogCommand::Drop { namespace }).await?;
    create(sink, collection).await
}

/// Drops the indexes that the source does not have, or has otherwise.
async fn drop_indexes(sink: &dyn Sink, collection: &Tracked, there: &Collection, servers: &[Series]) -> Result<()> {
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

/// Puts the options of a collection that exists right. Answers whether it has to be looked at again, since they were modified.
async fn put_options_right(
    sink: &dyn Sink,
    collection: &Tracked,
    there: &Collection,
    servers: &[Series],
) -> Result<bool> {
    let is_view = collection.target.kind == CollectionKind::View && there.kind == CollectionKind::View;
    let differing = differing_options(collection, there, servers);
    let is_same = is_same_kind(collection.target.kind, there.kind);
    // The type of a number in a pipeline shows in what a view answers, so that views are made anew unless they are the same to the byte.
    if is_same && differing.is_empty() && (!is_view || collection.options == there.options) {
        return Ok(false);
    }
    // Another kind of collection, or a view, which has nothing to lose, is made anew.
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
    make_anew(sink, collection).await?;
    Ok(false)
}

/// The options that the target must have otherwise before cutover.
fn differing_options(collection: &Tracked, there: &Collection, servers: &[Series]) -> Vec<String> {
    let wanted = expiry_held_back(&collection.options);
    option_differences(collection.target.kind, &wanted, &there.options, servers)
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}

/// The fields of the `collMod` that makes these options as they are wanted, or `None` where one of them cannot be modified.
fn modification(wanted: &RawDocument, differing: &[String]) -> Option<RawDocumentBuf> {
    let mut arguments = RawDocumentBuf::new();
    for field in differing {
        // What an option is where a collection does not state it.
        let (name, default): (_, RawBson) = match field.as_str() {
            "validator" => (bson::raw::cstr!("validator"), rawdoc! {}.into()),
            "validationLevel" => (bson::raw::cstr!("validationLevel"), "strict".into()),
            "validationAction" => (bson::raw::cstr!("validationAction"), "error".into()),
            "recordPreImages" => (bson::raw::cstr!("recordPreImages"), false.into()),
            "changeStreamPreAndPostImages" => (
                bson::raw::cstr!("changeStreamPreAndPostImages"),
                rawdoc! { "enabled": false }.into(),
            ),
            // Documents expire on the source alone until cutover.
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
