//! Test control of the in-memory implementations: faults, and gates that block a call.

#[doc(hidden)]
pub mod bench;
mod catalog;
mod digest;
mod faults;
#[cfg(feature = "legacy")]
#[doc(hidden)]
pub mod legacy;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use catalog::{merge_fields, modified_options, modify_index};
pub(crate) use digest::digest;
pub use faults::Gate;
pub(crate) use faults::{Faults, Moment};
#[cfg(feature = "legacy")]
#[doc(hidden)]
pub use legacy::decode_legacy;

/// The first position in a second.
#[cfg(test)]
pub(crate) fn at(time: u32) -> crate::model::Position {
    crate::model::Position {
        time,
        increment: 1,
        term: 1,
    }
}

/// Locks the mutex, even if a test panicked while holding it. The data is consistent between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small pseudorandom number generator (splitmix64). Its sequence depends on the seed alone.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound` (exclusive); 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // The modulo bias does not matter here.
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or_default()
    }

    pub(crate) fn uuid(&mut self) -> bson::Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next().to_be_bytes());
        bson::Uuid::from_bytes(bytes)
    }
}
