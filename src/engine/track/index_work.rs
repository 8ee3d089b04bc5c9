//! Index builds on the target: their order, and their form until cutover.

use std::collections::VecDeque;
use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::catalog::expiry::held_back;
use crate::catalog::{is_id_index, name_of};
use crate::engine::track::collection::{CollectionProgress, IndexWork};
use crate::engine::track::ranges::RangeStatus;
use crate::model::Position;
use crate::report::IndexCounts;
use crate::runtime::index_builds::IndexJob;

impl CollectionProgress {
    /// Returns the next index to build, once every document is copied and every change up to the copy's positions is routed. Unique indexes
    /// come last: most changes in flight have arrived before them.
    pub fn next_index(&mut self, routed: Position) -> Option<IndexJob> {
        self.advance_index_work(routed);
        let IndexWork::Building {
            waiting,
            running,
            not_before,
        } = &mut self.index_work
        else {
            return None;
        };
        let next = waiting.front()?;
        let specification = self.indexes.iter().find(|index| name_of(index) == next)?;
        if routed < *not_before || (is_unique(specification) && !running.is_empty()) {
            return None;
        }
        let specification = held_back(specification);
        let name = waiting.pop_front()?;
        running.push(name.clone());
        Some(IndexJob {
            target: Arc::clone(&self.target),
            made: self.made,
            name,
            specification,
            anew: false,
        })
    }

    /// Advances to the next state if everything it requires is there.
    pub fn advance_index_work(&mut self, routed: Position) {
        if matches!(self.index_work, IndexWork::NotBegun) {
            self.ranges.join(routed);
            if !matches!(self.ranges.only(), Some(RangeStatus::Done(at)) if at <= routed) {
                return;
            }
            let mut waiting: Vec<_> = self.to_build().collect();
            waiting.sort_by_key(|index| is_unique(index));
            self.index_work = IndexWork::Building {
                waiting: waiting.iter().map(|index| name_of(index).to_owned()).collect(),
                running: Vec::new(),
                not_before: Position::ZERO,
            };
        }
        if matches!(&self.index_work, IndexWork::Building { waiting, running, .. } if waiting.is_empty() && running.is_empty())
        {
            self.index_work = IndexWork::Done;
        }
    }

    /// The indexes that the target is to have, except the one on `_id`.
    fn to_build(&self) -> impl Iterator<Item = &RawDocumentBuf> {
        let leaves_out = self.rule.leaves_indexes_out();
        self.indexes
            .iter()
            .filter(move |index| !is_id_index(index) && !leaves_out)
    }

    /// Whether the index with this name is being built.
    pub fn is_being_built(&self, name: &str) -> bool {
        matches!(&self.index_work, IndexWork::Building { running, .. } if running.iter().any(|running| running == name))
    }

    /// Puts builds in flight back into the queue. They were stopped and have to start again.
    pub fn put_back_builds(&mut self) {
        if let IndexWork::Building { waiting, running, .. } = &mut self.index_work {
            for name in running.drain(..).rev() {
                waiting.push_front(name);
            }
        }
    }

    /// Adds indexes to the collection's list, in place of those with the same name. They are built together with the others, or at once if
    /// these are done.
    pub fn add_indexes(&mut self, specifications: &[RawDocumentBuf]) {
        for specification in specifications {
            self.remove_index(name_of(specification));
            self.indexes.push(specification.clone());
            let name = name_of(specification).to_owned();
            if is_id_index(specification) || self.rule.leaves_indexes_out() {
                continue;
            }
            match &mut self.index_work {
                IndexWork::NotBegun => {}
                IndexWork::Building { waiting, .. } => waiting.push_back(name),
                IndexWork::Done => {
                    self.index_work = IndexWork::Building {
                        waiting: VecDeque::from([name]),
                        running: Vec::new(),
                        not_before: Position::ZERO,
                    };
                }
            }
        }
    }

    /// Records the end of a build. With a position, the index is built again once that position is routed.
    pub fn end_build(&mut self, name: &str, again: Option<Position>) {
        if let IndexWork::Building {
            waiting,
            running,
            not_before,
        } = &mut self.index_work
        {
            running.retain(|running| running != name);
            if let Some(position) = again {
                *not_before = position.max(*not_before);
                waiting.push_back(name.to_owned());
            }
        }
    }

