//! The states of all collections, shared between successive checkpoints.
//!
//! A run can have tens of thousands of collections, of which only a few change between two checkpoints. A checkpoint that waits to be saved
//! therefore shares the states of all other collections with the checkpoints before and after it. Each state is encoded once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use bson::Uuid;
use bson::raw::{RawDocumentBuf, cstr};

use super::{Checkpoint, CollectionState, ComparedState};
use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::record;
use crate::model::raw::writer::{IndexNames, RawWriter};
use crate::model::{Namespace, Position, SharedSlots};

/// The states of all collections and views at one moment. Clones share the states, so cloning costs the same however many there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct States {
    collections: SharedSlots<State>,
    views: Arc<Vec<Arc<State>>>,
}

/// The state of one collection.
#[derive(Debug)]
pub(crate) struct State {
    /// Without [`compared`](CollectionState::compared).
    collection: CollectionState,
    compared: Compared,
    encoded: OnceLock<RawDocumentBuf>,
}

/// Verification state of one collection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Compared {
    /// No comparison counts.
    No,
    /// No compared document has changed since.
    Unchanged(ComparedState),
    /// Some compared documents have changed since. [`ComparedUntil::changed`] lists them, if there is room for them.
    Changed,
}

/// Verification data that a checkpoint adds to the shared states.
#[derive(Debug)]
pub(crate) struct ComparedUntil {
    /// The position in the sink's history up to which writes of other programs were watched for.
    pub watched: Position,
    /// The collections of the sink that other programs have written to.
    pub foreign: HashSet<Namespace>,
    /// The collections in which some documents have changed since they were compared.
    pub changed: HashMap<Uuid, ComparedState>,
}

/// A checkpoint that waits to be saved.
#[derive(Debug)]
pub(crate) struct PendingCheckpoint {
    /// The checkpoint without its collections.
    pub head: Checkpoint,
    pub states: States,
    /// `None` if no verification result counts.
    pub compared: Option<ComparedUntil>,
}

impl State {
    pub fn new(collection: CollectionState, compared: Compared) -> Self {
        Self {
            collection,
            compared,
            encoded: OnceLock::new(),
        }
    }

    /// Whether this state equals the given one.
    pub fn is(&self, collection: &CollectionState, compared: &Compared) -> bool {
        self.collection == *collection && self.compared == *compared
    }

    fn encoded(&self) -> Result<&RawDocumentBuf> {
        if let Some(encoded) = self.encoded.get() {
            return Ok(encoded);
        }
        let encoded = record::encode(&self.collection).map_err(does_not_fit)?;
        Ok(self.encoded.get_or_init(|| encoded))
    }
}

impl States {
    /// All states; collections come first, then views.
    pub fn iter(&self) -> impl Iterator<Item = &CollectionState> {
        self.all().map(|state| &state.collection)
    }

    fn all(&self) -> impl Iterator<Item = &State> {
        self.collections.iter().chain(&*self.views).map(|state| &**state)
    }

    /// Returns the state in a slot.
    pub fn get(&self, slot: usize) -> Option<&State> {
        self.collections.get(slot)
    }

    /// Sets the state in a slot, or clears the slot.
    pub fn set(&mut self, slot: usize, state: Option<State>) {
        self.collections.set(slot, state);
    }

    /// Replaces the states of all views.
    pub fn set_views(&mut self, views: impl Iterator<Item = CollectionState>) {
        let view = |state| Arc::new(State::new(state, Compared::No));
        self.views = Arc::new(views.map(view).collect());
    }
}

impl PendingCheckpoint {
    /// Whether the checkpoint has verification results for any collection.
    pub fn has_compared(&self) -> bool {
        self.states.all().any(|state| self.compared(state).is_some())
    }

    fn compared<'a>(&'a self, state: &'a State) -> Option<&'a ComparedState> {
        let until = self.compared.as_ref()?;
        if until.foreign.contains(&state.collection.target) {
            return None;
        }
        match &state.compared {
            Compared::No => None,
            Compared::Unchanged(compared) => Some(compared),
            Compared::Changed => until.changed.get(&state.collection.id),
        }
    }

