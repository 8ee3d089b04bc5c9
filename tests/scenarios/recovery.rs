//! What a run finds that begins where another one ended at the worst moment, in memory.

use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};
use futures::StreamExt;
use mongoferry::sink::{MemorySink, SinkCall};
use mongoferry::source::{MemorySource, SourceCall};
use mongoferry::{Error, ErrorKind, Event, Migration, MigrationHandle, Outcome, Summary, Verification};
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(600);

async fn start(source: &MemorySource, sink: &MemorySink) -> MigrationHandle {
    let builder = Migration::builder(source.clone(), sink.clone())
        .walkers(1)
        .chunk_bytes(1 << 10);
    builder.build().unwrap().start().await.unwrap()
}

async fn cut_over(run: &MigrationHandle) -> Summary {
    timeout(DEADLINE, run.cutover(async {}))
        .await
        .expect("it comes to an end")
        .unwrap()
}

/// Documents of about 600 bytes.
fn load(source: &MemorySource, namespace: &str, count: i32) {
    source.create_collection(namespace, rawdoc! {}).unwrap();
    for id in 0..count {
        source.insert(namespace, document(id, namespace)).unwrap();
    }
}

fn document(id: i32, text: &str) -> RawDocumentBuf {
    rawdoc! { "_id": id, "text": text, "filler": "x".repeat(550) }
}

#[tokio::test(start_paused = true)]
async fn a_rename_that_comes_again_takes_no_junk_along() {
    let (source, sink) = (MemorySource::new(), MemorySink::new());
    source.set_batch_documents(1);
    load(&source, "shop.log", 10);
    let run = start(&source, &sink).await;
    let mut events = run.events();
    // Some of the ranges are in the checkpoint, and one is being read.
    let reads = source.hold(SourceCall::ReadBatch);
    let copying = async {
        loop {
            timeout(DEADLINE, reads.reached()).await.unwrap();
            if sink.documents("shop.log").is_ok_and(|documents| documents.len() >= 5) {
                break;
            }
            reads.let_one_pass();
            sleep(Duration::from_millis(1)).await;
        }
    };
    copying.await;
    source.noop();
    for _ in 0..3 {
        while !matches!(
            timeout(DEADLINE, events.next()).await.unwrap(),
            Some(Event::CheckpointSaved { .. })
        ) {}
        source.noop();
    }
    // The process ends when the target has carried the rename out, before that is in a checkpoint.
    let renamed = sink.hold_answer(SinkCall::Execute);
    source.rename("shop.log", "shop.old").unwrap();
    timeout(DEADLINE, renamed.reached()).await.unwrap();
    drop(run);
    renamed.release();
    reads.release();
    load(&source, "shop.log", 9);
    let tail = source.hold(SourceCall::TailEntries);
    let run = start(&source, &sink).await;
    timeout(DEADLINE, tail.reached()).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    tail.release();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:?}");
    for namespace in ["shop.log", "shop.old"] {
        assert_eq!(sink.documents(namespace).unwrap(), source.documents(namespace).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_collection_that_never_has_a_snapshot_is_copied_without() {
    let (source, sink) = (MemorySource::new(), MemorySink::new());
    load(&source, "shop.log", 10);
    let never = || Error::new(ErrorKind::SnapshotUnavailable, "read", "never").with_retryable(false);
    source.fail_next(SourceCall::Read, never());
    let run = start(&source, &sink).await;
    assert_eq!(cut_over(&run).await.outcome, Outcome::Complete);
}

#[tokio::test(start_paused = true)]
async fn events_end_with_the_run() {
    let (source, sink) = (MemorySource::new(), MemorySink::new());
    load(&source, "shop.log", 10);
    let run = start(&source, &sink).await;
    let events = run.events();
    cut_over(&run).await;
    timeout(DEADLINE, events.count()).await.expect("they end");
    timeout(DEADLINE, run.events().count()).await.expect("there are none");
}

#[tokio::test(start_paused = true)]
async fn a_cutover_that_was_dropped_can_be_called_again() {
    let (source, sink) = (MemorySource::new(), MemorySink::new());
    load(&source, "shop.log", 10);
    let migration = Migration::builder(source, sink.clone()).verification(Verification::Digest);
    let run = migration.build().unwrap().start().await.unwrap();
    let digest = sink.hold(SinkCall::Digest);
    tokio::select! {
        _ = run.cutover(async {}) => unreachable!("the gate is closed"),
        () = digest.reached() => {}
    }
    digest.release();
    assert_eq!(cut_over(&run).await.outcome, Outcome::Complete);
}
