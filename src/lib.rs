//! Moves a live MongoDB replica set into another one while its applications keep writing. The cutover takes seconds.
//!
//! A host program describes a [`Migration`] from a [`Source`] to a [`Sink`], starts it, watches its [`Event`]s, and calls
//! [`cutover`](MigrationHandle::cutover). The result says whether both sides are identical, byte for byte.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use futures::StreamExt;
//! use mongoferry::{Migration, MongoSink, MongoSource, Outcome};
//!
//! async fn migrate() -> mongoferry::Result<()> {
//!     let source = MongoSource::connect("mongodb://old.example/?replicaSet=rs0").await?;
//!     let sink = MongoSink::connect("mongodb://new.example/?replicaSet=rs1").await?;
//!     let migration = Migration::builder(source, sink)
//!         .include("shop.*")
//!         .exclude("shop.tmp_*")
//!         .rename("shop.orders", "store.orders")
//!         .build()?;
//!
//!     // What would be done, and what stands in the way. Nothing is changed yet.
//!     println!("{}", migration.preflight().await?);
//!
//!     // Starts, or continues from the checkpoint of an earlier run.
//!     let run = migration.start().await?;
//!     let mut events = run.events();
//!     tokio::spawn(async move {
//!         while let Some(event) = events.next().await {
//!             println!("{event:?}");
//!         }
//!     });
//!
//!     run.ready_to_cut_over(Duration::from_secs(2)).await?;
//!     let summary = run.cutover(stop_writes()).await?;
//!     if summary.outcome == Outcome::Complete {
//!         println!("both sides are identical: the applications may use the target");
//!     }
//!     Ok(())
//! }
//!
//! /// By the time this returns nothing may write to the source any more.
//! async fn stop_writes() {}
//! ```
//!
//! # Guides
//! [`docs`] has a page for each of these: [concepts](docs::concepts), [cutover and way back](docs::cutover),
//! [verification](docs::verification), [operations](docs::operations) (the runbook), [sizing](docs::sizing), [security](docs::security),
//! [versions](docs::versions), [benchmarks](docs::benchmarks), [the hosted procedure](docs::hosted) and [contributing](docs::contributing).
//!
//! # Where to begin in the API
//! | to | use |
//! |---|---|
//! | connect | [`MongoSource`], [`MongoSink`], [`ConnectOptions`] |
//! | describe and check a migration | [`Migration::builder`], [`Migration::preflight`], [`Plan`] |
//! | run it | [`MigrationHandle`]: events, status, pause, throttle, verify, cutover |
//! | read its result | [`Summary`], [`Certificate`] |
//! | move applications without stopping them | [`MigratingClient`] |
//! | move back | [`Summary::reverse`], [`Migration::reverse`] |
//! | keep the checkpoint elsewhere, or wrap a side | [`CheckpointStore`], [`Source`], [`Sink`] |
//! | follow an oplog | [`OplogCursor`](oplog::OplogCursor) |
//!
//! With the feature `test-util` there are implementations of the three traits in memory, and a conformance suite to run against
//! one's own.

// The guides.
mod api;
mod cutover;
mod runtime;
mod report;
mod mongo;
mod compare;
mod model;
pub mod docs;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// What a host sees: it describes a migration, has it checked, starts it, and holds a handle to the run.
mod config;
pub mod preflight;

// The words that everything else is said in.
pub mod order;

// The plug points: where documents and history come from, where they go, where the checkpoint is kept.
pub mod source;
pub mod oplog;
pub mod sink;
pub mod checkpoint;

// A run, in the order in which data flows through it: the engine starts the tasks, walkers copy chunks, the router decides about
// changes, lanes apply them.
mod engine;
mod catalog;

// What several of them use.
mod spill;
mod error;

// For tests of hosts and of implementations of the traits.
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use crate::config::{ExistingData, LostPosition, Verification};
pub use crate::error::finding::{Finding, Severity};
pub use api::handle::MigrationHandle;
pub use api::migrating_client::{ClientCutover, ClientGuard, HeldCalls, MigratingClient};
pub use api::migration::{Migration, MigrationBuilder};
pub use api::rehearsal::{Rehearsal, Rehearsed};
pub use preflight::{Estimate, PathPolicy, Plan, PlannedCollection};
pub use runtime::hooks::{HookResult, Hooks};

pub use crate::catalog::compare::IndexSummary;
pub use crate::checkpoint::way_back::WayBack;
pub use crate::checkpoint::window::CutoverWindow;
pub use crate::config::DdlPolicy;
pub use crate::config::Throttle;
pub use crate::model::amount::Amount;
pub use crate::model::side::Side;
pub use crate::model::wait::Wait;
pub use crate::report::status::{ChangeCounts, Status};
pub use crate::report::summary::{CollectionSummary, ForeignWrites, Outcome, Summary};
pub use api::verify::{BothSides, ComparedCollection, VerifyReport};
pub use catalog::NotKept;
pub use compare::difference::{Difference, DifferenceKind};
pub use model::left_selection::LeftSelection;
pub use mongo::connect::ConnectOptions;
pub use report::certificate::{Certificate, CertifiedCollection, CertifiedDeployment};
pub use report::event::Event;
pub use report::lag_history::{IndexCounts, LagSample};
pub use report::late_writes::{LateWrite, LateWrites};
pub use report::phase::Phase;

pub use crate::model::batch::Batch;
pub use crate::model::change::{Change, Operation, Write};
pub use crate::model::collection::{Collection, CollectionKind};
pub use crate::model::position::Position;
pub use crate::model::range::Range;
pub use crate::model::selection::Selection;
pub use model::namespace::Namespace;

pub use sink::{MongoSink, Sink};
pub use source::{MongoSource, Source};

pub use checkpoint::{
    Checkpoint, CheckpointStore, CollectionState, ComparedState, LeftOver, RangeState, Renaming, UnsettledDocuments,
};

pub use error::{Error, ErrorKind, Result};

/// The database on the target that holds a migration's own records.
pub(crate) const METADATA_DATABASE: &str = "__mdb_internal_mongoferry";
