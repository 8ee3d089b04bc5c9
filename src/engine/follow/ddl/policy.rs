//! Applies the DDL policy when the source's catalog changes during a run.

use bson::Uuid;

use crate::catalog::{is_same_index, name_of};
use crate::config::DdlPolicy;
use crate::engine::follow::router::Router;
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position};
use crate::oplog::CommandOperation;
use crate::report::Event;

impl Router {
    /// Applies the policy to a catalog change, before the change is applied to the target.
    ///
    /// # Errors
    /// [`CatalogChanged`](ErrorKind::CatalogChanged), or as [`Router::run`].
    pub(crate) async fn judge(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        operation: &CommandOperation,
    ) -> Result<()> {
        let policy = self.ddl;
        if policy == DdlPolicy::Apply {
            return Ok(());
        }
        let Some(namespace) = self.changed_by(id, operation) else {
            return Ok(());
        };
        let change = name_of_change(operation);
        if policy == DdlPolicy::Warn {
            self.events.send(Event::CatalogChangeMet {
                position,
                namespace,
                change,
            });
            return Ok(());
        }
        self.save_now(None).await?;
        Err(Error::new(
            ErrorKind::CatalogChanged,
            "follow the source",
            "its catalog was changed and `DdlPolicy::Fail` is set: find out who changed it; a start with `DdlPolicy::Apply` resumes here",
        )
        .with_context("change", change)
        .with_context("namespace", namespace))
    }

    /// Returns what a command changes in the selection: the name of a collection or view, or `database.*`.
    fn changed_by(&self, id: Option<Uuid>, operation: &CommandOperation) -> Option<String> {
        use CommandOperation as Op;
        let tracked = id.and_then(|id| self.state.tracked.get(&id));
        let is_new = match operation {
            Op::Create { .. } => tracked.is_none(),
            Op::CreateIndexes { indexes, .. } => {
                let is_known = |tracked: &CollectionProgress, index| {
                    tracked.indexes.iter().any(|known| is_same_index(known, index))
                };
                tracked.is_some_and(|tracked| indexes.iter().any(|index| !is_known(tracked, index)))
            }
            Op::DropIndex { name, .. } => {
                tracked.is_some_and(|tracked| tracked.indexes.iter().any(|index| name_of(index) == name))
            }
            Op::DropIndexes { key, .. } => {
                tracked.is_some_and(|tracked| !tracked.indexes_dropped_by(key.as_deref()).is_empty())
            }
            Op::Drop { namespace } => {
                tracked.is_some() || (namespace.collection() == "system.views" && self.has_views(namespace.database()))
            }
            Op::Modify { .. } => tracked.is_some(),
            Op::Rename { to, .. } => tracked.is_none_or(|tracked| tracked.target.namespace != **to),
            Op::SetView { namespace, options } => self
                .state
                .views
                .get(&**namespace)
                .is_none_or(|view| view.options != *options),
            Op::ChangeView { namespace, .. } | Op::DropView { namespace } => {
                self.state.views.contains_key(&**namespace)
            }
            Op::DropDatabase { database } => {
                return self.has_any(database).then(|| format!("{database}.*"));
            }
            // An unsupported entry ends the run by itself.
            Op::Unsupported { .. } => false,
        };
        match operation {
            Op::Drop { namespace } if is_new && tracked.is_none() => Some(namespace.to_string()),
            _ if is_new => self.state.selected_by(operation).map(Namespace::to_string),
            _ => None,
        }
    }

    fn has_views(&self, database: &str) -> bool {
        self.state.views.keys().any(|view| view.database() == database)
    }

    fn has_any(&self, database: &str) -> bool {
        let is_there = |namespace: &Namespace| namespace.database() == database;
        self.has_views(database)
            || self
                .state
                .tracked
                .values()
                .any(|tracked| is_there(&tracked.target.namespace))
    }
}

/// Name of the command that makes such a change.
fn name_of_change(operation: &CommandOperation) -> &'static str {
    use CommandOperation as Op;
    match operation {
        Op::Create { .. } => "create",
        Op::CreateIndexes { .. } => "createIndexes",
        Op::DropIndex { .. } | Op::DropIndexes { .. } => "dropIndexes",
        Op::Modify { .. } | Op::ChangeView { .. } => "collMod",
        Op::Drop { .. } | Op::DropView { .. } => "drop",
        Op::DropDatabase { .. } => "dropDatabase",
        Op::Rename { .. } => "renameCollection",
        Op::SetView { .. } => "create (a view)",
        Op::Unsupported { .. } => "unknown",
    }
}
