//! What people do with migrations.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use mongoferry::console::{AuditOutcome, AuditRecord};
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Certificate, Phase};
use mongoferry_testbed::wait_until;

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

#[tokio::test(start_paused = true)]
async fn a_start_that_is_refused_is_shown_and_can_be_repeated() {
    let bench = Bench::with_orders(5);
    let sink = bench.sink.clone();
    let create = mongoferry::sink::CatalogCommand::Create {
        namespace: "shop.orders".parse().unwrap(),
        kind: mongoferry::CollectionKind::Plain,
        options: rawdoc! {},
    };
    mongoferry::Sink::execute(&sink, &create).await.unwrap();
    let client = Client::of(&bench.console());
    client.act("tenant", "start", json!({})).await;
    let failed = client
        .until("tenant", "it is refused", |detail| detail["state"] == "ended")
        .await;
    assert_eq!(
        (&failed["error"]["kind"], &failed["status"]),
        (&json!("refused"), &Value::Null)
    );
    assert_eq!(failed["error"]["findings"][0]["code"], "existing_data");
    assert_eq!(
        client.get("migrations/tenant/findings").await.json()[0]["code"],
        "existing_data"
    );
    let drop = mongoferry::sink::CatalogCommand::Drop {
        namespace: "shop.orders".parse().unwrap(),
    };
    mongoferry::Sink::execute(&sink, &drop).await.unwrap();
    client.act("tenant", "start", json!({})).await;
    assert_eq!(client.cut_over("tenant").await["phase"], "complete");
    // What is complete is not started again.
    client.post("migrations/tenant/start", json!({})).await.problem(409);
}

