//! Ranges, the keys that cut a collection into them, and single documents.

use bson::oid::ObjectId;
use bson::raw::RawBson;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Timestamp, doc};
use mongoferry::order::Key;
use mongoferry::source::{ReadMode, ReadRequest};
use mongoferry::{CollectionKind, Range, Source};
use mongoferry_testbed::Version;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::{Bed, assert_same, integer, keys};

fn range(lower: Option<Key>, upper: Option<Key>) -> Range {
    Range { lower, upper }
}

/// Values of every type that an `_id` may have, all different.
fn mixed_ids(count: usize) -> Vec<Bson> {
    let mut random = StdRng::seed_from_u64(5);
    let mut ids = vec![
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
    ];
    for number in 0..(count - ids.len()) as i32 {
        ids.push(match number % 10 {
            0 => Bson::Int32(number),
            1 => Bson::Double(f64::from(number) + random.random_range(0.0..0.9)),
            2 => Bson::Int64(i64::from(number) << 40),
            3 => Bson::Decimal128(format!("{number}.00000000000000000001").parse::<Decimal128>().unwrap()),
            4 => Bson::String(format!("{:x}", random.next_u64())),
            5 => Bson::ObjectId(ObjectId::from_bytes(random.random())),
            6 => Bson::DateTime(DateTime::from_millis(i64::from(number) * 1_000)),
            7 => Bson::Binary(Binary {
                subtype: BinarySubtype::Generic,
                bytes: number.to_be_bytes()[..1 + number as usize % 4].repeat(1 + number as usize),
            }),
            8 => Bson::Document(doc! { "$ref": "things", "$id": number }),
            _ => Bson::Timestamp(Timestamp {
                time: random.random(),
                increment: number as u32,
            }),
        });
    }
    ids
}

fn key(value: &Bson) -> Key {
    Key::from(RawBson::try_from(value.clone()).unwrap().as_raw_bson_ref())
}

/// Checks that the collection's ranges together hold each of `expected`, given in order, once.
async fn split_and_read(bed: &Bed, name: &str, ranges: u64, expected: &[Key]) {
    let collection = bed.collection(name).await;
    assert_eq!(collection.documents, expected.len() as u64);
    let cuts = bed.source.split(&collection, collection.bytes / ranges).await.unwrap();
    assert!(
        cuts.len() as u64 > ranges / 2 && cuts.len() as u64 <= ranges,
        "{} cuts",
        cuts.len()
    );
    assert!(cuts.is_sorted_by(|left, right| left < right), "{cuts:?}");

    let mut bounds = vec![None];
    bounds.extend(cuts.into_iter().map(Some));
    bounds.push(None);
    let mut found = Vec::new();
    let mut largest = 0;
    for bounds in bounds.windows(2) {
        let request = ReadRequest {
            kind: collection.kind,
            range: range(bounds[0].clone(), bounds[1].clone()),
            batch_bytes: 16_000,
            ..bed.request(name, ReadMode::Snapshot).await
        };
        let part = keys(&bed.read(&request).await);
        assert!(
            part.iter().all(|key| request.range.contains(key)),
            "{:?}",
            request.range
        );
        largest = largest.max(part.len());
        found.extend(part);
    }
    assert_same(&found, expected);
    // Others are split by a random sample.
    if collection.kind == CollectionKind::Plain {
        assert!(largest < 2 * expected.len() / ranges as usize, "a range of {largest}");
    }
}

async fn ranges_cover_a_collection(version: Version) {
    let bed = Bed::start(version).await;
    let ids = mixed_ids(2_000);
    bed.insert(
        "mixed",
        ids.iter()
            .map(|id| doc! { "_id": id.clone(), "filler": "x".repeat(200) }),
    )
    .await;
    let mut expected: Vec<Key> = ids.iter().map(key).collect();
    expected.sort();
    expected.dedup();
    assert_eq!(expected.len(), ids.len());
    split_and_read(&bed, "mixed", 20, &expected).await;

    bed.insert("many", (0..10_000).map(|id| doc! { "_id": id })).await;
    let expected: Vec<Key> = (0..10_000).map(integer).collect();
    split_and_read(&bed, "many", 20, &expected).await;
    let collection = bed.collection("many").await;
    assert!(
        bed.source
            .split(&collection, collection.bytes)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(bed.source.split(&collection, 1).await.unwrap().len(), 2_000);
    bed.run(doc! { "drop": "many" }).await;
    assert!(bed.source.split(&collection, 1_000).await.unwrap().is_empty());

    if version >= Version::V6_0 {
        bed.run(doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } })
            .await;
        bed.insert("clustered", (0..10_000).map(|id| doc! { "_id": id })).await;
        split_and_read(&bed, "clustered", 20, &expected).await;
    }
    if version >= Version::V5_0 {
        bed.run(doc! { "create": "weather", "timeseries": { "timeField": "time" } })
            .await;
        let day = |number: i64| DateTime::from_millis(number * 86_400_000);
        bed.insert("weather", (0..3_000).map(|number| doc! { "time": day(number) }))
            .await;
        let request = ReadRequest {
            kind: CollectionKind::TimeSeriesBuckets,
            ..bed.request("system.buckets.weather", ReadMode::Snapshot).await
        };
        let expected = keys(&bed.read(&request).await);
        assert!(expected.is_sorted());
        split_and_read(&bed, "system.buckets.weather", 10, &expected).await;
    }

    bounds_are_exact(&bed).await;
    documents_are_found_by_id(&bed, &ids).await;
    documents_stored_by_id_are_found_without_a_scan(&bed).await;
}

