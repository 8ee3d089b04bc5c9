mod rules;

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{RawBsonRef, rawdoc};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::engine::messages::ResolveStep;
use crate::model::{CollectionMapping, Namespace};
use crate::report::Events;
use crate::runtime::limits::memory::MemoryBudget;
use crate::sink::{CatalogCommand, MemorySink, SinkCall};
use crate::source::MemorySource;
use crate::test_util::at;

const NAME: &str = "shop.orders";

struct Bench {
    source: MemorySource,
    sink: MemorySink,
    target: Arc<CollectionMapping>,
    messages: mpsc::Sender<ApplierMessage>,
    reached: mpsc::Receiver<BarrierReached>,
    progress: Arc<RunState>,
    applier: JoinHandle<Result<()>>,
}

impl Bench {
    /// Creates an applier with a collection that has a unique index on `u` and the same documents on both sides.
    async fn new(replay_until: Position, documents: &[RawDocumentBuf]) -> Self {
        Self::with_room(1 << 20, replay_until, documents).await
    }

    /// Like `new`, with a limit in bytes for what the applier remembers.
    async fn with_room(refetched_bytes: usize, replay_until: Position, documents: &[RawDocumentBuf]) -> Self {
        Self::with(Arc::new(Shaping::none()), refetched_bytes, replay_until, documents).await
    }

    /// Like `with_room`, with the rules of `shaping`.
    async fn with(
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
    async fn write(&self, operation: Operation, key: Key) {
        let refused = self
            .sink
            .apply(&self.target.target, CollectionKind::Plain, &[Write { key, operation }])
            .await
            .unwrap();
        assert_eq!(refused, []);
    }

    async fn send(&self, changes: Vec<(Position, i32, Operation)>) {
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

    async fn refetch(&self, keys: Vec<Key>) {
        let permit = MemoryBudget::new(1).take(1).await.unwrap();
        let target = Arc::clone(&self.target);
        self.message(ApplierMessage::Refetch { target, keys, permit }).await;
    }

    async fn message(&self, message: ApplierMessage) {
        self.messages.send(message).await.ok().unwrap();
    }

    async fn barrier(&mut self, routed: Position) -> BarrierReached {
        self.barrier_naming(1 << 20, routed).await
    }

    /// Sends a barrier with a limit of `unsettled_bytes` for the names in its answer.
    async fn barrier_naming(&mut self, unsettled_bytes: usize, routed: Position) -> BarrierReached {
        self.message(ApplierMessage::Barrier {
            id: 0,
            routed,
            unsettled_bytes,
        })
        .await;
        self.reached.recv().await.unwrap()
    }

    async fn resolve(&self, stuck: &Stuck, step: ResolveStep) -> bool {
        let (reply, answer) = oneshot::channel();
        let stuck = stuck.clone();
        self.message(ApplierMessage::Resolve { stuck, step, reply }).await;
        answer.await.unwrap()
    }

    async fn end(self) {
        drop(self.messages);
        self.applier.await.unwrap().unwrap();
    }
}

/// Waits for a condition, for at most a minute.
async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), met).await.unwrap();
}

fn key_of(document: &RawDocumentBuf) -> Key {
    Key::of_document(document).unwrap()
}

fn v1(set: RawDocumentBuf) -> Operation {
    Operation::Delta(rawdoc! { "$v": 1, "$set": set })
}

