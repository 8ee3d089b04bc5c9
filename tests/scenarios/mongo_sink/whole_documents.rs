//! Documents that have to be stored as they are.

use bson::raw::RawDocumentBuf;
use bson::{Timestamp, rawdoc};
use mongoferry::sink::{Refusal, Sink};
use mongoferry::{CollectionKind, Namespace, Operation, Write};
use mongoferry_testbed::Version;

use super::corpus::{Sample, plain, samples};
use super::{Bench, batch, namespace, on_versions, read_all};

on_versions!(whole_documents_are_stored_byte_for_byte);
on_versions!(repeated_names_are_replaced: v4_2 V4_2, v5_0 V5_0, v6_0 V6_0, v6_0_27 V6_0_27);

/// Each way of storing, onto nothing, onto the same document, and onto another one with its `_id`.
async fn whole_documents_are_stored_byte_for_byte(version: Version) {
    let bench = Bench::start(version).await;
    let samples = samples();
    let documents: Vec<&RawDocumentBuf> = samples.iter().map(|sample| &sample.document).collect();

    let inserted = namespace("inserted");
    for round in ["new", "again"] {
        let refusals = bench
            .sink
            .insert(&inserted, &batch(documents.iter().copied()))
            .await
            .unwrap();
        check(&bench, &inserted, &samples, &refusals, version, round).await;
    }

    for (name, operation) in [
        ("applied_inserts", Operation::Insert as fn(RawDocumentBuf) -> Operation),
        ("applied_replacements", Operation::Replace),
    ] {
        let applied = namespace(name);
        let writes: Vec<Write> = samples
            .iter()
            .map(|sample| Write {
                key: sample.key(),
                operation: operation(sample.document.clone()),
            })
            .collect();
        for round in ["new", "again"] {
            let refusals = bench
                .sink
                .apply(&applied, CollectionKind::Plain, &writes)
                .await
                .unwrap();
            check(
                &bench,
                &applied,
                &samples,
                &refusals,
                version,
                &format!("{name} {round}"),
            )
            .await;
        }
        let others = samples
            .iter()
            .filter(|sample| sample.is_taken_by(version))
            .map(|sample| plain(&sample.document));
        let others: Vec<RawDocumentBuf> = others.collect();
        assert_eq!(bench.sink.insert(&applied, &batch(&others)).await.unwrap(), []);
        let refusals = bench
            .sink
            .apply(&applied, CollectionKind::Plain, &writes)
            .await
            .unwrap();
        check(
            &bench,
            &applied,
            &samples,
            &refusals,
            version,
            &format!("{name} onto another"),
        )
        .await;
    }
}

/// The one way to store an empty timestamp makes 5.0 and later compare it with the document that it replaces.
async fn repeated_names_are_replaced(version: Version) {
    let bench = Bench::start(version).await;
    let namespace = namespace("replaced");
    let before = rawdoc! { "_id": 1, "pad": "p".repeat(500), "s": { "x": 1, "x": 2 } };
    let empty = Timestamp { time: 0, increment: 0 };
    for t in [bson::Bson::Timestamp(empty), bson::Bson::Null] {
        let after = rawdoc! { "_id": 1, "pad": "p".repeat(500), "s": { "x": 5 }, "t": bson::raw::RawBson::try_from(t).unwrap() };
        for document in [&before, &after, &before] {
            let write = Write {
                key: super::key(1),
                operation: Operation::Replace(document.clone()),
            };
            let refusals = bench
                .sink
                .apply(&namespace, CollectionKind::Plain, &[write])
                .await
                .unwrap();
            assert_eq!(refusals, [], "{version}");
            assert_eq!(
                read_all(&bench.sink, &namespace).await,
                std::slice::from_ref(document),
                "{version}"
            );
        }
    }
}

/// What the target takes is there byte for byte; everything else is refused, and nothing of it is there.
async fn check(
    bench: &Bench,
    namespace: &Namespace,
    samples: &[Sample],
    refusals: &[Refusal],
    version: Version,
    round: &str,
) {
    let stored = read_all(&bench.sink, namespace).await;
    for (index, sample) in samples.iter().enumerate() {
        let name = sample.name;
        let refusal = refusals.iter().find(|refusal| refusal.index == index);
        let is_stored = stored.contains(&sample.document);
        if sample.is_taken_by(version) {
            assert_eq!(refusal, None, "{round}: {name} on {version}");
            assert!(is_stored, "{round}: {name} is stored unchanged on {version}");
        } else {
            assert!(refusal.is_some(), "{round}: {name} is refused on {version}");
            assert!(!is_stored, "{round}: {name} is not stored on {version}");
        }
    }
    let taken = samples.iter().filter(|sample| sample.is_taken_by(version)).count();
    assert_eq!(stored.len(), taken, "{round}: nothing else is there on {version}");
}
