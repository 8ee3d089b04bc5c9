//! Blocks writes on the source at the cutover, and lifts the block wherever the cutover does not come to its end.
//!
//! One [task](crate::engine::write_block) gives both commands, so that none that was given up can be carried out after the one that follows it. A checkpoint notes the
//! block before it comes into force: whatever becomes of this process, the next one lifts it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// How long a cutover that has failed, and a run that ends, wait for the source to take writes again.
const LIFTING: Duration = Duration::from_secs(60);

/// What a cutover, the router's checkpoints and the task that gives the commands share.
#[derive(Debug)]
pub(crate) struct WriteBlock {
    pub(crate) state: watch::Sender<State>,
    /// Who waits for the block.
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
    /// Blocked for good, since the migration is over.
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
    /// Whether a checkpoint has to say that writes are blocked.
    pub fn is_noted(&self) -> bool {
        self.state.borrow().noted
    }

    /// Goes by a checkpoint that says so: unless a cutover of this process wants the block, it is lifted.
    pub fn found(&self) {
        self.state.send_modify(|state| state.noted = true);
    }

    /// Blocks writes. Once it has returned, nothing but users who may pass the block can write.
    ///
    /// # Errors
    /// The block cannot be noted in a checkpoint, or the source refuses.
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

    /// The cutover did not come to its end: the block is to be lifted.
    pub fn give_up(&self) {
        self.state.send_if_modified(|state| {
            let changes = state.wanted == Wanted::Blocked;
            if changes {
                state.wanted = Wanted::Open;
            }
            changes
        });
    }

    /// The migration is over: the block stays.
    pub fn keep(&self) {
        self.state.send_modify(|state| state.wanted = Wanted::Kept);
    }

    /// Gives up, and waits for a while until the source takes writes again.
    pub async fn lifted(&self) {
        self.give_up();
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !state.noted || state.wanted != Wanted::Open);
        // The host was told why it stays; the next start tries again.
        let _ = timeout(LIFTING, settled).await;
    }
}
