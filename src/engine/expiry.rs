//! Task that lets documents expire on the target, and holds the expiry back again.

use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::engine::messages::Request;
use crate::error::{Error, Result};
use crate::runtime::expiry::{Form, State, commands, execute};
use crate::runtime::progress::RunState;
use crate::sink::{CatalogCommand, Sink};

/// Executes the expiry commands as they are requested, until the run is cancelled.
///
/// # Errors
/// The expiry could not be held back. A run that resumes from its checkpoint does that first.
pub(crate) async fn keep_expiry(
    sink: Arc<dyn Sink>,
    progress: Arc<RunState>,
    requests: mpsc::Sender<Request>,
    cancel: CancellationToken,
) -> Result<()> {
    let form = &progress.expiry;
    let mut changes = form.state.subscribe();
    loop {
        let State { wanted, noted } = *changes.borrow_and_update();
        let asked = form.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (wanted, asked) {
            (Form::Final, Some(asked)) => {
                let finalized = finalize(&*sink, &progress, &requests, &asked.commands).await;
                // The requester may have stopped waiting. It then wants the expiry held back.
                let _ = asked.reply.send(finalized);
                continue;
            }
            (Form::HeldBack, _) if noted => {
                hold_back(&*sink, &requests).await?;
                form.restored();
                save(&requests).await?;
                continue;
            }
            _ => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            // This cannot fail because `progress` owns the sender.
            _ = changes.changed() => {}
        }
    }
}

async fn finalize(
    sink: &dyn Sink,
    progress: &RunState,
    requests: &mpsc::Sender<Request>,
    commands: &[CatalogCommand],
) -> Result<Vec<CatalogCommand>> {
    progress.expiry.state.send_modify(|state| state.noted = true);
    save(requests).await?;
    execute(sink, commands, || progress.expiry.wants(Form::Final)).await
}

/// Holds back the expiry of all collections. Repeats until the commands no longer change, because collections may be renamed meanwhile.
async fn hold_back(sink: &dyn Sink, requests: &mpsc::Sender<Request>) -> Result<()> {
    let mut done = None;
    loop {
        let (reply, states) = oneshot::channel();
        let states = ask(requests, Request::States { reply }, states).await?;
        let commands = commands(states.iter(), Form::HeldBack);
        if done.as_ref() == Some(&commands) {
            return Ok(());
        }
        execute(sink, &commands, || true).await?;
        done = Some(commands);
    }
}

async fn save(requests: &mpsc::Sender<Request>) -> Result<()> {
    let (reply, saved) = oneshot::channel();
    ask(requests, Request::Save { reply }, saved).await
}

async fn ask<T>(requests: &mpsc::Sender<Request>, request: Request, answer: oneshot::Receiver<T>) -> Result<T> {
    let stopped = || Error::stopped("let documents expire on the target");
    requests.send(request).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())
}
