//! Start point of a run: its checkpoint, or the source's current state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::Uuid;
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use crate::checkpoint::{Checkpoint, CollectionState};
use crate::config::ExistingData;
use crate::engine::ownership::{Ownership, refusal};
use crate::engine::start::listing::{self, Listing};
use crate::engine::start::prepare_target::arrange;
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace, Position, shown, takes_name};
use crate::preflight;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;
use crate::sink::CatalogCommand;
use crate::source::EntryStream;

/// How long the source's newest position may stay behind the checkpoint before its history counts as a different one. A primary that has
/// lost its majority may be behind; it notices within 10 seconds.
const BEHIND: Duration = Duration::from_secs(12);

/// Polling interval for the source's position during that time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The start point of a run.
pub(crate) struct StartPoint {
    pub checkpoint: Checkpoint,
    pub collections: Vec<CollectionProgress>,
    pub tail: EntryStream,
    /// Changes up to this position may already have been applied.
    pub replay_until: Position,
    /// Whether a checkpoint existed.
    pub resumed: bool,
}

impl Job {
    /// Resumes from a checkpoint whose position the source still has. Nothing on the target is newer than the position `written_until`, if
    /// there is one. Otherwise everything that the source has by now may have been applied.
    ///
    /// # Errors
    /// [`PositionLost`](ErrorKind::PositionLost) if the source no longer has it, or a server error.
    pub(crate) async fn go_on(
        &self,
        mut checkpoint: Checkpoint,
        ownership: &Ownership,
        progress: &RunState,
        written_until: Option<Position>,
    ) -> Result<StartPoint> {
        self.end_rename(&mut checkpoint).await?;
        let left_out = self.take_rules(&mut checkpoint).await?;
        // An earlier run in this process may have read further than the last checkpoint says.
        let seen = checkpoint.seen.max(checkpoint.watermark).max(progress.read());
        // A new primary may not yet know of majority-committed changes that an earlier run has seen.
        let newest = self.newest_after(seen).await?;
        let replay_until = written_until.map_or(newest, |until| until.max(seen).min(newest));
        // A source that was restored from a backup may lack changes that were applied after the checkpoint was saved. Such a source has
        // elected a primary since, so its term differs.
        if newest.term != checkpoint.watermark.term {
            checkpoint.forget_compared();
        }
        let known = checkpoint
            .collections
            .iter()
            .filter(|state| state.kind != CollectionKind::View)
            .map(|state| (state.namespace.clone(), state.id))
            .chain(checkpoint.gone_with_names().filter_map(|(id, name)| Some((name?, id))));
        self.source.restore_identities(&known.collect()).await?;
        self.shaping.catch_up(&*self.writing_source, &left_out, newest).await?;
        let tail = must_hold(seen, checkpoint.resume, self.source.tail(checkpoint.resume).await?);
        let mut collections: Vec<CollectionProgress> = checkpoint
            .collections
            .iter()
            .map(|state| CollectionProgress {
                rule: self.settings.collections.of(&state.namespace),
                ..CollectionProgress::from_checkpoint(state)
            })
            .collect();
        // The process may have ended after its first checkpoint and before it had created all collections.
        if !checkpoint.created {
            arrange(
                &*self.source,
                &*self.sink,
                &self.settings.selection,
                ownership,
                &collections,
                &checkpoint.left_over,
            )
            .await?;
        }
        ownership.expect_again(&mut collections).await?;
        ownership.identify_all(&mut collections).await?;
        Ok(StartPoint {
            checkpoint,
            collections,
            tail,
            replay_until,
            resumed: true,
        })
    }

