//! Catalog changes of the in-memory source, logged as a server logs them.

use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Uuid, rawdoc};

use super::state::{State, refused};
use crate::catalog::kind::kind_of;
use crate::error::Result;
use crate::model::{CollectionKind, Namespace, Position};
use crate::oplog::{Command, CommandOperation, Item};
use crate::test_util::{merge_fields, modified_options, modify_index};

impl State {
    pub(super) fn create(&mut self, namespace: &Namespace, options: RawDocumentBuf) -> Result<Position> {
        if self.live(namespace).is_some() || self.views.contains_key(namespace) {
            return Err(refused("create a collection", namespace, "it exists already"));
        }
        let kind = kind_of(namespace, &options);
        let shared = Arc::new(namespace.clone());
        if kind == CollectionKind::View {
            self.views.insert(namespace.clone(), options.clone());
            let raw = rawdoc! { "_id": namespace.as_str() };
            return Ok(self.command(
                None,
                CommandOperation::SetView {
                    namespace: shared,
                    options,
                },
                raw,
            ));
        }
        let id_index = (kind != CollectionKind::Clustered && kind != CollectionKind::TimeSeriesBuckets)
            .then(|| rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" });
        let position = self.next_position();
        let id = self.add_table(position, namespace.clone(), kind, options.clone());
        if let Some(table) = self.tables.last_mut() {
            table.indexes.extend(id_index.clone());
        }
        Ok(self.command(
            Some(id),
            CommandOperation::Create {
                namespace: shared,
                options,
                id_index,
            },
            rawdoc! { "create": namespace.collection() },
        ))
    }

    pub(super) fn create_index(&mut self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<Position> {
        let index = self.collection("create an index", namespace)?;
        let name = index_name(&specification);
        let table = &mut self.tables[index];
        if name.is_none() || table.indexes.iter().any(|known| index_name(known) == name) {
            return Err(refused(
                "create an index",
                namespace,
                "it has no name or its name is taken",
            ));
        }
        table.indexes.push(specification.clone());
        let id = table.id;
        Ok(self.command(
            Some(id),
            CommandOperation::CreateIndexes {
                namespace: Arc::new(namespace.clone()),
                indexes: vec![specification],
            },
            rawdoc! { "createIndexes": namespace.collection() },
        ))
    }

    pub(super) fn drop_index(&mut self, namespace: &Namespace, name: &str) -> Result<Position> {
        let index = self.collection("drop an index", namespace)?;
        let table = &mut self.tables[index];
        let Some(at) = table.indexes.iter().position(|known| index_name(known) == Some(name)) else {
            return Err(refused("drop an index", namespace, "there is no such index"));
        };
        table.indexes.remove(at);
        let id = table.id;
        Ok(self.command(
            Some(id),
            CommandOperation::DropIndex {
                namespace: Arc::new(namespace.clone()),
                name: name.to_owned(),
            },
            rawdoc! { "dropIndexes": namespace.collection(), "index": name },
        ))
    }

    pub(super) fn modify(&mut self, namespace: &Namespace, arguments: RawDocumentBuf) -> Result<Position> {
        if let Some(options) = self.views.get_mut(namespace) {
            *options = merge_fields(options, &arguments);
            let operation = CommandOperation::SetView {
                namespace: Arc::new(namespace.clone()),
                options: options.clone(),
            };
            return Ok(self.command(None, operation, arguments));
        }
        let index = self.collection("modify a collection", namespace)?;
        let table = &mut self.tables[index];
        if !modify_index(&mut table.indexes, &arguments) {
            return Err(refused("modify a collection", namespace, "there is no such index"));
        }
        table.options = modified_options(&table.options, &arguments);
        let id = table.id;
        let operation = CommandOperation::Modify {
            namespace: Arc::new(namespace.clone()),
            arguments: arguments.clone(),
        };
        Ok(self.command(Some(id), operation, arguments))
    }

    pub(super) fn drop(&mut self, namespace: &Namespace) -> Result<Position> {
        let shared = Arc::new(namespace.clone());
        let raw = rawdoc! { "drop": namespace.collection() };
        if self.views.remove(namespace).is_some() {
            return Ok(self.command(None, CommandOperation::DropView { namespace: shared }, raw));
        }
        let index = self.collection("drop a collection", namespace)?;
        let position = self.next_position();
        let table = &mut self.tables[index];
        table.set_name(position, None);
        let id = table.id;
        Ok(self.command(Some(id), CommandOperation::Drop { namespace: shared }, raw))
    }

    /// Drops each collection with a separate entry, then the database.
    pub(super) fn drop_database(&mut self, database: &str) -> Result<Position> {
        let names: Vec<_> = self
            .tables
            .iter()
            .filter_map(|table| table.name())
            .chain(self.views.keys())
            .filter(|name| name.database() == database)
            .cloned()
            .collect();
        for name in names {
            self.drop(&name)?;
        }
        let database = database.to_owned();
        Ok(self.command(
            None,
            CommandOperation::DropDatabase { database },
            rawdoc! { "dropDatabase": 1 },
        ))
    }

    /// Renames a collection. A collection that already has the new name is dropped in the same step.
    pub(super) fn rename(&mut self, from: &Namespace, to: &Namespace) -> Result<Position> {
        let index = self.collection("rename a collection", from)?;
        if from == to || self.views.contains_key(to) {
            return Err(refused("rename a collection", to, "the new name is taken"));
        }
        let position = self.next_position();
        let replaced = self.live(to);
        let dropped = replaced.map(|replaced| {
            self.tables[replaced].set_name(position, None);
            self.tables[replaced].id
        });
        let table = &mut self.tables[index];
        table.set_name(position, Some(to.clone()));
        let id = table.id;
        Ok(self.command(
            Some(id),
            CommandOperation::Rename {
                from: Arc::new(from.clone()),
                to: Arc::new(to.clone()),
                dropped,
            },
            rawdoc! { "renameCollection": from.as_str(), "to": to.as_str() },
        ))
    }

    /// Appends an entry with the command at the next position, and returns that position.
    pub(super) fn command(
        &mut self,
        collection: Option<Uuid>,
        operation: CommandOperation,
        raw: RawDocumentBuf,
    ) -> Position {
        let position = self.next_position();
        let item = Item::Command(Command {
            position,
            collection,
            operation,
            raw,
        });
        self.record(position, vec![item]);
        position
    }

    fn collection(&self, operation: &'static str, namespace: &Namespace) -> Result<usize> {
        self.live(namespace)
            .ok_or_else(|| refused(operation, namespace, "there is no such collection"))
    }
}

fn index_name(specification: &RawDocument) -> Option<&str> {
    specification.get_str("name").ok()
}
