//! Whether the host's application stands still for a cutover.
//!
//! Once a cutover has begun to stop it, the application is told to go on unless the migration completes, whatever ends the cutover. The
//! run's own tasks tell it, so that this also happens if the cutover's future is dropped.

use tokio::sync::watch;

/// State shared by the cutover and the task that calls the hook.
#[derive(Debug)]
pub(crate) struct Application {
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// A cutover has begun to stop it.
    Stopped,
    /// That cutover did not complete, and the application is to be told.
    ToResume,
    /// The migration is complete. The application goes on with the target.
    HandedOver,
}

impl Default for Application {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Running),
        }
    }
}

impl Application {
    /// Records that a cutover is about to stop the application.
    pub fn stop(&self) {
        self.state.send_replace(State::Stopped);
    }

    /// Records that the cutover did not complete.
    pub fn give_up(&self) {
        self.change(State::Stopped, State::ToResume);
    }

    /// Records that the migration is complete.
    pub fn hand_over(&self) {
        self.state.send_replace(State::HandedOver);
    }

    /// Calls [`give_up`](Self::give_up), then waits until the application was told.
    pub async fn resumed(&self) {
        self.give_up();
        // This cannot fail because `self` owns the sender. Each call of the hook has a timeout.
        let _ = self.state.subscribe().wait_for(|state| *state != State::ToResume).await;
    }

    /// Waits until the application is to be told.
    pub async fn is_to_resume(&self) {
        // This cannot fail because `self` owns the sender.
        let _ = self.state.subscribe().wait_for(|state| *state == State::ToResume).await;
    }

    /// Records that the application was told. The next cutover may have begun to stop it again meanwhile.
    pub fn note_resumed(&self) {
        self.change(State::ToResume, State::Running);
    }

    fn change(&self, from: State, to: State) {
        self.state.send_if_modified(|state| {
            let changes = *state == from;
            if changes {
                *state = to;
            }
            changes
        });
    }
}
