//! A cutover costs one comparison for each collection, several at a time, and nothing else that grows with their number.

use futures::{FutureExt, StreamExt};
use mongoferry::Event;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;

use super::*;

/// So many collections are compared, or given their final form, at the same time.
const AT_ONCE: usize = 8;

/// Collections of two documents, the first `expiring` of them with documents that expire.
fn bench(collections: usize, expiring: usize) -> Bench {
    let bench = Bench::default();
    for number in 0..collections {
        let name = format!("shop.c{number}");
        bench.source.create_collection(&name, rawdoc! {}).unwrap();
        if number < expiring {
            let index = rawdoc! { "v": 2, "key": { "until": 1 }, "name": "until", "expireAfterSeconds": 60 };
            bench.source.create_index(&name, index).unwrap();
        }
        for id in 0..2 {
            bench.source.insert(&name, rawdoc! { "_id": id, "n": 0 }).unwrap();
        }
    }
    bench
}

/// How often each side is asked what, and checkpoints are saved.
fn calls(bench: &Bench) -> Vec<usize> {
    use {SinkCall as Sink, SourceCall as Source};
    let ours = [Source::Sentinel, Source::Collections, Source::Describe, Source::Digest];
    let theirs = [
        Sink::Collections,
        Sink::Describe,
        Sink::Flush,
        Sink::Execute,
        Sink::Digest,
    ];
    let ours = ours.into_iter().map(|call| bench.source.calls(call));
    ours.chain(theirs.into_iter().map(|call| bench.sink.calls(call)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_cutover_compares_each_collection_once() {
    for verification in [Verification::Digest, Verification::Continuous] {
        for (collections, expiring) in [(3, 0), (300, 2)] {
            let bench = bench(collections, expiring);
            let run = bench
                .migration()
                .verification(verification)
                .build()
                .unwrap()
                .start()
                .await
                .unwrap();
            run.ready_to_cut_over().await.unwrap();
            let (before, mut events) = (calls(&bench), run.events());
            let summary = run.cutover_now(async {}).await.unwrap();
            assert_eq!(summary.outcome, Outcome::Complete);
            let asked: Vec<_> = calls(&bench)
                .iter()
                .zip(before)
                .map(|(now, before)| now - before)
                .collect();
            let [
                sentinels,
                listed,
                described,
                digests,
                listed_there,
                described_there,
                flushes,
                modified,
                digests_there,
            ] = asked[..]
            else {
                unreachable!()
            };
            assert_eq!((listed, listed_there), (1, 1));
            // Of those that were compared all the time some are compared once more.
            let digested = match verification {
                Verification::Continuous => collections.min(200),
                _ => collections,
            };
            assert_eq!((digests, digests_there, modified), (digested, digested, expiring));
            for few in [sentinels, described, described_there, flushes] {
                assert!(few <= 5, "{asked:?}");
            }
            let told = std::iter::from_fn(|| events.next().now_or_never().flatten());
            let saved = told
                .filter(|event| matches!(event, Event::CheckpointSaved { .. }))
                .count();
            assert!(saved <= 4, "{saved}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn collections_are_compared_and_finalized_side_by_side() {
    let bench = bench(20, 20);
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let digest = bench.sink.hold(SinkCall::Digest);
    let execute = bench.sink.hold(SinkCall::Execute);
    let during = async {
        for gate in [digest, execute] {
            until("several wait", || gate.waiting() == AT_ONCE).await;
            settle_down().await;
            assert_eq!(gate.waiting(), AT_ONCE, "they are bounded");
            gate.release();
        }
    };
    let (summary, ()) = tokio::join!(run.cutover(async {}), during);
    assert_eq!(summary.unwrap().outcome, Outcome::Complete);
}
