//! The oplog cursor on real replica sets.

use std::future::Future;
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Document, Timestamp, doc};
use futures::StreamExt;
use mongodb::options::{Acknowledgment, ClientOptions, CollectionOptions, ReadConcern, WriteConcern};
use mongodb::{Client, ClientSession, Collection};
use mongoferry::oplog::{CommandOperation, Entry, Item, OplogCursor};
use mongoferry::order::Key;
use mongoferry::{Change, ErrorKind, Operation, Position};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

/// How long anything here may take. Far more than it needs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for something that has to happen.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it did not happen in time")
}

/// The newest position. Only for sets that nobody else writes to.
async fn newest(client: &Client) -> Position {
    let mut found = None;
    wait_until(PATIENCE, "a majority for the newest entry", async || {
        let Ok(hello) = client.database("admin").run_command(doc! { "isMaster": 1 }).await else {
            return false;
        };
        let last_write = hello.get_document("lastWrite").unwrap();
        let (Ok(newest), Ok(majority)) = (
            last_write.get_document("opTime"),
            last_write.get_document("majorityOpTime"),
        ) else {
            return false;
        };
        found = Some(Position::new(
            newest.get_timestamp("ts").unwrap(),
            newest.get_i64("t").unwrap(),
        ));
        newest == majority
    })
    .await
    .unwrap();
    found.unwrap()
}

/// A collection whose writes wait for a majority and whose reads see nothing else.
fn collection(client: &Client, name: &str) -> Collection<Document> {
    let mut concern = WriteConcern::default();
    concern.w = Some(Acknowledgment::Majority);
    let mut options = CollectionOptions::default();
    options.write_concern = Some(concern);
    options.read_concern = Some(ReadConcern::majority());
    client.database("shop").collection_with_options(name, options)
}

/// Writes the document that [`until_mark`] waits for.
async fn mark(client: &Client, number: i32) {
    collection(client, "marks")
        .insert_one(doc! { "_id": number })
        .await
        .unwrap();
}

fn is_mark(entry: &Entry, number: i32) -> bool {
    entry.items.iter().any(|item| {
        matches!(item, Item::Change(change) if change.namespace.as_str() == "shop.marks" && id(change) == Some(number))
    })
}

/// The entries up to the one of that mark, which is among them.
async fn until_mark(cursor: &mut OplogCursor, number: i32) -> Vec<Entry> {
    let mut entries = Vec::new();
    soon(async {
        loop {
            let entry = cursor.next().await.expect("the stream ended").unwrap();
            let found = is_mark(&entry, number);
            entries.push(entry);
            if found {
                return;
            }
        }
    })
    .await;
    entries
}

/// A small integer `_id`.
fn id(change: &Change) -> Option<i32> {
    (0..3000).find(|id| Key::from(RawBsonRef::Int32(*id)) == change.write.key)
}

/// An item in one line.
fn line(item: &Item) -> String {
    match item {
        Item::Change(change) => {
            let kind = match &change.write.operation {
                Operation::Insert(_) => "insert",
                Operation::Replace(_) => "replace",
                Operation::Delta(_) => "delta",
                Operation::Delete => "delete",
            };
            format!("{kind} {} {}", change.namespace, id(change).unwrap())
        }
        Item::Command(command) => match &command.operation {
            CommandOperation::Create { namespace, .. } => format!("create {namespace}"),
            CommandOperation::CreateIndexes { namespace, indexes } => {
                format!("index {namespace} {}", indexes[0].get_str("name").unwrap())
            }
            CommandOperation::DropIndex { namespace, name } => format!("drop index {namespace} {name}"),
            CommandOperation::Modify { namespace, .. } => format!("modify {namespace}"),
            CommandOperation::Drop { namespace } => format!("drop {namespace}"),
            CommandOperation::DropDatabase { database } => format!("drop database {database}"),
            CommandOperation::Rename { from, to, dropped } => format!("rename {from} {to} {}", dropped.is_some()),
            CommandOperation::SetView { namespace, .. } => format!("view {namespace}"),
            CommandOperation::DropView { namespace } => format!("drop view {namespace}"),
            other => format!("{other:?}"),
        },
    }
}

fn lines(entries: &[Entry]) -> Vec<String> {
    entries.iter().flat_map(|entry| &entry.items).map(line).collect()
}

/// All there is to say of entries, to compare what two cursors gave.
fn told(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| format!("{} {:?} {:?}", entry.position, entry.wall, entry.items))
        .collect()
}

