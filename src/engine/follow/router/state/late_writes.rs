//! Which entries contain writes of the selection, for the watch for writes that come after the source's writers were stopped.

use std::fmt;

use super::RoutingState;
use crate::catalog::expiry_of;
use crate::engine::track::collection::CollectionProgress;
use crate::model::{Namespace, Operation};
use crate::oplog::{CommandOperation, Entry, Item};

impl RoutingState {
    /// Returns those writes of an entry that count as late. To be asked before the entry is routed, so that a collection that it drops is
    /// still known.
    pub fn late_writes_of<'a>(
        &self,
        entry: &'a Entry,
    ) -> impl Iterator<Item = (&'a Namespace, Option<&'a dyn fmt::Debug>)> {
        entry.items.iter().filter_map(|item| match item {
            Item::Change(change) => {
                let counts = match self.tracked.get(&change.collection) {
                    Some(tracked) => !(matches!(change.write.operation, Operation::Delete) && tracked.expires()),
                    None => self.selection.contains(&change.namespace),
                };
                let id: &dyn fmt::Debug = &change.write.key;
                counts.then_some((&*change.namespace, Some(id)))
            }
            Item::Command(command) => self.selected_by(&command.operation).map(|namespace| (namespace, None)),
        })
    }

    /// Returns the collection or view of the selection that a command changes. The collections of a dropped database have entries of their
    /// own, and an unsupported entry ends the run.
    pub fn selected_by<'a>(&self, operation: &'a CommandOperation) -> Option<&'a Namespace> {
        operation.namespaces().find(|name| self.selection.contains(name))
    }
}

impl CollectionProgress {
    /// Whether the source deletes documents of the collection by their age.
    fn expires(&self) -> bool {
        expiry_of(&self.options).is_some() || self.indexes.iter().any(|index| expiry_of(index).is_some())
    }
}
