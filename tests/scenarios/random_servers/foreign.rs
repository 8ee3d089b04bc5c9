//! Collections that stood on the target before.

use bson::{Document, doc};
use mongodb::Client;

/// A document that the source never has.
const MARK: &str = "foreign";

/// Under names that the source may have or come to have. Of those that are not selected nothing is expected.
fn names(selected: bool) -> &'static [(&'static str, &'static str)] {
    match selected {
        true => &[("one", "b"), ("uno", "a")],
        false => &[("one", "b"), ("one", "d"), ("two", "a")],
    }
}

pub(super) async fn make(target: &Client, selected: bool) {
    for (number, (database, collection)) in names(selected).iter().enumerate() {
        let database = target.database(database);
        let mut create = doc! { "create": collection };
        create.extend(match number {
            0 => doc! { "validator": { "other": 1 }, "validationAction": "warn" },
            1 => doc! { "capped": true, "size": 100_000 },
            _ => doc! { "collation": { "locale": "de" } },
        });
        database.run_command(create).await.unwrap();
        let index = doc! { "key": { "a": -1 }, "name": "a_1" };
        let indexes = doc! { "createIndexes": collection, "indexes": [index] };
        database.run_command(indexes).await.unwrap();
        let documents = (0..30).map(|id| doc! { "_id": id, "a": id });
        let documents = documents.chain([doc! { "_id": MARK }]);
        let collection = database.collection::<Document>(collection);
        collection.insert_many(documents).await.unwrap();
    }
}

/// Drops those that the source never came to have.
pub(super) async fn tidy_up(source: &Client, target: &Client) {
    for (database, collection) in names(true).iter().chain(names(false)) {
        let database = target.database(database);
        let is_foreign = {
            let collection = database.collection::<Document>(collection);
            let marked = collection.find_one(doc! { "_id": MARK }).await;
            marked.unwrap().is_some()
        };
        if is_foreign {
            let of_source = source.database(database.name()).list_collection_names().await.unwrap();
            assert!(
                !of_source.iter().any(|name| name == collection),
                "{collection} is not replaced"
            );
            database.collection::<Document>(collection).drop().await.unwrap();
        }
    }
}
