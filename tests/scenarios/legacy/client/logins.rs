//! Logins by password.

use bson::{doc, rawdoc};
use mongodb::options::{AuthMechanism, Credential};
use mongoferry::ErrorKind;
use mongoferry::test_util::legacy::{Find, LegacyClient, LegacyMechanism};
use mongoferry_testbed::{ReplicaSet, Version};

use super::{assert_code, options, ping};

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_logs_in_to_4_2() {
    logs_in_to(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_logs_in_to_5_0() {
    logs_in_to(Version::V5_0).await;
}

async fn logs_in_to(version: Version) {
    let set = ReplicaSet::builder(version).key_file_auth().start().await.unwrap();
    let database = set.client().await.unwrap().database("users");
    // Names and passwords that have to be escaped, or prepared: the one of `new` has a ligature, which becomes two letters.
    let users = [
        ("old=one,user", "pa:ss=wo,rd", "SCRAM-SHA-1"),
        ("new", "p\u{FB01}nd", "SCRAM-SHA-256"),
    ];
    for (user, password, mechanism) in users {
        let roles = vec![
            doc! { "role": "readAnyDatabase", "db": "admin" },
            doc! { "role": "read", "db": "local" },
        ];
        let command = doc! { "createUser": user, "pwd": password, "mechanisms": [mechanism], "roles": roles };
        database.run_command(command).await.unwrap();
    }
    let client = async |user: &str, password: &str, mechanism: Option<AuthMechanism>| {
        let mut options = options(&format!("mongodb://{}/?replicaSet=rs0", set.member_address(0))).await;
        let mut credential = Credential::default();
        credential.username = Some(user.to_owned());
        credential.password = Some(password.to_owned());
        credential.source = Some("users".to_owned());
        credential.mechanism = mechanism;
        options.credential = Some(credential.into());
        LegacyClient::new(options).unwrap()
    };
    for ((user, password, name), given) in users
        .into_iter()
        .zip([AuthMechanism::ScramSha1, AuthMechanism::ScramSha256])
    {
        for mechanism in [None, Some(given)] {
            let client = client(user, password, mechanism).await;
            client.find(Find::new("local", "oplog.rs", rawdoc! {})).await.unwrap();
            let status = rawdoc! { "connectionStatus": 1 };
            let status = client.command("admin", &status).await.unwrap();
            let users = status
                .get_document("authInfo")
                .unwrap()
                .get_array("authenticatedUsers")
                .unwrap();
            let found = users
                .get(0)
                .unwrap()
                .unwrap()
                .as_document()
                .unwrap()
                .get_str("user")
                .unwrap()
                .to_owned();
            assert_eq!(found, user, "{name}");
            // Many connections share the keys of one login.
            let pings = futures::future::join_all((0..10).map(|_| ping(&client))).await;
            assert!(pings.iter().all(Result::is_ok));
        }
        for (password, mechanism) in [
            ("wrong s3cret", None),
            ("wrong s3cret", Some(AuthMechanism::ScramSha1)),
            ("wrong s3cret", Some(AuthMechanism::ScramSha256)),
        ] {
            let client = client(user, password, mechanism).await;
            let error = ping(&client).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.is_retryable()),
                (ErrorKind::Unauthorized, false),
                "{error:#}"
            );
            let shown = format!("{error:#} {error:?} {client:?} {:?}", client.options());
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
    // Without a login, and with a login that may not do it.
    let open = options(&format!("mongodb://{}/?replicaSet=rs0", set.member_address(0))).await;
    let error = LegacyClient::new(open)
        .unwrap()
        .find(Find::new("local", "oplog.rs", rawdoc! {}))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:#}");
    let reader = client("new", "p\u{FB01}nd", None).await;
    let error = reader.command("admin", &rawdoc! { "shutdown": 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_code(&error, 13);
}

#[tokio::test]
async fn legacy_client_refuses_logins_it_does_not_have() {
    let uri = "mongodb://user:s3cret@127.0.0.1:1/?authMechanism=PLAIN";
    let options = options(uri).await;
    let mechanism = options.credential.as_ref().unwrap().mechanism.clone();
    assert_eq!(mechanism, Some(LegacyMechanism::Other("PLAIN".to_owned())));
    let error = LegacyClient::new(options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
    assert!(error.to_string().contains("PLAIN") && !error.to_string().contains("s3cret"));
}
