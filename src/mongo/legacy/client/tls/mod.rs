//! TLS, and what to do about servers that are too old for it.

#[cfg(feature = "legacy-openssl")]
mod openssl;
mod rustls;

use std::path::Path;

use tokio::net::TcpStream;

use super::stream::Stream;
use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};
use crate::mongo::client::of_system;
use crate::mongo::connect::certificate_problem;
use crate::mongo::legacy::options::{LegacyTls, TlsLibrary};

const OPERATION: &str = "encrypt the connection";

/// Encrypts connections by one set of certificates, which is read once.
pub(super) struct Tls {
    options: LegacyTls,
    library: Library,
}

enum Library {
    Rustls(tokio_rustls::TlsConnector),
    #[cfg(feature = "legacy-openssl")]
    OpenSsl(::openssl::ssl::SslConnector),
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if a file cannot be used.
    pub fn new(options: LegacyTls) -> Result<Self> {
        let library = match options.library {
            TlsLibrary::Rustls => Library::Rustls(rustls::connector(&options)?),
            #[cfg(feature = "legacy-openssl")]
            TlsLibrary::OpenSsl => Library::OpenSsl(openssl::connector(&options)?),
        };
        Ok(Self { options, library })
    }

    /// Encrypts a connection.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for certificates that do not fit and for servers that are too old, with a
    /// finding; [`Connection`](ErrorKind::Connection) if the connection breaks.
    pub async fn connect(&self, address: &str, stream: TcpStream) -> Result<Stream> {
        let host = host_of(address);
        let connected = match &self.library {
            Library::Rustls(connector) => rustls::connect(connector, host, stream).await,
            #[cfg(feature = "legacy-openssl")]
            Library::OpenSsl(connector) => openssl::connect(connector, &self.options, host, stream).await,
        };
        connected.map_err(|text| self.explain(address, &text))
    }

    fn explain(&self, address: &str, text: &str) -> Error {
        let text = of_system(text);
        if is_too_old(&text) {
            let message = format!("{address} and this program have no TLS cipher in common");
            return refused(too_old(message, self.options.library));
        }
        let ca_file = self.options.ca_file.as_deref();
        let key_file = self.options.certificate_key_file.as_deref();
        if let Some(problem) = certificate_problem(&text, address, ca_file, key_file) {
            return refused(problem);
        }
        // A server that is being stopped closes connections, too, which is why both errors may pass.
        let error = match text.contains("eof") || text.contains("unexpected end") {
            true => {
                let message = format!(
                    "{address} closed the connection while TLS was negotiated: it probably has no TLS cipher in common with this program, or \
                     takes no TLS"
                );
                Error::refused(OPERATION, vec![too_old(message, self.options.library)])
            }
            false => {
                let message = format!(
                    "the connection broke while TLS was negotiated: {text}; see whether the server takes connections with TLS, and what its log \
                     says"
                );
                Error::new(ErrorKind::Connection, OPERATION, message)
            }
        };
        error.with_kind(ErrorKind::Connection).with_retryable(true)
    }
}

/// Whether the text says that both sides have no cipher or version in common.
fn is_too_old(text: &str) -> bool {
    let marks = [
        "alert: handshakefailure",
        "alert: protocolversion",
        "alert: insufficientsecurity",
        "peerincompatible",
        "peer is incompatible",
        "handshake failure",
        "no shared cipher",
        "unsupported protocol",
        "insufficient security",
    ];
    let text = text.to_lowercase();
    marks.iter().any(|mark| text.contains(mark))
}

fn too_old(message: String, library: TlsLibrary) -> Finding {
    let fix = match library {
        TlsLibrary::Rustls => {
            "build with the feature `legacy-openssl`, which knows the key exchange of servers up to 3.4; or put a tunnel such as stunnel in \
             front of the server, and connect to that"
        }
        #[cfg(feature = "legacy-openssl")]
        TlsLibrary::OpenSsl => {
            "remove `tls=true` if the server takes no TLS; see the server's log and its `sslDisabledProtocols`; or put a tunnel such as \
             stunnel in front of the server, and connect to that"
        }
    };
    Finding::blocker(FindingCode::TlsTooOld, message, fix)
}

fn refused(finding: Finding) -> Error {
    Error::refused(OPERATION, vec![finding]).with_kind(ErrorKind::InvalidConfiguration)
}

/// The error for a file with certificates that cannot be used.
fn unusable_file(path: &Path, text: &str) -> Error {
    let finding = Finding::blocker(
        FindingCode::TlsFiles,
        format!("the TLS file {} cannot be used: {}", path.display(), of_system(text)),
        "give a readable file in PEM: certificates for `tlsCAFile`, a certificate and its unencrypted key for `tlsCertificateKeyFile`",
    );
    refused(finding)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_addresses() {
        assert_eq!(host_of("a.example:27017"), "a.example");
        assert_eq!(host_of("[::1]:27017"), "::1");
    }

    #[test]
    fn a_server_without_a_common_cipher_is_a_finding_with_ways_out() {
        let tls = Tls::new(LegacyTls {
            library: TlsLibrary::Rustls,
            ..LegacyTls::default()
        });
        let error = tls.unwrap().explain("h:1", "received fatal alert: HandshakeFailure");
        assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
        assert_eq!(error.findings()[0].code, "tls_too_old");
        let text = error.to_string();
        assert!(text.contains("legacy-openssl") && text.contains("stunnel"), "{text}");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let tls = LegacyTls {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..LegacyTls::default()
        };
        for library in [TlsLibrary::Rustls, TlsLibrary::default()] {
            let error = Tls::new(LegacyTls { library, ..tls.clone() }).err().unwrap();
            assert_eq!(error.findings()[0].code, "tls_files");
            assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
        }
    }
}
