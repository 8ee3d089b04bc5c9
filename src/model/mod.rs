//! Core data types: namespaces, collections, positions, ranges, batches and changes.

mod amount;
mod batch;
mod by_name;
mod change;
mod collection;
mod deployment;
pub(crate) mod format;
mod inspection;
mod left_selection;
mod mapping;
mod namespace;
mod position;
mod range;
pub(crate) mod raw;
mod selection;
mod side;
pub(crate) mod wait;

pub use self::amount::Amount;
pub use self::batch::Batch;
pub(crate) use self::by_name::{ByName, by_name, find};
pub use self::change::{Change, Operation, Write};
pub(crate) use self::collection::takes_name;
pub use self::collection::{Collection, CollectionKind};
pub use self::deployment::Deployment;
pub use self::inspection::{Access, Connection, Inspection, Member, OplogFacts, Probe, TransactionFacts};
pub use self::left_selection::LeftSelection;
pub(crate) use self::mapping::CollectionMapping;
pub use self::namespace::Namespace;
pub(crate) use self::namespace::{names_of, shown};
pub use self::position::Position;
pub use self::range::Range;
pub use self::selection::Selection;
pub use self::side::Side;
pub use self::wait::Wait;
pub(crate) use self::wait::{OnWait, report_slow, write_wait};
