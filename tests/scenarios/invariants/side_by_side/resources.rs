//! Memory and throttle that all migrations of a process share.

use futures::future::try_join_all;
use mongoferry::{Resources, Throttle};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_shared_throttle_holds_for_all_together_and_can_be_changed() {
    let port = Port::default();
    let limited = Throttle::unlimited().with_copy_bytes_per_second(100_000);
    let resources = Resources::new().throttle(limited);
    let sources = ["a", "b", "c", "d"].map(|name| {
        let source = MemorySource::new();
        source.create_collection(&format!("{name}.orders"), rawdoc! {}).unwrap();
        for document in documents(0..500, 1000) {
            source.insert(&format!("{name}.orders"), document).unwrap();
        }
        (name, source)
    });
    // Half a MB each, so twenty seconds for all together.
    let began = tokio::time::Instant::now();
    let starts = sources.iter().map(|(name, source)| {
        let migration = port.migration(name, source).resources(&resources).chunk_bytes(20_000);
        migration.verification(Verification::None).build().unwrap().start()
    });
    let runs = try_join_all(starts).await.unwrap();
    let copied = || runs.iter().map(|run| run.status().copied.bytes).sum::<u64>();
    until("half is copied", || copied() >= 1_000_000).await;
    let took = began.elapsed().as_secs_f64();
    assert!((8.0..16.0).contains(&took), "{took}");
    resources.set_throttle(Throttle::default());
    let began = tokio::time::Instant::now();
    until("everything is copied", || {
        runs.iter().all(|run| run.status().copy_complete)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Two hundred small migrations in one process, with 256 MB for all of them, half of which are written to.
#[tokio::test(start_paused = true)]
async fn two_hundred_share_one_target_and_one_budget() {
    let port = Port::default();
    let resources = Resources::new().memory_bytes(256 << 20);
    let sources: Vec<(String, MemorySource)> = (0..200)
        .map(|number| (format!("t{number}"), source(&format!("t{number}"), 20)))
        .collect();
    let starts = sources.iter().map(|(name, source)| {
        port.migration(name, source)
            .resources(&resources)
            .build()
            .unwrap()
            .start()
    });
    let runs = try_join_all(starts).await.unwrap();
    for (name, source) in sources.iter().step_by(2) {
        for id in 0..20 {
            source
                .update_v2(&format!("{name}.orders"), id, rawdoc! { "u": { "n": 1 } })
                .unwrap();
        }
    }
    join_all(runs.iter().map(cut_over)).await;
    for (name, source) in &sources {
        port.assert_same(name, source);
    }
    let known = migrations(&port.target).await.unwrap();
    assert!(known.len() == 200 && known.iter().all(|known| known.complete));
}

/// Budgets so small that every migration has to wait for the others: all of them still end.
#[tokio::test(start_paused = true)]
async fn migrations_that_wait_for_each_others_memory_all_go_on() {
    let port = Port::default();
    let resources = Resources::new().memory_bytes(16 << 20);
    let sources: Vec<(String, MemorySource)> = (0..20)
        .map(|number| {
            let (name, source) = (format!("t{number}"), MemorySource::new());
            source.create_collection(&format!("{name}.orders"), rawdoc! {}).unwrap();
            for document in documents(0..20, 20_000) {
                source.insert(&format!("{name}.orders"), document).unwrap();
            }
            (name, source)
        })
        .collect();
    let starts = sources.iter().map(|(name, source)| {
        port.migration(name, source)
            .resources(&resources)
            .build()
            .unwrap()
            .start()
    });
    let runs = try_join_all(starts).await.unwrap();
    for round in 1..4 {
        for (name, source) in &sources {
            // One of them is larger than a whole share of the budget.
            for id in 0..20 {
                let bytes = if id == 0 { 6 << 20 } else { 50_000 };
                let document = rawdoc! { "_id": id, "n": round, "pad": "q".repeat(bytes) };
                source.replace(&format!("{name}.orders"), document).unwrap();
            }
        }
        sleep(Duration::from_millis(300)).await;
    }
    join_all(runs.iter().map(cut_over)).await;
    for (name, source) in &sources {
        port.assert_same(name, source);
    }
}
