//! The flight recorder of a run.

use std::path::Path;

use mongoferry::{ErrorKind, Event, Phase};
use serde_json::Value;

use super::*;

const SECRET: &str = "the content of a document";

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains(SECRET));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

async fn until_recorded(path: &Path, kind: &str) {
    until(kind, || path.exists() && !of_type(&lines(path), kind).is_empty()).await;
}

/// Plan, status, events, calls, reports and the summary, in two processes.
#[tokio::test(start_paused = true)]
async fn a_run_is_recorded_from_the_plan_to_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let bench = Bench::with_orders(3);
    let document = rawdoc! { "_id": 7, "n": 0, "text": SECRET };
    bench.source.insert("shop.orders", document).unwrap();
    let start = async || {
        let migration = bench.migration().id("one").recording(&path, 1 << 20);
        migration.build().unwrap().start().await.unwrap()
    };
    let run = start().await;
    assert_eq!(run.recording(), Some(path.as_path()));
    run.ready_to_cut_over().await.unwrap();
    run.pause().await.unwrap();
    run.pause().await.unwrap();
    run.resume().unwrap();
    assert_eq!(run.resume().unwrap_err().kind(), ErrorKind::WrongPhase);
    run.abandon().await;
    let run = start().await;
    run.ready_to_cut_over().await.unwrap();
    run.verify(&[]).await.unwrap();
    bench.finish(run).await;

    let lines = lines(&path);
    let schema = serde_json::from_str(include_str!("../../../src/docs/format.schema.json")).unwrap();
    for line in &lines {
        if let Err(failure) = mongoferry_testbed::schema::check(&schema, Some("recording"), line) {
            panic!("{failure}: {line}");
        }
    }
    assert_eq!(lines[0]["id"], "one");
    let count = |kind: &str| of_type(&lines, kind).len();
    assert_eq!((count("recording"), count("plan"), count("started")), (2, 1, 2));
    let calls: Vec<_> = of_type(&lines, "call");
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (call["call"].as_str().unwrap(), call["error"].is_null()))
        .collect();
    let expected = [
        ("pause", true),
        ("pause", true),
        ("resume", true),
        ("resume", false),
        ("abandon", true),
        ("verify", true),
        ("cutover", true),
    ];
    assert_eq!(calls, expected);
    assert_eq!((count("verify_report"), count("summary")), (1, 1));
    let phases = of_type(&lines, "phase_changed");
    let phases: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert!(
        phases.contains(&"paused") && phases.contains(&"stopped") && phases.last() == Some(&"complete"),
        "{phases:?}"
    );
    let last = of_type(&lines, "status").pop().unwrap();
    assert_eq!(
        (last["phase"].as_str(), last["copied"]["documents"].as_u64()),
        (Some("complete"), Some(4))
    );
    assert!(last["lag_history"].as_array().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let bench = Bench::with_orders(3);
    bench.source.set_version([2, 4, 0]);
    let migration = bench.migration().recording(&path, 1 << 20).build().unwrap();
    migration.start().await.unwrap_err();
    let lines = lines(&path);
    let failed = of_type(&lines, "failed");
    assert_eq!(failed[0]["error"]["kind"], "refused");
    assert_eq!(of_type(&lines, "plan").len(), 1);
}

/// The file comes later, and so does what happens from then on.
#[tokio::test(start_paused = true)]
async fn a_run_goes_on_while_its_recording_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later").join("run.jsonl");
    let bench = Bench::with_orders(3);
    let migration = bench.migration().recording(&path, 1 << 20).build().unwrap();
    let mut events = migration.events();
    let run = migration.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let mut failures = Vec::new();
    while let Some(Some(event)) = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut events)) {
        if let Event::RecordingFailed { reason } = event {
            failures.push(reason);
        }
    }
    assert!(failures.len() == 1 && failures[0].contains("run.jsonl"), "{failures:?}");
    std::fs::create_dir(folder.path().join("later")).unwrap();
    until_recorded(&path, "status").await;
    bench.finish(run).await;
    assert_eq!(of_type(&lines(&path), "summary").len(), 1);
}

/// A cutover that fails is a call with an error.
#[tokio::test(start_paused = true)]
async fn a_cutover_that_fails_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let bench = Bench::with_orders(3);
    let run = bench
        .migration()
        .recording(&path, 1 << 20)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    run.cutover(async { Err::<(), _>("not now") }).await.unwrap_err();
    until_recorded(&path, "call").await;
    run.shutdown(DEADLINE).await;
    assert_eq!(run.status().phase, Phase::Stopped);
    let lines = lines(&path);
    let calls = of_type(&lines, "call");
    let named: Vec<_> = calls
        .iter()
        .map(|call| (call["call"].as_str().unwrap(), call["error"]["kind"].as_str()))
        .collect();
    assert_eq!(
        named[..2],
        [("cutover", None), ("hand_over", Some("hook"))],
        "{named:?}"
    );
}

#[test]
fn a_recording_needs_a_megabyte() {
    let bench = Bench::default();
    let refused = bench.migration().recording("run.jsonl", 1000).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfiguration);
}
