//! Tests that operations continue with the target exactly when the migration is complete.

use std::future::poll_fn;
use std::task::Poll;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use tokio::task::yield_now;

use super::*;
use crate::api::handle::MigrationHandle;
use crate::api::migration::Migration;
use crate::checkpoint::{Checkpoint, CheckpointStore, MemoryStore};
use crate::config::Verification;
use crate::report::{Outcome, Phase};
use crate::runtime::hooks::{HookResult, Hooks};
use crate::sink::{MemorySink, Sink};
use crate::source::MemorySource;

const DEADLINE: Duration = Duration::from_secs(60);
const ORDERS: &str = "shop.orders";

/// Result of saving the checkpoint that marks the migration as complete.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Save {
    #[default]
    Stores,
    Fails,
    LosesItsAnswer,
}

/// A store that lets all other ready tasks run before it stores and before it returns.
#[derive(Clone, Default)]
struct SlowStore {
    store: MemoryStore,
    save: Arc<Mutex<Save>>,
}

impl SlowStore {
    fn is_complete(&self) -> bool {
        let stored = self.store.load().now_or_never().unwrap().unwrap();
        stored.is_some_and(|stored| Checkpoint::decode(&stored).unwrap().complete)
    }
}

async fn wait() {
    for _ in 0..4 {
        yield_now().await;
    }
}

#[async_trait]
impl CheckpointStore for SlowStore {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        wait().await;
        self.store.load().await
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        wait().await;
        let save = match Checkpoint::decode(checkpoint)?.complete {
            true => std::mem::take(&mut *self.save.lock().unwrap()),
            false => Save::Stores,
        };
        if save != Save::Fails {
            self.store.save(checkpoint).await?;
        }
        wait().await;
        match save {
            Save::Stores => Ok(()),
            Save::Fails | Save::LosesItsAnswer => Err(Error::new(ErrorKind::Connection, "save", "gone")),
        }
    }

    async fn clear(&self) -> Result<()> {
        self.store.clear().await
    }
}

/// A slow host that counts how often it was told that the migration is complete.
#[derive(Clone, Default)]
struct Slow {
    told: Arc<AtomicUsize>,
}

#[async_trait]
impl Hooks for Slow {
    async fn after_cutover(&self, summary: &Summary) -> HookResult {
        if summary.outcome == Outcome::Complete {
            sleep(DEADLINE).await;
            self.told.fetch_add(1, SeqCst);
        }
        Ok(())
    }
}

struct Bench {
    source: MemorySource,
    sink: MemorySink,
    store: SlowStore,
    hooks: Slow,
    gate: Gate<()>,
}

impl Bench {
    fn new() -> Self {
        let source = MemorySource::new();
        source.create_collection(ORDERS, rawdoc! {}).unwrap();
        let index = rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at", "expireAfterSeconds": 60 };
        source.create_index(ORDERS, index).unwrap();
        source.insert(ORDERS, rawdoc! { "_id": 1 }).unwrap();
        Self {
            source,
            sink: MemorySink::new(),
            store: SlowStore::default(),
            hooks: Slow::default(),
            gate: gate(),
        }
    }

    async fn start(&self) -> MigrationHandle {
        let migration = Migration::builder(self.source.clone(), self.sink.clone())
            .checkpoint_store(self.store.clone())
            .hooks(self.hooks.clone())
            .verification(Verification::Digest);
        let run = migration.build().unwrap().start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        run
    }

    async fn hand_over(&self, run: &MigrationHandle) -> Result<Summary> {
        let cut_over = |stop_writes, take: TakeSwitch| run.cutover_with(stop_writes, take);
        self.gate.hand_over(SECOND, cut_over).await.map(|(summary, _)| summary)
    }

    fn side(&self) -> Side {
        self.gate.shared.state.borrow().side
    }

    fn check(&self) {
        assert!(
            !self.store.is_complete() || self.side() == Side::Target,
            "the migration is complete, but operations would continue with the source"
        );
    }

    async fn expiry(&self) -> i32 {
        let listed = self.sink.collections().await.unwrap();
        let index = listed[0]
            .indexes
            .iter()
            .find(|index| crate::catalog::name_of(index) == "at");
        index.unwrap().get_i32("expireAfterSeconds").unwrap()
    }

