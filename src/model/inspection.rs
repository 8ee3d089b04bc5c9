//! Facts about a deployment that preflight's rules look at.

use std::time::Duration;

use bson::Document;

use crate::model::Namespace;

/// What a source or sink finds out about its deployment without changing anything.
///
/// Everything is optional: what could not be asked for, or means nothing to an implementation, stays as in [`Inspection::default`], and the
/// rules that would look at it find nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Inspection {
    /// How the deployment is reached.
    pub connection: Connection,
    /// Its answer to `hello` (or `isMaster`, as older servers call it).
    pub hello: Document,
    /// Its answer to `buildInfo`.
    pub build: Document,
    /// The server parameters that rules look at, by name, with the values that `getParameter` gives.
    pub parameters: Document,
    /// The members of the replica set.
    pub members: Vec<Member>,
    /// The oplog of the member that was asked.
    pub oplog: Option<OplogFacts>,
    /// The most bytes that the storage engine's cache may hold.
    pub cache_bytes: Option<u64>,
    /// Bytes that are free on the disk that holds the data.
    pub free_disk_bytes: Option<u64>,
    /// By how many milliseconds the deployment's clock is ahead of this process's; negative when it is behind.
    pub clock_ahead_ms: Option<i64>,
    /// Whether clients' writes are blocked (`setUserWriteBlockMode`, 6.0 and newer).
    pub writes_blocked: Option<bool>,
    /// Operations that wait for a lock, of reads and writes together.
    pub queued_operations: Option<u64>,
    /// Index builds under way, each as `database.collection`.
    pub index_builds: Vec<String>,
    /// Transactions that are open.
    pub transactions: Vec<TransactionFacts>,
    /// Databases whose profiler is on, with its level; none are known before 5.0.
    pub profiled: Vec<(String, i64)>,
    /// The names of all databases.
    pub databases: Vec<String>,
    /// What was tried, and whether it was allowed.
    pub probes: Vec<Probe>,
    /// What was tried and not answered in time.
    pub unanswered: Vec<Access>,
    /// The write concern of clients that state none, where the deployment has one of its own.
    pub default_write_concern: Option<Document>,
    /// The privileges that the server says the authenticated user has, each with `resource` and `actions`. `None` where nobody is
    /// authenticated, so that either everything is allowed or nothing.
    pub privileges: Option<Vec<Document>>,
}

/// How a deployment is reached.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Connection {
    /// The addresses of the connection string, without credentials; of a client that the host has made those that it has found.
    pub hosts: Vec<String>,
    /// Whether traffic is encrypted; `None` when that is not known, which counts as not encrypted.
    pub encrypted: Option<bool>,
    /// Whether one member alone is talked to, so that elections cannot be followed.
    pub direct: bool,
    /// The members' names that could not be reached, where that is why one member alone is talked to.
    pub unreachable: Vec<String>,
    /// The authenticated user, as the pair of name and the database that knows it.
    pub user: Option<(String, String)>,
    /// The read preference of the connection string where it is another one than `primary`.
    pub read_preference: Option<String>,
}

/// A member of a replica set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its address.
    pub host: String,
    /// Its state as the set sees it, such as `PRIMARY` or `RECOVERING`.
    pub state: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// Whether it holds no data.
    pub arbiter: bool,
    /// Whether clients do not see it.
    pub hidden: bool,
    /// By how much it stays behind on purpose.
    pub delay: Duration,
}

/// The size of an oplog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OplogFacts {
    /// The bytes it may grow to.
    pub limit_bytes: u64,
    /// The bytes of its entries.
    pub used_bytes: u64,
    /// The time between its oldest and its newest entry.
    pub window: Duration,
}

/// A transaction that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionFacts {
    /// The client that opened it, as the server knows it.
    pub client: String,
    /// For how long it has been open.
    pub open: Duration,
    /// The operation that ends it when it is passed to `killOp`, where it has one.
    pub operation: Option<i64>,
    /// The collections that it has read or written; empty where that is not known.
    pub namespaces: Vec<Namespace>,
}

/// Something that was tried, to see whether it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// What was tried.
    pub access: Access,
    /// The server's words where it refused.
    pub refusal: Option<String>,
}

impl Probe {
    /// Something that was tried with this result.
    pub fn new(access: Access, refusal: Option<String>) -> Self {
        Self { access, refusal }
    }
}

/// What a migration, or preflight itself, has to be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Read `local.oplog.rs`.
    ReadOplog,
    /// Read `config.transactions`, to find transactions that are open.
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
    /// Insert, update and delete in the database of the migration's own records.
    WriteRecords,
    /// `replSetGetConfig`, for the identity of the replica set.
    ReplicaSetConfiguration,
    /// `replSetGetStatus`, for the members' states.
    ReplicaSetStatus,
    /// `serverStatus`, for cache, load and write blocking.
    ServerStatus,
    /// `getParameter`, for the feature compatibility version.
    Parameters,
    /// `currentOp` of all users, for transactions and index builds.
    CurrentOperations,
    /// `dbStats`, for the free space on the disk.
    DatabaseStatistics,
}