#[tokio::test]
async fn writes_after_a_refused_one_keep_the_order_of_fields() {
    let mut bench = Bench::new(
        Position::ZERO,
        &[rawdoc! { "_id": 1 }, rawdoc! { "_id": 2, "u": 5 }, rawdoc! { "_id": 3 }],
    )
    .await;
    // The value moves from the second document to the first. This applier gets its change before another applier has written the second.
    bench.source.replace(NAME, rawdoc! { "_id": 2 }).unwrap();
    let update = |id: i32, set: RawDocumentBuf| {
        let position = bench
            .source
            .update(NAME, id, rawdoc! { "$v": 1, "$set": set.clone() })
            .unwrap();
        (position, id, v1(set))
    };
    let changes = vec![
        update(1, rawdoc! { "u": 5 }),
        update(1, rawdoc! { "after": 1 }),
        update(3, rawdoc! { "n": 1 }),
    ];
    let routed = changes[2].0;
    bench.send(changes).await;
    let reached = bench.barrier(routed).await;
    assert_eq!(reached.stuck.len(), 1);
    assert_eq!(reached.unsettled.documents.len(), 1);
    let key = Key::from(RawBsonRef::Int32(2));
    bench.write(Operation::Replace(rawdoc! { "_id": 2 }), key).await;
    assert!(!bench.resolve(&reached.stuck[0], ResolveStep::Retry).await);
    assert!(bench.resolve(&reached.stuck[0], ResolveStep::Refetch).await);
    let (ours, theirs) = (bench.source.documents(NAME), bench.sink.documents(NAME));
    assert_eq!(ours.unwrap(), theirs.unwrap());
    bench.end().await;
}

#[tokio::test]
async fn a_replayed_delta_without_its_document_reads_it_again() {
    let replay_until = Position {
        time: u32::MAX,
        ..Position::ZERO
    };
    let bench = Bench::new(replay_until, &[rawdoc! { "_id": 1, "n": 0 }]).await;
    let delta = rawdoc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    let position = bench.source.update(NAME, 1, delta.clone()).unwrap();
    // As left by a run that ended between clearing the document and writing it again.
    bench.write(Operation::Delete, Key::from(RawBsonRef::Int32(1))).await;
    bench.send(vec![(position, 1, Operation::Delta(delta))]).await;
    let (source, sink) = (bench.source.clone(), bench.sink.clone());
    bench.end().await;
    assert_eq!(source.documents(NAME).unwrap(), sink.documents(NAME).unwrap());
}

/// The document is read from the source, so no other applier has to wait for it.
#[tokio::test]
async fn an_ambiguous_change_reads_the_document_from_the_source() {
    let before = rawdoc! { "_id": 1, "x": 1, "x": 2 };
    let mut bench = Bench::new(Position::ZERO, &[before]).await;
    // As a server leaves it after a `$set`.
    let after = rawdoc! { "_id": 1, "x": 3, "x": 2 };
    let position = bench.source.replace(NAME, after.clone()).unwrap();
    let delta = rawdoc! { "$v": 2, "diff": { "u": { "x": 3 } } };
    bench.send(vec![(position, 1, Operation::Delta(delta))]).await;
    assert_eq!(bench.barrier(position).await.stuck.len(), 0);
    assert_eq!(bench.sink.documents(NAME).unwrap(), [after]);
    bench.end().await;
}

/// The collation may treat `a` and `A` as equal, and the insert would then replace `A`.
#[tokio::test]
async fn changes_before_a_read_of_a_collated_collection_are_read() {
    let other = rawdoc! { "_id": 1 };
    let mut bench = Bench::new(Position::ZERO, std::slice::from_ref(&other)).await;
    let (upper, lower) = (rawdoc! { "_id": "A" }, rawdoc! { "_id": "a" });
    let inserted = bench.source.insert(NAME, lower.clone()).unwrap();
    let deleted = bench.source.delete(NAME, "a".to_owned()).unwrap();
    bench.source.insert(NAME, upper.clone()).unwrap();
    let id = bench.source.collections().await.unwrap().remove(0).id;
    let namespace: Namespace = NAME.parse().unwrap();
    bench.target = Arc::new(CollectionMapping {
        id,
        namespace: namespace.clone(),
        target: namespace,
        kind: CollectionKind::Unordered,
    });
    bench.refetch(vec![key_of(&upper)]).await;
    for (position, operation) in [
        (inserted, Operation::Insert(lower.clone())),
        (deleted, Operation::Delete),
    ] {
        let permit = MemoryBudget::new(1).take(1).await.unwrap();
        let write = Write {
            key: key_of(&lower),
            operation,
        };
        let target = Arc::clone(&bench.target);
        bench
            .message(ApplierMessage::Changes {
                changes: vec![Routed {
                    target,
                    position,
                    write,
                }],
                bytes: 1,
                permit,
            })
            .await;
        bench.barrier(position).await;
        assert_eq!(bench.sink.documents(NAME).unwrap(), [other.clone(), upper.clone()]);
    }
    bench.end().await;
}

