//! The comparison finds every kind of difference between two real sets, and none where there is none.

use mongodb::{
    Client,
    bson::{Document, doc},
};
use mongoferry_testbed::{
    ReplicaSet, TestbedError, Version,
    compare::{CompareOptions, DifferenceKind, assert_identical, differences},
};

type TestResult = Result<(), TestbedError>;

/// The same on both sides; `database` is where it goes.
async fn fill(client: &Client, database: &str) {
    let database = client.database(database);
    let things = database.collection::<Document>("things");
    things
        .insert_many((0..1000).map(|id| doc! { "_id": id, "a": { "b": id } }))
        .await
        .unwrap();
    for command in [
        doc! { "createIndexes": "things", "indexes": [{ "key": { "a.b": 1 }, "name": "by_b" }] },
        doc! { "create": "log", "capped": true, "size": 100_000 },
        doc! { "create": "view", "viewOn": "things", "pipeline": [{ "$match": { "a.b": 1 } }] },
    ] {
        database.run_command(command).await.unwrap();
    }
    let log = database.collection::<Document>("log");
    for id in [3, 1, 2] {
        log.insert_one(doc! { "_id": id }).await.unwrap();
    }
}

fn kinds(found: Vec<mongoferry_testbed::compare::Difference>, namespace: &str) -> Vec<DifferenceKind> {
    found
        .into_iter()
        .map(|difference| {
            assert_eq!(difference.namespace, namespace, "{difference}");
            difference.kind
        })
        .collect()
}

#[tokio::test]
async fn every_kind_of_difference_is_found() -> TestResult {
    let (source, target) = tokio::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).start()
    )?;
    let (source, target) = (source.client().await?, target.client().await?);
    fill(&source, "one").await;
    fill(&target, "one").await;
    let options = CompareOptions::default();
    assert_identical(&source, &target, &options).await?;

    let database = target.database("one");
    let things = database.collection::<Document>("things");
    let found = async || differences(&source, &target, &options).await.unwrap();

    // The same fields in another order, the same number in another type.
    things
        .replace_one(doc! { "_id": 7 }, doc! { "a": { "b": 7_i64 } })
        .await
        .unwrap();
    assert!(matches!(&kinds(found().await, "one.things")[..], [DifferenceKind::Document(id)] if id.contains("7")));
    things
        .replace_one(doc! { "_id": 7 }, doc! { "a": { "b": 7 } })
        .await
        .unwrap();

    things.delete_one(doc! { "_id": 500 }).await.unwrap();
    assert!(
        matches!(&kinds(found().await, "one.things")[..], [DifferenceKind::MissingDocument(id)] if id.contains("500"))
    );
    things
        .insert_many([doc! { "_id": 500, "a": { "b": 500 } }, doc! { "_id": -1 }])
        .await
        .unwrap();
    assert!(
        matches!(&kinds(found().await, "one.things")[..], [DifferenceKind::ExtraDocument(id)] if id.contains("-1"))
    );
    things.delete_one(doc! { "_id": -1 }).await.unwrap();

    things.delete_many(doc! { "_id": { "$lt": 50 } }).await.unwrap();
    let kinds_of_many = kinds(found().await, "one.things");
    assert_eq!(kinds_of_many.len(), 21);
    assert_eq!(kinds_of_many[20], DifferenceKind::MoreDocuments(30));
    things
        .insert_many((0..50).map(|id| doc! { "_id": id, "a": { "b": id } }))
        .await
        .unwrap();
    assert_identical(&source, &target, &options).await?;

    for (change, undo) in [
        (
            doc! { "collMod": "things", "index": { "name": "by_b", "hidden": true } },
            doc! { "collMod": "things", "index": { "name": "by_b", "hidden": false } },
        ),
        (
            doc! { "createIndexes": "things", "indexes": [{ "key": { "c": 1 }, "name": "by_c" }] },
            doc! { "dropIndexes": "things", "index": "by_c" },
        ),
    ] {
        database.run_command(change).await.unwrap();
        assert!(matches!(
            &kinds(found().await, "one.things")[..],
            [DifferenceKind::Index { .. }]
        ));
        database.run_command(undo).await.unwrap();
    }

    let validation = |validator: Document, level: &str| {
        doc! { "collMod": "things", "validator": validator, "validationLevel": level, "validationAction": "error" }
    };
    for (validator, level) in [(doc! { "a": 1 }, "strict"), (doc! {}, "moderate")] {
        database.run_command(validation(validator, level)).await.unwrap();
        assert!(matches!(
            &kinds(found().await, "one.things")[..],
            [DifferenceKind::Options { .. }]
        ));
    }
    // They stay in the options, and mean what their absence does.
    database.run_command(validation(doc! {}, "strict")).await.unwrap();
    assert_identical(&source, &target, &options).await?;

    let pipeline =
        |value: i32| doc! { "collMod": "view", "viewOn": "things", "pipeline": [{ "$match": { "a": value } }] };
    database.run_command(pipeline(2)).await.unwrap();
    assert!(matches!(
        &kinds(found().await, "one.view")[..],
        [DifferenceKind::Options { .. }]
    ));
    database.run_command(doc! { "drop": "view" }).await.unwrap();
    assert_eq!(kinds(found().await, "one.view"), [DifferenceKind::MissingCollection]);
    source
        .database("one")
        .run_command(doc! { "drop": "view" })
        .await
        .unwrap();

    database.run_command(doc! { "create": "more" }).await.unwrap();
    assert_eq!(kinds(found().await, "one.more"), [DifferenceKind::ExtraCollection]);
    database.run_command(doc! { "drop": "more" }).await.unwrap();

    database.run_command(doc! { "drop": "log" }).await.unwrap();
    database
        .run_command(doc! { "create": "log", "capped": true, "size": 100_000 })
        .await
        .unwrap();
    let log = database.collection::<Document>("log");
    log.insert_many([doc! { "_id": 3 }, doc! { "_id": 2 }, doc! { "_id": 1 }])
        .await
        .unwrap();
    assert!(matches!(&kinds(found().await, "one.log")[..], [DifferenceKind::Order(id)] if id.contains("1")));
    Ok(())
}

#[tokio::test]
async fn renames_and_a_choice_of_namespaces_are_followed() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let client = set.client().await?;
    fill(&client, "one").await;
    fill(&client, "two").await;
    let rename = |name: &str| CompareOptions {
        namespaces: Some(vec!["one.things".to_owned(), "one.log".to_owned()]),
        renames: vec![
            ("one.things".to_owned(), name.to_owned()),
            ("one.*".to_owned(), "two.*".to_owned()),
        ],
        ..CompareOptions::default()
    };
    assert_identical(&client, &client, &rename("two.things")).await?;
    let found = differences(&client, &client, &rename("two.other")).await?;
    assert_eq!(kinds(found, "one.things"), [DifferenceKind::MissingCollection]);
    Ok(())
}
