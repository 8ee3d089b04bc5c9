//! Public API for migrations.

pub(crate) mod builder;
pub(crate) mod cutover;
pub(crate) mod handle;
mod launch;
pub(crate) mod migrating_client;
pub(crate) mod migration;
pub(crate) mod records;
pub(crate) mod rehearsal;
pub(crate) mod recording;
pub(crate) mod reverse;
pub(crate) mod verify;
