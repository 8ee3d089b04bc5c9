mod complete;

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn gate() -> Gate<()> {
    Gate::new((), ())
}

/// Result of a run's cutover.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Complete,
    Different,
    Failed,
}

/// Acts like the cutover of a run: waits until it is ready, stops the writes, and compares.
async fn run(stop_writes: BoxFuture<'static, ()>, take: TakeSwitch, took: Duration, ends: Ends) -> Result<Ends> {
    sleep(SECOND).await;
    stop_writes.await;
    let switch = take();
    sleep(took).await;
    match ends {
        Ends::Failed => Err(Error::new(ErrorKind::Connection, "compare", "gone")),
        Ends::Complete => Ok(complete(switch)),
        ends => Ok(ends),
    }
}

/// Acts like the run when its checkpoint is durable.
fn complete(switch: Option<Box<dyn Switch>>) -> Ends {
    switch.expect("the writes were stopped").begin();
    Ends::Complete
}

async fn hand_over(gate: &Gate<()>, drain: Duration, ends: Ends) -> Result<(Ends, HeldCalls)> {
    let cut_over = |stop_writes, take| run(stop_writes, take, 2 * SECOND, ends);
    gate.hand_over(drain, cut_over).await
}

/// Enters after `pause`. Returns the side, and the time at which it was let in.
async fn enter_after(gate: &Gate<()>, pause: Duration) -> (Side, Duration) {
    let began = Instant::now();
    sleep(pause).await;
    (gate.enter().await.side, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn operations_are_held_and_go_on_with_the_target() {
    let gate = gate();
    let (handed_over, before, first, second, given_up) = tokio::join!(
        hand_over(&gate, SECOND, Ends::Complete),
        // Nothing is held while the run is not ready.
        enter_after(&gate, SECOND / 2),
        enter_after(&gate, SECOND + SECOND / 2),
        enter_after(&gate, 2 * SECOND),
        timeout(2 * SECOND, enter_after(&gate, SECOND + SECOND / 4)),
    );
    assert_eq!(before, (Side::Source, SECOND / 2));
    assert_eq!(first, (Side::Target, 3 * SECOND));
    assert_eq!(second, (Side::Target, 3 * SECOND));
    assert!(given_up.is_err());
    let longest = SECOND + SECOND / 2;
    assert_eq!(handed_over.unwrap(), (Ends::Complete, HeldCalls { calls: 3, longest }));
    // And back, with a run in the opposite direction.
    hand_over(&gate, SECOND, Ends::Complete).await.unwrap();
    assert_eq!(gate.enter().await.side, Side::Source);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_counts_with_the_time_it_was_held() {
    let gate = gate();
    let hold = gate.hold().unwrap();
    assert!(timeout(SECOND, gate.enter()).await.is_err());
    drop(hold);
    let calls = gate.shared.state.borrow().calls;
    assert_eq!(
        calls,
        HeldCalls {
            calls: 1,
            longest: SECOND
        }
    );
}

#[tokio::test(start_paused = true)]
async fn operations_under_way_are_awaited_up_to_the_limit() {
    let gate = gate();
    let compared = AtomicBool::new(false);
    let pass = gate.enter().await;
    let slow = async {
        sleep(3 * SECOND).await;
        assert!(!compared.load(SeqCst), "the cutover went on without it");
        drop(pass);
    };
    let cut_over = |stop_writes: BoxFuture<'static, ()>, take: TakeSwitch| async {
        stop_writes.await;
        compared.store(true, SeqCst);
        Ok(complete(take()))
    };
    let began = Instant::now();
    let patient = gate.hand_over(4 * SECOND, cut_over);
    let (handed_over, ()) = tokio::join!(patient, slow);
    handed_over.unwrap();
    assert_eq!(began.elapsed(), 3 * SECOND);
    assert_eq!(gate.enter().await.side, Side::Target);

    let gate = self::gate();
    let pass = gate.enter().await;
    let (error, held) = tokio::join!(
        hand_over(&gate, 2 * SECOND, Ends::Complete),
        enter_after(&gate, 2 * SECOND)
    );
    let error = error.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::OperationsUnderWay, true)
    );
    assert!(error.to_string().contains("1 operations"), "{error}");
    assert_eq!(held, (Side::Source, 3 * SECOND), "it is open again");
    drop(pass);
    hand_over(&gate, SECOND, Ends::Complete).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_cutover_leaves_all_with_the_source() {
    for ends in [Ends::Different, Ends::Failed] {
        let gate = gate();
        let (result, held) = tokio::join!(hand_over(&gate, SECOND, ends), enter_after(&gate, 2 * SECOND));
        assert_eq!(result.is_ok(), ends == Ends::Different);
        assert_eq!(held, (Side::Source, 3 * SECOND));
    }
    // Dropped while it waits for the run, for running operations, and for the comparison.
    for (at, pass) in [(SECOND / 2, false), (SECOND * 3 / 2, true), (SECOND * 3 / 2, false)] {
        let gate = gate();
        let mut under_way = pass.then(|| gate.enter().now_or_never().unwrap());
        let dropped = timeout(at, hand_over(&gate, SECOND, Ends::Complete)).await;
        assert!(dropped.is_err());
        assert_eq!(gate.enter().now_or_never().unwrap().side, Side::Source);
        drop(under_way.take());
        hand_over(&gate, SECOND, Ends::Complete).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_cutover_holds_at_a_time() {
    let gate = gate();
    let (first, second) = tokio::join!(
        hand_over(&gate, SECOND, Ends::Complete),
        hand_over(&gate, SECOND, Ends::Complete)
    );
    let refused: Vec<_> = [first, second].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].kind(), ErrorKind::WrongPhase);
    assert_eq!(gate.enter().await.side, Side::Target);
}

#[tokio::test(start_paused = true)]
async fn a_cutover_that_takes_no_time_switches_all_the_same() {
    let gate = gate();
    let cut_over =
        |stop_writes: BoxFuture<'static, ()>, take: TakeSwitch| stop_writes.map(move |()| Ok(complete(take())));
    gate.hand_over(SECOND, cut_over).await.unwrap();
    assert_eq!(gate.enter().await.side, Side::Target);
    gate.hand_over(SECOND, cut_over).await.unwrap();
    assert_eq!(gate.enter().await.side, Side::Source);
}

/// Many applications, and one host that cuts over repeatedly with every possible result.
///
/// No operation runs between the stop of writes and the decision, none uses the wrong side, and all of them end.
#[tokio::test(start_paused = true)]
async fn nothing_is_under_way_while_it_is_decided_whatever_happens() {
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (gate, under_way, decided) = (gate(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let mut applications = JoinSet::new();
        for number in 0..8 {
            let mut random = SmallRng::seed_from_u64(seed << 8 | number);
            let (gate, under_way, decided) = (gate.clone(), Arc::clone(&under_way), Arc::clone(&decided));
            applications.spawn(async move {
                for _ in 0..40 {
                    let patience = Duration::from_millis(random.random_range(1..4000));
                    if let Ok(pass) = timeout(patience, gate.enter()).await {
                        assert!(decided.load(SeqCst), "let in too early");
                        assert_eq!(pass.side, gate.shared.state.borrow().side);
                        under_way.fetch_add(1, SeqCst);
                        sleep(Duration::from_millis(random.random_range(0..300))).await;
                        assert!(decided.load(SeqCst), "the cutover did not wait");
                        under_way.fetch_sub(1, SeqCst);
                    }
                    sleep(Duration::from_millis(random.random_range(0..100))).await;
                }
            });
        }
        let mut expected = Side::Source;
        for _ in 0..6 {
            let ends = [Ends::Complete, Ends::Different, Ends::Failed][random.random_range(0..3)];
            let drain = Duration::from_millis(random.random_range(50..600));
            let (stopped, running) = (Arc::clone(&decided), Arc::clone(&under_way));
            let took = Duration::from_millis(random.random_range(0..1000));
            let cut_over = |stop_writes: BoxFuture<'static, ()>, take: TakeSwitch| async move {
                stop_writes.await;
                let switch = take();
                assert_eq!(running.load(SeqCst), 0);
                stopped.store(false, SeqCst);
                let _decided = Decided(stopped);
                sleep(took).await;
                match ends {
                    Ends::Failed => Err(Error::new(ErrorKind::Connection, "compare", "gone")),
                    Ends::Complete => Ok(complete(switch)),
                    ends => Ok(ends),
                }
            };
            let handed_over = gate.hand_over(drain, cut_over);
            let patience = Duration::from_millis(random.random_range(1..2000));
            if let Ok(Ok((Ends::Complete, _))) = timeout(patience, handed_over).await {
                expected = match expected {
                    Side::Source => Side::Target,
                    Side::Target => Side::Source,
                };
            }
            assert_eq!(gate.shared.state.borrow().side, expected);
            sleep(Duration::from_millis(random.random_range(0..500))).await;
        }
        while let Some(ended) = applications.join_next().await {
            ended.unwrap();
        }
        let state = gate.shared.state.borrow();
        assert!(
            !state.is_held && state.under_way == 0 && state.waiting.is_empty(),
            "{state:?}"
        );
    }
}

/// Marks the cutover as decided when the cutover ends or is dropped.
struct Decided(Arc<AtomicBool>);

impl Drop for Decided {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
