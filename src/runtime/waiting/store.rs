//! Checkpoint store that reports when it keeps a run waiting.

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;

use super::Waiting;
use crate::checkpoint::CheckpointStore;
use crate::error::Result;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CheckpointStore for Waiting<dyn CheckpointStore> {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        self.call("load the checkpoint", self.inner.load()).await
    }

    async fn claim(&self) -> Result<()> {
        self.call("claim the checkpoint", self.inner.claim()).await
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        self.call("save the checkpoint", self.inner.save(checkpoint)).await
    }

    async fn clear(&self) -> Result<()> {
        self.call("remove the checkpoint", self.inner.clear()).await
    }
}
