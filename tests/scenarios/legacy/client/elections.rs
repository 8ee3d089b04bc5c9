//! The primary is found, and followed when it changes.

use std::sync::Arc;

use bson::rawdoc;
use mongoferry::ErrorKind;
use mongoferry::test_util::legacy::{Find, LegacyClient, Primary};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::{PATIENCE, client, clients, options, ping};

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_follows_the_primary() {
    let set = ReplicaSet::builder(Version::V4_2).members(3).start().await.unwrap();
    // One member is enough to find the others, and the set's name need not be given.
    let secondary = (set.primary_index().await.unwrap() + 1) % 3;
    let client = client(&format!("mongodb://{}/", set.member_address(secondary))).await;
    let before = client.primary().await.unwrap();
    assert_eq!(before.address, set.member_address(set.primary_index().await.unwrap()));
    reads_from_members(&client, &set.member_address(secondary)).await;

    let find = Find {
        batch_size: Some(2),
        ..Find::new("local", "oplog.rs", rawdoc! {})
    };
    let older = clients(&set.uri()).await;
    let mut cursors = Vec::new();
    for client in &older {
        cursors.push(client.find(find.clone()).await.unwrap());
    }
    set.step_down().await.unwrap();
    let after = primary_after(&client, &before).await;
    assert_eq!(after.address, set.member_address(set.primary_index().await.unwrap()));
    assert_ne!(after.address, before.address);
    for (client, cursor) in older.iter().zip(&mut cursors) {
        primary_after(client, &before).await;
        assert!(cursor.next_batch().await.unwrap().is_some());
        assert!(cursor.next_batch().await.unwrap_err().is_retryable());
    }

    // A member that dies is left, too.
    set.kill(set.primary_index().await.unwrap()).await.unwrap();
    for client in older.iter().chain([&client]) {
        let primary = primary_after(client, &after).await;
        assert_eq!(primary.address, set.member_address(set.primary_index().await.unwrap()));
        ping(client).await.unwrap();
    }
}

/// Waits until the client has noticed an election.
async fn primary_after(client: &LegacyClient, before: &Primary) -> Arc<Primary> {
    let mut found = None;
    wait_until(PATIENCE / 2, "the client to follow the primary", async || {
        found = client.primary().await.ok();
        let election = |primary: &Primary| primary.is_master.election_id;
        found.as_ref().is_some_and(|found| election(found) > election(before))
    })
    .await
    .unwrap();
    found.unwrap()
}

/// Members are read by name; a secondary refuses what is for the primary.
async fn reads_from_members(client: &LegacyClient, secondary: &str) {
    let find = Find {
        address: Some(secondary.to_owned()),
        limit: Some(1),
        ..Find::new("local", "oplog.rs", rawdoc! {})
    };
    let mut cursor = client.find(find).await.unwrap();
    assert_eq!(cursor.primary().address, secondary);
    assert!(cursor.primary().is_master.is_secondary);
    assert_eq!(cursor.next_batch().await.unwrap().unwrap().len(), 1);
    let said = client
        .command_on(secondary, "admin", &rawdoc! { "isMaster": 1 })
        .await
        .unwrap();
    assert!(said.get_bool("secondary").unwrap());

    let mut direct = options(&format!("mongodb://{secondary}/?directConnection=true")).await;
    direct.server_selection_timeout = std::time::Duration::from_millis(500);
    let error = LegacyClient::new(direct).unwrap().primary().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Connection, true));
    assert_eq!(error.findings()[0].code, "no_primary");
    assert!(error.to_string().contains("a secondary"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_cursor_ends_with_the_election_it_began_in() {
    let set = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    for client in clients(&set.uri()).await {
        let find = Find {
            batch_size: Some(2),
            ..Find::new("local", "oplog.rs", rawdoc! {})
        };
        let mut cursor = client.find(find).await.unwrap();
        cursor.next_batch().await.unwrap().unwrap();
        // The only member is elected again, and keeps its cursors and, from 4.2 on, its connections.
        set.step_down().await.unwrap();
        primary_after(&client, cursor.primary()).await;
        let error = cursor.next_batch().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
}
