//! Test fixture: a router with copied collections, and appliers and a store that do nothing.

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::state::CheckpointFacts;
use super::*;
use crate::checkpoint::PendingCheckpoint;
use crate::config::Verification;
use crate::engine::messages::Unsettled;
use crate::engine::track::ranges::Ranges;
use crate::model::{Collection, CollectionKind, Namespace, Operation, Write};
use crate::order::Key;
use crate::runtime::limits::allowance::Allowance;
use crate::runtime::limits::memory::MemoryBudget;
use crate::sink::MemorySink;
use crate::source::MemorySource;

/// Number of changes in one turn.
const TURN: usize = 1000;

/// Number of collections that are written to, however many there are.
const WRITTEN: usize = 10;

/// A router that is not started yet, and the other ends of its channels.
pub(crate) struct Fixture {
    pub router: Router,
    entries: mpsc::Sender<ReadAhead>,
    requests: mpsc::Sender<Request>,
    pub appliers: Vec<mpsc::Receiver<ApplierMessage>>,
    reached: mpsc::Sender<BarrierReached>,
    saves: mpsc::Receiver<SaveRequest>,
    written: Vec<(Uuid, Arc<Namespace>)>,
}

/// A router that is running.
pub(crate) struct Started {
    entries: mpsc::Sender<ReadAhead>,
    pub requests: mpsc::Sender<Request>,
    budget: MemoryBudget,
    tasks: JoinSet<()>,
}

impl Started {
    /// Sends entries to the router.
    pub async fn route(&self, entries: Vec<Entry>) {
        if let Ok(taken) = self.budget.take(1).await {
            let _ = self.entries.send(ReadAhead { entries, taken }).await;
        }
    }
}

