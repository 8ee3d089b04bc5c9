//! Resync: starts over where the oplog no longer holds the position to resume from.
//!
//! Nothing that was copied is discarded. The tail starts at the source's current position, the target's data is compared with the source,
//! and only differences are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::{Checkpoint, LeftOver};
use crate::engine::ownership::Ownership;
use crate::engine::start::begin::StartPoint;
use crate::engine::start::listing::{self, Listing};
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace};
use crate::report::Event;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;

impl Job {
    /// Starts over on top of the data that the target has. `reason` explains why.
    ///
    /// # Errors
    /// `UnsupportedEntry` if two collections have the same name on the target, `Refused` if data of other programs must not be touched, or
    /// a server error. The stored checkpoint is then either the previous one, whose position is still lost, or the new one.
    pub(crate) async fn resync(
        &self,
        mut before: Checkpoint,
        ownership: &Ownership,
        progress: &Arc<RunState>,
        reason: &str,
    ) -> Result<StartPoint> {
        self.end_rename(&mut before).await?;
        // Everything is compared, under the rules that apply now. That also finds all documents for which they fail.
        self.take_dead_letters(&mut before).await?;
        self.shaping.resume(&before.failed).await?;
        before.rules = self.settings.rules.records();
        let Listing {
            position,
            resume,
            collections: listed,
            tail,
        } = listing::list(&*self.source, &self.settings.selection).await?;
        let mut standing = self.sink.collections_selected(&self.settings.selection).await?;
        let target = |namespace: &Namespace| self.settings.selection.target(namespace);
        let wanted: Vec<Namespace> = listed.iter().map(|collection| target(&collection.namespace)).collect();
        let cleared = self
            .clear_foreign(ownership, &before.collections, &wanted, &standing)
            .await?;
        standing.retain(|collection| !cleared.contains(&collection.namespace));
        let mut left_over = left_over(&before, &listed, &standing, target);
        // Names that the previous run was creating and that the source no longer has.
        let known: BTreeSet<Namespace> = left_over.iter().map(|left| left.target.clone()).chain(wanted).collect();
        for target in ownership.earlier().await.difference(&known) {
            left_over.push(LeftOver {
                target: target.clone(),
                made: None,
                moved_to: None,
            });
        }
        let collections = self.track(&listed, |name| {
            standing.iter().any(|standing| standing.namespace == *name)
                || left_over.iter().any(|left| left.moved_to.as_ref() == Some(name))
        });
        check_names(&collections)?;
        let lost = before.watermark;
        let checkpoint = Checkpoint {
            collections: collections.iter().map(CollectionProgress::to_checkpoint).collect(),
            left_over,
            ..before.begin_again(position, resume)
        };
        // From here on the checkpoint is valid whatever happens: a run that resumes from it does the rest.
        self.store.save(&checkpoint.encode()?).await?;
        progress.set_read(position);
        progress.events.send(Event::Resync {
            lost,
            position,
            gap: Duration::from_secs(u64::from(position.time.abs_diff(lost.time))),
            reason: reason.to_owned(),
        });
        self.arranged(checkpoint, ownership, collections, &listed, tail, true)
            .await
    }
}

/// Ensures that each collection has a name of its own on the target. Preflight covers the names at the start, and the catalog covers
/// later changes. Neither covers changes made while no process followed the oplog.
fn check_names(collections: &[CollectionProgress]) -> Result<()> {
    let mut names: BTreeMap<&Namespace, &Namespace> = BTreeMap::new();
    for collection in collections {
        let (namespace, target) = (&collection.target.namespace, &collection.target.target);
        if let Some(other) = names.insert(target, namespace) {
            return Err(Error::new(
                ErrorKind::UnsupportedEntry,
                "compare everything with the source",
                "another collection has its name on the target: give one of them another name, and start again",
            )
            .with_context("namespace", namespace)
            .with_context("other", other));
        }
    }
    Ok(())
}

