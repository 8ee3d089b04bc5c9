//! Storage of a checkpoint that is too large for one record, in several parts.
//!
//! Each part is a record of its own, under a name that is used only once. The checkpoint's record names the parts. Whatever happens during
//! a save, that record therefore refers to a complete set: the old one or the new one.

use bson::raw::RawDocumentBuf;
use bson::spec::BinarySubtype;
use bson::{Binary, Uuid, rawdoc};

use crate::error::{Error, ErrorKind, Result};
use crate::sink::Records;

/// Maximum number of bytes of a part. A larger checkpoint is split into parts, because a record is a document, which has at most 16 MiB.
#[cfg(not(test))]
pub(super) const PART: usize = 8 << 20;
#[cfg(test)]
pub(super) const PART: usize = 1 << 10;

/// The set of parts of one checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Identifies the store that saved the parts.
    pub writer: Uuid,
    /// Number of the set among those of the writer.
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
    pub async fn save(&self, records: &Records, bytes: &[u8]) -> Result<()> {
        for (number, part) in (0..).zip(bytes.chunks(PART)) {
            let bytes = Binary {
                subtype: BinarySubtype::Generic,
                bytes: part.to_vec(),
            };
            let record = rawdoc! { "fence": 1_i64, "bytes": bytes };
            if !records.save(&self.name(number), &record, 0).await? {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "save the checkpoint",
                    "a record for one of its parts exists already",
                )
                .with_context("record", self.name(number)));
            }
        }
        Ok(())
    }

    /// Loads the checkpoint. Returns `None` if a part is gone because another set has replaced this one.
    ///
    /// # Errors
    /// A server error, or the loaded bytes are no checkpoint.
    pub async fn load(&self, records: &Records) -> Result<Option<RawDocumentBuf>> {
        let mut bytes = Vec::new();
        for number in 0..self.count {
            let Some(record) = records.load(&self.name(number)).await? else {
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
    pub async fn delete(&self, records: &Records) -> Result<()> {
        for number in 0..self.count {
            records.delete(&self.name(number)).await?;
        }
        Ok(())
    }

    /// Sets that the writer may have left behind when it died between two saves: the previous set and the next one.
    pub fn neighbours(self) -> [Self; 2] {
        // Their part counts are unknown. They are assumed to have at most one part more than this set.
        let neighbour = |set| Self {
            set,
            count: self.count + 1,
            ..self
        };
        [neighbour(self.set - 1), neighbour(self.set + 1)]
    }
}
