//! Moves the watermark: makes durable what a checkpoint says, and only then saves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::checkpoint::CheckpointStore;
use crate::engine::messages::SaveRequest;
use crate::engine::ownership::Ownership;
use crate::error::Result;
use crate::model::Position;
use crate::report::Event;
use crate::runtime::flush::SharedFlush;
use crate::runtime::progress::RunState;

/// Between two saves lies at least so many times the time that the last one took: a checkpoint of tens of thousands of collections is
/// many megabytes.
const REST: u32 = 4;

/// A crash costs what was applied since the last save, so that it is not put off for longer.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Makes checkpoints true and saves them, one after the other, until nobody can request any more.
///
/// # Errors
/// [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged) when what was applied may have been lost, or what sink and store answer.
pub(crate) async fn save_checkpoints(
    durability: SharedFlush,
    store: Arc<dyn CheckpointStore>,
    ownership: Arc<Ownership>,
    replay_until: Position,
    progress: Arc<RunState>,
    mut requests: mpsc::Receiver<SaveRequest>,
) -> Result<()> {
    let mut rests_until = Instant::now();
    while let Some(SaveRequest {
        mut checkpoint,
        now,
        done,
    }) = requests.recv().await
    {
        // Before the flush: that the expiry is held back again is durable only with it.
        checkpoint.head.expiry_final = progress.expiry.is_noted();
        durability.flush().await?;
        let watermark = checkpoint.head.watermark;
        progress.set_watermark(watermark);
        let began = Instant::now();
        if !now && began < rests_until {
            let _ = done.send(false);
            continue;
        }
        checkpoint.head.seen = progress.read().max(watermark);
        checkpoint.head.window = progress.window.kept();
        checkpoint.head.left_selection = progress.left_selection.all();
        checkpoint.head.source_writes_blocked = progress.write_block.is_noted();
        if checkpoint.has_compared() {
            checkpoint.head.durable = durability.position().await?;
        }
        let bytes = checkpoint.encode()?;
        // From here to the answer nobody knows whether it says that the migration is complete.
        if checkpoint.head.complete && !progress.completion.claim() {
            let _ = done.send(false);
            continue;
        }
        let saved = store.save(&bytes).await;
        if checkpoint.head.complete {
            match &saved {
                Ok(()) => progress.resolve_completion(true),
                Err(error) => progress.completion.note_failure(error),
            }
        }
        saved?;
        ownership
            .saved(checkpoint.states.iter(), watermark, watermark >= replay_until)
            .await?;
        let cost = began.elapsed();
        rests_until = Instant::now() + cost.saturating_mul(REST).min(LONGEST_REST);
        progress.set_resume(checkpoint.head.resume);
        progress.events.send(Event::CheckpointSaved { watermark });
        // Whoever asked may have stopped waiting.
        let _ = done.send(true);
    }
    Ok(())
}
