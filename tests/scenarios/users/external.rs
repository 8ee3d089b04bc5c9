//! Users whose credentials are kept elsewhere.

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;
use mongoferry::{Migration, MongoSink, MongoSource, Outcome, UserSelection, Users};
use mongoferry_testbed::{Certificate, ReplicaSet, Version, wait_until};

use super::servers::{PATIENCE, run_on};
use crate::scenarios::deadline::{cut_over, ready};

/// The subject of [`Certificate::Client`].
const SUBJECT: &str = "CN=client,O=mongoferry testbed clients";

#[tokio::test(flavor = "multi_thread")]
async fn users_of_certificates_log_in_on_the_target() {
    let set = |name: &str| {
        let builder = ReplicaSet::builder(Version::V6_0).name(name).key_file_auth();
        builder.set_parameter("authenticationMechanisms", "MONGODB-X509,SCRAM-SHA-1,SCRAM-SHA-256")
    };
    let source = set("rs0").tls().start().await.unwrap();
    // Both trust the same authority.
    let target = set("rs1").tls_of(&source).start().await.unwrap();
    let on_source = source.client().await.unwrap();
    let orders = doc! { "db": "shop", "collection": "orders" };
    run_on(
        &on_source,
        "shop",
        doc! { "insert": "orders", "documents": [{ "_id": 1 }] },
    )
    .await;
    let clerk = doc! {
        "createRole": "clerk", "roles": [], "privileges": [{ "resource": &orders, "actions": ["find"] }],
    };
    run_on(&on_source, "shop", clerk).await;
    let role = |role: &str| doc! { "role": role, "db": "shop" };
    run_on(
        &on_source,
        "$external",
        doc! { "createUser": SUBJECT, "roles": [role("clerk")] },
    )
    .await;
    assert_eq!(roles(&source).await, Some(vec![role("clerk")]));
    assert_eq!(roles(&target).await, None);

    let (from, to) = (source.uri(), target.uri());
    let (reader, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
    let selection = UserSelection::all().databases(["shop", "$external"]);
    let migration = Migration::builder(reader, sink)
        .users(Users::Carry(selection))
        .build()
        .unwrap();
    let plan = migration.preflight().await.unwrap();
    let notes: Vec<&str> = plan.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert!(
        notes.contains(&"user_external") && plan.blockers().count() == 0,
        "{plan}"
    );
    let following = migration.start().await.unwrap();
    let until_roles = async |wanted: Option<Vec<Document>>| {
        let what = format!("the roles to be {wanted:?}");
        wait_until(PATIENCE, &what, async || roles(&target).await == wanted)
            .await
            .unwrap();
    };
    until_roles(Some(vec![role("clerk")])).await;
    let grant = doc! { "grantRolesToUser": SUBJECT, "roles": [role("dbAdmin")] };
    run_on(&on_source, "$external", grant).await;
    let find = doc! { "resource": orders, "actions": ["insert"] };
    run_on(
        &on_source,
        "shop",
        doc! { "grantPrivilegesToRole": "clerk", "privileges": [find] },
    )
    .await;
    ready(&following).await;
    let summary = cut_over(&following).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");
    let carried: Vec<String> = summary.users.unwrap().carried.iter().map(ToString::to_string).collect();
    assert_eq!(carried, ["role clerk@shop", &format!("user {SUBJECT}@$external")]);
    assert_eq!(roles(&target).await, roles(&source).await);

    let client = connect(&target).await;
    let shop = client.database("shop");
    let orders = shop.collection::<Document>("orders");
    assert_eq!(orders.find_one(doc! {}).await.unwrap(), Some(doc! { "_id": 1 }));
    orders.insert_one(doc! { "_id": 2 }).await.unwrap();
    orders.delete_one(doc! { "_id": 2 }).await.unwrap_err();
    run_on(&client, "shop", doc! { "collStats": "orders" }).await;
    shop.collection::<Document>("items")
        .find_one(doc! {})
        .await
        .unwrap_err();
}

/// The client of the certificate.
async fn connect(set: &ReplicaSet) -> Client {
    let (address, name) = (set.member_address(0), set.name());
    let (authority, client) = (set.ca_file().unwrap(), set.issue(Certificate::Client).unwrap());
    let uri = format!(
        "mongodb://{address}/?replicaSet={name}&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}&authMechanism=MONGODB-X509",
        authority.display(),
        client.display()
    );
    Client::with_options(ClientOptions::parse(&uri).await.unwrap()).unwrap()
}

/// The roles that the client of the certificate has there, in order, or `None` if it cannot log in.
async fn roles(set: &ReplicaSet) -> Option<Vec<Document>> {
    let client = connect(set).await;
    let status = client
        .database("admin")
        .run_command(doc! { "connectionStatus": 1 })
        .await
        .ok()?;
    let status = status.get_document("authInfo").unwrap();
    let users = status.get_array("authenticatedUsers").unwrap();
    assert_eq!(users[0].as_document().unwrap().get_str("user").unwrap(), SUBJECT);
    let roles = status.get_array("authenticatedUserRoles").unwrap().iter();
    let mut roles: Vec<Document> = roles.map(|role| role.as_document().unwrap().clone()).collect();
    roles.sort_by_key(ToString::to_string);
    Some(roles)
}
