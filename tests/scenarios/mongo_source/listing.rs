//! What the source says of itself, its collections and its history.

use std::collections::BTreeMap;

use bson::{DateTime, Uuid, doc};
use futures::TryStreamExt;
use mongoferry::oplog::Item;
use mongoferry::{CollectionKind, ErrorKind, MongoSource, Namespace, Operation, Source};
use mongoferry_testbed::{ReplicaSet, Version};

use super::{Bed, DATABASE, integer};

async fn lists_collections(version: Version) {
    let bed = Bed::start(version).await;
    let mut expected = BTreeMap::new();
    let mut create = async |name: &str, options: bson::Document, kind| {
        let mut command = doc! { "create": name };
        command.extend(options);
        bed.run(command).await;
        expected.insert(name.to_owned(), (kind, 0));
    };
    let plain = CollectionKind::Plain;
    create("plain", doc! {}, plain).await;
    create("simple", doc! { "collation": { "locale": "simple" } }, plain).await;
    create("validated", doc! { "validator": { "a": 1 } }, plain).await;
    create("capped", doc! { "capped": true, "size": 4096 }, CollectionKind::Capped).await;
    create(
        "collated",
        doc! { "collation": { "locale": "de" } },
        CollectionKind::Unordered,
    )
    .await;
    create("view", doc! { "viewOn": "plain", "pipeline": [] }, CollectionKind::View).await;
    if version >= Version::V6_0 {
        let index = doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
        create("clustered", index, CollectionKind::Clustered).await;
    }
    if version >= Version::V5_0 {
        bed.run(doc! { "create": "weather", "timeseries": { "timeField": "time", "metaField": "place" } })
            .await;
        bed.insert(
            "weather",
            (0..7).map(|place| doc! { "time": DateTime::from_millis(0), "place": place }),
        )
        .await;
        let buckets = "system.buckets.weather".to_owned();
        expected.insert(buckets, (CollectionKind::TimeSeriesBuckets, 7));
    }
    bed.insert("plain", (0..5).map(|id| doc! { "_id": id })).await;
    bed.insert("capped", (0..3).map(|id| doc! { "_id": id })).await;
    bed.insert(
        "system.js",
        [doc! { "_id": "f", "value": bson::Bson::JavaScriptCode("1".into()) }],
    )
    .await;
    expected.insert("system.js".into(), (plain, 1));
    for (name, documents) in [("plain", 5), ("capped", 3)] {
        if let Some(found) = expected.get_mut(name) {
            found.1 = documents;
        }
    }
    // What belongs to the server, or to a migration that has this set as its target.
    bed.client
        .database("__mdb_internal_mongoferry")
        .create_collection("checkpoint")
        .await
        .unwrap();
    bed.run(doc! { "profile": 2 }).await;
    bed.run(doc! { "find": "plain" }).await;
    bed.run(doc! { "profile": 0 }).await;

    let collections = bed.source.collections().await.unwrap();
    let mut found = BTreeMap::new();
    for collection in &collections {
        assert_eq!(collection.namespace.database(), DATABASE);
        let name = collection.namespace.collection().to_owned();
        let is_view = collection.kind == CollectionKind::View;
        assert_eq!(collection.id == Uuid::from_bytes([0; 16]), is_view, "{name}");
        assert_eq!(collection.bytes > 0, collection.documents > 0, "{name}");
        let has_index = !is_view && collection.kind != CollectionKind::TimeSeriesBuckets;
        // 6.0 gives buckets an index on what their users know as metadata and time.
        if collection.kind != CollectionKind::TimeSeriesBuckets {
            assert_eq!(collection.indexes.len(), usize::from(has_index), "{name}");
        }
        found.insert(name, (collection.kind, collection.documents));
    }
    assert_eq!(found, expected);
    let validated = bed.collection("validated").await;
    assert!(validated.options.get_document("validator").is_ok());

    digests_tell_collections_apart(&bed, version).await;
    history_is_followed(&bed).await;
}

async fn digests_tell_collections_apart(bed: &Bed, version: Version) {
    let digest = async |name: &str| bed.source.digest(&Namespace::new(DATABASE, name)).await.unwrap();
    bed.insert("same", (0..5).rev().map(|id| doc! { "_id": id })).await;
    let plain = digest("plain").await;
    assert!(plain.is_some());
    assert_eq!(digest("same").await, plain);
    bed.insert("same", [doc! { "_id": 5 }]).await;
    assert_ne!(digest("same").await, plain);
    for (name, since) in [
        ("capped", Version::V4_2),
        ("collated", Version::V4_2),
        ("system.js", Version::V4_2),
        ("system.buckets.weather", Version::V5_0),
        ("clustered", Version::V6_0),
    ] {
        let ours = digest(name).await;
        assert_eq!(ours.is_some(), version >= since, "{name}");
        let reply = bed.run(doc! { "dbHash": 1, "collections": [name] }).await;
        let theirs = reply.get_document("collections").unwrap().get_str(name).ok();
        // Of a capped collection the server leaves out the order.
        if name != "capped" {
            assert_eq!(ours.as_deref(), theirs, "{name}");
        }
    }
    for name in ["view", "missing"] {
        assert_eq!(digest(name).await, None, "{name}");
    }
}

async fn history_is_followed(bed: &Bed) {
    let start = bed.source.start_position().await.unwrap();
    assert!(bed.source.oldest_position().await.unwrap() < start);
    bed.insert("plain", [doc! { "_id": 77 }]).await;
    let position = bed.source.position().await.unwrap();
    assert!(position > start);
    let mut tail = bed.source.tail(start).await.unwrap();
    let mut inserted = None;
    while inserted.is_none() {
        let entries = tail.try_next().await.unwrap().expect("a tail does not end");
        inserted = entries
            .iter()
            .flat_map(|entry| &entry.items)
            .find_map(|item| match item {
                Item::Change(change) if matches!(change.write.operation, Operation::Insert(_)) => {
                    Some((change.write.key.clone(), change.position))
                }
                _ => None,
            });
    }
    let (key, at) = inserted.unwrap();
    assert_eq!(key, integer(77));
    assert!(at > start && at <= position);
}

#[tokio::test]
async fn collections_of_every_kind_are_listed_4_2() {
    lists_collections(Version::V4_2).await;
}

#[tokio::test]
async fn collections_of_every_kind_are_listed_4_4() {
    lists_collections(Version::V4_4).await;
}

#[tokio::test]
async fn collections_of_every_kind_are_listed_5_0() {
    lists_collections(Version::V5_0).await;
}

#[tokio::test]
async fn collections_of_every_kind_are_listed_6_0() {
    lists_collections(Version::V6_0).await;
}

/// A user that may not list every database would otherwise migrate a part of them and never know.
#[tokio::test]
async fn a_user_that_does_not_see_every_database_is_refused() {
    let set = ReplicaSet::builder(Version::V6_0)
        .key_file_auth()
        .start()
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    client
        .database("admin")
        .run_command(doc! { "createUser": "part", "pwd": "secret-word", "roles": [{ "role": "read", "db": DATABASE }] })
        .await
        .unwrap();
    let hosts = set.member_address(0);
    let uri = format!("mongodb://part:secret-word@{hosts}/?replicaSet={}", set.name());
    let source = MongoSource::connect(&uri).await.unwrap();
    let error = source.collections().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    for text in [format!("{source:?}"), format!("{error:?}"), error.to_string()] {
        assert!(!text.contains("secret-word"), "{text}");
    }
    let all = MongoSource::connect(&set.uri()).await.unwrap();
    all.collections().await.unwrap();
}
