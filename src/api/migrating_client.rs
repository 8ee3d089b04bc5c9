//! [`MigratingClient`]: a client for applications that switches to the target at the cutover.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mongodb::Client;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::api::handle::MigrationHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Side;
use crate::report::Summary;
use crate::runtime::completion::Switch;

/// Hands out a client for the replica set that holds the data: the source before a cutover, the target after it. All clones share one
/// state.
///
/// Each operation goes through [`enter`](Self::enter) or [`with`](Self::with). [`cutover`](Self::cutover) holds new operations, waits for
/// the running ones, hands over, and releases the held ones. They continue on the target if the hand-over is complete, and on the source
/// otherwise. The applications notice no more than a pause, and need no other change.
///
/// ```no_run
/// # use std::time::Duration;
/// # use bson::{Document, doc};
/// # use mongoferry::{MigratingClient, MigrationHandle, Outcome};
/// # async fn example(source: mongoferry::mongodb::Client, target: mongoferry::mongodb::Client, run: MigrationHandle) -> Result<(), Box<dyn std::error::Error>> {
/// let clients = MigratingClient::new(source, target);
///
/// // Wherever the application works with the database:
/// let orders = clients.enter().await;
/// orders.database("shop").collection("orders").insert_one(doc! { "n": 1 }).await?;
/// drop(orders);
///
/// // Wherever the application decides to cut over:
/// let cutover = clients.cutover(&run, Duration::from_secs(5)).await?;
/// if cutover.summary.outcome == Outcome::Complete {
///     println!("{} calls were held, for {:?} at most", cutover.held.calls, cutover.held.longest);
/// }
/// # Ok(())
/// # }
/// ```
///
/// An operation is everything between entering and the drop of the guard: a cursor with all its batches, a transaction with all its
/// statements, or a change stream. Whatever outlives its guard still leads to the side it came from, such as a `Database` that was made
/// from the guard and is kept. An operation must not enter again before it ends. If it does so during a cutover, the cutover and the
/// operation wait for each other until the cutover times out.
#[derive(Clone)]
pub struct MigratingClient {
    gate: Gate<Client>,
}

/// A client for one operation. It dereferences to the driver's client.
#[must_use = "the operation ends when this is dropped"]
pub struct ClientGuard {
    pass: Pass<Client>,
}

/// Result of a cutover through a [`MigratingClient`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClientCutover {
    /// The run's summary.
    pub summary: Summary,
    /// What the applications noticed of the cutover.
    pub held: HeldCalls,
}

/// The operations that had to wait for a cutover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldCalls {
    /// Number of operations.
    pub calls: u64,
    /// The longest wait of any operation.
    pub longest: Duration,
}

impl MigratingClient {
    /// Hands out `source` until a cutover is complete, and `target` from then on.
    pub fn new(source: Client, target: Client) -> Self {
        Self {
            gate: Gate::new(source, target),
        }
    }

    /// Returns the client for one operation. The operation ends when the guard is dropped. While a cutover holds new operations, this call
    /// waits.
    ///
    /// # Cancellation
    /// Dropping the future has no effect.
    pub async fn enter(&self) -> ClientGuard {
        ClientGuard {
            pass: self.gate.enter().await,
        }
    }

    /// Like [`enter`](Self::enter), for an operation that is a function of the client.
    ///
    /// # Cancellation
    /// Dropping the future drops the future of the operation.
    pub async fn with<T, F>(&self, operation: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let guard = self.enter().await;
        let done = operation(Client::clone(&guard)).await;
        drop(guard);
        done
    }

    /// The side whose client is handed out now, or will be once held operations continue.
    pub fn side(&self) -> Side {
        self.gate.shared.state.borrow().side
    }

    /// The operations that the last cutover has held so far, whatever its result.
    pub fn held_calls(&self) -> HeldCalls {
        self.gate.shared.state.borrow().calls
    }

