//! Ownership: which collections on the target are this migration's own.
//!
//! Only this module drops or replaces any of them.
//!
//! # The rule
//! A collection or view on the target is the migration's own if
//! - the checkpoint has its name and its uuid on the target. If the checkpoint has no uuid for it, the name is enough. That is the case
//!   between the first checkpoint and the end of the creations that follow it; or
//! - its name is in the record of creations. A name enters the record after it was seen to be free, and before anything is created under
//!   it. It leaves the record when a checkpoint with the uuid is saved. So if a process is killed between the creation and that checkpoint,
//!   the next process does not mistake the collection for somebody else's. When a run resumes from a checkpoint, the record also gets the
//!   names that the checkpoint has and the target no longer has: see [`Ownership::expect_again`].
//!
//! Everything else belongs to other programs. [`ExistingData`] decides what happens to it if the migration needs its name, at any time in a
//! run: the run ends before touching it, it is dropped, or it is made equal to the source's. If its name is not needed, it is left alone,
//! even if the migration had something of its own there before.
//!
//! Two cases are not covered. Another program creates something in the milliseconds between the look at the name and the creation. Or a
//! process is killed in the middle of a creation or within moments of a drop, and another program creates something of that very name
//! before the next process starts.

mod record;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use tokio::sync::Mutex;

use self::record::Record;
use crate::checkpoint::CollectionState;
use crate::config::ExistingData;
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CollectionKind, MigrationId, Namespace, Position, Range, names_of, shown};
use crate::runtime::flush::SharedFlush;
use crate::sink::{CatalogCommand, Records, Sink, SinkRead};

const OPERATION: &str = "make a collection on the target";

/// Which collections on the target are this migration's own.
pub(crate) struct Ownership {
    sink: Arc<dyn Sink>,
    records: Records,
    durability: SharedFlush,
    existing_data: ExistingData,
    state: Mutex<Record>,
}

/// What exists under a name that the migration is about to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing.
    Free,
    /// A collection of another program, to be made equal to the source's.
    Kept,
}

impl Ownership {
    /// Reads the names that an earlier run was creating.
    ///
    /// # Errors
    /// A server error.
    pub async fn load(records: Records, durability: SharedFlush, existing_data: ExistingData) -> Result<Self> {
        let state = Record::load(&records).await?;
        Ok(Self {
            sink: Arc::clone(records.sink()),
            records,
            durability,
            existing_data,
            state: Mutex::new(state),
        })
    }

    /// Ownership of a migration that has created nothing yet.
    #[cfg(any(test, feature = "test-util"))]
    pub fn empty(sink: Arc<dyn Sink>) -> Self {
        Self {
            durability: SharedFlush::new(Arc::clone(&sink)),
            records: Records::new(Arc::clone(&sink), MigrationId::default()),
            sink,
            existing_data: ExistingData::default(),
            state: Mutex::default(),
        }
    }

    /// The id of the migration.
    pub fn id(&self) -> &MigrationId {
        self.records.id()
    }

    /// Forgets what a previous migration was creating. Call this before the first checkpoint is saved.
    ///
    /// # Errors
    /// A server error.
    pub async fn begin(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.is_empty() {
            return Ok(());
        }
        state.clear();
        state.save(&self.records).await
    }

    /// Returns the names that an earlier run was creating. Its checkpoint may lack them.
    pub async fn earlier(&self) -> BTreeSet<Namespace> {
        self.state.lock().await.earlier.clone()
    }

    /// Claims a name on the target: examines what exists under it, and records that something is created there. `is_replay` says that an
    /// earlier run may have got further than this. What that run created under the name belongs to a later time and is dropped.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if other programs have something there that must not be touched, or a server error.
    pub async fn claim(&self, target: &Namespace, is_replay: bool) -> Result<Room> {
        let mut room = Room::Free;
        if let Some((name, _)) = self.standing(target).await? {
            let is_own = is_replay && self.state.lock().await.earlier.contains(target);
            match self.existing_data {
                _ if is_own => self.execute_drop(name).await?,
                ExistingData::Refuse => return self.refuse(&name).await,
                ExistingData::Clear => self.execute_drop(name).await?,
                ExistingData::Keep => room = Room::Kept,
            }
        }
        self.note(target).await?;
        Ok(room)
    }

    /// Creates a collection or view under a [claimed](Self::claim) name. Returns its uuid on the target.
    ///
    /// # Errors
    /// A server error.
    pub async fn create(
        &self,
        target: &Namespace,
        kind: CollectionKind,
        options: RawDocumentBuf,
    ) -> Result<Option<Uuid>> {
        let command = CatalogCommand::Create {
            namespace: target.clone(),
            kind,
            options,
        };
        self.sink.execute(&command).await?;
        self.identify(target).await
    }

    /// Returns the uuid on the target of what was created under a claimed name.
    ///
    /// # Errors
    /// A server error.
    pub async fn identify(&self, target: &Namespace) -> Result<Option<Uuid>> {
        let found = self.sink.identities(&BTreeSet::from([target.clone()])).await?;
        let id = found.get(target).copied();
        let mut state = self.state.lock().await;
        match id {
            Some(_) => {
                if let Some(known) = state.made.get_mut(target) {
                    *known = id;
                }
            }
            // For example, the collection of stored functions, which is created with the first function.
            None => {
                state.made.remove(target);
            }
        }
        Ok(id)
    }