/// A set that logs transactions of more than two operations in parts.
async fn set(version: Version) -> ReplicaSet {
    ReplicaSet::builder(version)
        .set_parameter("maxNumberOfTransactionOperationsInSingleOplogEntry", 2)
        .start()
        .await
        .unwrap()
}

/// Prepares a transaction that inserts these documents, and gives its prepare timestamp.
async fn prepare(client: &Client, session: &mut ClientSession, ids: std::ops::Range<i32>) -> Timestamp {
    session.start_transaction().await.unwrap();
    for id in ids {
        collection(client, "items")
            .insert_one(doc! { "_id": id })
            .session(&mut *session)
            .await
            .unwrap();
    }
    let prepared = client
        .database("admin")
        .run_command(doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } })
        .session(&mut *session)
        .await
        .unwrap();
    prepared.get_timestamp("prepareTimestamp").unwrap()
}

async fn commit(client: &Client, session: &mut ClientSession, at: Timestamp) {
    client
        .database("admin")
        .run_command(doc! { "commitTransaction": 1, "commitTimestamp": at, "writeConcern": { "w": "majority" } })
        .session(&mut *session)
        .await
        .unwrap();
}

async fn every_kind_of_write(version: Version) {
    let set = set(version).await;
    let client = set.client().await.unwrap();
    let start = newest(&client).await;
    let shop = client.database("shop");
    let items = collection(&client, "items");

    items.insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
    items.insert_many([doc! { "_id": 2 }, doc! { "_id": 3 }]).await.unwrap();
    items
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "b": 1 } })
        .await
        .unwrap();
    items.replace_one(doc! { "_id": 2 }, doc! { "c": 1 }).await.unwrap();
    items.delete_one(doc! { "_id": 3 }).await.unwrap();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 10..15 {
        items
            .insert_one(doc! { "_id": id })
            .session(&mut session)
            .await
            .unwrap();
    }
    session.commit_transaction().await.unwrap();
    session.start_transaction().await.unwrap();
    items
        .insert_one(doc! { "_id": 20 })
        .session(&mut session)
        .await
        .unwrap();
    session.abort_transaction().await.unwrap();
    // Another write while a transaction is prepared.
    let mut prepared = client.start_session().await.unwrap();
    let at = prepare(&client, &mut prepared, 30..33).await;
    items.insert_one(doc! { "_id": 4 }).await.unwrap();
    commit(&client, &mut prepared, at).await;
    for command in [
        doc! { "createIndexes": "items", "indexes": [{ "key": { "a": 1 }, "name": "a" }] },
        doc! { "collMod": "items", "validationLevel": "moderate" },
        doc! { "dropIndexes": "items", "index": "a" },
        doc! { "create": "view", "viewOn": "items", "pipeline": [] },
        doc! { "drop": "view" },
        doc! { "create": "other" },
    ] {
        shop.run_command(command).await.unwrap();
    }
    client
        .database("admin")
        .run_command(doc! { "renameCollection": "shop.items", "to": "shop.other", "dropTarget": true })
        .await
        .unwrap();
    shop.run_command(doc! { "drop": "other" }).await.unwrap();
    let gone = client.database("gone");
    gone.run_command(doc! { "create": "x" }).await.unwrap();
    gone.run_command(doc! { "dropDatabase": 1 }).await.unwrap();
    mark(&client, 0).await;

    let mut cursor = OplogCursor::builder(&client).after(start).build();
    let entries = until_mark(&mut cursor, 0).await;
    let expected = "create shop.items; insert shop.items 1; insert shop.items 2; insert shop.items 3; delta shop.items 1; \
        replace shop.items 2; delete shop.items 3; insert shop.items 10; insert shop.items 11; insert shop.items 12; \
        insert shop.items 13; insert shop.items 14; insert shop.items 4; insert shop.items 30; insert shop.items 31; \
        insert shop.items 32; index shop.items a; modify shop.items; drop index shop.items a; view shop.view; \
        drop view shop.view; create shop.other; rename shop.items shop.other true; drop shop.other; create gone.x; \
        drop gone.x; drop database gone; create shop.marks; insert shop.marks 0";
    assert_eq!(lines(&entries).join("; "), expected);
    assert!(entries.is_sorted_by(|left, right| left.position < right.position));
    assert_eq!(cursor.position(), Some(entries.last().unwrap().position));
    assert_eq!(cursor.resume_position(), cursor.position());
    // The split and the prepared one.
    assert!(entries.iter().filter(|entry| entry.resume < entry.position).count() >= 4);

    // From every place, with the position to resume at as well as with the position itself.
    for (at, entry) in entries[..entries.len() - 1].iter().enumerate() {
        for after in [entry.resume, entry.position] {
            let mut cursor = OplogCursor::builder(&client).after(after).build();
            let mut again = until_mark(&mut cursor, 0).await;
            if after == entry.resume {
                assert!(again.len() >= entries.len() - at - 1);
            }
            again.retain(|other| other.position > entry.position);
            assert_eq!(told(&again), told(&entries[at + 1..]), "after {after}");
        }
    }
}