    /// Hands over, like [`MigrationHandle::cutover`].
    ///
    /// Once the run is ready, new operations are held, and running ones get up to `drain` to end. When the hand-over is complete, the held
    /// operations continue with the other client. With any other outcome, or an error, they continue with the client they had.
    ///
    /// With `source` and `target` as passed to [`new`](Self::new), the run must lead from the client that is handed out now to the other
    /// one. After a hand-over, that is the run which [reverses it](Summary::reverse).
    ///
    /// Calls are held during the comparison, and its duration depends on the data. A host that wants to limit it drops the future. The
    /// operations continue as soon as the checkpoint that marks the migration as complete is durable, whatever the host's hooks do
    /// afterwards.
    ///
    /// # Errors
    /// - [`OperationsUnderWay`](ErrorKind::OperationsUnderWay): operations did not end in time.
    /// - [`WrongPhase`](ErrorKind::WrongPhase): another cutover holds the operations.
    /// - Otherwise the same as `MigrationHandle::cutover`.
    ///
    /// In each case the run continues if it can, and `cutover` may be called again.
    ///
    /// # Cancellation
    /// Dropping the future lets the operations continue with the client they had. For the run, it has the same effect as dropping the
    /// future of `MigrationHandle::cutover`.
    ///
    /// There is one exception: while the checkpoint that marks the migration as complete is being saved, the operations stay held until the
    /// result is known. [`side`](Self::side) switches to the other side just before the checkpoint can say so, and switches back if the
    /// checkpoint could not be saved. If the handle is dropped at exactly this time, the operations continue with the other client, because
    /// the checkpoint may already mark the migration as complete.
    pub async fn cutover(&self, run: &MigrationHandle, drain: Duration) -> Result<ClientCutover> {
        let cut_over = |stop_writes, switch: TakeSwitch| run.cutover_with(stop_writes, switch);
        let (summary, held) = self.gate.hand_over(drain, cut_over).await?;
        Ok(ClientCutover { summary, held })
    }
}

/// Omits the clients, because their options contain credentials.
impl fmt::Debug for MigratingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigratingClient")
            .field("state", &self.gate.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Deref for ClientGuard {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.pass.gate.shared.of(self.pass.side)
    }
}

impl fmt::Debug for ClientGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientGuard").field("side", &self.pass.side).finish()
    }
}

/// Two values, of which one is handed out at a time. All clones share one state.
struct Gate<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    source: C,
    target: C,
    /// Waiters are notified only of changes that end a wait.
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    /// The side that is handed out now, or will be once nothing is held any more.
    side: Side,
    /// Whether new operations wait.
    is_held: bool,
    /// Number of running operations.
    under_way: usize,
    /// Waiting operations in order of arrival, each with the time at which it began to wait.
    waiting: BTreeMap<u64, Instant>,
    next_ticket: u64,
    calls: HeldCalls,
}

/// Permission to work with one side.
struct Pass<C> {
    gate: Gate<C>,
    side: Side,
}

/// A place in the queue of waiting operations.
struct Ticket<'a, C> {
    gate: &'a Gate<C>,
    number: u64,
}

/// Holds new operations until it is dropped.
struct Hold<C> {
    gate: Gate<C>,
}

/// Takes over the hold from the future that stops the writes. The [`Switch`] decides which side the operations continue with.
type TakeSwitch = Box<dyn FnOnce() -> Option<Box<dyn Switch>> + Send>;

impl<C> Gate<C> {
    fn new(source: C, target: C) -> Self {
        let state = State {
            side: Side::Source,
            is_held: false,
            under_way: 0,
            waiting: BTreeMap::new(),
            next_ticket: 0,
            calls: HeldCalls::default(),
        };
        Self {
            shared: Arc::new(Shared {
                source,
                target,
                state: watch::Sender::new(state),
            }),
        }
    }

    async fn enter(&self) -> Pass<C> {
        if let Some(pass) = self.try_enter() {
            return pass;
        }
        let mut state = self.shared.state.subscribe();
        let _ticket = self.queue();
        loop {
            // This fails only without a sender, and this gate owns one.
            let _ = state.wait_for(|state| !state.is_held).await;
            // The next cutover may have closed the gate again already.
            if let Some(pass) = self.try_enter() {
                return pass;
            }
        }
    }

    fn try_enter(&self) -> Option<Pass<C>> {
        let mut entered = None;
        self.shared.state.send_if_modified(|state| {
            if !state.is_held {
                state.under_way += 1;
                entered = Some(state.side);
            }
            false
        });
        let gate = self.clone();
        entered.map(|side| Pass { gate, side })
    }

