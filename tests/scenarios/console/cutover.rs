//! A migration from its start to its certificate, and its cutover.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use mongoferry::Certificate;
use mongoferry::source::SourceCall;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_migration_goes_from_the_list_to_the_certificate() {
    let bench = Bench::with_orders(5);
    let stopped = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&stopped);
    let console = Console::new();
    let managed = bench.managed("tenant").stop_writes(move || {
        counted.fetch_add(1, SeqCst);
        async { std::io::Result::Ok(()) }
    });
    console.add(managed).unwrap();
    let client = Client::of(&console);

    let list = client.get("migrations").await.json();
    let entry = &list["migrations"][0];
    assert_eq!(
        (&entry["id"], &entry["state"], &entry["origin"]),
        (&json!("tenant"), &json!("created"), &json!("host"))
    );
    assert_eq!(actions(entry), ["preflight", "start"]);
    assert_eq!(client.detail("tenant").await["plan"], Value::Null);

    let plan = client.act("tenant", "preflight", json!({})).await;
    assert_eq!(
        (&plan["type"], &plan["total"]["documents"]),
        (&json!("plan"), &json!(5))
    );
    assert_eq!(client.detail("tenant").await["plan"], plan);

    let started = client.act("tenant", "start", json!({})).await;
    assert_eq!(
        (&started["state"], actions(&started)),
        (&json!("starting"), vec!["abandon"])
    );
    client.until_ready("tenant").await;
    // The window begins a moment later.
    let detail = client.until("tenant", "its window has begun", |detail| {
        detail["cutover_deadline"].is_string()
    });
    let detail = detail.await;
    assert_eq!(
        (&detail["state"], &detail["can_cut_over"]),
        (&json!("running"), &json!(true))
    );
    assert_eq!(detail["cutover"]["host_stops_writes"], true);
    for action in [
        "pause",
        "throttle",
        "extend",
        "verify",
        "cutover",
        "cutover_now",
        "abandon",
    ] {
        assert!(actions(&detail).contains(&action), "{action} in {detail:#}");
    }
    assert_eq!(client.get("migrations/tenant/status").await.json()["phase"], "ready");

    let paused = client.act("tenant", "pause", json!({})).await;
    assert_eq!(paused["phase"], "paused");
    client.post("migrations/tenant/verify", json!({})).await.problem(409);
    client.act("tenant", "resume", json!({})).await;
    let slow = client
        .act("tenant", "throttle", json!({ "copy_bytes_per_second": 5000 }))
        .await;
    assert_eq!(slow["status"]["throttle"]["copy_bytes_per_second"], 5000);
    client.until_ready("tenant").await;
    let before = client.detail("tenant").await["cutover_deadline"].clone();
    let extended = client.act("tenant", "extend", json!({ "by_ms": 86_400_000 })).await;
    assert_ne!(extended["cutover_deadline"], before);

    client
        .act("tenant", "verify", json!({ "collections": ["shop.orders"] }))
        .await;
    let compared = client
        .until("tenant", "both sides are compared", |detail| {
            detail["verify"]["report"].is_object()
        })
        .await;
    assert_eq!(
        (
            &compared["verify"]["report"]["identical"],
            &compared["verify"]["running"]
        ),
        (&json!(true), &json!(false))
    );

    assert_eq!(stopped.load(SeqCst), 0);
    let detail = client.cut_over("tenant").await;
    assert_eq!(stopped.load(SeqCst), 1);
    assert_eq!(
        (&detail["phase"], &detail["summary"]["outcome"]),
        (&json!("complete"), &json!("complete"))
    );
    let steps = detail["cutover"]["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["stop_writes", "drain", "compare", "finish"]);
    assert!(steps.iter().all(|step| step["state"] == "done"), "{steps:?}");
    assert!(detail["cutover"]["downtime_ms"].is_u64(), "{detail:#}");
    let answer = client.get("migrations/tenant/certificate").await;
    assert_eq!(
        answer.headers["content-disposition"],
        "attachment; filename=\"tenant-certificate.bson\""
    );
    let certificate = Certificate::decode(&bson::RawDocumentBuf::from_bytes(answer.bytes).unwrap()).unwrap();
    assert_eq!(certificate.collections[0].documents, 5);
    let samples = client.get("migrations/tenant/history").await.json();
    assert!(samples["samples"].as_array().unwrap().len() > 2, "{samples:#}");

    assert_eq!(actions(&detail), ["reverse", "forget"]);
    let answer = client.delete("migrations/tenant").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(client.detail("tenant").await["state"], "created");
}

#[tokio::test(start_paused = true)]
async fn a_cutover_needs_the_token_of_what_is_now() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&bench.console());
    let reads = bench.source.hold(SourceCall::ReadBatch);
    client.act("tenant", "start", json!({})).await;
    let copying = client
        .until("tenant", "it copies", |detail| detail["phase"] == "copy")
        .await;
    let early = copying["cutover"]["token"].clone();
    let detail = client
        .post("migrations/tenant/cutover", json!({ "token": early, "now": true }))
        .await
        .problem(409);
    assert!(detail.contains("not possible in the phase `copy`"), "{detail}");
    reads.release();
    client.until_ready("tenant").await;
    for token in [early, json!("00"), json!("")] {
        let detail = client
            .post("migrations/tenant/cutover", json!({ "token": token }))
            .await
            .problem(409);
        assert!(detail.contains("something has changed"), "{detail}");
    }
    client.post("migrations/tenant/cutover", json!({})).await.problem(422);
    let detail = client.cut_over("tenant").await;
    let used = detail["cutover"]["token"].clone();
    client
        .post("migrations/tenant/cutover", json!({ "token": used }))
        .await
        .problem(409);
}

/// While one cutover is in progress there is no other, and a failure is shown at its step.
#[tokio::test(start_paused = true)]
async fn a_cutover_that_fails_says_where() {
    let bench = Bench::with_orders(5);
    let console = Console::new();
    let fails = Arc::new(AtomicUsize::new(1));
    let managed = bench.managed("tenant").stop_writes(move || {
        let fails = fails.fetch_sub(1, SeqCst) == 1;
        async move {
            sleep(Duration::from_secs(5)).await;
            match fails {
                true => Err("the application does not stop"),
                false => Ok(()),
            }
        }
    });
    console.add(managed).unwrap();
    let client = Client::of(&console);
    client.act("tenant", "start", json!({})).await;
    let token = client.until_ready("tenant").await["cutover"]["token"].clone();
    client.act("tenant", "cutover", json!({ "token": token })).await;
    let during = client.until("tenant", "the writers are being stopped", |detail| {
        detail["cutover"]["steps"][0]["state"] == "running"
    });
    let during = during.await;
    assert_eq!(actions(&during), ["throttle", "abandon"]);
    client
        .post(
            "migrations/tenant/cutover",
            json!({ "token": during["cutover"]["token"] }),
        )
        .await
        .problem(409);
    let failed = client
        .until("tenant", "it fails", |detail| detail["cutover"]["error"].is_object())
        .await;
    assert_eq!(
        (&failed["state"], &failed["cutover"]["error"]["kind"]),
        (&json!("running"), &json!("hook"))
    );
    let step = &failed["cutover"]["steps"][0];
    assert_eq!(
        (&step["step"], &step["state"]),
        (&json!("stop_writes"), &json!("failed"))
    );
    assert_eq!(client.cut_over("tenant").await["phase"], "complete");
}
