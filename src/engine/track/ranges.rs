//! Read state of a collection's `_id` ranges. Pure.

use crate::checkpoint::RangeState;
use crate::model::{Position, Range};
use crate::order::Key;

/// Identifies one read of one range within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChunkId(pub u64);

/// Read state of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeStatus {
    /// Still to be read. With `repair`, the sink may already hold some of its documents.
    Unread { repair: bool },
    /// Being read by this chunk.
    InFlight(ChunkId),
    /// On the sink as of this position.
    Done(Position),
}

/// All ranges of a collection. They cover every `_id` and do not overlap.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// In ascending order. Each range begins where the previous one ends; the last has no upper end.
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
struct Segment {
    upper: Option<Key>,
    status: RangeStatus,
}

impl Ranges {
    /// One range per cut and one above them. All are unread, and the sink holds no documents of the collection.
    pub fn unread(cuts: Vec<Key>) -> Self {
        let status = RangeStatus::Unread { repair: false };
        let uppers = cuts.into_iter().map(Some).chain([None]);
        Self {
            segments: uppers.map(|upper| Segment { upper, status }).collect(),
        }
    }

    /// One unread range. The sink may hold any documents of the collection.
    pub fn unread_again() -> Self {
        Self {
            segments: vec![Segment {
                upper: None,
                status: RangeStatus::Unread { repair: true },
            }],
        }
    }

    /// One range that is on the sink as of `position`.
    pub fn done(position: Position) -> Self {
        Self {
            segments: vec![Segment {
                upper: None,
                status: RangeStatus::Done(position),
            }],
        }
    }

    /// Restores the ranges of a checkpoint. Ranges that were not done may have been written in part, so they are repaired.
    pub fn from_checkpoint(states: &[RangeState]) -> Self {
        let mut segments: Vec<Segment> = states
            .iter()
            .map(|state| Segment {
                upper: state.upper.clone(),
                status: state
                    .done
                    .map_or(RangeStatus::Unread { repair: true }, RangeStatus::Done),
            })
            .collect();
        if segments.last().is_none_or(|last| last.upper.is_some()) {
            segments.push(Segment {
                upper: None,
                status: RangeStatus::Unread { repair: true },
            });
        }
        Self { segments }
    }

    /// Returns the ranges for a checkpoint. Ranges in flight count as unread.
    pub fn to_checkpoint(&self) -> Vec<RangeState> {
        let mut states: Vec<RangeState> = Vec::new();
        for segment in &self.segments {
            let done = match segment.status {
                RangeStatus::Done(position) => Some(position),
                RangeStatus::Unread { .. } | RangeStatus::InFlight(_) => None,
            };
            match states.last_mut() {
                Some(last) if last.done.is_some() && last.done == done => last.upper.clone_from(&segment.upper),
                _ => states.push(RangeState {
                    upper: segment.upper.clone(),
                    done,
                }),
            }
        }
        states
    }

    /// Returns the status of the range that contains `key`.
    pub fn status(&self, key: &Key) -> RangeStatus {
        if self.segments.len() == 1 {
            return self.segments[0].status;
        }
        let at = self
            .segments
            .partition_point(|segment| segment.upper.as_ref().is_some_and(|upper| upper < key));
        self.segments[at].status
    }

    /// Returns the status of the whole collection if it is one range.
    pub fn only(&self) -> Option<RangeStatus> {
        match self.segments.as_slice() {
            [segment] => Some(segment.status),
            _ => None,
        }
    }

    /// Whether every range is done.
    pub fn all_done(&self) -> bool {
        self.segments
            .iter()
            .all(|segment| matches!(segment.status, RangeStatus::Done(_)))
    }

    /// Whether every range is unread.
    pub fn are_unread(&self) -> bool {
        self.segments
            .iter()
            .all(|segment| matches!(segment.status, RangeStatus::Unread { .. }))
    }

    /// Whether any range is unread.
    pub fn has_unread(&self) -> bool {
        self.segments
            .iter()
            .any(|segment| matches!(segment.status, RangeStatus::Unread { .. }))
    }

    /// Assigns the first unread range to a chunk. Returns the range and whether it is to be repaired.
    pub fn take(&mut self, chunk: ChunkId) -> Option<(Range, bool)> {
        let at = self
            .segments
            .iter()
            .position(|segment| matches!(segment.status, RangeStatus::Unread { .. }))?;
        let RangeStatus::Unread { repair } = self.segments[at].status else {
            return None;
        };
        self.segments[at].status = RangeStatus::InFlight(chunk);
        let lower = at.checked_sub(1).and_then(|before| self.segments[before].upper.clone());
        Some((
            Range {
                lower,
                upper: self.segments[at].upper.clone(),
            },
            repair,
        ))
    }

    /// Marks the chunk's range as on the sink as of `position`, up to and including `last`; `None` means all of it. The part above `last`
    /// is unread again, with `repair` if the sink may hold documents of it.
    pub fn finish(&mut self, chunk: ChunkId, last: Option<Key>, position: Position, repair: bool) {
        let Some(at) = self.in_flight(chunk) else { return };
        self.segments[at].status = RangeStatus::Done(position);
        if let Some(last) = last
            && self.segments[at].upper.as_ref() != Some(&last)
        {
            let upper = self.segments[at].upper.replace(last);
            self.segments.insert(
                at + 1,
                Segment {
                    upper,
                    status: RangeStatus::Unread { repair },
                },
            );
        }
    }

    /// Marks the range of an abandoned chunk as unread. It is repaired, because the sink may hold some of it.
    pub fn release(&mut self, chunk: ChunkId) {
        if let Some(at) = self.in_flight(chunk) {
            self.segments[at].status = RangeStatus::Unread { repair: true };
        }
    }

