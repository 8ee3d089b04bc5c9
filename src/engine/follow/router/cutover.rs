//! Serves a cutover.

use tokio::sync::oneshot;

use super::Router;
use crate::checkpoint::Checkpoint;
use crate::engine::messages::Report;
use crate::error::{Error, Result};
use crate::model::Position;

impl Router {
    /// Starts watching at a position after everything written before the call. Returns that position. Nothing is routed meanwhile, so no
    /// later entry can pass unnoticed.
    ///
    /// # Errors
    /// A server error.
    pub(super) async fn watch_for_late_writes(&self) -> Result<Position> {
        let stopped = tokio::select! {
            () = self.cancel.cancelled() => return Err(Error::stopped("cut over")),
            sentinel = self.source.sentinel() => sentinel?,
        };
        self.progress.late_writes.begin(stopped);
        Ok(stopped)
    }

    /// Answers the requests of a cutover, between two entries.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(super) async fn serve_cutover(&mut self) -> Result<()> {
        self.serve_reports().await?;
        if let Some((late_writes, reply)) = self.completing.take() {
            self.complete(late_writes).await?;
            drop(reply);
        }
        Ok(())
    }

    /// Answers everybody who waits for a position, once everything up to it is applied and durable. One flush serves all of them.
    async fn serve_reports(&mut self) -> Result<()> {
        if self.reports.is_empty() {
            return Ok(());
        }
        self.reports.retain(|(_, reply)| !reply.is_closed());
        if !self.reports.iter().any(|(at, _)| *at <= self.state.routed) || !self.is_refetched() {
            return Ok(());
        }
        self.update_progress();
        if self.is_refetched() {
            self.save(|_| {}, false).await?;
        }
        if !self.is_refetched() {
            // Try again after the next barrier.
            self.state.dirty = true;
            return Ok(());
        }
        let position = self.state.routed;
        let (met, waiting) = std::mem::take(&mut self.reports)
            .into_iter()
            .partition(|(at, _)| *at <= position);
        self.reports = waiting;
        let met: Vec<(Position, oneshot::Sender<Report>)> = met;
        for (_, reply) in met {
            let collections = self.state.states();
            let _ = reply.send(Report { position, collections });
        }
        Ok(())
    }

    /// Whether everything is copied and indexed, and no document is stuck.
    fn is_refetched(&self) -> bool {
        self.progress.copy.is_indexed() && !self.state.is_any_stuck()
    }

    /// Completes the migration as it was offered, if the number of late writes is still `late_writes`. Nothing is routed between reading
    /// that number and the checkpoint that completes the migration, and nothing afterwards.
    async fn complete(&mut self, late_writes: u64) -> Result<()> {
        // Entries that were read but not routed yet count, too.
        for _ in 0..self.entries.len() {
            let Ok(read) = self.entries.try_recv() else { break };
            self.route_all(read).await?;
        }
        if self.progress.late_writes.found().count != late_writes {
            return Ok(());
        }
        let Some((way_back, certificate)) = self.progress.completion.offered() else {
            return Ok(());
        };
        let complete = |checkpoint: &mut Checkpoint| {
            checkpoint.complete = true;
            (checkpoint.way_back, checkpoint.certificate) = (way_back, certificate);
        };
        if self.save(complete, true).await? {
            self.cancel.cancel();
        }
        Ok(())
    }
}
