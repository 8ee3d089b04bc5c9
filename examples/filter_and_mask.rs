//! A copy with only some of the documents, and without the data of people in them.
//!
//! `cargo run --example filter_and_mask -- SOURCE TARGET` migrates the paid orders of the collection `shop.orders`, and the customers of
//! `shop.customers` with tokens in place of their addresses, and prints what the target has. The key of the tokens is in the environment
//! variable `TOKEN_KEY`. Without arguments, the example starts its own servers, and uses a made-up key.
//!
//! The target stays up to date as long as the run follows the source. An order appears there when it is paid, and a changed address gets
//! its new token.

use std::error::Error;

use mongoferry::mongodb::Client;
use mongoferry::mongodb::bson::{Document, doc};
use mongoferry::rules::{FieldRules, HashKey, Mask};
use mongoferry::{Migration, MongoSink, MongoSource, Outcome};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The rules of the migration. The same address gets the same token in orders and customers, so that they can still be joined.
fn migration(source: MongoSource, sink: MongoSink, key: &HashKey) -> Result<Migration> {
    let customers = FieldRules::builder("customers without their data", "1")
        .hash("email", key)
        .mask("phones.number", Mask::text("***"))
        .drop("notes")
        .build()?;
    let orders = FieldRules::builder("orders without addresses", "1")
        .hash("email", key)
        .build()?;
    let migration = Migration::builder(source, sink)
        .include("shop.orders")
        .include("shop.customers")
        .filter("shop.orders", doc! { "paid": true })
        .transform("shop.orders", orders)
        .transform("shop.customers", customers)
        .build()?;
    Ok(migration)
}

/// Migrates, and prints what the target has. Once `stop_writes` has returned, nothing may write to the source any more.
async fn migrate(source: &str, target: &str, key: &str, stop_writes: impl Future<Output = ()>) -> Result<()> {
    let (from, to) = (MongoSource::connect(source).await?, MongoSink::connect(target).await?);
    let run = migration(from, to, &HashKey::new(key)?)?.start().await?;
    run.ready_to_cut_over().await?;
    let summary = run.cutover(stop_writes).await?;
    if summary.outcome != Outcome::Complete {
        return Err(format!("{summary:#?}").into());
    }
    let shop = |client: Client| client.database("shop");
    let (source, target) = (
        shop(Client::with_uri_str(source).await?),
        shop(Client::with_uri_str(target).await?),
    );
    let count = async |collection: &str, filter: Document| {
        target.collection::<Document>(collection).count_documents(filter).await
    };
    let all = source.collection::<Document>("orders").count_documents(doc! {}).await?;
    let (orders, customers) = (count("orders", doc! {}).await?, count("customers", doc! {}).await?);
    let shown = doc! { "$or": [{ "email": { "$regex": "@" } }, { "notes": { "$exists": true } }, { "phones.number": { "$ne": "***" } }] };
    match (
        count("orders", doc! { "paid": { "$ne": true } }).await?,
        count("customers", shown).await?,
    ) {
        (0, 0) => println!("the target has {orders} of {all} orders, and {customers} customers without their data"),
        wrong => return Err(format!("the target has what it should not have: {wrong:?}").into()),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, target] if arguments.iter().all(|uri| uri.starts_with("mongodb")) => {
            let key = std::env::var("TOKEN_KEY").map_err(|_| "set TOKEN_KEY to at least 16 random characters")?;
            migrate(source, target, &key, applications_stopped()).await
        }
        _ => {
            eprintln!("usage: cargo run --example filter_and_mask -- SOURCE TARGET (two connection strings)");
            std::process::exit(2)
        }
    }
}

/// Replace this with code that stops the applications.
async fn applications_stopped() {
    println!("everything is migrated: stop the applications, then press Enter");
    // The end of the input also counts as Enter.
    let _ = BufReader::new(stdin()).lines().next_line().await;
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry::mongodb::bson::{Document, doc};
    use mongoferry_testbed::{ReplicaSet, Version};

    pub async fn run() -> super::Result<()> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        let shop = old.client().await?.database("shop");
        let email = |number: i32| format!("customer-{number}@example.com");
        let customers = (0..20).map(|number| {
            doc! { "_id": number, "email": email(number), "notes": "likes tea", "phones": [{ "kind": "home", "number": "555-0100" }] }
        });
        shop.collection::<Document>("customers").insert_many(customers).await?;
        let orders =
            (0..100).map(|number| doc! { "_id": number, "email": email(number % 20), "paid": number % 2 == 0 });
        shop.collection::<Document>("orders").insert_many(orders).await?;
        super::migrate(&old.uri(), &new.uri(), "a made-up key for a made-up shop", async {}).await
    }
}
