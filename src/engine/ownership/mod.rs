//! What on the target is this migration's own, and the one place that drops or replaces any of it.
//!
//! # The rule
//! A collection or view on the target is the migration's own when
//! - the checkpoint has its name and notes for it the uuid that it has on the target (where it notes none, the name is enough: that is so
//!   between the first checkpoint and the end of the creations that follow it), or
//! - its name is in the record of creations. A name is put there before anything is made under it, once it was seen to be free, and is taken
//!   out when a checkpoint that has the uuid is saved. So a process that is killed between the creation and that checkpoint leaves nothing
//!   that the next one could take for somebody else's. Where a run goes on from a checkpoint, the names are put there too of what the
//!   checkpoint has and the target no longer: see [`Ownership::expect_again`].
//!
//! Everything else is of others. [`ExistingData`] says what becomes of it where the migration needs its name, whenever that is in a run: the
//! run ends before it is touched, it is dropped, or it is made equal. Where the name is not needed it is left alone, even if the migration had
//! something of its own there before.
//!
//! Two moments are not covered: others make something in the milliseconds between the look at the name and the creation; and a process is
//! killed in the middle of a creation, or within moments of a drop, and others make something of that very name before the next one starts.

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
use crate::model::{CollectionKind, Namespace, Position, Range, names_of, shown};
use crate::runtime::flush::SharedFlush;
use crate::sink::{CatalogCommand, Sink, SinkRead};

const OPERATION: &str = "make a collection on the target";

/// What on the target is this migration's own.
pub(crate) struct Ownership {
    sink: Arc<dyn Sink>,
    durability: SharedFlush,
    existing_data: ExistingData,
    state: Mutex<Record>,
}

/// What stands under a name that the migration is about to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing.
    Free,
    /// What others made, which is to be made equal to the source's.
    Kept,
}

impl Ownership {
    /// Reads what an earlier run was making.
    ///
    /// # Errors
    /// A server error.
    pub async fn load(sink: Arc<dyn Sink>, durability: SharedFlush, existing_data: ExistingData) -> Result<Self> {
        let state = Record::load(&*sink).await?;
        Ok(Self {
            sink,
            durability,
            existing_data,
            state: Mutex::new(state),
        })
    }

    /// Of a migration that has made nothing yet.
    #[cfg(any(test, feature = "test-util"))]
    pub fn empty(sink: Arc<dyn Sink>) -> Self {
        Self {
            durability: SharedFlush::new(Arc::clone(&sink)),
            sink,
            existing_data: ExistingData::default(),
            state: Mutex::default(),
        }
    }

    /// Forgets what a migration before this one was making. To be called before the first checkpoint is saved.
    ///
    /// # Errors
    /// A server error.
    pub async fn begin(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.is_empty() {
            return Ok(());
        }
        state.clear();
        state.save(&*self.sink).await
    }

    /// What an earlier run was making, which its checkpoint may not have.
    pub async fn earlier(&self) -> BTreeSet<Namespace> {
        self.state.lock().await.earlier.clone()
    }

    /// Looks at a name on the target under which something is to be made, and notes that it is. `is_replay` says that an earlier run may have
    /// come further than this: what it made there is of a later time, and is dropped.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) where others have something there and it is not to be touched, or a server error.
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

    /// Makes a collection or view under a name that was [claimed](Self::claim). Answers its uuid on the target.
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

    /// The uuid on the target of what was made under a claimed name.
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
            // As of stored functions, which are made with the first one.
            None => {
                state.made.remove(target);
            }
        }
        Ok(id)
    }

    /// Drops what the migration made under a name, and answers whether others have something there, which is left as it is. `routed` is the
    /// position up to which everything is routed, which the entry that asks for this comes after.
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
        // What has the name from now on is no longer the migration's. The record keeps it until a checkpoint comes after the drop: a new primary
        // may not have seen that, and a run that goes on from before it meets what was made there again.
        let mut state = self.state.lock().await;
        let (made, earlier) = (state.made.remove(target), state.earlier.remove(target));
        if made.is_some() || earlier {
            state.dropped.insert(target.clone(), routed);
        }
        Ok(!is_own)
    }

    /// Drops what an earlier run made under a name and no checkpoint has.
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

    /// Makes anew what the migration has under a name. Answers the new uuid.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) where others have something there and it is not to be touched, or a server error.
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

    /// Looks at both names of a rename on the target before it is carried out. `replaced` is the uuid of what the migration has under the new
    /// name, where it has something. Answers whether the rename has still to be done: a run before this one may have done it, which the uuid
    /// alone can tell, since something else may have the old name by now.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) where others have something under one of the names and it is not to be touched, or a server error.
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
                // A view cannot be replaced by a rename, nor can what has the name in another way.
                self.execute_drop(name).await?;
            }
        }
        Ok(true)
    }

    /// Renames what the migration made, for good, and returns its uuid under the new name.
    ///
    /// # Errors
    /// [`PrimaryChanged`](ErrorKind::PrimaryChanged) where it may have been lost, or a server error.
    pub async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<Option<Uuid>> {
        let command = CatalogCommand::Rename {
            from: from.clone(),
            to: to.clone(),
        };
        self.sink.execute(&command).await?;
        // Should a new primary lose it, the first write under the new name would make a collection there.
        self.durability.flush().await?;
        self.state.lock().await.made.remove(from);
        self.identify(to).await
    }

    /// Notes the uuids of collections of which none is known, whatever the reason: what stands under their names is the migration's own.
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

    /// Notes the names of collections that a checkpoint has and the target no longer: an earlier run came to their drop or rename. What is
    /// applied again can make them anew, by a write or an index, before that drop or rename comes again. Where an earlier run has made
    /// something anew of which no checkpoint has the uuid, that is noted.
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
        state.save(&*self.sink).await
    }

    /// Takes out of the record what a checkpoint that was saved has. `is_past_replay` says that it is of after everything that an earlier run can
    /// have applied.
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
        state.save(&*self.sink).await
    }

    /// Whether what stands under a name is the migration's own. `made` is the uuid that the checkpoint notes.
    pub async fn is_own(&self, target: &Namespace, id: Uuid, made: Option<Uuid>) -> bool {
        let state = self.state.lock().await;
        made.is_none_or(|made| made == id)
            || state.earlier.contains(target)
            || state
                .made
                .get(target)
                .is_some_and(|made| made.is_none_or(|made| made == id))
    }

    /// What stands under a name, be it as an ordinary collection, a view or a time-series collection, with the name that it is listed by.
    async fn standing(&self, target: &Namespace) -> Result<Option<(Namespace, Uuid)>> {
        let mut found = self.sink.identities(&names_of(target)).await?;
        let Some((name, id)) = found.remove_entry(target).or_else(|| found.pop_first()) else {
            return Ok(None);
        };
        // Servers do not let it be dropped, so that one which is empty is one that is gone.
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

    /// Refuses to touch what others have under a name, unless a new primary has only lost that it was dropped or renamed: then the run goes back
    /// to its checkpoint.
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
            true => state.save(&*self.sink).await,
            false => Ok(()),
        }
    }
}

/// What the run ends with where others have something under a name that the migration needs.
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
