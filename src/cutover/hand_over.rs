//! Hand-over: applies the last changes, compares both sides, and completes the migration.
//!
//! Everything that takes time comes before the source's position is read for the last time. Once all changes up to that position are
//! applied, the router ends the migration without routing anything more, unless it has met another late write: see
//! [`completion`](crate::runtime::completion).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use futures::{FutureExt, try_join};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use crate::catalog::not_migrated::leave_indexes_out;
use crate::checkpoint::CollectionState;
use crate::config::Verification;
use crate::cutover::compare::{self, Comparison};
use crate::cutover::open_transactions::wait_for_transactions;
use crate::cutover::summary::{Sides, summarize};
use crate::cutover::verified::{verified_while_running, watched_until_now};
use crate::engine::messages::{Report, Request, Requests};
use crate::engine::users::Carrier;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{self, ByName, CollectionKind, Namespace, Position, Side};
use crate::report::{CutoverStep, Event, LateWrites, Outcome, Summary};
use crate::runtime::completion::{Offer, Switch};
use crate::runtime::expiry::{self, Form};
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;
use crate::runtime::spans::cutover_step;
use crate::runtime::waiting::{report_waits, report_waits_within};

/// Operation name in events: reads the source's position once nothing may write to it any more.
const CONFIRM: &str = "confirm the position of the last write";

/// Maximum number of times that a collection is compared again because the source has moved, for example because documents expired.
const COMPARISONS: usize = 5;

/// Maximum number of additional rounds because of late writes that the host accepts.
const ROUNDS: usize = 5;

/// Maximum number of collections compared concurrently. Without concurrency, the round trips of many small collections would add up.
const AT_ONCE: usize = 8;

/// Maximum wait for a run that resumes from its checkpoint after an error.
const PATIENCE: Duration = Duration::from_secs(300);

/// The request channel of one run's router.
type Run = mpsc::Sender<Request>;

/// Context of a hand-over.
struct HandOver<'a> {
    engine: &'a Job,
    progress: &'a Arc<RunState>,
    requests: &'a Requests,
}

/// Results of comparisons, their run, and the position up to which everything was applied at that time.
struct Compared {
    run: Run,
    at: Position,
    found: HashMap<Namespace, Comparison>,
}

/// What the rounds of a hand-over know so far.
struct Rounds {
    /// Everything up to here has to be applied.
    position: Position,
    compared: Option<Compared>,
    /// The late writes that were known when the last round began.
    known: LateWrites,
    /// Number of additional rounds.
    count: usize,
}

/// Applies the remaining changes, compares both sides, and ends the run if they are the same. `switch` then goes over to the target.
/// Writers must have been stopped.
///
/// Unless both sides are identical, documents still do not expire on the target afterwards.
///
/// # Errors
/// `OperationsUnderWay` if transactions stay open on the source, [`WritesAfterStop`](ErrorKind::WritesAfterStop), a server error, or the
/// run does not reach the position at which the writers stopped.
///
/// # Cancellation
/// Dropping the future abandons the cutover, unless the checkpoint that marks the migration as complete is already being saved.
pub(crate) async fn hand_over(
    engine: &Job,
    progress: &Arc<RunState>,
    requests: &Requests,
    switch: &mut Option<Box<dyn Switch>>,
) -> Result<Summary> {
    let hand_over = HandOver {
        engine,
        progress,
        requests,
    };
    let result = hand_over.run(switch).await;
    if !matches!(&result, Ok(summary) if summary.outcome == Outcome::Complete) {
        // If expiry cannot be held back now, the next run does it. The error that led here takes precedence.
        progress.expiry.held_back().await;
    }
    result
}

