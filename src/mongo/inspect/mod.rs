//! Collects the facts about a replica set that preflight's rules examine. Changes nothing.

mod activity;
mod probes;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bson::{Bson, Document, doc};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use crate::error::{ErrorKind, Result};
use crate::model::{Access, Connection, Inspection, Member, OplogFacts, Probe, Side};
use crate::mongo::client::{self, number};

const OPERATION: &str = "inspect the deployment";

/// Timeout for one question: longer than an election.
const QUESTION: Duration = Duration::from_secs(20);

/// Maximum time for all questions. After it, each further question has a timeout of only `LEAST`.
const ALL: Duration = Duration::from_secs(60);
const LEAST: Duration = Duration::from_secs(1);

/// First wire versions with `replSetGetConfig` (3.0), with feature compatibility versions (3.4), with `$currentOp` (3.6), and with transactions
/// of several entries (4.2).
const CONFIGURATION: u64 = 3;
const FEATURE_COMPATIBILITY: u64 = 5;
const CURRENT_OPERATIONS: u64 = 6;
const TRANSACTIONS: u64 = 8;

/// Collects the facts that preflight needs.
///
/// # Errors
/// A connection error once the patience has run out. What the server refuses is recorded as a fact instead.
pub(crate) fn inspect<'a>(
    client: &'a dyn client::Commands,
    connection: &'a Connection,
    side: Side,
) -> BoxFuture<'a, Result<Inspection>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let mut inspector = Inspector {
            client,
            end: Instant::now() + ALL,
            facts: Inspection {
                connection: connection.clone(),
                ..Inspection::default()
            },
        };
        inspector.greeting().await?;
        inspector.members().await?;
        inspector.parameters().await?;
        inspector.status().await?;
        inspector.oplog(side).await?;
        inspector.disk().await?;
        inspector.activity().await?;
        inspector.databases(side).await?;
        if side == Side::Target {
            inspector.records().await?;
        }
        inspector.privileges().await?;
        Ok(inspector.facts)
    }
    .boxed()
}

struct Inspector<'a> {
    client: &'a dyn client::Commands,
    /// End of the time for all questions.
    end: Instant,
    facts: Inspection,
}

