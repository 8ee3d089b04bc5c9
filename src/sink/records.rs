//! The records of one migration on the sink.

use std::fmt;
use std::sync::Arc;

use bson::raw::RawDocumentBuf;

use super::Sink;
use crate::error::Result;
use crate::model::MigrationId;

/// The records of one migration. Those of other migrations into the same sink have other names, because an id cannot contain a `/`.
#[derive(Clone)]
pub(crate) struct Records {
    sink: Arc<dyn Sink>,
    id: MigrationId,
}

impl Records {
    pub fn new(sink: Arc<dyn Sink>, id: MigrationId) -> Self {
        Self { sink, id }
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
