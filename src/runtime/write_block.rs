//! Blocks writes on the source at the cutover, and lifts the block wherever the cutover does not come to its end.
//!
//! One task gives both commands, so that none that was given up can be carried out after the one that follows it. A checkpoint notes the
//! block before it comes into force: whatever becomes of this process, the next one lifts it.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::engine::follow::router::Request;
use crate::engine::{Engine, Requests};
use crate::error::{Error, ErrorKind, Result};
use crate::mongo::retry::{RetryRule, retry};
use crate::report::event::Event;
use crate::runtime::progress::Progress;

/// How long a cutover that has failed, and a run that ends, wait for the source to take writes again.
const LIFTING: Duration = Duration::from_secs(60);

/// How long the block waits for a run that goes on from its checkpoint, in which it has to be noted first.
const NOTING: Duration = Duration::from_secs(300);

/// The pause before a lift that failed is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// What a cutover, the router's checkpoints and the task that gives the commands share.
#[derive(Debug)]
pub(crate) struct WriteBlock {
    state: watch::Sender<State>,
    /// Who waits for the block.
    asked: Mutex<Option<oneshot::Sender<Result<()>>>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    wanted: Wanted,
    /// Whether a block of this migration may be in force.
    noted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
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

/// Blocks and lifts as is wanted. Never ends.
pub(crate) async fn keep_write_block(engine: &Engine, progress: &Progress, requests: &Requests) -> Infallible {
    let block = &progress.write_block;
    let mut changes = block.state.subscribe();
    loop {
        let State { wanted, noted } = *changes.borrow_and_update();
        let asked = block.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (wanted, asked) {
            (Wanted::Blocked, Some(asked)) => {
                let result = block_writes(engine, progress, requests).await;
                // Whoever asked may have stopped waiting, and then wants it lifted.
                let _ = asked.send(result);
                continue;
            }
            (Wanted::Open, _) if noted => {
                if lift(engine, progress).await.is_err() {
                    sleep(PAUSE).await;
                    continue;
                }
                crate::runtime::window::save(requests).await;
            }
            _ => {}
        }
        // It cannot fail, since `block` has the sender.
        let _ = changes.changed().await;
    }
}

/// Lifts the block now, when there is no longer a task that does it.
///
/// # Errors
/// The source refuses, or does not answer.
pub(crate) async fn lift(engine: &Engine, progress: &Progress) -> Result<()> {
    let lifted = async {
        engine.source.set_write_block(false).await?;
        match engine.source.writes_blocked().await? {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::Server,
                "lift the block of writes on the source",
                "its writes are still blocked",
            )),
        }
    }
    .await;
    progress.events.send(match &lifted {
        Ok(()) => Event::SourceWritesUnblocked,
        Err(error) => Event::SourceWriteBlockStays {
            reason: error.to_string(),
        },
    });
    if lifted.is_ok() {
        progress.write_block.state.send_modify(|state| state.noted = false);
    }
    lifted
}

async fn block_writes(engine: &Engine, progress: &Progress, requests: &Requests) -> Result<()> {
    let block = &progress.write_block;
    // Somebody else's block is not this migration's to lift.
    if !block.is_noted() && retry(RetryRule::SERVER, || engine.source.writes_blocked()).await? {
        return Ok(());
    }
    block.state.send_modify(|state| state.noted = true);
    let mut state = block.state.subscribe();
    tokio::select! {
        noted = note(requests) => noted?,
        _ = state.wait_for(|state| state.wanted != Wanted::Blocked) => return Err(Error::stopped("block writes on the source")),
    }
    let set = engine.source.set_write_block(true).await;
    if set.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused) {
        // A source that cannot block writes cannot lift a block either, and there is none.
        block.state.send_modify(|state| state.noted = false);
        crate::runtime::window::save(requests).await;
    }
    set?;
    progress.events.send(Event::SourceWritesBlocked);
    Ok(())
}

/// Saves a checkpoint, which says that writes are blocked from before they are.
async fn note(requests: &Requests) -> Result<()> {
    let started = Instant::now();
    loop {
        let sender = requests.borrow().clone();
        let (reply, saved) = oneshot::channel();
        // Both fail when the run has ended; it goes on from its checkpoint, and this waits for that.
        if let Some(sender) = sender
            && sender.send(Request::Save { reply }).await.is_ok()
            && saved.await.is_ok()
        {
            return Ok(());
        }
        if started.elapsed() > NOTING {
            return Err(Error::new(
                ErrorKind::Connection,
                "block writes on the source",
                "the run did not go on in time, so that the block could not be noted in a checkpoint",
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
