//! What the host does around a run: in which order it is called, and what comes of its errors.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Error, ErrorKind, Event, HookResult, Hooks, Phase, Summary};

use super::*;

/// Notes what it is called for.
#[derive(Clone, Default)]
struct Notes {
    calls: Arc<Mutex<Vec<String>>>,
    /// The call that fails, and whether by a panic.
    failing: Arc<Mutex<Option<(&'static str, bool)>>>,
}

impl Notes {
    fn failing(name: &'static str, panics: bool) -> Self {
        let notes = Self::default();
        *notes.failing.lock().unwrap() = Some((name, panics));
        notes
    }

    fn note(&self, name: &str, of: &str) -> HookResult {
        self.calls.lock().unwrap().push(format!("{name}{of}"));
        let failing = *self.failing.lock().unwrap();
        match failing.filter(|(failing, _)| *failing == name) {
            Some((_, true)) => panic!("the host has a bug"),
            Some((_, false)) => Err("the host's own words".into()),
            None => Ok(()),
        }
    }

    /// The calls but those for phases.
    fn calls(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let others = calls.iter().filter(|call| !call.starts_with("phase_changed"));
        others.cloned().collect()
    }

    fn last(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }

    async fn start(&self, bench: &Bench) -> mongoferry::Result<MigrationHandle> {
        bench.migration().hooks(self.clone()).build().unwrap().start().await
    }
}

#[async_trait]
impl Hooks for Notes {
    async fn before_start(&self) -> HookResult {
        self.note("before_start", "")
    }

    async fn phase_changed(&self, phase: Phase) -> HookResult {
        tokio::task::yield_now().await;
        self.note("phase_changed", &format!(" {phase}"))
    }

    async fn before_cutover(&self) -> HookResult {
        self.note("before_cutover", "")
    }

    async fn quiesce_application(&self) -> HookResult {
        self.note("quiesce_application", "")
    }

    async fn resume_application(&self) -> HookResult {
        self.note("resume_application", "")
    }

    async fn after_cutover(&self, summary: &Summary) -> HookResult {
        self.note("after_cutover", &format!(" {:?}", summary.outcome))
    }

