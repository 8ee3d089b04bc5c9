//! The only file that knows the order of the steps of a run. It owns the run's tasks.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::arrange::arrange;
use crate::budget::Budget;
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::ddl::DdlPolicy;
use crate::document::{Collection, CollectionKind, Position};
use crate::durability::Durability;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Amount, Event, Side};
use crate::fence::Fence;
use crate::hooks::HostHooks;
use crate::lane::Lane;
use crate::lease::Lease;
use crate::listing::{self, Listing};
use crate::migration::{ExistingData, LostPosition, Verification};
use crate::monitor::watch_source;
use crate::namespace::{Namespace, Selection};
use crate::oplog::Entry;
use crate::preflight::{self, PathPolicy};
use crate::progress::Progress;
use crate::pump::{READ_AHEAD, pump};
use crate::resync::must_hold;
use crate::reverse::WayBack;
use crate::router::{Request, Router, RouterParts};
use crate::sink::{CatalogCommand, Sink};
use crate::source::Source;
use crate::throttle::Throttle;
use crate::tracked::Tracked;
use crate::waiting::telling;
use crate::walker::Walker;
use crate::watch::{Seen, watch_deployments, watch_foreign_writes};
use crate::watermark::save_checkpoints;
use crate::window;

/// How long the tasks of a run may take to finish what they are writing when the run ends.
const ENDING: Duration = Duration::from_secs(15);

/// The router's queue of requests; each walker has one under way at a time.
pub(crate) type Requests = watch::Sender<Option<mpsc::Sender<Request>>>;

/// What the host decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub selection: Selection,
    /// The hand-over that the migration takes back.
    pub way_back: Option<WayBack>,
    pub existing_data: ExistingData,
    pub lost_position: LostPosition,
    pub verification: Verification,
    pub cross_check_bytes: u64,
    pub run_id: Option<String>,
    pub accept_late_writes: bool,
    pub block_source_writes: bool,
    pub ddl: DdlPolicy,
    pub walkers: usize,
    pub lanes: usize,
    pub chunk_bytes: u64,
    pub memory_bytes: usize,
    pub max_lag: Duration,
    pub cutover_window: Duration,
    pub clock: window::Clock,
    pub patience: Duration,
    pub throttle: Throttle,
    pub watch_foreign_writes: bool,
    pub path_policy: PathPolicy,
    pub accept_unencrypted: bool,
    pub scan_documents: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            selection: Selection::all(),
            way_back: None,
            existing_data: ExistingData::default(),
            lost_position: LostPosition::default(),
            verification: Verification::default(),
            cross_check_bytes: 256 << 20,
            run_id: None,
            accept_late_writes: false,
            block_source_writes: false,
            ddl: DdlPolicy::default(),
            walkers: 4,
            lanes: 4,
            chunk_bytes: 64 << 20,
            memory_bytes: 256 << 20,
            max_lag: Duration::from_secs(2),
            cutover_window: window::DEFAULT,
            clock: window::Clock::default(),
            patience: Duration::from_secs(600),
            throttle: Throttle::default(),
            watch_foreign_writes: true,
            path_policy: PathPolicy::default(),
            accept_unencrypted: false,
            scan_documents: false,
        }
    }
}

/// A migration's parts. Everything a run needs to know beyond them is in its checkpoint.
pub(crate) struct Engine {
    pub source: Arc<dyn Source>,
    /// Writes only while a run has the lease.
    pub sink: Arc<dyn Sink>,
    /// Saves only while a run has the lease.
    pub store: Arc<dyn CheckpointStore>,
    /// For what comes before and after the lease.
    pub unfenced: Unfenced,
    pub fence: Fence,
    pub seen: Arc<Seen>,
    pub hooks: HostHooks,
    pub settings: Settings,
}

/// The sink and store as the host gave them.
pub(crate) struct Unfenced {
    pub sink: Arc<dyn Sink>,
    pub store: Arc<dyn CheckpointStore>,
}

