//! Where the folders of servers are made.

use std::{env, ffi::OsString, fs, path::PathBuf, process::Command};

/// A file system in memory. Files are made and synced there at a fraction of the time, and nothing of a test outlives the machine.
const IN_MEMORY: &str = "/dev/shm";

/// What the servers of all tests at the same time may take there, in KiB.
const ROOM: u64 = 8 << 20;

/// What has to be left for the servers' memory, the tests and the compiler, in KiB.
const LEFT: u64 = 6 << 20;

/// The folder that `TMPDIR` names; else memory, if there is much of it; else the system's temporary folder.
pub(crate) fn folder() -> PathBuf {
    choose(env::var_os("TMPDIR"), || {
        free_in_memory() >= ROOM && available() >= ROOM + LEFT
    })
}

fn choose(named: Option<OsString>, has_room: impl FnOnce() -> bool) -> PathBuf {
    match named {
        None if has_room() => PathBuf::from(IN_MEMORY),
        _ => env::temp_dir(),
    }
}

/// What is free in the file system in memory, in KiB. Nothing where there is none, or no `df`.
fn free_in_memory() -> u64 {
    // Containers often give it 64 MB.
    let output = Command::new("df").args(["-Pk", IN_MEMORY]).output();
    let free = output.ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
    });
    free.unwrap_or(0)
}

/// What new programs may use of the machine's memory, in KiB.
fn available() -> u64 {
    let facts = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_if_there_is_room_and_nothing_else_is_named() {
        assert_eq!(choose(None, || true), PathBuf::from(IN_MEMORY));
        assert_eq!(choose(None, || false), env::temp_dir());
        assert_eq!(choose(Some("/elsewhere".into()), || true), env::temp_dir());
    }
}
