//! Applies changes of the source's catalog to the target.
//!
//! Each change is a barrier: everything before it is applied first.

mod options;
pub(crate) mod policy;
mod renames;
mod views;

use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};

use crate::catalog::kind::kind_of;
use crate::catalog::not_migrated::ensure_migratable;
use crate::catalog::{name_of, to_create};
use crate::engine::follow::router::Router;
use crate::engine::ownership::Room;
use crate::engine::start::prepare_target::arrange_kept;
use crate::engine::track::collection::{CollectionProgress, IndexWork};
use crate::engine::track::ranges::Ranges;
use crate::engine::track::verification::RangeVerification;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, Namespace, Position};
use crate::oplog::{Command, CommandOperation};
use crate::report::Event;
use crate::runtime::register::Register;
use crate::sink::CatalogCommand;

pub(crate) use crate::catalog::expiry::expiry_held_back;

/// Maximum number of fields of an entry that an error names.
const FIELDS_NAMED: usize = 20;

impl Router {
    /// Applies one command. Returns `true` if a checkpoint must be saved before anything else is applied.
    pub(crate) async fn apply_command(&mut self, command: Command) -> Result<bool> {
        // A comparison relies on one state of the catalog, and holds the watermark back.
        self.stop_checks().await?;
        let (position, raw) = (command.position, command.raw);
        let applied = match self.judge(position, command.collection, &command.operation).await {
            Ok(()) => {
                self.apply_operation(position, command.collection, command.operation)
                    .await
            }
            Err(error) => Err(error),
        };
        applied.map_err(|error| {
            error
                .with_context("position", position)
                .with_context("entry", shape(&raw))
        })
    }

    async fn apply_operation(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        operation: CommandOperation,
    ) -> Result<bool> {
        use CommandOperation as Op;
        match operation {
            Op::Create {
                namespace,
                options,
                id_index,
            } => self.create(position, id, &namespace, options, id_index).await?,
            Op::CreateIndexes { namespace, indexes } => self.create_indexes(position, id, &namespace, &indexes).await?,
            Op::DropIndex { namespace, name } => self.drop_index(position, id, &namespace, name).await?,
            Op::DropIndexes { namespace, key } => self.drop_indexes(position, id, &namespace, key.as_deref()).await?,
            Op::Modify { namespace, arguments } => self.modify(position, id, &namespace, &arguments).await?,
            Op::Drop { namespace } => self.drop_collection(position, id, &namespace).await?,
            Op::DropDatabase { database } => self.drop_database(position, &database).await?,
            Op::Rename { from, to, dropped } => return self.rename(position, id, &from, &to, dropped).await,
            Op::SetView { namespace, options } => self.set_view(position, &namespace, options).await?,
            Op::ChangeView { namespace, delta } => self.change_view(position, &namespace, &delta).await?,
            Op::DropView { namespace } => self.drop_view(position, &namespace).await?,
            Op::Unsupported { namespace, reason } => {
                if self.state.selection.may_concern(&namespace) {
                    return Err(Error::new(ErrorKind::UnsupportedEntry, "apply an oplog entry", reason)
                        .with_context("namespace", namespace));
                }
            }
        }
        Ok(false)
    }

