//! Starts and stops real `mongod` replica sets for tests, examples and benches.
//!
//! ```no_run
//! # async fn example() -> Result<(), mongoferry_testbed::TestbedError> {
//! use mongoferry_testbed::{ReplicaSet, Version};
//!
//! let set = ReplicaSet::builder(Version::V6_0).start().await?;
//! let client = set.client().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The servers and their folders are gone when the [`ReplicaSet`] is dropped, and also when the process that started
//! them dies in whatever way. Nothing is printed.

#![warn(missing_docs)]

mod binary;
mod builder;
mod certificates;
pub mod compare;
mod error;
mod membership;
mod period;
mod place;
mod proxy;
mod replica_set;
pub mod schema;
mod server;
mod version;
mod wait;
mod wire;
pub mod workload;

pub use builder::ReplicaSetBuilder;
pub use certificates::{Certificate, TlsListener};
pub use error::TestbedError;
pub use period::{OldClient, OldQuery, OldReply, OldSet, Period, PeriodServer};
pub use proxy::{Peer, Proxy};
pub use replica_set::ReplicaSet;
pub use version::Version;
pub use wait::wait_until;
