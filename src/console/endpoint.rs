//! How people say in the page which replica set to connect to.

use std::fmt;

use mongodb::options::{ClientOptions, ConnectionString, Credential, HostInfo, ServerAddress, Tls, TlsOptions};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind, Result};
use crate::mongo::connect::{ConnectOptions, redacted};

const OPERATION: &str = "read the connection";

/// A replica set to connect to: either `uri`, or `host` and what belongs to it. Certificates are PEM text and fit both forms.
///
/// It has secrets, so it is neither serialized nor shown.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    /// A connection string.
    #[schema(example = "mongodb://old.example/?replicaSet=rs0")]
    uri: Option<String>,
    /// One or more addresses, separated by commas.
    #[schema(example = "old.example:27017")]
    host: Option<String>,
    /// Name of the replica set.
    replica_set: Option<String>,
    user: Option<String>,
    #[schema(write_only)]
    password: Option<String>,
    /// The database that defines the user. Default: `admin`.
    auth_source: Option<String>,
    /// Whether to connect with TLS. Default: yes if there are certificates.
    tls: Option<bool>,
    /// Certificates of the authorities to trust.
    ca: Option<String>,
    /// Certificate of the client, and its key without a passphrase.
    #[schema(write_only)]
    certificate_key: Option<String>,
}

/// A side of a migration, as it is shown: without user, password and options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Party {
    /// Name of the replica set, if it is known.
    pub name: String,
    /// Addresses.
    pub hosts: Vec<String>,
}

/// How to connect to one side, and how it is shown.
#[derive(Clone)]
pub(super) struct Connection {
    pub options: ConnectOptions,
    pub party: Party,
}

impl Endpoint {
    /// Returns how to connect. Nothing is connected to.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if it is neither of the two forms. Connecting finds everything else.
    pub fn read(self, side: &'static str) -> Result<Connection> {
        let (ca, key) = (self.ca.clone(), self.certificate_key.clone());
        let mut connection = match (&self.uri, &self.host) {
            (Some(_), None) => self.by_uri(side)?,
            (None, Some(_)) => self.by_host(side)?,
            _ => return Err(invalid(side, "give either `uri` or `host`")),
        };
        if let Some(ca) = ca {
            connection.options = connection.options.tls_authority(ca);
        }
        if let Some(key) = key {
            connection.options = connection.options.tls_certificate(key);
        }
        Ok(connection)
    }

    fn by_uri(self, side: &'static str) -> Result<Connection> {
        let others = [
            self.replica_set.is_some(),
            self.user.is_some(),
            self.password.is_some(),
            self.auth_source.is_some(),
            self.tls.is_some(),
        ];
        if others.contains(&true) {
            let message = "the connection string says everything but certificates: leave out `replica_set`, `user`, `password`, `auth_source` and `tls`";
            return Err(invalid(side, message));
        }
        Ok(Connection::of(ConnectOptions::uri(self.uri.unwrap_or_default())))
    }

    fn by_host(self, side: &'static str) -> Result<Connection> {
        let hosts = self.host.unwrap_or_default();
        let mut parsed = Vec::new();
        for host in hosts.split(',').map(str::trim) {
            // A user name or a whole connection string may have been put here: it is not repeated.
            let wrong = || {
                invalid(
                    side,
                    "`host` is not a list of addresses: write `HOST:PORT`, or give a connection string as `uri`",
                )
            };
            if host.contains(['@', '/']) {
                return Err(wrong());
            }
            parsed.push(ServerAddress::parse(host).map_err(|_| wrong())?);
        }
        let mut options = ClientOptions::default();
        options.hosts = parsed;
        options.repl_set_name = self.replica_set.filter(|name| !name.is_empty());
        if let Some(user) = self.user.filter(|user| !user.is_empty()) {
            let mut credential = Credential::default();
            credential.username = Some(user);
            credential.password = self.password;
            credential.source = self.auth_source.filter(|source| !source.is_empty());
            options.credential = Some(credential);
        } else if self.password.is_some_and(|password| !password.is_empty()) {
            return Err(invalid(side, "there is a password without a user: give `user`, too"));
        }
        options.tls = match self.tls {
            Some(true) => Some(Tls::Enabled(TlsOptions::default())),
            Some(false) => Some(Tls::Disabled),
            None => None,
        };
        Ok(Connection::of(ConnectOptions::options(options)))
    }
}

