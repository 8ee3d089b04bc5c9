//! TLS by the library of the driver.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use super::unusable_file;
use crate::error::Result;
use crate::mongo::legacy::client::stream::Stream;
use crate::mongo::legacy::options::LegacyTls;

/// Reads the certificates.
///
/// # Errors
/// [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if a file cannot be used.
pub(super) fn connector(options: &LegacyTls) -> Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        strict: strict(options, &provider)?,
        provider: Arc::clone(&provider),
        is_any_host_accepted: options.allow_invalid_hostnames,
    };
    let unusable = |error: TlsError| {
        let path = options.certificate_key_file.as_deref().unwrap_or(Path::new("-"));
        unusable_file(path, &error.to_string())
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &options.certificate_key_file {
        None => config.with_no_client_auth(),
        Some(path) => {
            let (certificates, key) = certificate_and_key(path)?;
            config.with_client_auth_cert(certificates, key).map_err(unusable)?
        }
    };
    Ok(Arc::new(config).into())
}

/// Encrypts a connection.
///
/// # Errors
/// The text of the library.
pub(super) async fn connect(connector: &TlsConnector, host: &str, stream: TcpStream) -> Result<Stream, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connected = connector.connect(name, stream).await;
    connected
        .map(|stream| Stream::Rustls(Box::new(stream)))
        .map_err(|error| error.to_string())
}

/// The verifier of the library, or `None` if any certificate is accepted.
fn strict(options: &LegacyTls, provider: &Arc<CryptoProvider>) -> Result<Option<Arc<WebPkiServerVerifier>>> {
    if options.allow_invalid_certificates {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    match &options.ca_file {
        Some(path) => {
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| unusable_file(path, &error.to_string()))?;
            roots.add_parsable_certificates(certificates.flatten());
            if roots.is_empty() {
                return Err(unusable_file(path, "it contains no certificate"));
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let path = options.ca_file.as_deref().unwrap_or(Path::new("-"));
    built.map(Some).map_err(|error| unusable_file(path, &error.to_string()))
}

fn certificate_and_key(path: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable_file(path, &error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| unusable_file(path, &error.to_string()))?;
    Ok((certificates, key))
}

/// Verifies as the library does, but for what the options allow.
#[derive(Debug)]
struct Verifier {
    strict: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    is_any_host_accepted: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(strict) = &self.strict else {
            return Ok(ServerCertVerified::assertion());
        };
        match strict.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.is_any_host_accepted => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
