//! Collections that left the selection during a migration, since they were renamed on the source.

use serde::{Deserialize, Serialize};

use crate::model::{Namespace, Position};

/// A collection that was migrated, and was renamed on the source to a name that is not selected. It was dropped on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeftSelection {
    /// Its name on the source before.
    pub from: Namespace,
    /// Its name on the source after the rename.
    pub to: Namespace,
    /// Where in the source's history.
    pub position: Position,
}
