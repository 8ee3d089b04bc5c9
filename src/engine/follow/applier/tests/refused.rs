//! Documents whose changes the target refuses.

use super::*;

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
