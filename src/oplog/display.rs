//! Entries and changes as one line for people: names, `_id`s and the names of changed fields, and nothing else of a document.

use std::fmt::{self, Display, Formatter, Write as _};

use bson::{RawBsonRef, RawDocument};

use super::delta::{ChangedPaths, changed_paths};
use super::entry::{Command, CommandOperation, Entry, Item};
use crate::model::{Change, Operation, Write};
use crate::order::Key;

/// Maximum number of items of an entry, and of names in a list. A line stays readable.
const MOST: usize = 8;

/// Maximum length of an `_id` or name, in characters.
const LONGEST: usize = 100;

/// One line, such as `1700000000:3@1 update shop.orders 17 (set status; unset draft)`. It shows at most 8 items.
impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        if self.items.is_empty() {
            return f.write_str(" no change");
        }
        for (index, item) in self.items.iter().take(MOST).enumerate() {
            f.write_str(if index == 0 { " " } else { "; " })?;
            write!(f, "{item}")?;
        }
        match self.items.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(change) => change.fmt(f),
            Self::Command(command) => command.fmt(f),
        }
    }
}

/// The operation, the collection, the `_id`, and for a delta the names of the changed fields.
impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_change(f, Some(self.namespace.as_str()), &self.write)
    }
}

/// Same as for a [`Change`], without the collection.
impl Display for Write {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_change(f, None, self)
    }
}

/// The command and the names in it.
impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.operation {
            CommandOperation::Create { namespace, .. } => write!(f, "create {namespace}"),
            CommandOperation::CreateIndexes { namespace, indexes } => {
                write!(f, "createIndexes {namespace} (")?;
                write_list(f, indexes.iter().map(|index| index.get_str("name").unwrap_or("?")))?;
                f.write_char(')')
            }
            CommandOperation::DropIndex { namespace, name } => write!(f, "dropIndexes {namespace} ({})", short(name)),
            CommandOperation::DropIndexes { namespace, key } => {
                write!(f, "dropIndexes {namespace} (")?;
                match key {
                    Some(key) => write_list(f, names_of(key))?,
                    None => f.write_char('*')?,
                }
                f.write_char(')')
            }
            CommandOperation::Modify { namespace, arguments } => {
                write!(f, "collMod {namespace} (")?;
                write_list(f, names_of(arguments))?;
                f.write_char(')')
            }
            CommandOperation::Drop { namespace } => write!(f, "drop {namespace}"),
            CommandOperation::DropDatabase { database } => write!(f, "dropDatabase {database}"),
            CommandOperation::Rename { from, to, .. } => write!(f, "renameCollection {from} to {to}"),
            CommandOperation::SetView { namespace, .. } => write!(f, "create view {namespace}"),
            CommandOperation::ChangeView { namespace, .. } => write!(f, "collMod view {namespace}"),
            CommandOperation::DropView { namespace } => write!(f, "drop view {namespace}"),
            CommandOperation::Unsupported { namespace, reason } => write!(f, "unsupported {namespace}: {reason}"),
        }
    }
}

fn write_change(f: &mut Formatter<'_>, namespace: Option<&str>, write: &Write) -> fmt::Result {
    f.write_str(match &write.operation {
        Operation::Insert(_) => "insert ",
        Operation::Replace(_) => "replace ",
        Operation::Delta(_) => "update ",
        Operation::Delete => "delete ",
    })?;
    if let Some(namespace) = namespace {
        write!(f, "{namespace} ")?;
    }
    f.write_str(&short(&shown(&write.key)))?;
    let Operation::Delta(delta) = &write.operation else {
        return Ok(());
    };
    match changed_paths(delta) {
        Ok(changed) => write_paths(f, &changed),
        Err(_) => f.write_str(" (unreadable delta)"),
    }
}

fn write_paths(f: &mut Formatter<'_>, changed: &ChangedPaths) -> fmt::Result {
    let resized: Vec<String> = changed.resized.iter().map(|(path, _)| path.clone()).collect();
    let parts = [
        ("set", &changed.set),
        ("unset", &changed.unset),
        ("resize", &resized),
        ("splice", &changed.spliced),
    ];
    let mut opening = " (";
    for (what, paths) in parts.into_iter().filter(|(_, paths)| !paths.is_empty()) {
        write!(f, "{opening}{what} ")?;
        write_list(f, paths.iter().map(String::as_str))?;
        opening = "; ";
    }
    f.write_str(if changed.is_empty() { "" } else { ")" })
}