#[tokio::test]
async fn every_kind_of_write_4_2() {
    every_kind_of_write(Version::V4_2).await;
}

#[tokio::test]
async fn every_kind_of_write_4_4() {
    every_kind_of_write(Version::V4_4).await;
}

#[tokio::test]
async fn every_kind_of_write_6_0() {
    every_kind_of_write(Version::V6_0).await;
}

async fn large_transaction(version: Version) {
    // What a transaction has written cannot leave the cache before it commits: 4.4 waits for ever in a small one.
    let set = ReplicaSet::builder(version).cache_gb(1.0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    collection(&client, "items")
        .insert_one(doc! { "_id": 0 })
        .await
        .unwrap();
    let start = newest(&client).await;
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 1..5 {
        let document = doc! { "_id": id, "large": "x".repeat(6 << 20) };
        collection(&client, "items")
            .insert_one(document)
            .session(&mut session)
            .await
            .unwrap();
    }
    session.commit_transaction().await.unwrap();
    mark(&client, 1).await;

    let mut cursor = OplogCursor::builder(&client).after(start).build();
    let entries = until_mark(&mut cursor, 1).await;
    let whole: Vec<&Entry> = entries.iter().filter(|entry| !entry.items.is_empty()).collect();
    assert_eq!(whole.len(), 2);
    assert_eq!(
        lines(&entries)[..4].join(";"),
        "insert shop.items 1;insert shop.items 2;insert shop.items 3;insert shop.items 4"
    );
    assert!(
        whole[0].bytes > 24 << 20 && entries.len() > 2,
        "it was logged in one entry"
    );
    let (part, commit) = (entries[0].position, whole[0].position);

    // From the middle of it: what was logged before is fetched.
    let mut cursor = OplogCursor::builder(&client).after(part).build();
    let again = until_mark(&mut cursor, 1).await;
    assert_eq!(
        again.iter().find(|entry| entry.position == commit).unwrap().items.len(),
        4
    );

    // With less memory than it takes it comes in parts.
    for after in [start, part] {
        let mut cursor = OplogCursor::builder(&client)
            .after(after)
            .transaction_bytes(1 << 20)
            .build();
        let mut in_parts = Vec::new();
        loop {
            let entry = soon(cursor.next()).await.unwrap().unwrap();
            assert!(cursor.transaction_bytes() <= 1 << 20);
            if entry.position < commit {
                continue;
            }
            assert_eq!(entry.position, commit);
            let continues = entry.continues;
            assert_eq!(cursor.resume_position() == Some(commit), !continues);
            in_parts.push(entry);
            if !continues {
                break;
            }
        }
        assert!(in_parts.len() > 1);
        assert_eq!(
            lines(&in_parts).join(";"),
            "insert shop.items 1;insert shop.items 2;insert shop.items 3;insert shop.items 4"
        );
        let resume = in_parts[0].resume;
        assert!(resume <= after, "the transaction would be missed");
        until_mark(&mut cursor, 1).await;
    }
}

#[tokio::test]
async fn large_transaction_4_2() {
    large_transaction(Version::V4_2).await;
}

#[tokio::test]
async fn large_transaction_4_4() {
    large_transaction(Version::V4_4).await;
}

#[tokio::test]
async fn large_transaction_6_0() {
    large_transaction(Version::V6_0).await;
}

async fn starts_before_a_prepared_transaction(version: Version) {
    let set = set(version).await;
    let client = set.client().await.unwrap();
    collection(&client, "items")
        .insert_one(doc! { "_id": 0 })
        .await
        .unwrap();
    let mut session = client.start_session().await.unwrap();
    let at = prepare(&client, &mut session, 1..6).await;
    mark(&client, 1).await;

    let mut cursor = OplogCursor::builder(&client).build();
    assert_eq!(cursor.position(), None);
    let entries = until_mark(&mut cursor, 1).await;
    assert_eq!(lines(&entries).join(";"), "create shop.marks;insert shop.marks 1");
    assert!(cursor.transaction_bytes() > 0);
    let held = cursor.resume_position().unwrap();
    assert!(
        held < entries[0].position,
        "the position to resume at is not before the transaction"
    );
    assert!(entries.iter().all(|entry| entry.resume == held));
    commit(&client, &mut session, at).await;
    mark(&client, 2).await;
    let entries = until_mark(&mut cursor, 2).await;
    assert_eq!(
        lines(&entries).join(";"),
        "insert shop.items 1;insert shop.items 2;insert shop.items 3;insert shop.items 4;insert shop.items 5;insert shop.marks 2"
    );
    assert_eq!(cursor.resume_position(), cursor.position());
    assert_eq!(cursor.transaction_bytes(), 0);

    // After the commit there is nothing to wait for: what is newest is where a new cursor starts.
    let newest = newest(&client).await;
    let mut cursor = OplogCursor::builder(&client).build();
    let (entries, ()) = tokio::join!(until_mark(&mut cursor, 3), async {
        // Written over and over, since nobody knows when the cursor has found its place.
        loop {
            let update = doc! { "$inc": { "n": 1 } };
            let marks = collection(&client, "marks");
            marks.update_one(doc! { "_id": 2 }, update).await.unwrap();
            if marks
                .find_one(doc! { "_id": 2, "n": { "$gt": 100 } })
                .await
                .unwrap()
                .is_some()
            {
                mark(&client, 3).await;
                return;
            }
        }
    });
    assert!(entries[0].position > newest);
}

#[tokio::test]
async fn starts_before_a_prepared_transaction_4_2() {
    starts_before_a_prepared_transaction(Version::V4_2).await;
}

#[tokio::test]
async fn starts_before_a_prepared_transaction_4_4() {
    starts_before_a_prepared_transaction(Version::V4_4).await;
}

#[tokio::test]
async fn starts_before_a_prepared_transaction_6_0() {
    starts_before_a_prepared_transaction(Version::V6_0).await;
}

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

async fn a_position_that_rolled_off_is_lost(version: Version) {
    let set = ReplicaSet::builder(version)
        .oplog_size_mb(1)
        .arg("--syncdelay")
        .arg("1")
        .start()
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let start = newest(&client).await;
    // One that has its place on the server, and is not polled while the oplog rolls over it and over the batch that it has asked for ahead.
    let mut live = OplogCursor::builder(&client).after(start).build();
    mark(&client, 1).await;
    until_mark(&mut live, 1).await;
    // A server also says so of a cursor that it lost on its way to what is still there, and of one that stands.
    let lose_next = async |command: &str| {
        let data = doc! { "failCommands": [command], "errorCode": 136 };
        let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
        client.database("admin").run_command(fail).await.unwrap();
    };
    lose_next("find").await;
    until_mark(&mut OplogCursor::builder(&client).after(start).build(), 1).await;
    lose_next("getMore").await;
    // The first one may come with the answer that the server owed already.
    for number in [2, 3] {
        mark(&client, number).await;
        until_mark(&mut live, number).await;
    }

    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let filler = collection(&client, "filler");
    let fill = async || {
        let documents: Vec<Document> = (0..40).map(|_| doc! { "large": "x".repeat(50 << 10) }).collect();
        filler.insert_many(documents).await.unwrap();
        filler.drop().await.unwrap();
    };
    for _ in 0..3 {
        fill().await;
    }
    let ahead = newest(&client).await;
    wait_until(PATIENCE, "the oplog to roll over", async || {
        fill().await;
        // The oldest entry may be gone before it is answered.
        let Ok(Some(oldest)) = oplog.find_one(doc! {}).await else {
            return false;
        };
        oldest.get_timestamp("ts").unwrap() > ahead.timestamp()
            && Position::new(oldest.get_timestamp("ts").unwrap(), 0).time > live.position().unwrap().time
    })
    .await
    .unwrap();

    let since = OplogCursor::builder(&client).from_timestamp(start.timestamp()).build();
    for mut cursor in [live, since, OplogCursor::builder(&client).after(start).build()] {
        let error = soon(async {
            loop {
                if let Err(error) = cursor.next().await.expect("the stream ended") {
                    return error;
                }
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("the oplog no longer contains"), "{error}");
        assert!(error.to_string().contains("its oldest entry is"), "{error}");
    }
}

#[tokio::test]
async fn a_position_that_rolled_off_is_lost_4_2() {
    a_position_that_rolled_off_is_lost(Version::V4_2).await;
}

#[tokio::test]
async fn a_position_that_rolled_off_is_lost_4_4() {
    a_position_that_rolled_off_is_lost(Version::V4_4).await;
}

#[tokio::test]
async fn a_position_that_rolled_off_is_lost_6_0() {
    a_position_that_rolled_off_is_lost(Version::V6_0).await;
}

#[tokio::test]
async fn a_position_of_another_history_is_lost() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let newest = newest(&client).await;
    mark(&client, 1).await;
    let other_term = Position {
        term: newest.term + 1,
        ..newest
    };
    let between = Position {
        increment: newest.increment + 1000,
        ..newest
    };
    let future = Position {
        time: newest.time + 1000,
        ..newest
    };
    for after in [other_term, between, future] {
        let mut cursor = OplogCursor::builder(&client).after(after).build();
        let error = soon(cursor.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        assert!(error.to_string().contains("does not contain"), "{error}");
    }
}

#[tokio::test]
async fn an_idle_source_moves_on() {
    let set = ReplicaSet::builder(Version::V6_0)
        .set_parameter("periodicNoopIntervalSecs", 1)
        .start()
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let mut cursor = OplogCursor::builder(&client).after(newest(&client).await).build();
    for _ in 0..3 {
        let entry = soon(cursor.next()).await.unwrap().unwrap();
        assert_eq!(entry.items.len(), 0);
        assert_eq!(entry.resume, entry.position);
    }
}

#[tokio::test]
async fn batches_are_small_and_complete() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let start = newest(&client).await;
    for first in (0..3000).step_by(100) {
        let documents: Vec<Document> = (first..first + 100)
            .map(|id| doc! { "_id": id, "text": "x".repeat(10_000) })
            .collect();
        collection(&client, "items").insert_many(documents).await.unwrap();
    }
    let mut batches = OplogCursor::builder(&client).after(start).build().into_batches();
    let mut seen = 0;
    let mut vectors = 0;
    soon(async {
        while seen < 3000 {
            let entries = batches.next().await.unwrap().unwrap();
            assert!(!entries.is_empty());
            let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
            assert!(bytes < (1 << 20) + 20_000, "{bytes}");
            vectors += 1;
            for entry in &entries {
                for item in &entry.items {
                    if let Item::Change(change) = item {
                        assert_eq!(change.write.key, Key::from(RawBsonRef::Int32(seen)));
                        seen += 1;
                    }
                }
            }
        }
    })
    .await;
    assert!(vectors >= 30, "{vectors}");
}

/// The cursors that are open on the server.
async fn open_cursors(client: &Client) -> i64 {
    let status = client
        .database("admin")
        .run_command(doc! { "serverStatus": 1 })
        .await
        .unwrap();
    let cursors = status.get_document("metrics").unwrap().get_document("cursor").unwrap();
    cursors.get_document("open").unwrap().get_i64("total").unwrap()
}

#[tokio::test]
async fn dropping_a_cursor_kills_it_on_the_server() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let mut cursor = OplogCursor::builder(&client).after(newest(&client).await).build();
    mark(&client, 1).await;
    until_mark(&mut cursor, 1).await;
    assert!(open_cursors(&client).await > 0);
    drop(cursor);
    wait_until(PATIENCE, "the cursor's end", async || open_cursors(&client).await == 0)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_may_not_be_read_is_named() {
    let set = ReplicaSet::builder(Version::V6_0)
        .key_file_auth()
        .start()
        .await
        .unwrap();
    let root = set.client().await.unwrap();
    root.database("admin")
        .run_command(doc! { "createUser": "clerk", "pwd": "secret-word", "roles": ["readWriteAnyDatabase"] })
        .await
        .unwrap();
    let start = newest(&root).await;
    let mut options = ClientOptions::parse(set.uri()).await.unwrap();
    let credential = options.credential.as_mut().unwrap();
    credential.username = Some("clerk".to_owned());
    credential.password = Some("secret-word".to_owned());
    let client = Client::with_options(options).unwrap();
    for (builder, place) in [
        (OplogCursor::builder(&client), "config.transactions"),
        (OplogCursor::builder(&client).after(start), "local.oplog.rs"),
    ] {
        let error = soon(builder.build().next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(place) && !text.contains("secret-word"), "{text}");
    }
}
