//! I3: what is done about the memory that held changes take, step by step.

use super::*;

/// Size of the documents that are held.
const SIZE: usize = 1000;

impl Bench {
    /// Holds changes of a document for as long as what is held takes less than `limit` bytes.
    fn hold_until(&mut self, collection: u8, document: i32, limit: usize) {
        while self.state.held < limit {
            let position = at(self.state.routed.time + 1);
            let before = self.state.held;
            self.try_route(collection, document, position, SIZE).unwrap();
            if self.state.held < before {
                return;
            }
        }
    }

    /// The names of what was decided, and the tokens cancelled.
    fn steps(&mut self) -> Vec<&'static str> {
        let mut steps = Vec::new();
        for action in self.actions.drain(..) {
            steps.push(match action {
                Action::Cancel(token) => {
                    token.cancel();
                    "cancel"
                }
                Action::Hurry(token) => {
                    token.cancel();
                    "hurry"
                }
                Action::EndComparison { .. } => "end comparison",
                Action::Spill(Holder::Chunk(..)) => "spill chunk",
                Action::Spill(Holder::IndexBuild(_)) => "spill held back",
                _ => "other",
            });
        }
        steps
    }
}

#[test]
fn everything_is_hurried_once_at_half_of_the_limit() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10, 20])]);
    let limit = bench.state.held_limit;
    let chunks = [bench.assign(ORDERS, 1), bench.assign(ORDERS, 1)];
    bench.hold_until(ORDERS, 1, limit / 2 - 2 * SIZE);
    assert!(bench.steps().is_empty());
    bench.hold_until(ORDERS, 1, limit / 2);
    assert_eq!(bench.steps(), ["hurry", "hurry"]);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.hurry.is_cancelled() && !chunk.cancel.is_cancelled())
    );
    bench.hold_until(ORDERS, 1, limit - 4 * SIZE);
    assert!(bench.steps().is_empty(), "once is enough");
    // A chunk that begins meanwhile has not been asked yet.
    let next = bench.assign(ORDERS, 1);
    bench.hold_until(ORDERS, 1, bench.state.held + 1);
    assert_eq!(bench.steps(), ["hurry"; 3]);
    assert!(next.hurry.is_cancelled());
}

#[test]
fn comparisons_are_stopped_first_at_the_limit() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[]), indexed(ITEMS, 1)]);
    let limit = bench.state.held_limit;
    let chunk = bench.assign(ORDERS, 1);
    let compared = bench.state.tracked.get_mut(&id(ITEMS)).unwrap();
    compared.verification.ask();
    bench.compare();
    bench.actions.clear();
    bench.hold_until(ORDERS, 1, limit / 4);
    bench.hold_until(ITEMS, 1, limit);
    assert_eq!(bench.steps(), ["hurry", "hurry", "end comparison"]);
    assert!(bench.state.held < limit / 2 && bench.state.held > 0);
    assert!(!chunk.cancel.is_cancelled());
}

#[test]
fn held_back_changes_are_spilled_before_a_chunk_is_given_up() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[]), copied(ITEMS, 1)]);
    let limit = bench.state.held_limit;
    let chunk = bench.assign(ORDERS, 1);
    bench.block(ITEMS);
    bench.hold_until(ORDERS, 1, limit / 4);
    let of_chunk = bench.state.held;
    bench.hold_until(ITEMS, 1, limit);
    assert_eq!(bench.steps(), ["hurry", "spill held back"]);
    assert!(!chunk.cancel.is_cancelled());
    let holder = Holder::IndexBuild(id(ITEMS));
    let spilled = bench.state.take_out(holder).unwrap();
    assert!(spilled.count() > 0);
    // As it comes back from a file: without memory.
    bench
        .state
        .put_back(holder, crate::engine::track::held_changes::HeldChanges::default());
    assert_eq!((bench.state.held, bench.held_bytes()), (of_chunk, of_chunk));
}

#[test]
fn the_chunk_that_holds_most_is_given_up_last() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10]), copied(ITEMS, 1)]);
    let limit = bench.state.held_limit;
    let (small, large) = (bench.assign(ORDERS, 1), bench.assign(ORDERS, 1));
    bench.block(ITEMS);
    bench.hold_until(ITEMS, 1, limit / 10);
    bench.hold_until(ORDERS, 1, limit / 3);
    bench.hold_until(ORDERS, 11, limit);
    let steps = bench.steps();
    assert_eq!(steps[..3], ["hurry", "hurry", "spill held back"]);
    // The file is not written here, so the same is decided again with the next change, until the chunk has to go.
    bench.state.take_out(Holder::IndexBuild(id(ITEMS)));
    bench.hold_until(ORDERS, 11, limit);
    assert_eq!(bench.steps(), ["cancel"]);
    assert!(large.cancel.is_cancelled() && !small.cancel.is_cancelled());
    assert!(bench.state.held < limit / 2 && bench.state.held > 0);
}

/// It has no smaller parts to be read in.
#[test]
fn a_chunk_of_a_collection_without_ranges_is_spilled() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Capped, &[])]);
    let limit = bench.state.held_limit;
    let chunk = bench.assign(ORDERS, 1);
    bench.hold_until(ORDERS, 1, limit);
    assert_eq!(bench.steps(), ["hurry", "spill chunk"]);
    assert!(!chunk.cancel.is_cancelled());
    let holder = Holder::Chunk(id(ORDERS), chunk.chunk);
    let held = bench.state.take_out(holder).unwrap();
    assert_eq!(bench.state.held, 0);
    bench.state.put_back(holder, held);
    assert_eq!(bench.state.held, bench.held_bytes());
}
