//! A set that loses members while it is followed.

use super::*;

/// Inserts documents one by one, each until a majority has it, whatever happens to the servers.
async fn insert_through_everything(client: &Client, ids: std::ops::Range<i32>) {
    for id in ids {
        wait_until(PATIENCE, "an insert", async || {
            match collection(client, "items").insert_one(doc! { "_id": id }).await {
                Ok(_) => true,
                // Its answer was lost, or only the wait for the majority failed; a read says whether it is there.
                Err(_) => {
                    let found = collection(client, "items").find_one(doc! { "_id": id }).await;
                    matches!(found, Ok(Some(_)))
                }
            }
        })
        .await
        .unwrap();
    }
    wait_until(PATIENCE, "a mark", async || {
        let marks = collection(client, "marks");
        let done = marks
            .update_one(doc! { "_id": 0 }, doc! { "$set": { "done": true } })
            .await;
        matches!(done, Ok(result) if result.matched_count == 1)
    })
    .await
    .unwrap();
}

/// Follows a set while `trouble` happens to it in the middle of a thousand writes, and checks that each is yielded once and in order.
async fn follows_through(set: &ReplicaSet, trouble: impl AsyncFn(usize)) {
    const WRITES: i32 = 1000;
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let start = newest(&client).await;
    let writer = set.client().await.unwrap();
    let mut cursor = OplogCursor::builder(&client).after(start).build();
    let mut seen = Vec::new();
    let mut last = start;
    let follow = soon(async {
        loop {
            let entry = cursor.next().await.expect("the stream ended").unwrap();
            assert!(entry.position > last, "{} after {last}", entry.position);
            last = entry.position;
            for item in &entry.items {
                match item {
                    Item::Change(change) if change.namespace.as_str() == "shop.items" => seen.push(id(change).unwrap()),
                    Item::Change(_) => return,
                    Item::Command(_) => {}
                }
            }
        }
    });
    let write = async {
        insert_through_everything(&writer, 0..WRITES).await;
    };
    let disturb = async {
        for time in 0..2 {
            let done = collection(&writer, "items");
            wait_until(PATIENCE, "some writes", async || {
                let found = done.find_one(doc! { "_id": WRITES / 4 * (time + 1) }).await;
                matches!(found, Ok(Some(_)))
            })
            .await
            .unwrap();
            trouble(time as usize).await;
        }
    };
    tokio::join!(follow, write, disturb);
    assert_eq!(seen, (0..WRITES).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_step_downs() {
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap();
    follows_through(&set, async |_| set.step_down().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_step_downs_4_2() {
    let set = ReplicaSet::builder(Version::V4_2).members(3).start().await.unwrap();
    follows_through(&set, async |_| set.step_down().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_the_loss_of_primaries() {
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap();
    follows_through(&set, async |_| {
        let primary = set.primary_index().await.unwrap();
        set.kill(primary).await.unwrap();
        set.primary_index().await.unwrap();
        set.restart(primary).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_a_primary_that_hangs() {
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap();
    let hung = set.primary_index().await.unwrap();
    follows_through(&set, async |time| match time {
        0 => set.suspend(hung).await.unwrap(),
        _ => set.resume(hung).await.unwrap(),
    })
    .await;
}

async fn follows_through_restarts(version: Version) {
    let set = ReplicaSet::builder(version).start().await.unwrap();
    follows_through(&set, async |_| {
        set.kill(0).await.unwrap();
        set.restart(0).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_restarts_4_2() {
    follows_through_restarts(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_restarts_4_4() {
    follows_through_restarts(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_restarts_6_0() {
    follows_through_restarts(Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_through_killed_cursors() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    follows_through(&set, async |_| {
        client
            .database("admin")
            .run_command(doc! { "killAllSessions": [] })
            .await
            .unwrap();
    })
    .await;
}
