//! Completion of a migration: reached once the final checkpoint is durable.
//!
//! A cutover offers its result. The run's own tasks save the checkpoint, and publish the completion in the same step in which they learn
//! that the checkpoint is durable. Completion therefore does not depend on whether the cutover's future still exists.

use std::fmt;

use bson::raw::RawDocumentBuf;
use tokio::sync::watch;

use crate::checkpoint::WayBack;
use crate::error::{Error, ErrorKind, Result};
use crate::report::Summary;

/// Something that moves to the target together with the migration. Dropping it before [`begin`](Self::begin) or after
/// [`revert`](Self::revert) leaves it where it was. Otherwise it has moved.
pub(crate) trait Switch: Send + Sync {
    /// Switches. From now on the checkpoint may say that the migration is complete.
    fn begin(&mut self);

    /// Undoes [`begin`](Self::begin): the checkpoint does not say that the migration is complete.
    fn revert(&mut self);
}

/// State of the completion, shared by the cutover, the tasks of the run and the supervisor.
#[derive(Debug)]
pub(crate) struct Completion {
    state: watch::Sender<State>,
}

#[derive(Debug)]
enum State {
    /// No cutover has made an offer.
    Idle,
    /// A cutover has verified that both sides are identical. It can still withdraw the offer.
    Offered(Offer),
    /// The checkpoint is being saved, or the save failed and it is unknown which checkpoint is stored.
    InDoubt {
        offer: Offer,
        failure: Option<Error>,
        /// Whether the cutover was dropped, so that nobody waits for the result.
        is_abandoned: bool,
    },
    /// The checkpoint was not saved.
    Failed(Error),
    /// The checkpoint is durable.
    Complete(Box<Summary>),
}

/// Result of a cutover, and the switch that completes with it.
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

    /// Returns the way back and the certificate that the checkpoint has to record, or `None` if nothing is offered.
    pub fn offered(&self) -> Option<(Option<WayBack>, Option<RawDocumentBuf>)> {
        match &*self.state.borrow() {
            State::Offered(offer) => {
                let certificate = offer.summary.certificate.as_ref();
                // The host has it, too, so that one that cannot be encoded must not stop the hand-over.
                let certificate = certificate.and_then(|certificate| certificate.encode().ok());
                Some((offer.summary.way_back.clone(), certificate))
            }
            _ => None,
        }
    }

    /// Withdraws the offer, unless it was claimed.
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

    /// Claims the offer, right before the checkpoint is saved. Returns `true` if there was one.
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

    /// Records that the save failed. The checkpoint may have been stored all the same.
    pub fn note_failure(&self, error: &Error) {
        self.state.send_if_modified(|state| {
            if let State::InDoubt { failure, .. } = state {
                *failure = Some(error.clone());
            }
            false
        });
    }

    /// Resolves the doubt: the stored checkpoint says that the migration is complete, or that it is not. Returns `true` if it is not
    /// complete and nobody waits for the cutover. The caller then has to abandon the cutover.
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
                        *state = State::Failed(match failure {
                            Some(error) => {
                                Error::new(error.kind(), "cut over", "the checkpoint was not saved").with_source(error)
                            }
                            None => Error::new(
                                ErrorKind::Stopped,
                                "cut over",
                                "the run ended while the checkpoint was being saved",
                            ),
                        });
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

    /// Leaves the doubt unresolved, because the stored checkpoint cannot be read. The switch stays begun.
    pub fn leave_in_doubt(&self) {
        self.state.send_replace(State::Idle);
    }

    /// Records that nobody waits for the cutover any more. Returns `true` if the caller has to abandon the cutover. Returns `false` once
    /// the save of the checkpoint has begun, because then its result decides.
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

    /// Whether it is unknown what the stored checkpoint says.
    pub fn is_in_doubt(&self) -> bool {
        matches!(&*self.state.borrow(), State::InDoubt { .. })
    }

    /// Summary of the migration, once it is complete.
    pub fn summary(&self) -> Option<Summary> {
        match &*self.state.borrow() {
            State::Complete(summary) => Some((**summary).clone()),
            _ => None,
        }
    }

    /// Waits until it is known whether the migration is complete.
    ///
    /// # Errors
    /// The checkpoint could not be saved, so the migration is not complete.
    pub async fn known(&self) -> Result<Summary> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Offered(_) | State::InDoubt { .. }));
        match known.await.as_deref() {
            Ok(State::Complete(summary)) => Ok((**summary).clone()),
            Ok(State::Failed(error)) => Err(error.clone()),
            _ => Err(Error::stopped("cut over")),
        }
    }
}
