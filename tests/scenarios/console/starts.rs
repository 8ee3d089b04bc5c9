//! Migrations that begin and end.

use mongoferry::Phase;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;

use super::*;

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
