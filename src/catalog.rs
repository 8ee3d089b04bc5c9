//! Carries changes of the source's catalogue over. Each is a barrier: everything before it is applied first.

mod options;
mod views;

use std::sync::Arc;

use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};

pub(crate) use self::options::expiry_held_back;
use crate::checkpoint::Renaming;
use crate::document::{Collection, CollectionKind, Position};
use crate::driver_listing::kind_of;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::index::name_of;
use crate::lane::Target;
use crate::listing::ensure_migratable;
use crate::namespace::Namespace;
use crate::oplog::{Command, CommandOperation};
use crate::proof::Proof;
use crate::ranges::Ranges;
use crate::router::Router;
use crate::sink::CatalogCommand;
use crate::specification::to_create;
use crate::tracked::{IndexWork, Tracked};

/// So many fields of an entry are named in an error.
const FIELDS_NAMED: usize = 20;

impl Router {
    /// Applies one command. Answers whether a checkpoint must follow before anything else is applied.
    pub(crate) async fn apply_command(&mut self, command: Command) -> Result<bool> {
        // What is compared goes by one state of the catalogue, and holds the watermark back.
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
            Op::Modify { namespace, arguments } => self.modify(position, id, &namespace, &arguments).await?,
            Op::Drop { namespace } => self.drop_collection(position, id, &namespace).await?,
            Op::DropDatabase { database } => self.drop_database(position, &database).await?,
            Op::Rename { from, to, dropped } => return self.rename(position, id, &from, &to, dropped).await,
            Op::SetView { namespace, options } => self.set_view(position, &namespace, options).await?,
            Op::ChangeView { namespace, delta } => self.change_view(position, &namespace, &delta).await?,
            Op::DropView { namespace } => self.drop_view(position, &namespace).await?,
            Op::Unsupported { namespace, reason } => {
                if self.selection.may_concern(&namespace) {
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
        if !self.selection.contains(namespace) {
            return Ok(());
        }
        let id = required(id)?;
        if self.tracked.contains_key(&id) {
            return Ok(());
        }
        let kind = kind_of(namespace, &options);
        ensure_migratable("create a collection", namespace, kind)?;
        self.drain().await?;
        let target = self.selection.target(namespace);
        self.check_free("create a collection", namespace, &target, &[])?;
        self.clear_later(position, &target).await?;
        let indexes: Vec<_> = id_index.into_iter().collect();
        self.make(&target, kind, to_create(&expiry_held_back(&options), &indexes))
            .await?;
        let collection = Collection {
            id,
            namespace: namespace.clone(),
            kind,
            options,
            indexes,
            documents: 0,
            bytes: 0,
        };
        let tracked = Tracked {
            // Just before, since a transaction makes a collection and writes to it at one position.
            ranges: Ranges::done(position.predecessor()),
            index_work: IndexWork::Done,
            // Of the others a comparison of documents by their `_id`s says too little: in a capped collection their order is data.
            proof: Proof::of_empty(self.prove && kind.has_ranges()),
            ..Tracked::unread(&collection, target, Vec::new())
        };
        self.tracked.insert(id, tracked);
        self.report(position, format!("created {namespace}"));
        Ok(())
    }

    /// Whether none of the other collections has the name on the target that this one is to get.
    fn check_free(
        &self,
        operation: &'static str,
        namespace: &Namespace,
        target: &Namespace,
        but_for: &[Uuid],
    ) -> Result<()> {
        let mut others = self.tracked.iter().filter(|(id, _)| !but_for.contains(id));
        let Some((_, other)) = others.find(|(_, other)| other.target.target == *target) else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::UnsupportedEntry,
            operation,
            "another collection has its name on the target: give one of them another name, or exclude it, and start anew",
        )
        .with_context("namespace", namespace)
        .with_context("other", &other.target.namespace))
    }

    /// Drops what an earlier run left under a name that was free on the source until `position`: it is of a later time, and is made again by
    /// what follows.
    async fn clear_later(&self, position: Position, target: &Namespace) -> Result<()> {
        if position > self.replay_until {
            return Ok(());
        }
        let namespace = target.clone();
        self.sink.execute(&CatalogCommand::Drop { namespace }).await
    }

