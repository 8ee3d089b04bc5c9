//! Expiry of documents on the target: blocked while the run follows, restored at the cutover.
//!
//! A single [task](crate::engine::expiry) of the run issues all commands, so that an abandoned command can never take effect after the one
//! that follows it. A checkpoint records the final form before any collection gets it. A run that resumes from such a checkpoint blocks
//! expiry again first.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::raw::{RawDocumentBuf, cstr};
use bson::{RawBsonRef, rawdoc};
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::catalog::expiry::TTL_DISABLED_SECONDS;
use crate::catalog::{expiry_of, name_of, whole_seconds};
use crate::checkpoint::{Checkpoint, CollectionState};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace};
use crate::sink::{CatalogCommand, Sink};

/// Maximum number of commands in flight. Each waits for a majority of the target, which would add up for thousands of collections.
const AT_ONCE: usize = 8;

/// Maximum wait of a failed cutover until expiry is blocked again.
const RESTORING: Duration = Duration::from_secs(60);

/// How documents expire on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Practically never, while the run follows the source.
    HeldBack,
    /// As on the source.
    Final,
}

/// Returns the commands that bring these collections into `form`. Collections whose documents do not expire need none.
pub(crate) fn commands<'a>(states: impl IntoIterator<Item = &'a CollectionState>, form: Form) -> Vec<CatalogCommand> {
    let mut commands = Vec::new();
    for state in states {
        for arguments in changes(state, form) {
            commands.push(CatalogCommand::Modify {
                namespace: state.target.clone(),
                arguments,
            });
        }
    }
    commands
}

/// Returns the `collMod` arguments for one collection.
fn changes(state: &CollectionState, form: Form) -> Vec<RawDocumentBuf> {
    let mut changes = Vec::new();
    if state.kind == CollectionKind::View {
        return changes;
    }
    for index in &state.indexes {
        if let Some(seconds) = whole_seconds(index) {
            let mut change = rawdoc! { "name": name_of(index) };
            match form {
                Form::HeldBack => change.append(cstr!("expireAfterSeconds"), TTL_DISABLED_SECONDS),
                Form::Final => change.append(cstr!("expireAfterSeconds"), seconds),
            }
            changes.push(rawdoc! { "index": change });
        }
    }
    if let Some(seconds) = expiry_of(&state.options) {
        let mut change = RawDocumentBuf::new();
        match form {
            Form::HeldBack => change.append(cstr!("expireAfterSeconds"), "off"),
            Form::Final => change.append(cstr!("expireAfterSeconds"), seconds),
        }
        changes.push(change);
    }
    changes
}

/// Executes the commands, several at a time, while `wanted` returns `true`. Returns the commands that the target refused, for instance
/// because the index could not be built.
///
/// # Errors
/// A server error.
pub(crate) async fn execute(
    sink: &dyn Sink,
    commands: &[CatalogCommand],
    wanted: impl Fn() -> bool + Sync,
) -> Result<Vec<CatalogCommand>> {
    let wanted = &wanted;
    let executed = commands.iter().map(|command| async move {
        if !wanted() {
            return Ok(None);
        }
        match sink.execute(command).await {
            Err(error) if error.kind() == ErrorKind::TargetRefused => Ok(Some(command.clone())),
            other => other.map(|()| None),
        }
    });
    let executed: Vec<_> = executed.map(FutureExt::boxed).collect();
    let refused: Vec<_> = stream::iter(executed).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(refused.into_iter().flatten().collect())
}

/// Blocks expiry on every collection of a checkpoint. If the checkpoint holds a rename that may have been executed, the collection is tried
/// under its old and its new name.
///
/// # Errors
/// A server error.
pub(crate) async fn restore(
    sink: &dyn Sink,
    checkpoint: &Checkpoint,
    target: impl Fn(&Namespace) -> Namespace,
) -> Result<()> {
    let mut states: Vec<CollectionState> = checkpoint.collections.clone();
    if let Some(renaming) = &checkpoint.renaming
        && let Some(renamed) = states.iter().find(|state| state.id == renaming.collection)
    {
        let renamed = CollectionState {
            target: target(&renaming.to),
            ..renamed.clone()
        };
        states.push(renamed);
    }
    execute(sink, &commands(&states, Form::HeldBack), || true).await?;
    // Without the flush, a rollback could bring expiry back after the checkpoint no longer records it.
    sink.flush().await
}

