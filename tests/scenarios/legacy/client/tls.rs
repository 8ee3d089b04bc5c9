//! TLS, with both libraries, and logins by certificate.

use bson::{doc, rawdoc};
use mongoferry::ErrorKind;
use mongoferry::test_util::legacy::{Find, LegacyClient, LegacyCredential, LegacyMechanism, LegacyOptions, TlsLibrary};
use mongoferry_testbed::{Certificate, ReplicaSet, TlsListener, Version};

use super::{batches, options, ping};

/// The subject of the testbed's client certificate.
const SUBJECT: &str = "CN=client,O=mongoferry testbed clients";

/// The libraries that this program is built with.
fn libraries() -> Vec<TlsLibrary> {
    let mut libraries = vec![TlsLibrary::Rustls];
    libraries.extend(
        [TlsLibrary::default()]
            .into_iter()
            .filter(|library| *library != TlsLibrary::Rustls),
    );
    libraries
}

fn with_library(options: &LegacyOptions, library: TlsLibrary) -> LegacyOptions {
    let mut options = options.clone();
    if let Some(tls) = &mut options.tls {
        tls.library = library;
    }
    options.server_selection_timeout = std::time::Duration::from_secs(2);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_encrypts_and_logs_in_by_certificate() {
    let set = ReplicaSet::builder(Version::V4_2)
        .tls()
        .key_file_auth()
        .set_parameter("authenticationMechanisms", "MONGODB-X509,SCRAM-SHA-1,SCRAM-SHA-256")
        .start()
        .await
        .unwrap();
    let database = set.client().await.unwrap().database("$external");
    let roles = vec![
        doc! { "role": "readWriteAnyDatabase", "db": "admin" },
        doc! { "role": "read", "db": "local" },
    ];
    database
        .run_command(doc! { "createUser": SUBJECT, "roles": roles })
        .await
        .unwrap();
    let (key, other) = (
        set.issue(Certificate::Client).unwrap(),
        set.issue(Certificate::OtherHost).unwrap(),
    );
    let by_password = options(&set.uri()).await;
    let mut by_certificate = by_password.clone();
    by_certificate.tls.as_mut().unwrap().certificate_key_file = Some(key);
    by_certificate.credential = Some(LegacyCredential {
        source: "$external".to_owned(),
        mechanism: Some(LegacyMechanism::X509),
        ..LegacyCredential::default()
    });
    let text = "x".repeat(10_000_000);
    for library in libraries() {
        for options in [&by_password, &by_certificate] {
            ping(&LegacyClient::new(with_library(options, library)).unwrap())
                .await
                .unwrap();
        }
        let client = LegacyClient::new(with_library(&by_certificate, library)).unwrap();
        let large = rawdoc! { "insert": "c", "documents": [{ "text": text.as_str() }] };
        client.command("d", &large).await.unwrap();
        let mut cursor = client.find(Find::new("d", "c", rawdoc! {})).await.unwrap();
        let read = batches(&mut cursor).await;
        assert!(
            read.iter()
                .flatten()
                .all(|document| document.get_str("text").unwrap() == text),
            "{library:?}"
        );

        let mut named = with_library(&by_certificate, library);
        named.credential.as_mut().unwrap().user = Some(SUBJECT.to_owned());
        ping(&LegacyClient::new(named.clone()).unwrap()).await.unwrap();
        named.credential.as_mut().unwrap().user = Some("CN=other".to_owned());
        let error = ping(&LegacyClient::new(named).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{library:?}: {error:#}");

        // An authority that nobody knows, which can be allowed.
        let mut public = with_library(&by_password, library);
        public.tls.as_mut().unwrap().ca_file = None;
        let error = ping(&LegacyClient::new(public.clone()).unwrap()).await.unwrap_err();
        assert_eq!(error.findings()[0].code, "certificate", "{library:?}: {error:#}");
        public.tls.as_mut().unwrap().allow_invalid_certificates = true;
        ping(&LegacyClient::new(public).unwrap()).await.unwrap();

        // A certificate for another host, which can be allowed: then only the protocol is missing.
        let listener = TlsListener::start(&other, None).unwrap();
        let mut elsewhere = with_library(&by_password, library);
        elsewhere.hosts = vec![listener.address().to_owned()];
        elsewhere.connect_timeout = std::time::Duration::from_millis(500);
        let error = ping(&LegacyClient::new(elsewhere.clone()).unwrap()).await.unwrap_err();
        assert_eq!(error.findings()[0].code, "certificate", "{library:?}: {error:#}");
        assert!(error.to_string().contains("for another host"), "{library:?}: {error}");
        elsewhere.tls.as_mut().unwrap().allow_invalid_hostnames = true;
        let error = ping(&LegacyClient::new(elsewhere).unwrap()).await.unwrap_err();
        assert_eq!(error.findings()[0].code, "no_primary", "{library:?}: {error:#}");
    }
}

/// A server up to 3.4 has RSA key exchange only, as this one by its settings.
#[tokio::test(flavor = "multi_thread")]
async fn tls_of_old_servers_needs_openssl() {
    let set = ReplicaSet::builder(Version::V4_2)
        .optional_tls()
        .set_parameter("opensslCipherConfig", "AES256-SHA")
        .arg("--tlsDisabledProtocols")
        .arg("TLS1_3")
        .start()
        .await
        .unwrap();
    for library in libraries() {
        let options = with_library(&options(&set.uri()).await, library);
        let reached = ping(&LegacyClient::new(options).unwrap()).await;
        match library {
            TlsLibrary::Rustls => {
                let error = reached.unwrap_err();
                // The server closes the connection without a word.
                assert_eq!(error.kind(), ErrorKind::Connection);
                let codes: Vec<&str> = error.findings().iter().map(|finding| finding.code.as_str()).collect();
                assert_eq!(codes, ["no_primary", "tls_too_old"], "{error:#}");
                assert!(error.to_string().contains("`legacy-openssl`"), "{error}");
            }
            #[allow(unreachable_patterns, reason = "without OpenSSL there is no other library")]
            _ => {
                reached.unwrap();
            }
        }
    }
}
