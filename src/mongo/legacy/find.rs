//! What a query asks for.

use std::time::Duration;

use bson::raw::RawDocumentBuf;

/// A query. [`Find::new`] has no conditions and reads everything.
#[derive(Clone, Debug)]
pub struct Find {
    /// Database and collection.
    pub namespace: (String, String),
    /// The conditions.
    pub filter: RawDocumentBuf,
    /// The fields to return.
    pub projection: Option<RawDocumentBuf>,
    /// The order.
    pub sort: Option<RawDocumentBuf>,
    /// The key pattern of the index to use.
    pub hint: Option<RawDocumentBuf>,
    /// The first key of that index, itself included.
    pub min: Option<RawDocumentBuf>,
    /// The last key of that index, itself excluded.
    pub max: Option<RawDocumentBuf>,
    /// Number of documents of one batch; the server chooses if it is not given.
    pub batch_size: Option<u32>,
    /// Maximum number of documents.
    pub limit: Option<u32>,
    /// What happens at the end.
    pub mode: FindMode,
    /// Whether the server may begin at the first entry with the condition on `ts` without a scan of those before.
    pub oplog_replay: bool,
    /// Whether the server keeps the cursor for longer than ten minutes without a call.
    pub no_cursor_timeout: bool,
    /// The read concern, from 3.2 on.
    pub read_concern: Option<RawDocumentBuf>,
    /// How long the server may work on the query. Each getMore of a plain cursor counts towards it.
    pub max_time: Option<Duration>,
    /// The collation, from 3.4 on.
    pub collation: Option<RawDocumentBuf>,
    /// The member to read from, whether or not it is the primary. The primary if it is not given.
    pub address: Option<String>,
}

/// What a cursor does at the end of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FindMode {
    /// It ends.
    #[default]
    Plain,
    /// It stays open, and each call waits for new documents.
    TailAwait {
        /// How long the server waits, in milliseconds. Servers before 3.2 decide that themselves: 1 to 4 seconds.
        await_ms: u32,
    },
}

impl Find {
    /// A query for every document of a collection.
    pub fn new(database: impl Into<String>, collection: impl Into<String>, filter: RawDocumentBuf) -> Self {
        Self {
            namespace: (database.into(), collection.into()),
            filter,
            projection: None,
            sort: None,
            hint: None,
            min: None,
            max: None,
            batch_size: None,
            limit: None,
            mode: FindMode::Plain,
            oplog_replay: false,
            no_cursor_timeout: false,
            read_concern: None,
            max_time: None,
            collation: None,
            address: None,
        }
    }
}
