use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;
use crate::error::{Error, Result};

/// Blocks every call that arrives at its point, until the gate is released or dropped.
///
/// ```
/// # async fn example() -> mongoferry::Result<()> {
/// use mongoferry::Source;
/// use mongoferry::source::{MemorySource, SourceCall};
///
/// let source = MemorySource::new();
/// let gate = source.hold(SourceCall::Position);
/// let mut call = source.position();
/// tokio::select! {
///     _ = &mut call => unreachable!("the gate is closed"),
///     () = gate.reached() => {}
/// }
/// // Here the test does what has to happen just before the call.
/// gate.release();
/// call.await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of calls that wait at the gate.
    waiting: usize,
    /// Number of calls that may still pass.
    passes: usize,
    open: bool,
}

impl Gate {
    fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: watch::Sender::new(State::default()),
            }),
        }
    }

    /// Waits until a call is blocked at the gate.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn reached(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self
            .shared
            .state
            .subscribe()
            .wait_for(|state| state.waiting > state.passes)
            .await;
    }

    /// Returns the number of calls that are blocked at the gate.
    pub fn waiting(&self) -> usize {
        let state = self.shared.state.borrow();
        state.waiting.saturating_sub(state.passes)
    }

    /// Lets one call pass: one that is blocked at the gate, or the next one to arrive.
    pub fn let_one_pass(&self) {
        self.shared.state.send_modify(|state| state.passes += 1);
    }

    /// Opens the gate permanently.
    pub fn release(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.state.send_modify(|state| state.open = true);
    }
}

impl Shared {
    async fn pass(&self) {
        if self.state.borrow().open {
            return;
        }
        let mut changes = self.state.subscribe();
        self.state.send_modify(|state| state.waiting += 1);
        let leave = Leave(self);
        loop {
            if changes.wait_for(|state| state.open || state.passes > 0).await.is_err() {
                return;
            }
            let mut passed = false;
            self.state.send_if_modified(|state| {
                passed = state.open || state.passes > 0;
                if passed {
                    // One step with the count, so nobody sees a call that leaves as one that waits.
                    state.passes = state.passes.saturating_sub(1);
                    state.waiting -= 1;
                }
                passed
            });
            if passed {
                std::mem::forget(leave);
                return;
            }
        }
    }
}

/// Removes a call whose future is dropped from the count of waiting calls.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.waiting -= 1);
    }
}

/// Whether a fault or gate applies before the call does its work, or between the work and the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    Answer,
}

/// The faults and gates of one in-memory implementation. `C` names its calls.
#[derive(Debug)]
pub(crate) struct Faults<C> {
    planned: Mutex<Planned<C>>,
}

#[derive(Debug)]
struct Planned<C> {
    calls: HashMap<C, usize>,
    errors: Vec<(C, Moment, Error)>,
    gates: Vec<(C, Moment, Arc<Shared>)>,
}

impl<C: Copy + Eq + Hash> Faults<C> {
    pub(crate) fn new() -> Self {
        Self {
            planned: Mutex::new(Planned {
                calls: HashMap::new(),
                errors: Vec::new(),
                gates: Vec::new(),
            }),
        }
    }

    /// Number of calls of this kind that have begun.
    pub(crate) fn calls(&self, call: C) -> usize {
        lock(&self.planned).calls.get(&call).copied().unwrap_or_default()
    }

    pub(crate) fn fail_next(&self, call: C, moment: Moment, error: Error) {
        lock(&self.planned).errors.push((call, moment, error));
    }

    pub(crate) fn hold(&self, call: C, moment: Moment) -> Gate {
        let gate = Gate::new();
        let mut planned = lock(&self.planned);
        planned.gates.retain(|(_, _, gate)| !gate.state.borrow().open);
        planned.gates.push((call, moment, gate.shared.clone()));
        gate
    }

    /// Waits at the gates of this point, then returns the first error planned for it.
    pub(crate) async fn pass(&self, call: C, moment: Moment) -> Result<()> {
        if moment == Moment::Before {
            *lock(&self.planned).calls.entry(call).or_default() += 1;
        }
        let gates: Vec<_> = lock(&self.planned)
            .gates
            .iter()
            .filter(|(at, when, _)| *at == call && *when == moment)
            .map(|(_, _, gate)| gate.clone())
            .collect();
        for gate in gates {
            gate.pass().await;
        }
        let mut planned = lock(&self.planned);
        match planned
            .errors
            .iter()
            .position(|(at, when, _)| *at == call && *when == moment)
        {
            Some(index) => Err(planned.errors.remove(index).2),
            None => Ok(()),
        }
    }
}