impl Inspector<'_> {
    /// The highest wire version of the server.
    fn wire_version(&self) -> u64 {
        number(&self.facts.hello, "maxWireVersion")
    }

    /// Runs a command that needs a privilege. A refusal is recorded as a fact.
    async fn ask(&mut self, access: Access, database: &str, command: Document) -> Result<Option<Document>> {
        match self.run(database, command).await {
            Some(answer) => self.note(access, answer),
            None => {
                self.facts.unanswered.push(access);
                Ok(None)
            }
        }
    }

    /// Returns the answer to a question, or `None` if there is none in time, for example while a lock is held.
    async fn run(&self, database: &str, command: Document) -> Option<Result<Document>> {
        let left = self.end.saturating_duration_since(Instant::now());
        let limit = left.clamp(LEAST, QUESTION);
        timeout(limit, client::run(self.client, OPERATION, database, command))
            .await
            .ok()
    }

    /// Records whether an attempt was allowed.
    fn note<T>(&mut self, access: Access, answer: Result<T>) -> Result<Option<T>> {
        let (answer, refusal) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
            // A server looks at the privileges first, so this was allowed. The collection has been dropped since it was listed.
            Err(error) if client::is_gone(&error) => (None, None),
            Err(error) => (None, Some(client::answer(&error))),
        };
        self.facts.probes.push(Probe::new(access, refusal));
        Ok(answer)
    }

    async fn greeting(&mut self) -> Result<()> {
        let before = SystemTime::now();
        self.facts.hello = client::run(self.client, OPERATION, "admin", doc! { "isMaster": 1 }).await?;
        let after = SystemTime::now();
        if let Ok(theirs) = self.facts.hello.get_datetime("localTime") {
            // The answer was made somewhere in between, most likely in the middle.
            let ours = (millis(before) + millis(after)) / 2;
            self.facts.clock_ahead_ms = Some(theirs.timestamp_millis() - ours);
        }
        self.facts.build = client::run(self.client, OPERATION, "admin", doc! { "buildInfo": 1 }).await?;
        Ok(())
    }

    async fn members(&mut self) -> Result<()> {
        // 2.6 has no such command, and keeps the configuration in a collection.
        let configuration = match self.wire_version() {
            ..CONFIGURATION => {
                let command = doc! { "find": "system.replset", "limit": 1, "singleBatch": true };
                let reply = self.ask(Access::ReplicaSetConfiguration, "local", command).await?;
                reply.and_then(|reply| Some(doc! { "config": first(&reply)?.clone() }))
            }
            _ => {
                self.ask(Access::ReplicaSetConfiguration, "admin", doc! { "replSetGetConfig": 1 })
                    .await?
            }
        };
        let status = self
            .ask(Access::ReplicaSetStatus, "admin", doc! { "replSetGetStatus": 1 })
            .await?;
        let states = status
            .as_ref()
            .map(|status| documents(status, "members"))
            .unwrap_or_default();
        let Some(configuration) = configuration
            .as_ref()
            .and_then(|reply| reply.get_document("config").ok())
        else {
            return Ok(());
        };
        // Before 5.0, the set's configuration may contain it.
        self.facts.default_write_concern = configuration
            .get_document("settings")
            .and_then(|settings| settings.get_document("getLastErrorDefaults"))
            .ok()
            .cloned();
        self.facts.members = documents(configuration, "members")
            .into_iter()
            .map(|member| {
                let id = number(member, "_id");
                let state = states
                    .iter()
                    .find(|state| number(state, "_id") == id)
                    .and_then(|state| state.get_str("stateStr").ok())
                    .unwrap_or_default();
                Member {
                    host: member.get_str("host").unwrap_or_default().to_owned(),
                    state: state.to_owned(),
                    votes: number(member, "votes") > 0,
                    arbiter: member.get_bool("arbiterOnly").unwrap_or_default(),
                    hidden: member.get_bool("hidden").unwrap_or_default(),
                    // The name since 5.0, and the one before.
                    delay: Duration::from_secs(number(member, "secondaryDelaySecs").max(number(member, "slaveDelay"))),
                }
            })
            .collect();
        // From 4.4 on. A user without the privilege learns nothing, which is not worth a finding.
        let command = doc! { "getDefaultRWConcern": 1 };
        if let Some(Ok(reply)) = self.run("admin", command).await
            && let Ok(concern) = reply.get_document("defaultWriteConcern")
        {
            self.facts.default_write_concern = Some(concern.clone());
        }
        Ok(())
    }

    async fn parameters(&mut self) -> Result<()> {
        // Servers before 3.4 have no feature compatibility version.
        let name = match self.wire_version() {
            ..FEATURE_COMPATIBILITY => "failIndexKeyTooLong",
            _ => "featureCompatibilityVersion",
        };
        let mut command = doc! { "getParameter": 1 };
        command.insert(name, 1);
        let asked = self.ask(Access::Parameters, "admin", command).await?;
        if let Some(reply) = asked {
            self.facts.parameters.extend(reply);
            // Servers that no longer know the parameter return an error.
            let command = doc! { "getParameter": 1, "failIndexKeyTooLong": 1 };
            if let Some(Ok(reply)) = self.run("admin", command).await {
                self.facts.parameters.extend(reply);
            }
        }
        for envelope in ["ok", "$clusterTime", "operationTime"] {
            self.facts.parameters.remove(envelope);
        }
        Ok(())
    }

    async fn status(&mut self) -> Result<()> {
        let Some(status) = self
            .ask(Access::ServerStatus, "admin", doc! { "serverStatus": 1 })
            .await?
        else {
            return Ok(());
        };
        self.facts.cache_bytes = status
            .get_document("wiredTiger")
            .and_then(|engine| engine.get_document("cache"))
            .ok()
            .map(|cache| number(cache, "maximum bytes configured"));
        // 1 means that writes are allowed.
        self.facts.writes_blocked = status
            .get_document("repl")
            .ok()
            .filter(|set| set.contains_key("userWriteBlockMode"))
            .map(|set| number(set, "userWriteBlockMode") == 2);
        self.facts.queued_operations = status
            .get_document("globalLock")
            .and_then(|lock| lock.get_document("currentQueue"))
            .ok()
            .map(|queue| number(queue, "total"));
        Ok(())
    }

    async fn oplog(&mut self, side: Side) -> Result<()> {
        let entry = |order: i32| {
            doc! {
                "find": "oplog.rs", "sort": { "$natural": order }, "projection": { "ts": 1 }, "limit": 1, "singleBatch": true,
            }
        };
        let newest = match side {
            Side::Source => self.ask(Access::ReadOplog, "local", entry(-1)).await?,
            // On the target, this is only good to know.
            Side::Target => self.run("local", entry(-1)).await.and_then(Result::ok),
        };
        let (Some(newest), Some(Ok(oldest))) = (newest, self.run("local", entry(1)).await) else {
            return Ok(());
        };
        let time = |reply: &Document| first(reply).and_then(|entry| entry.get_timestamp("ts").ok().map(|ts| ts.time));
        let (Some(newest), Some(oldest)) = (time(&newest), time(&oldest)) else {
            return Ok(());
        };
        let statistics = self.run("local", doc! { "collStats": "oplog.rs" }).await;
        self.facts.oplog = statistics.and_then(Result::ok).map(|statistics| OplogFacts {
            limit_bytes: number(&statistics, "maxSize"),
            used_bytes: number(&statistics, "size"),
            window: Duration::from_secs(u64::from(newest.saturating_sub(oldest))),
        });
        Ok(())
    }

    async fn disk(&mut self) -> Result<()> {
        let asked = self
            .ask(Access::DatabaseStatistics, "admin", doc! { "dbStats": 1 })
            .await?;
        self.facts.free_disk_bytes = asked
            .filter(|statistics| statistics.contains_key("fsTotalSize"))
            .map(|statistics| number(&statistics, "fsTotalSize").saturating_sub(number(&statistics, "fsUsedSize")));
        Ok(())
    }

    async fn privileges(&mut self) -> Result<()> {
        let command = doc! { "connectionStatus": 1, "showPrivileges": true };
        let Some(Ok(status)) = self.run("admin", command).await else {
            return Ok(());
        };
        let Ok(authentication) = status.get_document("authInfo") else {
            return Ok(());
        };
        let users = documents(authentication, "authenticatedUsers");
        if let Some(user) = users.first() {
            let field = |name: &str| user.get_str(name).unwrap_or_default().to_owned();
            self.facts.connection.user = Some((field("user"), field("db")));
            // 2.6 does not list them.
            if authentication.contains_key("authenticatedUserPrivileges") {
                let privileges = documents(authentication, "authenticatedUserPrivileges");
                self.facts.privileges = Some(privileges.into_iter().cloned().collect());
            }
        }
        Ok(())
    }
}

/// Returns the first document of a cursor's reply.
fn first(reply: &Document) -> Option<&Document> {
    reply
        .get_document("cursor")
        .ok()
        .and_then(|cursor| documents(cursor, "firstBatch").into_iter().next())
}

/// Returns the documents of an array, or none if there is no such array.
fn documents<'a>(document: &'a Document, name: &str) -> Vec<&'a Document> {
    let listed = document.get_array(name).map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(Bson::as_document).collect()
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map(|since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        .unwrap_or_default()
}
