//! Identities of collections on servers that have none, or gain them later.

use std::collections::{HashMap, HashSet, VecDeque};

use bson::Uuid;
use sha2::{Digest, Sha256};

use crate::catalog::Series;
use crate::catalog::legacy::LOGS_CREATIONS;
use crate::model::{Namespace, Position};

/// Maximum number of names that are remembered after their collection ended. Beyond it, the oldest is forgotten.
const MOST_ENDED: usize = 10_000;

/// The version of UUIDs that are derived by this crate. Servers assign version 4.
const SYNTHETIC: u8 = 8;

/// Identifies the collections of a source by name and history, because servers before 3.6 have no UUIDs.
///
/// A collection is a name and a generation, which begins when the collection is created. The id is a hash of the source's set, the name and
/// the position at which the generation began. If the history did not show the beginning, the zero position takes its place. So the id
/// depends only on the history that was seen, and not on when it was seen or listed. A rename keeps the id. A drop, `dropDatabase`,
/// `convertToCapped` and a rename onto the name end the generation. From 3.6 on, the id is the server's UUID. A collection that already had
/// a derived id when the server assigned it a UUID keeps that id.
///
/// # After a restart
/// A checkpoint has the name and the id of every migrated collection, as of its watermark. [`restored`](Self::restored) rebuilds the state
/// from these for the tail after the watermark. Collections that are not in the checkpoint are not migrated, so their earlier generations
/// do not matter. A tail that starts elsewhere starts with a new state.
#[derive(Clone, Debug)]
pub(crate) struct LegacyIdentities {
    set: String,
    /// Whether every creation has an entry. Otherwise the first entry about an unknown name may be what creates it.
    logs_creations: bool,
    generations: HashMap<Namespace, Generation>,
    /// Names in `generations` whose collection ended, oldest first. Names that began again may be among them.
    ended: VecDeque<Namespace>,
    /// Databases that were dropped: their collections ended, whether their names were seen or not.
    dropped_databases: HashSet<String>,
    /// The ids of collections that got a UUID of the server after their id.
    by_uuid: HashMap<Uuid, Uuid>,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
enum Generation {
    Alive { id: Uuid, uuid: Option<Uuid> },
    Ended,
}

impl LegacyIdentities {
    /// Creates the state for a tail that starts anywhere. `set` identifies the source, and `series` is that of its servers.
    pub fn new(set: impl Into<String>, series: Series) -> Self {
        Self {
            set: set.into(),
            logs_creations: series >= LOGS_CREATIONS,
            generations: HashMap::new(),
            ended: VecDeque::new(),
            dropped_databases: HashSet::new(),
            by_uuid: HashMap::new(),
        }
    }

    /// Creates the state for a tail that starts after the watermark of a checkpoint. `known` has the collections of that checkpoint.
    pub fn restored(
        set: impl Into<String>,
        series: Series,
        known: impl IntoIterator<Item = (Namespace, Uuid)>,
    ) -> Self {
        let mut restored = Self::new(set, series);
        for (namespace, id) in known {
            restored.put(&namespace, id);
        }
        restored
    }

    /// Returns the id of a collection in a listing made now. `uuid` is the one that the server lists, if any.
    ///
    /// The listing may be newer than the last entry that was applied. It then shows a generation that begins later under the id of the
    /// current one, until the entry that begins it is applied.
    pub fn listed(&mut self, namespace: &Namespace, uuid: Option<Uuid>) -> Uuid {
        match uuid {
            Some(uuid) => self.id_by_uuid(namespace, uuid),
            None => {
                let id = self.id(namespace);
                // Without entries about creations, this name may be new: the first entry about it must still begin it.
                if self.logs_creations && !self.has_ended(namespace) {
                    self.put(namespace, id);
                }
                id
            }
        }
    }

    /// Returns the id of the collection that an entry concerns, which existed before. `uuid` is the entry's `ui`.
    pub(super) fn existing(&mut self, namespace: &Namespace, uuid: Option<Uuid>) -> Uuid {
        match uuid {
            Some(uuid) => self.id_by_uuid(namespace, uuid),
            None => {
                let id = self.id(namespace);
                self.put(namespace, id);
                id
            }
        }
    }

    /// Returns the id of a collection that an entry may create without saying so. `None` if the collection existed, or if servers of this
    /// version log every creation.
    pub(super) fn begin_unlogged(&mut self, namespace: &Namespace, position: Position) -> Option<Uuid> {
        if self.logs_creations || matches!(self.generations.get(namespace), Some(Generation::Alive { .. })) {
            return None;
        }
        // An unknown name may have existed before the tail began. A listing then has the id of an unknown beginning, and the run that has
        // listed the collection ignores that it begins.
        let began = if self.has_ended(namespace) {
            position
        } else {
            Position::ZERO
        };
        let id = self.derive(namespace, began);
        self.put(namespace, id);
        Some(id)
    }

    /// Begins a collection and returns its id. A collection that exists keeps its id: the entry is older than the listing that showed it.
    pub(super) fn begin(&mut self, namespace: &Namespace, uuid: Option<Uuid>, position: Position) -> Uuid {
        let id = match (uuid, self.generations.get(namespace)) {
            (Some(uuid), _) => self.by_uuid.get(&uuid).copied().unwrap_or(uuid),
            (None, Some(Generation::Alive { id, .. })) => *id,
            (None, _) => self.derive(namespace, position),
        };
        self.put(namespace, id);
        id
    }

