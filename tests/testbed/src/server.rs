//! One `mongod` process under a watchdog that ends it when its owner ends.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{TestbedError, Version, binary::Binary, error::log_tail};

/// How often a condition of a local process is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A running server. Dropping it kills the process and waits for its end.
#[derive(Debug)]
pub(crate) struct Server {
    version: Version,
    process_id: u32,
    log: PathBuf,
    /// Where this process's lines begin in the log, which a restart appends to.
    log_start: u64,
    watchdog: Mutex<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `binary` with `arguments`. `folder` is removed if this process dies without dropping the server.
    pub(crate) fn spawn(
        version: Version,
        binary: &Binary,
        arguments: &[String],
        folder: &Path,
        log: PathBuf,
    ) -> Result<Server, TestbedError> {
        let log_start = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(include_str!("watchdog.sh"))
            .arg("mongod-watchdog")
            .arg(folder)
            .arg(&log);
        if let Some(libraries) = &binary.libraries {
            command
                .arg("env")
                .arg(format!("LD_LIBRARY_PATH={}", libraries.display()));
        }
        command.arg(&binary.mongod).args(arguments);
        // A group of its own, so that an interrupt from the terminal reaches the owner alone and the watchdog can act.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(TestbedError::io("starting /bin/sh"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(TestbedError::Misuse("the watchdog has no pipes".to_owned()));
        };
        let mut watchdog = Watchdog {
            child,
            input,
            output: BufReader::new(output),
        };
        let line = watchdog
            .read_line()
            .map_err(TestbedError::io("starting mongod's watchdog"))?;
        let process_id = line.trim().parse().map_err(|_| TestbedError::Program {
            program: "the watchdog".to_owned(),
            output: format!("no process id but {line:?}"),
        })?;
        Ok(Server {
            version,
            process_id,
            log,
            log_start,
            watchdog: Mutex::new(watchdog),
        })
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Waits until the server listens, as its own log says: another process on the same port cannot be mistaken for it.
    pub(crate) async fn listening(&self, within: Duration) -> Result<(), TestbedError> {
        let begin = Instant::now();
        loop {
            let written = fs::read(&self.log).unwrap_or_default();
            let own = written.get(self.log_start as usize..).unwrap_or_default();
            // "waiting for connections" up to 4.2, "Waiting for connections" since.
            if own.windows(22).any(|window| window == b"aiting for connections") {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                let log = log_tail(&self.log);
                return Err(TestbedError::Ended {
                    version: self.version,
                    status: status.to_string(),
                    hint: hint(&log),
                    log,
                });
            }
            if begin.elapsed() > within {
                return Err(TestbedError::Timeout {
                    what: format!("mongod {} to listen", self.version),
                    waited: within,
                    log: format!("\n{}", log_tail(&self.log)),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal, such as `TERM`, and returns once it is sent.
    pub(crate) fn signal(&self, name: &str) -> Result<(), TestbedError> {
        self.watchdog()
            .signal(name)
            .map_err(TestbedError::io(format!("sending {name} to mongod")))
    }

    /// Whether the kernel has stopped every thread of the process.
    pub(crate) fn stands_still(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.process_id)) else {
            // Without a process file system there is nothing to look at but the signal's delivery.
            return !Path::new("/proc/self/task").exists();
        };
        threads.flatten().all(|thread| {
            // The state follows the name, which stands in parentheses and may hold anything itself. A thread that has
            // just ended has no file any more.
            fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| {
                let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
                matches!(state, Some('T' | 't' | 'Z' | 'X'))
            })
        })
    }

    /// How the process ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.watchdog().child.try_wait().ok().flatten()
    }

    /// Waits until the process has ended.
    pub(crate) async fn end(&self, within: Duration) -> Result<ExitStatus, TestbedError> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if begin.elapsed() > within {
                return Err(TestbedError::Timeout {
                    what: format!("mongod {} to end", self.version),
                    waited: within,
                    log: format!("\n{}", log_tail(&self.log)),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn watchdog(&self) -> std::sync::MutexGuard<'_, Watchdog> {
        self.watchdog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut watchdog = self.watchdog();
        if let Ok(Some(_)) = watchdog.child.try_wait() {
            return;
        }
        // The pipe stays open until the end, or the watchdog would take the owner for dead and remove the folder.
        let _ = watchdog.signal("KILL");
        let _ = watchdog.child.wait();
    }
}

impl Watchdog {
    fn read_line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    fn signal(&mut self, name: &str) -> std::io::Result<()> {
        writeln!(self.input, "{name}")?;
        self.input.flush()?;
        // The echo. When the process has ended meanwhile there is none, but then the pipe ends.
        self.read_line().map(drop)
    }
}

/// What to install when the log tells that the binary's shared libraries are missing.
fn hint(log: &str) -> String {
    let packages = [
        ("libcurl.so.4", "libcurl4"),
        ("libssl.so.3", "libssl3"),
        ("libcrypto.so.3", "libssl3"),
        ("libssl.so.1.1", "libssl1.1"),
        ("libcrypto.so.1.1", "libssl1.1"),
        ("liblzma.so.5", "liblzma5"),
        ("libresolv.so.2", "libc6"),
    ];
    if !log.contains("error while loading shared libraries") && !log.contains("GLIBC_") {
        return String::new();
    }
    match packages.iter().find(|(library, _)| log.contains(library)) {
        Some((library, package)) => format!("\n{library} is missing: apt-get install {package}"),
        None => {
            "\na shared library is missing or too old; install it, or set MONGOD_<version> to a binary that runs here"
                .to_owned()
        }
    }
}