    /// Starts from scratch once preflight has found no blocker.
    ///
    /// # Errors
    /// The findings of preflight, or a server error.
    pub(crate) async fn begin_anew(&self, ownership: &Ownership) -> Result<StartPoint> {
        let plan = preflight::check(self, preflight::Purpose::Start).await?;
        plan.refuse()?;
        let Listing {
            position,
            resume,
            collections: listed,
            tail,
        } = listing::list(&*self.source, &self.settings.selection).await?;
        let (source, sink) = futures::try_join!(self.source.describe(), self.sink.describe())?;
        let on_sink = self.sink.collections_selected(&self.settings.selection).await?;
        ownership.begin().await?;
        // Preflight looked at the names before this listing, so they are examined again.
        let wanted: Vec<Namespace> = listed
            .iter()
            .map(|collection| self.settings.selection.target(&collection.namespace))
            .collect();
        self.clear_foreign(ownership, &[], &wanted, &on_sink).await?;
        let stands = |name: &Namespace| on_sink.iter().any(|collection| collection.namespace == *name);
        let collections = self.track(&listed, |name| {
            self.settings.existing_data == ExistingData::Keep && stands(name)
        });
        let selection = self.settings.selection.clone();
        let checkpoint = Checkpoint {
            collections: collections.iter().map(CollectionProgress::to_checkpoint).collect(),
            id: self.settings.id.to_string(),
            rules: self.settings.rules.records(),
            dead_letters: self.shaping.letters().cloned(),
            ..Checkpoint::begin(source.identity, sink.identity, selection, position, resume)
        };
        self.store.save(&checkpoint.encode()?).await?;
        self.arranged(checkpoint, ownership, collections, &listed, tail, false)
            .await
    }

    /// Applies the host's `ExistingData` setting to what other programs have on the target under the names in `wanted`. This happens before
    /// these names enter the checkpoint, because then everything under them counts as the migration's own. `known` holds the collections of
    /// the previous checkpoint. Returns the names of dropped collections.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if the setting forbids touching such a collection, or a server error.
    pub(crate) async fn clear_foreign(
        &self,
        ownership: &Ownership,
        known: &[CollectionState],
        wanted: &[Namespace],
        standing: &[Collection],
    ) -> Result<BTreeSet<Namespace>> {
        let wanted: BTreeSet<Namespace> = wanted.iter().map(shown).collect();
        let known: BTreeMap<&Namespace, Option<Uuid>> = known.iter().map(|state| (&state.target, state.made)).collect();
        let earlier = ownership.earlier().await;
        let mut cleared = BTreeSet::new();
        for there in standing.iter().filter(|there| takes_name(there)) {
            let name = &there.namespace;
            let is_known = known
                .get(name)
                .is_some_and(|made| made.is_none_or(|made| made == there.id));
            if is_known || earlier.contains(name) || !wanted.contains(&shown(name)) {
                continue;
            }
            match self.settings.existing_data {
                ExistingData::Refuse => return Err(refusal(name)),
                ExistingData::Clear => {
                    let namespace = name.clone();
                    self.sink.execute(&CatalogCommand::Drop { namespace }).await?;
                    cleared.insert(name.clone());
                }
                ExistingData::Keep => {}
            }
        }
        if !cleared.is_empty() {
            // Without the flush, a crash could bring the old documents back under the new checkpoint.
            self.sink.flush().await?;
        }
        Ok(cleared)
    }

    /// Starts from a new checkpoint that has been saved: creates its collections on the target, and cuts large ones into ranges.
    ///
    /// # Errors
    /// A server error. A run that resumes from the checkpoint repeats all of this.
    pub(crate) async fn arranged(
        &self,
        mut checkpoint: Checkpoint,
        ownership: &Ownership,
        mut collections: Vec<CollectionProgress>,
        listed: &[Collection],
        tail: EntryStream,
        resumed: bool,
    ) -> Result<StartPoint> {
        arrange(
            &*self.source,
            &*self.sink,
            &self.settings.selection,
            ownership,
            &collections,
            &checkpoint.left_over,
        )
        .await?;
        checkpoint.left_over.clear();
        ownership.identify_all(&mut collections).await?;
        self.cut(&mut collections, listed).await?;
        Ok(StartPoint {
            checkpoint,
            collections,
            tail,
            replay_until: Position::ZERO,
            resumed,
        })
    }

