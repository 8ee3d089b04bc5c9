//! Lists all collections as of one position.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::catalog::not_migrated::{ensure_migratable, is_view_of_buckets};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace, Position, Selection};
use crate::oplog::{CommandOperation, Item};
use crate::source::{EntryStream, Source};

/// Timeout for repeating the listing of collections that keep changing.
const PATIENCE: Duration = Duration::from_secs(300);

/// The selected collections of a source at one position, and the oplog tail from there on.
pub(crate) struct Listing {
    pub position: Position,
    /// The position from which a tail would have to restart.
    pub resume: Position,
    /// Views come last, because a view is created on top of what it shows.
    pub collections: Vec<Collection>,
    pub tail: EntryStream,
}

/// The collections that a part of the oplog concerns.
#[derive(Default)]
struct Touched {
    namespaces: BTreeSet<Namespace>,
    databases: BTreeSet<String>,
    /// Names from commands whose namespace cannot be parsed.
    unreadable: Vec<String>,
}

/// Lists the selected collections. The catalog cannot be read at a snapshot. So the tail shows what changed during the listing, and only
/// that is listed again, until nothing has changed. The time to list many collections thus depends on their number, however busy a few of
/// them are.
///
/// # Errors
/// A server error, or the catalog keeps changing for too long.
pub(crate) async fn list(source: &dyn Source, selection: &Selection) -> Result<Listing> {
    let begun = Instant::now();
    let mut position = source.start_position().await?;
    let mut resume = position;
    let mut tail = source.tail(position).await?;
    let mut low = source.position().await?;
    let mut found = by_name(source.collections_selected(selection).await?, selection)?;
    // The collections of the last listing; `None` for all.
    let mut listed: Option<BTreeSet<Namespace>> = None;
    loop {
        // The listing shows writes whether or not they are majority-committed yet.
        let high = source.sentinel().await?;
        let mut touched = Touched::default();
        while position < high {
            let entries = tail.next().await.ok_or_else(|| Error::stopped("follow the oplog"))??;
            for entry in entries {
                for item in &entry.items {
                    if let Item::Command(command) = item {
                        // A listing made after the change already shows it.
                        let shown = listed.as_ref().filter(|_| entry.position <= low);
                        if listed.is_some() || entry.position > low {
                            touched.add(&command.operation, shown);
                        }
                    }
                }
                if !entry.continues {
                    (position, resume) = (entry.position, entry.resume);
                }
            }
        }
        let again = touched.select(&found, selection);
        if again.as_ref().is_some_and(BTreeSet::is_empty) {
            let mut collections: Vec<Collection> = found.into_values().collect();
            collections.sort_by_key(|collection| collection.kind == CollectionKind::View);
            return Ok(Listing {
                position,
                resume,
                collections,
                tail,
            });
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Server,
                "list the collections",
                "the source's catalog changes faster than it can be listed: stop creating and dropping collections until the copy has begun",
            ));
        }
        low = source.position().await?;
        match &again {
            Some(names) => {
                found.retain(|name, _| !names.contains(name));
                found.extend(by_name(source.collections_named(names).await?, selection)?);
            }
            None => found = by_name(source.collections_selected(selection).await?, selection)?,
        }
        listed = again;
    }
}

fn by_name(collections: Vec<Collection>, selection: &Selection) -> Result<BTreeMap<Namespace, Collection>> {
    let mut found = BTreeMap::new();
    for collection in collections {
        if selection.contains(&collection.namespace) && !is_view_of_buckets(&collection) {
            ensure_migratable("list the collections", &collection.namespace, collection.kind)?;
            found.insert(collection.namespace.clone(), collection);
        }
    }
    Ok(found)
}

impl Touched {
    /// Records what a command concerns, except the collections in `shown`.
    fn add(&mut self, operation: &CommandOperation, shown: Option<&BTreeSet<Namespace>>) {
        let mut note = |namespace: &Namespace| {
            if !shown.is_some_and(|shown| shown.contains(namespace)) {
                self.namespaces.insert(namespace.clone());
            }
        };
        match operation {
            // Dropping this collection drops all views of the database.
            CommandOperation::Drop { namespace } if namespace.collection() == "system.views" => {
                self.databases.insert(namespace.database().to_owned());
            }
            CommandOperation::DropDatabase { database } => {
                self.databases.insert(database.clone());
            }
            CommandOperation::Unsupported { namespace, .. } => match namespace.parse() {
                Ok(namespace) => note(&namespace),
                Err(_) => self.unreadable.push(namespace.clone()),
            },
            named => named.namespaces().for_each(note),
        }
    }

