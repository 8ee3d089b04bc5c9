//! Targets whose migrations the console lists, also those from before a restart.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::api::records::{KnownMigration, migrations};
use crate::console::endpoint::{Connection, Party};
use crate::console::lock;
use crate::console::managed::{Direction, Origin, State};
use crate::console::registry::{Console, Inner};
use crate::error::{Error, Result};
use crate::sink::{MongoSink, Sink};

/// Pause between two listings of a target.
const PAUSE: Duration = Duration::from_secs(5);

/// The targets that are listed.
#[derive(Default)]
pub(super) struct Targets {
    pub fixed: Option<Arc<FixedTarget>>,
    pub others: Vec<Arc<dyn Sink>>,
    is_listing: AtomicBool,
}

/// The target of all migrations that people create.
pub(super) struct FixedTarget {
    pub connection: Connection,
    /// Connected for listings.
    sink: tokio::sync::Mutex<Option<Arc<dyn Sink>>>,
    known: Mutex<(Option<Party>, Option<Error>)>,
}

impl FixedTarget {
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            sink: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// The target as it is shown.
    pub fn party(&self) -> Party {
        lock(&self.known)
            .0
            .clone()
            .unwrap_or_else(|| self.connection.party.clone())
    }

    /// Why it could not be listed.
    pub fn error(&self) -> Option<Error> {
        lock(&self.known).1.clone()
    }

    /// The target, connected to.
    ///
    /// # Errors
    /// It cannot be connected to.
    pub async fn sink(&self) -> Result<Arc<dyn Sink>> {
        let mut sink = self.sink.lock().await;
        if let Some(sink) = &*sink {
            return Ok(Arc::clone(sink));
        }
        let connected: Arc<dyn Sink> = Arc::new(MongoSink::connect(self.connection.options.clone()).await?);
        if let Ok(described) = connected.describe().await {
            let mut party = self.connection.party.clone();
            party.name = described.name;
            lock(&self.known).0 = Some(party);
        }
        *sink = Some(Arc::clone(&connected));
        Ok(connected)
    }
}

impl Console {
    /// Begins to list the targets, if there are any, unless that has begun already. It must be called in a tokio runtime.
    pub(super) fn list_targets(&self) {
        let targets = &self.inner.targets;
        if targets.is_listing.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(fixed) = &targets.fixed {
            self.spawn(list(Arc::downgrade(&self.inner), Listed::Fixed(Arc::clone(fixed))));
        }
        for sink in &targets.others {
            self.spawn(list(Arc::downgrade(&self.inner), Listed::Other(Arc::clone(sink))));
        }
    }
}

/// A target to list.
enum Listed {
    Fixed(Arc<FixedTarget>),
    Other(Arc<dyn Sink>),
}

impl Listed {
    async fn list(&self) -> Result<Vec<KnownMigration>> {
        match self {
            Self::Other(sink) => migrations(&**sink).await,
            Self::Fixed(fixed) => {
                let listed = async { migrations(&*fixed.sink().await?).await }.await;
                lock(&fixed.known).1 = listed.as_ref().err().cloned();
                listed
            }
        }
    }
}

/// Lists a target again and again. It holds no console meanwhile, so that it does not keep it from ending.
async fn list(console: Weak<Inner>, target: Listed) {
    let mut shown = BTreeSet::new();
    loop {
        let begun = Instant::now();
        let listed = target.list().await;
        let Some(inner) = console.upgrade() else { return };
        if let Ok(listed) = listed {
            let party = match &target {
                Listed::Fixed(fixed) => Some(fixed.party()),
                Listed::Other(_) => None,
            };
            show(&Console { inner }, party.as_ref(), listed, begun, &mut shown);
        } else {
            drop(inner);
        }
        sleep(PAUSE).await;
    }
}

/// Takes over a listing. `shown` has the ids that come from this target alone.
fn show(
    console: &Console,
    target: Option<&Party>,
    listed: Vec<KnownMigration>,
    begun: Instant,
    shown: &mut BTreeSet<String>,
) {
    let mut ids = BTreeSet::new();
    for known in listed {
        ids.insert(known.id.clone());
        let Some(managed) = console.find(&known.id) else {
            let mut state = State::new(None);
            state.source = Some(Party {
                name: known.source_name.clone(),
                hosts: Vec::new(),
            });
            state.target = target.cloned();
            let id = known.id.clone();
            state.known = Some(known);
            // A migration that came in between is shown instead.
            if console
                .insert(id.clone(), Origin::Target, Direction::Forward, state)
                .is_ok()
            {
                shown.insert(id);
            }
            continue;
        };
        let is_meant = managed.origin != Origin::Page || target.is_some();
        let mut state = managed.state();
        // What this process has done since is newer.
        if is_meant && state.is_still() && state.since < begun {
            state.known = Some(known);
        }
    }
    for managed in console.all() {
        let is_gone = !ids.contains(&managed.id);
        let mut state = managed.state();
        if is_gone && shown.contains(&managed.id) && state.is_still() && state.since < begun {
            state.known = None;
            let is_worthless = managed.origin == Origin::Target && state.build.is_none();
            drop(state);
            shown.remove(&managed.id);
            if is_worthless {
                console.remove(&managed.id);
            }
        }
    }
}