    async fn create(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        namespace: &Namespace,
        options: RawDocumentBuf,
        id_index: Option<RawDocumentBuf>,
    ) -> Result<()> {
        if !self.state.selection.contains(namespace) {
            return Ok(());
        }
        let id = required(id)?;
        if self.state.tracked.contains_key(&id) {
            return Ok(());
        }
        let kind = kind_of(namespace, &options);
        ensure_migratable("create a collection", namespace, kind)?;
        self.drain().await?;
        let target = self.state.selection.target(namespace);
        self.check_free("create a collection", namespace, &target, &[])?;
        let room = self
            .ownership
            .claim(&target, position <= self.state.replay_until)
            .await?;
        let indexes: Vec<_> = id_index.into_iter().collect();
        let collection = Collection {
            id,
            namespace: namespace.clone(),
            kind,
            options,
            indexes,
            documents: 0,
            bytes: 0,
        };
        let made_with = to_create(&expiry_held_back(&collection.options), &collection.indexes);
        let rule = self.state.tracked.rule(namespace);
        let tracked = match room {
            Room::Free => CollectionProgress {
                made: self.ownership.create(&target, kind, made_with).await?,
                // Just before this entry, because a transaction creates a collection and writes to it at one position.
                ranges: Ranges::done(position.predecessor()),
                index_work: IndexWork::Done,
                // For other kinds, comparing documents by `_id` is not enough: in a capped collection their order is data.
                verification: RangeVerification::of_empty(rule.is_continuous() && kind.has_ranges()),
                rule,
                ..CollectionProgress::unread(&collection, target, Vec::new())
            },
            Room::Kept => self.take_over(&collection, target).await?,
        };
        self.state.tracked.insert(id, tracked);
        self.update_progress();
        self.report(position, format!("created {namespace}"));
        Ok(())
    }

