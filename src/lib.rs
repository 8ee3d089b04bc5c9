//! Migrates a live MongoDB replica set to another one while its applications keep writing. The cutover takes seconds.
//!
//! A host program describes a [`Migration`] from a [`Source`] to a [`Sink`], starts it, watches its [`Event`]s, and calls
//! [`cutover`](MigrationHandle::cutover). The result says whether both sides are identical, byte for byte.
//!
//! ```no_run
//! use futures::StreamExt;
//! use mongoferry::{Migration, MongoSink, MongoSource, Outcome};
//!
//! async fn migrate() -> mongoferry::Result<()> {
//!     let source = MongoSource::connect("mongodb://old.example/?replicaSet=rs0&tls=true").await?;
//!     let sink = MongoSink::connect("mongodb://new.example/?replicaSet=rs1&tls=true").await?;
//!     let migration = Migration::builder(source, sink)
//!         .include("shop.*")
//!         .exclude("shop.tmp_*")
//!         .rename("shop.orders", "store.orders")
//!         .build()?;
//!
//!     // Lists what the run would do, and what prevents it. Changes nothing.
//!     println!("{}", migration.preflight().await?);
//!
//!     // Starts, or resumes from the checkpoint of an earlier run.
//!     let run = migration.start().await?;
//!     let mut events = run.events();
//!     tokio::spawn(async move {
//!         while let Some(event) = events.next().await {
//!             println!("{event}");
//!         }
//!     });
//!
//!     run.ready_to_cut_over().await?;
//!     let summary = run.cutover(stop_writes()).await?;
//!     if summary.outcome == Outcome::Complete {
//!         println!("both sides are identical: the applications may use the target");
//!     }
//!     Ok(())
//! }
//!
//! /// Returns once nothing writes to the source any more.
//! async fn stop_writes() {}
//! ```
//!
//! # Guides
//! [`docs`] has a page on each topic: [concepts](docs::concepts), [cutover and way back](docs::cutover),
//! [filters and transforms](docs::documents), [verification](docs::verification), [operations](docs::operations) (the runbook), [observability](docs::observability),
//! [format](docs::format) (everything as JSON), [console](docs::console) (a web page and an HTTP API), [sizing](docs::sizing), [security](docs::security), [versions](docs::versions),
//! [benchmarks](docs::benchmarks), [the hosted procedure](docs::hosted) and [contributing](docs::contributing).
//!
//! # Where to begin in the API
//! | to | use |
//! |---|---|
//! | connect | [`MongoSource`], [`MongoSink`], [`ConnectOptions`] |
//! | describe and check a migration | [`Migration::builder`], [`Migration::preflight`], [`Plan`] |
//! | leave documents out, or change them on the way | [`MigrationBuilder::filter`], [`MigrationBuilder::transform`], [`rules`] |
//! | run it | [`MigrationHandle`]: events, status, pause, throttle, verify, cutover |
//! | read its result | [`Summary`], [`Certificate`] |
//! | move applications without stopping them | [`MigratingClient`] |
//! | move back | [`Summary::reverse`], [`Migration::reverse`] |
//! | keep the checkpoint elsewhere, or wrap a side | [`CheckpointStore`], [`Source`], [`Sink`] |
//! | let people run migrations in a web page | `console::Console` (feature `console`) |
//! | follow an oplog | [`OplogCursor`](oplog::OplogCursor) |
//!
//! The folder `examples` of the repository has whole programs to copy: `live_migration` for the command line, `service` to host several
//! migrations, `filter_and_mask` to migrate some of the documents without personal data, and small ones for extension points, clients, the
//! oplog and metrics.
//!
//! The feature `metrics` publishes [metrics](docs::observability#metrics) through the facade crate of that name. The feature `recorder`
//! [records](docs::operations#record-what-happens) each run in a file.
//!
//! The feature `console` adds a [web page and an HTTP API](docs::console) for people who run migrations.
//!
//! The feature `test-util` adds in-memory implementations of the three traits, and a conformance suite for your own implementations.

