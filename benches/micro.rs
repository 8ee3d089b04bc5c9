//! What a run spends its CPU on, step by step: `cargo bench -p mongoferry-benches --bench micro`.

use std::hint::black_box;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Binary, DateTime, Timestamp, Uuid, oid::ObjectId, rawdoc};
use criterion::{BatchSize, Criterion, Throughput};
use mongoferry::order::{Key, compare_documents};
use mongoferry::test_util::bench::{Decoder, HalfCopied, Routing, fold};
use mongoferry::{Batch, Operation, Position, Write, oplog::delta};

/// So many things are done at a time.
const COUNT: i64 = 1_000;

fn id(number: i64) -> ObjectId {
    let mut bytes = [0x65; 12];
    // Spread, as documents are that applications change.
    bytes[4..].copy_from_slice(&(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64)).to_be_bytes());
    ObjectId::from_bytes(bytes)
}

fn document(number: i64) -> RawDocumentBuf {
    rawdoc! {
        "_id": id(number),
        "name": format!("item-{number}"),
        "count": 0,
        "price": number as f64 / 7.0,
        "address": { "street": "a street of some length", "city": "a city" },
        "note": "n".repeat(100),
    }
}

fn diff(number: i64) -> RawDocumentBuf {
    rawdoc! {
        "$v": 2,
        "diff": { "u": { "count": number }, "i": { "seen": true }, "saddress": { "u": { "city": "another city" } } },
    }
}

/// What a server logs for two inserts, two updates and a delete.
fn entry(number: i64) -> RawDocumentBuf {
    let (op, o, o2) = match number % 5 {
        0 | 1 => ("i", document(number), rawdoc! { "_id": id(number) }),
        2 | 3 => ("u", diff(number), rawdoc! { "_id": id(number) }),
        _ => ("d", rawdoc! { "_id": id(number) }, rawdoc! {}),
    };
    rawdoc! {
        "op": op,
        "ns": "shop.items",
        "ui": Binary::from(Uuid::from_bytes([7; 16])),
        "o": o,
        "o2": o2,
        "ts": Timestamp { time: 1_700_000_000, increment: number as u32 + 1 },
        "t": 1_i64,
        "v": 2_i64,
        "wall": DateTime::from_millis(1_700_000_000_000),
    }
}

fn position(number: i64) -> Position {
    Position {
        time: 1_700_000_000,
        increment: number as u32 + 1,
        term: 1,
    }
}

fn decode(criterion: &mut Criterion) {
    let entries: Vec<RawDocumentBuf> = (0..COUNT).map(entry).collect();
    let mut group = criterion.benchmark_group("oplog");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("decode entries", |bencher| {
        bencher.iter(|| {
            let mut decoder = Decoder::default();
            for entry in &entries {
                let _ = black_box(decoder.decode(entry));
            }
        });
    });
    group.finish();
}

fn route(criterion: &mut Criterion) {
    let keys: Vec<Key> = (0..COUNT)
        .map(|number| Key::from(bson::RawBsonRef::ObjectId(id(number))))
        .collect();
    let mut cuts: Vec<Key> = keys.iter().step_by(4).cloned().collect();
    cuts.sort();
    let ranges = HalfCopied::new(cuts);
    let mut group = criterion.benchmark_group("router");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("find the range among 250", |bencher| {
        bencher.iter(|| keys.iter().filter(|key| ranges.is_copied(key)).count());
    });
    group.bench_function("choose the applier", |bencher| {
        bencher.iter(|| keys.iter().fold(0, |sum, key| sum ^ key.stable_hash()));
    });
    group.finish();
}

/// The time must not depend on how many collections there are.
fn route_among_collections(criterion: &mut Criterion) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return eprintln!("{error}"),
    };
    let mut group = criterion.benchmark_group("router");
    group.throughput(Throughput::Elements(100_000)).sample_size(10);
    for (held, what) in [(false, "route"), (true, "hold")] {
        for collections in [10, 50_000] {
            group.bench_function(
                format!("{what} 100,000 changes with {collections} collections"),
                |bencher| {
                    bencher.iter_batched(
                        || Routing::new(collections, held),
                        |routing| runtime.block_on(routing.route(100)),
                        BatchSize::PerIteration,
                    );
                },
            );
        }
    }
    group.finish();
}

fn apply_deltas(criterion: &mut Criterion) {
    let (documents, diffs): (Vec<_>, Vec<_>) = (0..COUNT).map(|number| (document(number), diff(number))).unzip();
    let sets: Vec<RawDocumentBuf> = (0..COUNT)
        .map(|number| rawdoc! { "$v": 1, "$set": { "count": number, "address.city": "another city", "seen": true } })
        .collect();
    let mut group = criterion.benchmark_group("delta");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (name, deltas) in [("apply $v: 2", &diffs), ("apply $v: 1", &sets)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (document, delta) in documents.iter().zip(deltas) {
                    let _ = black_box(delta::apply(document, delta));
                }
            });
        });
    }
    group.finish();
}

fn compare(criterion: &mut Criterion) {
    let documents: Vec<RawDocumentBuf> = (0..COUNT).map(|number| rawdoc! { "_id": id(number) }).collect();
    let keys: Vec<Key> = documents
        .iter()
        .filter_map(|document| Key::of_document(document))
        .collect();
    let mut group = criterion.benchmark_group("order");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("compare keys", |bencher| {
        bencher.iter(|| keys.windows(2).filter(|pair| pair[0] < pair[1]).count());
    });
    group.bench_function("compare documents", |bencher| {
        bencher.iter(|| {
            documents
                .windows(2)
                .filter(|pair| compare_documents(&pair[0], &pair[1]).is_lt())
                .count()
        });
    });
    group.finish();
}

fn fold_writes(criterion: &mut Criterion) {
    let write = |number: i64| {
        // Every document is written about three times.
        let document = document(number % (COUNT / 3));
        let operation = match number % 5 {
            0 | 1 => Operation::Insert(document.clone()),
            2 | 3 => Operation::Delta(diff(number)),
            _ => Operation::Delete,
        };
        Key::of_document(&document).map(|key| (position(number), Write { key, operation }))
    };
    let writes: Vec<(Position, Write)> = (0..COUNT).filter_map(write).collect();
    let mut group = criterion.benchmark_group("applier");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("fold writes", |bencher| {
        bencher.iter_batched(|| writes.clone(), fold, BatchSize::SmallInput);
    });
    group.finish();
}

fn copy_batches(criterion: &mut Criterion) {
    let mut batch = Batch::new();
    for number in 0..COUNT {
        batch.push(&document(number));
    }
    let bytes = batch.as_array().as_bytes().to_vec();
    let Ok(documents) = RawDocument::from_bytes(&bytes) else {
        return;
    };
    let mut group = criterion.benchmark_group("copy");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("take over a batch", |bencher| {
        bencher.iter(|| Batch::from_array(black_box(batch.as_array())));
    });
    group.bench_function("walk through a batch", |bencher| {
        bencher.iter(|| black_box(documents).iter().filter(Result::is_ok).count());
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [
        decode,
        route,
        route_among_collections,
        apply_deltas,
        compare,
        fold_writes,
        copy_batches,
    ] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}