#[tokio::test(start_paused = true)]
async fn a_start_can_be_abandoned_and_so_can_a_run() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&bench.console());
    let describes = bench.source.hold(SourceCall::Describe);
    client.act("tenant", "start", json!({})).await;
    client.post("migrations/tenant/start", json!({})).await.problem(409);
    client.delete("migrations/tenant").await.problem(409);
    client.act("tenant", "abandon", json!({})).await;
    let ended = client
        .until("tenant", "it has ended", |detail| detail["state"] == "ended")
        .await;
    assert_eq!(ended["error"]["kind"], "stopped");
    describes.release();
    client.act("tenant", "start", json!({})).await;
    client.until_ready("tenant").await;
    let ended = client.act("tenant", "abandon", json!({})).await;
    assert_eq!(ended["phase"], "stopped");
    client
        .until("tenant", "it has ended", |detail| {
            detail["state"] == "ended" && detail["error"].is_null()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_host_builds_has_the_id_that_it_has_said() {
    let bench = Bench::with_orders(1);
    let console = Console::new();
    let built = bench.clone();
    let wrong = ManagedMigration::new("tenant", move || {
        let bench = built.clone();
        async move { bench.builder().id("other").build() }
    });
    console.add(wrong).unwrap();
    let panics = ManagedMigration::new("panics", || async { panic!("the host has a bug") });
    console.add(panics).unwrap();
    let error = console.add(bench.managed("tenant")).unwrap_err();
    assert!(error.to_string().contains("there is a migration `tenant`"), "{error}");
    assert!(console.add(bench.managed("a/b")).is_err());
    let client = Client::of(&console);
    let detail = client.post("migrations/tenant/preflight", json!({})).await.problem(422);
    assert!(detail.contains("`other`: call `.id(\"tenant\")`"), "{detail}");
    let detail = client.post("migrations/panics/preflight", json!({})).await.problem(500);
    assert!(detail.contains("panicked"), "{detail}");
    assert_eq!(actions(&client.detail("panics").await), ["preflight", "start"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_the_host_is_shown() {
    let bench = Bench::with_orders(5);
    let run = bench.builder().id("own").build().unwrap().start().await.unwrap();
    let console = Console::new();
    console.watch(&run).unwrap();
    let client = Client::of(&console);
    let detail = client.until_ready("own").await;
    assert_eq!(detail["cutover"]["host_stops_writes"], false);
    run.pause().await.unwrap();
    let paused = client.detail("own").await;
    assert_eq!(
        (&paused["phase"], actions(&paused).contains(&"resume")),
        (&json!("paused"), true)
    );
    run.abandon().await;
    let ended = client
        .until("own", "it has ended", |detail| detail["state"] == "ended")
        .await;
    assert_eq!(actions(&ended), Vec::<&str>::new());
    client.post("migrations/own/start", json!({})).await.problem(409);
    assert!(console.remove("own"));
    client.get("migrations/own").await.problem(404);
}

#[tokio::test(start_paused = true)]
async fn runs_end_with_the_last_clone_and_gracefully_with_a_shutdown() {
    for graceful in [false, true] {
        let bench = Bench::with_orders(5);
        let console = bench.console();
        let client = Client::of(&console);
        client.act("tenant", "start", json!({})).await;
        client.until_ready("tenant").await;
        if graceful {
            console.shutdown(Duration::from_secs(20)).await;
            let ended = client
                .until("tenant", "it has ended", |detail| detail["state"] == "ended")
                .await;
            assert_eq!(ended["phase"], "stopped");
        }
        drop((console, client));
        sleep(Duration::from_secs(20)).await;
        let known = mongoferry::migrations(&bench.sink).await.unwrap();
        assert_eq!(
            (known[0].owner.is_none(), known[0].complete),
            (true, false),
            "{known:?}"
        );
        assert_ne!(known[0].phase, Phase::Complete);
        // It goes on.
        let run = bench.builder().id("tenant").build().unwrap().start().await.unwrap();
        timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn collections_are_filtered_sorted_and_paged_here() {
    let bench = Bench::with_orders(5);
    for name in ["shop.a", "shop.b", "shop.Customers"] {
        bench.source.create_collection(name, rawdoc! {}).unwrap();
        bench.source.insert(name, rawdoc! { "_id": 1 }).unwrap();
    }
    let client = Client::of(&bench.console());
    client.act("tenant", "start", json!({})).await;
    client.until_ready("tenant").await;
    let names = async |query: &str| -> (Value, Vec<String>) {
        let answer = client
            .get(&format!("migrations/tenant/collections{query}"))
            .await
            .json();
        let names = answer["collections"].as_array().unwrap().iter();
        let names = names
            .map(|collection| collection["namespace"].as_str().unwrap().to_owned())
            .collect();
        (answer, names)
    };
    let (answer, all) = names("").await;
    assert_eq!(all, ["shop.Customers", "shop.a", "shop.b", "shop.orders"]);
    assert_eq!(
        (&answer["total"], &answer["by_phase"]),
        (&json!(4), &json!({ "following": 4 }))
    );
    assert_eq!(names("?filter=CUST").await.1, ["shop.Customers"]);
    assert_eq!(names("?phase=copying").await.1, Vec::<String>::new());
    let (answer, page) = names("?offset=1&limit=2&sort=name").await;
    assert_eq!(
        (page, &answer["matching"]),
        (vec!["shop.a".to_owned(), "shop.b".to_owned()], &json!(4))
    );
    assert_eq!(names("?sort=progress").await.1.len(), 4);
    client.get("migrations/tenant/collections?sort=size").await.problem(400);
}

#[tokio::test(start_paused = true)]
async fn documents_are_shown_only_if_the_host_allows_it() {
    let bench = Bench::with_orders(5);
    let path = "migrations/tenant/documents?namespace=shop.orders&id=%7B%22%24numberInt%22%3A%223%22%7D";
    for allowed in [false, true] {
        let console = Console::builder().documents_on_request(allowed).build();
        console.add(bench.managed("tenant")).unwrap();
        let client = Client::of(&console);
        client.act("tenant", "start", json!({})).await;
        let detail = client.until_ready("tenant").await;
        assert_eq!(detail["documents_on_request"], allowed);
        let answer = client.get(path).await;
        if !allowed {
            assert!(answer.problem(403).contains("does not show documents"));
        } else {
            let document = json!({ "_id": { "$numberInt": "3" }, "n": { "$numberInt": "0" } });
            assert_eq!(answer.json(), json!({ "source": document, "target": document }));
            client
                .get("migrations/tenant/documents?namespace=shop.orders&id=x")
                .await
                .problem(422);
            client
                .get("migrations/tenant/documents?namespace=shop.none&id=1")
                .await
                .problem(422);
        }
        client.act("tenant", "abandon", json!({})).await;
        sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn differences_are_found_and_repaired() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&bench.console());
    client.act("tenant", "start", json!({})).await;
    let detail = client.until_ready("tenant").await;
    assert!(!actions(&detail).contains(&"repair"));
    client.post("migrations/tenant/repair", json!({})).await.problem(409);
    let key = mongoferry::order::Key::from(bson::RawBsonRef::Int32(3));
    let write = mongoferry::Write {
        key,
        operation: mongoferry::Operation::Delete,
    };
    let name = "shop.orders".parse().unwrap();
    let applied = mongoferry::Sink::apply(&bench.sink, &name, mongoferry::CollectionKind::Plain, &[write]).await;
    assert!(applied.unwrap().is_empty());
    client.act("tenant", "verify", json!({})).await;
    let found = client
        .until("tenant", "it is found", |detail| {
            detail["verify"]["report"]["difference_count"] == 1
        })
        .await;
    assert!(actions(&found).contains(&"repair"));
    let downloaded = client.get("migrations/tenant/differences").await.json();
    assert_eq!(
        downloaded["report"]["collections"][0]["differences"][0]["kind"],
        "missing"
    );
    client.act("tenant", "repair", json!({})).await;
    client
        .until("tenant", "it is repaired", |detail| detail["verify"]["repaired"] == 1)
        .await;
    assert_eq!(client.cut_over("tenant").await["phase"], "complete");
}

#[tokio::test(start_paused = true)]
async fn each_action_leaves_a_record() {
    let bench = Bench::with_orders(5);
    let records: Arc<Mutex<Vec<AuditRecord>>> = Arc::default();
    let heard = Arc::clone(&records);
    let console = Console::builder()
        .on_audit(move |record| heard.lock().unwrap().push(record.clone()))
        .build();
    console.add(bench.managed("tenant")).unwrap();
    let client = Client::of(&console);
    client.act("tenant", "start", json!({})).await;
    client.until_ready("tenant").await;
    client.post("migrations/tenant/resume", json!({})).await.problem(409);
    client.cut_over("tenant").await;
    client.post("migrations/none/pause", json!({})).await.problem(404);
    client.post("migrations/a%0Ab/pause", json!({})).await.problem(404);
    let foreign = request("POST", "migrations/tenant/pause").header("sec-fetch-site", "cross-site");
    client.send(foreign.body(Body::empty()).unwrap()).await.problem(403);
    client.get("migrations").await;
    let records = records.lock().unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.action, record.migration.as_deref(), record.outcome))
        .collect();
    let tenant = Some("tenant");
    let expected = [
        ("start", tenant, AuditOutcome::Accepted),
        ("start", tenant, AuditOutcome::Completed),
        ("resume", tenant, AuditOutcome::Refused(409)),
        ("cutover", tenant, AuditOutcome::Accepted),
        ("cutover", tenant, AuditOutcome::Completed),
        ("pause", Some("none"), AuditOutcome::Refused(404)),
        ("pause", None, AuditOutcome::Refused(404)),
        ("request", None, AuditOutcome::Refused(403)),
    ];
    assert_eq!(told, expected);
}

/// What waits is shown while a preflight goes on, which does not depend on who asked for it.
#[tokio::test(start_paused = true)]
async fn a_preflight_shows_what_it_waits_for_and_goes_on_alone() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&bench.console());
    let lists = bench.sink.hold(SinkCall::Collections);
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.act("tenant", "preflight", json!({})).await }
    });
    let waiting = client
        .until("tenant", "it waits", |detail| detail["waits"][0].is_object())
        .await;
    assert_eq!(
        (&waiting["preflight_running"], &waiting["waits"][0]["side"]),
        (&json!(true), &json!("target"))
    );
    client.post("migrations/tenant/start", json!({})).await.problem(409);
    asked.abort();
    lists.release();
    let checked = client
        .until("tenant", "it has ended", |detail| detail["preflight_running"] == false)
        .await;
    assert_eq!(
        (&checked["plan"]["type"], &checked["waits"]),
        (&json!("plan"), &json!([]))
    );
}

