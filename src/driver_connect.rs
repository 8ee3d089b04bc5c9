//! Connecting by a connection string, and what stands in the way of it.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::error::{Error as DriverError, ErrorKind as DriverErrorKind};
use mongodb::options::{
    AuthMechanism, ClientOptions, ReadPreference, SelectionCriteria, ServerAddress, Tls, TlsOptions,
};

use crate::driver;
use crate::error::{Error, ErrorKind, Result};
use crate::inspection::Connection;
use crate::retry::{RetryRule, retry};

const OPERATION: &str = "connect";

/// How long a server may take to answer when it is only asked what it is.
const GLANCE: Duration = Duration::from_secs(3);

/// A client, and what the connection string says of it.
pub(crate) struct Connected {
    pub client: Client,
    pub connection: Connection,
}

/// A client for `uri` that has reached a primary, with defaults that suit a migration where the connection string says nothing.
///
/// Where the names that the members have for each other cannot be reached from here, a given host that is the primary is talked to alone.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a malformed connection string and for TLS that cannot be agreed on,
/// [`Unauthorized`](ErrorKind::Unauthorized) for credentials that are refused, [`Connection`](ErrorKind::Connection) for what is not
/// reached in time. The message says what to change.
pub(crate) async fn connect(uri: &str) -> Result<Connected> {
    let invalid = |error: DriverError| {
        Error::new(
            ErrorKind::InvalidConfiguration,
            "read the connection string",
            driver::reason(&error),
        )
        .with_context("uri", redacted(uri))
    };
    let mut options = ClientOptions::parse(uri).await.map_err(invalid)?;
    options.app_name.get_or_insert_with(|| "mongoferry".to_owned());
    options.max_pool_size.get_or_insert(64);
    options.max_connecting.get_or_insert(8);
    options.server_selection_timeout.get_or_insert(Duration::from_secs(15));
    options.connect_timeout.get_or_insert(Duration::from_secs(10));
    let connection = connection_of(&options);
    // Every command carries its own concerns; defaults of the connection string would be added to them a second time.
    options.read_concern = None;
    options.write_concern = None;
    options.retry_writes = Some(false);
    options.selection_criteria = None;
    let client = Client::with_options(options.clone()).map_err(invalid)?;
    let Err(error) = greet(&client).await else {
        return Ok(Connected { client, connection });
    };
    if let Some(diagnosis) = diagnose(&options, &error).await {
        return Err(diagnosis.with_source(error));
    }
    if let Some((client, host, unreachable)) = directly(&options).await {
        let connection = Connection {
            hosts: vec![host],
            direct: true,
            unreachable,
            ..connection
        };
        return Ok(Connected { client, connection });
    }
    // An election or a restart takes a while.
    match retry(RetryRule::SERVER, || async {
        greet(&client).await.map_err(|error| driver::convert(OPERATION, error))
    })
    .await
    {
        Ok(_) => Ok(Connected { client, connection }),
        Err(_) => Err(unreached(&options).await.with_source(error)),
    }
}

/// The connection string without user name and password.
pub(crate) fn redacted(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return "(not a connection string)".to_owned();
    };
    let hosts_end = rest.find('/').unwrap_or(rest.len());
    // A password that was not escaped may itself hold a slash, so that the last `@` of the whole is what ends the credentials.
    let rest = match rest.rfind('@') {
        Some(at) => &rest[at + 1..],
        None => &rest[..hosts_end],
    };
    let hosts = rest.split(['/', '?']).next().unwrap_or_default();
    format!("{scheme}://{hosts}")
}

