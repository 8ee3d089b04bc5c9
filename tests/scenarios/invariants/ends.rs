//! What the next run takes for something that may be applied already, after each end of a run.

use bson::raw::RawDocumentBuf;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Error, ErrorKind};

use super::*;

/// Updates in the old format. On a document that has them already, they leave the fields in another order.
fn reordering() -> [RawDocumentBuf; 3] {
    [
        rawdoc! { "$v": 1, "$unset": { "n": true } },
        rawdoc! { "$v": 1, "$set": { "n": 1 } },
        rawdoc! { "$v": 1, "$set": { "last": 1 } },
    ]
}

/// Writes to documents that both sides have. One document is gone at the end.
fn write(bench: &Bench) {
    for delta in reordering() {
        bench.source.update("shop.orders", 1, delta).unwrap();
    }
    bench.set("shop.orders", 2, 1);
    let delta = rawdoc! { "$v": 1, "$set": { "n": 2 } };
    bench.source.update("shop.orders", 3, delta).unwrap();
    bench.set("shop.orders", 3, 3);
    bench.source.delete("shop.orders", 3).unwrap();
}

async fn copied(bench: &Bench) {
    let is_copied = || bench.checkpoint().is_some_and(|checkpoint| checkpoint.copied);
    until("everything is copied", is_copied).await;
    bench.caught_up().await;
}

/// Both sides are equal without the help of a cutover, which would make them so.
fn assert_equal(bench: &Bench) {
    assert_eq!(
        bench.source.documents("shop.orders").unwrap(),
        bench.sink.documents("shop.orders").unwrap()
    );
}

/// Ends the run in good order, and begins the next one after `meantime`.
async fn again(bench: &Bench, run: MigrationHandle, by_pause: bool, meantime: impl FnOnce()) -> MigrationHandle {
    if by_pause {
        run.pause().await.unwrap();
        meantime();
        run.resume().unwrap();
        return run;
    }
    run.shutdown(DEADLINE).await;
    drop(run);
    meantime();
    bench.start().await
}

/// What the source writes after an orderly end cannot be applied yet, so nothing is read again because of it.
#[tokio::test(start_paused = true)]
async fn what_follows_an_orderly_end_is_not_refetched() {
    for by_pause in [true, false] {
        let bench = Bench::with_orders(4);
        bench.source.set_batch_entries(1);
        let run = bench.start().await;
        copied(&bench).await;
        let run = again(&bench, run, by_pause, || write(&bench)).await;
        bench.caught_up().await;
        assert_eq!(bench.source.calls(SourceCall::ReadDocuments), 0, "{by_pause}");
        assert_equal(&bench);
        bench.finish(run).await;
    }
}

/// A start that is given up before its run begins leaves what it has found.
#[tokio::test(start_paused = true)]
async fn a_run_that_never_began_is_an_orderly_end() {
    let bench = Bench::with_orders(4);
    bench.source.set_batch_entries(1);
    let run = bench.start().await;
    copied(&bench).await;
    run.shutdown(DEADLINE).await;
    drop(run);
    // Nothing has been asked by a run yet when the start returns.
    bench.start().await.shutdown(DEADLINE).await;
    write(&bench);
    let run = bench.start().await;
    bench.caught_up().await;
    assert_eq!(bench.source.calls(SourceCall::ReadDocuments), 0);
    assert_equal(&bench);
    bench.finish(run).await;
}

/// After any other end, what was written beyond the checkpoint is read again, also if an earlier run has ended in good order.
#[tokio::test(start_paused = true)]
async fn what_a_run_without_an_orderly_end_wrote_is_refetched() {
    for by_pause in [true, false] {
        let bench = Bench::with_orders(4);
        bench.source.set_batch_entries(1);
        let run = bench.start().await;
        copied(&bench).await;
        let run = again(&bench, run, true, || ()).await;
        bench.caught_up().await;
        // Nothing is saved of what is applied from now on.
        let flushing = bench.sink.hold(SinkCall::Flush);
        write(&bench);
        let newest = bench.source.documents("shop.orders").unwrap();
        until("everything is applied", || {
            bench.sink.documents("shop.orders").unwrap() == newest
        })
        .await;
        let before = bench.source.calls(SourceCall::ReadDocuments);
        assert_eq!(before, 0);
        let run = if by_pause {
            let error = Error::new(ErrorKind::Connection, "read the position", "the source does not answer");
            bench.source.fail_next(SourceCall::Sentinel, error);
            run.pause().await.unwrap();
            let delta = rawdoc! { "$v": 1, "$set": { "last": 2 } };
            bench.source.update("shop.orders", 4, delta).unwrap();
            flushing.release();
            run.resume().unwrap();
            run
        } else {
            drop(run);
            flushing.release();
            bench.start().await
        };
        bench.caught_up().await;
        assert!(bench.source.calls(SourceCall::ReadDocuments) > 0, "{by_pause}");
        assert_equal(&bench);
        bench.finish(run).await;
    }
}

/// A run can write documents that are newer than all changes it has read. After an orderly end, these changes may be applied already.
#[tokio::test(start_paused = true)]
async fn what_a_run_wrote_ahead_of_its_tail_is_refetched() {
    for by_pause in [true, false] {
        let bench = Bench::with_orders(4);
        let run = bench.start().await;
        copied(&bench).await;
        drop(run);
        // The first change may be applied already, so that the document is read as it is after all of them.
        let delta = rawdoc! { "$v": 1, "$set": { "first": 1 } };
        bench.source.update("shop.orders", 1, delta).unwrap();
        write(&bench);
        bench.source.set_batch_entries(1);
        let tail = bench.source.hold(SourceCall::TailEntries);
        let run = bench.start().await;
        timeout(DEADLINE, tail.reached()).await.unwrap();
        settle_down().await;
        // No checkpoint names the document.
        let flushing = bench.sink.hold(SinkCall::Flush);
        tail.let_one_pass();
        let newest = bench.source.documents("shop.orders").unwrap().remove(0);
        until("the document is read ahead", || {
            bench.sink.documents("shop.orders").unwrap()[0] == newest
        })
        .await;
        let run = again(&bench, run, by_pause, || {
            let delta = rawdoc! { "$v": 1, "$set": { "n": 4 } };
            bench.source.update("shop.orders", 4, delta).unwrap();
        })
        .await;
        flushing.release();
        tail.release();
        bench.caught_up().await;
        assert_equal(&bench);
        bench.finish(run).await;
    }
}
