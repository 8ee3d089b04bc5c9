//! Whole walks on real servers.

use mongodb::bson::{Document, doc};
use mongoferry::{MongoSink, MongoSource};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version};

use super::mongosync::until;
use super::*;

const PASSWORD: &str = "s3cret/word@1";

async fn load(client: &mongodb::Client, documents: i32) {
    let orders = client.database("shop").collection::<Document>("orders");
    let documents = (0..documents).map(|id| doc! { "_id": id, "n": 0, "pad": "p".repeat(200) });
    orders.insert_many(documents).await.unwrap();
}

/// From the form of the page to the certificate, and back: a source with TLS and a user, whose password is wrong at first.
#[tokio::test(flavor = "multi_thread")]
async fn people_migrate_by_host_user_and_certificate_and_take_it_back() {
    let (old, new) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0)
            .name("old")
            .tls()
            .key_file_auth()
            .start(),
        ReplicaSet::builder(Version::V6_0).name("new").start()
    )
    .unwrap();
    let (on_old, on_new) = (old.client().await.unwrap(), new.client().await.unwrap());
    load(&on_old, 2_000).await;
    let user = doc! { "createUser": "ann", "pwd": PASSWORD, "roles": ["root"] };
    on_old.database("admin").run_command(user).await.unwrap();
    let console = Console::builder().allow_create(true).build();
    let client = Client::of(&console);

    let authority = std::fs::read_to_string(old.ca_file().unwrap()).unwrap();
    let source = |password: &str, ca: Option<&str>| {
        json!({
            "host": old.member_address(0), "replica_set": "old", "user": "ann", "password": password, "tls": true, "ca": ca,
        })
    };
    let body = json!({
        "id": "tenant-42", "source": source("wr0ng", None), "target": { "uri": new.uri() },
        "selection": { "include": ["shop.*"] },
    });
    let created = client.post("migrations", body).await;
    assert_eq!(created.status, 201, "{}", created.text());

    // What is wrong comes as findings, one after another.
    let codes = async |client: &Client| -> Vec<String> {
        let plan = client.act("tenant-42", "preflight", json!({})).await;
        let text = plan.to_string();
        assert!(!text.contains("wr0ng") && !text.contains("s3cret"), "{text}");
        let findings = plan["findings"].as_array().unwrap().iter();
        findings
            .map(|finding| finding["code"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(codes(&client).await, ["certificate"]);
    let again = json!({ "source": source("wr0ng", Some(&authority)) });
    let changed = client.with_body("PUT", "migrations/tenant-42/endpoints", again).await;
    assert_eq!((changed.status.as_u16(), &changed.json()["plan"]), (200, &Value::Null));
    assert_eq!(codes(&client).await, ["credentials_refused"]);
    let again = json!({ "source": source(PASSWORD, Some(&authority)) });
    client.with_body("PUT", "migrations/tenant-42/endpoints", again).await;
    let found = codes(&client).await;
    assert!(!found.contains(&"credentials_refused".to_owned()), "{found:?}");
    let detail = client.detail("tenant-42").await;
    assert_eq!(
        (&detail["plan"]["total"]["documents"], &detail["plan"]["source"]["name"]),
        (&json!(2_000), &json!("old"))
    );

    client.act("tenant-42", "start", json!({})).await;
    let detail = client.until_ready("tenant-42").await;
    assert_eq!(
        detail["new_connection"],
        json!({ "hosts": [new.member_address(0)], "replica_set": "new" })
    );
    assert_eq!(detail["cutover"]["host_stops_writes"], false);
    let ended = client.cut_over("tenant-42").await;
    assert_eq!(
        (&ended["phase"], &ended["certificate"]),
        (&json!("complete"), &json!(true))
    );
    let options = CompareOptions {
        namespaces: Some(vec!["shop.orders".to_owned()]),
        ..CompareOptions::default()
    };
    assert_identical(&on_old, &on_new, &options).await.unwrap();
    let bytes = client.get("migrations/tenant-42/certificate").await.bytes;
    let certificate = bson::RawDocumentBuf::from_bytes(bytes).unwrap();
    assert_eq!(
        mongoferry::Certificate::decode(&certificate).unwrap().source.name,
        "old"
    );

    // The way back needs no connection to be entered again.
    let back = client.post("migrations/tenant-42/reverse", json!({})).await;
    assert_eq!(
        (back.status.as_u16(), &back.headers["location"]),
        (201, &"../tenant-42-reverse".parse().unwrap())
    );
    assert_eq!(
        (&back.json()["direction"], &back.json()["source"]["name"]),
        (&json!("reverse"), &json!("new"))
    );
    client.act("tenant-42-reverse", "start", json!({})).await;
    client.until_ready("tenant-42-reverse").await;
    let orders = on_new.database("shop").collection::<Document>("orders");
    orders
        .update_one(doc! { "_id": 7 }, doc! { "$set": { "n": 1 } })
        .await
        .unwrap();
    let ended = client.cut_over("tenant-42-reverse").await;
    assert_eq!(ended["phase"], "complete", "{ended:#}");
    assert_identical(&on_old, &on_new, &options).await.unwrap();
    for path in ["migrations", "migrations/tenant-42", "migrations/tenant-42-reverse"] {
        let text = client.get(path).await.text();
        assert!(
            !text.contains("s3cret") && !text.contains("PRIVATE") && !text.contains("BEGIN"),
            "{text}"
        );
    }
    console.shutdown(Duration::from_secs(20)).await;
}

/// A console that ends in the middle, as if its process had been killed, and another one that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn another_console_goes_on_with_what_the_target_has_stored() {
    let (old, new) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).name("old").start(),
        ReplicaSet::builder(Version::V6_0).name("new").start()
    )
    .unwrap();
    let (on_old, on_new) = (old.client().await.unwrap(), new.client().await.unwrap());
    load(&on_old, 20_000).await;
    let source = json!({ "uri": old.uri() });
    let console = || Console::builder().allow_create(true).target(new.uri()).build();
    let first = console();
    let client = Client::of(&first);
    let about = client.get("console").await.json();
    assert_eq!(
        (&about["fixed_target"], &about["target"]["hosts"]),
        (&json!(true), &json!([new.member_address(0)]))
    );
    let twice = json!({ "id": "tenant-42", "source": source, "target": source });
    client.post("migrations", twice).await.problem(422);
    let body = json!({
        "id": "tenant-42", "source": source, "selection": { "include": ["shop.*"], "rename": [["shop.orders", "store.bought"]] },
        "throttle": { "copy_bytes_per_second": 1_000_000 },
    });
    let created = client.post("migrations", body).await;
    assert_eq!(created.status, 201, "{}", created.text());
    client.act("tenant-42", "start", json!({})).await;
    client
        .until("tenant-42", "some of it is copied", |detail| {
            detail["copied"]["documents"].as_u64() > Some(0)
        })
        .await;
    drop((first, client));

    let client = Client::of(&console());
    let stored = async {
        loop {
            let list = client.get("migrations").await.json();
            if list["migrations"][0]["state"] == "stored" {
                return list["migrations"][0].clone();
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let stored = timeout(DEADLINE, stored).await.expect("it is listed");
    assert_eq!(
        (&stored["id"], &stored["origin"]),
        (&json!("tenant-42"), &json!("target"))
    );
    assert_eq!(
        (&stored["source"]["name"], actions(&stored)),
        (&json!("old"), vec!["forget"])
    );
    client.post("migrations/tenant-42/start", json!({})).await.problem(409);
    let known = client
        .with_body("PUT", "migrations/tenant-42/endpoints", json!({ "source": source }))
        .await;
    assert_eq!(known.status, 200, "{}", known.text());
    let rename = &known.json()["settings"]["selection"]["rename"];
    assert_eq!(
        *rename,
        json!([["shop.orders", "store.bought"]]),
        "the selection is that of the checkpoint"
    );
    client.act("tenant-42", "start", json!({})).await;
    let mut events = client.open("tenant-42", None).await.unwrap();
    let started = events.until(|sent| sent.event == "started").await;
    assert_eq!(started.last().unwrap().data["resumed"], true);
    drop(events);
    let ended = client.cut_over("tenant-42").await;
    assert_eq!(ended["phase"], "complete", "{ended:#}");
    let renames = vec![("shop.orders".to_owned(), "store.bought".to_owned())];
    let namespaces = Some(vec!["shop.orders".to_owned()]);
    let options = CompareOptions {
        namespaces,
        renames,
        ..CompareOptions::default()
    };
    assert_identical(&on_old, &on_new, &options).await.unwrap();
    let events = client.get("migrations/tenant-42/findings").await;
    assert_eq!(
        events.headers["content-disposition"],
        "attachment; filename=\"tenant-42-findings.json\""
    );

    // What is complete is known to a third console, which can take it back with the source's connection.
    let client = Client::of(&console());
    let complete = async {
        while client.get("migrations").await.json()["migrations"][0]["phase"] != "complete" {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(DEADLINE, complete).await.expect("it is listed");
    assert_eq!(client.detail("tenant-42").await["certificate"], true);
    let bytes = client.get("migrations/tenant-42/certificate").await.bytes;
    let certificate = bson::RawDocumentBuf::from_bytes(bytes).unwrap();
    let certificate = mongoferry::Certificate::decode(&certificate).unwrap();
    assert_eq!(certificate.collections[0].target.as_str(), "store.bought");
    client
        .post("migrations/tenant-42/reverse", json!({}))
        .await
        .problem(422);
    let back = client
        .post("migrations/tenant-42/reverse", json!({ "source": source }))
        .await;
    assert_eq!(back.status, 201, "{}", back.text());
    client.act("tenant-42-reverse", "start", json!({})).await;
    client.until_ready("tenant-42-reverse").await;
    client.act("tenant-42-reverse", "abandon", json!({})).await;
    let forgotten = client.delete("migrations/tenant-42").await;
    assert_eq!(forgotten.status, 204, "{}", forgotten.text());
    assert!(
        mongoferry::migrations(&MongoSink::connect(new.uri()).await.unwrap())
            .await
            .unwrap()
            .is_empty()
    );
}

/// A script of mongosync goes there and back. The host says how both sides are connected on the way back.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_mongosync_commits_and_reverses() {
    let (old, new) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).name("old").start(),
        ReplicaSet::builder(Version::V6_0).name("new").start()
    )
    .unwrap();
    let (on_old, on_new) = (old.client().await.unwrap(), new.client().await.unwrap());
    load(&on_old, 500).await;
    let uris = (old.uri(), new.uri());
    let back = (new.uri(), old.uri());
    let managed = ManagedMigration::new("tenant-42", move || {
        let (source, target) = uris.clone();
        async move {
            let (source, sink) = (MongoSource::connect(source).await?, MongoSink::connect(target).await?);
            Migration::builder(source, sink)
                .id("tenant-42")
                .include("shop.*")
                .build()
        }
    });
    let managed = managed.way_back(move |way_back| {
        let (source, target) = back.clone();
        async move {
            let (source, sink) = (MongoSource::connect(source).await?, MongoSink::connect(target).await?);
            way_back.reverse(source, sink)?.build()
        }
    });
    let client = Client::of(&Console::single(managed).unwrap());
    let done = json!({ "success": true });
    let start = json!({ "source": "cluster0", "destination": "cluster1", "reversible": true });
    assert_eq!(client.post("start", start).await.json(), done);
    for (source, destination) in [
        (
            format!("cluster0: {}", old.member_address(0)),
            format!("cluster1: {}", new.member_address(0)),
        ),
        (
            format!("cluster1: {}", new.member_address(0)),
            format!("cluster0: {}", old.member_address(0)),
        ),
    ] {
        let running = until(&client, "it can commit", |progress| progress["canCommit"] == true).await;
        assert_eq!(
            running["directionMapping"],
            json!({ "Source": source, "Destination": destination })
        );
        if source.starts_with("cluster1") {
            let orders = on_new.database("shop").collection::<Document>("orders");
            orders.delete_one(doc! { "_id": 7 }).await.unwrap();
        }
        assert_eq!(client.post("commit", json!({})).await.json(), done);
        let committed = until(&client, "it is committed", |progress| progress["state"] == "COMMITTED").await;
        assert_eq!(committed["canWrite"], true);
        if source.starts_with("cluster0") {
            assert_eq!(client.post("reverse", json!({})).await.json(), done);
        }
    }
    let namespaces = Some(vec!["shop.orders".to_owned()]);
    let options = CompareOptions {
        namespaces,
        ..CompareOptions::default()
    };
    assert_identical(&on_old, &on_new, &options).await.unwrap();
    assert_eq!(
        on_old
            .database("shop")
            .collection::<Document>("orders")
            .count_documents(doc! {})
            .await
            .unwrap(),
        499
    );
}