    async fn on_failure(&self, error: &Error) -> HookResult {
        self.note("on_failure", &format!(" {:?}", error.kind()))
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_are_called_in_order_and_the_last_phase_is_told() {
    let bench = Bench::with_orders(5);
    let notes = Notes::default();
    let run = notes.start(&bench).await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    assert_eq!(notes.calls(), ["before_start"]);
    assert_eq!(notes.last(), "phase_changed ready");
    run.pause().await.unwrap();
    until("the pause is told", || notes.last() == "phase_changed paused").await;
    run.resume().unwrap();
    let stop = async { notes.note("stop_writes", "").unwrap() };
    let summary = timeout(DEADLINE, run.cutover(stop)).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete);
    let expected = [
        "before_start",
        "before_cutover",
        "quiesce_application",
        "stop_writes",
        "after_cutover Complete",
    ];
    assert_eq!(notes.calls(), expected);
    assert_eq!(notes.last(), "phase_changed complete");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_not_let_pass_changes_nothing() {
    for panics in [false, true] {
        let bench = Bench::with_orders(5);
        let notes = Notes::failing("before_start", panics);
        let asked = bench.source.hold(SourceCall::Describe);
        let started = timeout(DEADLINE, notes.start(&bench)).await;
        let error = started.expect("nothing is asked of the source").unwrap_err();
        asked.release();
        assert_eq!(error.kind(), ErrorKind::Hook, "{error}");
        assert!(
            error
                .context()
                .any(|(name, hook)| (name, hook) == ("hook", "before_start"))
        );
        assert_eq!(error.report().contains("the host's own words"), !panics, "{error}");
        assert!(bench.checkpoint().is_none() && bench.sink.journal().is_empty());
        assert_eq!(notes.calls(), ["before_start"]);
    }
    // One that is, and fails afterwards, is told.
    let bench = Bench::with_orders(5);
    let in_the_way = mongoferry::sink::CatalogCommand::Create {
        namespace: "shop.orders".parse().unwrap(),
        kind: mongoferry::CollectionKind::Plain,
        options: rawdoc! {},
    };
    bench.sink.execute(&in_the_way).await.unwrap();
    let notes = Notes::default();
    let error = notes.start(&bench).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(notes.calls(), ["before_start", "on_failure Refused"]);
}

#[tokio::test(start_paused = true)]
async fn a_cutover_that_is_not_let_pass_fails_and_the_run_goes_on() {
    for name in ["before_cutover", "quiesce_application"] {
        for panics in [false, true] {
            let bench = Bench::with_orders(5);
            let notes = Notes::failing(name, panics);
            let run = notes.start(&bench).await.unwrap();
            let never = std::future::poll_fn::<(), _>(|_| panic!("the writers must not be stopped"));
            let error = timeout(DEADLINE, run.cutover(never)).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Hook, "{error}");
            let calls = notes.calls();
            let expected: &[&str] = match name {
                "before_cutover" => &["before_cutover", "on_failure Hook"],
                // It may have stopped a part of it.
                _ => &[name, "resume_application", "on_failure Hook"],
            };
            assert_eq!(calls[calls.len() - expected.len()..], *expected);
            assert!(matches!(run.status().phase, Phase::CatchUp | Phase::Ready));
            *notes.failing.lock().unwrap() = None;
            bench.set("shop.orders", 1, 7);
            bench.finish(run).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_afterwards_is_told_and_changes_nothing() {
    for name in ["phase_changed", "after_cutover"] {
        let bench = Bench::with_orders(5);
        let notes = Notes::failing(name, name == "phase_changed");
        let run = notes.start(&bench).await.unwrap();
        let events = run.events();
        bench.finish(run).await;
        assert_eq!(notes.last(), "phase_changed complete");
        let told: Vec<Event> = timeout(DEADLINE, events.collect()).await.unwrap();
        let failed = |event: &Event| matches!(event, Event::HookFailed { hook, .. } if *hook == name);
        assert!(told.iter().any(failed), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_told_once_also_when_it_was_being_cut_over() {
    for cutting_over in [false, true] {
        let bench = Bench::with_orders(5);
        let notes = Notes::default();
        let run = notes.start(&bench).await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        let fail = || bench.source.unsupported("shop.orders", "it is of another world");
        let error = if cutting_over {
            let cutover = run.cutover(async {
                fail();
            });
            timeout(DEADLINE, cutover).await.unwrap().unwrap_err()
        } else {
            fail();
            timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err()
        };
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
        let calls = notes.calls();
        let failures = calls.iter().filter(|call| call.starts_with("on_failure"));
        assert_eq!(failures.collect::<Vec<_>>(), ["on_failure UnsupportedEntry"]);
        assert_eq!(notes.last(), "phase_changed failed");
    }
}

/// A host that drops a cutover drops the call that it is making.
#[tokio::test(start_paused = true)]
async fn a_cutover_that_is_dropped_drops_its_call() {
    struct Never;
    #[async_trait]
    impl Hooks for Never {
        async fn quiesce_application(&self) -> HookResult {
            std::future::pending().await
        }
    }
    let bench = Bench::with_orders(5);
    let migration = bench.migration().hooks(Never).build().unwrap();
    let run = migration.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    assert!(run.cutover_now(async {}).now_or_never().is_none());
    assert!(matches!(run.status().phase, Phase::CatchUp | Phase::Ready));
    // Else it has its limit.
    let error = timeout(DEADLINE * 20, run.cutover(async {}))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hook, "{error}");
    assert!(error.message().contains("10 minutes"), "{error}");
}

/// What brings a cutover to its end after the application was stopped, other than completion.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    NotStopped,
    Differences,
    LateWrites,
    DroppedWhileStopping,
    DroppedWhileComparing,
    RunFails,
}

#[tokio::test(start_paused = true)]
async fn an_application_that_was_stopped_in_vain_is_told_to_go_on() {
    use Ending::{Differences, DroppedWhileComparing, DroppedWhileStopping, LateWrites, NotStopped, RunFails};
    for ending in [
        NotStopped,
        Differences,
        LateWrites,
        DroppedWhileStopping,
        DroppedWhileComparing,
        RunFails,
    ] {
        let bench = Bench::with_orders(5);
        let notes = Notes::default();
        let migration = bench.by_digest().hooks(notes.clone()).build().unwrap();
        let run = migration.start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        let digest = bench.sink.hold(SinkCall::Digest);
        if ending == Differences {
            comparing::tamper(&bench, 3).await;
        }
        let stop = async {
            match ending {
                NotStopped => return Err("the load balancer does not answer"),
                DroppedWhileStopping => std::future::pending().await,
                RunFails => drop(bench.source.unsupported("shop.orders", "it is of another world")),
                _ => {}
            }
            Ok(())
        };
        let during = async {
            match ending {
                DroppedWhileStopping => {
                    until("it stops", || {
                        notes.calls().last().is_some_and(|last| last == "quiesce_application")
                    })
                    .await
                }
                DroppedWhileComparing => timeout(DEADLINE, digest.reached()).await.unwrap(),
                _ => {
                    if ending == LateWrites {
                        timeout(DEADLINE, digest.reached()).await.unwrap();
                        bench.set("shop.orders", 1, 9);
                    }
                    digest.release();
                    std::future::pending().await
                }
            }
        };
        let ended = tokio::select! {
            ended = timeout(DEADLINE * 10, run.cutover(stop)) => Some(ended.unwrap()),
            () = during => None,
        };
        let (kind, told) = match (ending, ended) {
            (Differences, Some(Ok(summary))) if summary.outcome == Outcome::Differences => {
                (None, Some("after_cutover Differences"))
            }
            (_, Some(Err(error))) => {
                if ending == NotStopped {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    assert_eq!(source.as_deref(), Some("the load balancer does not answer"));
                }
                let told = match ending {
                    NotStopped => "on_failure Hook",
                    LateWrites => "on_failure WritesAfterStop",
                    _ => "on_failure UnsupportedEntry",
                };
                (Some(error.kind()), Some(told))
            }
            (_, None) => (None, None),
            (_, ended) => panic!("{ending:?}: {ended:?}"),
        };
        assert_eq!(kind == Some(ErrorKind::Hook), ending == NotStopped, "{kind:?}");
        let resumed = || {
            notes
                .calls()
                .iter()
                .filter(|call| *call == "resume_application")
                .count()
        };
        until("the application is told", || resumed() == 1).await;
        let calls = notes.calls();
        let after: Vec<&str> = calls
            .iter()
            .map(String::as_str)
            .skip_while(|call| *call != "resume_application")
            .collect();
        let expected: Vec<&str> = ["resume_application"].into_iter().chain(told).collect();
        assert_eq!(after, expected, "{ending:?}");
        if matches!(ending, RunFails | Differences) {
            continue;
        }
        bench.set("shop.orders", 2, 7);
        bench.finish(run).await;
        assert_eq!(resumed(), 1, "{ending:?}");
    }
}

/// Only one cutover is in progress, however many ask for one.
#[tokio::test(start_paused = true)]
async fn a_second_cutover_is_refused_and_leaves_the_first_alone() {
    let bench = Bench::with_orders(5);
    let notes = Notes::default();
    let run = notes.start(&bench).await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let (stopped, stopping) = tokio::sync::oneshot::channel::<()>();
    let first = run.cutover(stopping);
    let second = async {
        until("the first stops the writers", || {
            notes.calls().last().is_some_and(|last| last == "quiesce_application")
        })
        .await;
        let other = run.clone();
        for _ in 0..2 {
            let never = std::future::poll_fn::<(), _>(|_| panic!("the writers are being stopped already"));
            let error = timeout(DEADLINE, other.cutover(never)).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongPhase, "{error}");
        }
        stopped.send(()).unwrap();
    };
    let (summary, ()) = futures::join!(timeout(DEADLINE, first), second);
    assert_eq!(summary.unwrap().unwrap().outcome, Outcome::Complete);
    let failures = notes
        .calls()
        .iter()
        .filter(|call| call.starts_with("on_failure"))
        .count();
    assert_eq!(failures, 0, "{:?}", notes.calls());
}
