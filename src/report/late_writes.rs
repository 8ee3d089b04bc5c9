//! Writes that arrive on the source after its writers were to have stopped.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, ErrorKind};
use crate::model::{Namespace, Position};

/// So many writes are named; all are counted.
const MOST_NAMED: usize = 20;

/// So many characters of an `_id` are shown, which can be as large as a document.
const ID_SHOWN: usize = 200;

/// Writes to the source after the position at which its writers were to have stopped.
///
/// Only the migrated namespaces count. A delete in a collection whose documents expire does not: the source goes on expiring them, and
/// its history does not tell such a delete from one of an application. It is carried over like any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateWrites {
    /// How many there were.
    pub count: u64,
    /// The first 20 of them.
    pub named: Vec<LateWrite>,
}

/// A write to the source after the position at which its writers were to have stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateWrite {
    /// Where in the source's history.
    pub position: Position,
    /// The collection's name on the source.
    pub namespace: Namespace,
    /// The document's `_id` in extended JSON, shortened when it is long; `None` for a change to the catalogue.
    pub id: Option<String>,
}

impl LateWrites {
    /// `accepted` says that the host accepts such writes, and that there is no end to them.
    pub(crate) fn to_error(&self, accepted: bool) -> Error {
        let (again, or_accept) = match accepted {
            true => (" again and again", ""),
            false => ("", ", or accept such writes"),
        };
        Error::new(
            ErrorKind::WritesAfterStop,
            "cut over",
            format!(
                "the source was written to{again} after the writers had been stopped: {self}; the run goes on following: stop what still \
                 writes, and cut over again{or_accept}"
            ),
        )
    }
}

/// Their number, and the first of them.
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
                None => f.write_str(" (its catalogue)")?,
            }
            separator = ", ";
        }
        f.write_str(if self.count > 3 { ", and others" } else { "" })
    }
}

/// What a cutover and the router share: the cutover begins to watch and ends it, the router notes what it meets meanwhile. A run that goes
/// back to its checkpoint meets the same writes again, which are counted once.
#[derive(Debug, Default)]
pub(crate) struct LateWatch {
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What comes after it has not been counted yet.
    counted: Position,
    writes: LateWrites,
    /// The last of them in each collection.
    last: HashMap<Namespace, Position>,
    /// The last change to the catalogue.
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

    /// Notes the writes of one entry, which `continues` with the next one where it is a part of a transaction.
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

    /// Whether a collection may have been written to after a position, as far as such writes count. After a change to the catalogue nothing is
    /// known of any.
    pub fn may_have_changed(&self, namespace: &Namespace, after: Position) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.last.get(namespace).copied().max(state.last_of_catalog);
        last.is_some_and(|last| last > after)
    }

    /// What was found since the watch began.
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