/// Applies the commands to a listing of the target's collections.
pub(crate) fn apply(commands: &[CatalogCommand], standing: &mut [Collection]) {
    let mut by_name: std::collections::HashMap<Namespace, &mut Collection> = standing
        .iter_mut()
        .map(|collection| (collection.namespace.clone(), collection))
        .collect();
    for command in commands {
        if let CatalogCommand::Modify { namespace, arguments } = command
            && let Some(collection) = by_name.get_mut(namespace)
        {
            let changed = match arguments.get_document("index") {
                Ok(change) => collection
                    .indexes
                    .iter_mut()
                    .find(|index| name_of(index) == name_of(change))
                    .map(|index| (index, change)),
                Err(_) => Some((&mut collection.options, arguments.as_ref())),
            };
            if let Some((document, change)) = changed
                && let Some(seconds) = expiry_of(change)
            {
                *document = with_expiry(document, seconds);
            }
        }
    }
}

fn with_expiry(document: &RawDocumentBuf, seconds: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut changed = RawDocumentBuf::new();
    for (field, value) in document.iter().filter_map(std::result::Result::ok) {
        if field != "expireAfterSeconds" {
            changed.append(field, value);
        }
    }
    // The value `off` removes the option from the collection.
    if seconds.as_str() != Some("off") {
        changed.append(cstr!("expireAfterSeconds"), seconds);
    }
    changed
}

/// State shared by the cutover, the run's checkpoints and the task that issues the commands.
#[derive(Debug)]
pub(crate) struct ExpiryForm {
    pub(crate) state: watch::Sender<State>,
    /// Commands that a cutover waits for.
    pub(crate) asked: Mutex<Option<Asked>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    pub wanted: Form,
    /// Whether a collection may already have its final form.
    pub noted: bool,
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub commands: Vec<CatalogCommand>,
    pub reply: oneshot::Sender<Result<Vec<CatalogCommand>>>,
}

impl Default for ExpiryForm {
    fn default() -> Self {
        let state = State {
            wanted: Form::HeldBack,
            noted: false,
        };
        Self {
            state: watch::Sender::new(state),
            asked: Mutex::default(),
        }
    }
}

impl ExpiryForm {
    /// Whether a checkpoint has to record that documents may expire on the target.
    pub fn is_noted(&self) -> bool {
        self.state.borrow().noted
    }

    /// Records that expiry is blocked again on every collection of the checkpoint.
    pub fn restored(&self) {
        self.state.send_modify(|state| state.noted = false);
    }