    /// Cuts a collection that is one unread range. Cuts of anything else are ignored.
    pub fn cut(&mut self, cuts: Vec<Key>) {
        if let Some(status @ RangeStatus::Unread { .. }) = self.only() {
            let uppers = cuts.into_iter().map(Some).chain([None]);
            self.segments = uppers.map(|upper| Segment { upper, status }).collect();
        }
    }

    /// Whether neighbouring ranges are done, so that they can be joined once everything up to their positions is routed.
    pub fn can_join(&self) -> bool {
        let is_done = |segment: &Segment| matches!(segment.status, RangeStatus::Done(_));
        self.segments.windows(2).any(|pair| pair.iter().all(is_done))
    }

    /// Joins neighbouring ranges that are done at or before `routed`. Every change up to there has been routed, so their positions no
    /// longer matter. Returns `true` if any were joined.
    pub fn join(&mut self, routed: Position) -> bool {
        let before = self.segments.len();
        if before == 1 {
            return false;
        }
        let past = |segment: &Segment| match segment.status {
            RangeStatus::Done(position) if position <= routed => Some(position),
            _ => None,
        };
        let mut joined: Vec<Segment> = Vec::with_capacity(self.segments.len());
        for segment in self.segments.drain(..) {
            if let (Some(position), Some(last)) = (past(&segment), joined.last_mut())
                && let Some(before) = past(last)
            {
                *last = Segment {
                    upper: segment.upper,
                    status: RangeStatus::Done(position.max(before)),
                };
            } else {
                joined.push(segment);
            }
        }
        self.segments = joined;
        self.segments.len() < before
    }

    fn in_flight(&self, chunk: ChunkId) -> Option<usize> {
        self.segments
            .iter()
            .position(|segment| segment.status == RangeStatus::InFlight(chunk))
    }
}

#[cfg(test)]
mod tests {
    use bson::RawBsonRef;

    use super::*;
    use crate::test_util::at;

    fn key(value: i32) -> Key {
        Key::from(RawBsonRef::Int32(value))
    }

    #[test]
    fn a_range_holds_its_upper_end_and_not_its_lower() {
        let mut ranges = Ranges::unread(vec![key(10), key(20)]);
        let first = ChunkId(1);
        assert_eq!(
            ranges.take(first),
            Some((
                Range {
                    lower: None,
                    upper: Some(key(10))
                },
                false
            ))
        );
        assert_eq!(ranges.status(&key(10)), RangeStatus::InFlight(first));
        assert_eq!(ranges.status(&key(11)), RangeStatus::Unread { repair: false });
        let second = ChunkId(2);
        assert_eq!(
            ranges.take(second),
            Some((
                Range {
                    lower: Some(key(10)),
                    upper: Some(key(20))
                },
                false
            ))
        );
        assert_eq!(ranges.status(&key(20)), RangeStatus::InFlight(second));
        assert_eq!(ranges.status(&key(21)), RangeStatus::Unread { repair: false });
    }

    #[test]
    fn a_chunk_that_stops_early_gives_the_rest_back() {
        let mut ranges = Ranges::unread(vec![key(10)]);
        ranges.take(ChunkId(1)).unwrap();
        ranges.finish(ChunkId(1), Some(key(4)), at(5), false);
        assert_eq!(ranges.status(&key(4)), RangeStatus::Done(at(5)));
        assert_eq!(ranges.status(&key(5)), RangeStatus::Unread { repair: false });
        assert_eq!(
            ranges.take(ChunkId(2)).unwrap().0,
            Range {
                lower: Some(key(4)),
                upper: Some(key(10))
            }
        );
        ranges.release(ChunkId(2));
        assert_eq!(
            ranges.take(ChunkId(3)).unwrap(),
            (
                Range {
                    lower: Some(key(4)),
                    upper: Some(key(10))
                },
                true
            )
        );
        ranges.finish(ChunkId(3), Some(key(10)), at(6), true);
        assert!(!ranges.all_done());
        ranges.take(ChunkId(4)).unwrap();
        ranges.finish(ChunkId(4), None, at(7), false);
        assert!(ranges.all_done());
    }

    #[test]
    fn only_ranges_whose_position_is_past_are_joined() {
        let mut ranges = Ranges::unread(vec![key(10), key(20)]);
        for (chunk, position) in [(1, at(5)), (2, at(9)), (3, at(7))] {
            ranges.take(ChunkId(chunk)).unwrap();
            ranges.finish(ChunkId(chunk), None, position, false);
        }
        ranges.join(at(8));
        assert_eq!(ranges.status(&key(15)), RangeStatus::Done(at(9)));
        assert_eq!(ranges.status(&key(5)), RangeStatus::Done(at(5)));
        ranges.join(at(9));
        assert_eq!(ranges.segments.len(), 1);
        assert_eq!(ranges.status(&key(5)), RangeStatus::Done(at(9)));
    }

    #[test]
    fn a_checkpoint_forgets_what_was_in_flight() {
        let mut ranges = Ranges::unread(vec![key(10), key(20)]);
        ranges.take(ChunkId(1)).unwrap();
        ranges.take(ChunkId(2)).unwrap();
        ranges.finish(ChunkId(1), None, at(5), false);
        let again = Ranges::from_checkpoint(&ranges.to_checkpoint());
        assert_eq!(again.status(&key(1)), RangeStatus::Done(at(5)));
        assert_eq!(again.status(&key(15)), RangeStatus::Unread { repair: true });
        assert_eq!(again.status(&key(25)), RangeStatus::Unread { repair: true });
    }
}
