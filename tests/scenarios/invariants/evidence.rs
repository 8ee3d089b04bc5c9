//! What a host shows of a run: how the lag was, how fast changes are applied, how many indexes are built.

use mongoferry::sink::SinkCall;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_status_has_indexes_the_rate_and_the_lags() {
    let bench = Bench::with_orders(5);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    let builds = bench.sink.hold(SinkCall::CreateIndex);
    let run = bench.start().await;
    let indexes = |built: u64| {
        let counts = run.status().indexes;
        (counts.built, counts.total) == (built, 1)
    };
    timeout(DEADLINE, builds.reached()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(indexes(0), "it is being built");
    builds.release();
    until("it is built", || indexes(1)).await;
    run.ready_to_cut_over().await.unwrap();
    for n in 0..100 {
        bench.set("shop.orders", 1, n);
        sleep(Duration::from_millis(100)).await;
    }
    bench.caught_up().await;
    let rate = run.status().applied_per_second.expect("some seconds have passed");
    assert!((2.0..12.0).contains(&rate), "{rate}");
    run.pause().await.unwrap();
    bench.source.skip_time(100);
    bench.source.noop();
    sleep(Duration::from_secs(20)).await;
    let history = run.status().lag_history;
    assert!((4..16).contains(&history.len()), "{history:?}");
    let lags: Vec<u64> = history.iter().map(|sample| sample.lag.as_secs()).collect();
    assert!(lags.first() < Some(&3) && lags.last() >= Some(&100), "{lags:?}");
    run.resume().unwrap();
    bench.finish(run).await;
}
