//! Calls of the same kind that run one at a time, and become one where they wait for each other.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::Mutex;

use crate::error::Result;

/// Calls that each make good everything that happened before them, so that one that begins later does for all that wait.
#[derive(Debug, Default)]
pub(crate) struct SharedCalls {
    /// Number of calls that have begun.
    begun: AtomicU64,
    /// Number of the last call that succeeded.
    succeeded: Mutex<u64>,
}

impl SharedCalls {
    /// Makes the call once those before it have ended, unless another one that began after this request has succeeded.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn run(&self, call: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.begun.load(SeqCst);
        let mut succeeded = self.succeeded.lock().await;
        if *succeeded > before {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        call.await?;
        *succeeded = number;
        Ok(())
    }
}
