//! What was seen to be committed, and on which primary. Pure.
//!
//! Protocol version 0 can lose entries in an election that a majority had. The tail notices it if it has taken such an entry, because the
//! next primary lacks the entry to resume after. Documents, however, are read as of newer entries than the tail has taken. So the newest
//! position that each primary had committed is kept, until the tail goes past its time on another primary that was seen to have it.

use bson::Timestamp;

use super::server::Elected;
use crate::model::Position;

/// What was seen since the start position was asked for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The newest committed position of each primary, the one that was noted last at the end. There is one for each election that the tail has
    /// not passed yet.
    newest: Vec<(Elected, Position)>,
    age: Age,
}

/// How often everything was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Age(u64);

impl Seen {
    /// Forgets everything, and what calls find that have begun before. Whoever begins anew does not depend on what was read before.
    pub fn begin(&mut self) {
        self.newest.clear();
        self.age.0 += 1;
    }

    /// What a call needs to note what it finds. It has to be asked for before the primary is.
    pub fn age(&self) -> Age {
        self.age
    }

    /// Returns the newest committed position of a primary, unless another one was noted since.
    pub fn known(&self, primary: &Elected) -> Option<Position> {
        let last = self.newest.last().filter(|(of, _)| of == primary);
        last.map(|(_, position)| *position)
    }

    /// Remembers that a primary has committed a position, as a call found that began at an age.
    pub fn note(&mut self, primary: &Elected, position: Position, age: Age) {
        if age != self.age {
            return;
        }
        match self.newest.iter().position(|(of, _)| of == primary) {
            Some(at) => {
                self.newest[at].1 = position.max(self.newest[at].1);
                self.newest[at..].rotate_left(1);
            }
            None => self.newest.push((primary.clone(), position)),
        }
    }

    /// Returns what other primaries than this one had committed, up to a time.
    pub fn unconfirmed(&self, primary: &Elected, until: Timestamp) -> Vec<Position> {
        let others = self.newest.iter().filter(|(of, _)| of != primary);
        let positions = others.map(|(_, position)| *position);
        positions.filter(|position| position.timestamp() <= until).collect()
    }

    /// Remembers that a primary has the position of others. From then on its own, which is newer, stands for both.
    pub fn confirmed(&mut self, primary: &Elected, position: Position) {
        let last = self.newest.last().map(|(of, _)| of.clone());
        self.newest
            .retain(|(of, other)| *other != position || of == primary || last.as_ref() == Some(of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(address: &str) -> Elected {
        Elected {
            address: address.to_owned(),
            election: None,
        }
    }

    fn at(time: u32) -> Position {
        Position::new(Timestamp { time, increment: 1 }, 1)
    }

    fn until(time: u32) -> Timestamp {
        at(time).timestamp()
    }

    #[test]
    fn the_newest_of_the_last_primary_is_known() {
        let (a, b) = (primary("a:1"), primary("b:1"));
        let mut seen = Seen::default();
        assert_eq!(seen.known(&a), None);
        seen.note(&a, at(5), seen.age());
        seen.note(&a, at(4), seen.age());
        assert_eq!((seen.known(&a), seen.known(&b)), (Some(at(5)), None));
        seen.note(&b, at(3), seen.age());
        assert_eq!((seen.known(&a), seen.known(&b)), (None, Some(at(3))));
    }

    #[test]
    fn what_earlier_primaries_had_waits_for_its_time() {
        let (a, b, c) = (primary("a:1"), primary("b:1"), primary("c:1"));
        let mut seen = Seen::default();
        seen.note(&a, at(5), seen.age());
        seen.note(&b, at(7), seen.age());
        assert_eq!(seen.unconfirmed(&b, until(4)), []);
        assert_eq!(seen.unconfirmed(&b, until(9)), [at(5)]);
        seen.note(&c, at(9), seen.age());
        assert_eq!(seen.unconfirmed(&c, until(6)), [at(5)]);
        assert_eq!(seen.unconfirmed(&c, until(9)), [at(5), at(7)]);
        seen.confirmed(&c, at(5));
        assert_eq!(seen.unconfirmed(&c, until(9)), [at(7)]);
        seen.confirmed(&c, at(7));
        assert_eq!(seen.unconfirmed(&c, until(9)), []);
        assert_eq!(seen.known(&c), Some(at(9)));
    }

    #[test]
    fn a_confirmed_position_is_kept_for_the_primary_that_has_it() {
        let (a, b, c) = (primary("a:1"), primary("b:1"), primary("c:1"));
        let mut seen = Seen::default();
        // Nothing was written since the election.
        seen.note(&a, at(5), seen.age());
        seen.note(&b, at(5), seen.age());
        seen.confirmed(&b, at(5));
        assert_eq!(seen.unconfirmed(&b, until(9)), []);
        assert_eq!(seen.unconfirmed(&c, until(9)), [at(5)]);
        // Another one was elected while the entry was looked up.
        seen.note(&a, at(5), seen.age());
        seen.note(&c, at(6), seen.age());
        seen.confirmed(&b, at(5));
        assert_eq!(seen.unconfirmed(&c, until(9)), [at(5)]);
        assert_eq!(seen.known(&c), Some(at(6)));
        seen.confirmed(&b, at(6));
        assert_eq!(seen.known(&c), Some(at(6)));
    }

    #[test]
    fn each_election_takes_one_place() {
        let (a, b) = (primary("a:1"), primary("b:1"));
        let mut seen = Seen::default();
        for time in 1..=10 {
            seen.note(&a, at(time), seen.age());
            seen.note(&b, at(time), seen.age());
        }
        seen.note(&a, at(11), seen.age());
        assert_eq!(seen.known(&a), Some(at(11)));
        assert_eq!(seen.unconfirmed(&a, until(20)), [at(10)]);
        let again = Elected {
            election: Some(bson::oid::ObjectId::new()),
            ..a
        };
        seen.note(&again, at(12), seen.age());
        assert_eq!(seen.unconfirmed(&again, until(20)), [at(10), at(11)]);
    }

    #[test]
    fn what_calls_find_that_began_before_a_new_start_is_ignored() {
        let (a, b) = (primary("a:1"), primary("b:1"));
        let mut seen = Seen::default();
        let before = seen.age();
        seen.note(&a, at(4), before);
        seen.begin();
        assert_eq!(seen.known(&a), None);
        seen.note(&b, at(3), seen.age());
        // The old primary has answered, and had lost its set by then.
        seen.note(&a, at(5), before);
        assert_eq!(seen.known(&b), Some(at(3)));
        assert_eq!(seen.unconfirmed(&b, until(9)), []);
    }
}
