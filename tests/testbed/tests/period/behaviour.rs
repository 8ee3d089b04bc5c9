//! What clients see happen: refusals, waits, logins, elections.

use std::time::{Duration, Instant};

use mongodb::bson::{Decimal128, Document, Timestamp, doc};
use mongoferry_testbed::{
    OldClient, OldQuery, OldSet, Period, PeriodServer, ReplicaSet, TestbedError, Version, wait_until,
};

use crate::{Bed, DEADLINE};

/// A command with the version that it came with.
fn later_commands() -> Vec<(Document, Period)> {
    let pipeline = |stage: Document| doc! { "aggregate": "t", "pipeline": [stage], "cursor": {} };
    vec![
        (doc! { "listCollections": 1 }, Period::V3_0),
        (doc! { "listIndexes": "t" }, Period::V3_0),
        (doc! { "find": "t" }, Period::V3_2),
        (doc! { "count": "t", "readConcern": { "level": "local" } }, Period::V3_2),
        (pipeline(doc! { "$sample": { "size": 1 } }), Period::V3_2),
        (pipeline(doc! { "$collStats": { "count": {} } }), Period::V3_4),
        (
            doc! { "count": "t", "readConcern": { "level": "majority" } },
            Period::V3_6,
        ),
        (doc! { "startSession": 1 }, Period::V3_6),
        (
            doc! { "count": "t", "readConcern": { "level": "linearizable" } },
            Period::V3_4,
        ),
    ]
}

#[tokio::test]
async fn each_version_refuses_what_came_later() {
    let set = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    let real = set.client().await.unwrap();
    let things = real.database("app").collection::<Document>("t");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();
    for period in Period::ALL {
        let server = PeriodServer::start(&set, period).await.unwrap();
        let mut client = OldClient::connect(&server.member_address(0)).await.unwrap();
        for (command, since) in later_commands() {
            let answer = client.command("app", command.clone()).await.unwrap();
            let is_done = answer.get_f64("ok").unwrap() == 1.0;
            assert_eq!(is_done, period >= since, "{period}: {command}: {answer}");
            if !is_done {
                assert_eq!(
                    answer.contains_key("codeName"),
                    period >= Period::V3_4,
                    "{period}: {answer}"
                );
            }
            assert_eq!(
                answer.contains_key("operationTime"),
                is_done && period >= Period::V3_6,
                "{period}: {answer}"
            );
        }
        let decimal = doc! { "_id": { "$in": ["1".parse::<Decimal128>().unwrap()] } };
        let query = OldQuery {
            query: decimal,
            ..OldQuery::default()
        };
        let failed = client.query("app.t", query).await.unwrap().flags & 2 != 0;
        assert_eq!(failed, period < Period::V3_4, "{period}: a Decimal128");
        let answer = client.command("admin", doc! { "isMaster": 1 }).await.unwrap();
        assert_eq!(answer.get_i32("maxWireVersion").unwrap(), period.wire_version());
        assert_eq!(answer.contains_key("lastWrite"), period >= Period::V3_4, "{answer}");
        assert_eq!(
            answer.contains_key("logicalSessionTimeoutMinutes"),
            period >= Period::V3_6,
            "{answer}"
        );
        assert!(
            !answer.contains_key("topologyVersion") && !answer.contains_key("compression"),
            "{answer}"
        );
        let has_majority = answer
            .get_document("lastWrite")
            .is_ok_and(|last| last.contains_key("majorityOpTime"));
        assert_eq!(has_majority, period >= Period::V3_6, "{answer}");
        let answer = client.command("admin", doc! { "listDatabases": 1 }).await.unwrap();
        let databases = answer.get_array("databases").unwrap().iter();
        let mut names = databases.map(|database| database.as_document().unwrap().get_str("name").unwrap());
        assert_eq!(names.any(|name| name == "config"), period >= Period::V3_6);
    }
}

