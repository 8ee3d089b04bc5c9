//! The process is killed.

use super::*;
use crate::scenarios::example::Sets;

/// Bytes of documents in a chunk.
const CHUNK: u64 = 128 << 10;

/// Chunks that may be redone after a kill: those in flight, and those that were done since the last checkpoint.
const REDONE: u64 = 12;

async fn the_process_is_killed(kills: u32) {
    let (kills, mut random) = plan(kills);
    let sets = Sets::start(40_000).await;
    let writer = Writer::builder(&sets.source_client, 4)
        .operations_per_second(100)
        .start()
        .await
        .unwrap();
    let chunk = CHUNK.to_string();
    let arguments = [
        "--cutover",
        "manual",
        "--chunk-bytes",
        &chunk,
        "--walkers",
        "2",
        "--lanes",
        "2",
        "--all-walkers",
    ];
    let (mut copied, mut redone, mut phases) = (0u64, 0u64, BTreeMap::new());
    for number in 0..kills {
        // Where the writers are not spared, more than one range is under way at a kill.
        let spared = usize::from(random.random_bool(0.5));
        let mut run = sets.example(&arguments[..arguments.len() - spared]);
        // Some die before they have begun: while they wait for the lease of the one before, or read its checkpoint.
        if random.random_bool(0.9) {
            run.until("the start", |line| line["type"] == "started").await;
            let status = run.until("a status", |line| line["type"] == "status").await;
            let begun = status["copied"]["bytes"].as_u64().unwrap();
            let lost = copied.saturating_sub(begun);
            assert!(lost <= REDONE * CHUNK, "{lost} bytes were copied again");
            redone += lost;
        }
        let patience = Duration::from_millis(random.random_range(0..1500));
        let status = run.last_status_within(patience).await;
        run.signal("KILL").await;
        if let Some(status) = status {
            copied = status["copied"]["bytes"].as_u64().unwrap();
            let phase = status["phase"].as_str().unwrap().to_owned();
            *phases.entry(phase).or_insert(0) += 1;
        }
        assert_eq!(run.end().await.exit, None, "{number}: it ended by itself");
    }
    // The last ones die in the cutover, with the writer stopped.
    let mut run = sets.example(&arguments);
    run.phase("ready").await;
    writer.stop().await;
    for _ in 0..kills.div_ceil(10) {
        run.command("cutover").await;
        sleep(Duration::from_millis(random.random_range(0..800))).await;
        run.signal("KILL").await;
        if run.end().await.exit.is_some() {
            // It was faster.
            sets.assert_identical().await;
            return;
        }
        run = sets.example(&arguments);
        // A process that died after its last write leaves a migration that is complete.
        let next = run
            .until("the phase", |line| {
                line["phase"] == "ready" || line["type"] == "summary"
            })
            .await;
        if next["type"] == "summary" {
            assert!(next["error"].as_str().unwrap().contains("complete"), "{next:#}");
            sets.assert_identical().await;
            return;
        }
    }
    run.command("cutover").await;
    run.end().await.summary("complete", 0);
    sets.assert_identical().await;
    eprintln!("{kills} kills in the phases {phases:?}; {redone} bytes copied again, {copied} in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_killed_a_few_times() {
    the_process_is_killed(4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn the_process_is_killed_for_long() {
    the_process_is_killed(200).await;
}
