//! Coalesces the writes of one batch, so a document changed ten times is written once.
//!
//! Does no I/O.

use std::collections::HashMap;

use crate::model::{Operation, Position, Write};
use crate::oplog::delta;
use crate::order::Key;

/// Coalesces writes of one collection, which are given in source order with their positions.
///
/// - A later whole document or delete replaces all earlier writes to that document.
/// - A delta on a whole document in the batch is applied in memory.
/// - Deltas on a document that is not in the batch are merged where that is exact. Otherwise they are kept one by one.
///
/// The writes of one document stay in order. Each keeps the position of the last change that is in it. With `by_id`, the writes of
/// different documents are sorted by `_id`.
pub(crate) fn coalesce(changes: impl Iterator<Item = (Position, Write)>, by_id: bool) -> (Vec<Position>, Vec<Write>) {
    let mut slots: Vec<Slot> = Vec::with_capacity(changes.size_hint().0);
    let mut last_of: HashMap<Key, usize> = HashMap::with_capacity(changes.size_hint().0);
    for (position, mut write) in changes {
        let mut earlier = None;
        if let Some(last) = last_of.get(&write.key).copied() {
            if slots.get_mut(last).is_some_and(|slot| slot.take_in(position, &write)) {
                continue;
            }
            earlier = Some(last);
        }
        if !matches!(write.operation, Operation::Delta(_)) {
            // The earlier writes are dropped, so the document may still exist on the sink. A replacement works in both cases.
            if let (Operation::Insert(document), Some(_)) = (&mut write.operation, earlier) {
                write.operation = Operation::Replace(std::mem::take(document));
            }
            while let Some(slot) = earlier.and_then(|index| slots.get_mut(index)) {
                slot.write = None;
                earlier = slot.earlier;
            }
        }
        match last_of.get_mut(&write.key) {
            Some(last) => *last = slots.len(),
            None => {
                last_of.insert(write.key.clone(), slots.len());
            }
        }
        slots.push(Slot {
            write: Some((position, write)),
            earlier,
        });
    }
    drop(last_of);
    let mut coalesced: Vec<(Position, Write)> = slots.into_iter().filter_map(|slot| slot.write).collect();
    if by_id {
        coalesced.sort_by(|(_, one), (_, other)| one.key.cmp(&other.key));
    }
    coalesced.into_iter().unzip()
}

/// A write, and the slot of the write before it on the same document. `write` is `None` once a later write has replaced it.
struct Slot {
    write: Option<(Position, Write)>,
    earlier: Option<usize>,
}

impl Slot {
    /// Merges a later delta into this write if that is exact. Returns `true` if it was merged.
    fn take_in(&mut self, at: Position, later: &Write) -> bool {
        let (Some((position, write)), Operation::Delta(change)) = (&mut self.write, &later.operation) else {
            return false;
        };
        let (before, after) = match &mut write.operation {
            Operation::Insert(document) | Operation::Replace(document) => {
                let changed = delta::apply(document, change).ok();
                (document, changed)
            }
            Operation::Delta(earlier) => {
                let merged = delta::merge(earlier, change).ok().flatten();
                (earlier, merged)
            }
            Operation::Delete => return false,
        };
        let Some(after) = after else { return false };
        (*before, *position) = (after, at);
        true
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};

    use super::*;
    use crate::test_util::at;

    fn write(id: i32, operation: Operation) -> Write {
        Write {
            key: Key::from(RawBsonRef::Int32(id)),
            operation,
        }
    }

    fn coalesced(writes: Vec<Write>) -> Vec<String> {
        fold_all(writes, false)
    }

    fn fold_all(writes: Vec<Write>, by_id: bool) -> Vec<String> {
        let changes = writes.into_iter().enumerate();
        let (positions, writes) = coalesce(changes.map(|(index, write)| (at(index as u32), write)), by_id);
        positions
            .iter()
            .zip(writes)
            .map(|(position, write)| format!("{} {:?}", position.time, write))
            .collect()
    }

    fn plain(position: u32, write: &Write) -> String {
        format!("{position} {write:?}")
    }

    #[test]
    fn a_later_whole_document_or_delete_wins() {
        let last = write(1, Operation::Delete);
        let other = write(2, Operation::Insert(rawdoc! { "_id": 2 }));
        assert_eq!(
            coalesced(vec![
                write(1, Operation::Insert(rawdoc! { "_id": 1, "a": 1 })),
                other.clone(),
                write(1, Operation::Delta(rawdoc! { "$v": 1, "$set": { "a": 2 } })),
                last.clone(),
            ]),
            [plain(1, &other), plain(3, &last)]
        );
    }

    #[test]
    fn a_delete_and_a_new_insert_become_a_replacement() {
        assert_eq!(
            coalesced(vec![
                write(1, Operation::Delete),
                write(1, Operation::Insert(rawdoc! { "_id": 1 }))
            ]),
            [plain(1, &write(1, Operation::Replace(rawdoc! { "_id": 1 })))]
        );
    }

    #[test]
    fn a_delta_is_applied_to_a_document_of_the_batch_and_else_kept() {
        let delta = write(1, Operation::Delta(rawdoc! { "$v": 1, "$set": { "a": 2 } }));
        assert_eq!(
            coalesced(vec![
                write(1, Operation::Insert(rawdoc! { "_id": 1, "a": 1 })),
                delta.clone()
            ]),
            [plain(1, &write(1, Operation::Insert(rawdoc! { "_id": 1, "a": 2 })))]
        );
        assert_eq!(
            coalesced(vec![delta.clone(), delta.clone()]),
            [plain(0, &delta), plain(1, &delta)]
        );
    }

    #[test]
    fn an_ambiguous_delta_on_a_document_of_the_batch_is_kept() {
        let image = write(1, Operation::Insert(rawdoc! { "_id": 1, "a": 1, "a": 2 }));
        let delta = write(1, Operation::Delta(rawdoc! { "$v": 2, "diff": { "u": { "a": 3 } } }));
        assert_eq!(
            coalesced(vec![image.clone(), delta.clone()]),
            [plain(0, &image), plain(1, &delta)]
        );
    }

    #[test]
    fn deltas_are_merged_where_exact_and_replaced_by_images() {
        let delta = |diff| write(1, Operation::Delta(rawdoc! { "$v": 2, "diff": diff }));
        let (update, again) = (delta(rawdoc! { "u": { "a": 1 } }), delta(rawdoc! { "u": { "a": 2 } }));
        let insert = delta(rawdoc! { "i": { "b": 1 } });
        assert_eq!(coalesced(vec![update.clone(), again.clone()]), [plain(1, &again)]);
        let one_by_one = vec![update, insert, again.clone(), again.clone()];
        assert_eq!(
            coalesced(one_by_one.clone()),
            [
                plain(0, &one_by_one[0]),
                plain(1, &one_by_one[1]),
                plain(3, &one_by_one[3])
            ]
        );
        let whole = write(1, Operation::Replace(rawdoc! { "_id": 1 }));
        assert_eq!(
            coalesced([one_by_one, vec![whole.clone()]].concat()),
            [plain(4, &whole)]
        );
    }

    #[test]
    fn writes_are_sorted_by_id_and_stay_in_order_for_each() {
        let delta = |id, value| write(id, Operation::Delta(rawdoc! { "$v": 1, "$set": { "a": value } }));
        let (first, second, other) = (delta(2, 1), delta(2, 2), write(1, Operation::Delete));
        assert_eq!(
            fold_all(vec![first.clone(), other.clone(), second.clone()], true),
            [plain(1, &other), plain(0, &first), plain(2, &second)]
        );
    }
}
