//! Applications that switch to the new replica set by themselves, with a `MigratingClient`.
//!
//! The applications get their client from a `MigratingClient`. It holds their calls during the cutover, and then lets
//! them continue with the new replica set.
//!
//! `cargo run --example migrating_client -- SOURCE TARGET` writes to the collection `shop.applications` of one replica set in several
//! tasks, and moves it to the other one meanwhile. It prints how many calls were held and for how long. Then it reverses the hand-over in
//! the same way. Without arguments, the example starts its own servers.

use std::error::Error;
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc, oid::ObjectId};
use mongoferry::{MigratingClient, Migration, MigrationHandle, MongoSink, MongoSource, Outcome, Summary};
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

/// Moves the collection of the applications to the target and back.
async fn there_and_back(source: &str, target: &str) -> Result<()> {
    let on_source = Client::with_uri_str(source).await?;
    let clients = MigratingClient::new(on_source.clone(), Client::with_uri_str(target).await?);
    let found = on_source.database("shop").collection::<Document>("applications");
    let before = found.count_documents(doc! { "paid": true }).await?;
    let (stop, stopped) = watch::channel(false);
    let mut applications = JoinSet::new();
    for _ in 0..4 {
        applications.spawn(application(clients.clone(), stopped.clone()));
    }

    let migration = Migration::builder(MongoSource::connect(source).await?, MongoSink::connect(target).await?);
    let run = migration.include("shop.applications").build()?.start().await?;
    let summary = hand_over(&clients, &run).await?;

    // The opposite direction copies nothing. The applications may stay on the new set for any length of time first.
    let (source, sink) = (MongoSource::connect(target).await?, MongoSink::connect(source).await?);
    let back = summary.reverse(source, sink)?.build()?.start().await?;
    hand_over(&clients, &back).await?;

    stop.send_replace(true);
    let mut written = 0;
    while let Some(ended) = applications.join_next().await {
        written += ended??;
    }
    let found = found.count_documents(doc! { "paid": true }).await? - before;
    println!("{written} orders were written, {found} are there");
    match found == written {
        true => Ok(()),
        false => Err("orders were lost".into()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, target] if arguments.iter().all(|uri| uri.starts_with("mongodb")) => {
            there_and_back(source, target).await
        }
        _ => {
            eprintln!("usage: cargo run --example migrating_client -- SOURCE TARGET (two connection strings)");
            std::process::exit(2)
        }
    }
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry_testbed::{ReplicaSet, Version};

    pub async fn run() -> super::Result<()> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        super::there_and_back(&old.uri(), &new.uri()).await
    }
}
