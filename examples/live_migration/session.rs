//! One migration in the way a host program runs it: connect, preflight, start, follow, hand over.

use std::future::Future;
use std::pin::pin;
use std::time::Instant;

use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use mongoferry::{
    Certificate, ErrorKind, Event, FindingCode, Migration, MigrationHandle, Outcome, Plan, Result, Status, Wait,
};
use tokio::sync::mpsc;

use crate::arguments::{Arguments, StopAfter};
use crate::assembly::{Waits, assemble, assemble_back, assemble_back_of};
use crate::console::Console;
use crate::ending::{Ending, STOPPED};
use crate::follow::End;
use crate::guide::Situation;
use crate::input::{COMMANDS, Input, Wish};

/// Everything that a migration on the command line works with.
pub struct Session<'a> {
    pub arguments: &'a Arguments,
    pub console: &'a mut Console,
    pub input: Input,
    /// Waits that occur while there is no run to report them.
    waits: (Waits, mpsc::Receiver<Wait>),
    /// Last status of the run. It is shown while there is no run.
    pub last: Status,
    /// Whether `cutover` was entered before the run existed.
    pub cutover_wanted: bool,
    /// Whether the cutover waits for the user's command.
    pub manual: bool,
    /// Whether the first direction is complete, so that the applications may be on the target.
    reversed: bool,
}

const CONNECT: &str = "connecting to the source and to the target";

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
            reversed: false,
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
        ending.reversed = self.reversed;
        ending.was_to_stop = self.arguments.stop_after.is_some();
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
            .while_informing(CONNECT, assemble(arguments, source, target, &waits))
            .await?;
        let mut back = None;
        if arguments.reverse {
            // An earlier process may already have completed the first direction.
            let earlier = assemble_back_of(arguments, &migration, source, target, &waits);
            back = self
                .while_informing("looking for an earlier hand-over", earlier)
                .await?;
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
                self.reversed = true;
                let back = assemble_back(arguments, &way_back, source, target, &waits);
                self.while_informing("connecting for the way back", back).await?
            }
        };
        self.reversed = true;
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
        let step = "checking both sides and listing the source";
        let plan = self.while_informing(step, migration.preflight()).await?;
        if is_complete(&plan) {
            self.console.plan_of_complete(&plan);
            return self.complete_before(migration).await;
        }
        self.console.plan(&plan);
        if arguments.stop_after == Some(StopAfter::Preflight) && plan.blockers().next().is_none() {
            return Ok(Ending {
                not_migrated: plan.not_migrated,
                ..Ending::stopped(STOPPED)
            });
        }
        // `start` refuses by itself if there are blockers.
        let started = self.while_informing("starting the run", migration.start()).await;
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
                    let _ = self.abandon(&run).await;
                }
                if let Some(certificate) = &summary.certificate {
                    self.keep(certificate);
                }
                Ending {
                    downtime: Some(downtime),
                    ..Ending::handed_over(*summary)
                }
            }
            End::Stop(exit) => {
                self.console.note("stopping; the checkpoint is kept");
                // A user who stops a second time does not want to wait for work in progress.
                let _ = self.abandon(&run).await;
                Ending::stopped(exit)
            }
            End::Failed(error) => {
                let _ = self.abandon(&run).await;
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

    /// Stops a run that has not ended by itself.
    async fn abandon(&mut self, run: &MigrationHandle) -> Result<(), Box<Ending>> {
        self.while_informing("stopping", run.abandon().map(Ok)).await
    }

    /// The ending of a migration that an earlier process has completed, which is what the user wanted.
    async fn complete_before(&mut self, migration: Migration) -> Result<Ending, Box<Ending>> {
        if self.arguments.certificate.is_some() {
            let step = "reading the certificate";
            if let Some(certificate) = self.while_informing(step, migration.certificate()).await? {
                self.keep(&certificate);
            }
        }
        Ok(Ending::complete_before())
    }

    /// What decides about the next command.
    pub fn situation(&self) -> Situation {
        Situation {
            waits_for_cutover: self.manual && !self.cutover_wanted,
            stops_when_ready: self.arguments.stop_after.is_some(),
            writes_are_stopped: self.arguments.block_writes || self.arguments.deployments().is_none(),
            reversed: self.reversed,
        }
    }

    /// Awaits a step during which there is no run to report progress. Keeps reporting meanwhile, and lets the user stop
    /// the step. `what` says what is done.
    pub async fn while_informing<T>(
        &mut self,
        what: &str,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T, Box<Ending>> {
        let mut step = pin!(step);
        self.console.set_step(what);
        self.console.set_typed(self.input.typed());
        let mut tick = self.console.interval();
        loop {
            tokio::select! {
                done = &mut step => return done.map_err(|error| Box::new(Ending::of_error(error))),
                _ = tick.tick() => self.console.still(&self.last),
                Some(wait) = self.waits.1.recv() => self.console.wait(&wait),
                wish = self.input.next() => match wish {
                    Wish::Stop(exit) => return Err(Box::new(Ending::stopped(exit))),
                    Wish::Status => self.console.status_now(&self.last),
                    Wish::Cutover => {
                        self.cutover_wanted = true;
                        self.console.reply("cutover", true, "starts as soon as everything is copied and the lag is small");
                    }
                    Wish::Typed => {}
                    Wish::Unknown(line) => self.console.reply(&line, false, COMMANDS),
                    wish => self.console.reply(wish.name(), false, "no run is active yet"),
                },
            }
            self.console.set_typed(self.input.typed());
        }
    }

    /// Writes the certificate if requested. A failure to write it does not make the hand-over a failure.
    fn keep(&mut self, certificate: &Certificate) {
        let Some(path) = &self.arguments.certificate else {
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
    pub fn say(&mut self, event: &Event) {
        self.console.event(event);
        if let Event::PhaseChanged { phase } = event {
            // The run may be ahead of its events, but the reader should see every phase.
            self.last.phase = *phase;
            self.console.phase(&self.last);
        }
    }
}

/// Whether an earlier process has completed the migration.
fn is_complete(plan: &Plan) -> bool {
    plan.findings
        .iter()
        .any(|finding| finding.code == FindingCode::AlreadyComplete)
}