async fn bounds_are_exact(bed: &Bed) {
    bed.insert("few", (0..10).map(|id| doc! { "_id": id })).await;
    let integers = |range: std::ops::RangeInclusive<i32>| range.map(integer).collect::<Vec<_>>();
    for (lower, upper, expected) in [
        (Some(integer(3)), Some(integer(7)), integers(4..=7)),
        (None, Some(integer(0)), integers(0..=0)),
        (Some(integer(8)), None, integers(9..=9)),
        (
            Some(key(&Bson::Double(2.5))),
            Some(key(&Bson::String("a".into()))),
            integers(3..=9),
        ),
        (Some(integer(7)), Some(integer(7)), Vec::new()),
        (Some(Key::MIN), Some(Key::MAX), integers(0..=9)),
    ] {
        for mode in [ReadMode::Snapshot, ReadMode::Interval] {
            let request = ReadRequest {
                range: range(lower.clone(), upper.clone()),
                ..bed.request("few", mode).await
            };
            assert_eq!(keys(&bed.read(&request).await), expected, "{:?}", request.range);
        }
    }
    let missing = bed.request("missing", ReadMode::Snapshot).await;
    assert!(bed.read(&missing).await.is_empty());
}

async fn documents_are_found_by_id(bed: &Bed, ids: &[Bson]) {
    let wanted: Vec<Key> = ids.iter().map(key).collect();
    let mut asked = wanted.clone();
    asked.extend((0..20_000).map(|number| integer(1_000_000 + number)));
    let at = bed.source.position().await.unwrap();
    for mode in [ReadMode::Snapshot, ReadMode::Interval] {
        let mut found = keys(&bed.points("mixed", &asked, at, mode).await);
        found.sort();
        let mut wanted = wanted.clone();
        wanted.sort();
        assert_same(&found, &wanted);
        assert!(bed.points("mixed", &[], at, mode).await.is_empty());
    }

    // What a collation takes for equal is not the document that was asked for.
    bed.run(doc! { "create": "names", "collation": { "locale": "en", "strength": 1 } })
        .await;
    bed.insert("names", [doc! { "_id": "anna" }, doc! { "_id": "Bert" }])
        .await;
    let name = |name: &str| key(&Bson::String(name.to_owned()));
    let at = bed.source.position().await.unwrap();
    let found = bed
        .points("names", &[name("Anna"), name("Bert")], at, ReadMode::Interval)
        .await;
    assert_eq!(keys(&found), [name("Bert")]);
}

async fn documents_stored_by_id_are_found_without_a_scan(bed: &Bed) {
    for collection in bed.source.collections().await.unwrap() {
        if !matches!(
            collection.kind,
            CollectionKind::Clustered | CollectionKind::TimeSeriesBuckets
        ) {
            continue;
        }
        let name = collection.namespace.collection();
        let request = ReadRequest {
            kind: collection.kind,
            batch_bytes: 16_000,
            ..bed.request(name, ReadMode::Interval).await
        };
        let all = keys(&bed.read(&request).await);
        let wanted: Vec<Key> = all.iter().step_by(all.len() / 30).cloned().collect();
        let before = scanned(bed).await;
        let mut found = keys(&bed.points(name, &wanted, request.at, ReadMode::Snapshot).await);
        let scanned = scanned(bed).await - before;
        found.sort();
        assert_same(&found, &wanted);
        assert!(scanned < 1_000, "{scanned} documents of {name} looked at");
    }
}

async fn scanned(bed: &Bed) -> i64 {
    let status = bed.admin(doc! { "serverStatus": 1 }).await;
    let executor = status
        .get_document("metrics")
        .unwrap()
        .get_document("queryExecutor")
        .unwrap();
    executor.get_i64("scannedObjects").unwrap()
}

#[tokio::test]
async fn ranges_cover_a_collection_4_2() {
    ranges_cover_a_collection(Version::V4_2).await;
}

#[tokio::test]
async fn ranges_cover_a_collection_4_4() {
    ranges_cover_a_collection(Version::V4_4).await;
}

#[tokio::test]
async fn ranges_cover_a_collection_5_0() {
    ranges_cover_a_collection(Version::V5_0).await;
}

#[tokio::test]
async fn ranges_cover_a_collection_6_0() {
    ranges_cover_a_collection(Version::V6_0).await;
}
