//! The client of old servers, for the tests on real servers.
//!
//! Hosts do not need it, and it changes without notice.

pub use crate::mongo::legacy::{
    CommandError, Find, FindMode, IsMaster, LastWrite, LegacyClient, LegacyCredential, LegacyCursor, LegacyMechanism,
    LegacyOptions, LegacyTls, OpTime, Primary, TlsLibrary, server_error,
};
