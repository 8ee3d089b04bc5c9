//! A certificate authority and certificates, made anew for each set with the `openssl` program.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::TestbedError;

/// The files of a set that uses TLS.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    /// Where the authority's key is.
    folder: PathBuf,
    /// The authority's certificate, for clients and members.
    pub(crate) authority: PathBuf,
    /// The servers' certificate and key in one file.
    server: PathBuf,
    pub(crate) demand: TlsDemand,
}

/// Whom a server demands TLS of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsDemand {
    Always,
    Never,
}

/// What a certificate is for, or what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// A server's, for `127.0.0.1` and `localhost`.
    Server,
    /// A server's, for another host.
    OtherHost,
    /// A server's that has expired.
    Expired,
    /// A client's, with the subject `O=mongoferry testbed clients,CN=client`.
    Client,
}

impl Certificate {
    fn name(self) -> &'static str {
        match self {
            Certificate::Server => "server",
            Certificate::OtherHost => "other-host",
            Certificate::Expired => "expired",
            Certificate::Client => "client",
        }
    }

    fn subject(self) -> String {
        match self {
            // Of another organisation than the members, or the server would take it for one.
            Certificate::Client => "/O=mongoferry testbed clients/CN=client".to_owned(),
            other => format!("/O=mongoferry testbed/CN={}", other.name()),
        }
    }

    fn extensions(self) -> String {
        let names = match self {
            Certificate::OtherHost => "DNS:elsewhere.example",
            // Clients check the address that they connect to; members are clients of each other.
            _ => "IP:127.0.0.1,DNS:localhost",
        };
        format!(
            "basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=serverAuth,clientAuth\n"
        )
    }
}

const AUTHORITY_EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// What `openssl ca` wants to be told, which alone takes dates.
const AUTHORITY_CONFIGURATION: &str = "[ca]\ndefault_ca=testbed\n[testbed]\ndatabase=index.txt\nserial=serial\n\
                                       new_certs_dir=.\ndefault_md=sha256\npolicy=any\n[any]\norganizationName=optional\n\
                                       commonName=supplied\n";

impl Certificates {
    /// Writes the files into `folder`. Blocks for some 50 ms.
    pub(crate) fn generate(folder: &Path, demand: TlsDemand) -> Result<Certificates, TestbedError> {
        write(folder, "authority.ext", AUTHORITY_EXTENSIONS)?;
        request(folder, "authority", "/O=mongoferry testbed/CN=authority", demand)?;
        sign(folder, "authority", &["-signkey", "authority.key"])?;
        let mut certificates = Certificates {
            folder: folder.to_owned(),
            authority: folder.join("authority.pem"),
            server: PathBuf::new(),
            demand,
        };
        certificates.server = certificates.issue(Certificate::Server)?;
        Ok(certificates)
    }