fn connection_of(options: &ClientOptions) -> Connection {
    let user = options.credential.as_ref().map(|credential| {
        let database = match credential.mechanism {
            Some(AuthMechanism::MongoDbX509) => "$external".to_owned(),
            _ => credential.source.clone().unwrap_or_else(|| "admin".to_owned()),
        };
        (credential.username.clone().unwrap_or_default(), database)
    });
    let read_preference = match &options.selection_criteria {
        None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary)) => None,
        Some(SelectionCriteria::ReadPreference(other)) => Some(
            match other {
                ReadPreference::Secondary { .. } => "secondary",
                ReadPreference::PrimaryPreferred { .. } => "primaryPreferred",
                ReadPreference::SecondaryPreferred { .. } => "secondaryPreferred",
                ReadPreference::Nearest { .. } => "nearest",
                _ => "another one",
            }
            .to_owned(),
        ),
        Some(_) => Some("another one".to_owned()),
    };
    Connection {
        hosts: options.hosts.iter().map(ToString::to_string).collect(),
        encrypted: Some(matches!(options.tls, Some(Tls::Enabled(_)))),
        direct: options.direct_connection == Some(true),
        unreachable: Vec::new(),
        user,
        read_preference,
    }
}

/// Asks the primary who it is.
async fn greet(client: &Client) -> Result<Document, DriverError> {
    // The name that every version knows; `hello` came with 4.4.2.
    client.database("admin").run_command(doc! { "isMaster": 1 }).await
}

/// Asks one server who it is, without credentials.
async fn glance(options: &ClientOptions, host: &ServerAddress, tls: Option<Tls>) -> Result<Document, DriverError> {
    let mut options = options.clone();
    options.hosts = vec![host.clone()];
    options.direct_connection = Some(true);
    options.repl_set_name = None;
    options.load_balanced = None;
    options.credential = None;
    options.tls = tls;
    options.server_selection_timeout = Some(GLANCE);
    options.connect_timeout = Some(GLANCE);
    greet(&Client::with_options(options)?).await
}

