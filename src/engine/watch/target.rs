//! Watches deployments during a run: foreign writes on the target, members and versions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position, Selection, Side};
use crate::report::Event;
use crate::runtime::progress::RunState;
use crate::runtime::seen::{Known, Seen};
use crate::sink::{Sink, WritesSeen};
use crate::source::Source;

/// Polling interval for members and versions, and minimum interval between events for writes to the same collection.
const INTERVAL: Duration = Duration::from_secs(10);

/// Emits an event when members join or leave, and ends the run when the feature compatibility version of a side changes.
///
/// # Errors
/// [`VersionChanged`](ErrorKind::VersionChanged). Failed requests are repeated: the run itself detects when a side is gone.
pub(crate) async fn watch_deployments(
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    seen: Arc<Seen>,
    progress: Arc<RunState>,
    cancel: CancellationToken,
) -> Result<()> {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let look = async {
            let ours = futures::try_join!(source.describe(), source.members());
            let theirs = futures::try_join!(sink.describe(), sink.members());
            [(Side::Source, ours), (Side::Target, theirs)]
        };
        let looks = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            looks = look => looks,
        };
        for (side, look) in looks {
            let Ok((deployment, members)) = look else { continue };
            let now = Known {
                feature_compatibility: deployment.feature_compatibility,
                members,
            };
            compare(side, seen.replace(side, now.clone()), now, &progress)?;
        }
    }
}

fn compare(side: Side, before: Option<Known>, now: Known, progress: &RunState) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    if before.members != now.members {
        let gone =
            |old: &[String], new: &[String]| old.iter().filter(|member| !new.contains(member)).cloned().collect();
        progress.events.send(Event::MembersChanged {
            side,
            added: gone(&now.members, &before.members),
            removed: gone(&before.members, &now.members),
        });
    }
    let (from, to) = (before.feature_compatibility, now.feature_compatibility);
    if from == to {
        return Ok(());
    }
    progress
        .events
        .send(Event::FeatureCompatibilityChanged { side, from, to });
    Err(Error::new(
        ErrorKind::VersionChanged,
        "go on with the migration",
        format!(
            "the feature compatibility version of the {side} was changed from {}.{} to {}.{}; the checkpoint is kept: start the migration \
             again once the change is complete on all members",
            from[0], from[1], to[0], to[1]
        ),
    ))
}

/// The writes of other programs to the target, as they arrive.
pub(crate) type ForeignWatch = BoxStream<'static, Result<WritesSeen>>;

/// Starts to watch for writes of other programs, from the position `after` if the target's oplog still holds it. The returned flag says
/// whether it does, so that no write since then was missed. Errors never end a run: what is not watched is compared again at cutover.
pub(crate) async fn open_foreign_watch(
    sink: &dyn Sink,
    after: Option<Position>,
    progress: &RunState,
) -> (Option<ForeignWatch>, bool) {
    // Writes that an earlier run in this process has counted are known, and must not be counted again.
    let after = after.max(progress.foreign_writes.counted_until());
    progress.foreign_writes.set_known_until(None);
    let mut goes_on = after.is_some();
    let mut opened = begin_to_watch(sink, after).await;
    if let Err(error) = &opened
        && error.kind() == ErrorKind::PositionLost
    {
        goes_on = false;
        opened = begin_to_watch(sink, None).await;
    }
    match opened {
        Ok(Some((watch, begun))) => {
            progress.foreign_writes.set_known_until(Some(begun));
            (Some(watch), goes_on)
        }
        Ok(None) => (None, false),
        Err(error) => {
            tell_unwatched(progress, &error);
            (None, false)
        }
    }
}

async fn begin_to_watch(sink: &dyn Sink, after: Option<Position>) -> Result<Option<(ForeignWatch, Position)>> {
    let Some(mut watch) = sink.foreign_writes(after).await? else {
        return Ok(None);
    };
    let first = watch.next().await.transpose()?;
    Ok(first.map(|seen| (watch, seen.until)))
}

/// Emits events when other programs write to migrated collections.
pub(crate) async fn watch_foreign_writes(
    mut writes: ForeignWatch,
    selection: Selection,
    progress: Arc<RunState>,
    cancel: CancellationToken,
) -> Result<()> {
    let watch = async {
        let mut told: BTreeMap<Namespace, Told> = BTreeMap::new();
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_known = true;
        loop {
            let seen = tokio::select! {
                seen = writes.next() => match seen {
                    Some(seen) => seen?,
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    for (namespace, told) in &mut told {
                        told.tell(namespace, &progress);
                    }
                    continue;
                }
            };
            for due in seen.collections {
                if !selection.produces(&due) {
                    continue;
                }
                match progress.foreign_writes.count(&due) {
                    Some(writes) => {
                        let told = told.entry(due.clone()).or_default();
                        told.writes = writes;
                        told.tell(&due, &progress);
                    }
                    // There are too many collections to keep all their names.
                    None => all_known = false,
                }
            }
            if all_known {
                progress.foreign_writes.set_counted_until(seen.until);
            }
            // This comes last: whoever saves the position then finds all collections that were written to before it.
            progress.foreign_writes.set_known_until(all_known.then_some(seen.until));
        }
    };
    let watched = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        watched = watch => watched,
    };
    progress.foreign_writes.set_known_until(None);
    if let Err(error) = watched {
        tell_unwatched(&progress, &error);
    }
    cancel.cancelled().await;
    Ok(())
}

fn tell_unwatched(progress: &RunState, error: &Error) {
    progress
        .events
        .send(Event::ForeignWritesNotWatched { reason: error.report() });
}

/// What was reported of the writes to one collection.
#[derive(Default)]
struct Told {
    writes: u64,
    last: Option<(Instant, u64)>,
}

impl Told {
    /// Emits an event, unless the last one was just now or nothing has changed since.
    fn tell(&mut self, namespace: &Namespace, progress: &RunState) {
        let due = self
            .last
            .is_none_or(|(since, writes)| since.elapsed() >= INTERVAL && writes != self.writes);
        if due {
            self.last = Some((Instant::now(), self.writes));
            progress.events.send(Event::ForeignWrite {
                namespace: namespace.clone(),
                writes: self.writes,
            });
        }
    }
}
