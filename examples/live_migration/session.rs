//! One migration in the way a host program runs it: connect, preflight, start, follow, hand over.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use mongoferry::{
    Error, ErrorKind, Event, Migration, MigrationHandle, Outcome, Phase, Result, Status, Summary, VerifyReport, Wait,
};
use tokio::sync::mpsc;

use crate::arguments::{Arguments, StopAfter};
use crate::assembly::{Waits, assemble, assemble_back, assemble_back_of};
use crate::console::Console;
use crate::ending::{Ending, STOPPED};
use crate::input::{Input, Wish};

/// Maximum number of attempts of a hand-over that an election or a lost connection interrupts.
const ATTEMPTS: usize = 5;

/// Everything that a migration on the command line works with.
pub struct Session<'a> {
    pub arguments: &'a Arguments,
    pub console: &'a mut Console,
    pub input: Input,
    /// Waits that occur while there is no run to report them.
    waits: (Waits, mpsc::Receiver<Wait>),
    /// Last status of the run. It is shown while there is no run.
    last: Status,
    /// Whether `cutover` was entered before the run existed.
    cutover_wanted: bool,
    /// Whether the cutover waits for the user's command.
    manual: bool,
}

/// Why following a run has ended.
enum End {
    HandedOver(Box<Summary>, Duration),
    /// The run is ready and was to stop there, or the user stopped it.
    Stop(u8),
    /// The hand-over failed.
    Failed(Error),
    /// The run ended by itself and knows why.
    Over,
}

impl<'a> Session<'a> {
    pub fn new(arguments: &'a Arguments, console: &'a mut Console, input: Input) -> Self {
        Self {
            arguments,
            console,
            input,
            waits: mpsc::channel(16),
            last: Status::default(),
            cutover_wanted: false,
            manual: arguments.manual_cutover,
        }
    }

    /// Runs the migration, and the way back if requested. `stop_writes` is awaited at the cutover. Once it has
    /// returned, nothing writes to the source any more.
    pub async fn migrate(&mut self, source: &str, target: &str, stop_writes: LocalBoxFuture<'_, ()>) -> Ending {
        let began = Instant::now();
        let mut ending = match self.there_and_back(source, target, stop_writes).await {
            Ok(ending) => ending,
            Err(ending) => *ending,
        };
        ending.took = Some(began.elapsed());
        ending
    }

    async fn there_and_back(
        &mut self,
        source: &str,
        target: &str,
        stop_writes: LocalBoxFuture<'_, ()>,
    ) -> Result<Ending, Box<Ending>> {
        let (arguments, waits) = (self.arguments, self.waits.0.clone());
        let migration = self
            .while_informing(assemble(arguments, source, target, &waits))
            .await?;
        let mut back = None;
        if arguments.reverse {
            // An earlier process may already have completed the first direction.
            let earlier = assemble_back_of(arguments, &migration, source, target, &waits);
            back = self.while_informing(earlier).await?;
        }
        let back = match back {
            Some(back) => back,
            None => {
                let began = Instant::now();
                let mut ending = self.migrate_one_way(migration, stop_writes).await?;
                let Some(way_back) = ending.take_way_back().filter(|_| arguments.reverse) else {
                    return Ok(ending);
                };
                ending.took = Some(began.elapsed());
                self.console.summary(&ending);
                let back = assemble_back(arguments, &way_back, source, target, &waits);
                self.while_informing(back).await?
            }
        };
        self.console.set_reversed();
        self.console
            .note("following the target now; `cutover` hands back to the source, `abandon` stops here");
        (self.manual, self.cutover_wanted) = (true, false);
        self.last = Status::default();
        // As with any manual cutover, whoever enters the command has already stopped the applications.
        self.migrate_one_way(back, Box::pin(std::future::ready(()))).await
    }