/// Returns what the target has of collections that the source no longer has under that name. Includes only collections that the checkpoint
/// knows as migrated. A collection that was renamed on the source keeps its documents if nothing on the target is in the way.
fn left_over(
    before: &Checkpoint,
    listed: &[Collection],
    standing: &[Collection],
    target: impl Fn(&Namespace) -> Namespace,
) -> Vec<LeftOver> {
    let wanted: BTreeSet<Namespace> = listed.iter().map(|collection| target(&collection.namespace)).collect();
    let stands = |name: &Namespace| standing.iter().any(|standing| standing.namespace == *name);
    let mut left = Vec::new();
    for state in before
        .collections
        .iter()
        .filter(|state| !wanted.contains(&state.target))
    {
        let moved_to = listed
            .iter()
            .find(|collection| collection.id == state.id && collection.kind == state.kind)
            .filter(|collection| collection.kind != CollectionKind::View)
            .map(|collection| target(&collection.namespace))
            .filter(|name| !stands(name) && stands(&state.target) && name.database() == state.target.database());
        left.push(LeftOver {
            target: state.target.clone(),
            made: state.made,
            moved_to,
        });
    }
    // From an earlier resync that did not complete.
    for earlier in &before.left_over {
        if !wanted.contains(&earlier.target) && !left.iter().any(|left| left.target == earlier.target) {
            left.push(LeftOver {
                target: earlier.target.clone(),
                made: earlier.made,
                moved_to: None,
            });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use bson::{Uuid, rawdoc};

    use super::*;
    use crate::model::Position;
    use crate::model::Selection;

    fn collection(id: u8, name: &str) -> Collection {
        Collection {
            id: Uuid::from_bytes([id; 16]),
            namespace: name.parse().unwrap(),
            kind: CollectionKind::Plain,
            options: rawdoc! {},
            indexes: Vec::new(),
            documents: 1,
            bytes: 1,
        }
    }

    fn plan(before: &[&Collection], listed: &[&Collection], standing: &[&Collection]) -> Vec<(String, Option<String>)> {
        let owned = |collections: &[&Collection]| collections.iter().copied().cloned().collect::<Vec<_>>();
        let collections = before
            .iter()
            .map(|collection| {
                CollectionProgress::unread(collection, collection.namespace.clone(), Vec::new()).to_checkpoint()
            })
            .collect();
        let before = Checkpoint {
            collections,
            ..Checkpoint::begin("source", "sink", Selection::all(), Position::ZERO, Position::ZERO)
        };
        left_over(&before, &owned(listed), &owned(standing), Namespace::clone)
            .into_iter()
            .map(|left| (left.target.to_string(), left.moved_to.map(|to| to.to_string())))
            .collect()
    }

    #[test]
    fn what_the_checkpoint_does_not_know_is_left_alone() {
        let (a, b, foreign) = (collection(1, "d.a"), collection(2, "d.b"), collection(9, "d.foreign"));
        let found = plan(&[&a, &b], &[&a], &[&a, &b, &foreign]);
        assert_eq!(found, [("d.b".to_owned(), None)]);
    }

    #[test]
    fn a_collection_is_moved_only_where_nothing_stands_in_the_way() {
        let (a, b) = (collection(1, "d.a"), collection(2, "d.b"));
        let moved = collection(1, "d.c");
        let to_c = [("d.a".to_owned(), Some("d.c".to_owned()))];
        assert_eq!(plan(&[&a], &[&moved], &[&a]), to_c);
        // Another collection has the name on the target, or the two collections have swapped names.
        let dropped = [("d.a".to_owned(), None)];
        assert_eq!(plan(&[&a], &[&moved], &[&a, &collection(7, "d.c")]), dropped);
        let swapped = [&collection(2, "d.a"), &collection(1, "d.b")];
        assert_eq!(plan(&[&a, &b], &swapped, &[&a, &b]), []);
        // The new name is in another database, or the target has lost the collection.
        assert_eq!(plan(&[&a], &[&collection(1, "e.a")], &[&a]), dropped);
        assert_eq!(plan(&[&a], &[&moved], &[]), dropped);
    }
}
