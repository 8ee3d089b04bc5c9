//! What has to be waited for when connecting and in preflight: it is told, has an end, and becomes a finding.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::doc;
use mongoferry::{ConnectOptions, Error, ErrorKind, MongoSink, MongoSource, Severity, Side, Wait};
use mongoferry_testbed::{Proxy, ReplicaSet, Version, wait_until};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::{admin, assert_found, assert_plain, between, of_code, plan};

const DEADLINE: Duration = Duration::from_secs(180);

/// The waits that were told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Wait>>>);

impl Told {
    fn hear(&self) -> impl Fn(Wait) + Send + Sync + 'static {
        let told = self.clone();
        move |wait| told.0.lock().unwrap().push(wait)
    }

    fn first(&self) -> Option<Wait> {
        self.0.lock().unwrap().first().cloned()
    }
}

/// The error of connecting to `uri`, with the code of each finding, and what was told meanwhile.
async fn refused(uri: &str) -> (Error, Vec<&'static str>, Option<Wait>, Duration) {
    let (told, began) = (Told::default(), Instant::now());
    let options = ConnectOptions::uri(uri).on_wait(told.hear());
    let connected = timeout(DEADLINE, MongoSink::connect(options)).await;
    let error = connected.expect(uri).unwrap_err();
    let codes = error.findings().iter().map(|finding| finding.code.as_str()).collect();
    assert_plain(&error);
    (error, codes, told.first(), began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_hosts_are_named_within_the_time_of_the_uri() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let limit = Duration::from_secs(4);
    let cases = [
        ("127.0.0.1:1".to_owned(), vec!["not_reached"], "nothing listens there"),
        (
            "no-such-host.invalid:27017".to_owned(),
            vec!["unknown_host"],
            "no-such-host.invalid",
        ),
        (
            "127.0.0.1:1,no-such-host.invalid".to_owned(),
            vec!["not_reached", "unknown_host"],
            "127.0.0.1:1",
        ),
        (
            silent.to_string(),
            vec!["not_reached"],
            "does not answer as MongoDB does",
        ),
    ];
    let cases = cases.map(|(hosts, expected, text)| async move {
        let uri = format!(
            "mongodb://user:s3cret@{hosts}/?replicaSet=rs0&serverSelectionTimeoutMS=4000&connectTimeoutMS=1000"
        );
        let (error, codes, told, took) = refused(&uri).await;
        assert_eq!((codes, error.kind()), (expected, ErrorKind::Connection), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(text) && !shown.contains("s3cret"), "{shown}");
        // The rest is for a machine that is busy with other tests.
        assert!(took >= limit && took < limit * 4, "{took:?}");
        let told = told.expect("nothing was told");
        assert_eq!((told.side, told.limit), (Side::Target, Some(limit)));
        assert!(told.elapsed >= Duration::from_secs(2) && told.elapsed < limit, "{told}");
        assert!(told.operation.contains("connect to"), "{told}");
    });
    futures::future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_no_primary_are_told_apart() {
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap();
    let primary = set.primary_index().await.unwrap();
    let secondary = set.member_address((primary + 1) % 3);
    // Nothing is to be waited for: it is not the primary.
    let (error, codes, _, took) = refused(&format!("mongodb://{secondary}/?directConnection=true")).await;
    assert_eq!(
        (codes, error.kind()),
        (vec!["not_primary"], ErrorKind::Refused),
        "{error}"
    );
    assert!(error.message().contains(&secondary), "{error}");
    assert!(error.message().contains(&set.member_address(primary)), "{error}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let client = mongodb::Client::with_uri_str(format!("mongodb://{secondary}/?directConnection=true"));
    let error = MongoSource::connect(client.await.unwrap()).await.unwrap_err();
    assert_eq!(error.findings()[0].code, "not_primary", "{error}");

    // A primary that steps down for want of a majority, and no other.
    set.kill((primary + 1) % 3).await.unwrap();
    set.kill((primary + 2) % 3).await.unwrap();
    let hosts = set.member_address(primary);
    wait_until(DEADLINE, "the set to have no primary", async || {
        let alone = mongodb::Client::with_uri_str(format!("mongodb://{hosts}/?directConnection=true"));
        let hello = alone
            .await
            .unwrap()
            .database("admin")
            .run_command(doc! { "isMaster": 1 })
            .await
            .unwrap();
        !hello.get_bool("ismaster").unwrap()
    })
    .await
    .unwrap();
    for option in ["replicaSet=rs0", "directConnection=true"] {
        let uri = format!("mongodb://{hosts}/?{option}&serverSelectionTimeoutMS=3000");
        let (error, codes, _, _) = refused(&uri).await;
        assert_eq!(
            (codes, error.kind()),
            (vec!["no_primary"], ErrorKind::Connection),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_when_asked_ends_the_connecting() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let proxy = Proxy::start(set.member_address(0)).await.unwrap();
    let told = Told::default();
    let sink = MongoSink::connect(ConnectOptions::uri(proxy.uri(&set)).on_wait(told.hear())).await;
    drop(sink.unwrap());
    proxy.stall();
    let (error, codes, told, _) =
        refused(&(proxy.uri(&set) + "&serverSelectionTimeoutMS=3000&connectTimeoutMS=1000")).await;
    assert_eq!(
        (codes, error.kind()),
        (vec!["not_reached"], ErrorKind::Connection),
        "{error}"
    );
    assert!(told.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_waits_for_no_member_that_is_down() {
    for version in [Version::V6_0, Version::V4_2] {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(version).name("rs1").start(),
            ReplicaSet::builder(version).members(3).start()
        )
        .unwrap();
        let client = target.client().await.unwrap();
        let primary = target.primary_index().await.unwrap();
        if version == Version::V4_2 {
            let reply = admin(&client, doc! { "replSetGetConfig": 1 }).await;
            let mut configuration = reply.get_document("config").unwrap().clone();
            let version = configuration.get_i32("version").unwrap();
            configuration.insert("version", version + 1);
            let settings = configuration.get_document_mut("settings").unwrap();
            settings.insert("getLastErrorDefaults", doc! { "w": 3, "wtimeout": 0 });
            admin(&client, doc! { "replSetReconfig": configuration }).await;
        } else {
            let concern = doc! { "setDefaultRWConcern": 1, "defaultWriteConcern": { "w": 3 } };
            admin(&client, concern).await;
        }
        let down = (primary + 1) % 3;
        target.kill(down).await.unwrap();
        let write = doc! { "insert": "orders", "documents": [{ "_id": 1 }], "writeConcern": { "w": 1 } };
        super::run(&client, "before", write).await;
        let (from, to) = (source.uri(), target.uri());
        wait_until(DEADLINE, "the set to notice", async || {
            let status = admin(&client, doc! { "replSetGetStatus": 1 }).await;
            let members = status.get_array("members").unwrap();
            members[down]
                .as_document()
                .unwrap()
                .get_str("stateStr")
                .unwrap()
                .contains("not reachable")
        })
        .await
        .unwrap();
        let planned = timeout(Duration::from_secs(30), async { plan(between(&from, &to).await).await });
        let found = planned.await.expect("preflight waits");
        assert_found(
            &found,
            Severity::Warning,
            "default_write_concern",
            "waits for 3 members",
        );
        assert_eq!(found.blockers().count(), 0, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_target_is_a_finding_of_preflight() {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let told = Told::default();
    let migration = between(&source.uri(), &target.uri()).await.on_wait(told.hear());
    let client = target.client().await.unwrap();
    admin(&client, doc! { "fsync": 1, "lock": true }).await;
    let found = timeout(Duration::from_secs(120), plan(migration))
        .await
        .expect("preflight waits");
    let connecting = refused(&target.uri()).await;
    admin(&client, doc! { "fsyncUnlock": 1 }).await;
    let finding = assert_found(&found, Severity::Blocker, "no_answer", "the target");
    assert!(finding.fix.contains("fsyncUnlock"), "{found}");
    assert_eq!(of_code(&found, "missing_privilege").len(), 0, "{found}");
    let told = told.first().expect("nothing was told");
    assert_eq!(told.side, Side::Target);
    assert!(told.elapsed >= Duration::from_secs(2) && told.limit.is_some(), "{told}");
    let (error, codes, told, _) = connecting;
    assert_eq!(
        (codes, error.kind()),
        (vec!["no_answer"], ErrorKind::Connection),
        "{error}"
    );
    assert!(told.is_some());
}