#[tokio::test]
async fn documents_read_ahead_are_named_until_the_tail_has_passed() {
    let mut bench = Bench::new(Position::ZERO, &[rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }]).await;
    let routed = bench.source.position().await.unwrap();
    bench.source.replace(NAME, rawdoc! { "_id": 1, "n": 1 }).unwrap();
    let ahead = bench.source.replace(NAME, rawdoc! { "_id": 2, "n": 1 }).unwrap();
    bench.refetch(vec![Key::from(RawBsonRef::Int32(1))]).await;
    let reached = bench.barrier(routed).await;
    let one = (bench.target.id, Key::from(RawBsonRef::Int32(1)));
    assert_eq!((reached.unsettled.documents, reached.ahead), (vec![one], ahead));
    let reached = bench.barrier(ahead).await;
    assert_eq!((reached.unsettled.documents, reached.ahead), (vec![], Position::ZERO));
    bench.end().await;
}

#[tokio::test]
async fn moving_unique_values_are_written_in_source_order() {
    let mut bench = Bench::new(
        Position::ZERO,
        &[rawdoc! { "_id": 1, "u": 1 }, rawdoc! { "_id": 2, "u": 2 }],
    )
    .await;
    // The first document takes each value that the second one has just dropped.
    let mut moved = async |value: i32, stuck: usize| {
        let update = |id: i32, value: i32| {
            let set = rawdoc! { "u": value };
            let delta = rawdoc! { "$v": 1, "$set": set.clone() };
            (bench.source.update(NAME, id, delta).unwrap(), id, v1(set))
        };
        let changes = vec![update(2, value + 1), update(1, value)];
        let routed = changes[1].0;
        bench.send(changes).await;
        let reached = bench.barrier(routed).await;
        assert_eq!(reached.stuck.len(), stuck, "{value}");
        for stuck in &reached.stuck {
            assert!(bench.resolve(stuck, ResolveStep::Retry).await);
        }
    };
    moved(2, 1).await;
    moved(3, 0).await;
    moved(4, 0).await;
    bench.end().await;
}

/// A change is applied once the applier has rested, or at once if a barrier follows it.
#[tokio::test(start_paused = true)]
async fn a_applier_rests_after_work_unless_somebody_waits_for_it() {
    let mut bench = Bench::new(Position::ZERO, &[rawdoc! { "_id": 0 }]).await;
    let insert = |id| vec![(at(id as u32), id, Operation::Insert(rawdoc! { "_id": id }))];
    for first in [1, 3] {
        let gate = bench.sink.hold(SinkCall::Apply);
        bench.send(insert(first)).await;
        gate.reached().await;
        advance(Duration::from_secs(1)).await;
        gate.release();
        let rested = Instant::now();
        bench.send(insert(first + 1)).await;
        if first == 3 {
            bench.barrier(at(4)).await;
            assert!(rested.elapsed() < Duration::from_millis(5));
            continue;
        }
        until(|| bench.sink.documents(NAME).unwrap().len() >= 3).await;
        assert!(
            (45..60).contains(&rested.elapsed().as_millis()),
            "{:?}",
            rested.elapsed()
        );
    }
    bench.end().await;
}

/// Returns `count` documents, each with `n: 0`.
fn documents(count: i32) -> Vec<RawDocumentBuf> {
    (0..count).map(|id| rawdoc! { "_id": id, "n": 0 }).collect()
}

