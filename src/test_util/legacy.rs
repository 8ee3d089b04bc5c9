//! The client of old servers, and the decoder of their entries, for the tests on real servers.
//!
//! Hosts do not need it, and it changes without notice.

use std::collections::BTreeMap;

use bson::Uuid;
use bson::raw::RawDocumentBuf;

use crate::error::Result;
use crate::model::Namespace;
use crate::oplog::Entry;
use crate::oplog::legacy::{LegacyDecoder, LegacyIdentities};

pub use crate::mongo::legacy::{
    CommandError, Find, FindMode, IsMaster, LastWrite, LegacyClient, LegacyCredential, LegacyCursor, LegacyMechanism,
    LegacyOptions, LegacyTls, OpTime, Primary, TlsLibrary, server_error,
};

/// Decodes consecutive oplog entries of a server from 2.6 to 4.0. `known` has the collections of the checkpoint that they follow, if they
/// follow one.
///
/// # Errors
/// [`Protocol`](crate::ErrorKind::Protocol) if an entry is malformed.
pub fn decode_legacy(
    series: [u32; 2],
    set: &str,
    known: Option<&BTreeMap<Namespace, Uuid>>,
    entries: &[RawDocumentBuf],
) -> Result<Vec<Entry>> {
    let mut identities = match known {
        Some(known) => LegacyIdentities::restored(set, series, known.iter().map(|(name, id)| (name.clone(), *id))),
        None => LegacyIdentities::new(set, series),
    };
    let mut decoder = LegacyDecoder::new(series);
    entries
        .iter()
        .map(|entry| decoder.take(entry, &mut identities))
        .collect()
}