    /// Fails if another collection already has the target name that this one is to get.
    fn check_free(
        &self,
        operation: &'static str,
        namespace: &Namespace,
        target: &Namespace,
        but_for: &[Uuid],
    ) -> Result<()> {
        let mut others = self.state.tracked.iter().filter(|(id, _)| !but_for.contains(id));
        let Some((_, other)) = others.find(|(_, other)| other.target.target == *target) else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::UnsupportedEntry,
            operation,
            "another collection has its name on the target: give one of them another name, or exclude it, and start again",
        )
        .with_context("namespace", namespace)
        .with_context("other", &other.target.namespace))
    }

    /// Takes over a collection that other programs made on the target, to make it equal to the source's. Nothing in it counts as copied.
    async fn take_over(&self, collection: &Collection, target: Namespace) -> Result<CollectionProgress> {
        // Converted as if from a checkpoint: the target may have documents in every range.
        let mut tracked = CollectionProgress::from_checkpoint(
            &CollectionProgress::unread(collection, target, Vec::new()).to_checkpoint(),
        );
        tracked.rule = self.state.tracked.rule(&collection.namespace);
        arrange_kept(&*self.source, &*self.sink, &self.ownership, &tracked).await?;
        tracked.made = self.ownership.identify(&tracked.target.target).await?;
        tracked.verification = RangeVerification::wanted_if(tracked.rule.is_continuous());
        Ok(tracked)
    }

    async fn create_indexes(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        namespace: &Namespace,
        indexes: &[RawDocumentBuf],
    ) -> Result<()> {
        let Some(id) = self.known(id, namespace)? else {
            return Ok(());
        };
        self.drain().await?;
        let Some(tracked) = self.state.tracked.get_mut(&id) else {
            return Ok(());
        };
        // The indexes are built in the background, because a build can take longer than the tail may wait.
        tracked.add_indexes(indexes);
        self.update_progress();
        let names: Vec<&str> = indexes.iter().map(|index| name_of(index)).collect();
        self.report(
            position,
            format!("created the indexes {} of {namespace}", names.join(", ")),
        );
        Ok(())
    }

    async fn drop_index(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        namespace: &Namespace,
        name: String,
    ) -> Result<()> {
        let Some(tracked) = self.at_rest(id, namespace).await? else {
            return Ok(());
        };
        let is_left_out = tracked.rule.leaves_indexes_out();
        tracked.remove_index(&name);
        let target = tracked.target.target.clone();
        self.report(position, format!("dropped the index {name} of {namespace}"));
        if is_left_out {
            return Ok(());
        }
        self.sink
            .execute(&CatalogCommand::DropIndex {
                namespace: target,
                name,
            })
            .await
    }

    /// Drops the indexes with this key, or all but the one on `_id`.
    async fn drop_indexes(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        namespace: &Namespace,
        key: Option<&RawDocument>,
    ) -> Result<()> {
        let tracked = self.known(id, namespace)?.and_then(|id| self.state.tracked.get(&id));
        let names: Vec<String> = tracked
            .map(|tracked| tracked.indexes_dropped_by(key))
            .unwrap_or_default();
        for name in names {
            self.drop_index(position, id, namespace, name).await?;
        }
        Ok(())
    }

    async fn modify(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        namespace: &Namespace,
        arguments: &RawDocument,
    ) -> Result<()> {
        let Some(tracked) = self.at_rest(id, namespace).await? else {
            return Ok(());
        };
        let target = tracked.target.target.clone();
        let (mut carried, mut unbuilt) = (RawDocumentBuf::new(), None);
        for element in arguments {
            let (field, value) = element.map_err(malformed)?;
            match field.as_str() {
                "index" => {
                    let change = value
                        .as_document()
                        .ok_or_else(|| unexpected("`index` of collMod is not a document"))?;
                    match tracked.modify_index(change)? {
                        Some(_) if tracked.rule.leaves_indexes_out() => {}
                        Some((name, now)) if tracked.is_built(&name) => carried.append(field, now),
                        Some((name, _)) => unbuilt = Some(name),
                        None => {}
                    }
                }
                // Until the cutover, documents expire on the source only.
                "expireAfterSeconds" => tracked.set_option(field.as_str(), value)?,
                _ => {
                    tracked.set_option(field.as_str(), value)?;
                    carried.append(field, value);
                }
            }
        }
        tracked.complete_validation(arguments)?;
        self.report(position, format!("modified {namespace}"));
        if let Some(name) = unbuilt {
            // An earlier run may have built the old form of the index after the checkpoint. Building the new form would then change
            // nothing, because to a server the two are the same index.
            let namespace = target.clone();
            self.sink
                .execute(&CatalogCommand::DropIndex { namespace, name })
                .await?;
        }
        if carried.is_empty() {
            return Ok(());
        }
        let command = CatalogCommand::Modify {
            namespace: target,
            arguments: carried,
        };
        match self.sink.execute(&command).await {
            // An earlier run already applied the entry that dropped what this command changes. That entry comes again.
            Err(error) if error.kind() == ErrorKind::TargetRefused && position <= self.state.replay_until => Ok(()),
            other => other,
        }
    }

    async fn drop_collection(&mut self, position: Position, id: Option<Uuid>, namespace: &Namespace) -> Result<()> {
        if namespace.collection() == "system.views" {
            return self.drop_views(position, namespace.database()).await;
        }
        if id.is_none() && !self.state.selection.contains(namespace) {
            return Ok(());
        }
        let id = required(id)?;
        if self.state.ghosts.remove(&id).is_some() || !self.state.tracked.contains_key(&id) {
            return Ok(());
        }
        let is_left = self.remove(id).await?;
        self.report_drop(position, format!("dropped {namespace}"), is_left);
        Ok(())
    }

    /// Drops a collection on the sink and forgets it. Returns `true` if other programs made something under its name. That is left alone.
    async fn remove(&mut self, id: Uuid) -> Result<bool> {
        self.stop_work_on(id).await?;
        self.drain().await?;
        self.announce_drop(id).await?;
        match self.state.tracked.remove(&id) {
            Some(tracked) => {
                self.ownership
                    .remove(&tracked.target.target, tracked.made, self.state.routed)
                    .await
            }
            None => Ok(false),
        }
    }

    /// Drops the empty database. Its collections were dropped by entries of their own. Views have no such entries and are dropped here.
    async fn drop_database(&mut self, position: Position, database: &str) -> Result<()> {
        let ids: Vec<Uuid> = self
            .state
            .tracked
            .iter()
            .filter(|(_, t)| t.target.namespace.database() == database)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove(id).await?;
        }
        self.drop_views(position, database).await?;
        if !self.state.selection.reaches(database) {
            return Ok(());
        }
        // What the server keeps of dropped views would keep the database, so drop it explicitly. Anything created there since stays.
        let mut is_left = false;
        for name in self.sink.names_in(database).await? {
            is_left |= !self.is_emptied(&name).await?;
        }
        // Another migration may be about to create something there.
        if !is_left {
            let register = Register::load(&*self.sink).await?;
            is_left = register.others_produce_in(self.ownership.id(), database);
        }
        if !is_left {
            let database = database.to_owned();
            match self.sink.execute(&CatalogCommand::DropDatabase { database }).await {
                // Everything in it is gone. That it is still listed harms nobody, so this is no reason to end the run.
                Err(error) if error.kind() == ErrorKind::Unauthorized => {}
                other => other?,
            }
        }
        self.report(position, format!("dropped the database {database}"));
        Ok(())
    }

    /// Whether the collection is the remainder of stored functions that were dropped. It is dropped only with its database.
    async fn is_emptied(&self, standing: &Namespace) -> Result<bool> {
        let can_be = standing.collection() == "system.js"
            && self.state.selection.produces(standing)
            && !self.state.tracked.values().any(|t| t.target.target == *standing);
        Ok(can_be && self.ownership.is_empty(standing).await?)
    }

    /// Returns a migrated collection after every earlier change is applied and its index builds are stopped.
    async fn at_rest(&mut self, id: Option<Uuid>, namespace: &Namespace) -> Result<Option<&mut CollectionProgress>> {
        let Some(id) = self.known(id, namespace)? else {
            return Ok(None);
        };
        self.stop_builds(id).await?;
        self.drain().await?;
        Ok(self.state.tracked.get_mut(&id))
    }

    /// Returns the id of a migrated collection, or `None` if the collection is not migrated.
    fn known(&self, id: Option<Uuid>, namespace: &Namespace) -> Result<Option<Uuid>> {
        if id.is_none() && !self.state.selection.contains(namespace) {
            return Ok(None);
        }
        let id = required(id)?;
        if self.state.tracked.contains_key(&id) {
            Ok(Some(id))
        } else if self.state.selection.contains(namespace) && !self.state.ghosts.contains_key(&id) {
            Err(unexpected("it concerns a collection whose creation was never seen")
                .with_context("namespace", namespace))
        } else {
            Ok(None)
        }
    }

    fn report_drop(&self, position: Position, mut description: String, is_left: bool) {
        if is_left {
            description.push_str("; what other programs made on the target in its place is kept");
        }
        self.report(position, description);
    }

    fn report(&self, position: Position, description: String) {
        self.events.send(Event::CatalogChanged { position, description });
    }
}

