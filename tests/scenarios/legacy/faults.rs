//! Faults of sources that are read without the driver. A migration goes on each time, and in the end both sides are identical.
//!
//! `MONGOFERRY_FAULTS=300` says how many faults the long forms have, and `MONGOFERRY_SEED=17` which.

use std::time::Duration;

mod connections;
mod process;
mod rollback;

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(300);