    fn queue(&self) -> Ticket<'_, C> {
        let mut number = 0;
        self.shared.state.send_if_modified(|state| {
            number = state.next_ticket;
            state.next_ticket += 1;
            state.waiting.insert(number, Instant::now());
            state.calls.calls += u64::from(state.is_held);
            false
        });
        Ticket { gate: self, number }
    }

    /// Holds new operations, and waits for the running ones to end.
    ///
    /// # Errors
    /// [`OperationsUnderWay`](ErrorKind::OperationsUnderWay), [`WrongPhase`](ErrorKind::WrongPhase).
    async fn stop(&self, limit: Duration) -> Result<Hold<C>> {
        let hold = self.hold()?;
        let mut state = self.shared.state.subscribe();
        let drained = state.wait_for(|state| state.under_way == 0);
        if timeout(limit, drained).await.is_ok() {
            return Ok(hold);
        }
        let under_way = self.shared.state.borrow().under_way;
        Err(Error::new(
            ErrorKind::OperationsUnderWay,
            "cut over",
            format!(
                "{under_way} operations of the applications did not end within {limit:?}; all of them continue as before: give them more \
                 time, or find out what takes so long, and cut over again"
            ),
        )
        .with_retryable(true))
    }

    fn hold(&self) -> Result<Hold<C>> {
        let mut held = false;
        self.shared.state.send_if_modified(|state| {
            if !state.is_held {
                state.is_held = true;
                held = true;
                // Operations that an earlier cutover has released, and that have not continued yet, keep waiting.
                state.calls = HeldCalls {
                    calls: u64::try_from(state.waiting.len()).unwrap_or(u64::MAX),
                    longest: Duration::ZERO,
                };
            }
            false
        });
        let hold = held.then(|| Hold { gate: self.clone() });
        hold.ok_or_else(|| {
            Error::new(
                ErrorKind::WrongPhase,
                "cut over",
                "another cutover through this client is in progress: wait for it to end, or drop its future first",
            )
        })
    }

    /// Runs `cut_over`. Its arguments are the future that stops the writes, and the function that takes over the operations held from then
    /// on.
    async fn hand_over<T, F>(
        &self,
        limit: Duration,
        cut_over: impl FnOnce(BoxFuture<'static, ()>, TakeSwitch) -> F,
    ) -> Result<(T, HeldCalls)>
    where
        F: Future<Output = Result<T>>,
        C: Send + Sync + 'static,
    {
        let (refuse, mut refused) = oneshot::channel();
        // If nobody takes the hold, it is dropped with both futures, and the operations continue.
        let held: Arc<Mutex<Option<Hold<C>>>> = Arc::default();
        let (gate, hold) = (self.clone(), Arc::clone(&held));
        let stop_writes = async move {
            match gate.stop(limit).await {
                Ok(stopped) => *hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopped),
                Err(error) => {
                    let _ = refuse.send(error);
                    // The cutover must not continue; the `select!` below drops it.
                    pending::<()>().await;
                }
            }
        };
        let take = move || {
            let hold = held.lock().unwrap_or_else(PoisonError::into_inner).take();
            hold.map(|hold| Box::new(hold) as Box<dyn Switch>)
        };
        let cut_over = pin!(cut_over(stop_writes.boxed(), Box::new(take)));
        let done = tokio::select! {
            biased;
            Ok(error) = &mut refused => return Err(error),
            done = cut_over => done?,
        };
        Ok((done, self.shared.state.borrow().calls))
    }
}

impl<C> Shared<C> {
    fn of(&self, side: Side) -> &C {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }
}

impl<C> Hold<C> {
    /// Switches the operations to the other side.
    fn turn(&self) {
        self.gate.shared.state.send_if_modified(|state| {
            state.side = match state.side {
                Side::Source => Side::Target,
                Side::Target => Side::Source,
            };
            false
        });
    }
}

impl<C: Send + Sync> Switch for Hold<C> {
    fn begin(&mut self) {
        self.turn();
    }

    fn revert(&mut self) {
        self.turn();
    }
}

impl<C> Drop for Hold<C> {
    fn drop(&mut self) {
        self.gate.shared.state.send_modify(|state| {
            state.is_held = false;
            if let Some((_, oldest)) = state.waiting.first_key_value() {
                state.calls.longest = state.calls.longest.max(oldest.elapsed());
            }
        });
    }
}

impl<C> Drop for Pass<C> {
    fn drop(&mut self) {
        self.gate.shared.state.send_if_modified(|state| {
            state.under_way -= 1;
            state.is_held && state.under_way == 0
        });
    }
}

impl<C> Drop for Ticket<'_, C> {
    fn drop(&mut self) {
        self.gate.shared.state.send_if_modified(|state| {
            if let Some(since) = state.waiting.remove(&self.number)
                && state.is_held
            {
                // An operation that stops waiting was held until now.
                state.calls.longest = state.calls.longest.max(since.elapsed());
            }
            false
        });
    }
}

impl<C> Clone for Gate<C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}