    /// Ends the collection of this name, and begins another one there.
    pub(super) fn replace(&mut self, namespace: &Namespace, position: Position) -> Uuid {
        self.end(namespace);
        let id = self.derive(namespace, position);
        self.put(namespace, id);
        id
    }

    /// Ends the collection of this name.
    pub(super) fn end(&mut self, namespace: &Namespace) {
        let before = self.generations.insert(namespace.clone(), Generation::Ended);
        if let Some(Generation::Alive { uuid: Some(uuid), .. }) = before {
            self.by_uuid.remove(&uuid);
        }
        if !matches!(before, Some(Generation::Ended)) {
            self.ended.push_back(namespace.clone());
        }
        while self.ended.len() > MOST_ENDED {
            let Some(oldest) = self.ended.pop_front() else { break };
            if matches!(self.generations.get(&oldest), Some(Generation::Ended)) {
                self.generations.remove(&oldest);
            }
        }
    }

    /// Ends all collections of a database. Returns those that are known, in the order of their names.
    pub(super) fn end_database(&mut self, database: &str) -> Vec<(Namespace, Uuid)> {
        let of_database = self.generations.iter().filter(|(name, _)| name.database() == database);
        let mut ended: Vec<(Namespace, Uuid)> = of_database
            .filter_map(|(name, generation)| match generation {
                Generation::Alive { id, .. } => Some((name.clone(), *id)),
                Generation::Ended => None,
            })
            .collect();
        ended.sort();
        for (namespace, _) in &ended {
            self.end(namespace);
        }
        if self.dropped_databases.len() >= MOST_ENDED {
            self.dropped_databases.clear();
        }
        self.dropped_databases.insert(database.to_owned());
        ended
    }

    /// Gives a collection another name. Returns its id, and that of the collection that had the name before. `drops_target` is whether the
    /// rename may replace one.
    pub(super) fn rename(
        &mut self,
        from: &Namespace,
        to: &Namespace,
        uuid: Option<Uuid>,
        drops_target: bool,
    ) -> (Uuid, Option<Uuid>) {
        let id = self.existing(from, uuid);
        let dropped = match self.generations.get(to) {
            Some(Generation::Alive { id, .. }) => Some(*id),
            Some(Generation::Ended) => None,
            None => (drops_target && !self.has_ended(to)).then(|| self.id(to)),
        };
        self.end(to);
        let moved = self.generations.get(from).copied();
        // Ending the old name must not end the UUID, which goes along.
        self.generations.remove(from);
        self.end(from);
        if let Some(moved) = moved {
            self.generations.insert(to.clone(), moved);
        }
        (id, dropped)
    }

    /// The id for a UUID of the server, which a collection may have had before the UUID.
    pub(super) fn id_for_uuid(&self, uuid: Uuid) -> Uuid {
        self.by_uuid.get(&uuid).copied().unwrap_or(uuid)
    }

    fn id_by_uuid(&mut self, namespace: &Namespace, uuid: Uuid) -> Uuid {
        if let Some(id) = self.by_uuid.get(&uuid) {
            return *id;
        }
        match self.generations.get_mut(namespace) {
            Some(Generation::Alive { id, uuid: known }) if known.is_none() && is_derived(*id) => {
                *known = Some(uuid);
                self.by_uuid.insert(uuid, *id);
                *id
            }
            // Another collection of the name, which a listing may show before its entries come.
            Some(Generation::Alive { id, .. }) if *id != uuid => uuid,
            _ => {
                self.put(namespace, uuid);
                uuid
            }
        }
    }

    /// The id of a collection without a UUID.
    fn id(&self, namespace: &Namespace) -> Uuid {
        match self.generations.get(namespace) {
            Some(Generation::Alive { id, .. }) => *id,
            _ => self.derive(namespace, Position::ZERO),
        }
    }

    fn has_ended(&self, namespace: &Namespace) -> bool {
        match self.generations.get(namespace) {
            Some(generation) => matches!(generation, Generation::Ended),
            None => self.dropped_databases.contains(namespace.database()),
        }
    }

    /// Notes that a collection exists. What is known of it stays.
    fn put(&mut self, namespace: &Namespace, id: Uuid) {
        match self.generations.get(namespace) {
            Some(Generation::Alive { id: known, .. }) if *known == id => {}
            _ => {
                let alive = Generation::Alive { id, uuid: None };
                self.generations.insert(namespace.clone(), alive);
            }
        }
    }

    fn derive(&self, namespace: &Namespace, began: Position) -> Uuid {
        let digest = Sha256::new()
            .chain_update(self.set.as_bytes())
            .chain_update([0])
            .chain_update(namespace.as_str().as_bytes())
            .chain_update([0])
            .chain_update(began.time.to_be_bytes())
            .chain_update(began.increment.to_be_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | SYNTHETIC << 4;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid::from_bytes(bytes)
    }
}

/// Whether an id was derived, and not assigned by a server.
fn is_derived(id: Uuid) -> bool {
    id.bytes()[6] >> 4 == SYNTHETIC
}
