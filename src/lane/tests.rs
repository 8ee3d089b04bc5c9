use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{RawBsonRef, rawdoc};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::*;
use crate::event::Events;
use crate::sink::{MemorySink, SinkCall};
use crate::source::MemorySource;
use crate::test_util::at;

const NAME: &str = "shop.orders";

struct Bench {
    source: MemorySource,
    sink: MemorySink,
    target: Arc<Target>,
    messages: mpsc::Sender<LaneMessage>,
    reached: mpsc::UnboundedReceiver<MarkerReached>,
    lane: JoinHandle<Result<()>>,
}

impl Bench {
    /// A lane whose collection has a unique index on `u`, and the same documents on both sides.
    async fn new(replay_until: Position, documents: &[RawDocumentBuf]) -> Self {
        let (source, sink) = (MemorySource::new(), MemorySink::new());
        for document in documents {
            source.insert(NAME, document.clone()).unwrap();
        }
        let listed = source.collections().await.unwrap().remove(0);
        let namespace: Namespace = NAME.parse().unwrap();
        let index = rawdoc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true, "sparse": true };
        sink.create_index(&namespace, &index).await.unwrap();
        let target = Arc::new(Target {
            id: listed.id,
            namespace: namespace.clone(),
            target: namespace,
            kind: CollectionKind::Plain,
        });
        let (messages, received) = mpsc::channel(16);
        let (send_reached, reached) = mpsc::unbounded_channel();
        let lane = Lane::new(LaneParts {
            index: 0,
            source: Arc::new(source.clone()),
            sink: Arc::new(sink.clone()),
            progress: Arc::new(Progress::new(Events::new())),
            messages: received,
            reached: send_reached,
            batch_bytes: 1 << 20,
            replay_until,
        });
        let bench = Self {
            source,
            sink,
            target,
            messages,
            reached,
            lane: tokio::spawn(lane.run(CancellationToken::new())),
        };
        for document in documents {
            bench.write(Operation::Insert(document.clone()), key_of(document)).await;
        }
        bench
    }

    /// Writes to the sink as another lane does.
    async fn write(&self, operation: Operation, key: Key) {
        let refused = self
            .sink
            .apply(&self.target.target, CollectionKind::Plain, &[Write { key, operation }])
            .await
            .unwrap();
        assert_eq!(refused, []);
    }

    async fn send(&self, changes: Vec<(Position, i32, Operation)>) {
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
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
        self.message(LaneMessage::Changes {
            changes,
            bytes: 1,
            permit,
        })
        .await;
    }

    async fn message(&self, message: LaneMessage) {
        self.messages.send(message).await.ok().unwrap();
    }

    async fn marker(&mut self, routed: Position) -> MarkerReached {
        self.message(LaneMessage::Marker {
            id: 0,
            routed,
            unsettled_bytes: 1 << 20,
        })
        .await;
        self.reached.recv().await.unwrap()
    }

    async fn resolve(&self, stuck: &Stuck, step: ResolveStep) -> bool {
        let (reply, answer) = oneshot::channel();
        let stuck = stuck.clone();
        self.message(LaneMessage::Resolve { stuck, step, reply }).await;
        answer.await.unwrap()
    }

    async fn end(self) {
        drop(self.messages);
        self.lane.await.unwrap().unwrap();
    }
}

fn key_of(document: &RawDocumentBuf) -> Key {
    Key::of_document(document).unwrap()
}

fn v1(set: RawDocumentBuf) -> Operation {
    Operation::Delta(rawdoc! { "$v": 1, "$set": set })
}

