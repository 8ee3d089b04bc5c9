//! A client for servers from 2.6 to 4.0, which the driver no longer talks to.
//!
//! It knows what a migration needs from a source and no more: commands and queries as `OP_QUERY`, cursors in both forms, logins, and which
//! member is the primary. All servers up to 5.0 understand these messages, which is how it is tested on real ones. Nothing runs in the
//! background: each call makes, uses and returns a connection, and looks for the primary when that is due.

mod auth;
mod client;
mod cursor;
mod error;
mod find;
mod is_master;
mod options;
pub(in crate::mongo) mod source;
mod request;
mod wire;

pub use self::client::LegacyClient;
#[cfg(feature = "test-util")]
pub use self::client::Primary;
pub use self::cursor::LegacyCursor;
#[cfg(feature = "test-util")]
pub use self::error::{CommandError, server_error};
pub use self::find::{Find, FindMode};
#[cfg(feature = "test-util")]
pub use self::is_master::LastWrite;
pub use self::is_master::{IsMaster, OpTime};
pub use self::options::LegacyOptions;
#[cfg(feature = "test-util")]
pub use self::options::{LegacyCredential, LegacyMechanism, LegacyTls, TlsLibrary};
