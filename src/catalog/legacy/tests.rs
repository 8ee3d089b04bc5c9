//! The listing of 2.6.12, and what a target gets of old specifications.

use std::fs;

use bson::{Document, doc, rawdoc};

use super::*;
use crate::catalog::{compare_indexes, index_for, not_kept, options_for};
use crate::model::{Collection, CollectionKind};

const V2_6: Series = [2, 6];
const V4_2: Series = [4, 2];

fn listed(name: &str) -> Vec<RawDocumentBuf> {
    let path = format!(
        "{}/tests/samples/oplog/2.6.12-mmapv1.facts.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let facts: Document = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let documents = facts.get_array(name).unwrap().iter();
    documents
        .map(|document| RawDocumentBuf::try_from(document.as_document().unwrap()).unwrap())
        .collect()
}

#[test]
fn the_collections_of_2_6_are_found() {
    let found =
        collections_from_namespaces(V2_6, "app", &listed("system.namespaces"), &listed("system.indexes")).unwrap();
    let lines: Vec<String> = found
        .iter()
        .map(|found| {
            let options = Document::try_from(&*found.options).unwrap();
            format!("{} {} {options} {}", found.namespace, found.kind, found.indexes.len())
        })
        .collect();
    assert_eq!(
        lines,
        [
            "app.byapply plain {} 1",
            "app.cap capped { \"capped\": true, \"size\": 65536, \"max\": 100 } 1",
            "app.coll plain {} 1",
            "app.conv capped { \"capped\": true, \"size\": 8192 } 1",
            "app.conv2 capped { \"capped\": true, \"size\": 8192 } 1",
            "app.flags plain {} 1",
            "app.noid unordered { \"autoIndexId\": false } 0",
            "app.res plain {} 1",
            "app.se plain {} 1",
            "app.system.js plain {} 1",
            "app.t plain {} 13",
            "app.tgt plain {} 1",
            "app.val plain {} 1",
            "app.view plain {} 1",
        ]
    );
    let t = found.iter().find(|found| found.namespace.as_str() == "app.t").unwrap();
    assert_eq!(
        Document::try_from(&*t.indexes[1]).unwrap(),
        doc! { "v": 1, "unique": true, "key": { "x": 1 }, "name": "x_1", "sparse": true, "dropDups": true }
    );
}

#[test]
fn names_of_other_databases_and_of_free_space_are_left_out() {
    let names = [
        "app.b",
        "apple.c",
        "app.$freelist",
        "app.b.$x_1",
        "app.system.indexes",
        "app.system.users",
    ];
    let names = names.map(|name| rawdoc! { "name": name });
    let found = collections_from_namespaces(V2_6, "app", &names, &[]).unwrap();
    let found: Vec<&str> = found.iter().map(|found| found.namespace.as_str()).collect();
    assert_eq!(found, ["app.b"]);
    assert!(collections_from_namespaces(V2_6, "app", &[rawdoc! {}], &[]).is_err());
}

fn collection(indexes: Vec<RawDocumentBuf>) -> Collection {
    let mut collection = Collection::new(bson::Uuid::new(), "a.b".parse().unwrap(), CollectionKind::Plain);
    collection.indexes = indexes;
    collection.indexes.push(id_index());
    collection
}

/// What servers before 3.4 accepted and later ones refuse: sent in another form, equal to that form, and reported.
#[test]
fn odd_indexes_are_converted_and_reported() {
    let odd = rawdoc! {
        "v": 0, "key": { "a": true, "b": bson::raw::RawBson::Null, "c": "", "d": 0, "e": -1.5, "f": "hashed" }, "name": "odd", "w": 1,
        "safe": true, "made": { "up": 1 },
    };
    let sent = index_for(&odd, V4_2);
    let expected = doc! { "v": 1, "key": { "a": 1, "b": 1, "c": 1, "d": 1, "e": -1.5, "f": "hashed" }, "name": "odd" };
    assert_eq!(Document::try_from(&*sent).unwrap(), expected);

    let (source, target) = (collection(vec![odd.clone()]), collection(vec![sent]));
    let differences = compare_indexes(&source, Some(&target), &[V2_6, V4_2]);
    assert!(differences.iter().all(|index| index.ok), "{differences:?}");
    let reported = not_kept(&source, None, V4_2);
    let reported: Vec<&str> = reported.iter().map(|(_, lost)| lost.option.as_str()).collect();
    assert_eq!(reported, ["v", "key.a", "key.b", "key.c", "key.d", "w", "made"]);

    let other = collection(vec![
        rawdoc! { "v": 1, "key": { "a": -1, "b": 1, "c": 1, "d": 1, "e": -1.5, "f": "hashed" }, "name": "odd" },
    ]);
    let differences = compare_indexes(&source, Some(&other), &[V2_6, V4_2]);
    assert!(differences.iter().any(|index| !index.ok), "{differences:?}");
}

#[test]
fn a_field_of_a_newer_server_is_still_sent() {
    let newer = rawdoc! { "v": 2, "key": { "a": 1 }, "name": "x", "fromTheFuture": 1 };
    assert!(index_for(&newer, V4_2).get("fromTheFuture").unwrap().is_some());
}

#[test]
fn a_collection_without_an_index_on_its_ids_is_created_with_one() {
    let given = options(V2_6, &rawdoc! { "autoIndexId": false, "flags": 1, "create": "b" });
    assert_eq!(given, rawdoc! { "autoIndexId": false });
    assert!(options_for(CollectionKind::Unordered, &given, V4_2).is_empty());
}