    async fn migrate_one_way(
        &mut self,
        migration: Migration,
        stop_writes: LocalBoxFuture<'_, ()>,
    ) -> Result<Ending, Box<Ending>> {
        let arguments = self.arguments;
        let plan = self.while_informing(migration.preflight()).await?;
        self.console.plan(&plan);
        if arguments.stop_after == Some(StopAfter::Preflight) && plan.blockers().next().is_none() {
            return Ok(Ending {
                not_migrated: plan.not_migrated,
                ..Ending::stopped(STOPPED)
            });
        }
        // `start` refuses by itself if there are blockers.
        let started = self.while_informing(migration.start()).await;
        let run = started.map_err(|ending| {
            Box::new(Ending {
                not_migrated: plan.not_migrated.clone(),
                ..*ending
            })
        })?;
        let mut events = run.events();
        let end = self.follow(&run, &mut events, stop_writes).await;
        self.last = run.status();
        let mut ending = match end {
            End::HandedOver(summary, downtime) => {
                if summary.outcome != Outcome::Complete {
                    // The run would continue. People have to understand the differences first, and can start it again.
                    let _ = self.while_informing(run.abandon().map(Ok)).await;
                }
                self.keep(&summary);
                Ending {
                    downtime: Some(downtime),
                    ..Ending::handed_over(*summary)
                }
            }
            End::Stop(exit) => {
                self.console.note("stopping; the checkpoint is kept");
                // A user who stops a second time does not want to wait for work in progress.
                let _ = self.while_informing(run.abandon().map(Ok)).await;
                Ending::stopped(exit)
            }
            End::Failed(error) => {
                let _ = self.while_informing(run.abandon().map(Ok)).await;
                Ending::of_error(error)
            }
            End::Over => match run.wait().await {
                Ok(()) => Ending::failed(
                    ErrorKind::Stopped,
                    "run the migration",
                    "it ended before it was complete",
                ),
                Err(error) => Ending::of_error(error),
            },
        };
        while let Some(Some(event)) = events.next().now_or_never() {
            self.say(&event);
        }
        if ending.not_migrated.is_empty() {
            ending.not_migrated = plan.not_migrated;
        }
        Ok(ending)
    }