    async fn make(&self, target: &Namespace, kind: CollectionKind, options: RawDocumentBuf) -> Result<()> {
        let command = CatalogCommand::Create {
            namespace: target.clone(),
            kind,
            options,
        };
        self.sink.execute(&command).await
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
        let Some(tracked) = self.tracked.get_mut(&id) else {
            return Ok(());
        };
        // A walker builds them, since that can take longer than the tail may wait.
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
        tracked.remove_index(&name);
        let target = tracked.target.target.clone();
        self.report(position, format!("dropped the index {name} of {namespace}"));
        self.sink
            .execute(&CatalogCommand::DropIndex {
                namespace: target,
                name,
            })
            .await
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
                        Some((name, now)) if tracked.is_built(&name) => carried.append(field, now),
                        Some((name, _)) => unbuilt = Some(name),
                        None => {}
                    }
                }
                // Documents expire on the source alone until cutover.
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
            // An earlier run may have built it after the checkpoint. Then building it as it is now would leave it as it was: to a server the
            // two are the same index.
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
            // What it changes was dropped by an entry that an earlier run has applied, and that comes again.
            Err(error) if error.kind() == ErrorKind::TargetRefused && position <= self.replay_until => Ok(()),
            other => other,
        }
    }

    async fn drop_collection(&mut self, position: Position, id: Option<Uuid>, namespace: &Namespace) -> Result<()> {
        if namespace.collection() == "system.views" {
            return self.drop_views(position, namespace.database()).await;
        }
        if id.is_none() && !self.selection.contains(namespace) {
            return Ok(());
        }
        let id = required(id)?;
        if self.ghosts.remove(&id) || !self.tracked.contains_key(&id) {
            return Ok(());
        }
        self.remove(id).await?;
        self.report(position, format!("dropped {namespace}"));
        Ok(())
    }

    /// Drops a collection on the sink and forgets it.
    async fn remove(&mut self, id: Uuid) -> Result<()> {
        self.stop_work_on(id).await?;
        self.drain().await?;
        self.announce_drop(id).await?;
        if let Some(tracked) = self.tracked.remove(&id) {
            self.sink
                .execute(&CatalogCommand::Drop {
                    namespace: tracked.target.target.clone(),
                })
                .await?;
        }
        Ok(())
    }

    /// The collections were dropped by entries of their own, so that only the empty database is left to go; views have no such entries.
    async fn drop_database(&mut self, position: Position, database: &str) -> Result<()> {
        let ids: Vec<Uuid> = self
            .tracked
            .iter()
            .filter(|(_, t)| t.target.namespace.database() == database)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove(id).await?;
        }
        self.drop_views(position, database).await?;
        if !self.selection.reaches(database) {
            return Ok(());
        }
        // What the server keeps of views that are gone would keep the database. What has been made there since stays.
        let left = self.sink.collections().await?;
        if !left
            .iter()
            .any(|collection| collection.namespace.database() == database && !self.is_emptied(collection))
        {
            let database = database.to_owned();
            self.sink.execute(&CatalogCommand::DropDatabase { database }).await?;
        }
        self.report(position, format!("dropped the database {database}"));
        Ok(())
    }

    /// Whether the collection is what is left on the sink of stored functions that were dropped: it goes with its database alone.
    fn is_emptied(&self, standing: &Collection) -> bool {
        standing.namespace.collection() == "system.js"
            && standing.documents == 0
            && self.selection.source_of(&standing.namespace).is_some()
            && !self.tracked.values().any(|t| t.target.target == standing.namespace)
    }

    async fn rename(
        &mut self,
        position: Position,
        id: Option<Uuid>,
        from: &Namespace,
        to: &Namespace,
        dropped: Option<Uuid>,
    ) -> Result<bool> {
        if id.is_none() && !self.selection.contains(from) && !self.selection.contains(to) {
            return Ok(false);
        }
        let id = required(id)?;
        self.ghosts.remove(&id);
        if let Some(dropped) = dropped {
            self.ghosts.remove(&dropped);
            self.stop_work_on(dropped).await?;
        }
        match (self.tracked.contains_key(&id), self.selection.contains(to)) {
            (true, true) => {}
            // Out of the selection: for the target the collection is gone.
            (true, false) => {
                self.remove(id).await?;
                self.progress.left_selection.note(&self.events, from, to, position);
                self.report(
                    position,
                    format!("{from} was renamed to {to}, which is not selected: dropped"),
                );
                return Ok(false);
            }
            (false, true) => {
                if let Some(dropped) = dropped {
                    self.remove(dropped).await?;
                }
                self.adopt(position, id, from, to).await?;
                return Ok(false);
            }
            (false, false) => return Ok(false),
        }
        let but_for = [Some(id), dropped].into_iter().flatten().collect::<Vec<_>>();
        self.check_free("rename a collection", to, &self.selection.target(to), &but_for)?;
        self.stop_work_on(id).await?;
        // From here to the checkpoint after it nothing else is done, so that a run that goes on from here can tell whether it was.
        let renaming = Renaming {
            collection: id,
            to: to.clone(),
            dropped,
            position,
        };
        self.save_now(Some(renaming)).await?;
        let Some(tracked) = self.tracked.get(&id) else {
            return Ok(false);
        };
        let target = self.selection.target(to);
        let kind = tracked.target.kind;
        let command = CatalogCommand::Rename {
            from: tracked.target.target.clone(),
            to: target.clone(),
        };
        self.sink.execute(&command).await?;
        if let Some(dropped) = dropped {
            self.announce_drop(dropped).await?;
            self.tracked.remove(&dropped);
        }
        let renamed = Arc::new(Target {
            id,
            namespace: to.clone(),
            target,
            kind,
        });
        if let Some(tracked) = self.tracked.get_mut(&id) {
            tracked.target = Arc::clone(&renamed);
            if self.prove {
                // Who else wrote to it on the target is known by its name at the time.
                tracked.proof.begin();
            }
        }
        self.announce_rename(&renamed).await?;
        self.report(position, format!("renamed {from} to {to}"));
        Ok(true)
    }

    /// Begins to copy a collection that was renamed into the selection.
    async fn adopt(&mut self, position: Position, id: Uuid, from: &Namespace, to: &Namespace) -> Result<()> {
        self.progress.left_selection.came_back(from);
        let target = self.selection.target(to);
        self.check_free("rename a collection", to, &target, &[])?;
        self.clear_later(position, &target).await?;
        let listed = self.source.collections().await?;
        let Some(collection) = listed
            .into_iter()
            .find(|collection| collection.id == id && collection.namespace == *to)
        else {
            // It has another name by now, or is gone; the entry that says so is still to come.
            self.ghosts.insert(id);
            return Ok(());
        };
        ensure_migratable("rename a collection", to, collection.kind)?;
        let options = to_create(&expiry_held_back(&collection.options), &collection.indexes);
        self.make(&target, collection.kind, options).await?;
        let mut tracked = Tracked::unread(&collection, target, Vec::new());
        if self.prove {
            tracked.proof.begin();
        }
        self.tracked.insert(id, tracked);
        self.update_progress();
        self.report(
            position,
            format!("{from} was renamed to {to}, which is selected: copying it"),
        );
        Ok(())
    }

    /// A collection that is migrated, with every change before this applied and none of its indexes being built: a build of the very index
    /// that is dropped or changed has to end first.
    async fn at_rest(&mut self, id: Option<Uuid>, namespace: &Namespace) -> Result<Option<&mut Tracked>> {
        let Some(id) = self.known(id, namespace)? else {
            return Ok(None);
        };
        self.drain().await?;
        if self.tracked.get(&id).is_some_and(Tracked::builds_running) {
            self.stop_work_on(id).await?;
        }
        Ok(self.tracked.get_mut(&id))
    }

    /// The id of a collection that is migrated, or `None` for one that is not.
    fn known(&self, id: Option<Uuid>, namespace: &Namespace) -> Result<Option<Uuid>> {
        if id.is_none() && !self.selection.contains(namespace) {
            return Ok(None);
        }
        let id = required(id)?;
        if self.tracked.contains_key(&id) {
            Ok(Some(id))
        } else if self.selection.contains(namespace) && !self.ghosts.contains(&id) {
            Err(unexpected("it concerns a collection whose creation was never seen")
                .with_context("namespace", namespace))
        } else {
            Ok(None)
        }
    }

    fn report(&self, position: Position, description: String) {
        self.events.send(Event::CatalogChanged { position, description });
    }
}

/// An entry as it may stand in an error: where it belongs and what its fields are called, and none of the user's data in them.
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