    /// Requests the commands for the final form. Returns those that the target refused.
    ///
    /// # Errors
    /// A server error, or [`Stopped`](ErrorKind::Stopped) if the run ends first.
    ///
    /// # Cancellation
    /// The final form stays wanted until [`give_up`](Self::give_up).
    pub async fn finalize(&self, commands: Vec<CatalogCommand>) -> Result<Vec<CatalogCommand>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Asked { commands, reply });
        self.state.send_modify(|state| state.wanted = Form::Final);
        answer
            .await
            .unwrap_or_else(|_| Err(Error::stopped("let documents expire on the target")))
    }

    /// Requests that expiry is blocked again, because the cutover did not complete.
    pub fn give_up(&self) {
        self.state.send_modify(|state| state.wanted = Form::HeldBack);
    }

    /// Calls [`give_up`](Self::give_up), then waits up to a minute until expiry is blocked.
    pub async fn held_back(&self) {
        self.give_up();
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !state.noted || state.wanted != Form::HeldBack);
        // On a timeout the run has ended or is resuming from its checkpoint, which blocks expiry before anything else.
        let _ = timeout(RESTORING, settled).await;
    }

    pub fn wants(&self, form: Form) -> bool {
        self.state.borrow().wanted == form
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Renaming;
    use crate::engine::track::collection::CollectionProgress;
    use crate::model::Selection;
    use crate::sink::MemorySink;
    use crate::test_util::at;

    #[test]
    fn a_listing_is_as_after_the_commands() {
        let namespace = Namespace::new("shop", "events");
        let held_back = rawdoc! { "name": "at", "expireAfterSeconds": TTL_DISABLED_SECONDS };
        let modify = |arguments| CatalogCommand::Modify {
            namespace: namespace.clone(),
            arguments,
        };
        let after = |arguments: &[RawDocumentBuf]| {
            let commands: Vec<_> = arguments.iter().cloned().map(modify).collect();
            let mut standing = [Collection {
                id: bson::Uuid::from_bytes([1; 16]),
                namespace: namespace.clone(),
                kind: CollectionKind::Plain,
                options: rawdoc! { "clusteredIndex": true },
                indexes: vec![held_back.clone()],
                documents: 0,
                bytes: 0,
            }];
            apply(&commands, &mut standing);
            let [collection] = standing;
            (collection.options, collection.indexes)
        };
        let index = rawdoc! { "index": { "name": "at", "expireAfterSeconds": 60 } };
        let seconds = rawdoc! { "expireAfterSeconds": 444 };
        assert_eq!(
            after(&[index, seconds]),
            (
                rawdoc! { "clusteredIndex": true, "expireAfterSeconds": 444 },
                vec![rawdoc! { "name": "at", "expireAfterSeconds": 60 }]
            )
        );
        let off = rawdoc! { "expireAfterSeconds": "off" };
        assert_eq!(
            after(&[off]),
            (rawdoc! { "clusteredIndex": true }, vec![held_back.clone()])
        );
    }

    fn at_index(seconds: i32) -> RawDocumentBuf {
        rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at", "expireAfterSeconds": seconds }
    }

    fn state_of(namespace: &Namespace) -> CollectionState {
        let collection = Collection {
            id: bson::Uuid::from_bytes([1; 16]),
            namespace: namespace.clone(),
            kind: CollectionKind::Plain,
            options: rawdoc! {},
            indexes: vec![at_index(60)],
            documents: 0,
            bytes: 0,
        };
        CollectionProgress::unread(&collection, namespace.clone(), Vec::new()).to_checkpoint()
    }

    async fn standing(sink: &MemorySink) -> i32 {
        let listed = sink.collections().await.unwrap();
        let index = listed[0].indexes.iter().find(|index| name_of(index) == "at");
        index.unwrap().get_i32("expireAfterSeconds").unwrap()
    }

    /// A process can be killed between a rename on the target and the checkpoint that follows it. The target can then lose its primary.
    #[tokio::test]
    async fn restored_expiry_is_durable_under_either_name_of_a_rename() {
        let (from, to) = (Namespace::new("shop", "events"), Namespace::new("shop", "past"));
        for (stands, is_renamed) in [(&from, false), (&to, true)] {
            let sink = MemorySink::new();
            let create = CatalogCommand::Create {
                namespace: stands.clone(),
                kind: CollectionKind::Plain,
                options: rawdoc! {},
            };
            sink.execute(&create).await.unwrap();
            sink.create_index(stands, &at_index(60)).await.unwrap();
            sink.flush().await.unwrap();
            let mut checkpoint = Checkpoint::begin("source", "sink", Selection::all(), at(1), at(1));
            checkpoint.collections = vec![state_of(&from)];
            checkpoint.renaming = Some(Renaming {
                collection: checkpoint.collections[0].id,
                to: to.clone(),
                dropped: None,
                position: at(2),
            });
            restore(&sink, &checkpoint, Clone::clone).await.unwrap();
            sink.crash();
            assert_eq!(standing(&sink).await, TTL_DISABLED_SECONDS, "renamed: {is_renamed}");
        }
    }
}
