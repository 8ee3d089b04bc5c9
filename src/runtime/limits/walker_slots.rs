//! How many walkers may be at work at the same time, which can be changed while they are.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::Notify;

/// The places of a run, as many as it has walkers unless fewer are to be used.
#[derive(Debug)]
pub(crate) struct WalkerSlots {
    most: AtomicUsize,
    taken: AtomicUsize,
    /// Whether anybody was at work since that was last asked.
    used: AtomicBool,
    /// Told when there may be room.
    room: Notify,
}

/// HeldChanges by a walker that is at work.
#[derive(Debug)]
pub(crate) struct WalkerSlot<'a> {
    places: &'a WalkerSlots,
    held: bool,
}

impl WalkerSlots {
    /// Sets how many may be at work. Those that are too many give their places back when they are [asked](WalkerSlot::is_wanted_back) next.
    pub fn set(&self, most: usize) {
        self.most.store(most.max(1), Relaxed);
        self.room.notify_waiters();
    }

    /// How many may be at work.
    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Waits for a place.
    ///
    /// # Cancellation
    /// None is taken when the future is dropped.
    pub async fn take(&self) -> WalkerSlot<'_> {
        loop {
            // Made before the number is looked at, so that no place that is given back in between is slept through.
            let room = self.room.notified();
            let take = |taken| (taken < self.most()).then_some(taken + 1);
            if self.taken.fetch_update(Relaxed, Relaxed, take).is_ok() {
                return WalkerSlot {
                    places: self,
                    held: true,
                };
            }
            room.await;
        }
    }

    /// Whether anybody was at work since this was last asked.
    pub fn were_used(&self) -> bool {
        self.used.swap(false, Relaxed)
    }
}

impl Default for WalkerSlots {
    fn default() -> Self {
        Self {
            most: AtomicUsize::new(usize::MAX),
            taken: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            room: Notify::new(),
        }
    }
}

impl WalkerSlot<'_> {
    /// Says that the walker is at work, and not waiting for some.
    pub fn note_use(&self) {
        self.places.used.store(true, Relaxed);
    }

    /// Whether there are too many at work, so that this walker has to come to an end. The place is given back then.
    pub fn is_wanted_back(&mut self) -> bool {
        let leave = |taken| (taken > self.places.most()).then(|| taken - 1);
        if self.held && self.places.taken.fetch_update(Relaxed, Relaxed, leave).is_ok() {
            self.held = false;
        }
        !self.held
    }
}

impl Drop for WalkerSlot<'_> {
    fn drop(&mut self) {
        if self.held {
            self.places.taken.fetch_sub(1, Relaxed);
            self.places.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn no_more_than_the_number_are_taken() {
        let places = WalkerSlots::default();
        places.set(2);
        let (first, _second) = (places.take().now_or_never().unwrap(), places.take().now_or_never());
        let mut third = Box::pin(places.take());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some(), "one was given back");
    }

    #[test]
    fn a_higher_number_wakes_who_waits() {
        let places = WalkerSlots::default();
        places.set(1);
        let _first = places.take().now_or_never().unwrap();
        let mut second = Box::pin(places.take());
        assert!(second.as_mut().now_or_never().is_none());
        places.set(2);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn only_as_many_as_are_too_many_give_their_places_back() {
        let places = WalkerSlots::default();
        let mut taken: Vec<WalkerSlot<'_>> = (0..4).map(|_| places.take().now_or_never().unwrap()).collect();
        assert!(!taken.iter_mut().any(WalkerSlot::is_wanted_back));
        places.set(1);
        let back = taken
            .iter_mut()
            .filter_map(|place| place.is_wanted_back().then_some(()));
        assert_eq!(back.count(), 3);
        // What was given back is not given back twice.
        assert!(places.take().now_or_never().is_none());
        drop(taken);
        let _one = places.take().now_or_never().unwrap();
        assert!(places.take().now_or_never().is_none());
    }

    #[test]
    fn no_number_is_so_low_that_nothing_goes_on() {
        let places = WalkerSlots::default();
        places.set(0);
        assert!(places.take().now_or_never().is_some());
    }

    #[test]
    fn use_is_told_once() {
        let places = WalkerSlots::default();
        let place = places.take().now_or_never().unwrap();
        assert!(!places.were_used(), "it may be waiting for work");
        place.note_use();
        assert!(places.were_used());
        assert!(!places.were_used());
    }
}