/// What the host does not record itself is recorded where the console was told to.
#[tokio::test(start_paused = true)]
async fn recordings_are_downloaded_during_and_after_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with_orders(5);
    let console = Console::builder().record_in(folder.path(), 1 << 20).build();
    console.add(bench.managed("tenant")).unwrap();
    let own = folder.path().join("own.jsonl");
    let (other, path) = (Bench::with_orders(3), own.clone());
    let of_host = ManagedMigration::new("own", move || {
        let builder = other.builder().id("own").recording(path.clone(), 2 << 20);
        async move { builder.build() }
    });
    console.add(of_host).unwrap();
    let client = Client::of(&console);
    client.get("migrations/tenant/recording").await.problem(404);
    client.act("tenant", "start", json!({})).await;
    client.until_ready("tenant").await;
    let kinds = async |id: &str| -> Vec<String> {
        let answer = client.get(&format!("migrations/{id}/recording")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let disposition = format!("attachment; filename=\"{id}-recording.jsonl\"");
        assert_eq!(answer.headers["content-disposition"], disposition.as_str());
        let text = answer.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["type"].as_str().unwrap().to_owned()).collect()
    };
    // The recorder writes a moment after what it records.
    let recorded = async |id: &str, expected: &[&str]| {
        let all_there = async || {
            let kinds = kinds(id).await;
            expected.iter().all(|kind| kinds.iter().any(|found| found == kind))
        };
        wait_until(DEADLINE, "the run is recorded", all_there).await.unwrap();
    };
    recorded("tenant", &["plan", "status"]).await;
    client.cut_over("tenant").await;
    assert!(kinds("tenant").await.contains(&"summary".to_owned()));
    assert!(folder.path().join("tenant.jsonl").exists());

    client.act("own", "start", json!({})).await;
    client.until_ready("own").await;
    recorded("own", &["started"]).await;
    assert!(own.exists() && !folder.path().join("own-recording.jsonl").exists());
}
