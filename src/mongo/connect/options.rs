//! What to connect to, and how.

use std::fmt;

use mongodb::Client;
use mongodb::options::ClientOptions;

use super::pem::TlsMaterial;
use crate::model::{OnWait, Wait};

/// What [`MongoSource::connect`](crate::MongoSource::connect) and [`MongoSink::connect`](crate::MongoSink::connect) connect to, and how.
///
/// Both take anything that converts into this type: a connection string, the driver's
/// [`ClientOptions`](crate::mongodb::options::ClientOptions), or a [`Client`](crate::mongodb::Client) of the host. The type itself is only
/// needed for what these cannot express.
///
/// ```no_run
/// use mongoferry::mongodb::options::{ClientOptions, ServerAddress};
/// use mongoferry::{ConnectOptions, MongoSink, MongoSource};
///
/// # async fn connect() -> mongoferry::Result<()> {
/// // A connection string.
/// let source = MongoSource::connect("mongodb://old.example/?replicaSet=rs0").await?;
///
/// // Options of the driver.
/// let hosts = vec![ServerAddress::Tcp { host: "new.example".into(), port: None }];
/// let options = ClientOptions::builder().hosts(hosts).repl_set_name("rs1".to_owned()).build();
/// let sink = MongoSink::connect(options).await?;
///
/// // Certificates in memory, and a callback for waits.
/// # let (authority, certificate_and_key) = (Vec::new(), Vec::new());
/// let options = ConnectOptions::uri("mongodb://old.example/?replicaSet=rs0")
///     .tls_authority(authority)
///     .tls_certificate(certificate_and_key)
///     .on_wait(|wait| eprintln!("{wait}"));
/// let source = MongoSource::connect(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectOptions {
    pub(super) to: To,
    pub(super) tls: TlsMaterial,
    pub(super) on_wait: OnWait,
    /// The wire version as which servers are read by the client for old servers, however new they are.
    #[cfg(feature = "legacy")]
    pub(super) legacy: Option<i32>,
}

#[derive(Clone)]
pub(super) enum To {
    Uri(String),
    Options(Box<ClientOptions>),
    Client(Client),
}

impl ConnectOptions {
    /// Connects to the replica set that a connection string names.
    ///
    /// `serverSelectionTimeoutMS` is the timeout for finding a primary, 30 seconds by default. `connectTimeoutMS` is the time each host has
    /// to answer. The read preference, read concern and write concern of the string are ignored. Sizes of the connection pool that the
    /// string does not state get defaults that suit a migration.
    pub fn uri(uri: impl Into<String>) -> Self {
        Self::to(To::Uri(uri.into()))
    }

    /// Connects with options of the driver, for what a connection string cannot express. They are treated like those of a connection
    /// string.
    pub fn options(options: ClientOptions) -> Self {
        Self::to(To::Options(Box::new(options)))
    }

    /// Uses a client that the host has created and may continue to use. Its read and write concerns are ignored.
    ///
    /// The driver does not reveal whether a client encrypts its traffic, so the client counts as unencrypted. Preflight blocks such a
    /// connection if it leaves this machine, unless that is [accepted](crate::MigrationBuilder::accept_unencrypted). With
    /// [`options`](Self::options), encryption is known.
    pub fn client(client: Client) -> Self {
        Self::to(To::Client(client))
    }

    /// Connects with TLS, and trusts only servers whose certificate one of these authorities has signed: certificates as PEM, such as the
    /// contents of the file that `tlsCAFile` would name.
    ///
    /// The driver reads certificates only from files. On Linux, they are written to a temporary file that has no name by then, so no other
    /// user can open it. On other systems the file has a name while this call to connect is in progress, and only its owner can read it.
    /// The file is closed and gone when connecting ends.
    ///
    /// Connecting fails with [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if this is not PEM, if the connection string
    /// or the options disable TLS or name a file for the same purpose, and with a [`client`](Self::client), whose TLS is already set up.
    #[must_use]
    pub fn tls_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.authority = Some(pem.into());
        self
    }

    /// Connects with TLS, and presents this client certificate: as PEM, the certificate, those of intermediate authorities if there are any,
    /// and the unencrypted private key, such as the contents of the file that `tlsCertificateKeyFile` would name.
    ///
    /// To authenticate with it, use `authMechanism=MONGODB-X509`. What [`tls_authority`](Self::tls_authority) says about files and errors
    /// holds here, too.
    #[must_use]
    pub fn tls_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.certificate = Some(pem.into());
        self
    }

    /// Calls `tell` while a server keeps the host waiting: first after two seconds, then every 10 seconds. `tell` must not block.
    #[must_use]
    pub fn on_wait(mut self, tell: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        self.on_wait = OnWait::new(tell);
        self
    }

    /// Reads by the client for old servers, however new the servers are, and as if they had at most this wire version. For tests.
    #[cfg(feature = "legacy")]
    #[doc(hidden)]
    #[must_use]
    pub fn as_legacy(mut self, wire_version: i32) -> Self {
        self.legacy = Some(wire_version);
        self
    }

    /// Whether the client for old servers is used, however new they are.
    #[cfg(feature = "legacy")]
    pub(crate) fn is_legacy(&self) -> bool {
        self.legacy.is_some()
    }

    /// The connection string, which may have a password.
    #[cfg(feature = "console")]
    pub(crate) fn uri_text(&self) -> Option<&str> {
        match &self.to {
            To::Uri(uri) => Some(uri),
            _ => None,
        }
    }

    /// The driver's options, if these were given.
    #[cfg(feature = "console")]
    pub(crate) fn client_options(&self) -> Option<&ClientOptions> {
        match &self.to {
            To::Options(options) => Some(options),
            _ => None,
        }
    }

    fn to(to: To) -> Self {
        Self {
            to,
            tls: TlsMaterial::default(),
            on_wait: OnWait::default(),
            #[cfg(feature = "legacy")]
            legacy: None,
        }
    }
}

/// Same as [`ConnectOptions::uri`].
impl From<&str> for ConnectOptions {
    fn from(uri: &str) -> Self {
        Self::uri(uri)
    }
}

/// Same as [`ConnectOptions::uri`].
impl From<&String> for ConnectOptions {
    fn from(uri: &String) -> Self {
        Self::uri(uri)
    }
}

/// Same as [`ConnectOptions::uri`].
impl From<String> for ConnectOptions {
    fn from(uri: String) -> Self {
        Self::uri(uri)
    }
}

/// Same as [`ConnectOptions::options`].
impl From<ClientOptions> for ConnectOptions {
    fn from(options: ClientOptions) -> Self {
        Self::options(options)
    }
}

/// Same as [`ConnectOptions::client`].
impl From<Client> for ConnectOptions {
    fn from(client: Client) -> Self {
        Self::client(client)
    }
}

/// Omits the connection target and the private key.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions").finish_non_exhaustive()
    }
}
