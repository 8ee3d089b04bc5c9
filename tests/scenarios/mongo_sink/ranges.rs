//! Ranges of `_id` over values of all types.

use bson::doc;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::StreamExt;
use mongoferry::order::Key;
use mongoferry::sink::{Sink, SinkRead};
use mongoferry::{CollectionKind, Namespace, Range};
use mongoferry_testbed::Version;

use super::corpus::{document, element, int, nested, string};
use super::{Bench, batch, namespace, on_versions, read_range};

on_versions!(a_range_holds_what_lies_between_its_bounds);
on_versions!(buckets_are_read_by_range: v5_0 V5_0, v6_0 V6_0);
on_versions!(a_capped_collection_is_read_in_its_order);

/// Documents whose `_id`s are of all types that can be stored, some next to each other in the order.
fn mixed() -> Vec<RawDocumentBuf> {
    let double = |value: f64| element(0x01, b"_id", &value.to_le_bytes());
    let long = |value: i64| element(0x12, b"_id", &value.to_le_bytes());
    let decimal = |text: &str| element(0x13, b"_id", &text.parse::<bson::Decimal128>().unwrap().bytes());
    let binary = |subtype: u8, bytes: &[u8]| {
        element(
            0x05,
            b"_id",
            &[&(bytes.len() as u32).to_le_bytes(), [subtype].as_slice(), bytes].concat(),
        )
    };
    let mut ids = vec![
        element(0xff, b"_id", &[]),
        element(0x7f, b"_id", &[]),
        element(0x0a, b"_id", &[]),
        element(0x08, b"_id", &[0]),
        element(0x08, b"_id", &[1]),
        double(f64::NAN),
        double(f64::INFINITY),
        double(f64::NEG_INFINITY),
        double(0.1),
        double(1.5),
        double(-1.5),
        double(5e-324),
        double(f64::MAX),
        decimal("0.1"),
        decimal("0.1000000000000000055511151231257827"),
        decimal("0.1000000000000000055511151231257828"),
        decimal("1.000000000000000000000000000000001"),
        decimal("0.9999999999999999999999999999999999"),
        decimal("9.999999999999999999999999999999999E6144"),
        decimal("-1E-6176"),
        decimal("1E-6176"),
        long(i64::MAX),
        long(i64::MIN),
        long((1 << 53) + 1),
        double((1_u64 << 53) as f64),
        string(b"_id", b""),
        string(b"_id", b"a"),
        string(b"_id", b"a\0"),
        string(b"_id", b"a\0\0"),
        string(b"_id", b"a\x01"),
        string(b"_id", b"b"),
        string(b"_id", &[0xff, 0xfe]),
        element(0x0e, b"_id", &string(b"", b"aa")[2..]),
        nested(b"_id", &[]),
        nested(b"_id", &[int(b"", 1)]),
        nested(b"_id", &[int(b"a", 1)]),
        nested(b"_id", &[int(b"a", 1), element(0xff, b"", &[])]),
        nested(b"_id", &[int(b"a", 1), int(b"b", 1)]),
        nested(b"_id", &[string(b"a", b"x")]),
        binary(0, &[]),
        binary(0, &[255]),
        binary(1, &[0]),
        binary(4, &[9; 16]),
        binary(0, &[0; 17]),
        element(0x07, b"_id", &[0; 12]),
        element(0x07, b"_id", &[5; 12]),
        element(0x07, b"_id", &[255; 12]),
        element(0x09, b"_id", &i64::MIN.to_le_bytes()),
        element(0x09, b"_id", &0_i64.to_le_bytes()),
        element(0x09, b"_id", &1_i64.to_le_bytes()),
        element(0x09, b"_id", &i64::MAX.to_le_bytes()),
        element(0x11, b"_id", &1_u64.to_le_bytes()),
        element(0x11, b"_id", &u64::MAX.to_le_bytes()),
        element(0x0d, b"_id", &string(b"", b"f")[2..]),
        element(
            0x0c,
            b"_id",
            &[2_u32.to_le_bytes().as_slice(), b"c\0", &[7; 12]].concat(),
        ),
        element(
            0x0f,
            b"_id",
            &[
                22, 0, 0, 0, 2, 0, 0, 0, b'f', 0, 12, 0, 0, 0, 0x10, b'x', 0, 1, 0, 0, 0, 0,
            ],
        ),
    ];
    ids.extend((-2..3).map(|id| int(b"_id", id)));
    ids.into_iter().map(|id| document(&[id, int(b"a", 1)])).collect()
}

async fn a_range_holds_what_lies_between_its_bounds(version: Version) {
    let bench = Bench::start(version).await;
    let mut documents = mixed();
    let plain = namespace("plain");
    assert_eq!(bench.sink.insert(&plain, &batch(&documents)).await.unwrap(), []);
    documents.sort_by_key(|document| Key::of_document(document).unwrap());
    let mut collections = vec![(plain, CollectionKind::Plain)];
    if version >= Version::V6_0 {
        let clustered = namespace("clustered");
        let create = doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
        bench.command("test", create).await;
        assert_eq!(bench.sink.insert(&clustered, &batch(&documents)).await.unwrap(), []);
        collections.push((clustered, CollectionKind::Clustered));
    }
    let mut bounds: Vec<Option<Key>> = documents.iter().map(|document| Key::of_document(document)).collect();
    // Bounds that are no document's `_id`.
    bounds.extend([
        None,
        Some(super::key(7)),
        Some(super::key("nowhere")),
        Some(super::key(bson::oid::ObjectId::from_bytes([77; 12]))),
    ]);
    for (collection, kind) in &collections {
        for lower in &bounds {
            // All pairs would be thousands; neighbours and distant ones are all there is to go wrong.
            for upper in bounds.iter().step_by(3).chain([lower, &None]) {
                check(&bench, collection, *kind, &documents, lower.clone(), upper.clone()).await;
            }
        }
        for pair in bounds.windows(2) {
            check(&bench, collection, *kind, &documents, pair[0].clone(), pair[1].clone()).await;
        }
    }
}

