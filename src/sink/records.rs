//! The records of one migration on the sink.

use std::fmt;
use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Sink;
use crate::error::Result;
use crate::model::MigrationId;

/// The records of one migration. Those of other migrations into the same sink have other names, because an id cannot contain a `/`.
#[derive(Clone)]
pub(crate) struct Records {
    sink: Arc<dyn Sink>,
    id: MigrationId,
    turn: Option<Turn>,
}

/// Held by the one of several migrations of a process that changes a record which all of them share. Without it, each of hundreds that start
/// at once would have to try again after every other one.
pub(crate) type Turn = Arc<Mutex<()>>;

impl Records {
    pub fn new(sink: Arc<dyn Sink>, id: MigrationId) -> Self {
        Self { sink, id, turn: None }
    }

    pub fn with_turn(self, turn: Option<Turn>) -> Self {
        Self { turn, ..self }
    }

    /// Waits for this migration's turn to change a record that others of the process share.
    pub async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        match &self.turn {
            Some(turn) => Some(Arc::clone(turn).lock_owned().await),
            None => None,
        }
    }

    pub fn sink(&self) -> &Arc<dyn Sink> {
        &self.sink
    }

    pub fn id(&self) -> &MigrationId {
        &self.id
    }

    /// Same as [`Sink::load_record`].
    pub async fn load(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.sink.load_record(&self.name(name)).await
    }

    /// Same as [`Sink::save_record`].
    pub async fn save(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.sink.save_record(&self.name(name), record, expected).await
    }

    /// Same as [`Sink::delete_record`].
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.sink.delete_record(&self.name(name)).await
    }

    /// The name on the sink of a migration's record.
    pub fn name_of(id: &MigrationId, name: &str) -> String {
        format!("{id}/{name}")
    }

    fn name(&self, name: &str) -> String {
        Self::name_of(&self.id, name)
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("id", &self.id).finish_non_exhaustive()
    }
}
