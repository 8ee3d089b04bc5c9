//! Decodes the oplog of servers from 2.6 to 4.0 into the same entries as that of newer servers.
//!
//! What the entries lack comes from [`LegacyIdentities`]: the identities of collections, creations that are not logged, and the drops of a
//! database's collections. What has no counterpart in newer oplogs is expressed by what has: `convertToCapped` is a drop and a rename of
//! another collection to the name, which has to be copied. A rename across databases is one rename. No transaction has several entries.

mod command;
mod identities;
#[cfg(test)]
mod tests;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{DateTime, rawdoc};

pub(crate) use self::identities::LegacyIdentities;
use crate::catalog::Series;
use crate::catalog::legacy::{id_index, index_as_created};
use crate::error::Result;
use crate::model::Position;
use crate::oplog::entry::{Command, CommandOperation, Entry, Item};
use crate::oplog::parse::{DEEPEST, Parser, VIEWS, is_skipped, unsupported};
use crate::oplog::raw_entry::{RawEntry, malformed};

/// First series that reads an update without `$v` like one with `$v: 1`.
const VERSIONED_ONLY: Series = [4, 0];

/// Turns raw oplog entries of one version, given in order, into steps of the history.
#[derive(Debug)]
pub(crate) struct LegacyDecoder {
    series: Series,
    parser: Parser,
}

/// Where the items of an entry go, and what they refer to.
struct Output<'a> {
    position: Position,
    identities: &'a mut LegacyIdentities,
    items: &'a mut Vec<Item>,
}

impl LegacyDecoder {
    /// Creates a decoder for the entries of servers of a series.
    pub fn new(series: Series) -> Self {
        Self {
            series,
            parser: Parser::with_unversioned_deltas(series < VERSIONED_ONLY),
        }
    }

    /// Decodes the next entry, and applies it to the identities.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) if the bytes are not what a server writes. As with newer servers, an entry that cannot be
    /// applied becomes a [`CommandOperation::Unsupported`].
    pub fn take(&mut self, raw: &RawDocument, identities: &mut LegacyIdentities) -> Result<Entry> {
        let entry = RawEntry::read(raw)?;
        let position = entry.position()?;
        let mut items = Vec::new();
        let mut output = Output {
            position,
            identities,
            items: &mut items,
        };
        self.items(&entry, &mut output, 0)?;
        Ok(Entry {
            position,
            resume: position,
            wall: entry
                .wall
                .unwrap_or_else(|| DateTime::from_millis(i64::from(position.time) * 1000)),
            items,
            bytes: raw.as_bytes().len(),
            continues: false,
        })
    }

    fn items(&mut self, entry: &RawEntry<'_>, output: &mut Output<'_>, depth: usize) -> Result<()> {
        if matches!(entry.op, "n" | "db") {
            return Ok(());
        }
        let Some((database, collection)) = entry.ns.split_once('.') else {
            return self.parser.items(entry, output.position, output.items);
        };
        match entry.op {
            "i" | "u" | "d" if is_skipped(database, collection) => Ok(()),
            "i" if collection == "system.indexes" => self.index(entry, output),
            "i" | "u" | "d" if is_of_server(collection) => Ok(()),
            "i" | "u" | "d" if collection == VIEWS => self.parser.items(entry, output.position, output.items),
            "i" | "u" | "d" => self.change(entry, output),
            "c" if entry.first_name() == "applyOps" => self.nested(entry, output, depth),
            "c" => self.command(entry, database, output),
            _ => self.parser.items(entry, output.position, output.items),
        }
    }