#[tokio::test]
async fn refetched_documents_beyond_the_limit_are_read_again() {
    let documents = documents(300);
    let mut bench = Bench::with_room(4096, Position::ZERO, &documents).await;
    let routed = bench.source.position().await.unwrap();
    let replace = |n: i32| {
        let replaced = (0..300).map(|id| {
            let document = rawdoc! { "_id": id, "n": n };
            let position = bench.source.replace(NAME, document.clone()).unwrap();
            (position, id, Operation::Replace(document))
        });
        replaced.collect::<Vec<_>>()
    };
    let first = replace(1);
    let second = replace(2);
    bench.refetch(documents.iter().map(key_of).collect()).await;
    let reached = bench.barrier(routed).await;
    let unsettled = reached.unsettled;
    assert_eq!(
        (unsettled.documents, unsettled.collections),
        (vec![], HashSet::from([bench.target.id]))
    );
    let is_same = |bench: &Bench| bench.source.documents(NAME).unwrap() == bench.sink.documents(NAME).unwrap();
    assert!(is_same(&bench));
    // Changes that the documents already contain leave them as they are.
    bench.send(first).await;
    let reached = bench.barrier(routed).await;
    assert!(is_same(&bench));
    assert_eq!(reached.unsettled.collections, HashSet::from([bench.target.id]));
    // The documents of the same collection, under another name.
    let target = Arc::new(CollectionMapping {
        id: bench.target.id,
        namespace: bench.target.namespace.clone(),
        target: "shop.renamed".parse().unwrap(),
        kind: CollectionKind::Plain,
    });
    bench.message(ApplierMessage::Renamed { target }).await;
    bench.barrier(routed).await;
    let (ours, theirs) = (bench.source.documents(NAME), bench.sink.documents("shop.renamed"));
    assert_eq!(ours.unwrap(), theirs.unwrap());
    // Once everything is routed, nothing remains unsettled.
    let ahead = bench.source.position().await.unwrap();
    bench.send(second).await;
    let reached = bench.barrier(ahead).await;
    let unsettled = reached.unsettled;
    assert_eq!((unsettled.documents, unsettled.collections), (vec![], HashSet::new()));
    assert_eq!(reached.ahead, Position::ZERO);
    assert!(is_same(&bench));
    bench.end().await;
}

#[tokio::test]
async fn names_of_refetched_documents_take_no_more_than_allowed() {
    let mut refetched = RefetchedDocuments::new(Allowance::alone(1 << 20));
    let collection = Uuid::from_bytes([1; 16]);
    for id in 0..200_000 {
        let document = (collection, Key::from(RawBsonRef::Int32(id)));
        let read = Refetched {
            at: at(1),
            read_until: at(2 + id as u32),
            exact: true,
        };
        refetched.insert(document, read).await.unwrap();
        assert!(refetched.bytes() <= 1 << 20);
    }
    let change = |id| (collection, Key::from(RawBsonRef::Int32(id)));
    assert_eq!(refetched.know(&change(0), at(100_000)), Known::Unclear);
    let mut names = refetched.take_more().await.unwrap().unwrap();
    let mut seen = refetched.of_collection(collection).len();
    while let Some((_, _, until)) = names.next().await.unwrap() {
        assert!(until > at(1));
        seen += 1;
    }
    assert_eq!(seen, 200_000);
}

#[tokio::test]
async fn writes_of_a_refused_document_take_no_more_than_allowed() {
    let taken = [rawdoc! { "_id": 1, "u": 5 }, rawdoc! { "_id": 2, "n": 0 }];
    let mut bench = Bench::with_room(10_000, Position::ZERO, &taken).await;
    bench.source.replace(NAME, rawdoc! { "_id": 1 }).unwrap();
    let changes = (0..200).map(|n| {
        let document = rawdoc! { "_id": 2, "u": 5, "n": n, "text": "x".repeat(500) };
        let position = bench.source.replace(NAME, document.clone()).unwrap();
        (position, 2, Operation::Replace(document))
    });
    let changes: Vec<_> = changes.collect();
    let routed = changes[199].0;
    for change in changes {
        // One at a time, otherwise they would be coalesced.
        bench.send(vec![change]).await;
        bench.barrier(Position::ZERO).await;
    }
    let reached = bench.barrier(routed).await;
    assert_eq!(reached.stuck.len(), 1);
    assert!(!bench.resolve(&reached.stuck[0], ResolveStep::Retry).await);
    let key = Key::from(RawBsonRef::Int32(1));
    bench.write(Operation::Replace(rawdoc! { "_id": 1 }), key).await;
    assert!(
        !bench.resolve(&reached.stuck[0], ResolveStep::Retry).await,
        "its writes are forgotten"
    );
    assert!(bench.resolve(&reached.stuck[0], ResolveStep::Refetch).await);
    let (ours, theirs) = (bench.source.documents(NAME), bench.sink.documents(NAME));
    assert_eq!(ours.unwrap(), theirs.unwrap());
    bench.end().await;
}

