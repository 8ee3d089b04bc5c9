//! A checkpoint that is too large for one record, in several.
//!
//! The parts are records of their own under names that are used once, and the checkpoint's record names them. So whatever happens while
//! they are saved, that record refers to a whole set: the one before or the new one.

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::spec::BinarySubtype;
use bson::{Binary, Uuid, rawdoc};

use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;

/// A checkpoint of more bytes is saved in parts of so many: a record is a document, which has 16 MiB at most.
#[cfg(not(test))]
pub(super) const PART: usize = 8 << 20;
#[cfg(test)]
pub(super) const PART: usize = 1 << 10;

/// The parts of one checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The store that saved them.
    pub writer: Uuid,
    /// The number of the set among those of the writer.
    pub set: i64,
    pub count: i64,
}

impl Parts {
    fn name(&self, part: i64) -> String {
        format!("checkpoint-{}-{}-{part}", self.writer, self.set)
    }

    /// Saves the bytes in new records.
    ///
    /// # Errors
    /// A server error. Some of the records may have been saved.
    pub async fn save(&self, sink: &Arc<dyn Sink>, bytes: &[u8]) -> Result<()> {
        for (number, part) in (0..).zip(bytes.chunks(PART)) {
            let bytes = Binary {
                subtype: BinarySubtype::Generic,
                bytes: part.to_vec(),
            };
            let record = rawdoc! { "fence": 1_i64, "bytes": bytes };
            if !sink.save_record(&self.name(number), &record, 0).await? {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "save the checkpoint",
                    "a record of its parts is there already",
                )
                .with_context("record", self.name(number)));
            }
        }
        Ok(())
    }

    /// Reads the checkpoint; `None` when a part is gone, since another set has taken the place of this one.
    ///
    /// # Errors
    /// A server error, or what was read is no checkpoint.
    pub async fn load(&self, sink: &Arc<dyn Sink>) -> Result<Option<RawDocumentBuf>> {
        let mut bytes = Vec::new();
        for number in 0..self.count {
            let Some(record) = sink.load_record(&self.name(number)).await? else {
                return Ok(None);
            };
            bytes.extend_from_slice(record.get_binary("bytes").map_err(super::on_target::damaged)?.bytes);
        }
        RawDocumentBuf::from_bytes(bytes)
            .map(Some)
            .map_err(super::on_target::damaged)
    }

    /// Deletes the records.
    ///
    /// # Errors
    /// A server error. Some of the records may have been deleted.
    pub async fn delete(&self, sink: &Arc<dyn Sink>) -> Result<()> {
        for number in 0..self.count {
            sink.delete_record(&self.name(number)).await?;
        }
        Ok(())
    }

    /// Sets that the writer can have left when it died between two saves: the one before this, and the one that was to follow it.
    pub fn neighbours(self) -> [Self; 2] {
        // They have about as many parts.
        let neighbour = |set| Self {
            set,
            count: self.count + 1,
            ..self
        };
        [neighbour(self.set - 1), neighbour(self.set + 1)]
    }
}
