//! What keeps a connection from being made, each with its own words.

use std::path::Path;

use bson::doc;
use mongoferry::{Error, ErrorKind, MongoSink, MongoSource, Source};
use mongoferry_testbed::{Certificate, ReplicaSet, TlsListener, Version};

use super::admin;

/// The error of connecting, which is the same for either side.
async fn refused(uri: &str) -> Error {
    let uri = format!("{uri}&serverSelectionTimeoutMS=1000");
    let (source, sink) = tokio::join!(MongoSource::connect(&uri), MongoSink::connect(&uri));
    let (source, sink) = (source.unwrap_err(), sink.unwrap_err());
    assert_eq!(source.message(), sink.message());
    assert_eq!(source.kind(), sink.kind());
    source
}

#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, texts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.is_retryable(), "{error}");
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
        &[&open, "does not speak TLS", "remove `tls=true`"],
    );
    let error = refused(&format!("mongodb://{secure}/?replicaSet=rs0")).await;
    assert_says(
        &error,
        configuration,
        &[&secure, "TLS only", "add `tls=true&tlsCAFile=FILE`"],
    );
    let error = refused(&format!("mongodb://{secure}/?replicaSet=rs0&tls=true")).await;
    assert_says(
        &error,
        configuration,
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
        &[&secure, &theirs.display().to_string(), "not signed by"],
    );
    drop(other);
    let missing = format!("mongodb://{secure}/?replicaSet=rs0&tls=true&tlsCAFile=/no/such/file.pem");
    assert_says(&refused(&missing).await, configuration, &["/no/such/file.pem"]);

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
            &[mechanism, "of the database `admin`", "authSource"],
        );
    }
    let elsewhere = with("SCRAM-SHA-256:s3cret%20one", "&authSource=shop");
    assert_says(
        &refused(&elsewhere).await,
        ErrorKind::Unauthorized,
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
        &["subject of the client's certificate", "$external"],
    );
    let subject = "CN=client,O=mongoferry testbed clients";
    let roles = [doc! { "role": "clusterMonitor", "db": "admin" }];
    super::run(&root, "$external", doc! { "createUser": subject, "roles": &roles[..] }).await;
    let source = MongoSource::connect(&by_certificate).await.unwrap();
    let facts = source.inspect().await.unwrap();
    assert_eq!(facts.connection.encrypted, Some(true));
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
        assert_says(&error, ErrorKind::InvalidConfiguration, &[address, says[0], says[1]]);
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
        &["belongs to the replica set `rs0`; use `replicaSet=rs0`"],
    );
    for option in ["replicaSet=rs0", "directConnection=true", "appName=test"] {
        let error = refused(&format!("mongodb://{}/?{option}", alone.member_address(0))).await;
        assert_says(
            &error,
            ErrorKind::Refused,
            &["standalone server", "--replSet rs0", "rs.initiate()"],
        );
    }
}
