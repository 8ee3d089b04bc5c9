//! Checks of the migration's own records on a sink, and of the sink's history.

use std::time::Duration;

use bson::rawdoc;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::timeout;

use super::{ConformanceFailure, Found, Outcome, check, ensure};
use crate::error::Result;
use crate::sink::{Sink, WritesSeen};

/// Timeout for the next item of a watch.
const ITEM: Duration = Duration::from_secs(10);

/// Maximum number of items until a watch has reached the writes made before.
const MOST_ITEMS: u32 = 100;

pub(super) async fn run(sink: &dyn Sink) -> std::result::Result<(), ConformanceFailure> {
    check("a record comes back as it was saved", saved(sink)).await?;
    check("a record is saved only over the fence that is expected", fenced(sink)).await?;
    check("a record that is deleted is gone", deleted(sink)).await?;
    check("the sink's own history goes on with what is written", sentinel(sink)).await?;
    check("writes of others are watched for, and no other is told", watched(sink)).await
}

async fn watched(sink: &dyn Sink) -> Outcome {
    const NAME: &str = "conformance_watched";
    let Some(mut watch) = sink.foreign_writes(None).await? else {
        return Ok(());
    };
    let mut seen = next_of(&mut watch).await?;
    ensure!(
        sink.save_record(NAME, &rawdoc! { "fence": 1_i64 }, 0).await?,
        "a new record was not stored"
    );
    let newest = sink.sentinel().await?;
    for item in 0.. {
        let next = next_of(&mut watch).await?;
        ensure!(
            next.collections.is_empty(),
            "a write of this crate is reported as a foreign write to {:?}",
            next.collections
        );
        ensure!(
            next.until >= seen.until,
            "the watch goes back from {} to {}",
            seen.until,
            next.until
        );
        seen = next;
        if newest.is_none_or(|newest| seen.until >= newest) {
            break;
        }
        ensure!(
            item < MOST_ITEMS,
            "the watch is at {} and does not reach {newest:?}",
            seen.until
        );
    }
    let Some(mut again) = sink.foreign_writes(Some(seen.until)).await? else {
        return Err(Found("a watch cannot be started again".to_owned()));
    };
    let begun = next_of(&mut again).await?.until;
    ensure!(begun == seen.until, "a watch after {} begins at {begun}", seen.until);
    sink.delete_record(NAME).await?;
    Ok(())
}

async fn next_of(watch: &mut BoxStream<'static, Result<WritesSeen>>) -> std::result::Result<WritesSeen, Found> {
    match timeout(ITEM, watch.next()).await {
        Ok(Some(seen)) => Ok(seen?),
        Ok(None) => Err(Found("the watch has ended".to_owned())),
        Err(_) => Err(Found(format!("the watch was silent for {} seconds", ITEM.as_secs()))),
    }
}

async fn sentinel(sink: &dyn Sink) -> Outcome {
    const NAME: &str = "conformance_sentinel";
    let Some(before) = sink.sentinel().await? else {
        return Ok(());
    };
    ensure!(
        sink.save_record(NAME, &rawdoc! { "fence": 1_i64 }, 0).await?,
        "a new record was not stored"
    );
    let after = sink.sentinel().await?;
    ensure!(
        after.is_some_and(|after| after > before),
        "a write after {before} is followed by {after:?}"
    );
    sink.delete_record(NAME).await?;
    Ok(())
}

async fn saved(sink: &dyn Sink) -> Outcome {
    const NAME: &str = "conformance_saved";
    let none = sink.load_record(NAME).await?;
    ensure!(none.is_none(), "a record that was never saved is {none:?}");
    let before = sink.collections().await?.len();
    let inner = rawdoc! { "z": 1, "a": -0.0, "m": { "z": [1, 2], "a": "x".repeat(100_000) } };
    let record = rawdoc! { "fence": 1_i64, "checkpoint": inner.clone() };
    ensure!(sink.save_record(NAME, &record, 0).await?, "a new record was not stored");
    let Some(loaded) = sink.load_record(NAME).await? else {
        return Err(Found("a record that was saved is missing".to_owned()));
    };
    // The sink may add fields of its own, such as an `_id`.
    ensure!(loaded.get_i64("fence")? == 1, "the fence is {loaded:?}");
    ensure!(
        loaded.get_document("checkpoint")?.as_bytes() == inner.as_bytes(),
        "the record came back with other bytes"
    );
    let after = sink.collections().await?.len();
    ensure!(before == after, "records are listed among the collections");
    Ok(())
}

async fn fenced(sink: &dyn Sink) -> Outcome {
    const NAME: &str = "conformance_fenced";
    let record = |fence: i64, holder: &str| rawdoc! { "fence": fence, "holder": holder };
    ensure!(
        !sink.save_record(NAME, &record(9, "a"), 8).await?,
        "a missing record's fence counts as 0, not 8"
    );
    let none = sink.load_record(NAME).await?;
    ensure!(none.is_none(), "a save that returned false stored {none:?}");
    ensure!(
        sink.save_record(NAME, &record(1, "a"), 0).await?,
        "a new record was not stored"
    );
    ensure!(
        sink.save_record(NAME, &record(5, "a"), 1).await?,
        "the expected fence was there, and nothing was stored"
    );
    for expected in [0, 1, 4, 6] {
        let stored = sink.save_record(NAME, &record(7, "b"), expected).await?;
        ensure!(
            !stored,
            "a record with the fence 5 was replaced by one that expected {expected}"
        );
    }
    // Of two saves that expect the same fence, one wins.
    let (first, second) = (record(6, "first"), record(6, "second"));
    let answers = futures::future::join(sink.save_record(NAME, &first, 5), sink.save_record(NAME, &second, 5)).await;
    let (first, second) = (answers.0?, answers.1?);
    ensure!(
        first != second,
        "two saves that expected the same fence returned {first} and {second}"
    );
    let winner = if first { "first" } else { "second" };
    let loaded = sink.load_record(NAME).await?;
    let holder = loaded.as_ref().and_then(|record| record.get_str("holder").ok());
    ensure!(
        holder == Some(winner),
        "the {winner} save won, and the record is {loaded:?}"
    );
    Ok(())
}

async fn deleted(sink: &dyn Sink) -> Outcome {
    const NAME: &str = "conformance_deleted";
    const OTHER: &str = "conformance_kept";
    let record = rawdoc! { "fence": 1_i64 };
    ensure!(sink.save_record(NAME, &record, 0).await?, "a new record was not stored");
    ensure!(
        sink.save_record(OTHER, &record, 0).await?,
        "a new record was not stored"
    );
    sink.delete_record(NAME).await?;
    sink.delete_record(NAME).await?;
    let loaded = sink.load_record(NAME).await?;
    ensure!(loaded.is_none(), "a deleted record is {loaded:?}");
    ensure!(
        sink.load_record(OTHER).await?.is_some(),
        "another record was deleted with it"
    );
    ensure!(
        sink.save_record(NAME, &record, 0).await?,
        "a record was not stored again after it was deleted"
    );
    Ok(())
}
