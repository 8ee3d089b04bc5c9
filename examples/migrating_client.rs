//! Applications that switch to the new replica set by themselves, with a `MigratingClient`.
//!
//! The applications get their client from a `MigratingClient`. It holds their calls during the cutover, and then lets
//! them continue with the new replica set.
//!
//! `cargo run --example migrating_client` starts two replica sets of its own, and migrates from one to the other while
//! several tasks write. It prints how many calls were held and for how long. Then it reverses the hand-over in the same
//! way.

use std::error::Error;
use std::time::Duration;

use mongodb::bson::{Document, doc, oid::ObjectId};
use mongoferry::{MigratingClient, Migration, MigrationHandle, MongoSink, MongoSource, Outcome, Summary};
use mongoferry_testbed::{ReplicaSet, Version, workload};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Maximum time for the applications' operations to end.
const DRAIN: Duration = Duration::from_secs(10);

/// An application that is unaware of the migration. Returns the number of orders that it has written.
async fn application(clients: MigratingClient, stop: watch::Receiver<bool>) -> Result<u64> {
    let mut orders = 0;
    while !*stop.borrow() {
        let order = ObjectId::new();
        // One operation: statements that belong together use one client.
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

/// Hands over as soon as the run is ready, and prints what the applications noticed.
async fn hand_over(clients: &MigratingClient, run: &MigrationHandle) -> Result<Summary> {
    let cutover = clients.cutover(run, DRAIN).await?;
    if cutover.summary.outcome != Outcome::Complete {
        // The applications stay on the side they were on.
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

    // The opposite direction copies nothing. The applications may stay on the new set for any length of time first.
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