    /// Drops what the migration created under a name. Returns `true` if other programs have something there, which is left as it is.
    /// `routed` is the position up to which everything is routed. The entry that requires the drop comes after it.
    ///
    /// # Errors
    /// A server error.
    pub async fn remove(&self, target: &Namespace, made: Option<Uuid>, routed: Position) -> Result<bool> {
        let standing = self.standing(target).await?;
        let is_own = match &standing {
            Some((_, id)) => self.is_own(target, *id, made).await,
            None => true,
        };
        if is_own && let Some((name, _)) = standing {
            self.execute_drop(name).await?;
        }
        // Whatever gets the name from now on is no longer the migration's. The record keeps the name until a checkpoint comes after the
        // drop: a new primary may not have seen the drop, and a run that resumes from before it finds the dropped collection again.
        let mut state = self.state.lock().await;
        let (made, earlier) = (state.made.remove(target), state.earlier.remove(target));
        if made.is_some() || earlier {
            state.dropped.insert(target.clone(), routed);
        }
        Ok(!is_own)
    }

    /// Drops what an earlier run created under a name if no checkpoint has it.
    ///
    /// # Errors
    /// A server error.
    pub async fn drop_earlier(&self, target: &Namespace) -> Result<()> {
        if self.state.lock().await.earlier.contains(target)
            && let Some((name, _)) = self.standing(target).await?
        {
            self.execute_drop(name).await?;
        }
        Ok(())
    }

    /// Recreates what the migration has under a name. Returns the new uuid.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if other programs have something there that must not be touched, or a server error.
    pub async fn replace(
        &self,
        target: &Namespace,
        made: Option<Uuid>,
        kind: CollectionKind,
        options: RawDocumentBuf,
    ) -> Result<Option<Uuid>> {
        if let Some((name, id)) = self.standing(target).await? {
            if self.existing_data == ExistingData::Refuse && !self.is_own(target, id, made).await {
                return self.refuse(&name).await;
            }
            self.note(target).await?;
            self.execute_drop(name).await?;
        } else {
            self.note(target).await?;
        }
        self.create(target, kind, options).await
    }

    /// Examines both names of a rename on the target before the rename is carried out. `replaced` is the uuid of what the migration has
    /// under the new name, if it has anything there. Returns `true` if the rename is still to be done. An earlier run may have done it.
    /// Only the uuid shows that, because something else may have the old name now.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if other programs have something under one of the names that must not be touched, or a server error.
    pub async fn may_rename(
        &self,
        from: &Namespace,
        made: Option<Uuid>,
        to: &Namespace,
        replaced: Option<Option<Uuid>>,
        is_replay: bool,
    ) -> Result<bool> {
        if from == to {
            return Ok(false);
        }
        let (left, right) = (self.standing(from).await?, self.standing(to).await?);
        if made.is_some() && right.as_ref().is_some_and(|(_, id)| Some(*id) == made) {
            return Ok(false);
        }
        if let Some((name, id)) = left
            && self.existing_data == ExistingData::Refuse
            && !self.is_own(from, id, made).await
        {
            return self.refuse(&name).await;
        }
        if let Some((name, id)) = right {
            let is_own = match replaced {
                Some(replaced) => self.is_own(to, id, replaced).await,
                None => is_replay && self.state.lock().await.earlier.contains(to),
            };
            if !is_own {
                if self.existing_data == ExistingData::Refuse {
                    return self.refuse(&name).await;
                }
                // A rename can replace neither a view nor something that is listed by another form of the name.
                self.execute_drop(name).await?;
            }
        }
        Ok(true)
    }

    /// Renames what the migration created, and makes the rename durable. Returns the uuid under the new name.
    ///
    /// # Errors
    /// [`PrimaryChanged`](ErrorKind::PrimaryChanged) if the rename may have been lost, or a server error.
    pub async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<Option<Uuid>> {
        let command = CatalogCommand::Rename {
            from: from.clone(),
            to: to.clone(),
        };
        self.sink.execute(&command).await?;
        // If a new primary lost the rename, the first write under the new name would create a collection there.
        self.durability.flush().await?;
        self.state.lock().await.made.remove(from);
        self.identify(to).await
    }

    /// Sets the uuids of collections that have none, whatever the reason: what exists under their names is the migration's own.
    ///
    /// # Errors
    /// A server error.
    pub async fn identify_all(&self, collections: &mut [CollectionProgress]) -> Result<()> {
        let unknown = |collection: &&CollectionProgress| collection.made.is_none();
        let names: BTreeSet<Namespace> = collections
            .iter()
            .filter(unknown)
            .map(|collection| collection.target.target.clone())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let found = self.sink.identities(&names).await?;
        for collection in collections.iter_mut().filter(|collection| collection.made.is_none()) {
            collection.made = found.get(&collection.target.target).copied();
        }
        Ok(())
    }

