//! The identity and versions of a deployment.

use serde::{Deserialize, Serialize};

/// What replica sets of protocol version 0 may do.
pub(crate) const LOSES_WRITES: &str = "can lose writes in an election that a majority has acknowledged: if one takes place during the \
                                       migration, both sides agree, and neither may have such a write";

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

    /// What the version of a source does not promise of writes that a majority has acknowledged, or `None` if it never loses such writes.
    pub(crate) fn weakness(&self) -> Option<String> {
        let [major, minor, _] = self.version;
        match [major, minor] {
            [..3, _] | [3, 0] => Some(format!("the source's version {LOSES_WRITES}")),
            [3, ..=6] => Some(format!(
                "if the source's replica set has protocol version 0, it {LOSES_WRITES}"
            )),
            _ => None,
        }
    }
}
