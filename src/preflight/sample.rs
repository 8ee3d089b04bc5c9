//! Estimate of the copy time from a short read of the source.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::plan::Estimate;
use crate::error::Result;
use crate::model::{Amount, Collection, CollectionKind, Inspection, Range};
use crate::source::{ReadMode, ReadRequest, Source};

/// Limits of the sample, in bytes and in time.
const SAMPLE_BYTES: u64 = 8 << 20;
const SAMPLE_TIME: Duration = Duration::from_secs(3);

/// Measures a short read of the largest collection. Returns `None` if nothing could be read, or if no time passed.
pub(super) async fn estimate(
    source: &dyn Source,
    inspection: &Inspection,
    selected: &[&Collection],
    total: Amount,
) -> Option<Estimate> {
    let largest = selected
        .iter()
        .filter(|collection| collection.kind != CollectionKind::View && collection.documents > 0)
        .max_by_key(|collection| collection.bytes)?;
    let began = Instant::now();
    // Other rules, or the run, report what cannot be read now.
    let mut sample = Amount::default();
    let _ = timeout(SAMPLE_TIME, read(source, largest, &mut sample)).await;
    let elapsed = began.elapsed().as_secs_f64();
    if sample.bytes == 0 || elapsed == 0.0 {
        return None;
    }
    let bytes_per_second = (sample.bytes as f64 / elapsed).max(1.0);
    let copy_seconds = total.bytes as f64 / bytes_per_second;
    let oplog_bytes = inspection
        .oplog
        .filter(|oplog| !oplog.window.is_zero())
        .map(|oplog| (oplog.used_bytes as f64 / oplog.window.as_secs_f64() * copy_seconds) as u64);
    Some(Estimate {
        sample,
        bytes_per_second: bytes_per_second as u64,
        copy_time: Duration::try_from_secs_f64(copy_seconds).unwrap_or(Duration::MAX),
        oplog_bytes,
    })
}

async fn read(source: &dyn Source, collection: &Collection, sample: &mut Amount) -> Result<()> {
    let request = ReadRequest {
        namespace: collection.namespace.clone(),
        kind: collection.kind,
        range: Range::FULL,
        at: source.position().await?,
        mode: match collection.kind.has_ranges() {
            true => ReadMode::Snapshot,
            false => ReadMode::Interval,
        },
        batch_bytes: 1 << 20,
        document_bytes: usize::try_from(collection.bytes / collection.documents.max(1)).unwrap_or_default(),
    };
    let mut batches = source.read(request).await?;
    while sample.bytes < SAMPLE_BYTES {
        let Some(batch) = batches.next().await else { break };
        let batch = batch?;
        sample.documents += batch.len() as u64;
        sample.bytes += batch.size_in_bytes() as u64;
    }
    Ok(())
}
