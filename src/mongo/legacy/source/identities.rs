//! Identifies the collections of servers without uuids by their history.
//!
//! A tail and the listings meanwhile share what is known. A listing is usually newer than the last entry that the tail has taken, and shows
//! collections that begin, end or have another name later. So it first looks at the entries in between, on a copy of what is known, and then
//! has the ids that the tail will find.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::{Uuid, rawdoc};

use super::server::{Elected, Server, from, position_of};
use crate::catalog::Series;
use crate::catalog::legacy::LOGS_CREATIONS;
use crate::error::Result;
use crate::model::{Collection, CollectionKind, Namespace, Position};
use crate::oplog::legacy::{LegacyDecoder, LegacyIdentities};

/// The identities of collections.
pub(super) struct Identities {
    /// The name of the set, which is a part of each identity.
    set: String,
    series: Series,
    state: Mutex<State>,
}

struct State {
    /// What the last tail knows, or the listings before the first one.
    current: SharedIdentities,
    is_of_tail: bool,
    /// What the next tail begins with.
    restored: Option<LegacyIdentities>,
}

/// What is known as of a position. Without a position, nothing was listed yet.
#[derive(Clone)]
pub(super) struct Known {
    pub identities: LegacyIdentities,
    pub position: Option<Position>,
}

pub(super) type SharedIdentities = Arc<Mutex<Known>>;

impl Identities {
    pub fn new(set: String, series: Series) -> Self {
        let known = Known {
            identities: LegacyIdentities::new(set.clone(), series),
            position: None,
        };
        let state = State {
            current: Arc::new(Mutex::new(known)),
            is_of_tail: false,
            restored: None,
        };
        Self {
            set,
            series,
            state: Mutex::new(state),
        }
    }

    /// Returns what a tail begins with that starts after a position.
    pub fn begin(&self, after: Position) -> SharedIdentities {
        let mut state = self.state();
        let identities = state
            .restored
            .take()
            .unwrap_or_else(|| LegacyIdentities::new(self.set.clone(), self.series));
        let known = Known {
            identities,
            position: Some(after),
        };
        state.current = Arc::new(Mutex::new(known));
        state.is_of_tail = true;
        Arc::clone(&state.current)
    }

    /// Has the next tail begin with these identities.
    pub fn restore(&self, known: &BTreeMap<Namespace, Uuid>) {
        let known = known.iter().map(|(namespace, id)| (namespace.clone(), *id));
        self.state().restored = Some(LegacyIdentities::restored(self.set.clone(), self.series, known));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks what is known.
pub(super) fn lock(known: &SharedIdentities) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Identifies collections that were listed on a primary whose newest entry was then at `newest`.
    ///
    /// # Errors
    /// A server error.
    pub async fn identify(&self, primary: &Elected, newest: Position, collections: &mut [Collection]) -> Result<()> {
        let (shared, is_of_tail) = {
            let state = self.identities.state();
            (Arc::clone(&state.current), state.is_of_tail)
        };
        let before = lock(&shared).clone();
        let mut known = before.clone();
        if !self.lists_uuids
            && let Some(position) = known.position.filter(|position| *position < newest)
        {
            self.apply(primary, (position, newest), &mut known.identities).await?;
        }
        let mut before = before.identities;
        let mut shared = lock(&shared);
        for collection in collections {
            if collection.kind == CollectionKind::View {
                continue;
            }
            let uuid = Some(collection.id).filter(|_| self.lists_uuids);
            let id = known.identities.listed(&collection.namespace, uuid);
            // What begins later is not known to the tail before it gets there.
            if is_of_tail && before.listed(&collection.namespace, uuid) == id {
                shared.identities.listed(&collection.namespace, uuid);
            }
            collection.id = id;
        }
        if !is_of_tail {
            known.position = Some(newest);
            *shared = known;
        }
        Ok(())
    }

    /// Applies the entries after a position and up to another one.
    async fn apply(
        &self,
        primary: &Elected,
        (after, until): (Position, Position),
        identities: &mut LegacyIdentities,
    ) -> Result<()> {
        let mut find = from(&primary.address, after.timestamp());
        let (first, last) = (after.timestamp(), until.timestamp());
        find.filter = rawdoc! { "ts": { "$gte": first, "$lte": last } };
        // Before, any entry may be the first one of a collection.
        let logs_creations = self.series >= LOGS_CREATIONS;
        let mut decoder = LegacyDecoder::new(self.series);
        let mut entries = Box::pin(self.client.find(find)).await?;
        while let Some(batch) = Box::pin(entries.next_batch()).await? {
            for entry in batch.iter() {
                let concerns = !logs_creations || entry.get_str("op").is_ok_and(|op| op == "c");
                if concerns && position_of(entry)?.timestamp() > first {
                    decoder.take(entry, identities)?;
                }
            }
        }
        Ok(())
    }
}