/// Both documents have lost their queued writes, so these cannot put either of them in order.
#[tokio::test]
async fn large_documents_that_exchange_unique_values_are_resolved() {
    let large = |id: i32, u: i32| rawdoc! { "_id": id, "u": u, "text": "x".repeat(20_000) };
    let mut bench = Bench::with_room(10_000, Position::ZERO, &[large(1, 1), large(2, 2)]).await;
    let mut changes = Vec::new();
    for (id, u) in [(1, 3), (2, 1), (1, 2)] {
        let position = bench.source.replace(NAME, large(id, u)).unwrap();
        changes.push((position, id, Operation::Replace(large(id, u))));
    }
    let routed = changes[2].0;
    // The first change is coalesced away, as happens when another applier is behind.
    changes.remove(0);
    bench.send(changes).await;
    let reached = bench.barrier(routed).await;
    assert_eq!(reached.stuck.len(), 2);
    let mut left = reached.stuck;
    for step in [
        ResolveStep::Retry,
        ResolveStep::Clear,
        ResolveStep::Retry,
        ResolveStep::Refetch,
    ] {
        let mut still = Vec::new();
        for stuck in left {
            if !bench.resolve(&stuck, step).await {
                still.push(stuck);
            }
        }
        left = still;
    }
    assert!(left.is_empty());
    let (ours, theirs) = (bench.source.documents(NAME), bench.sink.documents(NAME));
    assert_eq!(ours.unwrap(), theirs.unwrap());
    bench.end().await;
}

#[tokio::test]
async fn refused_documents_without_room_are_reported() {
    let taken = rawdoc! { "_id": 0, "u": 5 };
    let mut bench = Bench::with_room(2000, Position::ZERO, std::slice::from_ref(&taken)).await;
    let insert = |id: i32| (at(id as u32), id, Operation::Insert(rawdoc! { "_id": id, "u": 5 }));
    bench.send((1..100).map(insert).collect()).await;
    let reached = bench.barrier(at(100)).await;
    let reported = bench.progress.refused.of(&bench.target.namespace).len();
    assert!(reached.stuck.len() > 1 && reported > 1);
    assert_eq!(reached.stuck.len() + reported, 99);
    bench.end().await;
}

#[tokio::test]
async fn more_unsettled_documents_than_fit_are_named_by_collection() {
    let documents = documents(50);
    let mut bench = Bench::new(Position::ZERO, &documents).await;
    let routed = bench.source.position().await.unwrap();
    bench.source.replace(NAME, rawdoc! { "_id": 1, "n": 1 }).unwrap();
    bench.refetch(documents.iter().map(key_of).collect()).await;
    for (bytes, named) in [(1 << 20, 50), (100, 0)] {
        let unsettled = bench.barrier_naming(bytes, routed).await.unsettled;
        assert_eq!(unsettled.documents.len(), named, "{bytes}");
        assert_eq!(unsettled.collections.is_empty(), named > 0, "{bytes}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_barrier_names_no_more_stuck_documents_than_fit() {
    const COUNT: i32 = 10_000;
    let taken = rawdoc! { "_id": 0, "u": 5 };
    let mut bench = Bench::with_room(64 << 20, Position::ZERO, std::slice::from_ref(&taken)).await;
    let insert = |id: i32| (at(id as u32), id, Operation::Insert(rawdoc! { "_id": id, "u": 5 }));
    bench.send((1..=COUNT).map(insert).collect()).await;
    let reached = bench.barrier(at(COUNT as u32)).await;
    let bytes: usize = reached.stuck.iter().map(|stuck| stuck.key.size_in_bytes()).sum();
    assert!(reached.stuck.len() > 100 && bytes < 300 << 10, "{bytes}");
    assert!(reached.more_stuck && reached.stuck.len() < COUNT as usize / 2);
    assert_eq!(reached.unsettled.documents.len(), COUNT as usize);
    bench.end().await;
}