#[tokio::test]
async fn op_msg_ends_the_connection_before_3_6() {
    let set = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    for period in [Period::V3_4, Period::V3_6] {
        let server = PeriodServer::start(&set, period).await.unwrap();
        let answer = answer_to_op_msg(&server.member_address(0), doc! { "ping": 1, "$db": "admin" }).await;
        assert_eq!(answer.is_ok(), period == Period::V3_6, "{answer:?}");
        if period == Period::V3_6 {
            let command = doc! { "find": "oplog.rs", "$db": "local", "sort": { "$natural": -1 }, "limit": 1 };
            let answer = answer_to_op_msg(&server.member_address(0), command).await.unwrap();
            let batch = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
            let entry = batch[0].as_document().unwrap();
            assert!(
                entry.contains_key("wall") && entry.get_i64("h").unwrap() != 0,
                "{entry}"
            );
        }
    }
}

async fn answer_to_op_msg(address: &str, command: Document) -> std::io::Result<Document> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = command.to_vec().unwrap();
    let mut message = Vec::new();
    for number in [21 + body.len() as i32, 1, 0, 2013, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(body);
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(&message).await?;
    let length = stream.read_i32_le().await? as usize;
    let mut reply = vec![0; length - 4];
    stream.read_exact(&mut reply).await?;
    Ok(Document::from_reader(&reply[17..]).unwrap())
}

/// The entry that is the newest now, by the way of the time.
async fn newest(client: &mut OldClient) -> Timestamp {
    let query = OldQuery {
        query: doc! { "$query": {}, "$orderby": { "$natural": -1 } },
        projection: Some(doc! { "ts": 1 }),
        batch: -1,
        flags: OldQuery::SLAVE_OK,
    };
    let reply = client.query("local.oplog.rs", query).await.unwrap();
    reply.documents[0].get_timestamp("ts").unwrap()
}

#[tokio::test]
async fn a_tail_waits_for_entries_and_wakes_at_once() {
    let bed = Bed::start(Period::V2_6).await;
    let mut client = bed.client().await;
    bed.run("app", doc! { "insert": "t", "documents": [{ "_id": 1 }] })
        .await;
    let from = newest(&mut client).await;
    let query = OldQuery {
        query: doc! { "ts": { "$gte": from } },
        flags: OldQuery::TAIL,
        ..OldQuery::default()
    };
    let first = client.query("local.oplog.rs", query).await.unwrap();
    assert_eq!(first.documents.len(), 1, "{first:?}");
    assert_eq!(first.documents[0].get_timestamp("ts").unwrap(), from);

    let begin = Instant::now();
    let empty = client.get_more("local.oplog.rs", first.cursor, 0).await.unwrap();
    assert_eq!((empty.flags & 1, empty.documents.len()), (0, 0));
    assert!(begin.elapsed() >= Duration::from_secs(4), "{:?}", begin.elapsed());

    let begin = Instant::now();
    let (woken, _) = tokio::join!(client.get_more("local.oplog.rs", first.cursor, 0), async {
        // So that the client waits already, most of the time.
        tokio::time::sleep(Duration::from_millis(200)).await;
        bed.run("app", doc! { "insert": "t", "documents": [{ "_id": 2 }] })
            .await
    });
    let woken = woken.unwrap();
    assert_eq!(woken.documents.len(), 1, "{woken:?}");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());

    let unknown = client.get_more("local.oplog.rs", 4711, 0).await.unwrap();
    assert_eq!(unknown.flags & 1, 1);
}

/// A client that has seen a document finds its entry: the order in which an application's write and a reader's position are
/// known is what a copy rests on.
#[tokio::test]
async fn a_written_document_has_its_entry_at_once() {
    let bed = Bed::start(Period::V3_0).await;
    let mut client = bed.client().await;
    let mut last = newest(&mut client).await;
    for number in 0..200 {
        bed.run("app", doc! { "insert": "t", "documents": [{ "_id": number }] })
            .await;
        let found = newest(&mut client).await;
        assert!(found > last, "{number}");
        last = found;
    }
}

