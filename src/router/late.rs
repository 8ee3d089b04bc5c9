//! Tells a cutover which writes still came after the writers of the source were to have stopped.

use std::fmt;

use super::*;
use crate::index::expiry;
use crate::oplog::CommandOperation;

impl Router {
    /// Begins to watch at a position after everything that was written before. Nothing is routed meanwhile, so that no entry after it can have
    /// passed unnoticed.
    ///
    /// # Errors
    /// A server error.
    pub(super) async fn watch_for_late_writes(&self) -> Result<Position> {
        let stopped = tokio::select! {
            () = self.cancel.cancelled() => return Err(Error::stopped("cut over")),
            sentinel = self.source.sentinel() => sentinel?,
        };
        self.progress.late_writes.begin(stopped);
        Ok(stopped)
    }

    /// Notes the writes of an entry that count. Called before the entry is routed, so that a collection that it drops is still known.
    pub(super) fn note_late_writes(&self, entry: &Entry) {
        let writes = entry.items.iter().filter_map(|item| match item {
            Item::Change(change) => {
                let counts = match self.tracked.get(&change.collection) {
                    Some(tracked) => !(matches!(change.write.operation, Operation::Delete) && tracked.expires()),
                    None => self.selection.contains(&change.namespace),
                };
                let id: &dyn fmt::Debug = &change.write.key;
                counts.then_some((&*change.namespace, Some(id)))
            }
            Item::Command(command) => self.selected_by(&command.operation).map(|namespace| (namespace, None)),
        });
        self.progress.late_writes.note(entry.position, writes);
    }

    /// The collection or view of the selection that a command changes.
    pub(crate) fn selected_by<'a>(&self, operation: &'a CommandOperation) -> Option<&'a Namespace> {
        use CommandOperation as Op;
        let names = match operation {
            Op::Create { namespace, .. }
            | Op::CreateIndexes { namespace, .. }
            | Op::DropIndex { namespace, .. }
            | Op::Modify { namespace, .. }
            | Op::Drop { namespace }
            | Op::SetView { namespace, .. }
            | Op::ChangeView { namespace, .. }
            | Op::DropView { namespace } => [Some(namespace), None],
            Op::Rename { from, to, .. } => [Some(from), Some(to)],
            // The collections of the database were dropped by entries of their own. What cannot be applied ends the run.
            Op::DropDatabase { .. } | Op::Unsupported { .. } => [None, None],
        };
        names
            .into_iter()
            .flatten()
            .map(|name| &**name)
            .find(|name| self.selection.contains(name))
    }
}

impl Tracked {
    /// Whether the source deletes documents of the collection by their age.
    fn expires(&self) -> bool {
        expiry(&self.options).is_some() || self.indexes.iter().any(|index| expiry(index).is_some())
    }
}
