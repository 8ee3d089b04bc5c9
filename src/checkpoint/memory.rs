//! A checkpoint store in memory, for tests.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;

use super::CheckpointStore;
use crate::error::Result;

/// Keeps the checkpoint in memory. Clones share it, so a second run can continue from it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    checkpoint: Arc<Mutex<Option<RawDocumentBuf>>>,
}

impl MemoryStore {
    fn put(&self, checkpoint: Option<RawDocumentBuf>) {
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint;
    }
}

#[async_trait]
impl CheckpointStore for MemoryStore {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        Ok(self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        self.put(Some(checkpoint.clone()));
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        self.put(None);
        Ok(())
    }
}
