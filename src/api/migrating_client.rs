//! A client that the applications of a host program use instead of one of their own: it goes over to the target at the cutover.

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

/// Gives out the client of the replica set that the data is on: the source's before a cutover, the target's after it. Clones are one.
///
/// Each operation goes through [`enter`](Self::enter) or [`with`](Self::with). [`cutover`](Self::cutover) holds new ones back, waits for
/// those under way, hands over, and lets all go on, with the target if the hand-over is complete and else with the source. So the
/// applications notice no more than a pause, and need no change but this one.
///
/// ```no_run
/// # use std::time::Duration;
/// # use bson::{Document, doc};
/// # use mongoferry::{MigratingClient, MigrationHandle, Outcome};
/// # async fn example(source: mongodb::Client, target: mongodb::Client, run: MigrationHandle) -> Result<(), Box<dyn std::error::Error>> {
/// let clients = MigratingClient::new(source, target);
///
/// // Wherever the application works with the database:
/// let orders = clients.enter().await;
/// orders.database("shop").collection("orders").insert_one(doc! { "n": 1 }).await?;
/// drop(orders);
///
/// // Wherever it decides to go over:
/// let cutover = clients.cutover(&run, Duration::from_secs(5)).await?;
/// if cutover.summary.outcome == Outcome::Complete {
///     println!("{} calls were held, for {:?} at most", cutover.held.calls, cutover.held.longest);
/// }
/// # Ok(())
/// # }
/// ```
///
/// An operation is everything between entering and the drop of the guard: a cursor that is read on, a transaction with all its statements,
/// a change stream. Whatever outlives its guard (a `Database` that was made from it and is kept, for instance) still leads to where it came
/// from. An operation must not enter again before it ends: while a cutover waits for it, it would wait for the cutover, until that gives up.
#[derive(Clone)]
pub struct MigratingClient {
    gate: Gate<Client>,
}

/// A client that is given out for one operation. It dereferences to the driver's client.
#[must_use = "the operation ends when this is dropped"]
pub struct ClientGuard {
    pass: Pass<Client>,
}

/// What a cutover through a [`MigratingClient`] came to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClientCutover {
    /// What the run came to.
    pub summary: Summary,
    /// What the applications noticed of it.
    pub held: HeldCalls,
}

/// The operations that had to wait for a cutover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldCalls {
    /// How many there were.
    pub calls: u64,
    /// For how long the one waited that waited longest.
    pub longest: Duration,
}

impl MigratingClient {
    /// Gives `source` out until a cutover is complete, and `target` from then on.
    pub fn new(source: Client, target: Client) -> Self {
        Self {
            gate: Gate::new(source, target),
        }
    }

    /// The client for one operation, which ends when the guard is dropped. While a cutover holds new operations back this waits.
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
    pub async fn enter(&self) -> ClientGuard {
        ClientGuard {
            pass: self.gate.enter().await,
        }
    }

    /// As [`enter`](Self::enter), for an operation that is a function of the client.
    ///
    /// # Cancellation
    /// Dropping the future drops the operation's.
    pub async fn with<T, F>(&self, operation: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let guard = self.enter().await;
        let done = operation(Client::clone(&guard)).await;
        drop(guard);
        done
    }

    /// Which client is given out now, or will be when the operations that are held go on.
    pub fn side(&self) -> Side {
        self.gate.shared.state.borrow().side
    }

    /// The operations that the last cutover has held back so far, whatever became of it.
    pub fn held_calls(&self) -> HeldCalls {
        self.gate.shared.state.borrow().calls
    }

    /// Hands over, as [`MigrationHandle::cutover`] does. Once the run is ready, new operations are held back, and those under way are
    /// awaited, for `drain` at most. When the hand-over is complete, all that are held go on with the other client; with any other outcome
    /// or an error they go on with the one they had.
    ///
    /// With `source` and `target` as [`new`](Self::new) got them the run must lead from the client that is given out now to the other one.
    /// After a hand-over that is the run which [takes it back](Summary::reverse).
    ///
    /// How long the comparison takes during which calls are held depends on the data; a host that wants to bound it drops the future. The
    /// operations go on in the moment in which the checkpoint is durable that says that the migration is complete, whatever the host's hooks
    /// do afterwards.
    ///
    /// # Errors
    /// [`OperationsUnderWay`](ErrorKind::OperationsUnderWay) when operations did not end in time, [`WrongPhase`](ErrorKind::WrongPhase) while
    /// another cutover holds them, else as `MigrationHandle::cutover`. In each case the run goes on if it can, and `cutover` may be called
    /// again.
    ///
    /// # Cancellation
    /// Dropping the future lets the operations go on with the client they had, and is for the run as dropping that of
    /// `MigrationHandle::cutover`. Only while the checkpoint is being saved that says that the migration is complete are they held until that
    /// is decided: [`side`](Self::side) is the other one from just before the checkpoint can say so, and back where it could not be saved.
    /// When the handle is dropped in this very moment they go on with the other client, to which the checkpoint may lead.
    pub async fn cutover(&self, run: &MigrationHandle, drain: Duration) -> Result<ClientCutover> {
        let cut_over = |stop_writes, switch: TakeSwitch| run.cutover_with(stop_writes, switch);
        let (summary, held) = self.gate.hand_over(drain, cut_over).await?;
        Ok(ClientCutover { summary, held })
    }
}

/// Without the clients, whose options hold credentials.
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

/// Two of something, of which one is given out at a time. Clones are one gate.
struct Gate<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    source: C,
    target: C,
    /// Whoever waits is told only of what ends a wait.
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    /// Which is given out, or will be when nothing is held any more.
    side: Side,
    /// Whether new operations wait.
    is_held: bool,
    /// How many operations are under way.
    under_way: usize,
    /// Operations that wait, in the order they came, and since when.
    waiting: BTreeMap<u64, Instant>,
    next_ticket: u64,
    calls: HeldCalls,
}

/// The right to work with one side.
struct Pass<C> {
    gate: Gate<C>,
    side: Side,
}

/// A place among those that wait.
struct Ticket<'a, C> {
    gate: &'a Gate<C>,
    number: u64,
}

/// New operations are held back as long as this lives.
struct Hold<C> {
    gate: Gate<C>,
}

/// What takes the hold over from whoever stops the writes: it decides which side the operations go on with.
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
            // It fails only without a sender, which this gate is.
            let _ = state.wait_for(|state| !state.is_held).await;
            // The next cutover may have been faster.
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

    /// Holds new operations back, and waits for those under way.
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
                "{under_way} operations of the applications have not ended within {limit:?}; all go on as before: give them more time, or \
                 find out what takes so long, and cut over again"
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
                // Those that a cutover before this one has let go on, and that have not done so yet, wait on.
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
                "another cutover through this client is under way already: wait for it to end, or drop its future first",
            )
        })
    }

    /// Awaits `cut_over`, which is given what stops the writes, and what takes over the operations that are held from then on.
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
        // What nobody takes is dropped with both, which lets the operations go on.
        let held: Arc<Mutex<Option<Hold<C>>>> = Arc::default();
        let (gate, hold) = (self.clone(), Arc::clone(&held));
        let stop_writes = async move {
            match gate.stop(limit).await {
                Ok(stopped) => *hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopped),
                Err(error) => {
                    let _ = refuse.send(error);
                    // The cutover must not go on; it is dropped.
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
    /// The operations will go on with the other side.
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
                // Whoever gives up has been held until now.
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
