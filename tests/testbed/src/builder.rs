use std::{env, fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, sync::Mutex};

use mongodb::bson::{Document, doc};
use rand::{
    Rng,
    distr::{Alphanumeric, SampleString},
};
use tempfile::TempDir;

use crate::{
    ReplicaSet, TestbedError, Version,
    binary::Binary,
    certificates::{Certificates, TlsDemand},
    place,
    replica_set::{Credentials, Member, PATIENCE, State},
    wait_until,
};

/// Options of a [`ReplicaSet`].
#[derive(Clone, Debug)]
#[must_use = "nothing is started before `start`"]
pub struct ReplicaSetBuilder {
    version: Version,
    name: String,
    members: usize,
    oplog_size_mb: u32,
    cache_gb: f64,
    test_commands: bool,
    key_file_auth: bool,
    tls: Option<TlsDemand>,
    /// Those of another set, to be used instead of new ones.
    certificates: Option<Certificates>,
    standalone: bool,
    on_disk: bool,
    parameters: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl ReplicaSetBuilder {
    pub(crate) fn new(version: Version) -> ReplicaSetBuilder {
        ReplicaSetBuilder {
            version,
            name: "rs0".to_owned(),
            members: 1,
            oplog_size_mb: 512,
            cache_gb: 0.25,
            test_commands: true,
            key_file_auth: false,
            tls: None,
            certificates: None,
            standalone: false,
            on_disk: false,
            parameters: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// How many data-bearing members the set has: one by default, three for elections.
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// The replica set's name, `rs0` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Keeps the servers' files in the temporary folder of the system, and their journals as they are by default, for measurements. Otherwise
    /// they are in memory where there is much of it, unless `TMPDIR` names another place.
    pub fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self
    }

    /// The size of each member's oplog in megabytes (2^20 bytes), 512 by default. The server takes 990 at least for a
    /// later resize, but any size at the start.
    pub fn oplog_size_mb(mut self, megabytes: u32) -> Self {
        self.oplog_size_mb = megabytes;
        self
    }

    /// The storage engine's cache of each member in gigabytes (2^30 bytes), 0.25 by default, which is also the least.
    pub fn cache_gb(mut self, gigabytes: f64) -> Self {
        self.cache_gb = gigabytes;
        self
    }

    /// Whether the servers take test commands such as `configureFailPoint`; yes by default.
    pub fn enable_test_commands(mut self, enable: bool) -> Self {
        self.test_commands = enable;
        self
    }

    /// Demands authentication, with a random key file among the members and a root user whose random password is part
    /// of [`ReplicaSet::uri`].
    pub fn key_file_auth(mut self) -> Self {
        self.key_file_auth = true;
        self
    }

    /// Demands TLS, with a new authority ([`ReplicaSet::ca_file`]) and a certificate for `127.0.0.1` and `localhost`.
    /// Needs the `openssl` program.
    pub fn tls(mut self) -> Self {
        self.tls = Some(TlsDemand::Always);
        self
    }

    /// Demands TLS with the authority and the certificate of another set, which has to live for longer: what that authority signs is valid
    /// for both.
    ///
    /// Does nothing when the other set uses no TLS.
    pub fn tls_of(mut self, other: &ReplicaSet) -> Self {
        self.certificates.clone_from(&other.certificates);
        self
    }

    /// Takes TLS, as [`ReplicaSetBuilder::tls`] does, and takes connections without it as well: for servers with ciphers that the driver
    /// does not have. Its key is an RSA key, which old ciphers need.
    pub fn optional_tls(mut self) -> Self {
        self.tls = Some(TlsDemand::Never);
        self
    }

    /// Starts servers that belong to no replica set, to see how they are refused.
    pub fn standalone(mut self) -> Self {
        self.standalone = true;
        self
    }

    /// Sets a server parameter at the start (`--setParameter name=value`). A later value for the same name wins.
    pub fn set_parameter(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        let name = name.into();
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value.to_string()));
        self
    }

