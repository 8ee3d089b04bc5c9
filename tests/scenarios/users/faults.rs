//! Users and roles change while the process is killed, and while both sets get new primaries.

use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongoferry::{Outcome, UserSelection};
use mongoferry_testbed::{Version, wait_until};
use rand::Rng;
use tokio::time::timeout;

use super::people::People;
use super::servers::{PATIENCE, Servers, Told, login, run_on};
use crate::scenarios::deadline::{DEADLINE, ready};
use crate::scenarios::example::Example;
use crate::scenarios::faults::plan;

fn example(servers: &Servers) -> Example {
    let source = login(&servers.source, "admin", "reader", "own-secret");
    let target = login(&servers.target, "admin", "writer", "own-secret");
    // Nothing is replaced that a run before has not noted as its own. The servers' own administrators differ.
    let arguments = ["--users", "keep", "--cutover", "manual", "--include", "shop.*"];
    let mut all = vec!["--source", &source, "--target", &target];
    all.extend(arguments);
    Example::start(&all)
}

/// Whether the process that was killed had begun a change on the target, and did not note its end.
async fn is_busy(servers: &Servers) -> bool {
    let records = servers.on_target.database("__mdb_internal_mongoferry");
    let records = records.collection::<Document>("records");
    let found = records.find_one(doc! { "_id": "default/users" }).await.unwrap();
    found.is_some_and(|found| {
        let record = found.get_binary_generic("record").unwrap();
        let record: Document = bson::deserialize_from_slice(record).unwrap();
        record.get_bool("busy").unwrap()
    })
}

async fn the_process_is_killed(kills: u32) {
    let (kills, mut random) = plan(kills);
    let servers = Servers::start(Version::V6_0, Version::V6_0, 1).await;
    servers.grant().await;
    let people = People::start(&servers.on_source, random.random());
    let mut busy = 0;
    for number in 0..kills {
        let mut run = example(&servers);
        run.until("the start", |line| line["type"] == "started").await;
        // Every other one dies at any time, also before it has read users or made any.
        if number % 2 == 0 {
            wait_until(PATIENCE, "a change of users", async || is_busy(&servers).await)
                .await
                .unwrap();
        } else {
            let patience = Duration::from_millis(random.random_range(0..2000));
            run.last_status_within(patience).await;
        }
        run.signal("KILL").await;
        assert_eq!(run.end().await.exit, None, "{number}: it ended by itself");
        busy += u32::from(is_busy(&servers).await);
    }
    let mut run = example(&servers);
    run.phase("ready").await;
    let expected = people.stop().await;
    run.command("cutover").await;
    let ended = run.end().await;
    let summary = ended.summary("complete", 0);
    let kept = serde_json::json!([{ "kind": "user", "database": "admin", "name": "root" }]);
    assert_eq!(summary["users"]["kept"], kept, "{summary:#}");
    expected.assert_same(&servers.on_source, &servers.target).await;
    let changes = expected.changes;
    eprintln!("{kills} kills, {busy} of them in the middle of a change on the target; users changed {changes} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_killed_while_it_makes_users() {
    the_process_is_killed(1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn the_process_is_killed_for_long_while_users_change() {
    the_process_is_killed(30).await;
}

/// Both sets get new primaries while users change, and again while the cutover reads and makes them.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_carried_through_elections_of_both_sets() {
    let servers = Servers::start(Version::V6_0, Version::V6_0, 3).await;
    servers.grant().await;
    let people = People::start(&servers.on_source, plan(0).1.random());
    let told = Told::default();
    let selection = UserSelection::all().databases(["shop"]);
    let run = servers.run(selection, &told).await;
    futures::try_join!(servers.target.step_down(), servers.source.step_down()).unwrap();
    ready(&run).await;
    let mut expected = None;
    let stop_writes = async {
        let mut people = people.stop().await;
        hold(&servers.on_source, "find", Some("admin.system.users")).await;
        for user in people.users() {
            people.new_password(&servers.on_source, &user).await;
        }
        expected = Some(people);
    };
    let elections = async {
        until_held(&servers.on_source, doc! { "command.find": "system.users" }).await;
        // What this reads is what has changed meanwhile. Until then, nothing is made on the target.
        hold(&servers.on_target, "_mergeAuthzCollections", None).await;
        servers.source.step_down().await.unwrap();
        until_held(
            &servers.on_target,
            doc! { "command._mergeAuthzCollections": { "$exists": true } },
        )
        .await;
        servers.target.step_down().await.unwrap();
    };
    let cutover = timeout(DEADLINE, run.cutover(stop_writes));
    let (summary, ()) = tokio::join!(cutover, elections);
    let summary = summary.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");
    let expected = expected.unwrap();
    expected.assert_same(&servers.on_source, &servers.target).await;
    told.assert_no_secrets(&expected.secrets());
}

/// The next command of this name that the migration sends to the primary waits there, for longer than an election takes.
async fn hold(client: &Client, command: &str, namespace: Option<&str>) {
    let mut data = doc! {
        "failCommands": [command], "blockConnection": true, "blockTimeMS": 3000, "appName": "mongoferry",
    };
    data.extend(namespace.map(|namespace| ("namespace".to_owned(), namespace.into())));
    let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
    run_on(client, "admin", point).await;
}

/// Waits until the primary has such a command for some time.
async fn until_held(client: &Client, filter: Document) {
    let mut held: Option<(Bson, Instant)> = None;
    wait_until(PATIENCE, &format!("{filter} to wait"), async || {
        let mut command = doc! { "currentOp": 1 };
        command.extend(filter.clone());
        let found = client.database("admin").run_command(command).await.unwrap();
        let found = found.get_array("inprog").unwrap().first();
        let found = found.map(|found| found.as_document().unwrap().get("opid").unwrap().clone());
        match (&held, found) {
            (Some((before, since)), Some(now)) if *before == now => since.elapsed() > Duration::from_millis(300),
            (_, now) => {
                held = now.map(|now| (now, Instant::now()));
                false
            }
        }
    })
    .await
    .unwrap();
}
