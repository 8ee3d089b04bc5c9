//! The peak of memory where there is much of something: `cargo bench -p mongoferry-benches --bench memory`. Linux only.

use std::fs;

use mongoferry::test_util::bench::{Routing, settle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--list") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let mut routing = None;
    peak("50,000 collections", || {
        routing = Some(Routing::new(50_000, false));
        Ok(())
    })?;
    let mut routing = routing.ok_or("there is no router")?;
    let mut waiting = Vec::new();
    peak("a checkpoint of them that waits", || {
        waiting.extend(routing.checkpoints(1));
        Ok(())
    })?;
    peak("9 more that wait at the same time", || {
        waiting.extend(routing.checkpoints(9));
        Ok(())
    })?;
    peak("two of them as they are saved, one after the other", || {
        for encode in waiting.iter().take(2) {
            encode()?;
        }
        Ok(())
    })?;
    peak("a million documents that were read again, with 5 MB of room", || {
        runtime.block_on(settle(1_000_000, 5_000_000))?;
        Ok(())
    })
}

/// Prints how much the peak of memory lies above what there was before.
fn peak(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    // From now on the peak is counted anew.
    fs::write("/proc/self/clear_refs", "5")?;
    let before = status("VmRSS:")?;
    work()?;
    println!("{what}: {:.1} MB", (status("VmHWM:")? - before) / 1000.0);
    Ok(())
}

/// A field of this process's status, in kB.
fn status(name: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = status.lines().find_map(|line| line.strip_prefix(name));
    let number = field.and_then(|field| field.trim().strip_suffix(" kB"));
    Ok(number.ok_or("the field is missing")?.trim().parse()?)
}