    /// Adds one word to the servers' command line.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the servers, initiates the set, and waits until it has a writable primary and every other member is a
    /// secondary. The first start of a version may fetch its binary.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NoBinary`] when there is no binary, [`TestbedError::Ended`] with the end of the log when a
    /// server does not start, [`TestbedError::Timeout`] when the set is not ready within a minute.
    pub async fn start(self) -> Result<ReplicaSet, TestbedError> {
        if self.members == 0 {
            return Err(TestbedError::Misuse("a replica set has one member at least".to_owned()));
        }
        let version = self.version;
        let binary = tokio::task::spawn_blocking(move || Binary::find(version))
            .await
            .map_err(|error| TestbedError::Misuse(format!("looking mongod up: {error}")))??;
        let mut attempts = 0;
        let set = loop {
            attempts += 1;
            match self.launch(binary.clone()).await {
                // Another process took the port between our choice and the server's start.
                Err(TestbedError::Ended { log, .. }) if attempts < 5 && log.contains("ddress already in use") => {}
                other => break other?,
            }
        };
        self.initiate(set).await
    }

    /// Starts the processes and waits until all listen.
    async fn launch(&self, binary: Binary) -> Result<ReplicaSet, TestbedError> {
        let place = match self.on_disk {
            true => env::temp_dir(),
            false => place::folder(),
        };
        let folder = tempfile::Builder::new()
            .prefix("mongoferry-testbed-")
            .tempdir_in(place)
            .map_err(TestbedError::io("making a temporary folder"))?;
        let certificates = match (&self.certificates, self.tls) {
            (Some(of_another), _) => Some(of_another.clone()),
            (None, Some(demand)) => Some(Certificates::generate(folder.path(), demand)?),
            (None, None) => None,
        };
        let key_file = if self.key_file_auth {
            Some(write_key_file(&folder)?)
        } else {
            None
        };

        let mut members = Vec::with_capacity(self.members);
        let mut ports = Ports::default();
        for index in 0..self.members {
            let member = folder.path().join(format!("member-{index}"));
            fs::create_dir_all(member.join("data")).map_err(TestbedError::io("making a data folder"))?;
            let port = ports.free()?;
            let mut arguments = self.server_arguments(&member, port);
            if let Some(path) = &key_file {
                arguments.extend(["--keyFile".to_owned(), path.clone()]);
            }
            if let Some(certificates) = &certificates {
                arguments.extend(certificates.server_arguments());
            }
            members.push(Member {
                port,
                arguments,
                log: member.join("mongod.log"),
                server: Mutex::new(None),
            });
        }
        drop(ports);

        let set = ReplicaSet {
            version: self.version,
            name: self.name.clone(),
            binary,
            builder: self.clone(),
            members,
            credentials: None,
            certificates,
            folder,
        };
        for index in 0..set.members.len() {
            set.launch(index)?;
        }
        for index in 0..set.members.len() {
            set.server(index)?.listening(PATIENCE).await?;
        }
        Ok(set)
    }

    pub(crate) fn server_arguments(&self, folder: &Path, port: u16) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "--replSet",
            &self.name,
            "--dbpath",
            &folder.join("data").display().to_string(),
            "--port",
            &port.to_string(),
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--oplogSize",
            &self.oplog_size_mb.to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        // The engine came with 3.0, and took whole gigabytes alone before 3.4.
        let cache = if self.version < Version::V3_4 {
            self.cache_gb.ceil()
        } else {
            self.cache_gb
        };
        if self.version > Version::V2_6 {
            arguments.extend(["--wiredTigerCacheSizeGB".to_owned(), cache.to_string()]);
        }
        if !self.on_disk && self.version >= Version::V4_2 {
            // A server keeps two more files of 100 MB ready for its journal.
            arguments.extend([
                "--wiredTigerEngineConfigString".to_owned(),
                "log=(prealloc=false)".to_owned(),
            ]);
        }
        match self.version {
            Version::V2_6 => arguments.extend(["--smallfiles", "--noprealloc"].map(str::to_owned)),
            Version::V3_0 => arguments.extend(["--storageEngine", "wiredTiger"].map(str::to_owned)),
            _ => {}
        }
        if self.standalone {
            arguments.drain(..2);
        }

