//! Which users and roles are carried to the target, when two are the same, and what has to be done.
//!
//! Everything here is computed from lists of both sides, without a server.

mod content;
mod hand_over;
mod mapping;
mod plan;
mod selection;

pub(crate) use self::content::{Fingerprint, fingerprint, hash, is_same};
pub(crate) use self::hand_over::{KnownName, UsersAtHandOver};
pub(crate) use self::plan::{Known, LeftOutReason, Made, UsersPlan};
pub use self::selection::{ExistingUsers, UserSelection, Users};
