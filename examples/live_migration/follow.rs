//! Following a run: its events, its status, the user's commands, and the hand-over.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use mongoferry::{Error, ErrorKind, Event, MigrationHandle, Phase, Result, Summary, VerifyReport};

use crate::collections::Row;
use crate::ending::STOPPED;
use crate::guide;
use crate::input::{COMMANDS, Wish};
use crate::session::Session;

/// Maximum number of attempts of a hand-over that an election or a lost connection interrupts.
const ATTEMPTS: usize = 5;

/// Why following a run has ended.
pub enum End {
    HandedOver(Box<Summary>, Duration),
    /// The run is ready and was to stop there, or the user stopped it.
    Stop(u8),
    /// The hand-over failed.
    Failed(Error),
    /// The run ended by itself and knows why.
    Over,
}

/// What is under way in a run.
struct Course<'r> {
    run: &'r MigrationHandle,
    /// The hand-over, or the moment to stop.
    awaited: Option<LocalBoxFuture<'r, Result<End>>>,
    /// How to stop the writers. Taken by the hand-over.
    stop_writes: Option<LocalBoxFuture<'r, ()>>,
    pausing: Option<LocalBoxFuture<'r, Result<()>>>,
    /// Other commands that take a while.
    commands: FuturesUnordered<LocalBoxFuture<'r, Done>>,
    verifying: bool,
    /// The last comparison that the user asked for.
    report: Option<Rc<VerifyReport>>,
}

/// The end of a command that took a while.
enum Done {
    Verified(Result<VerifyReport>),
    /// The command, and what to reply.
    Other(&'static str, Result<String>),
}

/// What has happened.
enum Happened {
    End(Result<End>),
    Paused(Result<()>),
    Done(Done),
    Tick,
    Event(Event),
    Wish(Wish),
}

impl Session<'_> {
    /// Follows a run until it is handed over, stopped by the user, or failed.
    pub async fn follow<'r>(
        &mut self,
        run: &'r MigrationHandle,
        events: &mut (impl Stream<Item = Event> + Unpin),
        stop_writes: LocalBoxFuture<'r, ()>,
    ) -> End {
        let mut course = Course::new(run, stop_writes);
        if self.arguments.stop_after.is_some() {
            let ready = run.ready_to_cut_over().map(|ready| ready.map(|()| End::Stop(STOPPED)));
            course.awaited = Some(ready.boxed_local());
        } else if !self.manual || self.cutover_wanted {
            course.hand_over();
        }
        let mut tick = self.console.interval();
        loop {
            let happened = tokio::select! {
                end = pending(&mut course.awaited) => Happened::End(end),
                paused = pending(&mut course.pausing) => Happened::Paused(paused),
                Some(done) = course.commands.next() => Happened::Done(done),
                _ = tick.tick() => Happened::Tick,
                Some(event) = events.next() => Happened::Event(event),
                wish = self.input.next() => Happened::Wish(wish),
            };
            if let Some(end) = self.react(&mut course, happened) {
                return end;
            }
            self.console.set_next(guide::next(self.last.phase, self.situation()));
            self.console.set_typed(self.input.typed());
        }
    }

    /// Returns the end of following the run, if it is that.
    fn react(&mut self, course: &mut Course<'_>, happened: Happened) -> Option<End> {
        let run = course.run;
        match happened {
            Happened::End(Ok(end)) => return Some(end),
            Happened::End(Err(_)) if run.status().phase == Phase::Failed => return Some(End::Over),
            Happened::End(Err(error)) if error.kind() == ErrorKind::WritesAfterStop && self.manual => {
                // The user can stop the remaining writers, and enter the command again.
                course.awaited = None;
                course.stop_writes = Some(std::future::ready(()).boxed_local());
                self.cutover_wanted = false;
                self.console.reply("cutover", false, &error.report());
            }
            Happened::End(Err(error)) => return Some(End::Failed(error)),
            Happened::Paused(paused) => {
                course.pausing = None;
                self.answer("pause", paused.map(|()| "paused".to_owned()));
            }
            Happened::Done(Done::Verified(found)) => {
                course.verifying = false;
                match found {
                    Ok(found) => {
                        self.console.report(&found);
                        course.report = Some(Rc::new(found));
                    }
                    Err(error) => self.console.reply("verify", false, &error.report()),
                }
            }
            Happened::Done(Done::Other(command, result)) => self.answer(command, result),
            Happened::Tick => {
                self.last = run.status();
                let rows = || run.collections().iter().filter_map(|status| Row::of(status)).collect();
                self.console.status(&self.last, rows);
                if self.last.phase == Phase::Failed {
                    return Some(End::Over);
                }
            }
            Happened::Event(event) => {
                self.last = run.status();
                self.say(&event);
            }
            Happened::Wish(wish) => return self.command(course, wish),
        }
        None
    }

    fn command<'r>(&mut self, course: &mut Course<'r>, wish: Wish) -> Option<End> {
        let run = course.run;
        match wish {
            Wish::Typed => {}
            Wish::Stop(exit) => return Some(End::Stop(exit)),
            Wish::Status => self.console.status_now(&run.status()),
            Wish::Cutover if run.status().phase == Phase::Paused => {
                self.console.reply("cutover", false, "resume the run first");
            }
            Wish::Cutover if self.arguments.stop_after.is_none() && course.hand_over() => {
                self.cutover_wanted = true;
                let message = "starts as soon as everything is copied and the lag is small";
                self.console.reply("cutover", true, message);
            }
            Wish::Cutover => {
                let message = "it is already in progress, or the run stops before it";
                self.console.reply("cutover", false, message);
            }
            Wish::Pause if course.pausing.is_some() => {
                self.console.reply("pause", false, "the run is already pausing");
            }
            Wish::Pause => course.pausing = Some(run.pause().boxed_local()),
            Wish::Resume => {
                // A resume cancels a pause that has not completed.
                let cancelled = course.pausing.take().is_some();
                match run.resume() {
                    Err(_) if cancelled => self.console.reply("resume", true, "the run is running"),
                    resumed => self.answer("resume", resumed.map(|()| "the run is running".to_owned())),
                }
            }
            Wish::Extend(by) => course.begin(async move {
                let extended = run.extend(by).await;
                Done::Other("extend", extended.map(|()| "the cutover window is extended".to_owned()))
            }),
            Wish::Verify if course.verifying => {
                self.console
                    .reply("verify", false, "both sides are already being compared");
            }
            Wish::Verify => {
                course.verifying = true;
                course.begin(async { Done::Verified(run.verify(&[]).await) });
                self.console.reply("verify", true, "both sides are being compared");
            }
            Wish::Repair => match course.report.clone() {
                Some(found) => course.begin(async move {
                    let repaired = run.repair(&found).await;
                    Done::Other(
                        "repair",
                        repaired.map(|count| format!("{count} documents are rewritten")),
                    )
                }),
                None => self
                    .console
                    .reply("repair", false, "enter `verify` first, and wait for its report"),
            },
            Wish::Throttle(throttle) => {
                run.throttle(throttle);
                self.console.reply("throttle", true, "takes effect within a second");
            }
            Wish::Unknown(line) => self.console.reply(&line, false, COMMANDS),
        }
        None
    }

    /// Replies to a command what the library has answered.
    fn answer(&mut self, command: &str, result: Result<String>) {
        match result {
            Ok(message) => self.console.reply(command, true, &message),
            Err(error) => self.console.reply(command, false, &error.report()),
        }
    }
}

