//! Everything a run reports to its host: events, status, summary and certificate.

mod applied_rules;
mod certificate;
mod collection;
mod event;
mod event_text;
mod lag_history;
mod late_writes;
mod numbers;
mod phase;
mod status;
mod summary;
mod trace;
mod users;

pub use self::applied_rules::AppliedRules;
pub use self::certificate::{Certificate, CertifiedCollection, CertifiedDeployment};
pub use self::collection::{CollectionPhase, CollectionStatus};
pub(crate) use self::event::Events;
pub use self::event::{CutoverStep, Event};
pub(crate) use self::lag_history::Recent;
pub use self::lag_history::{IndexCounts, LagSample};
pub(crate) use self::late_writes::LateWatch;
pub use self::late_writes::{LateWrite, LateWrites};
pub(crate) use self::phase::Call;
pub use self::phase::Phase;
pub use self::status::{ChangeCounts, Status};
pub use self::summary::{CollectionSummary, ForeignWrites, Outcome, Summary};
pub(crate) use self::trace::TARGET;
pub(crate) use self::users::users_not_migrated;
pub use self::users::{CarriedUser, LeftOutUser, UsersStatus, UsersSummary};
