//! Every kind of write, and a cursor that starts at each of them.

use super::*;

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