#[tokio::test]
async fn what_follows_a_refused_write_does_not_change_the_order_of_fields() {
    let mut bench = Bench::new(
        Position::ZERO,
        &[rawdoc! { "_id": 1 }, rawdoc! { "_id": 2, "u": 5 }, rawdoc! { "_id": 3 }],
    )
    .await;
    // The value moves from the second document to the first, which its lane hears before the other lane has written that.
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
    let reached = bench.marker(routed).await;
    assert_eq!(reached.stuck.len(), 1);
    assert_eq!(reached.unsettled.unwrap().len(), 1);
    let key = Key::from(RawBsonRef::Int32(2));
    bench.write(Operation::Replace(rawdoc! { "_id": 2 }), key).await;
    assert!(!bench.resolve(&reached.stuck[0], ResolveStep::Retry).await);
    assert!(bench.resolve(&reached.stuck[0], ResolveStep::Settle).await);
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
    // As a run leaves it that had cleared the document, to write it anew, when it ended.
    bench.write(Operation::Delete, Key::from(RawBsonRef::Int32(1))).await;
    bench.send(vec![(position, 1, Operation::Delta(delta))]).await;
    let (source, sink) = (bench.source.clone(), bench.sink.clone());
    bench.end().await;
    assert_eq!(source.documents(NAME).unwrap(), sink.documents(NAME).unwrap());
}

/// No other lane has to wait for it.
#[tokio::test]
async fn an_ambiguous_change_reads_the_document_from_the_source() {
    let before = rawdoc! { "_id": 1, "x": 1, "x": 2 };
    let mut bench = Bench::new(Position::ZERO, &[before]).await;
    // As a server leaves it after a `$set`.
    let after = rawdoc! { "_id": 1, "x": 3, "x": 2 };
    let position = bench.source.replace(NAME, after.clone()).unwrap();
    let delta = rawdoc! { "$v": 2, "diff": { "u": { "x": 3 } } };
    bench.send(vec![(position, 1, Operation::Delta(delta))]).await;
    assert_eq!(bench.marker(position).await.stuck.len(), 0);
    assert_eq!(bench.sink.documents(NAME).unwrap(), [after]);
    bench.end().await;
}

#[tokio::test]
async fn documents_read_ahead_of_the_tail_are_named_until_it_has_passed() {
    let mut bench = Bench::new(Position::ZERO, &[rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }]).await;
    let routed = bench.source.position().await.unwrap();
    bench.source.replace(NAME, rawdoc! { "_id": 1, "n": 1 }).unwrap();
    let ahead = bench.source.replace(NAME, rawdoc! { "_id": 2, "n": 1 }).unwrap();
    let keys = vec![Key::from(RawBsonRef::Int32(1))];
    let target = Arc::clone(&bench.target);
    bench.message(LaneMessage::Settle { target, keys }).await;
    let reached = bench.marker(routed).await;
    let one = (bench.target.id, Key::from(RawBsonRef::Int32(1)));
    assert_eq!((reached.unsettled, reached.ahead), (Some(vec![one]), ahead));
    let reached = bench.marker(ahead).await;
    assert_eq!((reached.unsettled, reached.ahead), (Some(vec![]), Position::ZERO));
    bench.end().await;
}

#[tokio::test]
async fn a_collection_whose_unique_values_move_is_written_in_the_order_of_the_source() {
    let mut bench = Bench::new(
        Position::ZERO,
        &[rawdoc! { "_id": 1, "u": 1 }, rawdoc! { "_id": 2, "u": 2 }],
    )
    .await;
    // The first document takes each value that the second one has just given up.
    let mut moved = async |value: i32, stuck: usize| {
        let update = |id: i32, value: i32| {
            let set = rawdoc! { "u": value };
            let delta = rawdoc! { "$v": 1, "$set": set.clone() };
            (bench.source.update(NAME, id, delta).unwrap(), id, v1(set))
        };
        let changes = vec![update(2, value + 1), update(1, value)];
        let routed = changes[1].0;
        bench.send(changes).await;
        let reached = bench.marker(routed).await;
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

/// A change is applied once the lane has rested, and at once where a marker is behind it.
#[tokio::test(start_paused = true)]
async fn a_lane_rests_after_work_unless_somebody_waits_for_it() {
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
            bench.marker(at(4)).await;
            assert!(rested.elapsed() < Duration::from_millis(5));
            continue;
        }
        while bench.sink.documents(NAME).unwrap().len() < 3 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(
            (45..60).contains(&rested.elapsed().as_millis()),
            "{:?}",
            rested.elapsed()
        );
    }
    bench.end().await;
}
