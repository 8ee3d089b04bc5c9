//! The documents whose changes the sink refused, with the changes that wait.
//!
//! If there is no room for the changes, they are forgotten. The documents are then refetched, which includes all of the changes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bson::Uuid;

use super::refetched::bytes_of;
use crate::engine::messages::Stuck;
use crate::model::{CollectionMapping, Position, Write};
use crate::order::Key;
use crate::runtime::limits::allowance::Allowance;
use crate::sink::RefusalReason;

/// Limit in bytes for the stuck documents that a barrier names. It names those that were refused first. The others follow when these are no
/// longer stuck.
const STUCK_BYTES: usize = 256 << 10;

/// The documents that the sink refused.
#[derive(Debug)]
pub(super) struct RefusedDocuments {
    documents: HashMap<(Uuid, Key), Refused>,
    /// Bytes of memory that the documents and their writes take.
    bytes: usize,
    /// Memory that `bytes` is taken from.
    memory: Allowance,
}

/// A refused document. Its writes wait because the first of them was refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub target: Arc<CollectionMapping>,
    pub writes: VecDeque<(Position, Write)>,
    pub position: Position,
    pub reason: RefusalReason,
    /// Whether some of the writes were made or forgotten. Making the remaining ones could then leave another document than the source has.
    pub partly: bool,
}

impl RefusedDocuments {
    pub fn new(memory: Allowance) -> Self {
        Self {
            documents: HashMap::new(),
            bytes: 0,
            memory,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    pub fn contains(&self, document: &(Uuid, Key)) -> bool {
        self.documents.contains_key(document)
    }

    pub fn get(&self, document: &(Uuid, Key)) -> Option<&Refused> {
        self.documents.get(document)
    }

    pub fn names(&self) -> impl Iterator<Item = &(Uuid, Key)> {
        self.documents.keys()
    }

    /// Returns the documents that were refused first, and whether there are others. `applier` is the index of the applier.
    pub fn stuck(&self, applier: usize) -> (Vec<Stuck>, bool) {
        let mut all: Vec<_> = self.documents.iter().collect();
        all.sort_by_key(|(_, refused)| refused.position);
        let mut bytes = 0;
        let fit = all.iter().take_while(|((_, key), _)| {
            let is_room = bytes < STUCK_BYTES;
            bytes += size_of::<Stuck>() + key.size_in_bytes();
            is_room
        });
        let stuck: Vec<Stuck> = fit
            .map(|((_, key), refused)| Stuck {
                applier,
                target: Arc::clone(&refused.target),
                key: key.clone(),
                position: refused.position,
                reason: refused.reason.clone(),
            })
            .collect();
        let more = stuck.len() < all.len();
        (stuck, more)
    }

    /// Notes that the sink refused a document, with an empty queue. Returns `true` if there is room for it.
    pub fn refuse(
        &mut self,
        target: &Arc<CollectionMapping>,
        key: &Key,
        position: Position,
        reason: RefusalReason,
    ) -> bool {
        let document = (target.id, key.clone());
        if self.documents.contains_key(&document) {
            return true;
        }
        let bytes = bytes_of(key);
        if self.bytes + bytes > self.memory.update(self.bytes) {
            self.forget_writes();
        }
        if self.bytes + bytes > self.memory.update(self.bytes) {
            return false;
        }
        self.bytes += bytes;
        let refused = Refused {
            target: Arc::clone(target),
            writes: VecDeque::new(),
            position,
            reason,
            partly: false,
        };
        self.documents.insert(document, refused);
        true
    }

    /// Adds a write to the queue of a refused document: at the front if `first` is set, otherwise at the back.
    pub fn queue(&mut self, document: &(Uuid, Key), write: (Position, Write), first: bool) {
        let Some(refused) = self.documents.get_mut(document) else {
            return;
        };
        if refused.partly && !first {
            // Only a refetch can resolve the document, and that includes this write.
            return;
        }
        let bytes = size_of::<(Position, Write)>() + write.1.size_in_bytes();
        if self.bytes + bytes > self.memory.update(self.bytes) {
            self.bytes -= refused.forget_writes();
            return;
        }
        self.bytes += bytes;
        if first {
            refused.writes.push_front(write);
        } else {
            refused.writes.push_back(write);
        }
    }

    /// Notes that some of a document's writes were made.
    pub fn note_partly(&mut self, document: &(Uuid, Key)) {
        if let Some(refused) = self.documents.get_mut(document) {
            refused.partly = true;
        }
    }

    /// Replaces all queued writes of a document by one. Returns `true` if there is room for it.
    pub fn replace(&mut self, document: &(Uuid, Key), write: (Position, Write)) -> bool {
        let is_alone = self.documents.len() == 1;
        let Some(refused) = self.documents.get_mut(document) else {
            return false;
        };
        let bytes = size_of::<(Position, Write)>() + write.1.size_in_bytes();
        let without = self.bytes - refused.writes_bytes();
        // As with every memory limit, a write that is larger than the whole limit is accepted if its document is the only one.
        if without + bytes > self.memory.update(self.bytes) && !is_alone {
            return false;
        }
        self.bytes = without + bytes;
        refused.writes = VecDeque::from([write]);
        true
    }

    /// Removes a document and returns it.
    pub fn remove(&mut self, document: &(Uuid, Key)) -> Option<Refused> {
        match self.documents.entry(document.clone()) {
            Entry::Occupied(occupied) => {
                let refused = occupied.remove();
                self.bytes -= bytes_of(&document.1) + refused.writes_bytes();
                self.memory.update(self.bytes);
                Some(refused)
            }
            Entry::Vacant(_) => None,
        }
    }

    /// Forgets the documents of a collection.
    pub fn forget(&mut self, collection: Uuid) {
        let bytes = &mut self.bytes;
        self.documents.retain(|(id, key), refused| {
            let is_kept = *id != collection;
            if !is_kept {
                *bytes -= bytes_of(key) + refused.writes_bytes();
            }
            is_kept
        });
        self.memory.update(self.bytes);
    }

    /// Sets the new name of a collection on its documents.
    pub fn rename(&mut self, target: &Arc<CollectionMapping>) {
        for ((id, _), refused) in &mut self.documents {
            if *id == target.id {
                refused.target = Arc::clone(target);
            }
        }
    }

    fn forget_writes(&mut self) {
        for refused in self.documents.values_mut() {
            self.bytes -= refused.forget_writes();
        }
        self.memory.update(self.bytes);
    }
}

impl Refused {
    fn writes_bytes(&self) -> usize {
        let bytes = |(_, write): &(Position, Write)| size_of::<(Position, Write)>() + write.size_in_bytes();
        self.writes.iter().map(bytes).sum()
    }

    /// Forgets the queued writes. Returns the bytes of memory that this frees.
    fn forget_writes(&mut self) -> usize {
        let bytes = self.writes_bytes();
        self.writes = VecDeque::new();
        self.partly = true;
        bytes
    }
}
