//! Facts about a deployment for the rules of preflight.

use std::time::Duration;

use bson::Document;
use serde::Serialize;

use crate::model::{Namespace, format};

/// What a source or sink finds out about its deployment without changing anything.
///
/// All fields are optional. A field keeps its value from [`Inspection::default`] if the fact cannot be read, or does not apply to an
/// implementation. The rules that depend on it then find nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Inspection {
    /// How the client connects to the deployment.
    pub connection: Connection,
    /// The response to `hello`, or to `isMaster` on older servers.
    pub hello: Document,
    /// The response to `buildInfo`.
    pub build: Document,
    /// The server parameters that the rules use, by name, as `getParameter` returns them.
    pub parameters: Document,
    /// The members of the replica set.
    pub members: Vec<Member>,
    /// The oplog of the member that answered.
    pub oplog: Option<OplogFacts>,
    /// Maximum size of the storage engine's cache in bytes.
    pub cache_bytes: Option<u64>,
    /// Free bytes on the disk that holds the data.
    pub free_disk_bytes: Option<u64>,
    /// How far the clock of the deployment is ahead of this process, in milliseconds. Negative if it is behind.
    pub clock_ahead_ms: Option<i64>,
    /// Whether client writes are blocked (`setUserWriteBlockMode`, 6.0 and newer).
    pub writes_blocked: Option<bool>,
    /// Number of operations that wait for a lock, reads and writes together.
    pub queued_operations: Option<u64>,
    /// Index builds in progress, each as `database.collection`.
    pub index_builds: Vec<String>,
    /// Open transactions.
    pub transactions: Vec<TransactionFacts>,
    /// Databases with an active profiler, with its level. Always empty before 5.0.
    pub profiled: Vec<(String, i64)>,
    /// The names of all databases.
    pub databases: Vec<String>,
    /// The accesses that were probed, and whether each is allowed.
    pub probes: Vec<Probe>,
    /// The accesses that were probed but not answered in time.
    pub unanswered: Vec<Access>,
    /// The default write concern for clients that specify none, if the deployment has one configured.
    pub default_write_concern: Option<Document>,
    /// The privileges of the authenticated user as the server reports them, each with `resource` and `actions`. `None` if no user is
    /// authenticated, in which case either everything is allowed or nothing.
    pub privileges: Option<Vec<Document>>,
}

/// How a client connects to a deployment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Connection {
    /// The addresses in the connection string, without credentials. For a client that the host created, the addresses that the client has
    /// discovered.
    pub hosts: Vec<String>,
    /// Whether traffic is encrypted. `None` if unknown, which counts as not encrypted.
    pub encrypted: Option<bool>,
    /// Whether the client talks to one member only, so that it cannot follow elections.
    pub direct: bool,
    /// The names of the members that could not be reached, if this is why the client talks to one member only.
    pub unreachable: Vec<String>,
    /// The authenticated user: the name, and the database that defines the user.
    pub user: Option<(String, String)>,
    /// The read preference in the connection string, if it is not `primary`.
    pub read_preference: Option<String>,
}

/// A member of a replica set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The address.
    pub host: String,
    /// The state as the replica set sees it, such as `PRIMARY` or `RECOVERING`.
    pub state: String,
    /// Whether the member has a vote.
    pub votes: bool,
    /// Whether the member is an arbiter, which holds no data.
    pub arbiter: bool,
    /// Whether the member is hidden from clients.
    pub hidden: bool,
    /// The configured replication delay.
    pub delay: Duration,
}

/// The size of an oplog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OplogFacts {
    /// Maximum size in bytes.
    pub limit_bytes: u64,
    /// Size of its entries in bytes.
    pub used_bytes: u64,
    /// Time between the oldest and the newest entry.
    pub window: Duration,
}

/// An open transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TransactionFacts {
    /// The client that opened it, as reported by the server.
    pub client: String,
    /// How long it has been open.
    #[serde(rename = "open_ms", serialize_with = "format::milliseconds")]
    pub open: Duration,
    /// The operation to pass to `killOp` to end it, if it has one.
    pub operation: Option<i64>,
    /// The collections it has read or written. Empty if unknown.
    #[serde(serialize_with = "format::names")]
    pub namespaces: Vec<Namespace>,
}

/// An access that was tried to find out whether it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The access.
    pub access: Access,
    /// The server's message if it refused; `None` if it is allowed.
    pub refusal: Option<String>,
}

impl Probe {
    /// Creates a probe with its result.
    pub fn new(access: Access, refusal: Option<String>) -> Self {
        Self { access, refusal }
    }
}

/// An access that a migration or preflight needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Read `local.oplog.rs`.
    ReadOplog,
    /// Read `config.transactions`, to find open transactions.
    ReadTransactions,
    /// `listDatabases` of all databases.
    ListDatabases,
    /// `listCollections` of the database.
    ListCollections(String),
    /// `listIndexes` of a collection in the database.
    ListIndexes(String),
    /// `collStats` of a collection in the database.
    CollectionStatistics(String),
    /// Read a collection in the database.
    ReadData(String),
    /// List the indexes of a collection that privileges on its database do not cover (`system.js`, the buckets of a time-series collection),
    /// and read it.
    ReadSystemCollection(Namespace),
    /// Insert, update and delete in the database that holds the migration's own records.
    WriteRecords,
    /// `replSetGetConfig`, for the identity of the replica set.
    ReplicaSetConfiguration,
    /// `replSetGetStatus`, for the members' states.
    ReplicaSetStatus,
    /// `serverStatus`, for the cache, the load and write blocking.
    ServerStatus,
    /// `getParameter`, for the feature compatibility version.
    Parameters,
    /// `currentOp` of all users, for transactions and index builds.
    CurrentOperations,
    /// `dbStats`, for the free space on the disk.
    DatabaseStatistics,
}
