//! Limit on the number of concurrent walkers, which can change during a run.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::Notify;

/// Walker slots of a run. There are as many as walkers, unless the limit is lower.
#[derive(Debug)]
pub(crate) struct WalkerSlots {
    most: AtomicUsize,
    taken: AtomicUsize,
    /// Whether any walker has worked since the flag was last read.
    used: AtomicBool,
    /// Notified when a slot may be free.
    room: Notify,
}

/// Slot held by a working walker.
#[derive(Debug)]
pub(crate) struct WalkerSlot<'a> {
    slots: &'a WalkerSlots,
    held: bool,
}

impl WalkerSlots {
    /// Sets the maximum number of slots. Surplus walkers give their slots back at the next call of
    /// [`is_wanted_back`](WalkerSlot::is_wanted_back).
    pub fn set(&self, most: usize) {
        self.most.store(most.max(1), Relaxed);
        self.room.notify_waiters();
    }

    /// Maximum number of slots.
    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Waits for a slot.
    ///
    /// # Cancellation
    /// Dropping the future takes no slot.
    pub async fn take(&self) -> WalkerSlot<'_> {
        loop {
            // Created before the count is read, so that no slot given back in between is missed.
            let room = self.room.notified();
            let take = |taken| (taken < self.most()).then_some(taken + 1);
            if self.taken.fetch_update(Relaxed, Relaxed, take).is_ok() {
                return WalkerSlot {
                    slots: self,
                    held: true,
                };
            }
            room.await;
        }
    }

    /// Whether any walker has worked since the last call.
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
    /// Records that the walker is working rather than waiting for work.
    pub fn note_use(&self) {
        self.slots.used.store(true, Relaxed);
    }

    /// Whether there are more walkers than slots, so that this walker has to stop. If so, its slot is given back.
    pub fn is_wanted_back(&mut self) -> bool {
        let leave = |taken| (taken > self.slots.most()).then(|| taken - 1);
        if self.held && self.slots.taken.fetch_update(Relaxed, Relaxed, leave).is_ok() {
            self.held = false;
        }
        !self.held
    }
}

impl Drop for WalkerSlot<'_> {
    fn drop(&mut self) {
        if self.held {
            self.slots.taken.fetch_sub(1, Relaxed);
            self.slots.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn no_more_than_the_number_are_taken() {
        let slots = WalkerSlots::default();
        slots.set(2);
        let (first, _second) = (slots.take().now_or_never().unwrap(), slots.take().now_or_never());
        let mut third = Box::pin(slots.take());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some(), "one was given back");
    }

    #[test]
    fn a_higher_number_wakes_who_waits() {
        let slots = WalkerSlots::default();
        slots.set(1);
        let _first = slots.take().now_or_never().unwrap();
        let mut second = Box::pin(slots.take());
        assert!(second.as_mut().now_or_never().is_none());
        slots.set(2);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn only_as_many_as_are_too_many_give_their_places_back() {
        let slots = WalkerSlots::default();
        let mut taken: Vec<WalkerSlot<'_>> = (0..4).map(|_| slots.take().now_or_never().unwrap()).collect();
        assert!(!taken.iter_mut().any(WalkerSlot::is_wanted_back));
        slots.set(1);
        let back = taken.iter_mut().filter_map(|slot| slot.is_wanted_back().then_some(()));
        assert_eq!(back.count(), 3);
        // A slot is not given back twice.
        assert!(slots.take().now_or_never().is_none());
        drop(taken);
        let _one = slots.take().now_or_never().unwrap();
        assert!(slots.take().now_or_never().is_none());
    }

    #[test]
    fn no_number_is_so_low_that_nothing_goes_on() {
        let slots = WalkerSlots::default();
        slots.set(0);
        assert!(slots.take().now_or_never().is_some());
    }

    #[test]
    fn use_is_told_once() {
        let slots = WalkerSlots::default();
        let slot = slots.take().now_or_never().unwrap();
        assert!(!slots.were_used(), "it may be waiting for work");
        slot.note_use();
        assert!(slots.were_used());
        assert!(!slots.were_used());
    }
}