/// Where a run begins.
pub(crate) struct Beginning {
    pub checkpoint: Checkpoint,
    pub collections: Vec<Tracked>,
    pub tail: EntryStream,
    /// Changes up to here may have been applied before.
    pub replay_until: Position,
    /// Whether there was a checkpoint.
    pub resumed: bool,
}

/// The source's history from some position on.
pub(crate) type EntryStream = BoxStream<'static, Result<Vec<Entry>>>;

impl Engine {
    /// Runs from the checkpoint, or from nothing, until the run is cancelled or fails. `lost` says why the checkpoint's position is known to
    /// be lost, so that everything has to be compared with the source.
    ///
    /// # Errors
    /// What ended the run; never the mere fact that it was cancelled.
    pub async fn run(
        &self,
        progress: &Arc<Progress>,
        requests: &Requests,
        cancel: &CancellationToken,
        lost: Option<&str>,
    ) -> Result<()> {
        let lease = Lease::acquire(Arc::clone(&self.unfenced.sink), self.fence.clone());
        let lease = telling(&progress.events, Side::Target, "take the lease", lease).await?;
        let cancel = cancel.child_token();
        // The lease is kept for as long as any task may still be writing, which is longer than the run goes on.
        let ended = CancellationToken::new();
        let keeper = {
            let (lease, ended, cancel) = (lease.clone(), ended.clone(), cancel.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                let kept = lease.keep(ended).await;
                cancel.cancel();
                kept
            }))
        };
        let mut tasks = JoinSet::new();
        // What is dropped while it is under way may be carried out while the next run is at work.
        let patience = async {
            cancel.cancelled().await;
            sleep(ENDING).await;
        };
        let began = tokio::select! {
            () = patience => Ok(()),
            began = self.begin(progress, lost) => match began {
                Ok(beginning) if !cancel.is_cancelled() => {
                    self.spawn_tasks(&mut tasks, beginning, progress, requests, &cancel);
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
        };
        let result = match began {
            Ok(()) => until_first_end(&mut tasks, &cancel).await,
            Err(error) => Err(error),
        };
        requests.send_replace(None);
        // The next run compares everything anew.
        progress.set_all_compared(false);
        cancel.cancel();
        let result = end(&mut tasks, result).await;
        ended.cancel();
        let kept = flatten(keeper.await);
        match kept {
            Ok(()) => lease.release().await,
            // It is another's, or the target does not answer: there is nothing to wait for once more.
            Err(_) => lease.abandon(),
        }
        // Without the lease everything else fails too.
        kept.and(result)
    }

    /// Whether `checkpoint` is of this very migration.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) that says what differs.
    pub async fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (source, sink) = futures::try_join!(self.source.describe(), self.sink.describe())?;
        for (what, theirs, ours) in [
            ("source", &checkpoint.source, &source.identity),
            ("target", &checkpoint.sink, &sink.identity),
        ] {
            if theirs != ours {
                return Err(mismatch(format!(
                    "it belongs to the {what} `{theirs}`, this {what} is `{ours}`"
                )));
            }
        }
        if checkpoint.selection != self.settings.selection {
            return Err(mismatch(
                "it was made with other includes, excludes or renames".to_owned(),
            ));
        }
        self.check_way_back(checkpoint)
    }

    /// The checkpoint to go on from, if there is one.
    ///
    /// # Errors
    /// It belongs to another migration, or cannot be read.
    pub async fn load(&self) -> Result<Option<Checkpoint>> {
        let Some(bytes) = self.store.load().await? else {
            return Ok(None);
        };
        let checkpoint = Checkpoint::decode(&bytes)?;
        if self.takes_the_place_of(&checkpoint) {
            return Ok(None);
        }
        self.check(&checkpoint).await?;
        Ok(Some(checkpoint))
    }

    async fn begin(&self, progress: &Arc<Progress>, lost: Option<&str>) -> Result<Beginning> {
        // Whoever had the lease before may have been cut off in the middle of something.
        self.sink.quiesce().await?;
        self.store.claim().await?;
        self.prepare_way_back().await?;
        let loaded = self.load().await?;
        if loaded
            .as_ref()
            .is_some_and(|checkpoint| checkpoint.source_writes_blocked)
        {
            progress.write_block.found();
        }
        let beginning = match loaded {
            Some(checkpoint) if checkpoint.complete => {
                return Err(mismatch(
                    "the migration is complete; to run it again remove its checkpoint first".to_owned(),
                ));
            }
            Some(checkpoint) => match lost {
                Some(reason) => self.resync(checkpoint, progress, reason).await?,
                None => self.go_on(checkpoint, progress).await?,
            },
            None => self.begin_anew().await?,
        };
        let already = Amount {
            documents: beginning.checkpoint.copied_documents,
            bytes: beginning.checkpoint.copied_bytes,
        };
        let mut total = Amount::default();
        for collection in &beginning.collections {
            total.documents += collection.documents;
            total.bytes += collection.bytes;
        }
        progress.begin_copy(total, already);
        progress.set_watermark(beginning.checkpoint.watermark);
        progress.set_read(progress.read().max(beginning.checkpoint.watermark));
        progress.set_resume(beginning.checkpoint.resume);
        progress.set_resyncs(beginning.checkpoint.resyncs);
        progress.left_selection.go_on(&beginning.checkpoint.left_selection);
        let (resumed, position) = (beginning.resumed, beginning.checkpoint.watermark);
        progress.events.send(Event::Started { resumed, position });
        Ok(beginning)
    }

    async fn go_on(&self, mut checkpoint: Checkpoint, progress: &Progress) -> Result<Beginning> {
        self.end_rename(&mut checkpoint).await?;
        // A run of this process may have read further than the last checkpoint says.
        let seen = checkpoint.seen.max(checkpoint.watermark).max(progress.read());
        // A new primary may not know yet what a majority has that an earlier run has seen.
        let replay_until = self.newest_after(seen).await?;
        let tail = must_hold(seen, checkpoint.resume, self.source.tail(checkpoint.resume).await?);
        let collections: Vec<Tracked> = checkpoint.collections.iter().map(Tracked::from_checkpoint).collect();
        // The process may have ended between its first checkpoint and the last of these.
        if !checkpoint.created {
            arrange(&*self.sink, &collections, &checkpoint.left_over).await?;
        }
        Ok(Beginning {
            checkpoint,
            collections,
            tail,
            replay_until,
            resumed: true,
        })
    }

    /// Finds out whether a rename that was under way was carried out. If it was, the checkpoint is as after it: whatever is written under
    /// the old name would make a collection there, and the rename, done once more, would put that in the place of the whole one.
    pub(crate) async fn end_rename(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        let Some(renaming) = checkpoint.renaming.take() else {
            return Ok(());
        };
        let standing = self.sink.collections().await?;
        let Some(state) = checkpoint
            .collections
            .iter_mut()
            .find(|state| state.id == renaming.collection)
        else {
            return Ok(());
        };
        if standing.iter().any(|collection| collection.namespace == state.target) {
            return Ok(());
        }
        state.target = self.settings.selection.target(&renaming.to);
        state.namespace = renaming.to;
        checkpoint
            .collections
            .retain(|state| Some(state.id) != renaming.dropped);
        checkpoint.watermark = renaming.position;
        Ok(())
    }

    async fn begin_anew(&self) -> Result<Beginning> {
        let plan = preflight::check(self, preflight::Purpose::Start).await?;
        plan.refuse()?;
        let Listing {
            position,
            resume,
            collections: listed,
            tail,
        } = listing::list(&*self.source, &self.settings.selection).await?;
        let (source, sink) = futures::try_join!(self.source.describe(), self.sink.describe())?;
        let on_sink = self.sink.collections().await?;
        let stands = |name: &Namespace| on_sink.iter().any(|collection| collection.namespace == *name);
        let mut collections = self.track(&listed, |name| {
            self.settings.existing_data == ExistingData::Keep && stands(name)
        });
        let selection = self.settings.selection.clone();
        let checkpoint = Checkpoint {
            collections: collections.iter().map(Tracked::to_checkpoint).collect(),
            ..Checkpoint::begin(source.identity, sink.identity, selection, position, resume)
        };
        if self.settings.existing_data == ExistingData::Clear {
            for collection in collections
                .iter()
                .filter(|collection| stands(&collection.target.target))
            {
                self.sink
                    .execute(&CatalogCommand::Drop {
                        namespace: collection.target.target.clone(),
                    })
                    .await?;
            }
            // Else a crash could bring the old documents back under the new checkpoint.
            self.sink.flush().await?;
        }
        self.store.save(&checkpoint.encode()?).await?;
        arrange(&*self.sink, &collections, &checkpoint.left_over).await?;
        self.cut(&mut collections, &listed).await?;
        Ok(Beginning {
            checkpoint,
            collections,
            tail,
            replay_until: Position::ZERO,
            resumed: false,
        })
    }

    /// What is listed, none of it read. What may have documents on the target is repaired.
    pub(crate) fn track(&self, listed: &[Collection], has_documents: impl Fn(&Namespace) -> bool) -> Vec<Tracked> {
        let track = |collection: &Collection| {
            let target = self.settings.selection.target(&collection.namespace);
            if collection.kind == CollectionKind::View {
                return Tracked::view(collection.namespace.clone(), target, collection.options.clone());
            }
            let has_documents = has_documents(&target);
            let tracked = Tracked::unread(collection, target, Vec::new());
            if has_documents {
                Tracked::from_checkpoint(&tracked.to_checkpoint())
            } else {
                tracked
            }
        };
        listed.iter().map(track).collect()
    }

    /// Cuts large collections into ranges, so that several walkers can copy one.
    pub(crate) async fn cut(&self, collections: &mut [Tracked], listed: &[Collection]) -> Result<()> {
        for (tracked, collection) in collections.iter_mut().zip(listed) {
            if collection.kind.has_ranges() && collection.bytes > self.settings.chunk_bytes {
                let cuts = self.source.split(collection, self.settings.chunk_bytes).await?;
                tracked.ranges.cut(cuts);
            }
        }
        Ok(())
    }

    fn spawn_tasks(
        &self,
        tasks: &mut JoinSet<Result<()>>,
        beginning: Beginning,
        progress: &Arc<Progress>,
        requests: &Requests,
        cancel: &CancellationToken,
    ) {
        let settings = &self.settings;
        let (send_entries, entries) = mpsc::channel(READ_AHEAD);
        let (send_requests, received) = mpsc::channel(settings.walkers * 2);
        let (reached, markers) = mpsc::unbounded_channel();
        let (saves, save_requests) = mpsc::channel(1);
        // Shares of the budget: three batches a walker, changes on their way to the lanes, changes held for chunks, entries read ahead, and
        // the `_id`s of what has changed since it was compared.
        let batch_bytes = (settings.memory_bytes / 100 * 30 / (settings.walkers * 3)).clamp(64 << 10, 2 << 20);
        let (lane_bytes, held_limit) = (settings.memory_bytes / 100 * 25, settings.memory_bytes / 100 * 25);
        let batches = Budget::new(batch_bytes * settings.walkers * 3);
        let read_ahead = Budget::new(settings.memory_bytes / 100 * 15);
        let mut lanes = Vec::with_capacity(settings.lanes);
        for index in 0..settings.lanes {
            let (sender, messages) = mpsc::channel(64);
            lanes.push(sender);
            let (source, sink, progress) = (Arc::clone(&self.source), Arc::clone(&self.sink), Arc::clone(progress));
            tasks.spawn(
                Lane::new(
                    index,
                    source,
                    sink,
                    progress,
                    messages,
                    reached.clone(),
                    beginning.replay_until,
                )
                .run(cancel.clone()),
            );
        }
        let router = Router::new(RouterParts {
            source: Arc::clone(&self.source),
            sink: Arc::clone(&self.sink),
            selection: settings.selection.clone(),
            ddl: settings.ddl,
            progress: Arc::clone(progress),
            entries,
            requests: received,
            lanes,
            lane_bytes,
            held_limit,
            chunk_bytes: settings.chunk_bytes,
            prove: settings.verification == Verification::Continuous,
            changed_limit: settings.memory_bytes / 100 * 5,
            reached: markers,
            saves,
            cancel: cancel.clone(),
            checkpoint: beginning.checkpoint,
            collections: beginning.collections,
            replay_until: beginning.replay_until,
        });
        tasks.spawn(router.run());
        let durability = Durability::new(Arc::clone(&self.sink));
        tasks.spawn(save_checkpoints(
            durability.clone(),
            Arc::clone(&self.store),
            Arc::clone(progress),
            save_requests,
        ));
        tasks.spawn(pump(
            beginning.tail,
            send_entries,
            read_ahead,
            Arc::clone(progress),
            cancel.clone(),
        ));
        tasks.spawn(watch_source(
            Arc::clone(&self.source),
            Arc::clone(progress),
            settings.max_lag,
            cancel.clone(),
        ));
        tasks.spawn(watch_deployments(
            Arc::clone(&self.source),
            Arc::clone(&self.sink),
            Arc::clone(&self.seen),
            Arc::clone(progress),
            cancel.clone(),
        ));
        if settings.watch_foreign_writes {
            let (sink, selection) = (Arc::clone(&self.sink), settings.selection.clone());
            tasks.spawn(watch_foreign_writes(
                sink,
                selection,
                Arc::clone(progress),
                cancel.clone(),
            ));
        }
        for _ in 0..settings.walkers {
            let walker = Walker {
                source: Arc::clone(&self.source),
                sink: Arc::clone(&self.sink),
                durability: durability.clone(),
                progress: Arc::clone(progress),
                requests: send_requests.clone(),
                batch_bytes,
                batches: batches.clone(),
                cancel: cancel.clone(),
            };
            tasks.spawn(walker.run());
        }
        requests.send_replace(Some(send_requests));
    }
}

