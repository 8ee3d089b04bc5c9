//! Documents that were read from the source ahead of the tail.

use super::super::refetched::Refetched;
use super::*;
use crate::model::Namespace;
use crate::runtime::limits::memory::MemoryBudget;

/// Returns `count` documents, each with `n: 0`.
fn documents(count: i32) -> Vec<RawDocumentBuf> {
    (0..count).map(|id| rawdoc! { "_id": id, "n": 0 }).collect()
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
