//! What scenarios wait for, each within a deadline.

use std::time::Duration;

use bson::{Document, doc};
use futures::{Stream, StreamExt};
use mongodb::Client;
use mongoferry::{Event, MigrationHandle, Summary};
use mongoferry_testbed::wait_until;
use tokio::time::timeout;

/// How long anything may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// Waits until the run can be cut over.
pub(crate) async fn ready(run: &MigrationHandle) {
    let ready = run.ready_to_cut_over();
    timeout(DEADLINE, ready).await.unwrap().unwrap();
}

/// Hands over from a source that nothing writes to any more.
pub(crate) async fn cut_over(run: &MigrationHandle) -> Summary {
    timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap()
}

/// Waits for an event that `find` finds something in.
pub(crate) async fn event<T>(events: &mut (impl Stream<Item = Event> + Unpin), find: impl Fn(Event) -> Option<T>) -> T {
    let found = async {
        while let Some(event) = events.next().await {
            if let Some(found) = find(event) {
                return found;
            }
        }
        panic!("the run ended");
    };
    timeout(DEADLINE, found).await.expect("the event comes")
}

/// Fills a set's oplog until it holds nothing of what it held before.
pub(crate) async fn roll_over(client: &Client) {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.unwrap();
    let before = newest.unwrap().get_timestamp("ts").unwrap();
    let filler = client.database("junk").collection::<Document>("filler");
    wait_until(DEADLINE, "the oplog to roll over", async || {
        let documents = (0..40).map(|_| doc! { "large": "x".repeat(50 << 10) });
        filler.insert_many(documents).await.unwrap();
        filler.drop().await.unwrap();
        let oldest = oplog.find_one(doc! {}).await.unwrap().unwrap();
        oldest.get_timestamp("ts").unwrap() > before
    })
    .await
    .unwrap();
}
