//! What a target knows from before a restart.

use super::*;

fn listing(bench: &Bench) -> Console {
    Console::builder().list_target(bench.sink.clone()).build()
}

async fn entry(client: &Client, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let wait = async {
        loop {
            last = client.get("migrations").await.json();
            let migrations = last["migrations"].as_array().unwrap();
            if migrations.iter().any(&is_wanted) {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "{last:#}");
    last["migrations"][0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_migration_of_another_process_is_elsewhere_and_then_stored() {
    let bench = Bench::with_orders(5);
    let run = bench.builder().id("tenant").build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let client = Client::of(&listing(&bench));
    let elsewhere = entry(&client, |entry| entry["state"] == "elsewhere").await;
    assert_eq!(elsewhere["owner"]["process"], std::process::id());
    assert_eq!((&elsewhere["origin"], actions(&elsewhere)), (&json!("target"), vec![]));
    client.post("migrations/tenant/start", json!({})).await.problem(409);
    drop(run);
    let stored = entry(&client, |entry| entry["state"] == "stored").await;
    assert_eq!((&stored["owner"], actions(&stored)), (&Value::Null, vec!["forget"]));
    // Without a connection to its target, only its host can.
    client.delete("migrations/tenant").await.problem(409);
    bench.builder().id("tenant").build().unwrap().forget().await.unwrap();
    let is_gone = async {
        while client.get("migrations").await.json() != json!({ "migrations": [] }) {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(DEADLINE, is_gone).await.expect("it disappears");
}

#[tokio::test(start_paused = true)]
async fn the_host_goes_on_with_what_the_target_knows() {
    let bench = Bench::with_orders(5);
    let first = bench.console();
    let client = Client::of(&first);
    client.act("tenant", "start", json!({})).await;
    client.until_ready("tenant").await;
    drop((first, client));

    let second = listing(&bench);
    let client = Client::of(&second);
    entry(&client, |entry| entry["state"] == "stored").await;
    second.add(bench.managed("tenant")).unwrap();
    let known = entry(&client, |entry| entry["state"] == "stored" && entry["origin"] == "host").await;
    assert_eq!(actions(&known), ["preflight", "start", "forget"]);
    client.act("tenant", "start", json!({})).await;
    assert_eq!(client.cut_over("tenant").await["phase"], "complete");
}
