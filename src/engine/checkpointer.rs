//! Makes a checkpoint's contents durable, moves the watermark, and saves the checkpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use crate::checkpoint::CheckpointStore;
use crate::engine::messages::SaveRequest;
use crate::engine::ownership::Ownership;
use crate::error::Result;
use crate::model::Position;
use crate::report::{Event, TARGET};
use crate::runtime::flush::SharedFlush;
use crate::runtime::progress::RunState;
use crate::runtime::register;
use crate::runtime::shaping::Shaping;
use crate::sink::Records;

/// Minimum pause between two saves, as a multiple of the duration of the last save. A checkpoint of tens of thousands of collections is
/// many megabytes.
const REST: u32 = 4;

/// Maximum pause between two saves. A crash costs the progress since the last save, so saves are not delayed any longer.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Makes the contents of each checkpoint durable and saves it, one after the other, until all request senders are dropped.
///
/// # Errors
/// [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged) if applied changes may have been lost, or an error of the sink or the store.
pub(crate) async fn save_checkpoints(
    durability: SharedFlush,
    store: Arc<dyn CheckpointStore>,
    records: Records,
    ownership: Arc<Ownership>,
    replay_until: Position,
    (progress, shaping): (Arc<RunState>, Arc<Shaping>),
    mut requests: mpsc::Receiver<SaveRequest>,
) -> Result<()> {
    let mut rests_until = Instant::now();
    while let Some(SaveRequest {
        mut checkpoint,
        now,
        done,
    }) = requests.recv().await
    {
        // Read before the flush, because only the flush makes it durable that the expiry is held back again.
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
        // Those that follow the watermark are noted again, or forgotten, by a run that resumes from here.
        checkpoint.head.failed = shaping.failed_documents();
        checkpoint.head.window = progress.window.kept();
        checkpoint.head.left_selection = progress.left_selection.all();
        checkpoint.head.source_writes_blocked = progress.write_block.is_noted();
        if checkpoint.has_compared() {
            checkpoint.head.durable = durability.position().await?;
        }
        let bytes = checkpoint.encode()?;
        // From here until the store answers, it is unknown whether the stored checkpoint marks the migration as complete.
        if checkpoint.head.complete && !progress.completion.claim() {
            let _ = done.send(false);
            continue;
        }
        let span = debug_span!(target: TARGET, "checkpoint", watermark = %watermark, bytes = bytes.as_bytes().len());
        #[cfg(feature = "metrics")]
        let saving = Instant::now();
        let saved = store.save(&bytes).instrument(span).await;
        #[cfg(feature = "metrics")]
        progress.metrics.note_save(saving.elapsed());
        if checkpoint.head.complete {
            match &saved {
                Ok(()) => progress.resolve_completion(true),
                Err(error) => progress.completion.note_failure(error),
            }
        }
        saved?;
        progress.checkpoint_saved();
        if checkpoint.head.complete {
            // If this fails, the next start does it. Until then, the names of this migration stay reserved.
            let _ = register::complete(&records).await;
        }
        ownership
            .saved(checkpoint.states.iter(), watermark, watermark >= replay_until)
            .await?;
        let cost = began.elapsed();
        rests_until = Instant::now() + cost.saturating_mul(REST).min(LONGEST_REST);
        progress.set_resume(checkpoint.head.resume);
        progress.events.send(Event::CheckpointSaved { watermark });
        // The requester may have stopped waiting.
        let _ = done.send(true);
    }
    Ok(())
}
