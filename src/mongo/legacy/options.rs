//! What the client connects to, and how.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress, Tls, TlsOptions};

use crate::mongo::retry::COMMAND_TIMEOUT;

/// Settings of a [`LegacyClient`](super::LegacyClient). The driver parses the connection string.
#[derive(Clone, Debug)]
pub struct LegacyOptions {
    /// The given members, as `host:port`.
    pub hosts: Vec<String>,
    /// The name that the replica set must have, if it is given.
    pub set_name: Option<String>,
    /// Whether the first host alone is used, whatever its set says of other members.
    pub direct: bool,
    /// How to log in.
    pub credential: Option<LegacyCredential>,
    /// How to encrypt.
    pub tls: Option<LegacyTls>,
    /// The name that the servers' logs show.
    pub app_name: String,
    /// Timeout for a connection, with its encryption and login.
    pub connect_timeout: Duration,
    /// Timeout for finding a primary.
    pub server_selection_timeout: Duration,
    /// Timeout for the first byte of an answer, in addition to the time that the server is asked to wait, and for each later part of it.
    pub answer_timeout: Duration,
    /// Maximum number of connections to one server.
    pub max_pool_size: u32,
    /// How long a connection is kept that nobody uses.
    pub max_idle_time: Duration,
    /// The highest wire version that the client assumes, whatever the server reports. Tests use it to read from newer servers as from old
    /// ones.
    pub wire_version_limit: Option<i32>,
}

/// A login. `Debug` shows no password.
#[derive(Clone, Default)]
pub struct LegacyCredential {
    /// The user, which X.509 from 3.4 on takes from the certificate.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database of the user.
    pub source: String,
    /// The mechanism; the best one that the server offers if it is not given.
    pub mechanism: Option<LegacyMechanism>,
}

/// How to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyMechanism {
    /// MONGODB-CR, the only one of 2.6.
    Cr,
    /// SCRAM-SHA-1, from 3.0 on.
    ScramSha1,
    /// SCRAM-SHA-256, from 4.0 on.
    ScramSha256,
    /// The client's certificate.
    X509,
    /// One that the client does not have, by its name.
    Other(String),
}

/// How to encrypt.
#[derive(Clone, Debug, Default)]
pub struct LegacyTls {
    /// A file with the certificates of the authorities to trust. Without it, public authorities are trusted.
    pub ca_file: Option<PathBuf>,
    /// A file with the client's certificate and key.
    pub certificate_key_file: Option<PathBuf>,
    /// Whether any certificate is accepted.
    pub allow_invalid_certificates: bool,
    /// Whether a certificate for another host is accepted.
    pub allow_invalid_hostnames: bool,
    /// The library that encrypts.
    pub library: TlsLibrary,
}

/// A library that encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsLibrary {
    /// The one of the driver. It has no key exchange in common with servers up to 3.4.
    Rustls,
    /// OpenSSL, with old ciphers allowed.
    #[cfg(feature = "legacy-openssl")]
    OpenSsl,
}

impl Default for TlsLibrary {
    fn default() -> Self {
        #[cfg(feature = "legacy-openssl")]
        return TlsLibrary::OpenSsl;
        #[cfg(not(feature = "legacy-openssl"))]
        TlsLibrary::Rustls
    }
}

impl From<ClientOptions> for LegacyOptions {
    fn from(options: ClientOptions) -> Self {
        Self {
            hosts: options.hosts.iter().map(address_of).collect(),
            set_name: options.repl_set_name,
            direct: options.direct_connection.unwrap_or(false),
            credential: options.credential.map(LegacyCredential::from),
            tls: match options.tls {
                Some(Tls::Enabled(tls)) => Some(LegacyTls::from(tls)),
                Some(Tls::Disabled) | None => None,
            },
            app_name: options.app_name.unwrap_or_else(|| "mongoferry".to_owned()),
            connect_timeout: options.connect_timeout.unwrap_or(Duration::from_secs(10)),
            server_selection_timeout: options.server_selection_timeout.unwrap_or(Duration::from_secs(15)),
            answer_timeout: COMMAND_TIMEOUT,
            // 0 means "no limit" to the driver; here each connection may hold a message of 48 MB.
            max_pool_size: options.max_pool_size.filter(|size| *size > 0).unwrap_or(64),
            max_idle_time: options
                .max_idle_time
                .filter(|time| !time.is_zero())
                .unwrap_or(Duration::from_secs(60)),
            wire_version_limit: None,
        }
    }
}

impl From<Credential> for LegacyCredential {
    fn from(credential: Credential) -> Self {
        let mechanism = credential.mechanism.map(|mechanism| match mechanism {
            AuthMechanism::MongoDbCr => LegacyMechanism::Cr,
            AuthMechanism::ScramSha1 => LegacyMechanism::ScramSha1,
            AuthMechanism::ScramSha256 => LegacyMechanism::ScramSha256,
            AuthMechanism::MongoDbX509 => LegacyMechanism::X509,
            other => LegacyMechanism::Other(other.as_str().to_owned()),
        });
        let source = credential.source.unwrap_or_else(|| match mechanism {
            Some(LegacyMechanism::X509) => "$external".to_owned(),
            _ => "admin".to_owned(),
        });
        Self {
            user: credential.username,
            password: credential.password,
            source,
            mechanism,
        }
    }
}

impl From<TlsOptions> for LegacyTls {
    fn from(tls: TlsOptions) -> Self {
        Self {
            ca_file: tls.ca_file_path,
            certificate_key_file: tls.cert_key_file_path,
            allow_invalid_certificates: tls.allow_invalid_certificates.unwrap_or(false),
            allow_invalid_hostnames: false,
            library: TlsLibrary::default(),
        }
    }
}

impl fmt::Debug for LegacyCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyCredential")
            .field("user", &self.user)
            .field("source", &self.source)
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

/// The address as members name each other.
fn address_of(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, port } => {
            let port = port.unwrap_or(27017);
            match host.contains(':') && !host.starts_with('[') {
                true => format!("[{host}]:{port}"),
                false => format!("{}:{port}", host.to_lowercase()),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_string_becomes_options() {
        let uri = "mongodb://me:s3cret@A.example,b.example:1/shop?replicaSet=rs&authMechanism=MONGODB-CR&maxPoolSize=3&tls=true";
        let options = LegacyOptions::from(ClientOptions::parse(uri).await.unwrap());
        assert_eq!(options.hosts, ["a.example:27017", "b.example:1"]);
        assert_eq!((options.set_name.as_deref(), options.max_pool_size), (Some("rs"), 3));
        assert!(!options.direct && options.tls.is_some());
        let credential = options.credential.as_ref().unwrap();
        assert_eq!(credential.mechanism, Some(LegacyMechanism::Cr));
        assert_eq!(
            (credential.source.as_str(), credential.password.as_deref()),
            ("shop", Some("s3cret"))
        );
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}