    /// Makes a certificate; gives the file that holds it with its key.
    pub(crate) fn issue(&self, certificate: Certificate) -> Result<PathBuf, TestbedError> {
        let (folder, name) = (&*self.folder, certificate.name());
        write(folder, &format!("{name}.ext"), &certificate.extensions())?;
        request(folder, name, &certificate.subject(), self.demand)?;
        if certificate == Certificate::Expired {
            for (file, text) in [
                ("ca.cnf", AUTHORITY_CONFIGURATION),
                ("index.txt", ""),
                ("serial", "1000\n"),
            ] {
                write(folder, file, text)?;
            }
            let (csr, ext, pem) = (format!("{name}.csr"), format!("{name}.ext"), format!("{name}.pem"));
            let mut arguments = vec!["ca", "-batch", "-notext", "-config", "ca.cnf"];
            arguments.extend(["-cert", "authority.pem", "-keyfile", "authority.key"]);
            arguments.extend(["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]);
            arguments.extend(["-in", &csr, "-extfile", &ext, "-out", &pem]);
            openssl(folder, &arguments)?;
        } else {
            let authority = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"];
            sign(folder, name, &authority)?;
        }
        let read =
            |name: &str| fs::read_to_string(folder.join(name)).map_err(TestbedError::io(format!("reading {name}")));
        let both = read(&format!("{name}.pem"))? + &read(&format!("{name}.key"))?;
        let file = format!("{name}-with-key.pem");
        write(folder, &file, &both)?;
        Ok(folder.join(file))
    }

    /// A certificate is demanded of nobody.
    pub(crate) fn server_arguments(&self) -> Vec<String> {
        let (server, authority) = (self.server.display().to_string(), self.authority.display().to_string());
        let mode = match self.demand {
            TlsDemand::Always => "requireTLS",
            TlsDemand::Never => "allowTLS",
        };
        ["--tlsMode", mode, "--tlsAllowConnectionsWithoutCertificates"]
            .into_iter()
            .chain(["--tlsCertificateKeyFile", &server, "--tlsCAFile", &authority])
            .map(str::to_owned)
            .collect()
    }
}

/// Something that listens with TLS and a certificate of choice, and speaks no other protocol over it: enough to see what a client says to
/// the certificate, which a `mongod` would refuse to start with. Dropping it ends it.
#[derive(Debug)]
pub struct TlsListener {
    child: Child,
    address: String,
}

impl TlsListener {
    /// Listens on a free loopback port with the certificate and key in `file`. With `authority` it demands a certificate of clients that
    /// the authority in that file has signed.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Program`] when `openssl` cannot be run or does not listen.
    pub fn start(file: &Path, authority: Option<&Path>) -> Result<TlsListener, TestbedError> {
        let failed = |output: String| TestbedError::Program {
            program: "openssl s_server".to_owned(),
            output,
        };
        // Free at this moment. Another program may take it meanwhile; then it does not listen and says so.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(TestbedError::io("choosing a port"))?
            .port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", &address]).arg("-cert").arg(file);
        if let Some(authority) = authority {
            command
                .args(["-Verify", "1", "-verify_return_error", "-CAfile"])
                .arg(authority);
        }
        let mut child = command
            // It ends when its input does, which it does when this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let output = child.stdout.take().map(BufReader::new);
        let listens = output
            .into_iter()
            .flat_map(BufRead::lines)
            .map_while(Result::ok)
            .any(|line| line.contains("ACCEPT"));
        let listener = TlsListener { child, address };
        match listens {
            true => Ok(listener),
            false => Err(failed("it ended before it listened".to_owned())),
        }
    }

    /// The address, such as `127.0.0.1:20000`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), TestbedError> {
    fs::write(folder.join(name), text).map_err(TestbedError::io(format!("writing {name}")))
}

/// Makes a key and a request for its certificate. Servers that demand no TLS get a key for old ciphers.
fn request(folder: &Path, name: &str, subject: &str, demand: TlsDemand) -> Result<(), TestbedError> {
    let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
    let make: &[&str] = match demand {
        TlsDemand::Always => &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key],
        TlsDemand::Never => &["genrsa", "-out", &key, "2048"],
    };
    openssl(folder, make)?;
    openssl(folder, &["req", "-new", "-key", &key, "-subj", subject, "-out", &csr])
}

fn sign(folder: &Path, name: &str, signature: &[&str]) -> Result<(), TestbedError> {
    let (csr, ext, pem) = (format!("{name}.csr"), format!("{name}.ext"), format!("{name}.pem"));
    let mut arguments = vec!["x509", "-req", "-sha256", "-days", "30", "-in", &csr];
    arguments.extend(["-extfile", &ext, "-out", &pem]);
    arguments.extend(signature);
    openssl(folder, &arguments)
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<(), TestbedError> {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    let failure = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "not found: apt-get install openssl".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(TestbedError::Program {
        program: format!("openssl {}", arguments.join(" ")),
        output: failure,
    })
}