impl Fixture {
    /// Creates a router with `collections` collections. If `held` is set, a range of each collection that is written to is being copied, so
    /// that changes are held for it.
    pub fn new(collections: usize, held: bool) -> Self {
        let (entries, read) = mpsc::channel(4);
        let (requests, asked) = mpsc::channel(4);
        let (reached, barriers) = mpsc::channel(64);
        let (saves, saved) = mpsc::channel(1);
        let (senders, appliers) = (0..2).map(|_| mpsc::channel(1024)).unzip();
        let mut written = Vec::new();
        let tracked = (0..collections).map(|number| {
            let id = Uuid::from_bytes((number as u128).to_be_bytes());
            let namespace = Namespace::new("shop", &format!("c{number}"));
            let collection = Collection {
                id,
                namespace: namespace.clone(),
                kind: CollectionKind::Plain,
                options: bson::rawdoc! {},
                indexes: vec![bson::rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
                documents: 100,
                bytes: 10_000,
            };
            let mut tracked = CollectionProgress::unread(&collection, namespace.clone(), Vec::new());
            if !(held && number < WRITTEN) {
                tracked.ranges = Ranges::done(Position::ZERO);
                tracked.advance_index_work(Position::ZERO);
            }
            if number < WRITTEN {
                written.push((id, Arc::new(namespace)));
            }
            tracked
        });
        let builds = Arc::new(Mutex::new(IndexBuilds::default()));
        #[expect(clippy::expect_used, reason = "nobody else holds the lock")]
        let builds = builds.try_lock_owned().expect("it is free");
        let mut router = Router::new(RouterParts {
            shaping: Arc::new(Shaping::none()),
            source: Arc::new(MemorySource::new()),
            sink: Arc::new(MemorySink::new()),
            ownership: Arc::new(Ownership::empty(Arc::new(MemorySink::new()))),
            builds,
            most_builds: 1,
            selection: Selection::all(),
            ddl: DdlPolicy::default(),
            rules: CollectionRules::all(Verification::Digest),
            progress: Arc::new(RunState::new(Events::new())),
            entries: read,
            requests: asked,
            appliers: senders,
            applier_memory: MemoryBudget::new(64 << 20),
            held_memory: Allowance::alone(64 << 20),
            chunk_bytes: 1 << 20,
            changed_memory: Allowance::alone(1 << 20),
            reached: barriers,
            saves,
            cancel: CancellationToken::new(),
            checkpoint: Checkpoint::begin("source", "sink", Selection::all(), Position::ZERO, Position::ZERO),
            collections: tracked.collect(),
            replay_until: Position::ZERO,
        });
        if held {
            // Just enough for chunks to be asked to finish.
            router.state.held = router.state.held_limit / 2;
            for (id, _) in &written {
                router.state.assign(*id, Position::ZERO);
            }
        }
        Self {
            router,
            entries,
            requests,
            appliers,
            reached,
            saves: saved,
            written,
        }
    }

    /// Returns the entries of one turn, with one change each.
    pub fn turn(&self, number: usize) -> Vec<Entry> {
        let entry = |change: usize| {
            let number = number * TURN + change;
            let (collection, namespace) = self.written[number % self.written.len()].clone();
            let position = Position {
                time: 1 + (number / 1000) as u32,
                increment: 1 + (number % 1000) as u32,
                term: 1,
            };
            let document = bson::rawdoc! { "_id": number as i64 };
            let change = Change {
                collection,
                namespace,
                position,
                write: Write {
                    key: Key::from(bson::RawBsonRef::Int64(number as i64)),
                    operation: Operation::Insert(document),
                },
            };
            Entry {
                position,
                resume: position,
                wall: bson::DateTime::from_millis(0),
                items: vec![Item::Change(change)],
                bytes: 100,
                continues: false,
                users_changed: false,
            }
        };
        (0..TURN).map(entry).collect()
    }

    /// Routes `turns` turns while a walker waits for work.
    pub async fn run(self, turns: usize) {
        let batches: Vec<Vec<Entry>> = (0..turns).map(|number| self.turn(number)).collect();
        let mut started = self.start();
        let (reply, _work) = oneshot::channel();
        let majority = Position::ZERO;
        let _ = started.requests.send(Request::Take { majority, reply }).await;
        for batch in batches {
            started.route(batch).await;
        }
        drop((started.entries, started.requests));
        // The router ends when its entries do.
        while started.tasks.join_next().await.is_some() {}
    }

    /// Starts the router, with appliers and a store that answer at once.
    pub fn start(mut self) -> Started {
        let mut tasks = self.run_appliers();
        let mut saves = self.saves;
        tasks.spawn(async move {
            while let Some(save) = saves.recv().await {
                let _ = save.done.send(true);
            }
        });
        let router = self.router;
        tasks.spawn(async move {
            let _ = router.run().await;
        });
        Started {
            entries: self.entries,
            requests: self.requests,
            budget: MemoryBudget::new(1 << 30),
            tasks,
        }
    }

    /// Starts tasks that answer for the appliers.
    pub fn run_appliers(&mut self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for mut applier in self.appliers.drain(..) {
            let reached = self.reached.clone();
            tasks.spawn(async move {
                while let Some(message) = applier.recv().await {
                    answer(message, &reached);
                }
            });
        }
        tasks
    }

    /// Returns `count` checkpoints, each after a change in the state of a collection.
    pub fn checkpoints(&mut self, count: usize) -> Vec<PendingCheckpoint> {
        let mut checkpoints = Vec::new();
        for (id, _) in self.written.iter().cycle().take(count) {
            if let Some(tracked) = self.router.state.tracked.get_mut(id) {
                tracked.documents += 1;
            }
            checkpoints.push(self.router.state.checkpoint_now(CheckpointFacts::default()));
        }
        checkpoints
    }

    /// Runs one turn of the router, followed by a tick.
    #[cfg(test)]
    pub async fn step(&mut self, number: usize) {
        for entry in self.turn(number) {
            self.router.route(entry).await.unwrap();
        }
        self.router.finish().await.unwrap();
        self.router.flush_buffers().await.unwrap();
        self.router.serve_idle().await.unwrap();
        self.router.send_barrier_if_due().await.unwrap();
        for applier in &mut self.appliers {
            while let Ok(message) = applier.try_recv() {
                answer(message, &self.reached);
            }
        }
        while let Ok(reached) = self.router.reached.try_recv() {
            self.router.barrier_reached(reached).await.unwrap();
        }
        if let Ok(save) = self.saves.try_recv() {
            let _ = save.done.send(true);
        }
    }

    /// Registers a walker that waits for work.
    #[cfg(test)]
    pub fn wait_for_work(&mut self) -> oneshot::Receiver<Work> {
        let (reply, work) = oneshot::channel();
        self.router.idle.push_back((Position::ZERO, reply));
        work
    }
}

fn answer(message: ApplierMessage, reached: &mpsc::Sender<BarrierReached>) {
    if let ApplierMessage::Barrier { id, .. } = message {
        let _ = reached.try_send(BarrierReached {
            id,
            stuck: Vec::new(),
            more_stuck: false,
            unsettled: Unsettled::default(),
            ahead: Position::ZERO,
        });
    }
}
