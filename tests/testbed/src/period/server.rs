use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mongodb::bson::doc;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{
    Period,
    connection::{self, Member},
    cursor::Cursors,
    login::User,
    oplog::Oplog,
    reply::Addresses,
    sequence::Fates,
};
use crate::{Proxy, ReplicaSet, TestbedError, Version, wire};

/// How often a member is asked whether it is the primary.
const POLL: Duration = Duration::from_millis(50);

/// Makes a real 4.2 look like a version before it, each member behind an address of its own. Everything ends when it is
/// dropped.
///
/// It follows the set's elections; when a primary steps down, its clients' connections are closed, as servers did up to
/// 4.0 (read). Writers that need a newer driver write to the set itself.
pub struct PeriodServer {
    period: Period,
    set_name: String,
    /// `user:password@` of the root user, or nothing.
    login: String,
    users: Arc<Mutex<Vec<User>>>,
    members: Vec<Running>,
}

/// A member, and its tasks.
struct Running {
    proxy: Proxy,
    member: Arc<Member>,
    _tasks: JoinSet<()>,
}

impl PeriodServer {
    /// Stands before every member of `set`, which is set to feature compatibility version 4.0 so that it writes the oplog of
    /// that version.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] unless the set is a 4.2 without TLS; [`TestbedError::Server`] when it refuses the version;
    /// [`TestbedError::Io`] when there is no port.
    pub async fn start(set: &ReplicaSet, period: Period) -> Result<PeriodServer, TestbedError> {
        if set.version() != Version::V4_2 || set.ca_file().is_some() {
            return Err(TestbedError::Misuse(
                "only a 4.2 without TLS can look like earlier versions".to_owned(),
            ));
        }
        let version = doc! { "setFeatureCompatibilityVersion": "4.0" };
        let what = "setFeatureCompatibilityVersion";
        let admin = set.client().await?.database("admin");
        admin.run_command(version).await.map_err(TestbedError::server(what))?;

        let users = set.credentials.iter().map(|root| User {
            name: root.user.clone(),
            password: root.password.clone(),
            database: "admin".to_owned(),
        });
        let users = Arc::new(Mutex::new(users.collect::<Vec<_>>()));
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for index in 0..set.members() {
            let what = "starting a period server";
            let listener = TcpListener::bind(("127.0.0.1", 0))
                .await
                .map_err(TestbedError::io(what))?;
            let inner = listener.local_addr().map_err(TestbedError::io(what))?;
            let proxy = Proxy::start(inner.to_string()).await?;
            addresses.push((set.member_address(index), proxy.addr()));
            listeners.push((listener, proxy));
        }
        let addresses = Arc::new(Addresses(addresses));
        let fates = Arc::new(Fates::default());
        let mut members = Vec::new();
        for (index, (listener, proxy)) in listeners.into_iter().enumerate() {
            let client = set.member_client(index).await?;
            let member = Arc::new(Member {
                period,
                real: set.member_address(index),
                addresses: Arc::clone(&addresses),
                oplog: Oplog::start(period, client, Arc::clone(&fates)),
                cursors: Cursors::new(),
                users: Arc::clone(&users),
            });
            let (terms, watched) = watch::channel(0);
            let mut tasks = JoinSet::new();
            tasks.spawn(accept(listener, Arc::clone(&member), watched));
            tasks.spawn(watch_role(Arc::clone(&member), terms));
            members.push(Running {
                proxy,
                member,
                _tasks: tasks,
            });
        }
        let login = set.credentials.as_ref();
        Ok(PeriodServer {
            period,
            set_name: set.name().to_owned(),
            login: login.map_or_else(String::new, |root| format!("{}:{}@", root.user, root.password)),
            users,
            members,
        })
    }

    /// The version that it looks like.
    pub fn period(&self) -> Period {
        self.period
    }

    /// The connection string of the whole set, with the root user's password where there is one.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|running| running.proxy.addr()).collect();
        format!(
            "mongodb://{}{}/?replicaSet={}",
            self.login,
            hosts.join(","),
            self.set_name
        )
    }

    /// The address of one member, such as `127.0.0.1:27017`.
    ///
    /// # Panics
    ///
    /// When there is no member `index`.
    pub fn member_address(&self, index: usize) -> String {
        self.members[index].proxy.addr()
    }

    /// What does to the connections of one member what networks do.
    ///
    /// # Panics
    ///
    /// When there is no member `index`.
    pub fn proxy(&self, index: usize) -> &Proxy {
        &self.members[index].proxy
    }

    /// Lets a user of the set behind log in with MONGODB-CR, besides the root user: the real server keeps no password that
    /// would do.
    pub fn add_user(&self, name: &str, password: &str, database: &str) {
        let user = User {
            name: name.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
        };
        self.users.lock().unwrap_or_else(PoisonError::into_inner).push(user);
    }

    /// Removes all entries of the oplog but the newest `kept`, as when it is full.
    pub fn roll_off(&self, kept: usize) {
        for running in &self.members {
            running.member.oplog.roll_off(kept);
        }
    }
}

impl std::fmt::Debug for PeriodServer {
    /// Without the password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<String> = self.members.iter().map(|running| running.proxy.addr()).collect();
        formatter
            .debug_struct("PeriodServer")
            .field("period", &self.period)
            .field("addresses", &addresses)
            .finish_non_exhaustive()
    }
}

/// Accepts clients; those of an earlier term are closed.
async fn accept(listener: TcpListener, member: Arc<Member>, mut terms: watch::Receiver<u64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    let served = connection::serve(client, Arc::clone(&member));
                    // How a connection ended concerns its client alone.
                    connections.spawn(async move { drop(served.await) });
                }
            }
            changed = terms.changed() => {
                if changed.is_err() {
                    return;
                }
                connections.abort_all();
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends the connections and cursors of a member when it is no longer the primary.
async fn watch_role(member: Arc<Member>, terms: watch::Sender<u64>) {
    let mut was_primary = false;
    loop {
        let answer = wire::admin_command(&member.real, doc! { "isMaster": 1 }).await;
        let is_primary = answer.is_ok_and(|answer| answer.get_bool("ismaster").ok() == Some(true));
        if was_primary && !is_primary {
            member.cursors.close_all();
            terms.send_modify(|term| *term += 1);
        }
        was_primary = is_primary;
        tokio::time::sleep(POLL).await;
    }
}
