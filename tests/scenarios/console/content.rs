//! What the console shows of a migration: collections, documents, differences, records of what was done.

use std::sync::{Arc, Mutex};

use mongoferry::console::{AuditOutcome, AuditRecord};
use mongoferry_testbed::wait_until;

use super::*;

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
