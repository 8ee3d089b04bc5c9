//! The program that hosts the console.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A running program. It ends with this value, gracefully unless it is killed.
pub struct Host {
    process: Child,
    /// The address of the page.
    pub address: String,
}

impl Host {
    pub fn start(arguments: &[&str]) -> Host {
        let mut process = Command::new(env!("CARGO_BIN_EXE_console-host"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        assert!(address.starts_with("http://"), "the host has not started: {address}");
        Host { process, address }
    }

    /// Ends the process at once, as a crash would.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The port, to start another one at the same address.
    pub fn port(&self) -> &str {
        self.address.split([':', '/']).nth(4).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
