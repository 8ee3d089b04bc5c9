//! The replica sets of a test, and the application that writes to the old one.

use mongodb::options::{ClientOptions, ServerAddress};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, Version};

pub struct Sides {
    pub source: ReplicaSet,
    pub target: ReplicaSet,
}

/// What an operator types to connect to a set.
pub struct Access {
    pub host: String,
    pub user: String,
    pub password: String,
}

impl Sides {
    /// Starts two sets of one member, with a shop on the first one. The first one asks for a password.
    pub async fn start(documents: u64) -> Sides {
        let source = ReplicaSet::builder(Version::V6_0)
            .name("old")
            .key_file_auth()
            .start()
            .await
            .unwrap();
        let target = ReplicaSet::builder(Version::V6_0).name("new").start().await.unwrap();
        workload::load(&source.client().await.unwrap(), documents, 1)
            .await
            .unwrap();
        Sides { source, target }
    }

    /// Starts the application of the shop.
    pub async fn application(&self) -> Writer {
        let client = self.source.client().await.unwrap();
        Writer::builder(&client, 1)
            .operations_per_second(50)
            .start()
            .await
            .unwrap()
    }

    /// How to connect to the old set.
    pub async fn access(&self) -> Access {
        let options = ClientOptions::parse(self.source.uri()).await.unwrap();
        let credential = options.credential.unwrap();
        let ServerAddress::Tcp { host, port } = &options.hosts[0] else {
            panic!("the address of a server")
        };
        Access {
            host: format!("{host}:{}", port.unwrap()),
            user: credential.username.unwrap(),
            password: credential.password.unwrap(),
        }
    }

    /// Compares both sides without the library.
    pub async fn assert_identical(&self) {
        let (source, target) = (self.source.client().await.unwrap(), self.target.client().await.unwrap());
        assert_identical(&source, &target, &CompareOptions::default())
            .await
            .unwrap();
    }
}
