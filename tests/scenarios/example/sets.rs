//! Two replica sets that the example migrates between.

use std::path::Path;

use mongodb::Client;
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version, workload};

use super::process::Example;

pub(in crate::scenarios) struct Sets {
    pub(super) source: ReplicaSet,
    target: ReplicaSet,
    pub(in crate::scenarios) source_client: Client,
    pub(in crate::scenarios) target_client: Client,
}

impl Sets {
    /// A folder that is removed at the end.
    pub(in crate::scenarios) fn folder(&self) -> &Path {
        self.source.folder()
    }

    /// The connection strings of both.
    pub(in crate::scenarios) fn uris(&self) -> (String, String) {
        (self.source.uri(), self.target.uri())
    }

    /// Two sets, of which the first has a shop.
    pub(in crate::scenarios) async fn start(documents: u64) -> Self {
        Self::start_on(Version::V6_0, Version::V6_0, documents).await
    }

    /// The same on other versions.
    pub(in crate::scenarios) async fn start_on(from: Version, to: Version, documents: u64) -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(from).start(),
            ReplicaSet::builder(to).name("rs1").start()
        )
        .unwrap();
        let (source_client, target_client) = (source.client().await.unwrap(), target.client().await.unwrap());
        workload::load(&source_client, documents, 3).await.unwrap();
        Self {
            source,
            target,
            source_client,
            target_client,
        }
    }

    pub(in crate::scenarios) fn example(&self, arguments: &[&str]) -> Example {
        let (source, target) = (self.source.uri(), self.target.uri());
        let mut all = vec!["--source", &source, "--target", &target];
        all.extend(arguments);
        Example::start(&all)
    }

    pub(in crate::scenarios) async fn assert_identical(&self) {
        assert_identical(&self.source_client, &self.target_client, &CompareOptions::default())
            .await
            .unwrap();
    }
}
