//! Memory that nobody waits for.
//!
//! What a run remembers, such as held changes, is freed by the run's own progress. A run that waited for such memory could wait for itself.
//! So a run that has reached its limit gives something up instead: it reads a chunk again later, or moves changes to a file.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// A number of bytes that several members share.
///
/// Half of it is guaranteed: each member can use an equal part of that half, whatever the others do. The other half goes to those who ask
/// first. So no member can keep the others from making progress, and together they never use more than the whole.
#[derive(Debug)]
pub(crate) struct SharedBytes {
    bytes: usize,
    used: AtomicUsize,
    members: AtomicUsize,
}

/// The bytes that one member uses. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// Limit of this member alone.
    most: usize,
    used: usize,
    shared: Option<Arc<SharedBytes>>,
}

impl SharedBytes {
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            used: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
        }
    }

    /// Adds a member that never uses more than `most`.
    pub fn join(self: &Arc<Self>, most: usize) -> Allowance {
        self.members.fetch_add(1, Relaxed);
        Allowance {
            most,
            used: 0,
            shared: Some(Arc::clone(self)),
        }
    }

    /// Limit for a member that uses `used` now.
    fn limit(&self, used: usize) -> usize {
        let members = self.members.load(Relaxed).max(1);
        let others = self.used.load(Relaxed).saturating_sub(used);
        let (guaranteed, common) = (self.bytes / 2 / members, self.bytes - self.bytes / 2);
        // What others use of their guaranteed parts counts as well. Their exact shares of the common half are not known here.
        match members {
            1 => self.bytes,
            _ => guaranteed + common.saturating_sub(others),
        }
    }
}

impl Allowance {
    /// The bytes of a member that shares them with nobody.
    pub fn alone(bytes: usize) -> Self {
        Self {
            most: bytes,
            used: 0,
            shared: None,
        }
    }

    /// Sets how much is used. Returns the current limit.
    pub fn update(&mut self, used: usize) -> usize {
        if let Some(shared) = &self.shared
            && used != self.used
        {
            if used > self.used {
                shared.used.fetch_add(used - self.used, Relaxed);
            } else {
                shared.used.fetch_sub(self.used - used, Relaxed);
            }
        }
        self.used = used;
        self.limit()
    }

    /// The current limit. It changes as other members use more or less.
    pub fn limit(&self) -> usize {
        let shared = self
            .shared
            .as_ref()
            .map_or(usize::MAX, |shared| shared.limit(self.used));
        self.most.min(shared)
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.update(0);
        if let Some(shared) = &self.shared {
            shared.members.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::Random;

    #[test]
    fn members_together_stay_within_the_whole_and_each_has_its_part() {
        let shared = Arc::new(SharedBytes::new(1000));
        let mut members: Vec<Allowance> = (0..5).map(|_| shared.join(usize::MAX)).collect();
        let mut used = [0; 5];
        let mut random = Random::new(3);
        for _ in 0..10_000 {
            let member = random.below(5);
            // A member uses less, or as much as it may.
            let limit = members[member].update(used[member]);
            assert!(limit >= 100, "{used:?}");
            used[member] = match random.below(3) {
                0 => random.below(used[member] + 1),
                _ => used[member].max(limit),
            };
            members[member].update(used[member]);
            assert!(used.iter().sum::<usize>() <= 1000, "{used:?}");
        }
    }

    #[test]
    fn who_is_alone_has_everything_and_gives_it_back() {
        let shared = Arc::new(SharedBytes::new(1000));
        let mut one = shared.join(usize::MAX);
        assert_eq!(one.update(900), 1000);
        let mut two = shared.join(300);
        assert_eq!(two.limit(), 250);
        drop(one);
        assert_eq!(two.limit(), 300);
        assert_eq!(two.update(10), 300);
        assert_eq!(Allowance::alone(70).update(80), 70);
    }
}