impl Connection {
    /// Connects by these options. If a connection string is malformed, connecting finds that.
    pub fn of(options: ConnectOptions) -> Self {
        let party = match (options.uri_text(), options.client_options()) {
            (Some(uri), _) => Party::of_uri(uri),
            (None, Some(options)) => Party::new(options.repl_set_name.clone(), &options.hosts),
            (None, None) => Party::default(),
        };
        Self { options, party }
    }
}

impl Party {
    fn new(name: Option<String>, hosts: &[ServerAddress]) -> Self {
        Self {
            name: name.unwrap_or_default(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
        }
    }

    fn of_uri(uri: &str) -> Self {
        let Ok(parsed) = ConnectionString::parse(uri) else {
            return Self {
                name: String::new(),
                hosts: vec![redacted(uri)],
            };
        };
        match parsed.host_info {
            HostInfo::HostIdentifiers(hosts) => Self::new(parsed.replica_set, &hosts),
            HostInfo::DnsRecord(name) => Self {
                name: parsed.replica_set.unwrap_or_default(),
                hosts: vec![name],
            },
            _ => Self::default(),
        }
    }
}

/// Leaves out the options.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("party", &self.party)
            .finish_non_exhaustive()
    }
}

fn invalid(side: &'static str, message: &str) -> Error {
    Error::new(ErrorKind::InvalidConfiguration, OPERATION, message).with_context("side", side)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(endpoint: serde_json::Value) -> Result<Connection> {
        serde_json::from_value::<Endpoint>(endpoint).unwrap().read("source")
    }

    #[test]
    fn both_forms_are_shown_without_secrets() {
        for (endpoint, name, hosts) in [
            (
                json!({ "uri": "mongodb://ann:s3cret@h1:1,h2:2/?replicaSet=rs0", "ca": "s3cret" }),
                "rs0",
                vec!["h1:1", "h2:2"],
            ),
            (
                json!({ "uri": "mongodb://ann:s3cr/et@h1:1/" }),
                "",
                vec!["mongodb://h1:1"],
            ),
            (
                json!({ "uri": "mongodb+srv://ann:s3cret@cluster.example" }),
                "",
                vec!["cluster.example"],
            ),
            (
                json!({ "host": "h1:1, h2", "replica_set": "rs0", "user": "ann", "password": "s3cret", "tls": true }),
                "rs0",
                vec!["h1:1", "h2:27017"],
            ),
        ] {
            let connection = read(endpoint).unwrap();
            assert_eq!(
                (connection.party.name.as_str(), &connection.party.hosts[..]),
                (name, &hosts.map_strings()[..])
            );
            assert!(!format!("{connection:?}").contains("s3"), "{connection:?}");
        }
    }

    #[test]
    fn what_is_neither_form_is_refused_without_repeating_it() {
        for endpoint in [
            json!({}),
            json!({ "uri": "mongodb://h", "host": "h" }),
            json!({ "uri": "mongodb://h", "password": "s3cret" }),
            json!({ "host": "ann:s3cret@h1" }),
            json!({ "host": "mongodb://ann:s3cret" }),
            json!({ "host": "h", "password": "s3cret" }),
        ] {
            let error = read(endpoint).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    trait MapStrings {
        fn map_strings(self) -> Vec<String>;
    }

    impl MapStrings for Vec<&str> {
        fn map_strings(self) -> Vec<String> {
            self.into_iter().map(str::to_owned).collect()
        }
    }
}
