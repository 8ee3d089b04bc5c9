use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
    options::ClientOptions,
};
use tempfile::TempDir;

use crate::{
    Certificate, OldClient, TestbedError, Version, binary::Binary, builder::ReplicaSetBuilder, error::log_tail,
    server::Server, wait_until, wire,
};

/// How long a server may take to start, to end or to answer, and a set to elect. Far more than a healthy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running replica set on free loopback ports. Dropping it kills its servers and removes their folder.
pub struct ReplicaSet {
    pub(crate) version: Version,
    pub(crate) name: String,
    pub(crate) binary: Binary,
    /// What the set was made with, for members that are started later.
    pub(crate) builder: ReplicaSetBuilder,
    pub(crate) members: Vec<Member>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) certificates: Option<crate::certificates::Certificates>,
    // Last, so that the servers are gone before their folder.
    pub(crate) folder: TempDir,
}

/// One member: what it takes to start it again, and its process while it runs.
pub(crate) struct Member {
    pub(crate) port: u16,
    pub(crate) arguments: Vec<String>,
    pub(crate) log: PathBuf,
    pub(crate) server: Mutex<Option<Arc<Server>>>,
}

/// The root user of a set with authentication.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl ReplicaSet {
    /// A set of one member, without authentication or TLS, unless told otherwise.
    pub fn builder(version: Version) -> ReplicaSetBuilder {
        ReplicaSetBuilder::new(version)
    }

    /// The version that was asked for. A binary from the environment may be another release of the same series.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The replica set's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many members the set has, running or not.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The connection string of the whole set, with the root user's password where there is one.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.port))
            .collect();
        self.uri_for(&hosts.join(","), &format!("replicaSet={}", self.name))
    }

    /// The connection string of one member alone (`directConnection=true`).
    ///
    /// # Panics
    ///
    /// When there is no member `index`.
    pub fn member_uri(&self, index: usize) -> String {
        self.direct_uri(&self.member_address(index))
    }

    /// The address of one member, such as `127.0.0.1:27017`.
    ///
    /// # Panics
    ///
    /// When there is no member `index`.
    pub fn member_address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.members[index].port)
    }

    /// The process id of one member's server, while it runs.
    pub fn process_id(&self, index: usize) -> Option<u32> {
        self.running(index).ok().map(|server| server.process_id())
    }

    /// The folder of the set, which holds a folder for each member with its data and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of the authority that signed the servers' certificates, when the set uses TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificates
            .as_ref()
            .map(|certificates| certificates.authority.as_path())
    }

    /// Has the set's authority make a certificate; gives the file that holds it with its key.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] when the set does not use TLS, [`TestbedError::Program`] when `openssl` fails.
    pub fn issue(&self, certificate: Certificate) -> Result<PathBuf, TestbedError> {
        match &self.certificates {
            Some(certificates) => certificates.issue(certificate),
            None => Err(TestbedError::Misuse("the set does not use TLS".to_owned())),
        }
    }

    /// A new client for the whole set.
    ///
    /// Each call makes one, since a client's tasks end with the runtime it was made in and every test has its own.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Server`] when the driver does not take the connection string.
    pub async fn client(&self) -> Result<Client, TestbedError> {
        client(&self.uri()).await
    }

    /// A new client for one member alone.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Server`] when the driver does not take the connection string.
    pub async fn member_client(&self, index: usize) -> Result<Client, TestbedError> {
        client(&self.member_uri(index)).await
    }

    /// The index of the member that is the writable primary now.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when there is none for a minute.
    pub async fn primary_index(&self) -> Result<usize, TestbedError> {
        let mut found = None;
        let wait = wait_until(PATIENCE, "a primary", async || {
            found = self.states().await.iter().position(|state| *state == State::Primary);
            found.is_some()
        });
        wait.await?;
        found.ok_or_else(|| TestbedError::Misuse("a primary was found and lost".to_owned()))
    }

    /// Kills a member as a power failure would (`SIGKILL`), and waits until it is gone.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] when it is not running.
    pub async fn kill(&self, index: usize) -> Result<(), TestbedError> {
        self.end(index, "KILL").await
    }

    /// Asks a member to shut down (`SIGTERM`), and waits until it has. A primary of several steps down first.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] when it is not running, [`TestbedError::Timeout`] when it does not end.
    pub async fn stop(&self, index: usize) -> Result<(), TestbedError> {
        self.end(index, "TERM").await
    }

    /// Starts a member again on its port and data, after shutting it down when it still runs, and waits until it
    /// answers as primary or secondary (a single member: as primary).
    ///
    /// # Errors
    ///
    /// [`TestbedError::Ended`] when the server does not start, [`TestbedError::Timeout`] when it does not answer.
    pub async fn restart(&self, index: usize) -> Result<(), TestbedError> {
        if self.running(index).is_ok() {
            self.stop(index).await?;
        }
        self.launch(index)?;
        self.server(index)?.listening(PATIENCE).await?;
        let single = self.members.len() == 1;
        let what = format!("member {index} to answer");
        let answers = wait_until(PATIENCE, &what, async || match self.state(index).await {
            State::Primary => true,
            State::Secondary => !single,
            State::Other => false,
        });
        answers.await.map_err(|error| self.with_log(error, index))
    }

    /// Adds the last lines of a member's log to a timeout.
    fn with_log(&self, error: TestbedError, index: usize) -> TestbedError {
        match (error, self.member(index)) {
            (TestbedError::Timeout { what, waited, .. }, Ok(member)) => TestbedError::Timeout {
                what,
                waited,
                log: format!("\n{}", log_tail(&member.log)),
            },
            (error, _) => error,
        }
    }

    /// Makes the primary step down and waits until there is a primary again. A single member elects itself again.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when there is no primary for a minute.
    pub async fn step_down(&self) -> Result<(), TestbedError> {
        let single = self.members.len() == 1;
        let command = if single {
            doc! { "replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": true }
        } else {
            // For as short as may be: a member may not be elected for so long, which the next one to step down would have to wait for.
            doc! { "replSetStepDown": 3, "secondaryCatchUpPeriodSecs": 2 }
        };
        // A secondary that lags or an election under way refuses it; so it is asked again until it is done.
        let mut refusal = None;
        let asked = wait_until(PATIENCE, "the primary to step down", async || {
            let answer = async {
                let primary = self.primary_index().await?;
                match self.credentials {
                    Some(_) => {
                        let client = self.member_client(primary).await?;
                        let answer = client.database("admin").run_command(command.clone()).await;
                        answer.map(drop).map_err(TestbedError::server("replSetStepDown"))
                    }
                    None => self.command(primary, command.clone()).await.map(drop),
                }
            };
            refusal = answer.await.err();
            refusal.is_none()
        });
        if let Err(timeout) = asked.await {
            return Err(refusal.unwrap_or(timeout));
        }
        self.primary_index().await.map(drop)
    }

    /// Stops a member's process where it stands (`SIGSTOP`): its connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] when it is not running, [`TestbedError::Timeout`] when it does not stop.
    pub async fn suspend(&self, index: usize) -> Result<(), TestbedError> {
        let server = self.running(index)?;
        server.signal("STOP")?;
        // The signal is taken by one thread, which may wait for a processor while the others still answer.
        wait_until(PATIENCE, &format!("member {index} to stand still"), async || {
            server.stands_still()
        })
        .await
    }

    /// Lets a suspended member go on (`SIGCONT`).
    ///
    /// # Errors
    ///
    /// [`TestbedError::Misuse`] when it is not running.
    pub async fn resume(&self, index: usize) -> Result<(), TestbedError> {
        self.running(index)?.signal("CONT")
    }

    /// The connection string for `address` alone, with what the set demands of its clients.
    pub(crate) fn direct_uri(&self, address: &str) -> String {
        self.uri_for(address, "directConnection=true")
    }

    /// Starts the process of a member that is not running. Does not wait for it.
    pub(crate) fn launch(&self, index: usize) -> Result<(), TestbedError> {
        let member = self.member(index)?;
        let (folder, log) = (self.folder.path(), member.log.clone());
        let server = Server::spawn(self.version, &self.binary, &member.arguments, folder, log)?;
        *member.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(server));
        Ok(())
    }

    /// A member's server, which may have ended meanwhile.
    pub(crate) fn server(&self, index: usize) -> Result<Arc<Server>, TestbedError> {
        let server = self
            .member(index)?
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        server.ok_or_else(|| TestbedError::Misuse(format!("member {index} was not started")))
    }

    fn running(&self, index: usize) -> Result<Arc<Server>, TestbedError> {
        let server = self.server(index)?;
        match server.ended() {
            None => Ok(server),
            Some(status) => Err(TestbedError::Misuse(format!(
                "member {index} is not running ({status})"
            ))),
        }
    }

    /// The state of each member, in order.
    pub(crate) async fn states(&self) -> Vec<State> {
        join_all((0..self.members.len()).map(|index| self.state(index))).await
    }

    /// The state of one member; [`State::Other`] as well when it does not answer within two seconds.
    async fn state(&self, index: usize) -> State {
        if self.running(index).is_err() {
            return State::Other;
        }
        // The name that every version knows; `hello` came with 4.4.2.
        let answer = self.command(index, doc! { "isMaster": 1 });
        match tokio::time::timeout(Duration::from_secs(2), answer).await {
            Ok(Ok(answer)) if matches!(answer.get_bool("ismaster"), Ok(true)) => State::Primary,
            Ok(Ok(answer)) if matches!(answer.get_bool("secondary"), Ok(true)) => State::Secondary,
            _ => State::Other,
        }
    }

    /// Runs a command on a member's `admin` database without authentication, as a set's first steps and the questions
    /// for its state need none.
    pub(crate) async fn command(&self, index: usize, command: Document) -> Result<Document, TestbedError> {
        let what = command.keys().next().cloned().unwrap_or_default();
        let demand = self.certificates.as_ref().map(|certificates| certificates.demand);
        if demand == Some(crate::certificates::TlsDemand::Always) {
            let uri = self.uri_with(None, &self.member_address(index), "directConnection=true");
            let answer = client(&uri).await?.database("admin").run_command(command).await;
            return answer.map_err(TestbedError::server(what));
        }
        let address = self.member_address(index);
        let answer = if self.version.is_before_3_6() {
            OldClient::run(&address, "admin", command).await
        } else {
            wire::admin_command(&address, command).await
        };
        let answer = answer.map_err(TestbedError::io(what.clone()))?;
        if matches!(answer.get("ok"), Some(Bson::Double(ok)) if *ok == 1.0) {
            return Ok(answer);
        }
        let message = answer.get_str("errmsg").unwrap_or("no message").to_owned();
        Err(TestbedError::Refused { what, answer: message })
    }

    fn uri_for(&self, hosts: &str, option: &str) -> String {
        self.uri_with(self.credentials.as_ref(), hosts, option)
    }

    fn uri_with(&self, credentials: Option<&Credentials>, hosts: &str, option: &str) -> String {
        let credentials = match credentials {
            Some(Credentials { user, password }) => format!("{user}:{password}@"),
            None => String::new(),
        };
        let tls = match self.ca_file() {
            Some(path) => format!("&tls=true&tlsCAFile={}", path.display()),
            None => String::new(),
        };
        format!("mongodb://{credentials}{hosts}/?{option}{tls}")
    }

    fn member(&self, index: usize) -> Result<&Member, TestbedError> {
        self.members
            .get(index)
            .ok_or_else(|| TestbedError::Misuse(format!("there is no member {index}")))
    }

    async fn end(&self, index: usize, signal: &str) -> Result<(), TestbedError> {
        let server = self.running(index)?;
        server.signal(signal)?;
        server.end(PATIENCE).await.map(drop)
    }
}

impl fmt::Debug for ReplicaSet {
    /// Without the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ReplicaSet")
            .field("version", &self.version)
            .field("name", &self.name)
            .field(
                "ports",
                &self.members.iter().map(|member| member.port).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

/// What a member says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Primary,
    Secondary,
    Other,
}

async fn client(uri: &str) -> Result<Client, TestbedError> {
    let options = ClientOptions::parse(uri)
        .await
        .map_err(TestbedError::server("reading the connection string"))?;
    Client::with_options(options).map_err(TestbedError::server("making a client"))
}
