//! A console for people who run migrations: a web page and an HTTP API, as a router that a host mounts in its own server.
//!
//! [`docs::console`](crate::docs::console) is the guide. It needs the feature `console`.

mod actions;
mod audit;
mod build;
mod describe;
mod endpoint;
mod event_log;
mod history;
mod http;
mod managed;
mod registry;
mod run;
mod settings;
mod targets;
mod view;
mod waits;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};

pub use self::audit::{AuditOutcome, AuditRecord};
pub use self::http::router;
pub use self::registry::{Console, ConsoleBuilder, ManagedMigration};

/// Locks the mutex, also after a panic of another thread: no panic leaves half of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a shared value like any other.
fn shared<T: Serialize, S: Serializer>(value: &Option<Arc<T>>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}

/// Writes shared values like any others.
fn shared_list<T: Serialize, S: Serializer>(values: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| &**value))
}
