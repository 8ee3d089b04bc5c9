//! Renames on the source: within the selection, out of it, and into it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::Uuid;

use super::required;
use crate::catalog::expiry::expiry_held_back;
use crate::catalog::not_migrated::ensure_migratable;
use crate::catalog::to_create;
use crate::checkpoint::Renaming;
use crate::engine::follow::router::Router;
use crate::engine::ownership::Room;
use crate::engine::track::collection::CollectionProgress;
use crate::engine::track::verification::RangeVerification;
use crate::error::Result;
use crate::model::{CollectionMapping, Namespace, Position};

impl Router {
    /// Applies a rename within the selection, out of it, or into it. Returns `true` if a checkpoint must be saved before anything else is
    /// applied.
    pub(super) async fn rename(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        from: &Namespace,
        to: &Namespace,
        dropped: Option<Uuid>,
    ) -> Result<bool> {
        if id.is_none() && !self.state.selection.contains(from) && !self.state.selection.contains(to) {
            return Ok(false);
        }
        let id = required(id)?;
        self.state.ghosts.remove(&id);
        if let Some(dropped) = dropped {
            self.state.ghosts.remove(&dropped);
            self.stop_work_on(dropped).await?;
        }
        match (self.state.tracked.contains_key(&id), self.state.selection.contains(to)) {
            (true, true) => {}
            // Renamed out of the selection: the collection is dropped on the target.
            (true, false) => {
                self.remove(id).await?;
                self.progress.left_selection.note(&self.events, from, to, position);
                self.report(
                    position,
                    format!("{from} was renamed to {to}, which is not selected: dropped"),
                );
                return Ok(false);
            }
            (false, true) => {
                if let Some(dropped) = dropped {
                    self.remove(dropped).await?;
                }
                self.adopt(position, id, from, to).await?;
                return Ok(false);
            }
            (false, false) => return Ok(false),
        }
        let target = self.state.selection.target(to);
        if let Some(tracked) = self.state.tracked.get(&id)
            && tracked.target.target.database() != target.database()
        {
            // The target would copy the whole collection for the rename, however long that takes.
            for id in [dropped, Some(id)].into_iter().flatten() {
                self.remove(id).await?;
            }
            self.adopt(position, id, from, to).await?;
            return Ok(false);
        }
        let but_for = [Some(id), dropped].into_iter().flatten().collect::<Vec<_>>();
        self.check_free("rename a collection", to, &target, &but_for)?;
        self.stop_work_on(id).await?;
        let Some(tracked) = self.state.tracked.get(&id) else {
            return Ok(false);
        };
        let (before, made, kind) = (tracked.target.target.clone(), tracked.made, tracked.target.kind);
        let replaced = dropped
            .and_then(|dropped| self.state.tracked.get(&dropped))
            .map(|dropped| dropped.made);
        let is_replay = position <= self.state.replay_until;
        let is_needed = self
            .ownership
            .may_rename(&before, made, &target, replaced, is_replay)
            .await?;
        // Nothing else happens until the checkpoint after the rename, so a run that resumes from here can tell whether the rename was done.
        let renaming = Renaming {
            collection: id,
            to: to.clone(),
            dropped,
            position,
        };
        self.save_now(Some(renaming)).await?;
        let made = match is_needed {
            true => self.ownership.rename(&before, &target).await?,
            false => made,
        };
        if let Some(dropped) = dropped {
            self.announce_drop(dropped).await?;
            self.state.tracked.remove(&dropped);
        }
        let renamed = Arc::new(CollectionMapping {
            id,
            namespace: to.clone(),
            target,
            kind,
        });
        let rule = self.state.tracked.rule(to);
        if let Some(tracked) = self.state.tracked.get_mut(&id) {
            tracked.target = Arc::clone(&renamed);
            tracked.made = made;
            tracked.rule = rule;
            // Writes made by other programs were recorded under the old name, so verification starts over.
            tracked.verification = RangeVerification::wanted_if(rule.is_continuous());
        }
        self.announce_rename(&renamed).await?;
        self.report(position, format!("renamed {from} to {to}"));
        Ok(true)
    }

    /// Starts copying a collection that was renamed into the selection, or to a name for which the target would have to copy it.
    async fn adopt(&mut self, position: Position, id: Uuid, from: &Namespace, to: &Namespace) -> Result<()> {
        self.progress.left_selection.came_back(from);
        let target = self.state.selection.target(to);
        self.check_free("rename a collection", to, &target, &[])?;
        let is_replay = position <= self.state.replay_until;
        if is_replay {
            self.ownership.drop_earlier(&target).await?;
        }
        let listed = self.source.collections_named(&BTreeSet::from([to.clone()])).await?;
        let Some(collection) = listed
            .into_iter()
            .find(|collection| collection.id == id && collection.namespace == *to)
        else {
            // The collection was renamed again or dropped. The entry that says so is still to come.
            self.state.ghosts.insert(id, Some(to.clone()));
            return Ok(());
        };
        ensure_migratable("rename a collection", to, collection.kind)?;
        let tracked = match self.ownership.claim(&target, is_replay).await? {
            Room::Free => {
                let options = to_create(&expiry_held_back(&collection.options), &collection.indexes);
                let made = self.ownership.create(&target, collection.kind, options).await?;
                let rule = self.state.tracked.rule(to);
                CollectionProgress {
                    made,
                    rule,
                    verification: RangeVerification::wanted_if(rule.is_continuous()),
                    ..CollectionProgress::unread(&collection, target, Vec::new())
                }
            }
            Room::Kept => self.take_over(&collection, target).await?,
        };
        self.state.tracked.insert(id, tracked);
        self.update_progress();
        self.report(
            position,
            format!("{from} was renamed to {to}, which is selected: copying it"),
        );
        Ok(())
    }
}
