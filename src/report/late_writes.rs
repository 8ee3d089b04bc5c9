//! Late writes: writes to the source after its writers were to have stopped.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::model::{Namespace, Position, format};

/// Maximum number of writes listed individually. All of them are counted.
const MOST_NAMED: usize = 20;

/// Maximum number of characters shown of an `_id`, which can be as large as a document.
const ID_SHOWN: usize = 200;

/// Writes to the source after the position at which its writers were to have stopped.
///
/// Only writes to migrated namespaces count. A delete in a collection whose documents expire does not count: the source keeps expiring
/// documents, and its oplog does not distinguish such a delete from one of an application. It is applied like any other change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LateWrites {
    /// Number of writes.
    pub count: u64,
    /// The first 20 writes.
    pub named: Vec<LateWrite>,
}

/// A write to the source after the position at which its writers were to have stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LateWrite {
    /// Position in the source's oplog.
    pub position: Position,
    /// The collection's name on the source.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// The document's `_id` in extended JSON, shortened if it is long; `None` for a change to the catalog.
    pub id: Option<String>,
}

impl LateWrites {
    /// Converts the writes to an error. If `accepted` is set, the host accepts such writes, and the error says that they do not end.
    pub(crate) fn to_error(&self, accepted: bool) -> Error {
        let (again, or_accept) = match accepted {
            true => (" again and again", ""),
            false => ("", ", or accept such writes"),
        };
        Error::new(
            ErrorKind::WritesAfterStop,
            "cut over",
            format!(
                "the source was written to{again} after its writers were stopped: {self}; the run keeps following the source: stop what \
                 still writes, and cut over again{or_accept}"
            ),
        )
    }
}

/// Shows the number of writes, and the first of them.
impl fmt::Display for LateWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("1 write")?,
            count => write!(f, "{count} writes")?,
        }
        let mut separator = ": ";
        for write in self.named.iter().take(3) {
            write!(f, "{separator}{}", write.namespace)?;
            match &write.id {
                Some(id) => write!(f, " _id {id}")?,
                None => f.write_str(" (its catalog)")?,
            }
            separator = ", ";
        }
        f.write_str(if self.count > 3 { ", and others" } else { "" })
    }
}

/// State shared by a cutover and the router. The cutover starts and ends the watch, and the router records the writes that it meets in
/// between. A run that goes back to its checkpoint meets the same writes again; they are counted only once.
#[derive(Debug, Default)]
pub(crate) struct LateWatch {
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Writes after this position are not counted yet.
    counted: Position,
    writes: LateWrites,
    /// Position of the last write in each collection.
    last: HashMap<Namespace, Position>,
    /// Position of the last change to the catalog.
    last_of_catalog: Option<Position>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            counted: Position::ZERO,
            writes: LateWrites::default(),
            last: HashMap::new(),
            last_of_catalog: None,
        }
    }
}

impl LateWatch {
    /// Watches for writes after `stopped`.
    pub fn begin(&self, stopped: Position) {
        let state = State {
            counted: stopped,
            ..State::default()
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.on.store(true, Relaxed);
    }

    pub fn end(&self) {
        self.on.store(false, Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Records the writes of one oplog entry. If `continues` is set, the entry is part of a transaction that the next entry continues.
    pub fn note<'a>(
        &self,
        position: Position,
        continues: bool,
        writes: impl Iterator<Item = (&'a Namespace, Option<&'a dyn fmt::Debug>)>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if position <= state.counted {
            return;
        }
        if !continues {
            state.counted = position;
        }
        for (namespace, id) in writes {
            state.writes.count += 1;
            match id {
                Some(_) => match state.last.get_mut(namespace) {
                    Some(last) => *last = position,
                    None => drop(state.last.insert(namespace.clone(), position)),
                },
                None => state.last_of_catalog = Some(position),
            }
            if state.writes.named.len() < MOST_NAMED {
                state.writes.named.push(LateWrite {
                    position,
                    namespace: namespace.clone(),
                    id: id.map(shown),
                });
            }
        }
    }

    /// Whether a collection may have late writes after a position. After a change to the catalog this is `true` for every collection.
    pub fn may_have_changed(&self, namespace: &Namespace, after: Position) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.last.get(namespace).copied().max(state.last_of_catalog);
        last.is_some_and(|last| last > after)
    }

    /// Returns the writes found since the watch began.
    pub fn found(&self) -> LateWrites {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).writes.clone()
    }
}

fn shown(id: &dyn fmt::Debug) -> String {
    let text = format!("{id:?}");
    match text.char_indices().nth(ID_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::at;

    #[test]
    fn each_is_counted_once_and_the_first_are_named() {
        let watch = LateWatch::default();
        let namespace = Namespace::new("shop", "orders");
        let note = |time: u32, ids: &[u32]| {
            let writes = ids.iter().map(|id| (&namespace, Some(id as &dyn fmt::Debug)));
            watch.note(at(time), false, writes);
        };
        watch.begin(at(5));
        note(5, &[1]);
        assert_eq!(watch.found(), LateWrites::default(), "it is not after the position");
        note(6, &[2, 3]);
        note(6, &[2, 3]);
        assert_eq!(
            watch.found().to_string(),
            "2 writes: shop.orders _id 2, shop.orders _id 3"
        );
        for time in 7..40 {
            note(time, &[time]);
        }
        let found = watch.found();
        assert_eq!((found.count, found.named.len()), (35, MOST_NAMED));
        assert!(found.to_string().ends_with("shop.orders _id 7, and others"), "{found}");
        watch.begin(at(50));
        assert_eq!(watch.found(), LateWrites::default());
    }

    #[test]
    fn all_parts_of_a_transaction_count() {
        let watch = LateWatch::default();
        let namespace = Namespace::new("shop", "orders");
        watch.begin(at(5));
        for (continues, ids) in [(true, &[][..]), (true, &[1]), (false, &[2]), (false, &[3])] {
            let writes = ids.iter().map(|id| (&namespace, Some(id as &dyn fmt::Debug)));
            watch.note(at(6), continues, writes);
        }
        assert_eq!(watch.found().count, 2, "the last comes again");
    }

    #[test]
    fn a_long_id_is_shortened() {
        let id = "ü".repeat(1000);
        let text = shown(&id);
        assert_eq!(text.chars().count(), ID_SHOWN + 1);
    }
}