impl HandOver<'_> {
    async fn run(&self, switch: &mut Option<Box<dyn Switch>>) -> Result<Summary> {
        let events = &self.progress.events;
        let transactions = wait_for_transactions(&*self.engine.source, &self.engine.settings.selection, events);
        transactions.instrument(cutover_step("open_transactions")).await?;
        let watched = report_waits(events, Side::Source, CONFIRM, self.watch_for_late_writes());
        let mut rounds = Rounds {
            position: watched.instrument(cutover_step("last_write")).await?,
            compared: None,
            known: LateWrites::default(),
            count: 0,
        };
        loop {
            let Some((run, summary)) = self.round(&mut rounds).await? else {
                self.progress.begin_step(CutoverStep::Drain);
                continue;
            };
            if summary.outcome != Outcome::Complete {
                self.tell(&summary);
                return Ok(summary);
            }
            let offer = Offer {
                summary: Box::new(summary),
                switch: switch.take(),
            };
            self.progress.begin_step(CutoverStep::Finish);
            let complete = self.complete(&run, offer, rounds.known.count);
            let complete = report_waits(events, Side::Target, "save that the migration is complete", complete);
            match complete.instrument(cutover_step("complete")).await? {
                Ended::Complete(summary) => {
                    self.tell(&summary);
                    return Ok(*summary);
                }
                Ended::NotYet(offer) => {
                    *switch = offer.switch;
                    self.progress.begin_step(CutoverStep::Drain);
                }
            }
        }
    }

    /// Applies everything that is known to be written, compares both sides, and summarizes. Returns `None` if another round is needed,
    /// because the run has restarted from its checkpoint or the source was written to again.
    async fn round(&self, rounds: &mut Rounds) -> Result<Option<(Run, Summary)>> {
        let events = &self.progress.events;
        let (report, run) = self.applied_to(rounds.position).await?;
        let late_writes = self.check_late_writes()?;
        if late_writes.count > rounds.known.count {
            rounds.count += 1;
            if rounds.count > ROUNDS {
                return Err(self.refuse(late_writes));
            }
            rounds.known = late_writes;
        }
        self.progress.begin_step(CutoverStep::Compare);
        let shaping = &self.engine.shaping;
        let again = shaping.try_again(&*self.engine.writing_source, report.position);
        report_waits_within(
            events,
            Side::Source,
            "read documents for which rules failed",
            None,
            again,
        )
        .await?;
        let users_changed = self.progress.users.count();
        let look = self.look(&run, &report, &mut rounds.compared);
        let look = report_waits_within(events, Side::Target, "list and compare both sides", None, look);
        let Some(sides) = look.instrument(cutover_step("compare")).await? else {
            return Ok(None);
        };
        let confirmed = report_waits(events, Side::Source, CONFIRM, self.engine.source.sentinel());
        rounds.position = confirmed.instrument(cutover_step("last_write")).await?;
        let (last, same_run) = self.applied_to(rounds.position).await?;
        let unchanged = self.check_late_writes()?.count == rounds.known.count;
        if self.progress.users.count() != users_changed && self.carries_users() {
            return self.another_round_for_users(rounds);
        }
        if !unchanged || !same_run.same_channel(&run) {
            return Ok(None);
        }
        let found = rounds.compared.as_ref().map(|compared| &compared.found);
        let job = (self.engine, &**self.progress);
        let summary = summarize(job, last.position, &report.collections, found, &sides, &rounds.known);
        Ok(Some((run, summary)))
    }

    /// Does everything that takes time: lists both sides, compares them, and lets documents expire on the target. Returns `None` if the run
    /// has ended in the meantime.
    async fn look(&self, run: &Run, report: &Report, compared: &mut Option<Compared>) -> Result<Option<Sides>> {
        let (source, sink) = (&self.engine.source, &self.engine.sink);
        let selection = &self.engine.settings.selection;
        let carrier = Carrier::of(self.engine, self.progress);
        let users = async {
            match &carrier {
                Some(carrier) => carrier.carry().await.map(Some),
                None => Ok(None),
            }
        };
        let (users, mut listed, mut standing, databases, watched, source, target) = try_join!(
            users,
            source.collections_selected(selection),
            sink.collections_selected(selection),
            source.databases(),
            watched_until_now(self.engine, self.progress),
            source.describe(),
            sink.describe()
        )?;
        let rules = &self.engine.settings.collections;
        let without = report
            .collections
            .iter()
            .filter(|state| rules.of(&state.namespace).leaves_indexes_out());
        let (ours, theirs): (HashSet<_>, HashSet<_>) = without.map(|state| (&state.namespace, &state.target)).unzip();
        let indexes_left_out = leave_indexes_out(&mut listed, |name| ours.contains(name));
        leave_indexes_out(&mut standing, |name| theirs.contains(name));
        let by_name = (&model::by_name(&listed), &model::by_name(&standing));
        self.compare(run, report, watched, by_name, compared).await?;
        let commands = expiry::commands(report.collections.iter(), Form::Final);
        match self.progress.expiry.finalize(commands.clone()).await {
            // The target has carried out all commands that it has not refused. The listing is older, so it is updated.
            Ok(refused) => {
                let done: Vec<_> = commands
                    .into_iter()
                    .filter(|command| !refused.contains(command))
                    .collect();
                expiry::apply(&done, &mut standing);
            }
            Err(error) if error.kind() == ErrorKind::Stopped => return Ok(None),
            Err(error) => return Err(error),
        }
        // The way back follows the target from this position, so it sees every later change.
        let handed_over = sink.sentinel().await?;
        Ok(Some(Sides {
            listed,
            standing,
            indexes_left_out,
            databases,
            source,
            target,
            users,
            handed_over,
        }))
    }

    /// Compares the documents of all collections, several at a time. Skips collections that were compared before in this run and cannot
    /// have changed since. Compares again if the source has moved in the meantime.
    ///
    /// Concurrent inserts into a capped collection can leave its documents in another order than the oplog has them in. The source's own
    /// secondaries then differ, too. Nothing is written any more, so such a collection, which is small, is copied once more as it is.
    async fn compare(
        &self,
        run: &Run,
        report: &Report,
        watched: bool,
        by_name: (&ByName<'_>, &ByName<'_>),
        compared: &mut Option<Compared>,
    ) -> Result<()> {
        let late_writes = &self.progress.late_writes;
        let mut found = match compared.take() {
            Some(before) if before.run.same_channel(run) => {
                let mut found = before.found;
                found.retain(|namespace, _| !late_writes.may_have_changed(namespace, before.at));
                found
            }
            _ => HashMap::new(),
        };
        let rules = &self.engine.settings.collections;
        let is_open = |state: &&CollectionState| {
            rules.of(&state.namespace).verification != Verification::None && !found.contains_key(&state.namespace)
        };
        let mut open: Vec<&CollectionState> = report.collections.iter().filter(is_open).collect();
        let mut at = report.position;
        let verified = if watched {
            verified_while_running(self.engine, self.progress, self.requests, (&open, at), by_name).await?
        } else {
            Default::default()
        };
        open.retain(|state| {
            let is_verified = verified.contains(&state.id);
            if is_verified {
                found.insert(state.namespace.clone(), Comparison::default());
            }
            !is_verified
        });
        for attempt in 0..=COMPARISONS {
            let comparing = open.iter().map(|state| self.compare_one(state).boxed());
            let comparing: Vec<_> = comparing.collect();
            let results: Vec<Comparison> = stream::iter(comparing).buffered(AT_ONCE).try_collect().await?;
            let mut differing = Vec::new();
            for (state, result) in open.into_iter().zip(results) {
                if !result.differences.is_empty() {
                    differing.push(state);
                }
                found.insert(state.namespace.clone(), result);
            }
            let capped = differing.iter().filter(|state| state.kind == CollectionKind::Capped);
            let again: Vec<&CollectionState> = capped.copied().filter(|_| attempt == 0).collect();
            let newest = match differing.is_empty() {
                true => at,
                // Not a sentinel, because that moves the source itself.
                false => self.engine.source.read_position().await?,
            };
            open = if newest > at { differing } else { again.clone() };
            if open.is_empty() {
                break;
            }
            for state in again {
                self.copy_again(state).await?;
            }
            at = self.applied_to(newest).await?.0.position;
            self.check_late_writes()?;
        }
        *compared = Some(Compared {
            run: run.clone(),
            at: report.position,
            found,
        });
        Ok(())
    }

    /// Users have changed on the source while they were compared, or since.
    fn another_round_for_users(&self, rounds: &mut Rounds) -> Result<Option<(Run, Summary)>> {
        rounds.count += 1;
        if rounds.count <= ROUNDS {
            return Ok(None);
        }
        let message = "users and roles of the source keep changing; see that nobody changes them, and cut over again";
        Err(Error::new(ErrorKind::WritesAfterStop, "cut over", message))
    }

    fn carries_users(&self) -> bool {
        self.engine.settings.users.selection().is_some()
    }

    async fn compare_one(&self, state: &CollectionState) -> Result<Comparison> {
        compare::compare_documents(self.engine, state).await
    }

    async fn copy_again(&self, state: &CollectionState) -> Result<()> {
        let sender = self.requests.borrow().clone();
        let (reply, begun) = oneshot::channel();
        if let Some(sender) = sender
            && sender
                .send(Request::CopyAgain {
                    collection: state.id,
                    reply,
                })
                .await
                .is_ok()
        {
            // This fails if the run has ended. What follows waits for the copy, or for the next run.
            let _ = begun.await;
        }
        Ok(())
    }

    fn tell(&self, summary: &Summary) {
        for collection in &summary.collections {
            self.progress.events.send(Event::Verified {
                namespace: collection.namespace.clone(),
                identical: collection.differences.is_empty(),
            });
        }
        if summary.late_writes.count > 0 {
            self.progress.events.send(Event::WritesAfterStop {
                writes: summary.late_writes.clone(),
                accepted: true,
            });
        }
    }

    /// Ends the run with the checkpoint that marks the migration as complete, unless the run has ended or there are more late writes than
    /// `late_writes`.
    ///
    /// # Errors
    /// The checkpoint could not be saved.
    async fn complete(&self, run: &Run, offer: Offer, late_writes: u64) -> Result<Ended> {
        let completion = &self.progress.completion;
        completion.offer(offer);
        let (reply, done) = oneshot::channel();
        if run.send(Request::Complete { late_writes, reply }).await.is_ok() {
            // The router drops the reply in any case.
            let _ = done.await;
        }
        match completion.take_back() {
            Some(offer) => Ok(Ended::NotYet(offer)),
            None => completion
                .known()
                .await
                .map(|summary| Ended::Complete(Box::new(summary))),
        }
    }

    /// Treats every later write to the source as a late write. Returns the position from which on this applies.
    async fn watch_for_late_writes(&self) -> Result<Position> {
        let started = Instant::now();
        loop {
            let sender = self.requests.borrow().clone();
            if let Some(sender) = sender {
                let (reply, stopped) = oneshot::channel();
                // Both fail if the run has ended. It then resumes from its checkpoint, and this loop waits for that.
                if sender.send(Request::WatchForLateWrites { reply }).await.is_ok()
                    && let Ok(stopped) = stopped.await
                {
                    match stopped {
                        // The run ended during the request to the source.
                        Err(error) if error.kind() == ErrorKind::Stopped => {}
                        stopped => return stopped,
                    }
                }
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::new(
                    ErrorKind::Connection,
                    "cut over",
                    "the run did not resume in time",
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the late writes so far. If the host does not accept them, they end the cutover.
    fn check_late_writes(&self) -> Result<LateWrites> {
        let writes = self.progress.late_writes.found();
        if writes.count == 0 || self.engine.settings.accept_late_writes {
            return Ok(writes);
        }
        Err(self.refuse(writes))
    }

    /// Returns the error for late writes that end the cutover, because none are accepted or because they do not stop.
    fn refuse(&self, writes: LateWrites) -> Error {
        let error = writes.to_error(self.engine.settings.accept_late_writes);
        self.progress.events.send(Event::WritesAfterStop {
            writes,
            accepted: false,
        });
        error
    }

    /// Returns the state of the migration once everything is copied and all changes up to `position` are applied and durable. Also returns
    /// the run that has reported it.
    async fn applied_to(&self, position: Position) -> Result<(Report, Run)> {
        let applied = async {
            loop {
                let sender = self.requests.borrow().clone();
                if let Some(sender) = sender {
                    let (reply, report) = oneshot::channel();
                    // Both fail if the run has ended. It then resumes from its checkpoint, and this loop waits for that.
                    if sender.send(Request::Report { at: position, reply }).await.is_ok()
                        && let Ok(report) = report.await
                    {
                        return (report, sender);
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let events = &self.progress.events;
        let applied = timeout(PATIENCE, applied).instrument(cutover_step("apply"));
        let applied = report_waits_within(events, Side::Target, "apply the last changes", Some(PATIENCE), applied);
        applied.await.map_err(|_| {
            Error::new(
                ErrorKind::Connection,
                "cut over",
                "the remaining changes could not be applied in time",
            )
        })
    }
}

/// Outcome of an offer to complete the migration.
enum Ended {
    Complete(Box<Summary>),
    /// The offer was not used.
    NotYet(Offer),
}