    /// The operations of a user's `applyOps` or of a transaction of 4.0.
    fn nested(&mut self, entry: &RawEntry<'_>, output: &mut Output<'_>, depth: usize) -> Result<()> {
        if depth == DEEPEST {
            let reason = "`applyOps` commands are nested too deep";
            return unsupported(entry, output.position, output.items, reason);
        }
        for operation in entry.o.get_array("applyOps").map_err(malformed)? {
            let Some(operation) = operation.map_err(malformed)?.as_document() else {
                let reason = "an `applyOps` element is not an operation";
                return unsupported(entry, output.position, output.items, reason);
            };
            self.items(&RawEntry::read(operation)?, output, depth + 1)?;
        }
        Ok(())
    }

    /// A write to one document.
    fn change(&mut self, entry: &RawEntry<'_>, output: &mut Output<'_>) -> Result<()> {
        // Servers before 3.2 wrote such entries for updates without effect.
        if entry.op != "i" && entry.o.is_empty() {
            return Ok(());
        }
        let Ok(namespace) = self.parser.namespaces.get(entry.ns) else {
            return self.parser.items(entry, output.position, output.items);
        };
        if entry.op == "i" {
            self.begin_unlogged(entry.ns, output)?;
        }
        let id = output.identities.existing(&namespace, entry.ui);
        let completed = replacement_without_id(entry)?;
        let entry = RawEntry {
            ui: Some(id),
            o: completed.as_deref().unwrap_or(entry.o),
            ..*entry
        };
        self.parser.items(&entry, output.position, output.items)
    }

    /// An index, which servers before 3.6 log as an insert of the specification that the user sent.
    fn index(&mut self, entry: &RawEntry<'_>, output: &mut Output<'_>) -> Result<()> {
        let name = entry.o.get_str("ns").unwrap_or_default();
        let Some((database, collection)) = name.split_once('.') else {
            return unsupported(entry, output.position, output.items, "it does not name its collection");
        };
        if is_skipped(database, collection) || is_of_server(collection) {
            return Ok(());
        }
        let Ok(namespace) = self.parser.namespaces.get(name) else {
            return unsupported(entry, output.position, output.items, "it does not name a collection");
        };
        self.begin_unlogged(name, output)?;
        let id = output.identities.existing(&namespace, entry.ui);
        output.items.push(Item::Command(Command {
            position: output.position,
            collection: Some(id),
            operation: CommandOperation::CreateIndexes {
                namespace,
                indexes: vec![index_as_created(self.series, entry.o)],
            },
            raw: entry.o.to_owned(),
        }));
        Ok(())
    }

    /// Appends the creation of a collection that has none of its own in the oplog, unless the collection exists.
    fn begin_unlogged(&mut self, name: &str, output: &mut Output<'_>) -> Result<()> {
        let namespace = self.parser.namespaces.get(name)?;
        if let Some(id) = output.identities.begin_unlogged(&namespace, output.position) {
            output.items.push(Item::Command(Command {
                position: output.position,
                collection: Some(id),
                raw: rawdoc! { "create": namespace.collection() },
                operation: CommandOperation::Create {
                    namespace,
                    options: RawDocumentBuf::new(),
                    id_index: Some(id_index()),
                },
            }));
        }
        Ok(())
    }
}

/// Whether a collection is one of the server's own in every database.
fn is_of_server(collection: &str) -> bool {
    matches!(collection, "system.indexes" | "system.namespaces" | "system.users")
}

/// The replacement that a user's `applyOps` gave without its `_id`, with that `_id` in the first place, where the server stores it.
fn replacement_without_id(entry: &RawEntry<'_>) -> Result<Option<RawDocumentBuf>> {
    let is_replacement =
        entry.op == "u" && !entry.first_name().starts_with('$') && entry.o.get("_id").map_err(malformed)?.is_none();
    let Some(id) = entry.o2.filter(|_| is_replacement) else {
        return Ok(None);
    };
    let Some(id) = id.get("_id").map_err(malformed)? else {
        return Ok(None);
    };
    let mut completed = rawdoc! { "_id": id };
    for element in entry.o {
        let (name, value) = element.map_err(malformed)?;
        completed.append(name, value);
    }
    Ok(Some(completed))
}
