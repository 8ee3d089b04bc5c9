//! A rehearsal copies and follows like a migration, lets the host test the target, and leaves no record of itself.

use mongoferry::sink::SinkCall;
use mongoferry::{Error, ErrorKind};

use super::*;

async fn assert_forgotten(bench: &Bench) {
    assert!(bench.checkpoint().is_none());
    assert_eq!(bench.sink.load_record("default/lease").await.unwrap(), None);
}

fn rehearsal(bench: &Bench) -> mongoferry::Rehearsal {
    bench.migration().build().unwrap().rehearse()
}

#[tokio::test(start_paused = true)]
async fn a_rehearsed_target_stands_still_and_is_forgotten_or_cleared() {
    for clear in [false, true] {
        let bench = Bench::with_orders(5);
        let test = async {
            bench.set("shop.orders", 1, 7);
            settle_down().await;
            assert_eq!(bench.applied(1), [0; 0]);
            bench.sink.documents("shop.orders").unwrap().len()
        };
        let rehearsed = timeout(DEADLINE, rehearsal(&bench).clear_target(clear).run(test)).await;
        let rehearsed = rehearsed.unwrap().unwrap();
        assert_eq!((rehearsed.answer, rehearsed.status.can_cut_over), (5, true));
        assert!(rehearsed.ready_after >= Duration::from_secs(2));
        assert_forgotten(&bench).await;
        let standing = bench.sink.collections().await.unwrap().len();
        assert_eq!(standing, usize::from(!clear));
        if clear {
            bench.finish(bench.start().await).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_takes_nothing_from_a_migration_under_way() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    run.abandon().await;
    let never = async { panic!("there is nothing to test") };
    let error = rehearsal(&bench).clear_target(true).run::<()>(never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointMismatch, "{error}");
    bench.finish(bench.start().await).await;
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_that_fails_tidies_up_and_says_why() {
    let bench = Bench::with_orders(5);
    let error = Error::new(ErrorKind::Server, "insert", "the target has a bug");
    bench.sink.fail_next(SinkCall::Insert, error);
    let never = async { panic!("there is nothing to test") };
    let error = timeout(DEADLINE, rehearsal(&bench).clear_target(true).run::<()>(never)).await;
    let error = error.unwrap().unwrap_err();
    assert!(error.to_string().contains("the target has a bug"), "{error}");
    assert_forgotten(&bench).await;
    assert!(bench.sink.collections().await.unwrap().is_empty());
}