    /// Checks that the run is over, and that everything has switched to the target with it.
    async fn assert_complete(&self, run: &MigrationHandle) {
        assert_eq!(self.side(), Side::Target);
        let entered = self.gate.enter().now_or_never().expect("nothing is held");
        assert_eq!(entered.side, Side::Target);
        until(|| run.status().phase.is_last()).await;
        assert_eq!(run.status().phase, Phase::Complete);
        assert_eq!(self.hooks.told.load(SeqCst), 1);
        assert_eq!(self.expiry().await, 60);
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(5 * DEADLINE, wait).await.expect("it comes about");
}

/// Polls a future `times` times after the operations are held, giving other tasks a chance to run in between. Checks the invariant after
/// each poll. Returns the future's output if it completes earlier.
async fn poll_so_often<T>(bench: &Bench, future: impl Future<Output = T>, times: usize) -> Option<T> {
    let (mut future, mut polled) = (Box::pin(future), 0);
    poll_fn(|context| {
        let answer = future.as_mut().poll(context);
        bench.check();
        polled += usize::from(polled > 0 || bench.gate.shared.state.borrow().is_held);
        match answer {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if polled >= times => Poll::Ready(None),
            Poll::Pending => {
                // Every 50th poll lets timers fire, because some progress depends on them.
                if polled % 50 != 0 {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_cutover_dropped_anywhere_has_gone_over_or_not() {
    let (mut gone_over, mut stayed) = (0, 0);
    for times in 1.. {
        let bench = Bench::new();
        let run = bench.start().await;
        let held_back = bench.expiry().await;
        let ended = poll_so_often(&bench, bench.hand_over(&run), times).await;
        bench.check();
        // The remaining polls only await the hook.
        if ended.is_some() || gone_over > 100 {
            assert!(gone_over > 10 && stayed > 10, "{gone_over} {stayed}");
            return;
        }
        for _ in 0..200 {
            yield_now().await;
            bench.check();
        }
        sleep(SECOND).await;
        bench.check();
        let entered = timeout(SECOND, bench.gate.enter()).await.expect("nothing is held");
        assert_eq!(entered.side, bench.side());
        drop(entered);
        if bench.store.is_complete() {
            gone_over += 1;
            bench.assert_complete(&run).await;
            continue;
        }
        stayed += 1;
        assert_eq!(bench.side(), Side::Source);
        assert!(matches!(run.status().phase, Phase::CatchUp | Phase::Ready), "{times}");
        assert_eq!(bench.expiry().await, held_back, "{times}");
        bench.source.insert(ORDERS, rawdoc! { "_id": 2 }).unwrap();
        let summary = bench.hand_over(&run).await.unwrap();
        assert_eq!(summary.outcome, Outcome::Complete);
        bench.assert_complete(&run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn operations_go_on_before_the_hooks_are_done() {
    let bench = Bench::new();
    let run = bench.start().await;
    let went_on = async {
        until(|| bench.gate.shared.state.borrow().is_held).await;
        let entered = timeout(SECOND, bench.gate.enter())
            .await
            .expect("the hook holds nothing");
        assert_eq!((entered.side, bench.hooks.told.load(SeqCst)), (Side::Target, 0));
    };
    let (summary, ()) = tokio::join!(bench.hand_over(&run), went_on);
    assert_eq!(summary.unwrap().outcome, Outcome::Complete);
    bench.assert_complete(&run).await;
}

/// Held operations do not wait for the hooks of a cutover that fails or finds differences, either.
#[tokio::test(start_paused = true)]
async fn operations_go_on_before_the_hooks_of_a_failure_are_done() {
    struct Never;
    #[async_trait]
    impl Hooks for Never {
        async fn on_failure(&self, _: &Error) -> HookResult {
            pending().await
        }
    }
    let bench = Bench::new();
    let migration = Migration::builder(bench.source.clone(), bench.sink.clone())
        .checkpoint_store(bench.store.clone())
        .hooks(Never);
    let run = migration.build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let digest = bench.sink.hold(crate::sink::SinkCall::Digest);
    let went_on = async {
        timeout(DEADLINE, digest.reached()).await.expect("it compares");
        bench.source.insert(ORDERS, rawdoc! { "_id": 2 }).unwrap();
        digest.release();
        let entered = timeout(SECOND, bench.gate.enter())
            .await
            .expect("the hook holds nothing");
        assert_eq!(entered.side, Side::Source);
    };
    tokio::select! {
        biased;
        _ = bench.hand_over(&run) => panic!("the hook does not end"),
        () = went_on => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_leaves_all_with_the_source() {
    let bench = Bench::new();
    let run = bench.start().await;
    let held_back = bench.expiry().await;
    *bench.store.save.lock().unwrap() = Save::Fails;
    let error = timeout(DEADLINE, bench.hand_over(&run)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(!bench.store.is_complete());
    assert_eq!(
        bench.gate.enter().now_or_never().expect("nothing is held").side,
        Side::Source
    );
    assert_eq!(bench.expiry().await, held_back);
    bench.source.insert(ORDERS, rawdoc! { "_id": 2 }).unwrap();
    let summary = timeout(5 * DEADLINE, bench.hand_over(&run)).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete);
    bench.assert_complete(&run).await;
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_answer_is_lost_is_found_to_be_made() {
    for dropped in [false, true] {
        let bench = Bench::new();
        let run = bench.start().await;
        *bench.store.save.lock().unwrap() = Save::LosesItsAnswer;
        let cutover = bench.hand_over(&run);
        if dropped {
            let complete = async {
                until(|| bench.gate.shared.state.borrow().is_held).await;
                for turn in 1.. {
                    match turn % 50 {
                        _ if bench.store.is_complete() => break,
                        0 => sleep(Duration::from_millis(1)).await,
                        _ => yield_now().await,
                    }
                }
            };
            tokio::select! {
                biased;
                _ = cutover => panic!("its answer is lost"),
                () = complete => {}
            }
            bench.check();
            sleep(SECOND).await;
        } else {
            let summary = timeout(5 * DEADLINE, cutover).await.unwrap().unwrap();
            assert_eq!(summary.outcome, Outcome::Complete);
        }
        bench.assert_complete(&run).await;
    }
}
