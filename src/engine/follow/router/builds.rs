//! Starts index builds, and stops them when the catalog changes.

use bson::Uuid;

use super::Router;
use super::state::Ended;
use crate::error::Result;
use crate::runtime::index_builds::EndedBuild;

impl Router {
    /// Starts index builds, as many as may run at the same time.
    pub(super) fn begin_builds(&mut self) {
        while self.builds.count() < self.most_builds {
            let Some(job) = self.state.next_build() else {
                return;
            };
            self.builds.begin(job, &self.sink);
        }
    }

    pub(super) async fn build_ended(&mut self, ended: EndedBuild) -> Result<()> {
        let ended = self.state.build_ended(ended, &mut self.actions)?;
        self.perform().await?;
        if let Ended::Refused(job) = ended {
            let drained = self.drain().await?;
            if let Some(job) = self.state.build_again(job, drained.ahead) {
                self.builds.begin(job, &self.sink);
            }
            self.update_progress();
        }
        Ok(())
    }

    /// Stops the index builds of a collection. They start again once the change that follows is done.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn stop_builds(&mut self, collection: Uuid) -> Result<()> {
        for ended in self.builds.stop(collection, &*self.sink).await? {
            if ended.result.is_ok() {
                self.build_ended(ended).await?;
            }
        }
        self.state.builds_stopped(collection, &mut self.actions);
        self.perform().await
    }
}
