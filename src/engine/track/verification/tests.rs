use tokio_util::sync::CancellationToken;

use super::pauses::{PATIENCE, PAUSE, REST};
use super::*;
use crate::compare::difference::DifferenceKind;
use crate::engine::track::ranges::ChunkId;
use crate::model::Change;

#[tokio::test(start_paused = true)]
async fn what_cannot_be_compared_is_tried_ever_more_seldom() {
    let mut verification = RangeVerification::default();
    verification.begin();
    let begun = Instant::now();
    let mut failures = 0;
    while begun.elapsed() < 3 * REST {
        if verification.is_due(Instant::now()) {
            verification.fail(Some("there is no snapshot".to_owned()), Instant::now());
            failures += 1;
        }
        tokio::time::advance(PAUSE).await;
    }
    assert!((PATIENCE..PATIENCE + 4).contains(&failures), "{failures}");
    assert!(matches!(verification.state(), VerificationState::Failing(_)));
    // A caller that asks for a comparison does not wait for the pause to end.
    verification.begin();
    assert!(verification.is_due(Instant::now()));
}

/// However many documents change, ranges that were not compared yet get their turn.
#[tokio::test(start_paused = true)]
async fn ranges_and_what_has_changed_take_turns() {
    let key = |id: i32| Key::from(bson::RawBsonRef::Int32(id));
    let mut verification = RangeVerification::default();
    verification.begin();
    let mut turns = String::new();
    for turn in 0..8 {
        let again = verification.is_due_again(Instant::now(), true);
        assert!(again || verification.is_due(Instant::now()));
        let what = if again {
            verification.next_changed(1)
        } else {
            verification.next_range()
        };
        turns.push(if again { 'c' } else { 'r' });
        let (applied, _) = tokio::sync::oneshot::channel();
        let tokens = (CancellationToken::new(), CancellationToken::new());
        verification.run(VerificationInFlight::new(
            ChunkId(turn),
            what,
            (Position::ZERO, Position::ZERO),
            tokens,
            (turn, applied),
            Instant::now(),
        ));
        let compared = Compared {
            is_at_position: true,
            opened: Position::ZERO,
            last: Some(key(turn as i32)),
            left: HashSet::new(),
            documents: 1,
            bytes: 1,
            differences: Vec::new(),
            count: 0,
        };
        verification.add(compared);
        verification.take(Instant::now());
        for id in 0..turn as i32 + 1 {
            verification.note(&key(id), Instant::now());
        }
    }
    assert_eq!(turns, "rcrcrcrc");
}

#[test]
fn a_document_that_may_have_changed_since_the_position_is_no_difference() {
    let key = |id: i32| Key::from(bson::RawBsonRef::Int32(id));
    for (is_at_position, expected) in [(true, vec![1, 2]), (false, vec![2])] {
        let mut verification = RangeVerification::default();
        verification.begin();
        let (applied, _) = tokio::sync::oneshot::channel();
        let mut running = VerificationInFlight::new(
            ChunkId(1),
            verification.next_range(),
            (Position::ZERO, Position::ZERO),
            (CancellationToken::new(), CancellationToken::new()),
            (1, applied),
            Instant::now(),
        );
        running.hold(Change {
            position: crate::test_util::at(5),
            collection: bson::Uuid::from_bytes([0; 16]),
            namespace: std::sync::Arc::new("a.b".parse().unwrap()),
            write: crate::model::Write {
                key: key(1),
                operation: crate::model::Operation::Delete,
            },
        });
        verification.run(running);
        let differs = |id| Difference {
            key: key(id),
            kind: DifferenceKind::Missing,
            source_hash: None,
            target_hash: None,
        };
        let (found, count) = verification.add(Compared {
            is_at_position,
            opened: Position::ZERO,
            last: None,
            left: HashSet::new(),
            documents: 2,
            bytes: 2,
            differences: vec![differs(1), differs(2)],
            count: 2,
        });
        let found: Vec<Key> = found.into_iter().map(|difference| difference.key).collect();
        assert_eq!(found, expected.iter().map(|id| key(*id)).collect::<Vec<_>>());
        assert_eq!(
            (count, verification.differences()),
            (found.len() as u64, found.len() as u64)
        );
    }
}
