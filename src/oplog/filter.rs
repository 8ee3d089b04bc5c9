//! Leaves out what concerns no selected namespace.

use super::entry::{CommandOperation, Entry, Item};
use crate::model::Selection;

/// Filters the entries of one history, in order.
#[derive(Debug)]
pub(crate) struct Filter {
    selection: Selection,
    /// Whether the last entry was a part of a transaction that continues.
    in_parts: bool,
}

impl Filter {
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            in_parts: false,
        }
    }

    /// Removes the items of other namespaces, and the entries that have none left and no change of users. The last entry of a batch stays, so that whoever reads
    /// them learns how far the history has been read, and so does every part of a transaction, because its last part ends it.
    pub fn apply(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let mut left = entries.len();
        entries.retain_mut(|entry| {
            left -= 1;
            entry.items.retain(|item| concerns(item, &self.selection));
            let is_part = self.in_parts || entry.continues;
            self.in_parts = entry.continues;
            !entry.items.is_empty() || entry.users_changed || is_part || left == 0
        });
        entries
    }
}

fn concerns(item: &Item, selection: &Selection) -> bool {
    let command = match item {
        Item::Change(change) => return selection.contains(&change.namespace),
        Item::Command(command) => &command.operation,
    };
    match command {
        CommandOperation::DropDatabase { database } => selection.may_concern(database),
        CommandOperation::Unsupported { namespace, .. } => selection.may_concern(namespace),
        named => named.namespaces().any(|name| selection.contains(name)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bson::{DateTime, Uuid, rawdoc};

    use super::*;
    use crate::model::{Change, Operation, Position, Write};
    use crate::oplog::Command;
    use crate::order::Key;

    fn write(name: &str) -> Item {
        Item::Change(Change {
            position: Position::ZERO,
            collection: Uuid::from_bytes([0; 16]),
            namespace: Arc::new(name.parse().unwrap()),
            write: Write {
                key: Key::MIN,
                operation: Operation::Delete,
            },
        })
    }

    fn command(operation: CommandOperation) -> Item {
        Item::Command(Command {
            position: Position::ZERO,
            collection: None,
            operation,
            raw: rawdoc! {},
        })
    }

    fn entry(increment: u32, continues: bool, items: Vec<Item>) -> Entry {
        let position = Position {
            increment,
            ..Position::ZERO
        };
        Entry {
            position,
            resume: position,
            wall: DateTime::from_millis(0),
            items,
            bytes: 0,
            continues,
            users_changed: false,
        }
    }

    fn filter() -> Filter {
        let mut selection = Selection::all();
        selection.include("shop.*").unwrap();
        selection.exclude("shop.tmp*").unwrap();
        Filter::new(selection)
    }

    /// The number of items of each entry that is left, by its position.
    fn left(entries: Vec<Entry>) -> Vec<(u32, usize)> {
        entries
            .iter()
            .map(|entry| (entry.position.increment, entry.items.len()))
            .collect()
    }

    #[test]
    fn entries_of_other_namespaces_are_left_out_but_for_the_last() {
        let mut filter = filter();
        let entries = vec![
            entry(1, false, vec![write("other.a")]),
            entry(2, false, vec![write("shop.a"), write("shop.tmp1"), write("shop.b")]),
            entry(3, false, Vec::new()),
            entry(4, false, vec![write("shop.tmp1")]),
        ];
        assert_eq!(left(filter.apply(entries)), [(2, 2), (4, 0)]);
        assert_eq!(left(filter.apply(Vec::new())), []);
    }

    #[test]
    fn a_change_of_users_stays() {
        let mut filter = filter();
        let mut changed = entry(1, false, Vec::new());
        changed.users_changed = true;
        let entries = vec![changed, entry(2, false, Vec::new()), entry(3, false, Vec::new())];
        assert_eq!(left(filter.apply(entries)), [(1, 0), (3, 0)]);
    }

    #[test]
    fn a_transaction_in_parts_keeps_its_end() {
        let mut filter = filter();
        let first = vec![
            entry(1, true, vec![write("shop.a")]),
            entry(1, true, vec![write("other.a")]),
        ];
        assert_eq!(left(filter.apply(first)), [(1, 1), (1, 0)]);
        let rest = vec![
            entry(1, false, vec![write("other.a")]),
            entry(2, false, vec![write("other.a")]),
            entry(3, false, vec![write("shop.a")]),
        ];
        assert_eq!(left(filter.apply(rest)), [(1, 0), (3, 1)]);
    }

    #[test]
    fn commands_are_filtered_by_each_name_they_have() {
        let name = |name: &str| Arc::new(name.parse().unwrap());
        let rename = |from: &str, to: &str| CommandOperation::Rename {
            from: name(from),
            to: name(to),
            dropped: None,
        };
        let drop_database = |database: &str| CommandOperation::DropDatabase {
            database: database.to_owned(),
        };
        let unsupported = |namespace: &str| CommandOperation::Unsupported {
            namespace: namespace.to_owned(),
            reason: String::new(),
        };
        for (operation, expected) in [
            (
                CommandOperation::Drop {
                    namespace: name("shop.a"),
                },
                true,
            ),
            (
                CommandOperation::Drop {
                    namespace: name("shop.tmp"),
                },
                false,
            ),
            (rename("shop.tmp", "shop.a"), true),
            (rename("shop.a", "shop.tmp"), true),
            (rename("other.a", "shop.tmp"), false),
            (drop_database("shop"), true),
            (drop_database("other"), false),
            (unsupported("shop.a"), true),
            (unsupported("other.a"), false),
        ] {
            let item = command(operation);
            assert_eq!(concerns(&item, &filter().selection), expected, "{item}");
        }
    }
}
