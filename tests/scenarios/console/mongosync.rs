//! Scripts that were written for mongosync.

use super::*;

/// Waits until the progress is as wanted.
pub(super) async fn until(client: &Client, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let wait = async {
        loop {
            let answer = client.get("progress").await.json();
            assert_eq!(answer["success"], true, "{answer:#}");
            last = answer["progress"].clone();
            if is_wanted(&last) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "{what}: {last:#}");
    last
}

#[tokio::test(start_paused = true)]
async fn a_script_starts_watches_and_commits() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&Console::single(bench.managed("tenant")).unwrap());
    let idle = until(&client, "it is idle", |progress| progress["state"] == "IDLE").await;
    assert_eq!(
        (&idle["canCommit"], &idle["canWrite"], &idle["info"]),
        (&json!(false), &json!(false), &Value::Null)
    );
    let refused = client.post("commit", json!({})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["success"]),
        (409, &json!(false))
    );
    assert!(
        refused.json()["errorDescription"]
            .as_str()
            .unwrap()
            .contains("start it first"),
        "{}",
        refused.text()
    );

    let start = json!({ "source": "cluster0", "destination": "cluster1", "reversible": false, "verification": { "enabled": true } });
    let started = client.post("start", start.clone()).await;
    assert_eq!(
        (started.status.as_u16(), started.json()),
        (200, json!({ "success": true }))
    );
    assert_eq!(client.post("start", start).await.json()["success"], false);
    let running = until(&client, "it can commit", |progress| progress["canCommit"] == true).await;
    assert_eq!(
        (&running["state"], &running["info"]),
        (&json!("RUNNING"), &json!("change event application"))
    );
    let bytes = &running["collectionCopy"];
    assert!(
        bytes["estimatedTotalBytes"].as_u64() > Some(0) && bytes["estimatedCopiedBytes"].as_u64() > Some(0),
        "{running:#}"
    );
    assert!(
        running["lagTimeSeconds"].is_u64() && running["totalEventsApplied"].is_u64(),
        "{running:#}"
    );
    assert!(running["source"]["pingLatencyMs"].as_i64() >= Some(0), "{running:#}");
    assert!(
        running["directionMapping"]["Source"]
            .as_str()
            .unwrap()
            .starts_with("cluster0: "),
        "{running:#}"
    );
    assert_eq!(
        (&running["mongosyncID"], &running["coordinatorID"]),
        (&json!("coordinator"), &json!("coordinator"))
    );
    assert_eq!(running["verification"]["source"]["estimatedDocumentCount"], 5);

    assert_eq!(client.post("pause", json!({})).await.json(), json!({ "success": true }));
    until(&client, "it is paused", |progress| progress["state"] == "PAUSED").await;
    assert_eq!(
        client.post("resume", json!({})).await.json(),
        json!({ "success": true })
    );
    until(&client, "it can commit", |progress| progress["canCommit"] == true).await;
    assert_eq!(
        client.post("commit", json!({})).await.json(),
        json!({ "success": true })
    );
    let committed = until(&client, "it is committed", |progress| progress["state"] == "COMMITTED").await;
    assert_eq!(
        (&committed["canWrite"], &committed["info"]),
        (&json!(true), &json!("commit completed"))
    );
    let reversed = client.post("reverse", json!({})).await.json();
    assert!(
        reversed["errorDescription"].as_str().unwrap().contains("reversible"),
        "{reversed:#}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_script_selects_is_migrated_and_nothing_else() {
    let bench = Bench::with_orders(5);
    bench.source.create_collection("shop.other", rawdoc! {}).unwrap();
    let built = bench.clone();
    let everything = ManagedMigration::new("tenant", move || {
        let bench = built.clone();
        async move { Migration::builder(bench.source, bench.sink).id("tenant").build() }
    });
    let client = Client::of(&Console::single(everything).unwrap());
    let start = json!({
        "source": "cluster0", "destination": "cluster1",
        "includeNamespaces": [{ "database": "shop", "collections": ["orders"] }],
    });
    assert_eq!(client.post("start", start).await.json(), json!({ "success": true }));
    until(&client, "it can commit", |progress| progress["canCommit"] == true).await;
    let names = mongoferry::Sink::collections(&bench.sink).await.unwrap();
    let names: Vec<_> = names.iter().map(|collection| collection.namespace.as_str()).collect();
    assert_eq!(names, ["shop.orders"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_refused_says_why_at_once() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&Console::single(bench.managed("tenant")).unwrap());
    for (body, told) in [
        (json!({}), "`source` must be `cluster0`"),
        (
            json!({ "source": "cluster0", "destination": "cluster1", "sharding": {} }),
            "`sharding` has no meaning here",
        ),
        // The host has chosen already.
        (
            json!({ "source": "cluster0", "destination": "cluster1", "includeNamespaces": [{ "database": "a" }] }),
            "leave out `includeNamespaces`",
        ),
    ] {
        let refused = client.post("start", body).await.json();
        assert_eq!(refused["success"], false);
        assert!(
            refused["errorDescription"].as_str().unwrap().contains(told),
            "{refused:#}"
        );
        until(&client, "it is idle", |progress| progress["state"] == "IDLE").await;
    }
    let start = json!({ "source": "cluster0", "destination": "cluster1" });
    assert_eq!(client.post("start", start).await.json(), json!({ "success": true }));
}
