//! What the host decided about a migration.

use std::time::Duration;

use crate::api::migration::{ExistingData, LostPosition, Verification};
use crate::api::reverse::WayBack;
use crate::engine::follow::ddl::policy::DdlPolicy;
use crate::model::namespace::Selection;
use crate::preflight::PathPolicy;
use crate::runtime::limits::throttle::Throttle;
use crate::runtime::waiting::OnWait;
use crate::runtime::window;

/// What the host decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub selection: Selection,
    /// The hand-over that the migration takes back.
    pub way_back: Option<WayBack>,
    pub existing_data: ExistingData,
    pub lost_position: LostPosition,
    pub verification: Verification,
    pub cross_check_bytes: u64,
    pub run_id: Option<String>,
    pub accept_late_writes: bool,
    pub block_source_writes: bool,
    pub ddl: DdlPolicy,
    pub walkers: usize,
    pub yield_to_source_writes: bool,
    pub lanes: usize,
    pub chunk_bytes: u64,
    pub memory_bytes: usize,
    pub max_lag: Duration,
    pub cutover_window: Duration,
    pub clock: window::Clock,
    pub patience: Duration,
    pub throttle: Throttle,
    pub watch_foreign_writes: bool,
    pub path_policy: PathPolicy,
    pub accept_unencrypted: bool,
    pub scan_documents: bool,
    pub on_wait: OnWait,
}

impl Settings {
    /// How many walkers are at work until it is known whether applications write to the source.
    pub fn walkers_at_first(&self) -> usize {
        if self.yield_to_source_writes { 1 } else { self.walkers }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            selection: Selection::all(),
            way_back: None,
            existing_data: ExistingData::default(),
            lost_position: LostPosition::default(),
            verification: Verification::default(),
            cross_check_bytes: 256 << 20,
            run_id: None,
            accept_late_writes: false,
            block_source_writes: false,
            ddl: DdlPolicy::default(),
            walkers: 4,
            yield_to_source_writes: true,
            lanes: 4,
            chunk_bytes: 64 << 20,
            memory_bytes: 256 << 20,
            max_lag: Duration::from_secs(2),
            cutover_window: window::DEFAULT,
            clock: window::Clock::default(),
            patience: Duration::from_secs(600),
            throttle: Throttle::default(),
            watch_foreign_writes: true,
            path_policy: PathPolicy::default(),
            accept_unencrypted: false,
            scan_documents: false,
            on_wait: OnWait::default(),
        }
    }
}
