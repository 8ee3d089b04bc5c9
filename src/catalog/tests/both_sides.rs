use CollectionKind::{Capped, Plain, Unordered, View};
use bson::raw::RawDocumentBuf;
use bson::rawdoc;

use super::*;
use crate::model::{Collection, CollectionKind};

fn collection(kind: CollectionKind, options: RawDocumentBuf, indexes: Vec<RawDocumentBuf>) -> Collection {
    Collection {
        id: bson::Uuid::from_bytes([1; 16]),
        namespace: "shop.a".parse().unwrap(),
        kind,
        options,
        indexes,
        documents: 0,
        bytes: 0,
    }
}

/// The differences between both sides, and what is not kept.
fn found(source: &Collection, target: &Collection, servers: [Series; 2]) -> (Vec<String>, Vec<String>) {
    let mut differences = compare_options(source, Some(target), &servers);
    let indexes = compare_indexes(source, Some(target), &servers);
    differences.extend(indexes.into_iter().filter_map(|index| index.reason));
    let lost = not_kept(source, Some(target), servers[1]);
    (
        differences,
        lost.into_iter()
            .map(|(_, lost)| format!("{} {}", lost.code, lost.option))
            .collect(),
    )
}

#[test]
fn what_a_target_cannot_keep_is_no_difference_but_named() {
    let plain = || collection(Plain, rawdoc! {}, vec![id_index(2)]);
    let with = |kind, options, more: Option<RawDocumentBuf>| {
        collection(kind, options, std::iter::once(id_index(2)).chain(more).collect())
    };
    let expiring = || rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at", "expireAfterSeconds": 5 };
    let at = || rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at" };
    let capped = || rawdoc! { "capped": true, "size": 4096 };
    let odd_id = rawdoc! { "v": 2, "key": { "_id": 1.0 }, "name": "_id_", "sparse": true, "ns": "shop.a" };
    for (row, source, target, servers, lost) in [
        ("nothing", plain(), plain(), [[4, 2], [6, 0]], &[] as &[&str]),
        (
            "the version of the index on _id",
            collection(Plain, rawdoc! {}, vec![id_index(1)]),
            plain(),
            [[4, 2], [6, 0]],
            &["id_index_version v"],
        ),
        (
            "the same version of it",
            collection(Plain, rawdoc! {}, vec![id_index(1)]),
            collection(Plain, rawdoc! {}, vec![id_index(1)]),
            [[4, 2], [6, 0]],
            &[],
        ),
        (
            "an odd index on _id",
            collection(Plain, rawdoc! {}, vec![odd_id]),
            plain(),
            [[4, 2], [6, 0]],
            &["id_index_option sparse"],
        ),
        (
            "no index on _id",
            collection(Unordered, rawdoc! { "autoIndexId": false }, vec![]),
            plain(),
            [[4, 2], [6, 0]],
            &["id_index_missing autoIndexId"],
        ),
        (
            "expiry of a capped collection",
            with(Capped, capped(), Some(expiring())),
            with(Capped, capped(), Some(at())),
            [[5, 0], [6, 0]],
            &["index_option_not_kept expireAfterSeconds"],
        ),
        (
            "a field of another kind of index",
            with(Plain, rawdoc! {}, Some(index(rawdoc! { "bits": 26 }))),
            with(Plain, rawdoc! {}, Some(index(rawdoc! {}))),
            [[4, 2], [6, 0]],
            &["index_option_not_kept bits"],
        ),
        (
            "images of documents",
            with(Plain, rawdoc! { "recordPreImages": true }, None),
            plain(),
            [[6, 0], [7, 0]],
            &["option_not_kept recordPreImages"],
        ),
        (
            "another engine",
            with(Plain, rawdoc! { "storageEngine": { "inMemory": {} } }, None),
            plain(),
            [[6, 0], [6, 0]],
            &["option_not_kept storageEngine.inMemory"],
        ),
        (
            "replicated record ids",
            with(Plain, rawdoc! { "recordIdsReplicated": true }, None),
            plain(),
            [[9, 0], [8, 0]],
            &["option_not_kept recordIdsReplicated"],
        ),
    ] {
        assert_eq!(
            found(&source, &target, servers),
            (vec![], lost.iter().map(|lost| (*lost).to_owned()).collect()),
            "{row}"
        );
        // In the opposite direction, too.
        let [there, here] = servers;
        assert_eq!(found(&target, &source, [here, there]).0, [""; 0], "{row}");
    }
    // Between servers that both support it, losing it is a difference.
    let (ours, theirs) = (
        with(Capped, capped(), Some(expiring())),
        with(Capped, capped(), Some(at())),
    );
    assert_eq!(found(&ours, &theirs, [[4, 2], [5, 0]]).0.len(), 1);
    let (ours, theirs) = (with(Plain, rawdoc! { "recordPreImages": true }, None), plain());
    assert_eq!(found(&ours, &theirs, [[5, 0], [6, 0]]).0.len(), 1);
}

#[test]
fn what_is_on_one_side_only_is_found() {
    let with = |name: &str| {
        collection(
            Plain,
            rawdoc! {},
            vec![id_index(2), rawdoc! { "v": 2, "key": { "a": 1 }, "name": name }],
        )
    };
    let reasons = |source: &Collection, target: Option<&Collection>| -> Vec<String> {
        let indexes = compare_indexes(source, target, V6);
        indexes.into_iter().filter_map(|index| index.reason).collect()
    };
    assert_eq!(
        reasons(&with("a"), Some(&with("b"))),
        ["it is missing on the target", "it is on the target only"]
    );
    assert_eq!(reasons(&with("a"), None).len(), 2);
    assert_eq!(
        compare_options(&with("a"), None, V6),
        ["it does not exist on the target"]
    );
    let view = collection(View, rawdoc! {}, vec![]);
    assert_eq!(
        compare_options(&with("a"), Some(&view), V6),
        ["it is Plain on the source and View on the target"]
    );
}
