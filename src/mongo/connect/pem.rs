//! TLS certificates and keys that the host has in memory. The driver takes only the paths of files, and reads them when a client is created.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bson::Uuid;
use mongodb::options::{ClientOptions, Tls, TlsOptions};

use super::OPERATION;
use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};

/// Files of this process that are open, by number. A file without a name can be opened through this folder.
const OPEN_FILES: &str = "/proc/self/fd";

/// Certificates and a key in PEM.
#[derive(Clone, Default)]
pub(super) struct TlsMaterial {
    /// Certificates of the authorities to trust.
    pub authority: Option<Vec<u8>>,
    /// The client's certificate and key.
    pub certificate: Option<Vec<u8>>,
}

impl TlsMaterial {
    /// Whether there is anything in it.
    pub fn is_given(&self) -> bool {
        self.authority.is_some() || self.certificate.is_some()
    }

    /// Adds the material to `options`, as paths of temporary files. They are valid as long as the returned value lives.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if it is not PEM or contradicts the options, [`Io`](ErrorKind::Io) if there
    /// is no room for a temporary file.
    pub async fn add_to(self, options: &mut ClientOptions) -> Result<Vec<PemFile>> {
        if !self.is_given() {
            return Ok(Vec::new());
        }
        let mut tls = match options.tls.take() {
            Some(Tls::Enabled(tls)) => tls,
            None => TlsOptions::default(),
            Some(Tls::Disabled) => {
                return Err(unusable(
                    "TLS certificates are given, and the connection string or the options disable TLS",
                    "remove `tls=false`",
                ));
            }
        };
        let mut files = Vec::new();
        if let Some(pem) = self.authority {
            check(&pem, "the authority", &["-----BEGIN CERTIFICATE-----"])?;
            files.push(
                PemFile::create(pem)
                    .await?
                    .replace(&mut tls.ca_file_path, "tlsCAFile")?,
            );
        }
        if let Some(pem) = self.certificate {
            let marks = ["-----BEGIN CERTIFICATE-----", " PRIVATE KEY-----"];
            check(&pem, "the client certificate", &marks)?;
            let file = PemFile::create(pem).await?;
            files.push(file.replace(&mut tls.cert_key_file_path, "tlsCertificateKeyFile")?);
        }
        options.tls = Some(Tls::Enabled(tls));
        Ok(files)
    }
}

/// Refuses what is not PEM. The driver would skip it, and then trust no server.
fn check(pem: &[u8], what: &str, marks: &[&str]) -> Result<()> {
    let has = |mark: &str| pem.windows(mark.len()).any(|part| part == mark.as_bytes());
    if marks.iter().all(|mark| has(mark)) && !has("ENCRYPTED PRIVATE KEY") {
        return Ok(());
    }
    Err(unusable(
        format!("the PEM data of {what} is not usable"),
        "give certificates as `-----BEGIN CERTIFICATE-----` blocks; that of a client needs its private key too, unencrypted",
    ))
}

/// Returns the error for material that cannot be used.
pub(super) fn unusable(message: impl Into<String>, fix: &str) -> Error {
    let finding = Finding::blocker(FindingCode::TlsFiles, message, fix);
    Error::refused(OPERATION, vec![finding]).with_kind(ErrorKind::InvalidConfiguration)
}

/// A temporary file that only its owner can read, for the time in which clients are created.
#[derive(Debug)]
pub(crate) struct PemFile {
    path: PathBuf,
    /// Whether the path is that of a file with a name, which has to be removed.
    is_named: bool,
    /// Keeps a file without a name in existence.
    _file: File,
}

impl PemFile {
    async fn create(pem: Vec<u8>) -> Result<Self> {
        let created = tokio::task::spawn_blocking(move || Self::create_blocking(&pem)).await;
        created
            .map_err(io::Error::from)
            .and_then(|created| created)
            .map_err(|error| {
                Error::new(
                    ErrorKind::Io,
                    OPERATION,
                    "TLS certificates go through a temporary file: the temporary folder must be writable and have room",
                )
                .with_context("folder", std::env::temp_dir().display())
                .with_source(error)
            })
    }