// Guides.
pub mod docs;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The modules in layers, lowest first: a module uses only modules above it in this list. A test enforces this order.
mod error;
pub mod order;
mod spill;
mod model;
mod catalog;
mod compare;
mod users;
pub mod oplog;
pub mod rules;

// Extension points: where documents and history come from, where they go, and where the checkpoint is kept.
pub mod sink;
pub mod source;
pub mod checkpoint;

// Server access, and the parts of a run.
mod config;
mod mongo;
mod report;
mod runtime;
pub mod preflight;
mod engine;
mod cutover;
mod api;
#[cfg(feature = "console")]
pub mod console;

// For tests of hosts and of trait implementations.
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(feature = "test-util")]
pub mod test_util;

#[cfg(feature = "console")]
pub use axum;
/// The crates of the types in this API, in the versions that this crate uses, so that a host needs no matching version of its own.
pub use {bson, mongodb};

pub use api::builder::MigrationBuilder;
pub use api::cutover::StopWritesResult;
pub use api::handle::MigrationHandle;
pub use api::migrating_client::{ClientCutover, ClientGuard, HeldCalls, MigratingClient};
pub use api::migration::Migration;
pub use api::records::{KnownMigration, migrations};
pub use api::rehearsal::{Rehearsal, Rehearsed};
pub use api::verify::{ComparedCollection, DocumentPair, VerifyReport};
pub use config::{
    CollectionSettings, DdlPolicy, ExistingData, IndexPolicy, LostPosition, OnRuleError, PathPolicy, Throttle,
    Verification,
};
pub use runtime::hooks::{HookResult, Hooks};
pub use runtime::lease::LeaseOwner;
pub use runtime::limits::resources::Resources;
pub use users::{ExistingUsers, UserSelection, Users};

pub use crate::model::Amount;
pub use crate::model::Layered;
pub use crate::model::LeftSelection;
pub use crate::model::Side;
pub use crate::model::Wait;
pub use crate::model::{Account, AccountChanges, AccountKind, AccountName, Accounts};
pub use crate::report::AppliedRules;
pub use crate::report::Phase;
pub use crate::report::{CarriedUser, LeftOutUser, UsersStatus, UsersSummary};
pub use crate::report::{Certificate, CertifiedCollection, CertifiedDeployment};
pub use crate::report::{ChangeCounts, Status};
pub use crate::report::{CollectionPhase, CollectionStatus};
pub use crate::report::{CollectionSummary, ForeignWrites, Outcome, Summary};
pub use crate::report::{CutoverStep, Event};
pub use crate::report::{IndexCounts, LagSample};
pub use crate::report::{LateWrite, LateWrites};
pub use catalog::NotKept;
pub use catalog::compare::IndexSummary;
pub use compare::difference::{Difference, DifferenceKind};
pub use error::{Error, ErrorKind, Finding, FindingCode, Result, Severity};
pub use preflight::{Estimate, Plan, PlannedCollection};
pub use rules::{FieldRules, Predicate, Query, Transform, Transformed};

pub use crate::model::Batch;
pub use crate::model::Namespace;
pub use crate::model::Position;
pub use crate::model::Range;
pub use crate::model::Selection;
pub use crate::model::{Change, Operation, Write};
pub use crate::model::{Collection, CollectionKind};

pub use checkpoint::{
    Checkpoint, CheckpointStore, CheckpointStoreLayer, CollectionState, ComparedState, CutoverWindow, LeftOver,
    RangeState, Renaming, UnsettledDocuments, WayBack,
};
pub use mongo::connect::ConnectOptions;
pub use sink::{MongoSink, Sink, SinkLayer};
pub use source::{MongoSource, Source, SourceLayer};

/// Database on the target that holds the migration's own records.
pub(crate) const METADATA_DATABASE: &str = "__mdb_internal_mongoferry";
