//! An applier between two sides in memory.

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::engine::messages::Stuck;
use crate::model::Namespace;
use crate::report::Events;
use crate::runtime::limits::memory::MemoryBudget;
use crate::sink::{CatalogCommand, MemorySink};
use crate::source::MemorySource;

pub(super) struct Bench {
    pub source: MemorySource,
    pub sink: MemorySink,
    pub target: Arc<CollectionMapping>,
    pub messages: mpsc::Sender<ApplierMessage>,
    pub reached: mpsc::Receiver<BarrierReached>,
    pub progress: Arc<RunState>,
    pub applier: JoinHandle<Result<()>>,
}

impl Bench {
    /// Creates an applier with a collection that has a unique index on `u` and the same documents on both sides.
    pub async fn new(replay_until: Position, documents: &[RawDocumentBuf]) -> Self {
        Self::with_room(1 << 20, replay_until, documents).await
    }

    /// Like `new`, with a limit in bytes for what the applier remembers.
    pub async fn with_room(refetched_bytes: usize, replay_until: Position, documents: &[RawDocumentBuf]) -> Self {
        Self::with(Arc::new(Shaping::none()), refetched_bytes, replay_until, documents).await
    }

    /// Like `with_room`, with the rules of `shaping`.
    pub async fn with(
        shaping: Arc<Shaping>,
        refetched_bytes: usize,
        replay_until: Position,
        documents: &[RawDocumentBuf],
    ) -> Self {
        let (source, sink) = (MemorySource::new(), MemorySink::new());
        for document in documents {
            source.insert(NAME, document.clone()).unwrap();
        }
        let listed = source.collections().await.unwrap().remove(0);
        let namespace: Namespace = NAME.parse().unwrap();
        let index = rawdoc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true, "sparse": true };
        let create = CatalogCommand::Create {
            namespace: namespace.clone(),
            kind: CollectionKind::Plain,
            options: rawdoc! {},
        };
        sink.execute(&create).await.unwrap();
        sink.create_index(&namespace, &index).await.unwrap();
        let target = Arc::new(CollectionMapping {
            id: listed.id,
            namespace: namespace.clone(),
            target: namespace,
            kind: CollectionKind::Plain,
        });
        let (messages, received) = mpsc::channel(16);
        let (send_reached, reached) = mpsc::channel(16);
        let progress = Arc::new(RunState::new(Events::new()));
        let applier = Applier::new(ApplierParts {
            index: 0,
            source: rules::shaped(&source, &shaping),
            shaping,
            sink: Arc::new(sink.clone()),
            progress: Arc::clone(&progress),
            messages: received,
            reached: send_reached,
            refetched: Allowance::alone(refetched_bytes),
            refused: Allowance::alone(refetched_bytes),
            batch_bytes: 1 << 20,
            replay_until,
        });
        let bench = Self {
            source,
            sink,
            target,
            messages,
            reached,
            progress,
            applier: tokio::spawn(applier.run(CancellationToken::new())),
        };
        for document in documents {
            bench.write(Operation::Insert(document.clone()), key_of(document)).await;
        }
        bench
    }

    /// Writes to the sink as another applier would.
    pub async fn write(&self, operation: Operation, key: Key) {
        let refused = self
            .sink
            .apply(&self.target.target, CollectionKind::Plain, &[Write { key, operation }])
            .await
            .unwrap();
        assert_eq!(refused, []);
    }

    pub async fn send(&self, changes: Vec<(Position, i32, Operation)>) {
        let permit = MemoryBudget::new(1).take(1).await.unwrap();
        let changes = changes
            .into_iter()
            .map(|(position, id, operation)| Routed {
                target: Arc::clone(&self.target),
                position,
                write: Write {
                    key: Key::from(RawBsonRef::Int32(id)),
                    operation,
                },
            })
            .collect();
        self.message(ApplierMessage::Changes {
            changes,
            bytes: 1,
            permit,
        })
        .await;
    }

    pub async fn refetch(&self, keys: Vec<Key>) {
        let permit = MemoryBudget::new(1).take(1).await.unwrap();
        let target = Arc::clone(&self.target);
        self.message(ApplierMessage::Refetch { target, keys, permit }).await;
    }

    pub async fn message(&self, message: ApplierMessage) {
        self.messages.send(message).await.ok().unwrap();
    }

    pub async fn barrier(&mut self, routed: Position) -> BarrierReached {
        self.barrier_naming(1 << 20, routed).await
    }

    /// Sends a barrier with a limit of `unsettled_bytes` for the names in its answer.
    pub async fn barrier_naming(&mut self, unsettled_bytes: usize, routed: Position) -> BarrierReached {
        self.message(ApplierMessage::Barrier {
            id: 0,
            routed,
            unsettled_bytes,
        })
        .await;
        self.reached.recv().await.unwrap()
    }

    pub async fn resolve(&self, stuck: &Stuck, step: ResolveStep) -> bool {
        let (reply, answer) = oneshot::channel();
        let stuck = stuck.clone();
        self.message(ApplierMessage::Resolve { stuck, step, reply }).await;
        answer.await.unwrap()
    }

    pub async fn end(self) {
        drop(self.messages);
        self.applier.await.unwrap().unwrap();
    }
}
