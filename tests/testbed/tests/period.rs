//! The period server before a real 4.2: what it answers is held against the captured answers of a real 2.6.12 and 3.0.15.

#[path = "period/answers.rs"]
mod answers;
#[path = "period/behaviour.rs"]
mod behaviour;
#[path = "period/captured.rs"]
mod captured;
#[path = "period/entries.rs"]
mod entries;

use std::time::Duration;

use mongodb::{Client, bson::Document};
use mongoferry_testbed::{OldClient, Period, PeriodServer, ReplicaSet, Version};

/// How long a condition may take to come true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A set of one member that looks old, and a client of the real one.
pub(crate) struct Bed {
    pub(crate) server: PeriodServer,
    pub(crate) real: Client,
    // Last: it outlives the clients.
    pub(crate) set: ReplicaSet,
}

impl Bed {
    pub(crate) async fn start(period: Period) -> Bed {
        let set = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
        let server = PeriodServer::start(&set, period).await.unwrap();
        let real = set.client().await.unwrap();
        Bed { server, real, set }
    }

    pub(crate) async fn client(&self) -> OldClient {
        OldClient::connect(&self.server.member_address(0)).await.unwrap()
    }

    /// Runs a command on the real server.
    pub(crate) async fn run(&self, database: &str, command: Document) -> Document {
        let what = format!("{command}");
        let answer = self.real.database(database).run_command(command).await;
        answer.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}
