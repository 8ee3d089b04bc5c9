//! Whatever a run waits for is told within seconds.

use async_trait::async_trait;
use futures::StreamExt;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Event, UserSelection, Users, Wait};
use tokio::sync::mpsc;

use super::*;

/// Waits until it is told that the run waits for this.
async fn told(run: &MigrationHandle, operation: &str) {
    let is_it = |event: &Event| matches!(event, Event::Waiting { operation: told, .. } if *told == operation);
    let mut events = run.events();
    let told = async { while !events.next().await.is_some_and(|event| is_it(&event)) {} };
    timeout(Duration::from_secs(4), told)
        .await
        .unwrap_or_else(|_| panic!("nothing is told of: {operation}"));
}

#[tokio::test(start_paused = true)]
async fn an_index_build_and_a_change_of_the_catalog_are_told() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    let building = bench.sink.hold(SinkCall::CreateIndex);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    told(&run, "build an index").await;
    building.release();
    bench.caught_up().await;
    let executing = bench.sink.hold(SinkCall::Execute);
    bench.source.create_collection("shop.parts", rawdoc! {}).unwrap();
    told(&run, "change the catalog").await;
    executing.release();
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn each_step_of_a_cutover_is_told() {
    let bench = Bench::with_orders(5);
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let sentinel = bench.source.hold(SourceCall::Sentinel);
    let steps = async {
        told(&run, "confirm the position of the last write").await;
        let digest = bench.sink.hold(SinkCall::Digest);
        sentinel.release();
        told(&run, "list and compare both sides").await;
        let sentinel = bench.source.hold(SourceCall::Sentinel);
        digest.release();
        told(&run, "confirm the position of the last write").await;
        let flushing = bench.sink.hold(SinkCall::Flush);
        sentinel.release();
        told(&run, "apply the last changes").await;
        flushing.release();
    };
    let (summary, ()) = futures::join!(run.cutover(async {}), steps);
    assert_eq!(summary.unwrap().outcome, Outcome::Complete);
}

#[tokio::test(start_paused = true)]
async fn each_read_of_a_copy_and_a_comparison_is_told() {
    let bench = Bench::with_orders(5);
    let batch = bench.source.hold(SourceCall::ReadBatch);
    let run = bench.start().await;
    told(&run, "read documents").await;
    let compared = bench.sink.hold(SinkCall::Read);
    batch.release();
    told(&run, "read documents").await;
    let batch = bench.sink.hold(SinkCall::ReadBatch);
    compared.release();
    told(&run, "read documents").await;
    batch.release();
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn giving_up_an_index_build_is_told() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    let building = bench.sink.hold(SinkCall::CreateIndex);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    timeout(DEADLINE, building.reached()).await.expect("it is begun");
    let giving_up = bench.sink.hold(SinkCall::Execute);
    bench.source.drop_collection("shop.orders").unwrap();
    told(&run, "change the catalog").await;
    giving_up.release();
    building.release();
    bench.finish(run).await;
}

/// A store on a server that is slow to answer.
struct SlowStore(MemoryStore);

const SLOW: Duration = Duration::from_secs(3);

#[async_trait]
impl CheckpointStore for SlowStore {
    async fn load(&self) -> mongoferry::Result<Option<RawDocumentBuf>> {
        sleep(SLOW).await;
        self.0.load().await
    }

    async fn claim(&self) -> mongoferry::Result<()> {
        sleep(SLOW).await;
        self.0.claim().await
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> mongoferry::Result<()> {
        sleep(SLOW).await;
        self.0.save(checkpoint).await
    }

    async fn clear(&self) -> mongoferry::Result<()> {
        self.0.clear().await
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_of_the_checkpoint_store_is_told() {
    let bench = Bench::with_orders(5);
    let migration = bench.migration().checkpoint_store(SlowStore(bench.store.clone()));
    let run = migration.build().unwrap().start().await.unwrap();
    let mut events = run.events();
    let mut operations = vec!["claim the checkpoint", "load the checkpoint", "save the checkpoint"];
    let all_told = async {
        while !operations.is_empty() {
            if let Some(Event::Waiting { operation: told, .. }) = events.next().await {
                operations.retain(|operation| *operation != told);
            }
        }
    };
    timeout(DEADLINE, all_told).await.expect("each is told");
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn each_record_that_preflight_reads_is_told() {
    let bench = Bench::with_orders(5);
    let (tell, mut told) = mpsc::unbounded_channel();
    let migration = bench
        .migration()
        .users(Users::Carry(UserSelection::all()))
        .on_wait(move |wait: Wait| tell.send(wait.operation).unwrap())
        .build()
        .unwrap();
    let mut loading = bench.sink.hold(SinkCall::LoadRecord);
    let reads = async {
        for operation in [
            "look for the lease",
            "read the register of migrations",
            "read the record of users",
        ] {
            while told.recv().await.expect("preflight goes on") != operation {}
            let next = bench.sink.hold(SinkCall::LoadRecord);
            loading.release();
            loading = next;
        }
        loading.release();
    };
    let both = async { futures::join!(migration.preflight(), reads) };
    let (plan, ()) = timeout(Duration::from_secs(30), both).await.expect("each is told");
    plan.unwrap();
}
