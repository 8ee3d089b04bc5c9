//! The small examples, as processes.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::example::{Sets, binary};

/// How long an example may take; far more than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs an example to its end, without input.
async fn run(name: &str, arguments: &[&str]) -> (Output, String) {
    let mut command = Command::new(binary(name));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .expect("it did not end")
        .unwrap();
    let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output, texts.join("\n"))
}

#[tokio::test]
async fn the_small_examples_end_well() {
    for (name, said) in [
        ("oplog_tail", "drop zoo.animals"),
        ("custom_checkpoint", "going on: true"),
        ("custom_sink", "shop.orders: Count"),
        ("prometheus", "5001 documents are copied"),
        ("migrating_client", "the applications are on the source now"),
        ("redact", "values of `email` are masked"),
        (
            "filter_and_mask",
            "50 of 100 orders, and 20 customers without their data",
        ),
    ] {
        let (output, text) = run(name, &[]).await;
        assert!(output.status.success() && text.contains(said), "{name}: {text}");
    }
}

#[tokio::test]
async fn wrong_arguments_of_small_examples_get_their_usage() {
    let uri = "mongodb://127.0.0.1:1/?replicaSet=rs0";
    for (name, arguments) in [
        ("custom_checkpoint", &[uri][..]),
        ("custom_checkpoint", &["old.example", uri]),
        ("custom_sink", &[uri]),
        ("custom_sink", &[uri, uri, uri]),
        ("filter_and_mask", &[uri]),
        ("migrating_client", &[uri, "new.example"]),
        ("oplog_tail", &["shop.*"]),
        ("prometheus", &[uri]),
        ("redact", &[uri, uri]),
        ("service", &["migrations.json", "port"]),
    ] {
        let (output, text) = run(name, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        let usage = format!("usage: cargo run --example {name} -- ");
        assert!(text.contains(&usage), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_examples_use_the_servers_of_their_arguments() {
    let sets = Sets::start(2000).await;
    let (source, target) = sets.uris();
    let (output, text) = run("custom_sink", &[&source, &target]).await;
    assert!(output.status.success(), "{text}");
    assert!(text.contains("shop.orders: Count { copied: 1000,"), "{text}");
    assert_identical(&sets.source_client, &sets.target_client, &CompareOptions::default())
        .await
        .unwrap();

    let mut command = Command::new(binary("oplog_tail"));
    command.args([&source, "shop.c*"]).stdout(Stdio::piped());
    let mut tail = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("shop.c"), "{line}");
}

#[test]
fn the_guide_shows_lines_of_the_otlp_example() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let guide = read("src/docs/observability.md");
    let (_, shown) = guide.split_once("```ignore\n").unwrap();
    let (shown, rest) = shown.split_once("```").unwrap();
    assert!(!rest.contains("```ignore"), "another block that is not compiled");
    // They are compiled there, deeper inside.
    let trimmed = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let example = trimmed(&read("examples/otlp/src/main.rs"));
    assert!(example.contains(&trimmed(shown)), "not in the example:\n{shown}");
}