fn write_list<'a>(f: &mut Formatter<'_>, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    let mut names = names.enumerate();
    for (index, name) in names.by_ref().take(MOST) {
        f.write_str(if index == 0 { "" } else { ", " })?;
        f.write_str(&short(name))?;
    }
    match names.count() {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

fn names_of(document: &RawDocument) -> impl Iterator<Item = &str> {
    document
        .iter()
        .map_while(|field| field.ok())
        .map(|(name, _)| name.as_str())
}

/// An `_id`: extended JSON, except for the types that are written shorter without doubt.
fn shown(key: &Key) -> String {
    match key.to_bson_ref() {
        Ok(RawBsonRef::Int32(number)) => number.to_string(),
        Ok(RawBsonRef::Int64(number)) => number.to_string(),
        Ok(RawBsonRef::ObjectId(id)) => format!("ObjectId({id})"),
        _ => format!("{key:?}"),
    }
}

/// The beginning of a text, on one line.
fn short(text: &str) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let mut characters = text.chars().map(plain);
    let mut short: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bson::{DateTime, Uuid, rawdoc};

    use super::*;
    use crate::model::Position;

    fn change(id: &str, operation: Operation) -> Item {
        let document = rawdoc! { "_id": id };
        Item::Change(Change {
            position: Position::ZERO,
            collection: Uuid::from_bytes([0; 16]),
            namespace: Arc::new("shop.orders".parse().unwrap()),
            write: Write {
                key: Key::of_document(&document).unwrap(),
                operation,
            },
        })
    }

    fn entry(items: Vec<Item>) -> Entry {
        let position = Position {
            time: 7,
            increment: 3,
            term: 1,
        };
        Entry {
            position,
            resume: position,
            wall: DateTime::from_millis(0),
            items,
            bytes: 0,
            continues: false,
        }
    }

    #[test]
    fn a_line_names_the_change_and_shows_no_contents() {
        let delta = rawdoc! { "$v": 2, "diff": {
            "d": { "draft": false }, "u": { "name": "secret" }, "slist": { "a": true, "l": 2, "u0": "secret" },
        } };
        let document = rawdoc! { "_id": "a", "name": "secret" };
        let entry = entry(vec![
            change("a", Operation::Delta(delta)),
            change("b\n", Operation::Insert(document.clone())),
            change("c", Operation::Replace(document)),
            change("d", Operation::Delete),
            change("e", Operation::Delta(rawdoc! { "$v": 9, "secret": 1 })),
        ]);
        assert_eq!(
            entry.to_string(),
            r#"7:3@1 update shop.orders "a" (set name, list.0; unset draft; resize list); insert shop.orders "b\n"; "#
                .to_owned()
                + r#"replace shop.orders "c"; delete shop.orders "d"; update shop.orders "e" (unreadable delta)"#
        );
    }

    #[test]
    fn common_types_of_ids_are_short() {
        let id = bson::oid::ObjectId::from_bytes([7; 12]);
        for (document, expected) in [
            (rawdoc! { "_id": 17 }, "17"),
            (rawdoc! { "_id": 17_i64 }, "17"),
            (rawdoc! { "_id": id }, "ObjectId(070707070707070707070707)"),
            (rawdoc! { "_id": true }, "true"),
            (rawdoc! { "_id": 1.5 }, r#"{"$numberDouble":"1.5"}"#),
        ] {
            assert_eq!(shown(&Key::of_document(&document).unwrap()), expected);
        }
    }

    #[test]
    fn a_line_stays_short() {
        let many: Vec<Item> = (0..1000)
            .map(|_| change(&"x".repeat(1000), Operation::Delete))
            .collect();
        let line = entry(many).to_string();
        assert!(line.ends_with("; and 992 more") && line.len() < 1200, "{line}");
        let mut set = bson::RawDocumentBuf::new();
        for name in 'a'..='z' {
            set.append(bson::raw::CString::try_from(name.to_string()).unwrap(), 1);
        }
        let line = change("a", Operation::Delta(rawdoc! { "$v": 1, "$set": set })).to_string();
        assert_eq!(
            line,
            r#"update shop.orders "a" (set a, b, c, d, e, f, g, h and 18 more)"#
        );
        assert_eq!(entry(Vec::new()).to_string(), "7:3@1 no change");
    }

    #[test]
    fn a_command_is_shown_by_its_names() {
        let operation = CommandOperation::Modify {
            namespace: Arc::new("shop.orders".parse().unwrap()),
            arguments: rawdoc! { "validator": { "secret": 1 }, "validationLevel": "strict" },
        };
        let command = Command {
            position: Position::ZERO,
            collection: None,
            operation,
            raw: rawdoc! { "secret": 1 },
        };
        assert_eq!(command.to_string(), "collMod shop.orders (validator, validationLevel)");
    }
}
