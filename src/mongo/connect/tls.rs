//! Diagnoses TLS problems: of the server, its certificate, and the client's certificate.

use std::fmt::Display;
use std::path::Path;

use mongodb::error::Error as DriverError;
use mongodb::options::{ClientOptions, ServerAddress, Tls, TlsOptions};

use super::diagnose::glance;
use super::pem::name_of;
use crate::error::{Finding, FindingCode};

/// Returns the problem of a server that is connected to with TLS.
pub(super) async fn diagnose_tls(
    options: &ClientOptions,
    host: &ServerAddress,
    tls: &TlsOptions,
    error: &DriverError,
) -> Option<Finding> {
    if let Some(problem) = problem_of(&error.to_string(), host, tls) {
        return Some(problem);
    }
    glance(options, host, None).await.is_ok().then(|| {
        Finding::blocker(
            FindingCode::TlsNotOffered,
            format!("{host} does not speak TLS, which the connection string asks for"),
            "remove `tls=true` from it, or start the server with `--tlsMode requireTLS --tlsCertificateKeyFile FILE`",
        )
    })
}

/// Returns the problem of a server that is connected to without TLS.
pub(super) async fn diagnose_plain(options: &ClientOptions, host: &ServerAddress) -> Option<Finding> {
    // This only shows what the server speaks: nothing but a greeting is sent.
    let mut anything = TlsOptions::default();
    anything.allow_invalid_certificates = Some(true);
    let speaks_tls = match glance(options, host, Some(Tls::Enabled(anything.clone()))).await {
        Ok(_) => true,
        Err(error) => problem_of(&error.to_string(), host, &anything).is_some(),
    };
    speaks_tls.then(|| {
        Finding::blocker(
            FindingCode::TlsRequired,
            format!("{host} takes connections with TLS only"),
            "add `tls=true&tlsCAFile=FILE` to the connection string, with the certificate of the authority that signed the server's",
        )
    })
}

fn problem_of(text: &str, host: &ServerAddress, tls: &TlsOptions) -> Option<Finding> {
    certificate_problem(
        text,
        host,
        tls.ca_file_path.as_deref(),
        tls.cert_key_file_path.as_deref(),
    )
}

/// Returns the certificate problem that an error of the TLS layer describes. The driver passes on only the text of the error.
pub(crate) fn certificate_problem(
    text: &str,
    host: impl Display,
    ca_file: Option<&Path>,
    key_file: Option<&Path>,
) -> Option<Finding> {
    let is = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
    let server = |message: String, fix: String| Some(Finding::blocker(FindingCode::Certificate, message, fix));
    if is(&["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"]) {
        let authority = match ca_file {
            Some(path) => format!("the authority in {}", name_of(path)),
            None => "a public authority".to_owned(),
        };
        return server(
            format!("the certificate of {host} is not signed by {authority}"),
            "give the certificate of the one that signed it as `tlsCAFile`".to_owned(),
        );
    }
    if is(&["peer certificate: certificate expired", "peer certificate: Expired"]) {
        return server(
            format!("the certificate of {host} has expired"),
            format!(
                "give the server a new one (`openssl s_client -connect {host} </dev/null | openssl x509 -noout -dates` shows its dates)"
            ),
        );
    }
    if is(&["certificate not valid yet", "NotValidYet"]) {
        return server(
            format!("the certificate of {host} is not valid yet"),
            "compare the clocks of both hosts, or give the server another certificate".to_owned(),
        );
    }
    if is(&["certificate not valid for name", "NotValidForName"]) {
        return server(
            format!("the certificate of {host} is for another host"),
            format!(
                "use a host name that it contains (`openssl s_client -connect {host} </dev/null | openssl x509 -noout -ext \
                 subjectAltName` shows them), or give the server one with a subjectAltName for this name"
            ),
        );
    }
    if is(&[
        "CertificateRequired",
        "received fatal alert: BadCertificate",
        "received fatal alert: UnknownCA",
        "received fatal alert: CertificateUnknown",
        "received fatal alert: CertificateExpired",
        "received fatal alert: HandshakeFailure",
    ]) {
        return Some(match key_file {
            None => Finding::blocker(
                FindingCode::ClientCertificate,
                format!("{host} wants a certificate of the client"),
                "add `tlsCertificateKeyFile=FILE` to the connection string, with a certificate that the server's authority has signed and \
                 its key",
            ),
            Some(path) => Finding::blocker(
                FindingCode::ClientCertificate,
                format!("{host} refuses the client's certificate in {}", name_of(path)),
                "give one that the server's authority has signed and that has not expired",
            ),
        });
    }
    if is(&["invalid peer certificate"]) {
        return server(
            format!("the certificate of {host} cannot be used"),
            "give the server an X.509 v3 certificate with a subjectAltName".to_owned(),
        );
    }
    None
}