    /// Whether the sink has the index, or the build was abandoned.
    pub fn is_built(&self, name: &str) -> bool {
        match &self.index_work {
            IndexWork::NotBegun => false,
            IndexWork::Building { waiting, running, .. } => {
                !waiting.iter().chain(running).any(|missing| missing == name)
            }
            IndexWork::Done => true,
        }
    }

    /// Returns how many indexes the sink has, builds, and is to have, not counting those on `_id`.
    pub fn index_counts(&self) -> IndexCounts {
        let total = self.to_build().count();
        let (missing, building) = match &self.index_work {
            IndexWork::NotBegun => (total, 0),
            IndexWork::Building { waiting, running, .. } => {
                (waiting.len() + running.len() + self.failed_indexes.len(), running.len())
            }
            IndexWork::Done => (self.failed_indexes.len(), 0),
        };
        IndexCounts {
            built: total.saturating_sub(missing) as u64,
            building: building as u64,
            failed: self.failed_indexes.len() as u64,
            total: total as u64,
        }
    }

    /// Removes an index from the collection's list.
    pub fn remove_index(&mut self, name: &str) {
        self.indexes.retain(|index| name_of(index) != name);
        self.failed_indexes.remove(name);
        if let IndexWork::Building { waiting, running, .. } = &mut self.index_work {
            waiting.retain(|waiting| waiting != name);
            running.retain(|running| running != name);
        }
    }
}

fn is_unique(specification: &RawDocument) -> bool {
    specification
        .get("unique")
        .ok()
        .flatten()
        .is_some_and(|value| value.as_bool() != Some(false))
}

#[cfg(test)]
mod tests {
    use bson::{Uuid, rawdoc};

    use super::*;
    use crate::catalog::expiry::TTL_DISABLED_SECONDS;
    use crate::engine::track::ranges::ChunkId;
    use crate::model::{Collection, CollectionKind};
    use crate::test_util::at;

    fn tracked() -> CollectionProgress {
        let namespace: crate::model::Namespace = "shop.orders".parse().unwrap();
        let collection = Collection {
            id: Uuid::new(),
            namespace: namespace.clone(),
            kind: CollectionKind::Plain,
            options: rawdoc! {},
            indexes: vec![
                rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
                rawdoc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true },
                rawdoc! { "v": 2, "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 60 },
            ],
            documents: 1,
            bytes: 100,
        };
        CollectionProgress::unread(&collection, namespace, Vec::new())
    }

    #[test]
    fn indexes_wait_for_the_copy_and_unique_ones_for_the_others() {
        let mut tracked = tracked();
        assert!(tracked.next_index(at(9)).is_none());
        tracked.ranges.take(ChunkId(1)).unwrap();
        tracked.ranges.finish(ChunkId(1), None, at(5), false);
        assert!(
            tracked.next_index(at(4)).is_none(),
            "a change before the snapshot has not been routed"
        );
        let first = tracked.next_index(at(5)).unwrap();
        assert_eq!(first.name, "t_1");
        assert_eq!(
            first.specification.get_i32("expireAfterSeconds").unwrap(),
            TTL_DISABLED_SECONDS
        );
        assert!(tracked.next_index(at(5)).is_none(), "the unique one waits");
        tracked.end_build("t_1", None);
        assert_eq!(tracked.next_index(at(5)).unwrap().name, "u_1");
        assert!(!tracked.is_indexed());
        tracked.end_build("u_1", Some(at(7)));
        assert!(!tracked.is_built("u_1"));
        assert!(tracked.next_index(at(6)).is_none(), "a document may still be newer");
        assert_eq!(tracked.next_index(at(7)).unwrap().name, "u_1");
        tracked.end_build("u_1", None);
        tracked.advance_index_work(at(7));
        assert!(tracked.is_indexed() && tracked.is_built("u_1"));
        tracked.add_indexes(&[rawdoc! { "v": 2, "key": { "w": 1 }, "name": "w_1" }]);
        assert!(!tracked.is_indexed());
        assert_eq!(tracked.next_index(at(7)).unwrap().name, "w_1");
    }
}
