//! Entries of servers from 2.6 to 4.0: captured ones, and ones made by hand for what was not captured.

mod captured;
mod commands;
mod documentation;
mod identities;
mod writes;

use std::collections::HashMap;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, Timestamp, Uuid, doc};

use super::*;
use crate::model::{Namespace, Operation};

const SET: &str = "the set";

const V2_6: Series = [2, 6];
const V3_0: Series = [3, 0];
const V3_2: Series = [3, 2];
const V3_4: Series = [3, 4];
const V3_6: Series = [3, 6];
const V4_0: Series = [4, 0];

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

fn decoded(raw: &RawDocument) -> Document {
    Document::try_from(raw).unwrap()
}

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

/// A decoder, with what it has learned.
struct Bench {
    decoder: LegacyDecoder,
    identities: LegacyIdentities,
    increment: u32,
    /// The ids seen, with a short name each.
    ids: HashMap<Uuid, String>,
}

impl Bench {
    fn new(series: Series) -> Self {
        Self::with(series, LegacyIdentities::new(SET, series))
    }

    fn with(series: Series, identities: LegacyIdentities) -> Self {
        Self {
            decoder: LegacyDecoder::new(series),
            identities,
            increment: 0,
            ids: HashMap::new(),
        }
    }

    /// The items of the next entry, as text.
    fn take(&mut self, fields: Document) -> Vec<String> {
        self.increment += 1;
        let time = Timestamp {
            time: 100,
            increment: self.increment,
        };
        let mut entry = doc! { "ts": time, "h": 7_i64, "v": 2 };
        entry.extend(fields);
        self.take_raw(&raw(&entry))
    }

    fn take_raw(&mut self, entry: &RawDocument) -> Vec<String> {
        let entry = self.decoder.take(entry, &mut self.identities).unwrap();
        assert_eq!(entry.resume, entry.position);
        assert!(!entry.continues);
        entry.items.iter().map(|item| self.text(item)).collect()
    }

    fn text(&mut self, item: &Item) -> String {
        match item {
            Item::Change(change) => {
                let id = self.name_of(Some(change.collection));
                let (name, key) = (&change.namespace, change.write.key.to_bson_ref().unwrap());
                match &change.write.operation {
                    Operation::Insert(document) => format!("insert {name} {id} {}", decoded(document)),
                    Operation::Replace(document) => format!("replace {name} {id} {}", decoded(document)),
                    Operation::Delta(delta) => format!("delta {name} {id} {key:?} {}", decoded(delta)),
                    Operation::Delete => format!("delete {name} {id} {key:?}"),
                }
            }
            Item::Command(command) => {
                let id = self.name_of(command.collection);
                self.command(&id, &command.operation)
            }
        }
    }

    fn command(&mut self, id: &str, operation: &CommandOperation) -> String {
        use CommandOperation as Op;
        match operation {
            Op::Create {
                namespace,
                options,
                id_index,
            } => {
                let index = id_index.as_deref().map_or("none".to_owned(), |index| {
                    format!("v{}", decoded(index).get("v").unwrap())
                });
                format!("create {namespace} {id} {} _id {index}", decoded(options))
            }
            Op::CreateIndexes { namespace, indexes } => {
                let indexes: Vec<String> = indexes.iter().map(|index| decoded(index).to_string()).collect();
                format!("index {namespace} {id} {}", indexes.join(", "))
            }
            Op::DropIndex { namespace, name } => format!("drop index {namespace} {id} {name}"),
            Op::DropIndexes { namespace, key } => {
                let key = key.as_deref().map_or("*".to_owned(), |key| decoded(key).to_string());
                format!("drop indexes {namespace} {id} {key}")
            }
            Op::Modify { namespace, arguments } => format!("modify {namespace} {id} {}", decoded(arguments)),
            Op::Drop { namespace } => format!("drop {namespace} {id}"),
            Op::DropDatabase { database } => format!("drop database {database}"),
            Op::Rename { from, to, dropped } => {
                let dropped = dropped.map_or_else(String::new, |dropped| {
                    format!(" in place of {}", self.name_of(Some(dropped)))
                });
                format!("rename {from} {to} {id}{dropped}")
            }
            Op::SetView { namespace, options } => format!("view {namespace} {}", decoded(options)),
            Op::ChangeView { namespace, delta } => format!("change view {namespace} {}", decoded(delta)),
            Op::DropView { namespace } => format!("drop view {namespace}"),
            Op::Unsupported { namespace, reason } => format!("unsupported {namespace}: {reason}"),
        }
    }

    /// A short name for an id: `#1` for the first that was seen.
    fn name_of(&mut self, id: Option<Uuid>) -> String {
        let Some(id) = id else { return "-".to_owned() };
        let next = format!("#{}", self.ids.len() + 1);
        self.ids.entry(id).or_insert(next).clone()
    }
}
