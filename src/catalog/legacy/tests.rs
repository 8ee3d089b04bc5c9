//! What a target gets of old specifications.

use bson::{Document, doc, rawdoc};

use super::*;
use crate::catalog::{compare_indexes, index_for, not_kept, options_for};
use crate::model::{Collection, CollectionKind};

const V2_6: Series = [2, 6];
const V4_2: Series = [4, 2];

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
