//! The identity and versions of a deployment.

use serde::{Deserialize, Serialize};

/// A replica set as a whole, as a source or sink describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Deployment {
    /// An identity that survives restarts and elections. On MongoDB, the id of the replica set.
    pub identity: String,
    /// A name for people, such as that of the replica set. Never contains credentials.
    pub name: String,
    /// The version of the server, such as `[6, 0, 5]`.
    pub version: [u32; 3],
    /// The feature compatibility version, such as `[6, 0]`.
    pub feature_compatibility: [u32; 2],
}

impl Deployment {
    /// Creates the description of a deployment.
    pub fn new(
        identity: impl Into<String>,
        name: impl Into<String>,
        version: [u32; 3],
        feature_compatibility: [u32; 2],
    ) -> Self {
        Self {
            identity: identity.into(),
            name: name.into(),
            version,
            feature_compatibility,
        }
    }
}