    fn create_blocking(pem: &[u8]) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("mongoferry-{}.pem", Uuid::new()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        let mut made = Self {
            path,
            is_named: true,
            _file: file.try_clone()?,
        };
        made.unlink()?;
        // Without a name, nobody else can open the file from here on, and it disappears with this process whatever happens to it.
        (&file).write_all(pem)?;
        Ok(made)
    }

    /// Removes the file's name if it can be opened without one.
    fn unlink(&mut self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let number = std::os::fd::AsRawFd::as_raw_fd(&self._file);
            let unnamed = Path::new(OPEN_FILES).join(number.to_string());
            if unnamed.exists() {
                std::fs::remove_file(&self.path)?;
                self.path = unnamed;
                self.is_named = false;
            }
        }
        Ok(())
    }

    /// Makes the file that of an option, which must not name another one.
    fn replace(self, option: &mut Option<PathBuf>, name: &str) -> Result<Self> {
        if option.replace(self.path.clone()).is_some() {
            return Err(unusable(
                format!("`{name}` names a file, and the same is given in memory"),
                "give one of the two",
            ));
        }
        Ok(self)
    }
}

impl Drop for PemFile {
    fn drop(&mut self) {
        if self.is_named {
            // There is nobody to tell. The folder is one that the system empties.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A name for people of a file with certificates.
pub(super) fn name_of(path: &Path) -> String {
    let is_ours = |name: &str| name.starts_with("mongoferry-") && path.starts_with(std::env::temp_dir());
    let name = path.file_name().and_then(|name| name.to_str());
    if path.starts_with(OPEN_FILES) || name.is_some_and(is_ours) {
        return "the given PEM data".to_owned();
    }
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";

    fn given(authority: Option<&[u8]>, certificate: Option<&[u8]>) -> TlsMaterial {
        TlsMaterial {
            authority: authority.map(<[u8]>::to_vec),
            certificate: certificate.map(<[u8]>::to_vec),
        }
    }

    #[tokio::test]
    async fn material_can_be_read_until_it_is_dropped() {
        let mut options = ClientOptions::default();
        let files = given(Some(PEM), Some(PEM)).add_to(&mut options).await.unwrap();
        let Some(Tls::Enabled(tls)) = &options.tls else {
            panic!("TLS is off");
        };
        let (authority, key) = (
            tls.ca_file_path.clone().unwrap(),
            tls.cert_key_file_path.clone().unwrap(),
        );
        for path in [&authority, &key] {
            assert_eq!(std::fs::read(path).unwrap(), PEM);
            // It can be read more than once.
            assert_eq!(std::fs::read(path).unwrap(), PEM);
            assert_eq!(name_of(path), "the given PEM data");
            #[cfg(target_os = "linux")]
            {
                use std::os::unix::fs::{MetadataExt, PermissionsExt};
                let facts = std::fs::metadata(path).unwrap();
                assert_eq!((facts.nlink(), facts.permissions().mode() & 0o777), (0, 0o600));
            }
        }
        drop(files);
        assert_ne!(std::fs::read(&authority).unwrap_or_default(), PEM);
    }

    #[tokio::test]
    async fn material_that_is_no_pem_or_contradicts_is_refused() {
        let file = |name: &str| format!("mongodb://h/?tls=true&{name}=/a/file");
        for (material, uri) in [
            (given(Some(b"secret"), None), "mongodb://h".to_owned()),
            (given(None, Some(&PEM[..52])), "mongodb://h".to_owned()),
            (given(Some(PEM), None), "mongodb://h/?tls=false".to_owned()),
            (given(Some(PEM), None), file("tlsCAFile")),
            (given(None, Some(PEM)), file("tlsCertificateKeyFile")),
        ] {
            let mut options = ClientOptions::parse(&uri).await.unwrap();
            let error = material.add_to(&mut options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfiguration, "{uri}: {error}");
            assert_eq!(error.findings()[0].code, "tls_files", "{uri}: {error}");
            assert!(!format!("{error:?}").contains("secret"));
        }
        let mut options = ClientOptions::parse("mongodb://h").await.unwrap();
        assert!(TlsMaterial::default().add_to(&mut options).await.unwrap().is_empty());
        assert!(options.tls.is_none());
    }
}
