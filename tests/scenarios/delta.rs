//! Deltas applied in memory give what the servers that logged them stored, byte for byte.
//!
//! The documents and updates are random. `MONGOFERRY_SEED` repeats a run, `MONGOFERRY_CASES` makes it longer or shorter;
//! the long runs are ignored tests.

use std::collections::BTreeMap;

use bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongoferry::oplog::delta;
use mongoferry_testbed::Version;
use rand::Rng;

mod awkward;
mod bench;
mod bytes;
mod random;
mod repeated;
mod rules;
pub mod wire;

use bench::{Bench, ROUND};
use bytes::{assert_same, can_be_forwarded, raw, readable, with_id};
use random::Chaos;

#[tokio::test]
async fn random_deltas_of_4_2() {
    random_deltas(Version::V4_2, cases(5_000)).await;
}

#[tokio::test]
async fn random_deltas_of_4_4() {
    random_deltas(Version::V4_4, cases(5_000)).await;
}

#[tokio::test]
async fn random_deltas_of_5_0() {
    random_deltas(Version::V5_0, cases(5_000)).await;
}

#[tokio::test]
async fn random_deltas_of_6_0() {
    random_deltas(Version::V6_0, cases(5_000)).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn very_many_random_deltas_of_4_2() {
    random_deltas(Version::V4_2, cases(100_000)).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn very_many_random_deltas_of_4_4() {
    random_deltas(Version::V4_4, cases(100_000)).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn very_many_random_deltas_of_5_0() {
    random_deltas(Version::V5_0, cases(100_000)).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn very_many_random_deltas_of_6_0() {
    random_deltas(Version::V6_0, cases(100_000)).await;
}

/// A 5.0 or later target keeps the field order of an older source when the paths are sent one by one.
#[tokio::test]
async fn operators_of_an_old_source_give_equal_documents() {
    let seed = seed();
    let (source, target) = tokio::join!(Bench::start(Version::V4_2, seed), Bench::start(Version::V6_0, seed));
    let mut chaos = Chaos::new(seed, false);
    let mut ordered = 0;
    for _ in 0..cases(5_000).div_ceil(ROUND) {
        let updates = |chaos: &mut Chaos, document: &Document| vec![chaos.operators(document)];
        let round = source.round(&mut chaos, updates).await;
        target.insert("copy", round.before.values()).await;
        let mut statements = RawArrayBuf::new();
        for (id, entry) in &round.entries {
            if !can_be_forwarded(entry) {
                continue;
            }
            if delta::v1_needs_ordered_sets(entry).unwrap() {
                ordered += 1;
                for update in delta::v1_as_ordered_operators(entry).unwrap() {
                    statements.push(rawdoc! { "q": { "_id": *id }, "u": update });
                }
            } else {
                statements.push(rawdoc! { "q": { "_id": *id }, "u": delta::v1_as_operators(entry).unwrap() });
            }
        }
        let errors = target.update("copy", statements).await;
        assert_eq!(errors, BTreeMap::new(), "seed {seed}");
        let copied = target.read("copy", &round.before).await;
        for (id, entry) in &round.entries {
            if can_be_forwarded(entry) {
                assert_same(&copied[id], &round.after[id], || round.story(seed, *id));
            }
        }
    }
    assert!(ordered > 0, "no update needed ordered sets");
}

#[tokio::test]
async fn awkward_updates() {
    for version in [Version::V4_2, Version::V4_4, Version::V5_0, Version::V6_0] {
        let bench = Bench::start(version, 0).await;
        let cases = awkward::cases(bench.writes_v2());
        let documents: Vec<RawDocumentBuf> = (0..).zip(&cases).map(|(id, case)| with_id(id, &case.before)).collect();
        let mut statements = RawArrayBuf::new();
        for (id, case) in (0_i32..).zip(&cases) {
            statements.push(raw(&doc! { "q": { "_id": id }, "u": case.change.clone() }));
        }
        let round = bench.run(documents.iter(), statements).await;
        for (id, case) in (0..).zip(&cases) {
            let logged: Vec<_> = round.entries.iter().filter(|(logged, _)| *logged == id).collect();
            assert_eq!(logged.len(), 1, "{} on {version}", case.name);
            assert_eq!(
                delta::format_of(&logged[0].1).is_ok_and(|format| format.is_some()),
                case.is_delta(version),
                "{} on {version}: {:?}",
                case.name,
                readable(&logged[0].1)
            );
        }
        round.check(0);
    }
}

/// A replacement may have a field called `$v` from 5.0 on, and is no delta for all that.
#[tokio::test]
async fn a_replacement_with_a_version_field_is_no_delta() {
    let bench = Bench::start(Version::V6_0, 0).await;
    let before = rawdoc! { "_id": 1_i64, "a": 1 };
    let replacement = rawdoc! { "$replaceWith": { "$literal": { "$v": 2, "diff": { "u": { "a": 7 } } } } };
    let mut pipeline = RawArrayBuf::new();
    pipeline.push(replacement);
    let mut statements = RawArrayBuf::new();
    statements.push(rawdoc! { "q": { "_id": 1 }, "u": pipeline });
    let round = bench.run([&before].into_iter(), statements).await;
    assert_eq!(round.entries.len(), 1);
    assert_eq!(delta::format_of(&round.entries[0].1), Ok(None));
    assert_same(&round.entries[0].1, &round.after[&1], || "the replacement".to_owned());
}

async fn random_deltas(version: Version, cases: usize) {
    let seed = seed();
    let bench = Bench::start(version, seed).await;
    let v2 = bench.writes_v2();
    let mut chaos = Chaos::new(seed, v2);
    let mut deltas = 0;
    let mut conflicts = 0;
    let rules = rules::FieldRuleSets::new();
    while deltas < cases {
        let updates = |chaos: &mut Chaos, document: &Document| {
            let count = if chaos.index(4) == 0 { 3 } else { 1 };
            // 4.4 and earlier log a pipeline's result as a replacement, so a few are enough.
            let mut update = || {
                if v2 || chaos.index(20) == 0 {
                    chaos.update(document)
                } else {
                    chaos.operators(document)
                }
            };
            (0..count).map(|_| update()).collect()
        };
        let round = bench.round(&mut chaos, updates).await;
        deltas += round.check(seed);
        rules.check(&round, seed);
        conflicts += bench.check_on_other_documents(&mut chaos, &round).await;
    }
    rules.check_effects();
    // A generator that has gone tame would test nothing.
    assert!(conflicts > cases / 100, "{conflicts} conflicts in {cases} cases");
}

fn seed() -> u64 {
    let seed = std::env::var("MONGOFERRY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    // Shown when the test fails, in whatever way.
    println!("seed {seed}");
    seed
}

fn cases(default: usize) -> usize {
    std::env::var("MONGOFERRY_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}
