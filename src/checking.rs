//! Compares a range of a collection at one position, while both sides are written to.
//!
//! The router holds every change of the range that comes after the position. Once all before it are applied the target's range stands
//! exactly there, and the source is read at a snapshot of that very position.

use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocument;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::difference::Difference;
use crate::document::{Operation, Position, Range};
use crate::error::{Error, Result};
use crate::lane::Target;
use crate::proof::Compared;
use crate::ranges::ChunkId;
use crate::repair::Differences;
use crate::router::Request;
use crate::sink::SinkRead;
use crate::source::{ReadMode, ReadRequest};
use crate::walker::Walker;

/// A range is finished when it has taken so long, since changes are held for it and the watermark waits.
const CHECK_TIME: Duration = Duration::from_millis(400);

/// So many differences of one range are named.
const NAMED: usize = 200;

/// A range to be compared.
#[derive(Debug)]
pub(crate) struct Check {
    pub chunk: ChunkId,
    pub target: Arc<Target>,
    pub range: Range,
    pub at: Position,
    pub chunk_bytes: u64,
    pub document_bytes: usize,
    /// Told when the target stands at the position; closed when the range is not to be compared after all.
    pub applied: oneshot::Receiver<()>,
    pub cancel: CancellationToken,
    pub hurry: CancellationToken,
}

impl Walker {
    /// Compares the range, or a first part of it, and tells the router. It never ends the run: whatever fails is tried again later.
    pub(crate) async fn check(&self, check: Check) {
        let (collection, chunk) = (check.target.id, check.chunk);
        let cancel = check.cancel.clone();
        let result = tokio::select! {
            biased;
            // The router knows.
            () = cancel.cancelled() => return,
            result = self.compare(check) => result,
        };
        let request = Request::Checked {
            collection,
            chunk,
            result,
        };
        // The router may be gone when the run ends.
        let _ = self.requests.send(request).await;
    }

    async fn compare(&self, check: Check) -> Result<Compared> {
        // A batch of each side.
        let _taken = self
            .batches
            .take(self.batch_bytes.max(check.document_bytes) * 2)
            .await?;
        let batch_bytes = self.batch_bytes();
        // The source first: it may not know the position any more a few seconds from now.
        let source = self.source.read(ReadRequest {
            namespace: check.target.namespace.clone(),
            kind: check.target.kind,
            range: check.range.clone(),
            at: check.at,
            mode: ReadMode::Snapshot,
            batch_bytes,
            document_bytes: check.document_bytes,
        });
        let source = source.await?;
        let stopped = |_| Error::stopped("compare a range");
        check.applied.await.map_err(stopped)?;
        let started = Instant::now();
        let sink = self.sink.read(SinkRead {
            namespace: check.target.target.clone(),
            kind: check.target.kind,
            range: check.range,
            batch_bytes,
            document_bytes: check.document_bytes,
        });
        let mut differences = Differences::between(source, sink.await?);
        let mut compared = Compared {
            opened: check.at,
            last: None,
            documents: 0,
            bytes: 0,
            differences: Vec::new(),
            count: 0,
        };
        let mut spent = 0;
        let mut next = differences.next().await?;
        compared.opened = self.source.sentinel().await?;
        while let Some(step) = next {
            if let Some(write) = step {
                compared.count += 1;
                if compared.differences.len() < NAMED {
                    let ours = match &write.operation {
                        Operation::Insert(document) | Operation::Replace(document) => Some(&**document),
                        Operation::Delete | Operation::Delta(_) => None,
                    };
                    let theirs: Option<&RawDocument> = differences.theirs.as_deref();
                    compared.differences.push(Difference::between(write.key, ours, theirs));
                }
            }
            if differences.bytes - spent >= batch_bytes as u64 {
                self.progress.limits.copy.spend(differences.bytes - spent);
                spent = differences.bytes;
            }
            if differences.bytes >= check.chunk_bytes
                || started.elapsed() >= CHECK_TIME
                || check.hurry.is_cancelled()
                || self.progress.limits.copy.wait().is_some()
            {
                compared.last = Some(differences.last()?);
                break;
            }
            next = differences.next().await?;
        }
        self.progress.limits.copy.spend(differences.bytes - spent);
        compared.documents = differences.documents;
        compared.bytes = differences.bytes;
        Ok(compared)
    }
}