impl<'r> Course<'r> {
    fn new(run: &'r MigrationHandle, stop_writes: LocalBoxFuture<'r, ()>) -> Self {
        Self {
            run,
            awaited: None,
            stop_writes: Some(stop_writes),
            pausing: None,
            commands: FuturesUnordered::new(),
            verifying: false,
            report: None,
        }
    }

    /// Begins the hand-over. Returns `false` if one has begun before.
    fn hand_over(&mut self) -> bool {
        let Some(stop_writes) = self.stop_writes.take() else {
            return false;
        };
        self.awaited = Some(hand_over(self.run, stop_writes).boxed_local());
        true
    }

    /// Begins a command that takes a while.
    fn begin(&mut self, command: impl Future<Output = Done> + 'r) {
        self.commands.push(command.boxed_local());
    }
}

/// Awaits a future if there is one.
async fn pending<T>(future: &mut Option<LocalBoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Hands over as soon as the lag is small. Retries if an election or a lost connection interrupts the hand-over.
async fn hand_over(run: &MigrationHandle, stop_writes: LocalBoxFuture<'_, ()>) -> Result<End> {
    let mut stop_writes = Some(stop_writes);
    let mut stopped = None;
    let mut attempt = 1;
    loop {
        let cutover = run.cutover(async {
            stopped.get_or_insert_with(Instant::now);
            if let Some(stop_writes) = stop_writes.take() {
                stop_writes.await;
            }
        });
        match cutover.await {
            Ok(summary) => {
                let downtime = stopped.map(|since| since.elapsed()).unwrap_or_default();
                return Ok(End::HandedOver(Box::new(summary), downtime));
            }
            Err(error) if error.is_retryable() && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