/// Describes an entry for an error: its namespace and the names of its fields, without any of the user's data.
fn shape(entry: &RawDocument) -> String {
    let namespace = entry.get_str("ns").unwrap_or("no namespace");
    let fields: Vec<&str> = entry
        .get_document("o")
        .map(|object| {
            object
                .iter()
                .flatten()
                .map(|(name, _)| name.as_str())
                .take(FIELDS_NAMED)
                .collect()
        })
        .unwrap_or_default();
    format!("in {namespace} with the fields {}", fields.join(", "))
}

fn required(id: Option<Uuid>) -> Result<Uuid> {
    id.ok_or_else(|| unexpected("it does not say which collection it concerns"))
}

fn unexpected(message: &'static str) -> Error {
    Error::new(ErrorKind::UnsupportedEntry, "apply an oplog entry", message)
}

fn malformed(error: bson::error::Error) -> Error {
    Error::malformed("read an oplog entry", error)
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn an_entry_in_an_error_shows_names_and_no_data() {
        let entry = rawdoc! {
            "op": "c",
            "ns": "shop.$cmd",
            "o": { "create": "orders", "validator": { "name": { "$ne": "s3cret" } } },
        };
        assert_eq!(shape(&entry), "in shop.$cmd with the fields create, validator");
        assert_eq!(shape(&rawdoc! {}), "in no namespace with the fields ");
    }
}
