//! Sends many documents or statements in few commands.

use std::ops::Range;

use bson::raw::RawDocumentBuf;

use super::connection::{TargetConnection, WriteError};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::model::raw::writer::{IndexNames, RawWriter};
use crate::mongo::client;

/// The server's limit for one command.
const MOST_ITEMS: usize = 100_000;

/// Target size of a command in bytes. Commands of a few MB work best. A single document may be larger, up to the server's 16 MB.
const COMMAND_BYTES: usize = 8 * 1024 * 1024;

/// Maximum size of an array in a command, in bytes. The rest of the command fits below the server's limit, 16 MB plus 16 KB.
pub(super) const MOST_ARRAY_BYTES: usize = 16 * 1024 * 1024;

/// Overhead of an item in bytes: type, name and framing.
const ITEM_BYTES: usize = 64;

/// The three write commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Insert,
    Update,
    Delete,
}

impl Verb {
    fn command(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    fn array(self) -> &'static str {
        match self {
            Self::Insert => "documents",
            Self::Update => "updates",
            Self::Delete => "deletes",
        }
    }
}

/// Writes to one collection that are sent together.
pub(super) trait Items {
    fn verb(&self) -> Verb;

    /// Whether the items after a failed one must not be executed.
    fn is_ordered(&self) -> bool {
        false
    }

    fn count(&self) -> usize;

    /// Approximate size of the item in a command, in bytes.
    fn size(&self, item: usize) -> usize;

    /// Appends the item to the command's array, under `name`.
    fn write(&self, item: usize, name: &str, command: &mut RawWriter);

    /// All items as the bytes of an array, if available.
    fn whole(&self) -> Option<&[u8]> {
        None
    }
}

/// Result of sending items.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Items that failed, by index.
    pub errors: Vec<WriteError>,
    /// Commands in which some item matched no document.
    pub short: Vec<Range<usize>>,
    /// Where an ordered run has stopped. The items from this index on were not executed.
    pub stopped: Option<usize>,
}

/// Sends items in as few commands as possible. If the server refuses a command as a whole because of one item, the command is split in
/// halves until that item is found.
///
/// # Errors
/// Any error that concerns more than the items, such as a connection error or a missing privilege.
pub(super) async fn send(
    target: &TargetConnection,
    operation: &'static str,
    namespace: &Namespace,
    items: &impl Items,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut pending = cut(items);
    // `pop` takes the next range from the end.
    pending.reverse();
    while let Some(range) = pending.pop() {
        let body = || body(namespace, items, range.clone());
        match target.write(operation, namespace.database(), body).await {
            Ok(reply) => {
                let failed = reply.errors.len();
                let first = reply.errors.first().map(|error| range.start + error.index);
                if reply.count + (failed as u64) < range.len() as u64 {
                    outcome.short.push(range.clone());
                }
                outcome.errors.extend(reply.errors.into_iter().map(|error| WriteError {
                    index: range.start + error.index,
                    ..error
                }));
                if let Some(first) = first.filter(|_| items.is_ordered()) {
                    outcome.stopped = Some(first + 1);
                    return Ok(outcome);
                }
            }
            Err(error) if concerns_content(&error) && range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                pending.push(middle..range.end);
                pending.push(range.start..middle);
            }
            Err(error) if concerns_content(&error) => {
                outcome.errors.push(WriteError {
                    index: range.start,
                    code: client::code(&error).unwrap_or_default(),
                    message: client::answer(&error),
                    on_id: false,
                });
                if items.is_ordered() {
                    outcome.stopped = Some(range.end);
                    return Ok(outcome);
                }
            }
            Err(error) => return Err(error.with_context("namespace", namespace)),
        }
    }
    Ok(outcome)
}

/// Whether the server refused a command for the content of one of its items. The driver cannot decode an answer that quotes a key that is
/// not UTF-8, which also means such an item.
fn concerns_content(error: &Error) -> bool {
    error.kind() == ErrorKind::Server
        && matches!(
            client::code(error),
            // BadValue, FailedToParse, Overflow, InvalidBSON, DollarPrefixedFieldName and related codes, BSONObjectTooLarge, an object of
            // an invalid size.
            None | Some(2 | 9 | 15 | 22 | 51 | 52 | 53 | 54 | 55 | 56 | 57 | 10334 | 17419 | 17420)
        )
}

/// Splits the items into ranges, one for each command.
fn cut(items: &impl Items) -> Vec<Range<usize>> {
    let count = items.count();
    if count <= MOST_ITEMS && items.whole().is_some_and(|whole| whole.len() <= MOST_ARRAY_BYTES) {
        return std::iter::once(0..count).filter(|range| !range.is_empty()).collect();
    }
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for item in 0..count {
        let size = items.size(item) + ITEM_BYTES;
        if item > start && (bytes + size > COMMAND_BYTES || item - start == MOST_ITEMS) {
            ranges.push(start..item);
            (start, bytes) = (item, 0);
        }
        bytes += size;
    }
    if start < count {
        ranges.push(start..count);
    }
    ranges
}

fn body(namespace: &Namespace, items: &impl Items, range: Range<usize>) -> RawDocumentBuf {
    let verb = items.verb();
    let whole = items.whole().filter(|_| range == (0..items.count()));
    let bytes = match whole {
        Some(whole) => whole.len(),
        None => range.clone().map(|item| items.size(item) + ITEM_BYTES).sum(),
    };
    let mut command = RawWriter::with_capacity(bytes + 256);
    command.string(verb.command(), namespace.collection());
    command.boolean("ordered", items.is_ordered());
    if verb != Verb::Delete {
        command.boolean("bypassDocumentValidation", true);
    }
    command.open_document("writeConcern").int32("w", 1).close();
    match whole {
        Some(whole) => {
            command.array(verb.array(), whole);
        }
        None => {
            command.open_array(verb.array());
            let mut names = IndexNames::default();
            for item in range {
                items.write(item, names.next(), &mut command);
            }
            command.close();
        }
    }
    command.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sizes(Vec<usize>);

    impl Items for Sizes {
        fn verb(&self) -> Verb {
            Verb::Insert
        }

        fn count(&self) -> usize {
            self.0.len()
        }

        fn size(&self, item: usize) -> usize {
            self.0[item]
        }

        fn write(&self, item: usize, name: &str, command: &mut RawWriter) {
            command.int64(name, item as i64);
        }
    }

    #[test]
    fn items_are_cut_into_commands_by_bytes_and_by_number() {
        const MB: usize = 1024 * 1024;
        #[expect(clippy::single_range_in_vec_init, reason = "one command is one range")]
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![10], vec![0..1]),
            (vec![5 * MB, 2 * MB, 2 * MB, 16 * MB, 1], vec![0..2, 2..3, 3..4, 4..5]),
            (vec![1; 100_001], vec![0..100_000, 100_000..100_001]),
        ] {
            assert_eq!(cut(&Sizes(sizes)), expected);
        }
    }

    #[test]
    fn a_command_names_its_items_from_zero() {
        let body = body(&Namespace::new("d", "c"), &Sizes(vec![1; 5]), 3..5);
        let expected = bson::rawdoc! {
            "insert": "c", "ordered": false, "bypassDocumentValidation": true, "writeConcern": { "w": 1 },
            "documents": [3_i64, 4_i64],
        };
        assert_eq!(body, expected);
    }
}
