//! Where a run begins: at its checkpoint, or at the source as it is now.

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

/// How long the source may know of nothing as new as the checkpoint before its history counts as another one. A primary that has lost its
/// majority, which may be behind, notices within 10 seconds.
const BEHIND: Duration = Duration::from_secs(12);

/// How often it is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Where a run begins.
pub(crate) struct StartPoint {
    pub checkpoint: Checkpoint,
    pub collections: Vec<CollectionProgress>,
    pub tail: EntryStream,
    /// Changes up to here may have been applied before.
    pub replay_until: Position,
    /// Whether there was a checkpoint.
    pub resumed: bool,
}

impl Job {
    /// Goes on from a checkpoint whose position the source still has.
    ///
    /// # Errors
    /// [`PositionLost`](ErrorKind::PositionLost) when it has not, or a server error.
    pub(crate) async fn go_on(
        &self,
        mut checkpoint: Checkpoint,
        ownership: &Ownership,
        progress: &RunState,
    ) -> Result<StartPoint> {
        self.end_rename(&mut checkpoint).await?;
        // A run of this process may have read further than the last checkpoint says.
        let seen = checkpoint.seen.max(checkpoint.watermark).max(progress.read());
        // A new primary may not know yet what a majority has that an earlier run has seen.
        let replay_until = self.newest_after(seen).await?;
        // A source that was restored from a backup may lack what was applied after the checkpoint was saved. It has elected a primary since.
        if replay_until.term != checkpoint.watermark.term {
            checkpoint.forget_compared();
        }
        let tail = must_hold(seen, checkpoint.resume, self.source.tail(checkpoint.resume).await?);
        let mut collections: Vec<CollectionProgress> = checkpoint
            .collections
            .iter()
            .map(CollectionProgress::from_checkpoint)
            .collect();
        // The process may have ended between its first checkpoint and the last of these.
        if !checkpoint.created {
            arrange(
                &*self.source,
                &*self.sink,
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

    /// Begins with nothing, once preflight has found no blocker.
    ///
    /// # Errors
    /// What preflight found, or a server error.
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
        let on_sink = self.sink.collections().await?;
        ownership.begin().await?;
        // Preflight has looked at the names of before.
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
            ..Checkpoint::begin(source.identity, sink.identity, selection, position, resume)
        };
        self.store.save(&checkpoint.encode()?).await?;
        self.arranged(checkpoint, ownership, collections, &listed, tail, false)
            .await
    }

    /// Treats what others have on the target under the names in `wanted` as the host has chosen, before these names are in the checkpoint and
    /// all that stands there counts as the migration's own. `known` is what the checkpoint before has. Answers what was dropped.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) where it is not to be touched, or a server error.
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
            // Else a crash could bring the old documents back under the new checkpoint.
            self.sink.flush().await?;
        }
        Ok(cleared)
    }

    /// Begins with a new checkpoint, which was saved: makes on the target what it names, and cuts what is to be read.
    ///
    /// # Errors
    /// A server error. A run that goes on from the checkpoint does it all again.
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

    /// The source's newest position, which has to be at or after what an earlier run has seen. A source that was restored from a backup is
    /// behind that: without this it would look like one on which nothing is new.
    ///
    /// # Errors
    /// [`PositionLost`](ErrorKind::PositionLost) when it stays behind, or a server error.
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
                        "the source's newest position is {newest}, which is before {seen}, up to where the migration has read: it was \
                         restored from a backup or has lost its data"
                    ),
                )
                .with_context("position", seen));
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// Finds out whether a rename that was under way was carried out, and saves what that means. If it was, the checkpoint is as after it:
    /// whatever is written under the old name would make a collection there, and the rename, done once more, would put that in the place of the
    /// whole one. A later run could not find it out any more, once what follows the rename was applied.
    ///
    /// It was not carried out where what stands under the old name is the very collection that the migration made. Where the checkpoint, one
    /// of an earlier version, does not know its uuid, anything that stands there counts as that.
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
        // What is seen must not be lost by a new primary once the conclusion is saved. Whether there was one before does not matter.
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
        // One into another database has made a copy.
        state.made = standing.get(&to).copied();
        state.target = to;
        state.namespace = renaming.to;
        state.compared = None;
        checkpoint
            .collections
            .retain(|state| Some(state.id) != renaming.dropped);
        checkpoint.watermark = renaming.position;
        self.store.save(&checkpoint.encode()?).await
    }

    /// What is listed, none of it read. What may have documents on the target is repaired.
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
            let tracked = CollectionProgress::unread(collection, target, Vec::new());
            if has_documents {
                CollectionProgress::from_checkpoint(&tracked.to_checkpoint())
            } else {
                tracked
            }
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

/// The tail after `after`, which must come by `seen`: an earlier run has read up to there, and may have applied it. A source that was restored
/// from a backup can hold the one and not the other.
fn must_hold(seen: Position, after: Position, tail: EntryStream) -> EntryStream {
    // A tail makes sure of the position it starts after.
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
                        "the source's history goes on after {after}, and no longer holds {seen}, up to where the migration has read: it \
                         was restored from a backup"
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
