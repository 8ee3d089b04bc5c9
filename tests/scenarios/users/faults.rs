//! Users and roles change while the process is killed.

use std::time::Duration;

use bson::{Document, doc};
use mongoferry_testbed::{Version, wait_until};
use rand::Rng;

use super::people::People;
use super::servers::{PATIENCE, Servers, login};
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