async fn check(
    bench: &Bench,
    collection: &Namespace,
    kind: CollectionKind,
    documents: &[RawDocumentBuf],
    lower: Option<Key>,
    upper: Option<Key>,
) {
    let range = Range { lower, upper };
    let contained = |document: &RawDocument| range.contains(&Key::of_document(document).unwrap());
    let expected: Vec<_> = documents
        .iter()
        .filter(|document| contained(document))
        .cloned()
        .collect();
    let found = read_range(&bench.sink, collection, kind, range.clone(), 1000).await;
    let ids = |documents: &[RawDocumentBuf]| {
        documents
            .iter()
            .filter_map(|document| Key::of_document(document))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&found),
        ids(&expected),
        "{range:?} of {collection} on {}",
        bench.set.version()
    );
    assert_eq!(found, expected, "{range:?} of {collection} on {}", bench.set.version());
}

async fn buckets_are_read_by_range(version: Version) {
    let bench = Bench::start(version).await;
    bench
        .command(
            "test",
            doc! { "create": "weather", "timeseries": { "timeField": "t", "metaField": "m" } },
        )
        .await;
    let measurements: Vec<bson::Document> = (0..40)
        .map(|n| doc! { "t": bson::DateTime::from_millis(n * 7_200_000), "m": n as i32 % 2, "x": n })
        .collect();
    bench
        .command("test", doc! { "insert": "weather", "documents": measurements })
        .await;
    let buckets = namespace("weather").buckets();
    let kind = CollectionKind::TimeSeriesBuckets;
    let all = read_range(&bench.sink, &buckets, kind, Range::FULL, 1000).await;
    assert!(all.len() > 20, "{}", all.len());
    let keys: Vec<Key> = all.iter().map(|document| Key::of_document(document).unwrap()).collect();
    assert!(keys.is_sorted());
    for (lower, upper) in [
        (None, Some(keys[5].clone())),
        (Some(keys[5].clone()), None),
        (Some(keys[5].clone()), Some(keys[20].clone())),
        (Some(keys[5].clone()), Some(keys[5].clone())),
        (Some(super::key("below")), Some(super::key(true))),
        (Some(super::key(true)), None),
        (None, Some(super::key(1))),
    ] {
        check(&bench, &buckets, kind, &all, lower, upper).await;
    }
    // Buckets are written like other documents.
    let copy = namespace("copy").buckets();
    bench
        .command(
            "test",
            doc! { "create": "copy", "timeseries": { "timeField": "t", "metaField": "m" } },
        )
        .await;
    for _ in 0..2 {
        assert_eq!(bench.sink.insert(&copy, &batch(&all)).await.unwrap(), []);
    }
    assert_eq!(read_range(&bench.sink, &copy, kind, Range::FULL, 1000).await, all);
    let found = bench.sink.read_documents(&copy, &keys[3..9]).await.unwrap();
    assert_eq!(found, all[3..9]);
    assert_eq!(
        bench.sink.digest(&copy).await.unwrap().unwrap(),
        bench.sink.digest(&buckets).await.unwrap().unwrap()
    );
}

async fn a_capped_collection_is_read_in_its_order(version: Version) {
    let bench = Bench::start(version).await;
    bench
        .command("test", doc! { "create": "capped", "capped": true, "size": 1 << 20 })
        .await;
    let capped = namespace("capped");
    let documents: Vec<RawDocumentBuf> = [5, 3, 9, 1].iter().map(|id| document(&[int(b"_id", *id)])).collect();
    assert_eq!(bench.sink.insert(&capped, &batch(&documents)).await.unwrap(), []);
    // Some exist, some do not: those that do not keep their order.
    let more: Vec<RawDocumentBuf> = [3, 8, 5, 2, 1, 7]
        .iter()
        .map(|id| document(&[int(b"_id", *id)]))
        .collect();
    assert_eq!(bench.sink.insert(&capped, &batch(&more)).await.unwrap(), []);
    let mut request = SinkRead {
        namespace: capped.clone(),
        kind: CollectionKind::Capped,
        range: Range::FULL,
        batch_bytes: 1,
        document_bytes: 0,
    };
    let mut stream = bench.sink.read(request.clone()).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.len(), 1, "batches are of the size that was asked for");
    drop(stream);
    request.batch_bytes = 1 << 20;
    let found = read_range(&bench.sink, &capped, CollectionKind::Capped, Range::FULL, 1 << 20).await;
    let ids: Vec<i32> = found.iter().map(|document| document.get_i32("_id").unwrap()).collect();
    assert_eq!(ids, [5, 3, 9, 1, 8, 2, 7]);
    assert!(bench.sink.digest(&capped).await.unwrap().is_some());
}
