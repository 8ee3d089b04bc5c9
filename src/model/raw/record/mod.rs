//! Structures as BSON documents, for records that are kept.
//!
//! `bson` compiles the code that `serde` derives for a structure a dozen times, once for each form that it reads a document in. Behind trait
//! objects there is one copy.

mod erased;

use bson::error::Result;
use bson::raw::RawDocumentBuf;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Encodes a structure.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<RawDocumentBuf> {
    bson::serialize_to_raw_document_buf(&Erased(value as &dyn erased_serde::Serialize))
}

/// Decodes what [`encode`] has written.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    bson::deserialize_from_slice(bytes).map(|Decoded(value)| value)
}

struct Erased<'a>(&'a dyn erased_serde::Serialize);

impl Serialize for Erased<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        erased_serde::serialize(self.0, serializer)
    }
}

struct Decoded<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        erased::deserialize(deserializer).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
