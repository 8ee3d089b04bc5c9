//! Moves the watermark: makes durable what a checkpoint says, and only then saves it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::durability::Durability;
use crate::error::Result;
use crate::event::{Event, Side};
use crate::progress::Progress;
use crate::waiting::telling;

/// A checkpoint whose changes every lane has applied.
pub(crate) struct SaveRequest {
    pub checkpoint: Checkpoint,
    /// Answered once the checkpoint is saved.
    pub done: oneshot::Sender<()>,
}

/// Saves checkpoints one after the other until nobody can request any more.
///
/// # Errors
/// [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged) when what was applied may have been lost, or what sink and store answer.
pub(crate) async fn save_checkpoints(
    durability: Durability,
    store: Arc<dyn CheckpointStore>,
    progress: Arc<Progress>,
    mut requests: mpsc::Receiver<SaveRequest>,
) -> Result<()> {
    while let Some(SaveRequest { mut checkpoint, done }) = requests.recv().await {
        telling(&progress.events, Side::Target, "flush the target", durability.flush()).await?;
        checkpoint.seen = progress.read().max(checkpoint.watermark);
        checkpoint.window = progress.window.kept();
        store.save(&checkpoint.encode()?).await?;
        progress.set_watermark(checkpoint.watermark);
        progress.set_resume(checkpoint.resume);
        progress.events.send(Event::CheckpointSaved {
            watermark: checkpoint.watermark,
        });
        // Whoever asked may have stopped waiting.
        let _ = done.send(());
    }
    Ok(())
}
