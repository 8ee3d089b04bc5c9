//! What cannot be applied ends a run where it concerns the selection, and nowhere else.

use mongoferry::ErrorKind;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_unsupported_entry_elsewhere_stops_no_run() {
    // A name that cannot be read says which database at least. `shop.secret` is excluded.
    for namespace in [
        "other",
        "other.things",
        "other.",
        "admin",
        "shop.secret",
        "shop.system.views",
        "local",
    ] {
        for running in [false, true] {
            let bench = Bench::with_orders(3);
            let mut run = None;
            if running {
                run = Some(start(&bench).await);
                bench.caught_up().await;
            }
            bench.source.unsupported(namespace, "it is of another world");
            let run = match run {
                Some(run) => run,
                None => start(&bench).await,
            };
            bench.set("shop.orders", 1, 7);
            bench.caught_up().await;
            bench.finish(run).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unsupported_entry_of_the_selection_ends_the_run() {
    // What says nothing of what it concerns may concern the selection.
    for namespace in ["shop.orders", "shop.later", "shop", "shop.", ""] {
        let bench = Bench::with_orders(3);
        let run = start(&bench).await;
        bench.caught_up().await;
        bench.source.unsupported(namespace, "it is of another world");
        let error = timeout(DEADLINE, run.wait()).await.expect(namespace).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{namespace}: {error}");
    }
}

async fn start(bench: &Bench) -> MigrationHandle {
    let migration = bench.migration().exclude("shop.secret").build().unwrap();
    migration.start().await.unwrap()
}
