//! How long the source's writes take.

use std::time::Duration;

use bson::doc;
use mongoferry::Source;
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::{Bed, PATIENCE};

/// A block of writes that takes a known time at least, since the collection is locked for it.
const SLOW: Duration = Duration::from_millis(700);

async fn tells_of_the_writes_of_clients(version: Version) {
    let bed = Bed::of(ReplicaSet::builder(version).enable_test_commands(true)).await;
    bed.insert("orders", [doc! { "_id": 0 }]).await;
    let before = bed.source.write_load().await.unwrap().unwrap();
    let locked = async {
        let command = doc! {
            "sleep": 1, "millis": SLOW.as_millis() as i64, "lock": "w", "lockTarget": "shop.orders",
        };
        bed.admin(command).await;
    };
    let written = async {
        let is_locked = async || {
            let found = bed.admin(doc! { "currentOp": 1, "command.sleep": 1, "locks.Collection": { "$exists": true } });
            !found.await.get_array("inprog").unwrap().is_empty()
        };
        wait_until(PATIENCE, "the lock", is_locked).await.unwrap();
        for n in 0..40 {
            bed.run(doc! { "update": "orders", "updates": [{ "q": { "_id": 0 }, "u": { "$set": { "n": n } } }] })
                .await;
        }
    };
    tokio::join!(locked, written);
    // Reads are none.
    bed.run(doc! { "find": "orders" }).await;
    let after = bed.source.write_load().await.unwrap().unwrap();
    let operations = after.operations - before.operations;
    // The server may write something by itself.
    assert!((40..60).contains(&operations), "{operations}");
    let time = after.time - before.time;
    assert!(time >= SLOW / 2 && time < Duration::from_secs(20), "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_of_the_writes_of_clients_of_4_2() {
    tells_of_the_writes_of_clients(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_of_the_writes_of_clients_of_6_0() {
    tells_of_the_writes_of_clients(Version::V6_0).await;
}
