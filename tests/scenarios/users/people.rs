//! Users and roles that change all the time, and what has to be true of the target in the end, without the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongoferry_testbed::ReplicaSet;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::servers::{PATIENCE, can_log_in_by};

/// Number of names that users have, and that roles have.
const USERS: u32 = 12;
const ROLES: u32 = 4;

/// The server's answers to the repetition of a command that it has carried out: exists, or does not.
const DONE: [i32; 4] = [51003, 51002, 11, 31];

/// Somebody who changes users and roles without a pause, and through elections.
pub(super) struct People {
    stop: CancellationToken,
    changes: JoinHandle<Expected>,
}

/// What the source has, as far as it has acknowledged it.
#[derive(Default)]
pub(super) struct Expected {
    /// The password of each user of `shop`.
    passwords: BTreeMap<String, String>,
    /// Users that were dropped, with their last passwords.
    dropped: BTreeMap<String, String>,
    roles: BTreeSet<String>,
    /// Number of changes.
    pub(super) changes: u32,
}

impl People {
    pub(super) fn start(client: &Client, seed: u64) -> Self {
        let stop = CancellationToken::new();
        let (client, stopped) = (client.clone(), stop.clone());
        let changes = tokio::spawn(async move {
            let (mut expected, mut random) = (Expected::default(), StdRng::seed_from_u64(seed));
            // Everybody is there in the beginning.
            for number in 0..USERS {
                expected.new_user(&client, &format!("app{number}")).await;
            }
            while !stopped.is_cancelled() {
                expected.change(&client, &mut random).await;
                sleep(Duration::from_millis(random.random_range(0..100))).await;
            }
            expected
        });
        Self { stop, changes }
    }

    pub(super) async fn stop(self) -> Expected {
        self.stop.cancel();
        self.changes.await.unwrap()
    }
}

impl Expected {
    async fn change(&mut self, client: &Client, random: &mut StdRng) {
        let user = format!("app{}", random.random_range(0..USERS));
        let role = format!("job{}", random.random_range(0..ROLES));
        let granted = self.roles.iter().choose(random).cloned();
        let granted = doc! { "role": granted.unwrap_or_else(|| "read".to_owned()), "db": "shop" };
        match (random.random_range(0..10_u32), self.passwords.contains_key(&user)) {
            (0..=2, true) => self.new_password(client, &user).await,
            (3, true) => self.drop_user(client, user).await,
            (4, true) => run(client, doc! { "grantRolesToUser": user, "roles": [granted] }).await,
            (5, true) => run(client, doc! { "revokeRolesFromUser": user, "roles": [granted] }).await,
            (6.., _) => self.change_role(client, role, random).await,
            (_, false) => self.new_user(client, &user).await,
        }
        self.changes += 1;
    }

    async fn new_user(&mut self, client: &Client, user: &str) {
        let password = format!("secret-{}", rand::random::<u64>());
        let create = doc! { "createUser": user, "pwd": &password, "roles": ["read"], "mechanisms": ["SCRAM-SHA-1"] };
        run(client, create).await;
        self.dropped.remove(user);
        self.passwords.insert(user.to_owned(), password);
    }

    pub(super) async fn new_password(&mut self, client: &Client, user: &str) {
        let password = format!("secret-{}", rand::random::<u64>());
        let update = doc! { "updateUser": user, "pwd": &password, "mechanisms": ["SCRAM-SHA-1"] };
        run(client, update).await;
        self.passwords.insert(user.to_owned(), password);
    }

    async fn drop_user(&mut self, client: &Client, user: String) {
        run(client, doc! { "dropUser": &user }).await;
        let password = self.passwords.remove(&user).unwrap();
        self.dropped.insert(user, password);
    }

