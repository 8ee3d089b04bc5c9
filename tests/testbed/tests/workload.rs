//! The workload on real servers.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongoferry_testbed::{
    ReplicaSet, TestbedError, Version,
    compare::{CompareOptions, assert_identical, differences},
    wait_until,
    workload::{DATABASE, Writer, load},
};

type TestResult = Result<(), TestbedError>;

#[tokio::test]
async fn a_load_depends_on_its_seed_alone() -> TestResult {
    let (first, second) = tokio::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V5_0).start()
    )?;
    let (first, second) = (first.client().await?, second.client().await?);
    let begin = Instant::now();
    load(&first, 20_000, 7).await?;
    eprintln!("loaded in {:?}", begin.elapsed());
    load(&second, 20_000, 7).await?;
    assert_identical(&first, &second, &CompareOptions::default()).await?;

    first.database(DATABASE).drop().await.unwrap();
    load(&first, 20_000, 8).await?;
    assert!(
        !differences(&first, &second, &CompareOptions::default())
            .await?
            .is_empty()
    );
    Ok(())
}

async fn writes_without_errors(version: Version) -> TestResult {
    let set = ReplicaSet::builder(version).start().await?;
    let client = set.client().await?;
    load(&client, 2000, 1).await?;
    let writers = [
        Writer::builder(&client, 1).operations_per_second(0).start().await?,
        // The same seed again: they must not get in each other's way.
        Writer::builder(&client, 1).operations_per_second(0).start().await?,
    ];
    let begin = Instant::now();
    let deadline = Duration::from_secs(30);
    wait_until(deadline, "many operations", async || {
        writers.iter().all(|writer| writer.stats().operations > 1500)
    })
    .await?;
    for writer in writers {
        let stats = writer.stop().await;
        eprintln!("{version}: {stats:?} in {:?}", begin.elapsed());
        assert_eq!(stats.errors, 0, "{stats:?}");
    }

    let count = async |name: &str| {
        let count = client
            .database(DATABASE)
            .collection::<Document>(name)
            .count_documents(doc! {})
            .await;
        count.unwrap()
    };
    let before = count("orders").await;
    assert!(before > 1000 && count("open_orders").await > 0, "{before} orders");
    assert_eq!(count("orders").await, before, "written after the stop");
    Ok(())
}

#[tokio::test]
async fn writers_make_no_errors_on_4_4() -> TestResult {
    writes_without_errors(Version::V4_4).await
}

#[tokio::test]
async fn writers_make_no_errors_on_6_0() -> TestResult {
    writes_without_errors(Version::V6_0).await
}

#[tokio::test]
async fn writers_go_on_after_an_election_and_a_restart() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await?;
    let client = set.client().await?;
    load(&client, 1000, 1).await?;
    let writer = Writer::start(&client, 2).await?;
    let deadline = Duration::from_secs(30);
    let go_on = async |what: &str| {
        let before = writer.stats().operations;
        wait_until(deadline, what, async || writer.stats().operations > before + 150).await
    };
    go_on("writes at first").await?;
    set.step_down().await?;
    go_on("writes after a step down").await?;
    let primary = set.primary_index().await?;
    set.kill(primary).await?;
    go_on("writes after a kill").await?;
    set.restart(primary).await?;
    let stats = writer.stop().await;
    assert_eq!(stats.errors, 0, "{stats:?}");
    eprintln!("{stats:?}");
    Ok(())
}
