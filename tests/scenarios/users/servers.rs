//! Two sets with access control, logins, and what a host is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Client;
use mongodb::options::ClientOptions;
use mongoferry::{Migration, MigrationBuilder, MigrationHandle, MongoSink, MongoSource, UserSelection, Users};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::task::AbortHandle;

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

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

/// Two sets with access control, and the users of the migration.
pub(super) struct Servers {
    pub(super) source: ReplicaSet,
    pub(super) target: ReplicaSet,
    pub(super) on_source: Client,
    pub(super) on_target: Client,
}

impl Servers {
    /// Starts both, with so many members each.
    pub(super) async fn start(from: Version, to: Version, members: usize) -> Self {
        let set = |version, name: &str, members| {
            let builder = ReplicaSet::builder(version).name(name).members(members);
            builder.key_file_auth().start()
        };
        let (source, target) = futures::try_join!(set(from, "rs0", members), set(to, "rs1", members)).unwrap();
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
    pub(super) async fn grant(&self) {
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

    pub(super) async fn builder(&self, selection: UserSelection) -> MigrationBuilder {
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
    pub(super) async fn run(&self, selection: UserSelection, told: &Told) -> MigrationHandle {
        let run = self.builder(selection).await.build().unwrap().start().await.unwrap();
        told.follow(&run);
        run
    }

    /// Waits until a user can log in on the target with a password, or cannot.
    pub(super) async fn until_login(&self, database: &str, name: &str, password: &str, can: bool) {
        let what = format!("the login of {name} with {password} to be {can}");
        wait_until(PATIENCE, &what, async || {
            can_log_in(&self.target, database, name, password).await == can
        })
        .await
        .unwrap();
    }

    /// Waits until the document of a user or role on the target has or lacks a text.
    pub(super) async fn until_document(
        &self,
        collection: &str,
        id: &str,
        condition: impl Fn(Option<Document>) -> bool,
    ) {
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
pub(super) struct Told {
    text: Arc<Mutex<String>>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Told {
    pub(super) fn follow(&self, run: &MigrationHandle) {
        let (text, mut events) = (Arc::clone(&self.text), run.events());
        let follow = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                *text.lock().unwrap() += &format!("{event}\n{event:?}\n{}\n", serde_json::to_string(&event).unwrap());
            }
        });
        self.tasks.lock().unwrap().push(follow.abort_handle());
    }

    pub(super) fn add(&self, text: &str) {
        *self.text.lock().unwrap() += text;
    }

    pub(super) fn assert_no_secrets(&self, more: &[String]) {
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

pub(super) async fn user(client: &Client, database: &str, name: &str, password: &str, roles: &[&str]) {
    run_on(
        client,
        database,
        doc! { "createUser": name, "pwd": password, "roles": roles },
    )
    .await;
}

pub(super) async fn run(client: &Client, database: &str, command: Document) -> Document {
    client.database(database).run_command(command).await.unwrap()
}

pub(super) async fn run_on(client: &Client, database: &str, command: Document) {
    run(client, database, command).await;
}

/// The connection string of a user.
pub(super) fn login(set: &ReplicaSet, database: &str, name: &str, password: &str) -> String {
    let hosts: Vec<String> = (0..set.members()).map(|index| set.member_address(index)).collect();
    let (hosts, replica_set) = (hosts.join(","), set.name());
    format!("mongodb://{name}:{password}@{hosts}/?replicaSet={replica_set}&authSource={database}")
}

pub(super) async fn connect(
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

pub(super) async fn can_log_in(set: &ReplicaSet, database: &str, name: &str, password: &str) -> bool {
    connect(set, database, name, password, None)
        .await
        .is_ok_and(|client| client.is_some())
}

pub(super) async fn can_log_in_by(
    set: &ReplicaSet,
    database: &str,
    name: &str,
    password: &str,
    mechanism: &str,
) -> bool {
    let client = connect(set, database, name, password, Some(mechanism)).await;
    client.is_ok_and(|client| client.is_some())
}
