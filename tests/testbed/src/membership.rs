use std::{fs, sync::Mutex, time::Duration};

use mongodb::bson::{Bson, Document, doc};

use crate::{
    Proxy, ReplicaSet, TestbedError,
    builder::{Ports, ready},
    replica_set::{Member, PATIENCE},
};

/// Members that come and go.
impl ReplicaSet {
    /// Starts one more server with an empty data folder, and returns its index once it listens. It belongs to the set
    /// only after [`add_member`](Self::add_member).
    ///
    /// # Errors
    ///
    /// As [`ReplicaSetBuilder::start`](crate::ReplicaSetBuilder::start). [`TestbedError::Misuse`] for a set with TLS or
    /// authentication.
    pub async fn start_member(&mut self) -> Result<usize, TestbedError> {
        if self.certificates.is_some() || self.credentials.is_some() {
            return Err(TestbedError::Misuse("only plain sets take members later".to_owned()));
        }
        let port = Ports::default().free()?;
        // Members with the same number would share a folder, which may still be there from one that was removed.
        let folder = self.folder.path().join(format!("member-{}-{port}", self.members.len()));
        fs::create_dir_all(folder.join("data")).map_err(TestbedError::io("making a data folder"))?;
        let arguments = self.builder.server_arguments(&folder, port);
        self.members.push(Member {
            port,
            arguments,
            log: folder.join("mongod.log"),
            server: Mutex::new(None),
        });
        let index = self.members.len() - 1;
        self.launch(index)?;
        self.server(index)?.listening(PATIENCE).await?;
        Ok(index)
    }

    /// Adds a started server to the set as a member without a vote, which changes nothing for the majority. Returns when
    /// the primary has the new configuration, which is when the member begins to copy the set's data.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Refused`] with the primary's reason.
    pub async fn add_member(&self, index: usize) -> Result<(), TestbedError> {
        let member = doc! { "_id": index as i32, "host": self.member_address(index), "votes": 0, "priority": 0 };
        self.reconfigure(|members| members.push(member.into())).await
    }

    /// Takes the member that was started last out of the set, kills its server, and removes its data.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] for the only member, [`TestbedError::Refused`] with the primary's reason.
    pub async fn remove_member(&mut self) -> Result<(), TestbedError> {
        let index = self.members.len() - 1;
        if index == 0 {
            return Err(TestbedError::Misuse("a set has one member at least".to_owned()));
        }
        self.reconfigure(|members| members.truncate(index)).await?;
        if self.process_id(index).is_some() {
            self.kill(index).await?;
        }
        if let Some(folder) = self.members.pop().as_ref().and_then(|member| member.log.parent()) {
            fs::remove_dir_all(folder).map_err(TestbedError::io("removing a member's folder"))?;
        }
        Ok(())
    }

    /// Has the members, and clients of the whole set, reach each member through its proxy, which is the one with the
    /// member's index; a member that reaches no majority takes so long to see it. Returns when the set is ready again.
    ///
    /// [`uri`](Self::uri) still names the members themselves, of which a client learns the proxies.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Refused`] with the primary's reason, [`TestbedError::Timeout`] when the set does not come back.
    pub async fn place_behind(&self, proxies: &[Proxy], election_timeout: Duration) -> Result<(), TestbedError> {
        let malformed = |_| TestbedError::Misuse("a set without a configuration".to_owned());
        let primary = self.primary_index().await?;
        let answer = self.command(primary, doc! { "replSetGetConfig": 1 }).await?;
        let mut configuration: Document = answer.get_document("config").map_err(malformed)?.clone();
        let version = configuration.get_i32("version").map_err(malformed)?;
        configuration.insert("version", version + 1);
        let members = configuration.get_array_mut("members").map_err(malformed)?;
        for (member, proxy) in members.iter_mut().filter_map(Bson::as_document_mut).zip(proxies) {
            member.insert("host", proxy.addr());
        }
        let timeout = i64::try_from(election_timeout.as_millis()).unwrap_or(i64::MAX);
        let settings = configuration.get_document_mut("settings").map_err(malformed)?;
        settings.insert("electionTimeoutMillis", timeout);
        let command = doc! { "replSetReconfig": configuration, "force": true };
        self.command(primary, command).await?;
        ready(self).await.map(drop)
    }

    async fn reconfigure(&self, change: impl FnOnce(&mut Vec<Bson>)) -> Result<(), TestbedError> {
        let primary = self.primary_index().await?;
        let malformed = |_| TestbedError::Misuse("a set without a configuration".to_owned());
        let answer = self.command(primary, doc! { "replSetGetConfig": 1 }).await?;
        let mut configuration: Document = answer.get_document("config").map_err(malformed)?.clone();
        let version = configuration.get_i32("version").map_err(malformed)?;
        configuration.insert("version", version + 1);
        change(configuration.get_array_mut("members").map_err(malformed)?);
        self.command(primary, doc! { "replSetReconfig": configuration })
            .await
            .map(drop)
    }
}