    /// Encodes the checkpoint as [`Checkpoint::encode`] does.
    ///
    /// # Errors
    /// The checkpoint is larger than a document can be.
    pub fn encode(&self) -> Result<RawDocumentBuf> {
        let head = self.head.encode()?;
        let mut bytes = head.as_bytes().len();
        for state in self.states.all() {
            bytes += state.encoded()?.as_bytes().len() + 16;
        }
        if i32::try_from(bytes).is_err() {
            return Err(does_not_fit("it has more than 2 GB"));
        }
        let mut rest = RawDocumentBuf::new();
        for element in &head {
            let (name, value) = element.map_err(does_not_fit)?;
            if name != "collections" {
                rest.append(name, value);
            }
        }
        let mut whole = RawWriter::with_capacity(bytes);
        whole.elements(&rest).open_array("collections");
        let mut names = IndexNames::default();
        for state in self.states.all() {
            let encoded = state.encoded()?;
            match self.compared(state) {
                None => whole.document(names.next(), encoded),
                Some(compared) => {
                    let compared = record::encode(compared).map_err(does_not_fit)?;
                    let mut encoded = encoded.clone();
                    encoded.append(cstr!("compared"), compared);
                    whole.document(names.next(), &encoded)
                }
            };
        }
        Ok(whole.finish())
    }
}

fn does_not_fit(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        ErrorKind::Protocol,
        "encode the checkpoint",
        "it does not fit into a document",
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::checkpoint::RangeState;
    use crate::model::CollectionKind;
    use crate::model::Selection;
    use crate::test_util::at;

    fn state(number: u8) -> CollectionState {
        CollectionState {
            id: Uuid::from_bytes([number; 16]),
            namespace: Namespace::new("shop", &format!("c{number}")),
            target: Namespace::new("shop", &format!("c{number}")),
            made: None,
            kind: CollectionKind::Plain,
            options: rawdoc! {},
            indexes: Vec::new(),
            indexed: true,
            documents: 5,
            bytes: 500,
            copied_documents: 5,
            copied_bytes: 500,
            ranges: vec![RangeState {
                upper: None,
                done: Some(at(3)),
            }],
            compared: None,
        }
    }

    fn compared(documents: u64) -> ComparedState {
        ComparedState {
            upper: None,
            changed: Vec::new(),
            position: Some(at(4)),
            documents,
            bytes: 1,
        }
    }

    #[test]
    fn shared_states_are_encoded_as_a_checkpoint() {
        let mut states = States::default();
        let known = [Compared::No, Compared::Unchanged(compared(1)), Compared::Changed];
        for (number, compared) in (0..200).zip(known.iter().cycle()) {
            states.set(number.into(), Some(State::new(state(number), compared.clone())));
        }
        states.set(7, None);
        states.set_views([state(250)].into_iter());
        let before = states.clone();
        states.set(0, None);
        assert_eq!((before.iter().count(), states.iter().count()), (200, 199));
        let head = Checkpoint::begin("source", "sink", Selection::all(), at(5), at(4));
        let mut pending = PendingCheckpoint {
            head: head.clone(),
            states: before,
            compared: None,
        };
        let decode = |pending: &PendingCheckpoint| Checkpoint::decode(&pending.encode().unwrap()).unwrap();
        let mut expected = Checkpoint {
            collections: (0..200).filter(|number| *number != 7).chain([250]).map(state).collect(),
            ..head
        };
        assert_eq!(decode(&pending), expected);
        assert!(!pending.has_compared());
        pending.compared = Some(ComparedUntil {
            watched: at(9),
            foreign: HashSet::from([state(4).target]),
            changed: HashMap::from([(state(2).id, compared(2))]),
        });
        for (number, state) in (0..=u8::MAX).zip(&mut expected.collections) {
            let number = if number < 7 { number } else { number + 1 };
            state.compared = match number % 3 {
                1 if number < 200 && number != 4 => Some(compared(1)),
                2 if number == 2 => Some(compared(2)),
                _ => None,
            };
        }
        assert_eq!(decode(&pending), expected);
        assert!(pending.has_compared());
    }
}
