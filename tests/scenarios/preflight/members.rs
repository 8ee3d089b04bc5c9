//! Members that are down, delayed, hidden, or known by names that mean nothing here.

use std::time::Duration;

use bson::doc;
use mongoferry::{MongoSource, Severity, Source};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{admin, between, of_code, plan};

const DEADLINE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn members_are_seen_as_they_are() {
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap();
    let client = set.client().await.unwrap();
    let uri = set.uri();
    let healthy = plan(between(&uri, &uri).await).await;
    for code in ["member_unhealthy", "no_majority", "delayed_majority", "unused_member"] {
        assert_eq!(of_code(&healthy, code).len(), 0, "{healthy}");
    }

    // Of three votes one is of a member that stays behind, and one of a member that is down.
    let primary = set.primary_index().await.unwrap();
    let others: Vec<usize> = (0..3).filter(|index| *index != primary).collect();
    let reply = admin(&client, doc! { "replSetGetConfig": 1 }).await;
    let mut configuration = reply.get_document("config").unwrap().clone();
    let version = configuration.get_i32("version").unwrap();
    configuration.insert("version", version + 1);
    let members = configuration.get_array_mut("members").unwrap();
    let delayed = members[others[0]].as_document_mut().unwrap();
    delayed.extend(doc! { "priority": 0, "hidden": true, "secondaryDelaySecs": 3600_i64 });
    admin(&client, doc! { "replSetReconfig": configuration }).await;
    let all = plan(between(&uri, &uri).await).await;
    assert_eq!(of_code(&all, "unused_member").len(), 2, "{all}");
    assert_eq!(of_code(&all, "delayed_majority").len(), 0, "{all}");

    set.kill(others[1]).await.unwrap();
    let source = MongoSource::connect(&uri).await.unwrap();
    wait_until(DEADLINE, "the set to notice", async || {
        let facts = source.inspect().await.unwrap();
        facts.members[others[1]].state.contains("not reachable")
    })
    .await
    .unwrap();
    let found = plan(between(&uri, &uri).await).await;
    let down = of_code(&found, "member_unhealthy");
    assert_eq!(down.len(), 2, "{found}");
    assert!(down[0].message.contains(&set.member_address(others[1])), "{found}");
    assert!(down[0].fix.contains("rs.remove("), "{found}");
    assert_eq!(of_code(&found, "delayed_majority").len(), 2, "{found}");
    assert_eq!(of_code(&found, "no_majority").len(), 0, "{found}");
}

/// Passes everything on, with one name put in the place of another of the same length in what comes back.
async fn renaming_proxy(to: String, from_name: String, to_name: String) -> String {
    assert_eq!(from_name.len(), to_name.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, from_name, to_name) = (to.clone(), from_name.clone(), to_name.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                // Whole messages, so that no name is cut in two.
                while let Ok(length) = from_server.read_u32_le().await {
                    let mut message = length.to_le_bytes().to_vec();
                    message.resize(length as usize, 0);
                    if from_server.read_exact(&mut message[4..]).await.is_err() {
                        break;
                    }
                    let mut at = 0;
                    while let Some(found) = message[at..]
                        .windows(from_name.len())
                        .position(|window| window == from_name.as_bytes())
                    {
                        at += found;
                        message[at..at + to_name.len()].copy_from_slice(to_name.as_bytes());
                    }
                    if to_client.write_all(&message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_with_unknown_names_is_read_through_the_given_host() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    super::insert(&client, "shop.orders", [doc! { "_id": 1 }]).await;
    let inner = set.member_address(0);
    // Nobody listens there.
    let unreachable = inner.replace("127.0.0.1", "127.9.9.9");
    let given = renaming_proxy(inner.clone(), inner, unreachable.clone()).await;
    let uri = format!("mongodb://{given}/?replicaSet=rs0&serverSelectionTimeoutMS=1500");
    let found = plan(between(&uri, &uri).await).await;
    let direct = of_code(&found, "direct_connection");
    assert_eq!(direct.len(), 2, "{found}");
    assert_eq!(direct[0].severity, Severity::Warning);
    for text in [&unreachable, &given] {
        assert!(direct[0].message.contains(text.as_str()), "{found}");
    }
    assert!(direct[0].fix.contains(&unreachable), "{found}");
    assert_eq!(found.total.documents, 1);
    // Unencrypted traffic goes to the given host alone, which is this one.
    assert_eq!(of_code(&found, "unencrypted").len(), 0, "{found}");
}
