//! A certificate authority and a server certificate, made anew for each set with the `openssl` program.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::TestbedError;

/// The files of a set that uses TLS.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    /// The authority's certificate, for clients and members.
    pub(crate) authority: PathBuf,
    /// The servers' certificate and key in one file.
    server: PathBuf,
}

const AUTHORITY_EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// Clients check the address that they connect to; members are clients of each other.
const SERVER_EXTENSIONS: &str = "basicConstraints=critical,CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n\
                                 keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n";

impl Certificates {
    /// Writes the files into `folder`. Blocks for some 50 ms.
    pub(crate) fn generate(folder: &Path) -> Result<Certificates, TestbedError> {
        let write = |name: &str, text: &str| {
            fs::write(folder.join(name), text).map_err(TestbedError::io(format!("writing {name}")))
        };
        write("authority.ext", AUTHORITY_EXTENSIONS)?;
        write("server.ext", SERVER_EXTENSIONS)?;
        for (name, signature) in [
            ("authority", ["-signkey", "authority.key"].as_slice()),
            (
                "server",
                ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"].as_slice(),
            ),
        ] {
            let file = |extension: &str| format!("{name}.{extension}");
            let key = file("key");
            openssl(
                folder,
                &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key],
            )?;
            let subject = format!("/O=mongoferry testbed/CN={name}");
            openssl(
                folder,
                &["req", "-new", "-key", &key, "-subj", &subject, "-out", &file("csr")],
            )?;
            let request = file("csr");
            let extensions = file("ext");
            let certificate = file("pem");
            let mut sign = vec![
                "x509",
                "-req",
                "-sha256",
                "-days",
                "30",
                "-in",
                &request,
                "-extfile",
                &extensions,
            ];
            sign.extend(["-out", &certificate]);
            sign.extend(signature);
            openssl(folder, &sign)?;
        }

        let read =
            |name: &str| fs::read_to_string(folder.join(name)).map_err(TestbedError::io(format!("reading {name}")));
        write("server-with-key.pem", &(read("server.pem")? + &read("server.key")?))?;
        Ok(Certificates {
            authority: folder.join("authority.pem"),
            server: folder.join("server-with-key.pem"),
        })
    }

    /// TLS is demanded of everyone, a certificate of nobody.
    pub(crate) fn server_arguments(&self) -> Vec<String> {
        let (server, authority) = (self.server.display().to_string(), self.authority.display().to_string());
        ["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"]
            .into_iter()
            .chain(["--tlsCertificateKeyFile", &server, "--tlsCAFile", &authority])
            .map(str::to_owned)
            .collect()
    }
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
