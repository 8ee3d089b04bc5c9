//! What keeps a connection from being made, each with its own words.

use std::path::Path;

use bson::doc;
use mongodb::Client;
use mongodb::options::ClientOptions;
use mongoferry::{ConnectOptions, Error, ErrorKind, Migration, MongoSink, MongoSource, Severity, Source};
use mongoferry_testbed::{Certificate, ReplicaSet, TlsListener, Version};

use super::{admin, assert_found, assert_plain, of_code, plan};

/// The error of connecting, which is the same for either side.
async fn refused(uri: &str) -> Error {
    let uri = format!("{uri}&serverSelectionTimeoutMS=1000");
    let (source, sink) = tokio::join!(MongoSource::connect(&uri), MongoSink::connect(&uri));
    let (source, sink) = (source.unwrap_err(), sink.unwrap_err());
    assert_eq!(source.message(), sink.message());
    assert_eq!(source.kind(), sink.kind());
    assert_eq!(source.findings(), sink.findings());
    source
}

#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, code: &str, texts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.is_retryable(), "{error}");
    let [finding] = error.findings() else {
        panic!("{error:?}")
    };
    assert_eq!((finding.code.as_str(), finding.severity), (code, Severity::Blocker));
    assert!(!finding.fix.is_empty());
    assert_plain(error);
    for text in texts {
        assert!(error.message().contains(text), "`{text}` in: {error}");
    }
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_credentials_are_told_apart() {
    let (tls, plain) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0)
            .tls()
            .key_file_auth()
            .set_parameter("authenticationMechanisms", "MONGODB-X509,SCRAM-SHA-1,SCRAM-SHA-256")
            .start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let root = tls.client().await.unwrap();
    let authority = tls.ca_file().unwrap();
    let (secure, open) = (tls.member_address(0), plain.member_address(0));
    let configuration = ErrorKind::InvalidConfiguration;

    let error = refused(&format!(
        "mongodb://{open}/?replicaSet=rs1&tls=true&tlsCAFile={}",
        authority.display()
    ))
    .await;
    assert_says(
        &error,
        configuration,
        "tls_not_offered",
        &[&open, "does not speak TLS", "remove `tls=true`"],
    );
    let error = refused(&format!("mongodb://{secure}/?replicaSet=rs0")).await;
    assert_says(
        &error,
        configuration,
        "tls_required",
        &[&secure, "TLS only", "add `tls=true&tlsCAFile=FILE`"],
    );
    let error = refused(&format!("mongodb://{secure}/?replicaSet=rs0&tls=true")).await;
    assert_says(
        &error,
        configuration,
        "certificate",
        &[&secure, "not signed by a public authority", "tlsCAFile"],
    );
    let other = ReplicaSet::builder(Version::V6_0)
        .name("rs2")
        .tls()
        .start()
        .await
        .unwrap();
    let theirs = other.ca_file().unwrap();
    let error = refused(&format!(
        "mongodb://{secure}/?replicaSet=rs0&tls=true&tlsCAFile={}",
        theirs.display()
    ))
    .await;
    assert_says(
        &error,
        configuration,
        "certificate",
        &[&secure, &theirs.display().to_string(), "not signed by"],
    );
    drop(other);
    let missing = format!("mongodb://{secure}/?replicaSet=rs0&tls=true&tlsCAFile=/no/such/file.pem");
    assert_says(
        &refused(&missing).await,
        configuration,
        "tls_files",
        &["/no/such/file.pem"],
    );

    certificates(&tls, authority).await;

    let with = |user: &str, more: &str| {
        format!(
            "mongodb://{user}@{secure}/?replicaSet=rs0&tls=true&tlsCAFile={}{more}",
            authority.display()
        )
    };
    for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256"] {
        let command = doc! {
            "createUser": mechanism, "pwd": "s3cret one", "roles": ["clusterMonitor"], "mechanisms": [mechanism],
        };
        admin(&root, command).await;
        let right = with(
            &format!("{mechanism}:s3cret%20one"),
            &format!("&authMechanism={mechanism}"),
        );
        MongoSource::connect(&right).await.unwrap();
        let wrong = with(
            &format!("{mechanism}:s3cret%20two"),
            &format!("&authMechanism={mechanism}"),
        );
        let error = refused(&wrong).await;
        assert_says(
            &error,
            ErrorKind::Unauthorized,
            "credentials_refused",
            &[mechanism, "of the database `admin`", "authSource"],
        );
    }
    let elsewhere = with("SCRAM-SHA-256:s3cret%20one", "&authSource=shop");
    assert_says(
        &refused(&elsewhere).await,
        ErrorKind::Unauthorized,
        "credentials_refused",
        &["of the database `shop`"],
    );

    let client = tls.issue(Certificate::Client).unwrap();
    let by_certificate = format!(
        "mongodb://{secure}/?replicaSet=rs0&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}&authMechanism=MONGODB-X509",
        authority.display(),
        client.display()
    );
    let error = refused(&by_certificate).await;
    assert_says(
        &error,
        ErrorKind::Unauthorized,
        "credentials_refused",
        &["subject of the client's certificate", "$external"],
    );
    let subject = "CN=client,O=mongoferry testbed clients";
    let roles = [doc! { "role": "clusterMonitor", "db": "admin" }];
    super::run(&root, "$external", doc! { "createUser": subject, "roles": &roles[..] }).await;
    let source = MongoSource::connect(&by_certificate).await.unwrap();
    let facts = source.inspect().await.unwrap();
    assert_eq!(facts.connection.encrypted, Some(true));
    let options = ClientOptions::parse(&by_certificate).await.unwrap();
    let sink = MongoSink::connect(options).await.unwrap();
    assert_eq!(
        mongoferry::Sink::inspect(&sink).await.unwrap().connection.encrypted,
        Some(true)
    );
    // The same with the certificates in memory.
    let in_memory = ConnectOptions::uri(format!("mongodb://{secure}/?replicaSet=rs0&authMechanism=MONGODB-X509"))
        .tls_authority(std::fs::read(authority).unwrap())
        .tls_certificate(std::fs::read(&client).unwrap());
    let same = MongoSource::connect(in_memory.clone()).await.unwrap();
    let same = same.inspect().await.unwrap().connection;
    assert_eq!((same.encrypted, same.user), (Some(true), facts.connection.user.clone()));
    let foreign = tls.issue(Certificate::Client).unwrap();
    let error = MongoSource::connect(in_memory.tls_authority(std::fs::read(foreign).unwrap()))
        .await
        .unwrap_err();
    assert_says(
        &error,
        configuration,
        "certificate",
        &["the authority in the given PEM data"],
    );
    assert_eq!(
        facts.connection.user,
        Some((subject.to_owned(), "$external".to_owned()))
    );
}