    /// Returns the source's newest position once it is at or after `seen`, which an earlier run has seen. A source that was restored from a
    /// backup stays behind that position. Without this test it would look like a source without new changes.
    ///
    /// # Errors
    /// [`PositionLost`](ErrorKind::PositionLost) if the source stays behind, or a server error.
    async fn newest_after(&self, seen: Position) -> Result<Position> {
        let started = Instant::now();
        loop {
            let newest = self.source.sentinel().await?;
            if newest >= seen {
                return Ok(newest);
            }
            if started.elapsed() > BEHIND {
                return Err(Error::new(
                    ErrorKind::PositionLost,
                    "go on from the checkpoint",
                    format!(
                        "the source's newest position {newest} is before {seen}, up to which the migration has read: the source was \
                         restored from a backup or has lost data"
                    ),
                )
                .with_context("position", seen));
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// Finds out whether a rename in flight was carried out, and saves the result. If it was, the checkpoint advances to the state after
    /// the rename. Otherwise any write under the old name would create a collection there, and repeating the rename would replace the
    /// complete collection with that one. A later run could no longer tell, once changes after the rename are applied.
    ///
    /// The rename was not carried out if the old name still holds the very collection that the migration made, by uuid. A checkpoint of an
    /// earlier version may lack the uuid. Any collection under the old name then counts as the migration's.
    pub(crate) async fn end_rename(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        let Some(renaming) = checkpoint.renaming.take() else {
            return Ok(());
        };
        let Some(state) = checkpoint
            .collections
            .iter_mut()
            .find(|state| state.id == renaming.collection)
        else {
            return Ok(());
        };
        // Once the conclusion is saved, a new primary must not lose the observed state. Whether the primary changed before that does not
        // matter.
        match self.sink.flush().await {
            Err(error) if error.kind() == ErrorKind::PrimaryChanged => self.sink.flush().await?,
            flushed => flushed?,
        }
        let to = self.settings.selection.target(&renaming.to);
        let names = BTreeSet::from([state.target.clone(), to.clone()]);
        let standing = self.sink.identities(&names).await?;
        let stands = standing.get(&state.target);
        if stands.is_some_and(|stands| state.made.is_none_or(|made| made == *stands)) {
            return Ok(());
        }
        // A rename into another database creates a copy, with its own uuid.
        state.made = standing.get(&to).copied();
        state.target = to;
        state.namespace = renaming.to;
        state.compared = None;
        checkpoint
            .collections
            .retain(|state| Some(state.id) != renaming.dropped);
        if checkpoint.resume == checkpoint.watermark {
            // A source that derives identities from names has those after the rename. It must not be shown the rename once more.
            checkpoint.resume = renaming.position;
        }
        checkpoint.watermark = renaming.position;
        self.store.save(&checkpoint.encode()?).await
    }

    /// Tracks the listed collections as unread. Collections that may have documents on the target are marked for repair.
    pub(crate) fn track(
        &self,
        listed: &[Collection],
        has_documents: impl Fn(&Namespace) -> bool,
    ) -> Vec<CollectionProgress> {
        let track = |collection: &Collection| {
            let target = self.settings.selection.target(&collection.namespace);
            if collection.kind == CollectionKind::View {
                return CollectionProgress::view(collection.namespace.clone(), target, collection.options.clone());
            }
            let has_documents = has_documents(&target);
            let mut tracked = CollectionProgress::unread(collection, target, Vec::new());
            if has_documents {
                tracked = CollectionProgress::from_checkpoint(&tracked.to_checkpoint());
            }
            tracked.rule = self.settings.collections.of(&collection.namespace);
            tracked
        };
        listed.iter().map(track).collect()
    }

    /// Cuts large collections into ranges, so that several walkers can copy one.
    async fn cut(&self, collections: &mut [CollectionProgress], listed: &[Collection]) -> Result<()> {
        for (tracked, collection) in collections.iter_mut().zip(listed) {
            if collection.kind.has_ranges() && collection.bytes > self.settings.chunk_bytes {
                let cuts = self.source.split(collection, self.settings.chunk_bytes).await?;
                tracked.ranges.cut(cuts);
            }
        }
        Ok(())
    }
}

/// Returns the tail after `after`, which fails unless it contains `seen`: an earlier run has read up to there and may have applied it. The
/// history of a source that was restored from a backup can hold `after` and lack `seen`.
fn must_hold(seen: Position, after: Position, tail: EntryStream) -> EntryStream {
    // The tail itself ensures that the source holds `after`.
    let mut expected = (seen > after).then_some(seen);
    tail.map(move |entries| {
        let entries = entries?;
        if let Some(seen) = expected
            && let Some(entry) = entries.iter().find(|entry| entry.position >= seen)
        {
            if entry.position != seen {
                return Err(Error::new(
                    ErrorKind::PositionLost,
                    "follow the oplog",
                    format!(
                        "the source's history after {after} no longer holds {seen}, up to which the migration has read: the source was \
                         restored from a backup"
                    ),
                )
                .with_context("position", seen));
            }
            expected = None;
        }
        Ok(entries)
    })
    .boxed()
}
