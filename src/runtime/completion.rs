//! The moment in which a migration is over: when the checkpoint that says so is durable.
//!
//! A cutover offers what it has come to. The run's own tasks save the checkpoint, and tell everybody in the same step in which they learn that
//! it is durable, so that nothing of this hangs on whether the cutover's future is still there.

use std::fmt;

use tokio::sync::watch;

use crate::checkpoint::WayBack;
use crate::error::{Error, ErrorKind, Result};
use crate::report::Summary;

/// What goes over to the target with the migration. When it is dropped before [`begin`](Self::begin) or after [`revert`](Self::revert) it
/// stays where it was, else it has gone over.
pub(crate) trait Switch: Send + Sync {
    /// From now on the checkpoint may say that the migration is complete.
    fn begin(&mut self);

    /// It is known not to say so.
    fn revert(&mut self);
}

/// What a cutover, the tasks of a run and the supervisor share of the end of a migration.
#[derive(Debug)]
pub(crate) struct Completion {
    state: watch::Sender<State>,
}

#[derive(Debug)]
enum State {
    /// There is nothing to complete.
    Idle,
    /// A cutover has found everything to be the same. It can still take that back.
    Offered(Offer),
    /// The checkpoint is being saved, or its save has failed in a way that leaves open what is stored.
    InDoubt {
        offer: Offer,
        failure: Option<(ErrorKind, String)>,
        /// Whether nobody waits for the cutover any more.
        is_abandoned: bool,
    },
    /// The checkpoint was not saved.
    Failed(ErrorKind, String),
    /// The checkpoint is durable.
    Complete(Box<Summary>),
}

/// What a cutover has come to, and what goes over with it.
pub(crate) struct Offer {
    pub summary: Box<Summary>,
    pub switch: Option<Box<dyn Switch>>,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Offer")
    }
}

impl Default for Completion {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Idle),
        }
    }
}

impl Completion {
    /// Offers to complete the migration.
    pub fn offer(&self, offer: Offer) {
        self.state.send_replace(State::Offered(offer));
    }

    /// What the checkpoint is to say of the way back; `None` when nothing is offered.
    pub fn offered(&self) -> Option<Option<WayBack>> {
        match &*self.state.borrow() {
            State::Offered(offer) => Some(offer.summary.way_back.clone()),
            _ => None,
        }
    }

    /// Takes an offer back that nobody has made use of.
    pub fn take_back(&self) -> Option<Offer> {
        let mut taken = None;
        self.state
            .send_if_modified(|state| match std::mem::replace(state, State::Idle) {
                State::Offered(offer) => {
                    taken = Some(offer);
                    true
                }
                other => {
                    *state = other;
                    false
                }
            });
        taken
    }

    /// Makes use of the offer: the checkpoint is saved next. Answers whether there was one.
    pub fn claim(&self) -> bool {
        self.state
            .send_if_modified(|state| match std::mem::replace(state, State::Idle) {
                State::Offered(mut offer) => {
                    if let Some(switch) = &mut offer.switch {
                        switch.begin();
                    }
                    *state = State::InDoubt {
                        offer,
                        failure: None,
                        is_abandoned: false,
                    };
                    true
                }
                other => {
                    *state = other;
                    false
                }
            })
    }

    /// The save has failed, and may have been made all the same.
    pub fn note_failure(&self, error: &Error) {
        self.state.send_if_modified(|state| {
            if let State::InDoubt { failure, .. } = state {
                *failure = Some((error.kind(), error.to_string()));
            }
            false
        });
    }

    /// The checkpoint is known to say that the migration is complete, or not to. Answers whether it does not and nobody waits for the cutover,
    /// which is to be given up then.
    pub fn resolve(&self, is_complete: bool) -> bool {
        let mut gives_up = false;
        self.state
            .send_if_modified(|state| match std::mem::replace(state, State::Idle) {
                State::InDoubt { offer, .. } if is_complete => {
                    *state = State::Complete(offer.summary);
                    true
                }
                State::InDoubt {
                    mut offer,
                    failure,
                    is_abandoned,
                } => {
                    if let Some(switch) = &mut offer.switch {
                        switch.revert();
                    }
                    gives_up = is_abandoned;
                    if !is_abandoned {
                        let ended = || {
                            (
                                ErrorKind::Stopped,
                                "the run ended while the checkpoint was saved".to_owned(),
                            )
                        };
                        let (kind, message) = failure.unwrap_or_else(ended);
                        *state = State::Failed(kind, message);
                    }
                    true
                }
                other => {
                    *state = other;
                    false
                }
            });
        gives_up
    }

    /// Nobody will find out what the checkpoint says. What goes over with the migration does so.
    pub fn leave_in_doubt(&self) {
        self.state.send_replace(State::Idle);
    }

    /// Nobody waits for the cutover any more. Answers whether it is to be given up: once the checkpoint is being saved that decides itself.
    pub fn give_up(&self) -> bool {
        let mut gives_up = true;
        self.state.send_if_modified(|state| {
            match state {
                State::InDoubt { is_abandoned, .. } => {
                    *is_abandoned = true;
                    gives_up = false;
                }
                State::Complete(_) => gives_up = false,
                _ => *state = State::Idle,
            }
            false
        });
        gives_up
    }

    /// Whether it is not known what the checkpoint says.
    pub fn is_in_doubt(&self) -> bool {
        matches!(&*self.state.borrow(), State::InDoubt { .. })
    }

    /// What the migration came to, once it is complete.
    pub fn summary(&self) -> Option<Summary> {
        match &*self.state.borrow() {
            State::Complete(summary) => Some((**summary).clone()),
            _ => None,
        }
    }

    /// Waits until it is known whether the migration is complete.
    ///
    /// # Errors
    /// It is not, since the checkpoint could not be saved.
    pub async fn known(&self) -> Result<Summary> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Offered(_) | State::InDoubt { .. }));
        match known.await.as_deref() {
            Ok(State::Complete(summary)) => Ok((**summary).clone()),
            Ok(State::Failed(kind, message)) => Err(Error::new(*kind, "cut over", message.clone())),
            _ => Err(Error::stopped("cut over")),
        }
    }
}