    /// Returns the selected collections that have to be listed again; `None` for all.
    fn select(self, found: &BTreeMap<Namespace, Collection>, selection: &Selection) -> Option<BTreeSet<Namespace>> {
        if self.unreadable.iter().any(|name| selection.may_concern(name)) {
            return None;
        }
        let mut names = self.namespaces;
        names.retain(|name| selection.contains(name));
        let of_databases = found.keys().filter(|name| self.databases.contains(name.database()));
        names.extend(of_databases.cloned());
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bson::rawdoc;
    use tokio::time::timeout;

    use super::*;
    use crate::source::{MemorySource, SourceCall};

    /// Constant changes in a part of a large catalog must not require that the whole catalog is listed again.
    #[tokio::test]
    async fn only_what_has_changed_is_listed_again() {
        const DEADLINE: Duration = Duration::from_secs(10);
        let source = MemorySource::new();
        for name in ["shop.busy", "shop.calm", "shop.dropped", "shop.moved", "other.busy"] {
            source.create_collection(name, rawdoc! {}).unwrap();
        }
        let view = || rawdoc! { "viewOn": "calm", "pipeline": [] };
        source.create_collection("shop.a_view", view()).unwrap();
        let index = |name: &str| rawdoc! { "v": 2, "key": { "n": 1 }, "name": name };

        let all = source.hold_answer(SourceCall::Collections);
        let mut selection = Selection::all();
        selection.include("shop.*").unwrap();
        let listing = {
            let source = source.clone();
            tokio::spawn(async move { list(&source, &selection).await })
        };
        timeout(DEADLINE, all.reached()).await.unwrap();
        source.create_index("shop.busy", index("first")).unwrap();
        source.drop_collection("shop.dropped").unwrap();
        source.drop_collection("shop.a_view").unwrap();
        source.create_collection("shop.made", rawdoc! {}).unwrap();
        source.create_index("other.busy", index("first")).unwrap();
        let some = source.hold_answer(SourceCall::CollectionsNamed);
        // A second full listing fails.
        source.fail_next(
            SourceCall::Collections,
            Error::new(ErrorKind::Server, "list the collections", "once is enough"),
        );
        all.release();
        timeout(DEADLINE, some.reached()).await.unwrap();
        source.create_index("shop.busy", index("second")).unwrap();
        source.rename("shop.moved", "shop.arrived").unwrap();
        source.create_collection("shop.a_view", view()).unwrap();
        source.drop_collection("shop.made").unwrap();
        some.release();

        let listing = timeout(DEADLINE, listing).await.unwrap().unwrap().unwrap();
        let names: Vec<&str> = listing.collections.iter().map(|one| one.namespace.as_str()).collect();
        assert_eq!(names, ["shop.arrived", "shop.busy", "shop.calm", "shop.a_view"]);
        assert_eq!(listing.collections[1].indexes.len(), 3);
        assert_eq!(listing.position, source.position().await.unwrap());
        let state = source.collections().await.unwrap_err();
        assert_eq!(state.kind(), ErrorKind::Server, "everything was listed again");
    }

    #[tokio::test]
    async fn a_selected_time_series_without_buckets_is_refused() {
        let source = MemorySource::new();
        source.create_collection("shop.orders", rawdoc! {}).unwrap();
        source
            .create_collection("shop.weather", rawdoc! { "timeseries": { "timeField": "t" } })
            .unwrap();
        let error = list(&source, &Selection::all()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
        assert!(error.to_string().contains(".exclude(\"shop.weather\")"), "{error}");

        let mut selection = Selection::all();
        selection.exclude("shop.weather").unwrap();
        assert_eq!(list(&source, &selection).await.unwrap().collections.len(), 1);
    }

    #[test]
    fn an_unreadable_name_lists_again_only_what_it_may_concern() {
        let mut selection = Selection::all();
        selection.include("shop.*").unwrap();
        for (name, lists_all) in [("other", false), ("other.", false), ("shop.", true), ("", true)] {
            let mut touched = Touched::default();
            let operation = CommandOperation::Unsupported {
                namespace: name.to_owned(),
                reason: String::new(),
            };
            touched.add(&operation, None);
            let again = touched.select(&BTreeMap::new(), &selection);
            assert_eq!(again, (!lists_all).then(BTreeSet::new), "{name}");
        }
    }
}
