//! Checks of checkpoint stores.

use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use futures::FutureExt;

use super::{ConformanceFailure, Outcome, check, ensure};
use crate::checkpoint::CheckpointStore;

pub(super) async fn run(store: &dyn CheckpointStore) -> Result<(), ConformanceFailure> {
    check("an empty store has no checkpoint", empty(store)).await?;
    check("the last checkpoint saved comes back byte for byte", saved(store)).await?;
    check(
        "a save that is dropped leaves the old checkpoint or the new one",
        dropped(store),
    )
    .await?;
    check("a cleared store can be used again", cleared(store)).await
}

/// A checkpoint with `filling` bytes of filling.
fn checkpoint(number: i32, filling: usize) -> RawDocumentBuf {
    rawdoc! { "number": number, "z": { "b": -0.0, "a": [1, { "y": 1, "x": 2 }] }, "filling": "x".repeat(filling) }
}

async fn empty(store: &dyn CheckpointStore) -> Outcome {
    store.clear().await?;
    store.clear().await?;
    let loaded = store.load().await?;
    ensure!(loaded.is_none(), "there should be no checkpoint: {loaded:?}");
    Ok(())
}

async fn saved(store: &dyn CheckpointStore) -> Outcome {
    // The sizes grow and shrink, so that leftovers of a longer checkpoint are noticed.
    for (number, filling) in [(1, 10), (2, 1_000_000), (3, 0), (4, 100)] {
        let checkpoint = checkpoint(number, filling);
        store.save(&checkpoint).await?;
        for _ in 0..2 {
            let loaded = store.load().await?;
            ensure!(
                loaded.as_ref().map(|loaded| loaded.as_bytes()) == Some(checkpoint.as_bytes()),
                "checkpoint {number} was saved, and came back with other bytes or not at all"
            );
        }
    }
    Ok(())
}

async fn dropped(store: &dyn CheckpointStore) -> Outcome {
    let (old, new) = (checkpoint(1, 500_000), checkpoint(2, 400_000));
    for polls in 1..20 {
        store.save(&old).await?;
        let mut save = store.save(&new);
        for _ in 0..polls % 4 + 1 {
            if (&mut save).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(save);
        if polls % 2 == 0 {
            let loaded = store.load().await?;
            let bytes = loaded.as_ref().map(|loaded| loaded.as_bytes());
            ensure!(
                bytes == Some(old.as_bytes()) || bytes == Some(new.as_bytes()),
                "a save was dropped, and the store has neither the old checkpoint nor the new one"
            );
        }
        // The dropped save may still be running. It must neither replace this one nor hinder it.
        let last = checkpoint(polls, 300_000);
        store.save(&last).await?;
        let loaded = store.load().await?;
        ensure!(
            loaded.as_ref().map(|loaded| loaded.as_bytes()) == Some(last.as_bytes()),
            "a checkpoint was saved after a save that was dropped, and did not come back"
        );
    }
    Ok(())
}

async fn cleared(store: &dyn CheckpointStore) -> Outcome {
    store.save(&checkpoint(1, 10)).await?;
    store.clear().await?;
    let loaded = store.load().await?;
    ensure!(loaded.is_none(), "the store was cleared, and holds {loaded:?}");
    let again = checkpoint(2, 10);
    store.save(&again).await?;
    let loaded = store.load().await?;
    ensure!(
        loaded.as_ref().map(|loaded| loaded.as_bytes()) == Some(again.as_bytes()),
        "a checkpoint that was saved after the store was cleared did not come back"
    );
    store.clear().await?;
    Ok(())
}
