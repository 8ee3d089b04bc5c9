//! Users and roles on real servers with access control: applications log in on the target with the passwords that they have.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Client;
use mongodb::options::ClientOptions;
use mongoferry::{
    AccountChanges, AccountKind, ErrorKind, ExistingUsers, Migration, MigrationBuilder, MigrationHandle, MongoSink,
    MongoSource, Outcome, Sink, UserSelection, Users,
};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::task::AbortHandle;

use super::deadline::{cut_over, ready};
use super::preflight::grant_by_fix;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Roles of the migration's users, without those that users and roles take.
const SOURCE_ROLES: &[&str] = &["readAnyDatabase", "clusterMonitor"];
const TARGET_ROLES: &[&str] = &["readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor"];

/// Passwords, which nothing that a host is told may contain.
const PASSWORDS: [&str; 5] = [
    "first-secret",
    "second-secret",
    "third-secret",
    "own-secret",
    "foreign-secret",
];

#[tokio::test(flavor = "multi_thread")]
async fn users_of_4_2_log_in_on_4_2() {
    carry(Version::V4_2, Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_4_4_log_in_on_4_4() {
    carry(Version::V4_4, Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_5_0_log_in_on_5_0() {
    carry(Version::V5_0, Version::V5_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_6_0_log_in_on_6_0() {
    carry(Version::V6_0, Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_4_2_log_in_on_6_0() {
    carry(Version::V4_2, Version::V6_0).await;
}

/// Two sets with access control, and the users of the migration.
struct Servers {
    source: ReplicaSet,
    target: ReplicaSet,
    on_source: Client,
    on_target: Client,
}

impl Servers {
    async fn start(from: Version, to: Version, members: usize) -> Self {
        let set = |version, name: &str, members| {
            let builder = ReplicaSet::builder(version).name(name).members(members);
            builder.key_file_auth().start()
        };
        let (source, target) = futures::try_join!(set(from, "rs0", 1), set(to, "rs1", members)).unwrap();
        let (on_source, on_target) = futures::try_join!(source.client(), target.client()).unwrap();
        user(&on_source, "admin", "reader", "own-secret", SOURCE_ROLES).await;
        user(&on_target, "admin", "writer", "own-secret", TARGET_ROLES).await;
        run(
            &on_source,
            "shop",
            doc! { "insert": "orders", "documents": [{ "_id": 1 }] },
        )
        .await;
        Self {
            source,
            target,
            on_source,
            on_target,
        }
    }

    /// Grants the built-in roles that carrying users takes.
    async fn grant(&self) {
        run(
            &self.on_source,
            "admin",
            doc! { "grantRolesToUser": "reader", "roles": ["backup"] },
        )
        .await;
        run(
            &self.on_target,
            "admin",
            doc! { "grantRolesToUser": "writer", "roles": ["restore"] },
        )
        .await;
    }

    async fn builder(&self, selection: UserSelection) -> MigrationBuilder {
        let uri =
            |set: &ReplicaSet, user: &str| format!("{}&retryWrites=true", login(set, "admin", user, "own-secret"));
        let (source, target) = (uri(&self.source, "reader"), uri(&self.target, "writer"));
        let (source, sink) = futures::try_join!(MongoSource::connect(&source), MongoSink::connect(&target)).unwrap();
        Migration::builder(source, sink)
            .include("shop.*")
            .rename("shop.items", "shop.parts")
            .users(Users::Carry(selection))
    }

    /// Starts a run, and collects what the host is told.
    async fn run(&self, selection: UserSelection, told: &Told) -> MigrationHandle {
        let run = self.builder(selection).await.build().unwrap().start().await.unwrap();
        told.follow(&run);
        run
    }

    /// Waits until a user can log in on the target with a password, or cannot.
    async fn until_login(&self, database: &str, name: &str, password: &str, can: bool) {
        let what = format!("the login of {name} with {password} to be {can}");
        wait_until(PATIENCE, &what, async || {
            can_log_in(&self.target, database, name, password).await == can
        })
        .await
        .unwrap();
    }

    /// Waits until the document of a user or role on the target has or lacks a text.
    async fn until_document(&self, collection: &str, id: &str, condition: impl Fn(Option<Document>) -> bool) {
        let documents = self.on_target.database("admin").collection::<Document>(collection);
        wait_until(PATIENCE, id, async || {
            condition(documents.find_one(doc! { "_id": id }).await.unwrap())
        })
        .await
        .unwrap();
    }
}

/// Everything that a host is told of a run.
#[derive(Clone, Default)]
struct Told {
    text: Arc<Mutex<String>>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Told {
    fn follow(&self, run: &MigrationHandle) {
        let (text, mut events) = (Arc::clone(&self.text), run.events());
        let follow = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                *text.lock().unwrap() += &format!("{event}\n{event:?}\n{}\n", serde_json::to_string(&event).unwrap());
            }
        });
        self.tasks.lock().unwrap().push(follow.abort_handle());
    }

    fn add(&self, text: &str) {
        *self.text.lock().unwrap() += text;
    }

    fn assert_no_secrets(&self, more: &[String]) {
        let text = self.text.lock().unwrap();
        assert!(text.contains("users and roles"), "{text}");
        let secrets = PASSWORDS.iter().map(|&password| password.to_owned());
        for secret in secrets.chain(more.iter().cloned()) {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.text.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            eprintln!("{text}");
        }
        if Arc::strong_count(&self.tasks) == 1 {
            for task in self.tasks.lock().unwrap().iter() {
                task.abort();
            }
        }
    }
}

async fn carry(from: Version, to: Version) {
    let servers = Servers::start(from, to, 1).await;
    let (on_source, on_target, target) = (&servers.on_source, &servers.on_target, &servers.target);
    prepare_source(on_source).await;
    // The target has a user of the same name, and the migration's own user is on the source, too.
    user(on_target, "shop", "app", "foreign-secret", &[]).await;
    user(on_target, "shop", "stays", "foreign-secret", &[]).await;
    user(on_source, "admin", "writer", "first-secret", &["root"]).await;

    let plan = servers
        .builder(UserSelection::all())
        .await
        .build()
        .unwrap()
        .preflight()
        .await
        .unwrap();
    let lacking: Vec<_> = plan
        .blockers()
        .filter(|finding| finding.code == "missing_privilege")
        .collect();
    assert_eq!(lacking.len(), 2, "{plan}");
    assert!(
        lacking[0].message.contains("`backup`") && lacking[1].message.contains("`restore`"),
        "{plan}"
    );
    match from == to {
        true => servers.grant().await,
        // The single privileges are enough, too.
        false => {
            grant_by_fix(on_source, "reader", &lacking[0].fix).await;
            grant_by_fix(on_target, "writer", &lacking[1].fix).await;
        }
    }
    let plan = servers
        .builder(UserSelection::all())
        .await
        .build()
        .unwrap()
        .preflight()
        .await
        .unwrap();
    let blockers: Vec<&str> = plan.blockers().map(|finding| finding.code.as_str()).collect();
    assert_eq!(blockers, ["users_existing"], "{plan}");
    assert!(plan.to_string().contains("user app@shop"), "{plan}");
    let refused = servers
        .builder(UserSelection::all())
        .await
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");

    let told = Told::default();
    let selection = UserSelection::all().exclude("root", "admin").exclude("intern", "shop");
    let selection = selection.existing(ExistingUsers::Replace);
    let run = servers.run(selection.clone(), &told).await;
    servers.until_login("shop", "app", "first-secret", true).await;
    servers.until_login("shop", "leaver", "first-secret", true).await;
    assert!(!can_log_in(target, "shop", "app", "foreign-secret").await);
    assert!(can_log_in_by(target, "shop", "app", "first-secret", "SCRAM-SHA-1").await);
    assert!(can_log_in_by(target, "shop", "app", "first-secret", "SCRAM-SHA-256").await);
    assert!(can_log_in_by(target, "shop", "old", "first-secret", "SCRAM-SHA-1").await);
    assert!(
        !can_log_in(target, "shop", "away", "first-secret").await,
        "he may not log in from here"
    );
    assert!(can_log_in(target, "admin", "writer", "own-secret").await);
    assert!(!can_log_in(target, "admin", "writer", "first-secret").await);
    assert!(!can_log_in(target, "shop", "intern", "first-secret").await);
    servers
        .until_document("system.users", "shop.app", |user| {
            user.is_some_and(|user| user.get_document("customData").is_ok_and(|data| *data == custom_data()))
        })
        .await;

    // Changes while the run follows the source.
    run_on(on_source, "shop", doc! { "updateUser": "app", "pwd": "second-secret" }).await;
    user(on_source, "shop", "newcomer", "first-secret", &[]).await;
    run_on(
        on_source,
        "shop",
        doc! { "grantRolesToUser": "newcomer", "roles": [{ "role": "auditor", "db": "admin" }] },
    )
    .await;
    run_on(on_source, "shop", doc! { "dropUser": "leaver" }).await;
    let more = doc! { "resource": { "db": "shop", "collection": "log" }, "actions": ["insert"] };
    run_on(
        on_source,
        "admin",
        doc! { "grantPrivilegesToRole": "auditor", "privileges": [more] },
    )
    .await;
    servers.until_login("shop", "app", "second-secret", true).await;
    servers.until_login("shop", "app", "first-secret", false).await;
    servers.until_login("shop", "newcomer", "first-secret", true).await;
    servers.until_login("shop", "leaver", "first-secret", false).await;
    servers
        .until_document("system.roles", "admin.auditor", |role| {
            role.is_some_and(|role| role.get_array("privileges").is_ok_and(|all| all.len() == 3))
        })
        .await;

    // Changes while the process is down. It was killed: its lease expires.
    drop(run);
    run_on(
        on_source,
        "shop",
        doc! { "updateUser": "newcomer", "pwd": "third-secret" },
    )
    .await;
    run_on(on_source, "admin", doc! { "dropRole": "helper" }).await;
    run_on(on_source, "shop", doc! { "dropUser": "old" }).await;
    // Somebody has changed a user of the migration on the target.
    run_on(
        on_target,
        "shop",
        doc! { "updateUser": "away", "customData": { "changed": true } },
    )
    .await;
    let run = servers.run(selection.existing(ExistingUsers::Keep), &told).await;
    servers.until_login("shop", "newcomer", "third-secret", true).await;
    servers.until_login("shop", "old", "first-secret", false).await;
    servers
        .until_document("system.roles", "admin.helper", |role| role.is_none())
        .await;
    ready(&run).await;
    // A change right before the cutover.
    run_on(on_source, "shop", doc! { "updateUser": "app", "pwd": "third-secret" }).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");
    assert!(can_log_in(target, "shop", "app", "third-secret").await);
    assert!(can_log_in(target, "shop", "stays", "foreign-secret").await);
    assert_roles_work(target).await;

    let users = summary.users.clone().unwrap();
    let names = users.carried.iter().map(|one| format!("{}.{}", one.database, one.name));
    // The role that the fix of a finding has created.
    let names: Vec<String> = names.filter(|name| !name.starts_with("admin.mongoferry")).collect();
    let expected = [
        "admin.auditor",
        "shop.clerk",
        "$external.CN=app",
        "shop.app",
        "shop.newcomer",
    ];
    assert_eq!(names, expected);
    let kept: Vec<String> = users.kept.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["user away@shop"], "somebody has changed it");
    let left_out: Vec<String> = users
        .left_out
        .iter()
        .map(|one| format!("{}: {}", one.name, one.reason))
        .collect();
    for line in [
        "user intern@shop: excluded",
        "user reader@admin: used by the migration",
        "user writer@admin: used by the migration",
    ] {
        assert!(left_out.iter().any(|one| one == line), "{line} in {left_out:?}");
    }
    let certificate = summary.certificate.clone().unwrap();
    assert_eq!(certificate.users, users.carried);
    assert!(users.carried.iter().all(|one| one.hash.len() == 64));
    let role = users.carried.iter().find(|one| one.name == "auditor").unwrap();
    assert_eq!(role.kind, AccountKind::Role);
    assert!(
        certificate
            .not_migrated
            .iter()
            .any(|line| line.contains("writer@admin")),
        "{certificate:?}"
    );

    told.add(&format!(
        "{summary}\n{summary:?}\n{}\n",
        serde_json::to_string(&summary).unwrap()
    ));
    told.add(&format!("{:?}", run.status()));
    told.add(&String::from_utf8_lossy(certificate.encode().unwrap().as_bytes()));
    told.assert_no_secrets(&stored_keys(on_source).await);
    let left = on_target
        .database("__mdb_internal_mongoferry")
        .list_collection_names()
        .await
        .unwrap();
    assert!(
        left.iter()
            .all(|name| !name.starts_with("users.") && !name.starts_with("roles.")),
        "{left:?}"
    );
}

fn custom_data() -> Document {
    doc! { "team": "orders", "numbers": [1, 2] }
}

/// Users and roles of every kind.
async fn prepare_source(on_source: &Client) {
    let on = |collection: &str| doc! { "db": "shop", "collection": collection };
    let roles: [&str; 0] = [];
    let helper = doc! {
        "createRole": "helper", "roles": &roles[..],
        "privileges": [{ "resource": on("orders"), "actions": ["remove"] }],
    };
    run_on(on_source, "admin", helper).await;
    let auditor = doc! {
        "createRole": "auditor", "roles": ["helper", { "role": "read", "db": "audit" }],
        "privileges": [
            { "resource": on("orders"), "actions": ["find", "update"] },
            { "resource": on("items"), "actions": ["find"] },
        ],
        "authenticationRestrictions": [{ "clientSource": ["127.0.0.1"] }],
    };
    run_on(on_source, "admin", auditor).await;
    let clerk = doc! {
        "createRole": "clerk", "roles": &roles[..],
        "privileges": [{ "resource": on("orders"), "actions": ["find", "insert"] }],
    };
    run_on(on_source, "shop", clerk).await;
    let app = doc! {
        "createUser": "app", "pwd": "first-secret", "roles": ["clerk"], "customData": custom_data(),
        "authenticationRestrictions": [{ "clientSource": ["127.0.0.1"] }],
    };
    run_on(on_source, "shop", app).await;
    let old = doc! { "createUser": "old", "pwd": "first-secret", "roles": ["clerk"], "mechanisms": ["SCRAM-SHA-1"] };
    run_on(on_source, "shop", old).await;
    let away = doc! {
        "createUser": "away", "pwd": "first-secret", "roles": &roles[..],
        "authenticationRestrictions": [{ "clientSource": ["10.9.9.9"] }],
    };
    run_on(on_source, "shop", away).await;
    for name in ["leaver", "intern"] {
        user(on_source, "shop", name, "first-secret", &[]).await;
    }
    let external = doc! { "createUser": "CN=app", "roles": [{ "role": "read", "db": "shop" }] };
    run_on(on_source, "$external", external).await;
}

/// The roles of users mean the same on the target.
async fn assert_roles_work(target: &ReplicaSet) {
    let app = connect(target, "shop", "app", "third-secret", None)
        .await
        .unwrap()
        .unwrap();
    let shop = app.database("shop");
    let orders = shop.collection::<Document>("orders");
    assert!(orders.find_one(doc! {}).await.unwrap().is_some());
    orders.insert_one(doc! { "_id": 2 }).await.unwrap();
    orders.delete_one(doc! { "_id": 1 }).await.unwrap_err();
    shop.collection::<Document>("other")
        .find_one(doc! {})
        .await
        .unwrap_err();
    let newcomer = connect(target, "shop", "newcomer", "third-secret", None)
        .await
        .unwrap()
        .unwrap();
    let shop = newcomer.database("shop");
    shop.collection("log").insert_one(doc! { "_id": 1 }).await.unwrap();
    // The collection has another name on the target, and so has the privilege.
    shop.collection::<Document>("parts").find_one(doc! {}).await.unwrap();
    shop.collection::<Document>("items")
        .find_one(doc! {})
        .await
        .unwrap_err();
    newcomer
        .database("audit")
        .collection::<Document>("a")
        .find_one(doc! {})
        .await
        .unwrap();
    // The role from which he had this is gone.
    shop.collection::<Document>("orders")
        .delete_one(doc! { "_id": 2 })
        .await
        .unwrap_err();
}

/// The keys that the source stores of passwords, and their salts.
async fn stored_keys(on_source: &Client) -> Vec<String> {
    let users = on_source.database("admin").collection::<Document>("system.users");
    let mut users = users.find(doc! {}).await.unwrap();
    let mut keys = Vec::new();
    while let Some(user) = users.next().await {
        let user = user.unwrap();
        for (_, credentials) in user.get_document("credentials").unwrap() {
            if let Some(credentials) = credentials.as_document() {
                keys.extend(["storedKey", "serverKey", "salt"].map(|key| credentials.get_str(key).unwrap().to_owned()));
            }
        }
    }
    assert!(keys.len() > 10);
    keys
}

/// The target gets new primaries while users are made on it.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_carried_through_elections_of_the_target() {
    const USERS: usize = 60;
    let servers = Servers::start(Version::V6_0, Version::V6_0, 3).await;
    servers.grant().await;
    for number in 0..USERS {
        let name = format!("app{number}");
        let command = doc! { "createUser": name, "pwd": "first-secret", "roles": [], "mechanisms": ["SCRAM-SHA-1"] };
        run_on(&servers.on_source, "shop", command).await;
    }
    let told = Told::default();
    let run = servers.run(UserSelection::all().databases(["shop"]), &told).await;
    for round in 0..3 {
        servers.target.step_down().await.unwrap();
        for number in 0..USERS {
            if number % 3 == round {
                let command = doc! { "updateUser": format!("app{number}"), "pwd": "second-secret", "mechanisms": ["SCRAM-SHA-1"] };
                run_on(&servers.on_source, "shop", command).await;
            }
        }
    }
    ready(&run).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");
    assert_eq!(summary.users.unwrap().carried.len(), USERS);
    for number in [0, 1, 2, USERS - 1] {
        let name = format!("app{number}");
        assert!(
            can_log_in_by(&servers.target, "shop", &name, "second-secret", "SCRAM-SHA-1").await,
            "{name}"
        );
    }
    told.assert_no_secrets(&[]);
}

/// A process that was killed has left documents with credentials behind.
#[tokio::test(flavor = "multi_thread")]
async fn temporary_collections_of_a_killed_process_are_removed() {
    let servers = Servers::start(Version::V6_0, Version::V6_0, 1).await;
    servers.grant().await;
    let records = servers.on_target.database("__mdb_internal_mongoferry");
    for name in ["users.mine", "roles.mine", "users.other"] {
        records.collection(name).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let sink = MongoSink::connect(&login(&servers.target, "admin", "writer", "own-secret"))
        .await
        .unwrap();
    let mut changes = AccountChanges::default();
    changes.migration = "mine".to_owned();
    sink.change_accounts(&changes).await.unwrap();
    let left = records.list_collection_names().await.unwrap();
    assert!(!left.iter().any(|name| name.ends_with(".mine")), "{left:?}");
    assert!(
        left.contains(&"users.other".to_owned()),
        "those of other migrations stay: {left:?}"
    );
}

async fn user(client: &Client, database: &str, name: &str, password: &str, roles: &[&str]) {
    run_on(
        client,
        database,
        doc! { "createUser": name, "pwd": password, "roles": roles },
    )
    .await;
}

async fn run(client: &Client, database: &str, command: Document) -> Document {
    client.database(database).run_command(command).await.unwrap()
}

async fn run_on(client: &Client, database: &str, command: Document) {
    run(client, database, command).await;
}

/// The connection string of a user.
fn login(set: &ReplicaSet, database: &str, name: &str, password: &str) -> String {
    let hosts: Vec<String> = (0..set.members()).map(|index| set.member_address(index)).collect();
    let (hosts, replica_set) = (hosts.join(","), set.name());
    format!("mongodb://{name}:{password}@{hosts}/?replicaSet={replica_set}&authSource={database}")
}

async fn connect(
    set: &ReplicaSet,
    database: &str,
    name: &str,
    password: &str,
    mechanism: Option<&str>,
) -> Result<Option<Client>, mongodb::error::Error> {
    let mut uri = login(set, database, name, password);
    if let Some(mechanism) = mechanism {
        uri += &format!("&authMechanism={mechanism}");
    }
    let mut options = ClientOptions::parse(&uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(30));
    let client = Client::with_options(options).unwrap();
    // Servers of 4.2 accept the connection of a user who may not log in from here, without a user.
    let status = client
        .database("admin")
        .run_command(doc! { "connectionStatus": 1 })
        .await?;
    let users = status
        .get_document("authInfo")
        .unwrap()
        .get_array("authenticatedUsers")
        .unwrap();
    Ok((!users.is_empty()).then_some(client))
}

async fn can_log_in(set: &ReplicaSet, database: &str, name: &str, password: &str) -> bool {
    connect(set, database, name, password, None)
        .await
        .is_ok_and(|client| client.is_some())
}

async fn can_log_in_by(set: &ReplicaSet, database: &str, name: &str, password: &str, mechanism: &str) -> bool {
    let client = connect(set, database, name, password, Some(mechanism)).await;
    client.is_ok_and(|client| client.is_some())
}
