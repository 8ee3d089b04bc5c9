//! Transactions that are large or prepared.

use super::*;

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
