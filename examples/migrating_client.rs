//! Applications that go over by themselves: they take their client from a `MigratingClient`, which holds their calls during
//! the cutover and lets them go on with the new replica set.
//!
//! `cargo run --example migrating_client` starts two replica sets of its own, migrates from one to the other while several
//! tasks write, and prints how many calls were held and for how long. Then it takes the hand-over back in the same way.

use std::error::Error;
use std::time::Duration;

use mongodb::bson::{Document, doc, oid::ObjectId};
use mongoferry::{MigratingClient, Migration, MigrationHandle, MongoSink, MongoSource, Outcome, Summary};
use mongoferry_testbed::{ReplicaSet, Version, workload};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long the operations of the applications may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// An application, which knows nothing of a migration. Answers how much it has written.
async fn application(clients: MigratingClient, stop: watch::Receiver<bool>) -> Result<u64> {
    let mut orders = 0;
    while !*stop.borrow() {
        let order = ObjectId::new();
        // One operation: what belongs together uses one client.
        let client = clients.enter().await;
        let collection = client.database("shop").collection::<Document>("applications");
        collection.insert_one(doc! { "_id": order, "paid": false }).await?;
        let paid = doc! { "$set": { "paid": true } };
        let updated = collection.update_one(doc! { "_id": order }, paid).await?;
        assert_eq!(updated.matched_count, 1);
        orders += 1;
    }
    Ok(orders)
}

/// Hands over as soon as the run is ready, and says what the applications noticed of it.
async fn hand_over(clients: &MigratingClient, run: &MigrationHandle) -> Result<Summary> {
    let cutover = clients.cutover(run, DRAIN).await?;
    if cutover.summary.outcome != Outcome::Complete {
        // The applications go on where they were.
        return Err(format!("{:#?}", cutover.summary).into());
    }
    println!(
        "the applications are on the {} now: {} calls were held, for {:.2} s at most",
        clients.side(),
        cutover.held.calls,
        cutover.held.longest.as_secs_f64()
    );
    Ok(cutover.summary)
}

#[tokio::main]
async fn main() -> Result<()> {
    let (old, new) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).name("old").start(),
        ReplicaSet::builder(Version::V6_0).name("new").start()
    )?;
    let (on_old, on_new) = (old.client().await?, new.client().await?);
    workload::load(&on_old, 5000, 1).await?;

    let clients = MigratingClient::new(on_old.clone(), on_new.clone());
    let (stop, stopped) = watch::channel(false);
    let mut applications = JoinSet::new();
    for _ in 0..4 {
        applications.spawn(application(clients.clone(), stopped.clone()));
    }

    let source = MongoSource::connect(&old.uri()).await?;
    let sink = MongoSink::connect(&new.uri()).await?;
    let run = Migration::builder(source, sink).build()?.start().await?;
    let summary = hand_over(&clients, &run).await?;

    // The opposite direction, which copies nothing; the applications may stay on the new set for as long as they like.
    let source = MongoSource::connect(&new.uri()).await?;
    let sink = MongoSink::connect(&old.uri()).await?;
    let back = summary.reverse(source, sink)?.build()?.start().await?;
    hand_over(&clients, &back).await?;

    stop.send_replace(true);
    let mut written = 0;
    while let Some(ended) = applications.join_next().await {
        written += ended??;
    }
    let found = on_old.database("shop").collection::<Document>("applications");
    let found = found.count_documents(doc! { "paid": true }).await?;
    println!("{written} orders were written, {found} are there");
    if found == written {
        Ok(())
    } else {
        Err("orders were lost".into())
    }
}
