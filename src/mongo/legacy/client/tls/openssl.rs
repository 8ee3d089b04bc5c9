//! TLS by OpenSSL, with the ciphers and versions of old servers.

use std::path::Path;
use std::pin::Pin;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509VerifyResult;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::unusable_file;
use crate::error::Result;
use crate::mongo::legacy::client::stream::Stream;
use crate::mongo::legacy::options::LegacyTls;

/// What the library offers at its lowest level of security: the servers that need this have TLS 1.0, RSA key exchange, and certificates with
/// short keys. The server takes the best that it has.
const CIPHERS: &str = "DEFAULT:!aNULL:!eNULL:@SECLEVEL=0";

/// Reads the certificates.
///
/// # Errors
/// [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if a file cannot be used.
pub(super) fn connector(options: &LegacyTls) -> Result<SslConnector> {
    let unusable = |path: Option<&Path>| {
        let path = path.unwrap_or(Path::new("-")).to_owned();
        move |error: ErrorStack| unusable_file(&path, &text_of(&error))
    };
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(unusable(None))?;
    builder.set_cipher_list(CIPHERS).map_err(unusable(None))?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1))
        .map_err(unusable(None))?;
    if options.allow_invalid_certificates {
        builder.set_verify(SslVerifyMode::NONE);
    }
    if let Some(path) = &options.ca_file {
        builder.set_ca_file(path).map_err(unusable(Some(path)))?;
    }
    if let Some(path) = &options.certificate_key_file {
        builder
            .set_certificate_chain_file(path)
            .and_then(|()| builder.set_private_key_file(path, SslFiletype::PEM))
            .map_err(unusable(Some(path)))?;
    }
    Ok(builder.build())
}

/// Encrypts a connection.
///
/// # Errors
/// The text of the library.
pub(super) async fn connect(
    connector: &SslConnector,
    options: &LegacyTls,
    host: &str,
    stream: TcpStream,
) -> Result<Stream, String> {
    let is_name_verified = !options.allow_invalid_hostnames && !options.allow_invalid_certificates;
    let mut stream = connector
        .configure()
        .and_then(|configured| configured.verify_hostname(is_name_verified).into_ssl(host))
        .and_then(|ssl| SslStream::new(ssl, stream))
        .map_err(|error| text_of(&error))?;
    if let Err(error) = Pin::new(&mut stream).connect().await {
        let verified = stream.ssl().verify_result();
        return Err(match verified == X509VerifyResult::OK {
            true => error.ssl_error().map_or_else(|| error.to_string(), text_of),
            false => as_rustls(verified),
        });
    }
    Ok(Stream::OpenSsl(Box::new(stream)))
}

/// Says what is wrong with a certificate as the other library does, whose texts are known to what explains them.
fn as_rustls(verified: X509VerifyResult) -> String {
    // The numbers are those of `X509_V_ERR_…`.
    let text = match verified.as_raw() {
        2 | 18 | 19 | 20 | 21 => "UnknownIssuer",
        9 => "NotValidYet",
        10 => "Expired",
        62 | 64 => "NotValidForName",
        _ => verified.error_string(),
    };
    format!("invalid peer certificate: {text}")
}

/// The reasons alone: the whole text also has names of functions and files of the library.
fn text_of(error: &ErrorStack) -> String {
    let reasons: Vec<&str> = error.errors().iter().filter_map(|error| error.reason()).collect();
    match reasons.is_empty() {
        true => "OpenSSL gives no reason".to_owned(),
        false => reasons.join(", "),
    }
}