/// Why a connection cannot be had, where it is something that will not pass by itself.
async fn diagnose(options: &ClientOptions, error: &DriverError) -> Option<Error> {
    if let DriverErrorKind::Authentication { .. } = &*error.kind {
        return Some(refused_credentials(options));
    }
    if let DriverErrorKind::IncompatibleServer { .. } = &*error.kind {
        let message = format!(
            "{}; 4.2 is the oldest version that can be reached: upgrade the server to it first, one major version after the other, or \
             carry the data over with mongodump and mongorestore of its own version",
            driver::reason(error)
        );
        return Some(Error::new(ErrorKind::Refused, OPERATION, message).with_context("hosts", hosts_of(options)));
    }
    if let DriverErrorKind::InvalidTlsConfig { .. } = &*error.kind {
        let fix = "give PEM files that this process can read as `tlsCAFile` and `tlsCertificateKeyFile`";
        return Some(invalid(options, format!("{}; {fix}", driver::reason(error))));
    }
    for host in &options.hosts {
        let found = match glance(options, host, options.tls.clone()).await {
            Ok(hello) => other_set(options, host, &hello),
            Err(error) => match &options.tls {
                Some(Tls::Enabled(tls)) => diagnose_tls(options, host, tls, &error).await,
                _ => diagnose_plain(options, host).await,
            },
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// What is wrong with a server that answers, and is not of the set that was asked for.
fn other_set(options: &ClientOptions, host: &ServerAddress, hello: &Document) -> Option<Error> {
    let wanted = options.repl_set_name.as_ref()?;
    match hello.get_str("setName") {
        Ok(name) if name == wanted => None,
        Ok(name) => Some(invalid(
            options,
            format!("{host} belongs to the replica set `{name}`; use `replicaSet={name}`"),
        )),
        Err(_) => {
            let message = format!("{host} belongs to no replica set: {}", driver::not_a_replica_set(hello));
            Some(Error::new(ErrorKind::Refused, OPERATION, message))
        }
    }
}

/// What is wrong with a server that is asked for TLS.
async fn diagnose_tls(
    options: &ClientOptions,
    host: &ServerAddress,
    tls: &TlsOptions,
    error: &DriverError,
) -> Option<Error> {
    let text = error.to_string();
    if let Some(problem) = certificate_problem(&text, host, tls) {
        return Some(invalid(options, problem));
    }
    if glance(options, host, None).await.is_ok() {
        return Some(invalid(
            options,
            format!(
                "{host} does not speak TLS, which the connection string asks for; remove `tls=true` from it, or start the server with \
                 `--tlsMode requireTLS --tlsCertificateKeyFile FILE`"
            ),
        ));
    }
    None
}

/// What is wrong with a server that is talked to without TLS.
async fn diagnose_plain(options: &ClientOptions, host: &ServerAddress) -> Option<Error> {
    // Only to see what the server speaks: nothing but a greeting is sent.
    let mut anything = TlsOptions::default();
    anything.allow_invalid_certificates = Some(true);
    let speaks_tls = match glance(options, host, Some(Tls::Enabled(anything.clone()))).await {
        Ok(_) => true,
        Err(error) => certificate_problem(&error.to_string(), host, &anything).is_some(),
    };
    speaks_tls.then(|| {
        invalid(
            options,
            format!(
                "{host} takes connections with TLS only; add `tls=true&tlsCAFile=FILE` to the connection string, with the certificate of \
                 the authority that signed the server's"
            ),
        )
    })
}

/// What an error of the TLS layer says about a certificate. The driver passes on its text and nothing else.
fn certificate_problem(text: &str, host: &ServerAddress, tls: &TlsOptions) -> Option<String> {
    let authority = match &tls.ca_file_path {
        Some(path) => format!("the authority in {}", path.display()),
        None => "a public authority".to_owned(),
    };
    let is = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
    if is(&["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"]) {
        return Some(format!(
            "the certificate of {host} is not signed by {authority}; give the certificate of the one that signed it as `tlsCAFile`"
        ));
    }
    if is(&["peer certificate: certificate expired", "peer certificate: Expired"]) {
        return Some(format!(
            "the certificate of {host} has expired; give the server a new one (`openssl s_client -connect {host} </dev/null | openssl x509 \
             -noout -dates` shows its dates)"
        ));
    }
    if is(&["certificate not valid yet", "NotValidYet"]) {
        return Some(format!(
            "the certificate of {host} is not valid yet; compare the clocks of both hosts, or give the server another certificate"
        ));
    }
    if is(&["certificate not valid for name", "NotValidForName"]) {
        return Some(format!(
            "the certificate of {host} is for another host; use a host name that stands in it (`openssl s_client -connect {host} \
             </dev/null | openssl x509 -noout -ext subjectAltName` shows them), or give the server one with a subjectAltName for this name"
        ));
    }
    if is(&[
        "CertificateRequired",
        "received fatal alert: BadCertificate",
        "received fatal alert: UnknownCA",
        "received fatal alert: CertificateUnknown",
        "received fatal alert: CertificateExpired",
        "received fatal alert: HandshakeFailure",
    ]) {
        return Some(match &tls.cert_key_file_path {
            None => format!(
                "{host} wants a certificate of the client; add `tlsCertificateKeyFile=FILE` to the connection string, with a certificate \
                 that the server's authority has signed and its key"
            ),
            Some(path) => format!(
                "{host} refuses the client's certificate in {}; give one that the server's authority has signed and that has not expired",
                path.display()
            ),
        });
    }
    is(&["invalid peer certificate"]).then(|| {
        format!(
            "the certificate of {host} cannot be used; give the server an X.509 v3 certificate with a subjectAltName"
        )
    })
}

fn refused_credentials(options: &ClientOptions) -> Error {
    let credential = options.credential.as_ref();
    let user = credential
        .and_then(|credential| credential.username.as_deref())
        .unwrap_or_default();
    let message = if credential.is_some_and(|credential| credential.mechanism == Some(AuthMechanism::MongoDbX509)) {
        "the server knows no user by the subject of the client's certificate; run `db.getSiblingDB(\"$external\").createUser({ user: \
         \"SUBJECT\", roles: [...] })` with the subject that `openssl x509 -noout -subject -nameopt RFC2253` prints for it"
            .to_owned()
    } else {
        let database = credential
            .and_then(|credential| credential.source.as_deref())
            .unwrap_or("admin");
        format!(
            "the server refuses user `{user}` of the database `{database}`, or the password; correct them, percent-encode special \
             characters of the password, and name the database that holds the user as `authSource`"
        )
    };
    Error::new(ErrorKind::Unauthorized, OPERATION, message).with_context("hosts", hosts_of(options))
}

fn invalid(options: &ClientOptions, message: String) -> Error {
    Error::new(ErrorKind::InvalidConfiguration, OPERATION, message).with_context("hosts", hosts_of(options))
}

/// A given host that is the primary, talked to alone, where the names of its set are of no use here; with those names.
async fn directly(options: &ClientOptions) -> Option<(Client, String, Vec<String>)> {
    if options.direct_connection == Some(true) {
        return None;
    }
    for host in &options.hosts {
        let Ok(hello) = glance(options, host, options.tls.clone()).await else {
            continue;
        };
        let is_of_the_set = match (&options.repl_set_name, hello.get_str("setName")) {
            (Some(wanted), Ok(name)) => wanted == name,
            (None, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        let names = names_of(&hello);
        if !is_of_the_set || !hello.get_bool("ismaster").unwrap_or(false) || names.contains(&host.to_string()) {
            continue;
        }
        let mut options = options.clone();
        options.hosts = vec![host.clone()];
        options.direct_connection = Some(true);
        if let Ok(client) = Client::with_options(options)
            && greet(&client).await.is_ok()
        {
            return Some((client, host.to_string(), names));
        }
    }
    None
}

fn names_of(hello: &Document) -> Vec<String> {
    let listed = hello.get_array("hosts").map(Vec::as_slice).unwrap_or_default();
    listed
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// The error of a set of which no primary was found, with what its hosts say.
async fn unreached(options: &ClientOptions) -> Error {
    let mut seen = Vec::new();
    for host in &options.hosts {
        seen.push(match glance(options, host, options.tls.clone()).await {
            Err(_) => format!(
                "{host} does not answer (does mongod run there, does its `net.bindIp` let this host in, does a firewall?)"
            ),
            Ok(hello) => match hello.get_str("primary") {
                Ok(primary) => format!("{host} says that the primary is {primary}, which cannot be reached from here"),
                Err(_) => format!("{host} knows of no primary: `rs.status()` there shows the members' states"),
            },
        });
    }
    Error::new(
        ErrorKind::Connection,
        OPERATION,
        format!("no primary was reached; {}", seen.join("; ")),
    )
    .with_context("hosts", hosts_of(options))
}

fn hosts_of(options: &ClientOptions) -> String {
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    hosts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_lose_their_credentials() {
        for (uri, shown) in [
            (
                "mongodb://user:pa%40ss@h1:1,h2:2/admin?replicaSet=rs",
                "mongodb://h1:1,h2:2",
            ),
            ("mongodb://user:p/a@s@h1:1/?tls=true", "mongodb://h1:1"),
            ("mongodb://h1", "mongodb://h1"),
            ("mongodb+srv://u:p@cluster.example", "mongodb+srv://cluster.example"),
            ("user:secret", "(not a connection string)"),
        ] {
            assert_eq!(redacted(uri), shown);
        }
    }

    #[tokio::test]
    async fn a_malformed_connection_string_is_named_without_its_password() {
        for uri in [
            "mongodb://user:sec/ret@host",
            "mongo://user:secret@host",
            "mongodb://user:secret@host/?authMechanism=NOPE",
        ] {
            let error = connect(uri).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!text.contains("sec"), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_connection_string_says_is_remembered_without_its_password() {
        for (uri, user, direct, read_preference) in [
            ("mongodb://h1:1", None, false, None),
            (
                "mongodb://u:secret@h1:1/?authSource=shop&readPreference=nearest",
                Some(("u".to_owned(), "shop".to_owned())),
                false,
                Some("nearest".to_owned()),
            ),
            (
                "mongodb://h1:1/?directConnection=true&readPreference=primary",
                None,
                true,
                None,
            ),
        ] {
            let connection = connection_of(&ClientOptions::parse(uri).await.unwrap());
            assert_eq!(connection.hosts, ["h1:1"]);
            assert_eq!(
                (
                    connection.user.clone(),
                    connection.direct,
                    connection.read_preference.clone()
                ),
                (user, direct, read_preference),
                "{uri}"
            );
            assert!(!format!("{connection:?}").contains("secret"));
        }
    }
}