    async fn change_role(&mut self, client: &Client, role: String, random: &mut StdRng) {
        let on = format!("c{}", random.random_range(0..3));
        let privileges = [doc! { "resource": { "db": "shop", "collection": on }, "actions": ["find", "insert"] }];
        let none: [Bson; 0] = [];
        match (self.roles.contains(&role), random.random_range(0..3)) {
            (false, _) => {
                let create = doc! { "createRole": &role, "privileges": &privileges[..], "roles": &none[..] };
                run(client, create).await;
                self.roles.insert(role);
            }
            (true, 0) => {
                run(client, doc! { "dropRole": &role }).await;
                self.roles.remove(&role);
            }
            (true, _) => run(client, doc! { "updateRole": role, "privileges": &privileges[..] }).await,
        }
    }

    /// Every user, in ascending order.
    pub(super) fn users(&self) -> Vec<String> {
        self.passwords.keys().cloned().collect()
    }

    /// Every password that is or was valid in the end.
    pub(super) fn secrets(&self) -> Vec<String> {
        self.passwords.values().chain(self.dropped.values()).cloned().collect()
    }

    /// Everybody logs in on `to` with the current password, those who were dropped do not, and all have the same rights on both sides.
    pub(super) async fn assert_same(&self, from: &Client, to: &ReplicaSet) {
        let on_target = to.client().await.unwrap();
        let (ours, theirs) = (rights(from).await, rights(&on_target).await);
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, ours) in &ours {
            assert_eq!(ours, &theirs[name], "{name}");
        }
        let known = self.passwords.keys().map(|user| format!("user {user}"));
        let known: BTreeSet<String> = known
            .chain(self.roles.iter().map(|role| format!("role {role}")))
            .collect();
        assert_eq!(ours.into_keys().collect::<BTreeSet<_>>(), known);
        for (user, password) in &self.passwords {
            assert!(can_log_in_by(to, "shop", user, password, "SCRAM-SHA-1").await, "{user}");
        }
        for (user, password) in &self.dropped {
            assert!(
                !can_log_in_by(to, "shop", user, password, "SCRAM-SHA-1").await,
                "{user}"
            );
        }
    }
}

/// What each user and role of `shop` may do, and the stored credentials, as the server lists them.
async fn rights(client: &Client) -> BTreeMap<String, Bson> {
    let shop = client.database("shop");
    let listed = async |command: Document, field: &str| -> Vec<Document> {
        let listed = shop.run_command(command).await.unwrap();
        let listed = listed.get_array(field).unwrap().iter();
        listed.map(|one| one.as_document().unwrap().clone()).collect()
    };
    let mut all = BTreeMap::new();
    for role in listed(doc! { "rolesInfo": 1, "showPrivileges": true }, "roles").await {
        all.insert(format!("role {}", role.get_str("role").unwrap()), sorted(role.into()));
    }
    for user in listed(doc! { "usersInfo": 1 }, "users").await {
        let name = user.get_str("user").unwrap();
        let one = doc! { "usersInfo": { "user": name, "db": "shop" }, "showPrivileges": true, "showCredentials": true };
        let mut one = listed(one, "users").await.remove(0);
        assert!(
            one.get_document("credentials").is_ok() && one.contains_key("inheritedPrivileges"),
            "{name}"
        );
        // It identifies the document.
        one.remove("userId");
        all.insert(format!("user {name}"), sorted(one.into()));
    }
    all
}

/// The same without an order, which servers do not keep.
fn sorted(value: Bson) -> Bson {
    match value {
        Bson::Document(fields) => {
            let fields: BTreeMap<_, _> = fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Bson::Document(fields.into_iter().collect())
        }
        Bson::Array(values) => {
            let mut values: Vec<Bson> = values.into_iter().map(sorted).collect();
            values.sort_by_key(ToString::to_string);
            Bson::Array(values)
        }
        other => other,
    }
}

/// Runs a command until a majority has it.
async fn run(client: &Client, mut command: Document) {
    command.insert("writeConcern", doc! { "w": "majority" });
    let shop = client.database("shop");
    let begun = Instant::now();
    while let Err(error) = shop.run_command(command.clone()).await {
        if let ErrorKind::Command(refusal) = &*error.kind
            && DONE.contains(&refusal.code)
        {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
}
