//! Block of writes on the source at the cutover.
//!
//! The block is lifted whenever the cutover does not complete.
//!
//! A single [task](crate::engine::write_block) issues both commands, so that an abandoned command can never take effect after the one that
//! follows it. A checkpoint records the block before it comes into force. If this process dies, the next one lifts the block.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// Maximum wait of a failed cutover, or of a run that ends, until the source accepts writes again.
const LIFTING: Duration = Duration::from_secs(60);

/// State shared by the cutover, the router's checkpoints and the task that issues the commands.
#[derive(Debug)]
pub(crate) struct WriteBlock {
    pub(crate) state: watch::Sender<State>,
    /// Reply channel of the caller that waits for the block.
    pub(crate) asked: Mutex<Option<oneshot::Sender<Result<()>>>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    pub wanted: Wanted,
    /// Whether a block of this migration may be in force.
    pub noted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Open,
    Blocked,
    /// Blocked for good, because the migration is complete.
    Kept,
}

impl Default for WriteBlock {
    fn default() -> Self {
        let state = State {
            wanted: Wanted::Open,
            noted: false,
        };
        Self {
            state: watch::Sender::new(state),
            asked: Mutex::default(),
        }
    }
}

impl WriteBlock {
    /// Whether a checkpoint has to record that writes are blocked.
    pub fn is_noted(&self) -> bool {
        self.state.borrow().noted
    }

    /// Records that a loaded checkpoint contains a block. The block is lifted unless a cutover of this process wants it.
    pub fn found(&self) {
        self.state.send_modify(|state| state.noted = true);
    }

    /// Blocks writes. After it returns, only users with the privilege to bypass the block can write.
    ///
    /// # Errors
    /// The block cannot be recorded in a checkpoint, or the source refuses it.
    ///
    /// # Cancellation
    /// The block stays wanted until [`give_up`](Self::give_up).
    pub async fn block(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
        self.state.send_modify(|state| state.wanted = Wanted::Blocked);
        answer
            .await
            .unwrap_or_else(|_| Err(Error::stopped("block writes on the source")))
    }

    /// Requests that the block is lifted, because the cutover did not complete.
    pub fn give_up(&self) {
        self.state.send_if_modified(|state| {
            let changes = state.wanted == Wanted::Blocked;
            if changes {
                state.wanted = Wanted::Open;
            }
            changes
        });
    }

    /// Keeps the block for good, because the migration is complete.
    pub fn keep(&self) {
        self.state.send_modify(|state| state.wanted = Wanted::Kept);
    }

    /// Calls [`give_up`](Self::give_up), then waits up to a minute until the source accepts writes again.
    pub async fn lifted(&self) {
        self.give_up();
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !state.noted || state.wanted != Wanted::Open);
        // On a timeout an event has told the host why the block stays. The next start tries again.
        let _ = timeout(LIFTING, settled).await;
    }
}
