//! Compares a part of a collection at one position while both sides are written to.
//!
//! The router holds every change of that part after the position. Once all earlier changes are applied, the target is exactly at the
//! position, and the source is read at a snapshot of the same position.
//!
//! A source that never has snapshots is read at some moment after the position. A document that then differs may have been changed in between:
//! its change is among those that the router holds, which compares such documents again.

use std::collections::HashSet;
use std::time::Duration;

use bson::raw::RawDocument;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::Instant;

use crate::compare::by_id::{self, Portions};
use crate::compare::difference::Difference;
use crate::compare::merge::MergeDiff;
use crate::engine::copy::walker::Walker;
use crate::engine::messages::{Check, Request};
use crate::engine::track::verification::{Compared, Portion};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Operation, Position, Range};
use crate::order::Key;
use crate::sink::SinkRead;
use crate::source::{PointRequest, ReadMode, ReadRequest};

/// Time limit for a comparison, because changes are held for it and the watermark waits.
const CHECK_TIME: Duration = Duration::from_millis(400);

/// Maximum number of differences named per comparison.
const NAMED: usize = 200;

impl Walker {
    /// Compares the requested portion, or the first part of it, and reports to the router. It never ends the run: what fails is retried
    /// later.
    pub(crate) async fn check(&self, check: Check) {
        let (collection, chunk) = (check.target.id, check.chunk);
        let cancel = check.cancel.clone();
        let result = tokio::select! {
            biased;
            // The router has cancelled it and expects no result.
            () = cancel.cancelled() => return,
            result = self.compare(check) => result,
        };
        let result = match result {
            // A target that has lost writes since the last flush is not in the state to be compared. The flush detects that.
            Ok(compared) if compared.count > 0 => self.durability.flush().await.map(|()| compared),
            result => result,
        };
        let request = Request::Checked {
            collection,
            chunk,
            result,
        };
        // The router may be gone at the end of the run.
        let _ = self.requests.send(request).await;
    }

    async fn compare(&self, check: Check) -> Result<Compared> {
        // Memory for a batch of each side.
        let bytes = self.memory_to_read(&check.target.namespace, check.document_bytes);
        let _taken = self.batches.take(bytes * 2).await?;
        let batch_bytes = self.batch_bytes();
        let lower = match check.what.clone() {
            Portion::Above(lower) => lower,
            Portion::Documents(keys) => return self.compare_documents(check, Vec::from_iter(keys)).await,
        };
        let range = Range { lower, upper: None };
        // The source comes first: it may no longer have the position a few seconds from now.
        let request = |mode| ReadRequest {
            namespace: check.target.namespace.clone(),
            kind: check.target.kind,
            range: range.clone(),
            at: check.at,
            mode,
            batch_bytes,
            document_bytes: check.document_bytes,
        };
        let mut compared = nothing_yet(check.at);
        let source = match self.source.read(request(ReadMode::Snapshot)).await {
            Err(error) if has_no_snapshots(&error) => {
                compared.is_at_position = false;
                self.source.read(request(ReadMode::Interval)).await?
            }
            source => source?,
        };
        check.applied.await.map_err(stopped)?;
        let started = Instant::now();
        let sink = self.sink.read(SinkRead {
            namespace: check.target.target.clone(),
            kind: check.target.kind,
            range,
            batch_bytes,
            document_bytes: check.document_bytes,
        });
        let mut differences = MergeDiff::between(source, sink.await?);
        let mut spent = 0;
        let mut next = differences.next().await?;
        compared.opened = self.source.read_position().await?;
        while let Some(step) = next {
            if let Some(write) = step {
                let ours = match &write.operation {
                    Operation::Insert(document) | Operation::Replace(document) => Some(&**document),
                    Operation::Delete | Operation::Delta(_) => None,
                };
                note(&mut compared, write.key, ours, differences.theirs.as_deref());
            }
            if differences.bytes - spent >= batch_bytes as u64 {
                self.progress.limits.copy.spend(differences.bytes - spent);
                spent = differences.bytes;
            }
            let is_time = started.elapsed() >= CHECK_TIME
                || check.hurry.is_cancelled()
                || self.progress.limits.copy.wait().is_some();
            // Documents in memory are compared in no time. A read that takes longer than the time limit would otherwise be for one of them,
            // and the comparison would hardly get ahead.
            if differences.bytes >= check.chunk_bytes || (is_time && differences.has_to_read()?) {
                compared.last = Some(differences.last()?);
                break;
            }
            next = differences.next().await?;
        }
        if !compared.is_at_position {
            compared.opened = self.source.read_position().await?;
        }
        self.progress.limits.copy.spend(differences.bytes - spent);
        compared.documents = differences.documents;
        compared.bytes = differences.bytes;
        Ok(compared)
    }

    /// Compares documents that have changed since they were last compared.
    async fn compare_documents(&self, check: Check, keys: Vec<Key>) -> Result<Compared> {
        let mut compared = nothing_yet(check.at);
        let mut portions = Portions::of(&keys, self.batch_bytes(), check.document_bytes);
        let mut wait = Some(check.applied);
        let mut started = Instant::now();
        while let Some(keys) = portions.next() {
            let request = |mode| PointRequest {
                namespace: &check.target.namespace,
                keys,
                at: check.at,
                mode,
            };
            let ours = match self.source.read_documents(request(ReadMode::Snapshot)).await {
                Err(error) if has_no_snapshots(&error) => {
                    compared.is_at_position = false;
                    self.source.read_documents(request(ReadMode::Interval)).await?
                }
                ours => ours?,
            };
            if let Some(applied) = wait.take() {
                applied.await.map_err(stopped)?;
                started = Instant::now();
            }
            let theirs = self.sink.read_documents(&check.target.target, keys).await?;
            let bytes = by_id::bytes_of(&ours).max(by_id::bytes_of(&theirs));
            portions.took(keys.len(), bytes);
            self.progress.limits.copy.spend(bytes as u64);
            for (key, ours, theirs) in by_id::differing(ours, theirs) {
                note(&mut compared, key, ours.as_deref(), theirs.as_deref());
            }
            if started.elapsed() >= CHECK_TIME
                || check.hurry.is_cancelled()
                || self.progress.limits.copy.wait().is_some()
            {
                break;
            }
        }
        compared.opened = self.source.read_position().await?;
        compared.left = portions.rest().iter().cloned().collect();
        Ok(compared)
    }
}

/// Whether a source has refused a snapshot because it never has one.
fn has_no_snapshots(error: &Error) -> bool {
    error.kind() == ErrorKind::SnapshotUnavailable && !error.is_retryable()
}

fn nothing_yet(at: Position) -> Compared {
    Compared {
        is_at_position: true,
        opened: at,
        last: None,
        left: HashSet::new(),
        documents: 0,
        bytes: 0,
        differences: Vec::new(),
        count: 0,
    }
}

/// Counts a document that differs, and names it if it is among the first.
fn note(compared: &mut Compared, key: Key, ours: Option<&RawDocument>, theirs: Option<&RawDocument>) {
    compared.count += 1;
    if compared.differences.len() < NAMED {
        compared.differences.push(Difference::between(key, ours, theirs));
    }
}

fn stopped(_: RecvError) -> Error {
    Error::stopped("compare both sides")
}