pub(crate) fn mismatch(message: String) -> Error {
    Error::new(ErrorKind::CheckpointMismatch, "go on from the checkpoint", message)
}

/// Waits until the run is cancelled or a task ends, which none does on its own before the run is over.
async fn until_first_end(tasks: &mut JoinSet<Result<()>>, cancel: &CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            ended = tasks.join_next() => match ended {
                Some(ended) => flatten(ended)?,
                None => return Ok(()),
            },
        }
    }
}

/// Lets the tasks finish what they are writing, and finds the error that the others follow from.
async fn end(tasks: &mut JoinSet<Result<()>>, mut result: Result<()>) -> Result<()> {
    let collect = async {
        while let Some(ended) = tasks.join_next().await {
            let secondary = matches!(&result, Err(error) if error.kind() == ErrorKind::Stopped);
            if let Err(error) = flatten(ended)
                && (secondary && error.kind() != ErrorKind::Stopped)
            {
                result = Err(error);
            }
        }
    };
    // Whatever has not ended by then waits for a server that does not answer.
    if timeout(ENDING, collect).await.is_err() {
        tasks.shutdown().await;
    }
    result
}

fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|error| {
        if error.is_panic() {
            Err(Error::new(
                ErrorKind::Panic,
                "run the migration",
                "a task panicked; the checkpoint is good to go on from",
            )
            .with_source(error))
        } else {
            Err(Error::stopped("run the migration"))
        }
    })
}
