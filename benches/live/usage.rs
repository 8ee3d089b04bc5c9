//! What processes have used, as Linux tells under `/proc`.

use std::fs;

use crate::Result;

/// Linux counts the CPU time that it shows in hundredths of a second, on every architecture that servers run on.
const TICKS: f64 = 100.0;

/// The CPU time of a process so far, in seconds; 0 when it is gone.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    stat(&process.to_string(), 11)
}

/// The CPU time of this process's children that have ended, in seconds.
pub(crate) fn ended_children_cpu_seconds() -> f64 {
    stat("self", 13)
}

/// The sum of two neighbouring times among the fields that follow the name, which stands in parentheses and may hold anything.
fn stat(process: &str, field: usize) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(") ") else {
        return 0.0;
    };
    let ticks = fields.split(' ').skip(field).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// The most memory that a process has had, in MB (10^6 bytes).
///
/// # Errors
/// The process is gone.
pub(crate) fn peak_memory_mb(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .ok_or("no peak memory is told")?;
    Ok(kilobytes.trim().parse::<f64>()? * 1024.0 / 1e6)
}

/// How many threads were ready to run on average over the last minute.
pub(crate) fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or_default()
}

/// The machine in words.
pub(crate) fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let value = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let model = value("/proc/cpuinfo", "model name");
    let memory = value("/proc/meminfo", "MemTotal");
    let memory = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or_default() * 1024.0 / 1e9;
    format!("{processors} processors ({model}), {memory:.0} GB of memory")
}