        let mut parameters: Vec<(&str, &str)> = vec![
            ("diagnosticDataCollectionEnabled", "false"),
            ("enableTestCommands", if self.test_commands { "1" } else { "0" }),
        ];
        if self.version < Version::V3_2 {
            // It came with 3.2.
            parameters.remove(0);
        }
        if !self.version.is_before_5_0() {
            // A primary would wait 15 s for its clients to go.
            parameters.push(("shutdownTimeoutMillisForSignaledShutdown", "100"));
        }
        parameters.retain(|(name, _)| self.parameters.iter().all(|(given, _)| given != name));
        parameters.extend(
            self.parameters
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        for (name, value) in parameters {
            arguments.extend(["--setParameter".to_owned(), format!("{name}={value}")]);
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }

    async fn initiate(&self, mut set: ReplicaSet) -> Result<ReplicaSet, TestbedError> {
        if !self.standalone {
            set.command(0, doc! { "replSetInitiate": self.configuration(&set) })
                .await?;
        }
        let primary = ready(&set).await?;
        if self.key_file_auth {
            // Until there is a user the server takes this from its own host. It is journaled, and with it the set's configuration, which a
            // member that is killed right after it was started would have lost otherwise.
            let credentials = Credentials {
                user: "root".to_owned(),
                password: Alphanumeric.sample_string(&mut rand::rng(), 24),
            };
            let command = doc! {
                "createUser": &credentials.user,
                "pwd": &credentials.password,
                "roles": ["root"],
                "writeConcern": { "w": set.members() as i32, "j": true },
            };
            set.command(primary, command).await?;
            set.credentials = Some(credentials);
        } else if set.members() == 1 {
            // A member that is killed right after it was started would have lost the set's configuration, which others would tell it again.
            set.command(primary, doc! { "fsync": 1 }).await?;
        }
        Ok(set)
    }

    fn configuration(&self, set: &ReplicaSet) -> Document {
        let members: Vec<Document> = (0..set.members())
            .map(|index| doc! { "_id": index as i32, "host": set.member_address(index) })
            .collect();
        let mut configuration = doc! { "_id": &self.name, "members": members };
        if self.version >= Version::V3_2 {
            // They came with protocol version 1.
            let settings = doc! { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 200 };
            configuration.insert("settings", settings);
        }
        configuration
    }
}

/// Waits until one member is primary and the others are secondaries; returns the primary's index.
pub(crate) async fn ready(set: &ReplicaSet) -> Result<usize, TestbedError> {
    let mut primary = None;
    wait_until(PATIENCE, "a primary and secondaries", async || {
        let states = set.states().await;
        primary = states.iter().position(|state| *state == State::Primary);
        primary.is_some() && !states.contains(&State::Other)
    })
    .await?;
    primary.ok_or_else(|| TestbedError::Misuse("a primary was found and lost".to_owned()))
}

/// Writes a random key file and returns its path.
fn write_key_file(folder: &TempDir) -> Result<String, TestbedError> {
    let path = folder.path().join("key");
    fs::write(&path, Alphanumeric.sample_string(&mut rand::rng(), 64))
        .map_err(TestbedError::io("writing a key file"))?;
    // The server refuses one that others may read.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(TestbedError::io("writing a key file"))?;
    Ok(path.display().to_string())
}

/// Chooses free ports, and holds them until it is dropped so that none is chosen twice.
#[derive(Default)]
pub(crate) struct Ports(Vec<TcpListener>);

impl Ports {
    pub(crate) fn free(&mut self) -> Result<u16, TestbedError> {
        // Below the range that systems take for outgoing connections: such a one could take the port while the member
        // that owns it is down for a restart.
        const RANGE: std::ops::Range<u16> = 20_000..32_000;
        for _ in 0..200 {
            let port = rand::rng().random_range(RANGE);
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                self.0.push(listener);
                return Ok(port);
            }
        }
        Err(TestbedError::Misuse(format!("no free port in {RANGE:?}")))
    }
}
