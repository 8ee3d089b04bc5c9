//! Collections that left the selection when they were renamed on the source.

use serde::{Deserialize, Serialize};

use crate::model::{Namespace, Position};

/// A migrated collection that was renamed on the source to a name outside of the selection. It is dropped on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeftSelection {
    /// Its name on the source before the rename.
    pub from: Namespace,
    /// Its name on the source after the rename.
    pub to: Namespace,
    /// The position of the rename in the source's history.
    pub position: Position,
}