#[tokio::test]
async fn a_cursor_that_was_overtaken_has_the_code_of_the_time() {
    let set = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    let real = set.client().await.unwrap();
    let things = real.database("app").collection::<Document>("t");
    for (period, code) in [(Period::V2_6, 103), (Period::V3_0, 121), (Period::V3_2, 136)] {
        let server = PeriodServer::start(&set, period).await.unwrap();
        let mut client = OldClient::connect(&server.member_address(0)).await.unwrap();
        things.insert_one(doc! {}).await.unwrap();
        let query = OldQuery {
            query: doc! { "ts": { "$gte": newest(&mut client).await } },
            flags: OldQuery::TAIL,
            ..OldQuery::default()
        };
        let first = client.query("local.oplog.rs", query).await.unwrap();
        things.insert_many([doc! {}, doc! {}, doc! {}]).await.unwrap();
        newest(&mut client).await;
        server.roll_off(1);
        let lost = client.get_more("local.oplog.rs", first.cursor, 0).await.unwrap();
        assert_eq!(lost.flags & 2, 2, "{period}: {lost:?}");
        assert_eq!(lost.documents[0].get_i32("code").unwrap(), code, "{period}");
    }
}

#[tokio::test]
async fn only_the_right_password_logs_in_to_2_6() {
    let set = ReplicaSet::builder(Version::V4_2)
        .key_file_auth()
        .start()
        .await
        .unwrap();
    let real = set.client().await.unwrap();
    let user = doc! { "createUser": "seed", "pwd": "secret, = and more", "roles": ["readAnyDatabase"] };
    real.database("admin").run_command(user).await.unwrap();
    real.database("app")
        .collection("t")
        .insert_one(doc! { "_id": 1 })
        .await
        .unwrap();
    let server = PeriodServer::start(&set, Period::V2_6).await.unwrap();
    server.add_user("seed", "secret, = and more", "admin");
    let address = server.member_address(0);

    let mut client = OldClient::connect(&address).await.unwrap();
    let answer = client.command("app", doc! { "count": "t" }).await.unwrap();
    assert_eq!(answer.get_i32("code").unwrap(), 13, "{answer}");
    let refused = client.query("local.oplog.rs", OldQuery::default()).await.unwrap();
    assert_eq!(refused.flags & 2, 2, "{refused:?}");
    for (database, name, password) in [("admin", "seed", "wrong"), ("app", "seed", "secret, = and more")] {
        let answer = client.log_in(database, name, password).await.unwrap();
        assert_eq!(
            (answer.get_f64("ok").unwrap(), answer.get_i32("code").unwrap()),
            (0.0, 18),
            "{answer}"
        );
    }
    let answer = client.command("app", doc! { "count": "t" }).await.unwrap();
    assert_eq!(answer.get_i32("code").unwrap(), 13, "{answer}");
    let answer = client
        .command("admin", doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-1" })
        .await
        .unwrap();
    assert_eq!(answer.get_str("errmsg").unwrap(), "no such cmd: saslStart");

    let answer = client.log_in("admin", "seed", "secret, = and more").await.unwrap();
    assert_eq!(answer.get_f64("ok").unwrap(), 1.0, "{answer}");
    let answer = client.command("app", doc! { "count": "t" }).await.unwrap();
    assert_eq!(answer.get_f64("ok").unwrap(), 1.0, "{answer}");
    // As this user, and not as another: it may read and not write.
    let answer = client.command("app", doc! { "drop": "t" }).await.unwrap();
    assert_eq!(answer.get_i32("code").unwrap(), 13, "{answer}");
}

#[tokio::test]
async fn a_primary_that_steps_down_closes_its_connections() {
    let set = ReplicaSet::builder(Version::V4_2).members(3).start().await.unwrap();
    let server = PeriodServer::start(&set, Period::V3_0).await.unwrap();
    let before = set.primary_index().await.unwrap();
    let mut client = OldClient::connect(&server.member_address(before)).await.unwrap();
    newest(&mut client).await;
    set.step_down().await.unwrap();
    wait_until(DEADLINE, "the connection to be closed", async || {
        client.command("admin", doc! { "ping": 1 }).await.is_err()
    })
    .await
    .unwrap();

    let after = set.primary_index().await.unwrap();
    assert_ne!(after, before);
    let mut client = OldClient::connect(&server.member_address(before)).await.unwrap();
    wait_until(DEADLINE, "the new primary to be known", async || {
        let answer = client.command("admin", doc! { "isMaster": 1 }).await.unwrap();
        answer
            .get_str("primary")
            .is_ok_and(|primary| primary == server.member_address(after))
    })
    .await
    .unwrap();
    // A secondary refuses, unless it is asked to answer; its own database it always reads.
    let refused = client.query("app.t", OldQuery::default()).await.unwrap();
    assert_eq!(refused.documents[0].get_i32("code").unwrap(), 13435, "{refused:?}");

    // Every member has the same entries.
    let entries = async |index: usize| {
        let query = OldQuery {
            batch: 1000,
            flags: OldQuery::SLAVE_OK,
            ..OldQuery::default()
        };
        let mut client = OldClient::connect(&server.member_address(index)).await.unwrap();
        let reply = client.query("local.oplog.rs", query).await.unwrap();
        reply.documents
    };
    let real = set.client().await.unwrap();
    real.database("gone").collection("a").insert_one(doc! {}).await.unwrap();
    real.database("gone").drop().await.unwrap();
    let newest = newest(&mut OldClient::connect(&server.member_address(after)).await.unwrap()).await;
    let expected = entries(after).await;
    for index in 0..3 {
        wait_until(DEADLINE, "a member to have all", async || {
            entries(index).await.last().unwrap().get_timestamp("ts").unwrap() == newest
        })
        .await
        .unwrap();
        assert!(entries(index).await == expected, "member {index}");
    }
}

#[tokio::test]
async fn a_cut_ends_connections_until_it_is_restored() {
    let bed = Bed::start(Period::V3_2).await;
    let mut client = bed.client().await;
    newest(&mut client).await;
    bed.server.proxy(0).cut();
    client.command("admin", doc! { "ping": 1 }).await.unwrap_err();
    bed.server.proxy(0).restore();
    let answer = bed.client().await.command("admin", doc! { "ping": 1 }).await.unwrap();
    assert_eq!(answer.get_f64("ok").unwrap(), 1.0);
    assert_eq!(bed.set.members(), 1);
}

#[tokio::test]
async fn a_set_of_the_time_takes_commands_of_the_time() {
    let set = OldSet::start(Period::V2_6, 1).await.unwrap();
    let insert = doc! { "insert": "t", "documents": [{ "_id": 1 }] };
    set.run("app", insert.clone()).await.unwrap();
    let refused = set.run("app", insert).await;
    assert!(matches!(refused, Err(TestbedError::Refused { .. })), "{refused:?}");
    let (_, hosts) = set
        .uri()
        .split_once("://")
        .map(|(scheme, rest)| (scheme.to_owned(), rest.to_owned()))
        .unwrap();
    let address = hosts.split('/').next().unwrap().to_owned();
    let mut client = OldClient::connect(&address).await.unwrap();
    let answer = client.command("admin", doc! { "buildInfo": 1 }).await.unwrap();
    let is_real = std::env::var_os("MONGOD_2_6").is_some() || std::env::var_os("MONGOD_2_6_12").is_some();
    assert_eq!(set.is_real(), is_real);
    assert!(answer.get_str("version").unwrap().starts_with("2.6."), "{answer}");
    let found = client.query("app.t", OldQuery::default()).await.unwrap();
    assert_eq!(found.documents.len(), 1);
}

#[tokio::test]
async fn a_binary_that_cannot_be_fetched_is_asked_for() {
    if std::env::var_os("MONGOD_3_6").is_some() || std::env::var_os("MONGOD_3_6_13").is_some() {
        return;
    }
    let error = ReplicaSet::builder(Version::V3_6).start().await.unwrap_err();
    assert!(error.to_string().contains("MONGOD_3_6: not set"), "{error}");
}