/// Certificates that a server would not start with, or not elect a primary with, shown by something else that listens.
async fn certificates(tls: &ReplicaSet, authority: &Path) {
    for (certificate, says) in [
        (Certificate::Expired, ["has expired", "openssl s_client -connect"]),
        (Certificate::OtherHost, ["is for another host", "subjectAltName"]),
    ] {
        let listener = TlsListener::start(&tls.issue(certificate).unwrap(), None).unwrap();
        let address = listener.address();
        let error = refused(&format!(
            "mongodb://{address}/?tls=true&tlsCAFile={}",
            authority.display()
        ))
        .await;
        assert_says(
            &error,
            ErrorKind::InvalidConfiguration,
            "certificate",
            &[address, says[0], says[1]],
        );
    }
    let listener = TlsListener::start(&tls.issue(Certificate::Server).unwrap(), Some(authority)).unwrap();
    let address = listener.address();
    let error = refused(&format!(
        "mongodb://{address}/?tls=true&tlsCAFile={}",
        authority.display()
    ))
    .await;
    assert_says(
        &error,
        ErrorKind::InvalidConfiguration,
        "client_certificate",
        &[address, "wants a certificate of the client", "tlsCertificateKeyFile"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_replica_set_is_told_with_what_to_do() {
    let (set, alone) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).standalone().start()
    )
    .unwrap();
    let error = refused(&format!("mongodb://{}/?replicaSet=other", set.member_address(0))).await;
    assert_says(
        &error,
        ErrorKind::InvalidConfiguration,
        "other_set",
        &["belongs to the replica set `rs0`", "use `replicaSet=rs0`"],
    );
    for option in ["replicaSet=rs0", "directConnection=true", "appName=test"] {
        let error = refused(&format!("mongodb://{}/?{option}", alone.member_address(0))).await;
        assert_says(
            &error,
            ErrorKind::Refused,
            "standalone",
            &["standalone server", "--replSet rs0", "rs.initiate()"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_host_is_checked_like_a_connection_string() {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).members(2).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    // An address that is not a loopback one by its name, and yet leads here.
    let outside = |address: String| address.replace("127.0.0.1", "0.0.0.0");
    let primary = source.primary_index().await.unwrap();
    let (from, to) = (
        outside(source.member_address(primary)),
        outside(target.member_address(0)),
    );
    let uri = |address: &str| format!("mongodb://{address}/?directConnection=true&readPreference=nearest");
    for by_options in [false, true] {
        let options = async |address: &str| match by_options {
            true => ConnectOptions::options(ClientOptions::parse(uri(address)).await.unwrap()),
            false => ConnectOptions::client(Client::with_uri_str(uri(address)).await.unwrap()),
        };
        let migration = async || {
            let from = MongoSource::connect(options(&from).await).await.unwrap();
            let to = MongoSink::connect(options(&to).await).await.unwrap();
            Migration::builder(from, to)
        };
        let found = plan(migration().await).await;
        let blocked: Vec<&str> = of_code(&found, "unencrypted")
            .iter()
            .map(|found| found.message.as_str())
            .collect();
        assert_eq!(blocked.len(), 2, "{found}");
        assert!(blocked[0].contains(&from) && blocked[1].contains(&to), "{found}");
        assert_found(&found, Severity::Note, "read_preference", "`nearest`");
        let alone = of_code(&found, "direct_connection");
        assert!(alone[0].message.contains(&from), "{found}");
        assert!(alone[0].fix.contains("`directConnection`"), "{found}");
        let refused = migration().await.build().unwrap().start().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert!(
            refused.findings().iter().any(|found| found.code == "unencrypted"),
            "{refused}"
        );
        let accepted = plan(migration().await.accept_unencrypted(true)).await;
        assert_eq!(accepted.blockers().count(), 0, "{accepted}");
    }
    // What stays on this host is nobody else's to read, and the members of a set are found.
    let client = source.client().await.unwrap();
    let (from, to) = (
        MongoSource::connect(client).await,
        MongoSink::connect(target.client().await.unwrap()).await,
    );
    let found = plan(Migration::builder(from.unwrap(), to.unwrap())).await;
    for code in ["unencrypted", "direct_connection", "read_preference"] {
        assert_eq!(of_code(&found, code).len(), 0, "{found}");
    }
}