    /// Records the names of collections that a checkpoint has and the target no longer has, because an earlier run got to their drop or
    /// rename. Replayed changes can create them again, by a write or an index, before that drop or rename is replayed. If an earlier run
    /// recreated a collection and no checkpoint has the new uuid, the collection gets that uuid.
    ///
    /// # Errors
    /// A server error.
    pub async fn expect_again(&self, collections: &mut [CollectionProgress]) -> Result<()> {
        let known = collections.iter().filter(|collection| collection.made.is_some());
        let mut names: BTreeSet<Namespace> = known.map(|collection| collection.target.target.clone()).collect();
        let standing = self.sink.identities(&names).await?;
        names.retain(|name| !standing.contains_key(name));
        let mut state = self.state.lock().await;
        for collection in collections {
            let target = &collection.target.target;
            if state.earlier.contains(target)
                && let Some(made) = standing.get(target)
            {
                collection.made = Some(*made);
            }
        }
        names.retain(|name| !state.earlier.contains(name) && !state.made.contains_key(name));
        if names.is_empty() && state.is_saved() {
            return Ok(());
        }
        state.earlier.append(&mut names);
        state.save(&self.records).await
    }

    /// Removes from the record what a saved checkpoint has. `is_past_replay` says that the checkpoint comes after everything that an
    /// earlier run can have applied.
    ///
    /// # Errors
    /// A server error.
    pub async fn saved(
        &self,
        collections: impl Iterator<Item = &CollectionState>,
        watermark: Position,
        is_past_replay: bool,
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.is_empty() {
            return Ok(());
        }
        let before = state.len();
        state.dropped.retain(|_, routed| watermark <= *routed);
        if is_past_replay {
            state.earlier.clear();
        }
        if !state.made.is_empty() {
            let known: HashMap<&Namespace, Uuid> = collections
                .filter_map(|collection| Some((&collection.target, collection.made?)))
                .collect();
            state
                .made
                .retain(|name, made| made.is_none() || known.get(name).copied() != *made);
        }
        if before == state.len() && state.is_saved() {
            return Ok(());
        }
        state.save(&self.records).await
    }

    /// Whether what exists under a name is the migration's own. `made` is the uuid in the checkpoint.
    pub async fn is_own(&self, target: &Namespace, id: Uuid, made: Option<Uuid>) -> bool {
        let state = self.state.lock().await;
        made.is_none_or(|made| made == id)
            || state.earlier.contains(target)
            || state
                .made
                .get(target)
                .is_some_and(|made| made.is_none_or(|made| made == id))
    }

    /// Returns what exists under a name, be it an ordinary collection, a view or a time-series collection, with the name by which it is
    /// listed.
    async fn standing(&self, target: &Namespace) -> Result<Option<(Namespace, Uuid)>> {
        let mut found = self.sink.identities(&names_of(target)).await?;
        let Some((name, id)) = found.remove_entry(target).or_else(|| found.pop_first()) else {
            return Ok(None);
        };
        // Servers do not allow this collection to be dropped. So an empty one counts as gone.
        if name.collection() == "system.js" && self.is_empty(&name).await? {
            return Ok(None);
        }
        Ok(Some((name, id)))
    }

    /// Whether a collection on the target has no documents.
    ///
    /// # Errors
    /// A server error.
    pub async fn is_empty(&self, namespace: &Namespace) -> Result<bool> {
        let request = SinkRead {
            namespace: namespace.clone(),
            kind: CollectionKind::Plain,
            range: Range::FULL,
            batch_bytes: 1,
            document_bytes: 0,
        };
        let mut batches = self.sink.read(request).await?;
        Ok(match batches.next().await {
            Some(batch) => batch?.is_empty(),
            None => true,
        })
    }

    /// Refuses to touch what other programs have under a name. If a new primary has only lost its drop or rename, the flush fails instead,
    /// and the run goes back to its checkpoint.
    async fn refuse<T>(&self, name: &Namespace) -> Result<T> {
        self.durability.flush().await?;
        Err(refusal(name))
    }

    async fn execute_drop(&self, namespace: Namespace) -> Result<()> {
        self.sink.execute(&CatalogCommand::Drop { namespace }).await
    }

    async fn note(&self, target: &Namespace) -> Result<()> {
        let mut state = self.state.lock().await;
        let is_new = !state.earlier.remove(target) && !state.made.contains_key(target);
        state.made.insert(target.clone(), None);
        match is_new || !state.is_saved() {
            true => state.save(&self.records).await,
            false => Ok(()),
        }
    }
}

/// Removes the record of creations.
///
/// # Errors
/// A server error.
pub(crate) async fn forget(records: &Records) -> Result<()> {
    record::delete(records).await
}

/// Returns the error that ends a run if other programs have something under a name that the migration needs.
pub(crate) fn refusal(standing: &Namespace) -> Error {
    let name = shown(standing);
    Error::new(
        ErrorKind::Refused,
        OPERATION,
        format!(
            "the target already has `{name}`, which this migration did not make: drop or rename it there and start again, or start again with \
             `ExistingData::Clear` or `ExistingData::Keep`"
        ),
    )
    .with_context("namespace", name)
}
