//! Task that blocks writes on the source and lifts the block.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::engine::messages::{Request, Requests};
use crate::engine::window;
use crate::error::{Error, ErrorKind, Result};
use crate::mongo::retry::{RetryPolicy, retry};
use crate::report::Event;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;
use crate::runtime::write_block::{State, Wanted};

/// Maximum wait for a run to resume from its checkpoint. The block must be noted in a checkpoint before it is set.
const NOTING: Duration = Duration::from_secs(300);

/// Pause before a failed lift is retried.
const PAUSE: Duration = Duration::from_secs(5);

/// Sets and lifts the block as requested. Never returns.
pub(crate) async fn keep_write_block(engine: &Job, progress: &RunState, requests: &Requests) -> Infallible {
    let block = &progress.write_block;
    let mut changes = block.state.subscribe();
    loop {
        let State { wanted, noted } = *changes.borrow_and_update();
        let asked = block.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (wanted, asked) {
            (Wanted::Blocked, Some(asked)) => {
                let result = block_writes(engine, progress, requests).await;
                // The requester may have stopped waiting. It then wants the block lifted.
                let _ = asked.send(result);
                continue;
            }
            (Wanted::Open, _) if noted => {
                if lift(engine, progress).await.is_err() {
                    sleep(PAUSE).await;
                    continue;
                }
                window::save(requests).await;
            }
            _ => {}
        }
        // This cannot fail because `block` owns the sender.
        let _ = changes.changed().await;
    }
}

/// Lifts the block and emits an event with the outcome.
///
/// # Errors
/// The source refuses or does not answer.
pub(crate) async fn lift(engine: &Job, progress: &RunState) -> Result<()> {
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
        Err(error) => Event::SourceWriteBlockStays { reason: error.report() },
    });
    if lifted.is_ok() {
        progress.write_block.state.send_modify(|state| state.noted = false);
    }
    lifted
}

async fn block_writes(engine: &Job, progress: &RunState, requests: &Requests) -> Result<()> {
    let block = &progress.write_block;
    // A block set by somebody else is not this migration's to lift.
    if !block.is_noted() && retry(RetryPolicy::SERVER, || engine.source.writes_blocked()).await? {
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
        // A source that cannot block writes cannot lift a block either, and no block is set.
        block.state.send_modify(|state| state.noted = false);
        window::save(requests).await;
    }
    set?;
    progress.events.send(Event::SourceWritesBlocked);
    Ok(())
}

/// Saves a checkpoint that notes the block, before the block is set.
async fn note(requests: &Requests) -> Result<()> {
    let started = Instant::now();
    loop {
        let sender = requests.borrow().clone();
        let (reply, saved) = oneshot::channel();
        // Both calls fail if the run has ended. It resumes from its checkpoint, and this loop waits for that.
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
                "the run did not resume in time, so the block could not be noted in a checkpoint",
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