    /// Follows a run until it is handed over, stopped by the user, or failed.
    async fn follow(
        &mut self,
        run: &MigrationHandle,
        events: &mut (impl futures::Stream<Item = Event> + Unpin),
        stop_writes: LocalBoxFuture<'_, ()>,
    ) -> End {
        let mut stop_writes = Some(stop_writes);
        let mut awaited: Option<LocalBoxFuture<'_, Result<End>>> = if self.arguments.stop_after.is_some() {
            Some(
                run.ready_to_cut_over()
                    .map(|ready| ready.map(|()| End::Stop(STOPPED)))
                    .boxed_local(),
            )
        } else if self.manual && !self.cutover_wanted {
            None
        } else {
            stop_writes
                .take()
                .map(|stop_writes| hand_over(run, stop_writes).boxed_local())
        };
        let mut pausing: Option<LocalBoxFuture<'_, Result<()>>> = None;
        let mut verifying: Option<LocalBoxFuture<'_, Result<VerifyReport>>> = None;
        let mut report = None;
        let mut tick = self.console.interval();
        loop {
            let awaited_end = async {
                match &mut awaited {
                    Some(awaited) => awaited.await,
                    None => std::future::pending().await,
                }
            };
            let paused = async {
                match &mut pausing {
                    Some(pausing) => pausing.await,
                    None => std::future::pending().await,
                }
            };
            let verified = async {
                match &mut verifying {
                    Some(verifying) => verifying.await,
                    None => std::future::pending().await,
                }
            };
            let wish = tokio::select! {
                verified = verified => {
                    verifying = None;
                    match verified {
                        Ok(found) => {
                            self.console.report(&found);
                            report = Some(found);
                        }
                        Err(error) => self.console.reply("verify", false, &error.report()),
                    }
                    continue;
                }
                end = awaited_end => match end {
                    Ok(end) => return end,
                    Err(_) if run.status().phase == Phase::Failed => return End::Over,
                    Err(error) if error.kind() == ErrorKind::WritesAfterStop && self.manual => {
                        // The user can stop the remaining writers, and enter the command again.
                        (awaited, stop_writes) = (None, Some(std::future::ready(()).boxed_local()));
                        self.console.reply("cutover", false, &error.report());
                        continue;
                    }
                    Err(error) => return End::Failed(error),
                },
                paused = paused => {
                    pausing = None;
                    self.console.reply("pause", paused.is_ok(), "paused");
                    continue;
                }
                _ = tick.tick() => {
                    self.last = run.status();
                    self.console.status(&self.last);
                    if self.last.phase == Phase::Failed {
                        return End::Over;
                    }
                    continue;
                }
                Some(event) = events.next() => {
                    self.last = run.status();
                    self.say(&event);
                    continue;
                }
                wish = self.input.next() => wish,
            };
            let cutting_over = run.status().phase == Phase::Cutover;
            match wish {
                Wish::Stop(exit) => return End::Stop(exit),
                Wish::Status => self.console.status_now(&run.status()),
                Wish::Cutover => {
                    let accepted = self.arguments.stop_after.is_none() && stop_writes.is_some();
                    if let (true, Some(stop_writes)) = (accepted, stop_writes.take()) {
                        awaited = Some(hand_over(run, stop_writes).boxed_local());
                        self.console.reply(
                            "cutover",
                            true,
                            "starts as soon as everything is copied and the lag is small",
                        );
                    } else {
                        self.console.reply(
                            "cutover",
                            false,
                            "it is already in progress, or the run stops before it",
                        );
                    }
                }
                Wish::Pause if cutting_over || pausing.is_some() => {
                    self.console
                        .reply("pause", false, "the run is handing over, or is already pausing");
                }
                Wish::Pause => pausing = Some(run.pause().boxed_local()),
                Wish::Resume => {
                    // A resume cancels a pause that has not completed.
                    pausing = None;
                    self.console.reply("resume", run.resume().is_ok(), "the run is running");
                }
                Wish::Extend(by) => match run.extend(by).await {
                    Ok(()) => self.console.reply("extend", true, "the cutover window is extended"),
                    Err(error) => self.console.reply("extend", false, &error.report()),
                },
                Wish::Verify => {
                    verifying = Some(run.verify(&[]).boxed_local());
                    self.console.reply("verify", true, "both sides are being compared");
                }
                Wish::Repair => match &report {
                    Some(found) => match run.repair(found).await {
                        Ok(count) => self
                            .console
                            .reply("repair", true, &format!("{count} documents are rewritten")),
                        Err(error) => self.console.reply("repair", false, &error.report()),
                    },
                    None => self
                        .console
                        .reply("repair", false, "enter `verify` first, and wait for its report"),
                },
                Wish::Throttle(throttle) => {
                    run.throttle(throttle);
                    self.console.reply("throttle", true, "takes effect within a second");
                }
                Wish::Unknown(line) => {
                    self.console.reply(
                        &line,
                        false,
                        "the commands are cutover, pause, resume, status, verify, repair, abandon, extend HOURS, and throttle BYTES OPERATIONS",
                    );
                }
            }
        }
    }

    /// Awaits a step during which there is no run to report progress. Keeps reporting meanwhile, and lets the user stop
    /// the step.
    pub async fn while_informing<T>(&mut self, step: impl Future<Output = Result<T>>) -> Result<T, Box<Ending>> {
        let mut step = pin!(step);
        let mut tick = self.console.interval();
        loop {
            tokio::select! {
                done = &mut step => return done.map_err(|error| Box::new(Ending::of_error(error))),
                _ = tick.tick() => self.console.status_now(&self.last),
                Some(wait) = self.waits.1.recv() => self.console.wait(&wait),
                wish = self.input.next() => match wish {
                    Wish::Stop(exit) => return Err(Box::new(Ending::stopped(exit))),
                    Wish::Status => self.console.status_now(&self.last),
                    Wish::Cutover => {
                        self.cutover_wanted = true;
                        self.console.reply("cutover", true, "starts as soon as everything is copied and the lag is small");
                    }
                    wish => self.console.reply(wish.name(), false, "no run is active"),
                },
            }
        }
    }

    /// Writes the certificate if requested. A failure to write it does not make the hand-over a failure.
    fn keep(&mut self, summary: &Summary) {
        let (Some(path), Some(certificate)) = (&self.arguments.certificate, &summary.certificate) else {
            return;
        };
        let kept = match certificate.encode() {
            Ok(bytes) => std::fs::write(path, bytes.into_bytes()).map_err(|error| error.to_string()),
            Err(error) => Err(error.report()),
        };
        self.console.note(&match kept {
            Ok(()) => format!("the certificate is in {}", path.display()),
            Err(error) => format!("the certificate cannot be written: {error}"),
        });
    }

    /// Reports an event. A change of phase is also reported as a status.
    fn say(&mut self, event: &Event) {
        self.console.event(event);
        if let Event::PhaseChanged { phase } = event {
            // The run may be ahead of its events, but the reader should see every phase.
            self.last.phase = *phase;
            self.console.status_now(&self.last);
        }
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
