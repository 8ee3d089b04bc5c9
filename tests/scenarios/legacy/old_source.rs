//! Sources that are read without the driver, each behind a proxy, and what writes to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongoferry::ConnectOptions;
use mongoferry_testbed::compare::{CompareOptions, differences};
use mongoferry_testbed::{OldSet, Period, Proxy, ReplicaSet, TestbedError, Version};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::scenarios::random_servers::commands::{Commands, Step};
use crate::scenarios::random_servers::{NotKept, is_not_kept};

/// How many write at the same time, and their pauses.
const WRITERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(25);

/// What makes a source an old one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Age {
    /// A real 4.2 at feature compatibility version 4.0, which writes the oplog of that version. It is read as if its wire version were this.
    Compatible(i32),
    /// A real one of the version where the environment names its binary, or else a 4.2 that looks like it.
    Of(Period),
}

impl Age {
    /// A real set that is read as these wire versions, and every period.
    pub fn all(compatible: [i32; 2]) -> impl Iterator<Item = Self> {
        compatible
            .map(Self::Compatible)
            .into_iter()
            .chain(Period::ALL.map(Self::Of))
    }
}

/// A set of one member. Runs read it through a proxy, and applications write past it.
pub(super) struct OldSource {
    age: Age,
    set: Set,
}

enum Set {
    /// A server behind a proxy.
    Real(Proxy, ReplicaSet),
    /// As above, for which the driver is too new.
    Old(Proxy, OldSet),
    /// What makes the server look old has a proxy of its own.
    Emulated(OldSet),
}

impl OldSource {
    pub async fn start(age: Age) -> Self {
        let set = match age {
            Age::Compatible(_) => {
                let set = compatible_with_4_0(1).await;
                Set::Real(Proxy::start(set.member_address(0)).await.unwrap(), set)
            }
            Age::Of(period) => {
                let set = OldSet::start(period, 1).await.unwrap();
                match set.is_real() {
                    true => Set::Old(Proxy::start(set.set().member_address(0)).await.unwrap(), set),
                    false => Set::Emulated(set),
                }
            }
        };
        Self { age, set }
    }

    /// The version whose commands applications send.
    pub fn version(&self) -> Version {
        match self.age {
            Age::Compatible(_) => Version::V4_0,
            Age::Of(period) => period.version(),
        }
    }

    /// Whether it is read by commands, as from 3.2 on, instead of by queries.
    pub fn has_commands(&self) -> bool {
        match self.age {
            Age::Compatible(wire_version) => wire_version >= Period::V3_2.wire_version(),
            Age::Of(period) => period >= Period::V3_2,
        }
    }

    pub fn proxy(&self) -> &Proxy {
        match &self.set {
            Set::Real(proxy, _) | Set::Old(proxy, _) => proxy,
            Set::Emulated(set) => set.server().expect("it stands before the set").proxy(0),
        }
    }

    /// The connection string, and the wire version as which to read where the server does not show it.
    pub fn address(&self) -> (String, Option<i32>) {
        let uri = match &self.set {
            Set::Real(proxy, set) => proxy.uri(set),
            Set::Old(proxy, set) => proxy.uri(set.set()),
            Set::Emulated(set) => set.uri(),
        };
        let wire_version = match self.age {
            Age::Compatible(wire_version) => Some(wire_version),
            Age::Of(_) => None,
        };
        (uri, wire_version)
    }

    /// What a run connects to.
    pub fn options(&self) -> ConnectOptions {
        let (uri, wire_version) = self.address();
        old_options(&uri, wire_version)
    }

    /// A client of the server itself, unless that is a real old one, which the driver does not talk to.
    pub async fn client(&self) -> Option<Client> {
        let set = match &self.set {
            Set::Real(_, set) => set,
            Set::Old(..) => return None,
            Set::Emulated(set) => set.set(),
        };
        Some(set.client().await.unwrap())
    }

    /// Runs a command on the server itself. It may be refused.
    pub async fn run(&self, database: &str, command: Document) {
        let old = match &self.set {
            Set::Old(_, old) | Set::Emulated(old) => old,
            Set::Real(_, set) => {
                let client = set.client().await.unwrap();
                let _ = client.database(database).run_command(command).await;
                return;
            }
        };
        match old.run(database, command).await {
            Ok(_) | Err(TestbedError::Refused { .. }) => {}
            Err(error) => panic!("the source does not answer: {error}"),
        }
    }

    /// Panics unless both sides are the same, but for what the target cannot keep.
    pub async fn assert_identical(&self, seed: u64, to: &Client, not_kept: &NotKept) {
        let Some(from) = self.client().await else {
            // The comparison of the cutover has to do.
            return;
        };
        let compared = CompareOptions {
            // Up to 3.2, sources show older formats than those of the 4.2 behind.
            without_index_formats: matches!(self.age, Age::Of(period) if period < Period::V3_4),
            ..CompareOptions::default()
        };
        let mut found = differences(&from, to, &compared).await.unwrap();
        found.retain(|difference| !is_not_kept(difference, not_kept));
        assert!(found.is_empty(), "{:?}, seed {seed}: {found:#?}", self.age);
    }
}

/// A 4.2 that writes the oplog of 4.0.
pub(super) async fn compatible_with_4_0(members: usize) -> ReplicaSet {
    let set = ReplicaSet::builder(Version::V4_2)
        .members(members)
        .start()
        .await
        .unwrap();
    let command = doc! { "setFeatureCompatibilityVersion": "4.0" };
    let admin = set.client().await.unwrap().database("admin");
    admin.run_command(command).await.unwrap();
    set
}

/// What to connect to, and the wire version as which to read it where the server does not show it.
pub(super) fn old_options(uri: &str, wire_version: Option<i32>) -> ConnectOptions {
    let options = ConnectOptions::uri(uri);
    match wire_version {
        Some(wire_version) => options.as_legacy(wire_version),
        None => options,
    }
}

/// Applications of the time, which write until they are stopped or this is dropped.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    pub async fn start(source: &Arc<OldSource>, random: &mut StdRng, loud: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..WRITERS {
            let mut writer = Writer::start(source, random.random(), loud).await;
            let stop = Arc::clone(&stop);
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    writer.step().await;
                    sleep(PAUSE).await;
                }
            });
        }
        Self { stop, tasks }
    }

    /// Nothing is written after this returns.
    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// One of them.
pub(super) struct Writer {
    commands: Commands,
    source: Arc<OldSource>,
    /// For what clients of the time cannot send, where the server is newer than it looks.
    real: Option<Client>,
    loud: bool,
}

impl Writer {
    pub async fn start(source: &Arc<OldSource>, seed: u64, loud: bool) -> Writer {
        Writer {
            commands: Commands::new(source.version(), seed),
            source: Arc::clone(source),
            real: source.client().await,
            loud,
        }
    }

    /// Writes once. What the server refuses, as it does where writers meet, is part of the workload.
    pub async fn step(&mut self) {
        let step = self.commands.next();
        match (&self.real, step) {
            (Some(real), step) => step.perform(real, self.loud).await,
            (None, Step::Run(database, command)) => self.source.run(database, command).await,
            // Only drivers send the others.
            (None, _) => {}
        }
    }
}
