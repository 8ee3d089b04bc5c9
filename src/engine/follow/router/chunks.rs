//! Hands work to walkers, and waits for chunks to stop.

use bson::Uuid;
use tokio::time::Instant;

use super::Router;
use super::state::Outside;
use crate::engine::messages::{Request, Work};
use crate::error::{Error, Result};

impl Router {
    /// Gives work to waiting walkers.
    pub(super) async fn serve_idle(&mut self) -> Result<()> {
        while let Some((majority, reply)) = self.idle.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let outside = Outside {
                now: Instant::now(),
                newest: self.progress.source_position().map_or(0, |position| position.time),
                is_handing_over: self.progress.late_writes.is_on(),
            };
            let work = self.state.next_work(majority, &outside, &mut self.actions);
            self.perform().await?;
            let Some(work) = work else {
                self.idle.push_front((majority, reply));
                return Ok(());
            };
            match reply.send(work) {
                Err(Work::Chunk(lost)) => self.state.release(lost.target.id, lost.chunk, false),
                Err(Work::Check(_)) => self.stop_checks().await?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Stops all comparisons, so that everything routed goes to the appliers again.
    pub(crate) async fn stop_checks(&mut self) -> Result<()> {
        self.state.stop_checks(Instant::now(), &mut self.actions);
        self.perform().await
    }

    /// Cancels the chunks of a collection that are in flight, stops its index builds, and waits until all have stopped.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn stop_work_on(&mut self, collection: Uuid) -> Result<()> {
        self.state.give_up_all(collection, &mut self.actions);
        self.state.finish_chunks(&mut self.actions);
        self.perform().await?;
        while self.state.has_chunks(collection) {
            let request = tokio::select! {
                () = self.cancel.cancelled() => return Err(Error::stopped("stop a chunk")),
                request = self.requests.recv() => request.ok_or_else(|| Error::stopped("stop a chunk"))?,
            };
            match request {
                Request::Take { .. } | Request::Save { .. } | Request::CopyAgain { .. } => {
                    self.deferred.push_back(request)
                }
                other => self.handle(other).await?,
            }
        }
        self.stop_builds(collection).await
    }
}
