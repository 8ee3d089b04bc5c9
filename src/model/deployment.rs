//! A deployment: what is known of a replica set as a whole.

use serde::{Deserialize, Serialize};

/// What a source or sink says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// An identity that stays the same over restarts and elections; on MongoDB the replica set's id.
    pub identity: String,
    /// Name for people, such as the replica set's name. Never holds credentials.
    pub name: String,
    /// The version of the server, such as `[6, 0, 5]`.
    pub version: [u32; 3],
    /// The feature compatibility version, such as `[6, 0]`.
    pub feature_compatibility: [u32; 2],
}
