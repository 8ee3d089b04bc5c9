//! Command-line arguments, parsed by hand to keep the example free of a parser crate.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mongoferry::{DdlPolicy, ExistingData, Namespace, PathPolicy, Throttle, Verification};

pub const USAGE: &str = "\
Migrates a live MongoDB replica set to another one.

Usage: live_migration [--source URI --target URI] [OPTIONS]

Without --source and --target, the program starts two replica sets of its own, loads a sample shop into one of them,
keeps writing to it, and migrates it.

Options:
      --source URI                   connection string of the replica set to migrate from
      --target URI                   connection string of the replica set to migrate to
      --id ID                        name of this migration among those with the same target, whose names must be disjoint
                                     [default: default]
      --include NAMESPACE            migrate only namespaces that match, such as shop.* or *.orders; repeatable
      --exclude NAMESPACE            exclude namespaces that match, even if included; repeatable
      --rename FROM=TO               rename a collection on the target; repeatable
      --existing-data refuse|clear|keep
                                     what to do with existing collections on the target that are in the way: refuse to
                                     start, drop them, or make them equal to the source [default: refuse]
      --checkpoint target|PATH       where the checkpoint is kept: on the target or in a file [default: target]
      --cutover auto|manual          cut over once the lag has stayed small for two seconds, or when `cutover` is read
                                     from standard input [default: auto]
      --block-writes                 block writes on the source at the cutover (setUserWriteBlockMode, 6.0 and newer);
                                     the block stays after the migration is complete
      --reverse                      after the migration is complete, migrate in the opposite direction, so that the
                                     source remains a way back; `cutover` hands back to the source, `abandon` stops;
                                     with --block-writes, the user on the source must be able to bypass the block
      --ddl apply|warn|fail          what to do when the source's catalog changes during the run: apply the change,
                                     apply it with a warning, or stop [default: apply]
      --max-lag SECONDS              maximum lag that counts as small [default: 2]
      --window-hours N               hours to follow the source after the run is first ready [default: 120]
      --stop-after preflight|ready   stop at this point, and keep the checkpoint
      --verify none|digest|continuous
                                     how documents are compared: not at all, all of them at cutover, or all of them
                                     during the run and later changes at cutover [default: continuous]
      --certificate PATH             write the certificate of a complete hand-over to this file, as BSON
      --walkers N                    maximum number of ranges copied concurrently [default: 4]
      --all-walkers                  use all walkers even if that slows down the source's own writers
      --appliers N                  number of connections that apply changes [default: 4]
      --chunk-bytes N                size of a chunk in bytes of documents [default: 67108864]
      --memory-bytes N               limit for documents and changes in memory [default: 268435456]
      --copy-bytes-per-second N      maximum bytes of documents read from the source per second [default: no limit]
      --tail-operations-per-second N maximum operations read from the oplog per second [default: no limit]
      --accept-unencrypted           allow documents and passwords to be sent to other hosts without TLS
      --path-policy upward|hosted    any path to the same or a newer version, or only those of hosted services
                                     [default: upward]
      --scan                         read every document in preflight, to find those that the target would refuse
      --json                         one JSON object per line on standard output, text on standard error
      --help                         print this and exit

Commands on standard input, one per line:
      cutover                        cut over as soon as everything is copied and the lag is small
      pause, resume                  pause the run, continue it
      status                         print the status
      verify                         compare both sides while both are being written to
      repair                         write the documents that verify found to differ
      extend HOURS                   extend the cutover window
      throttle BYTES OPERATIONS      change the two limits per second (0 for no limit)
      abandon                        stop, and keep the checkpoint

With --reverse there are two summaries, one for each direction. The last one is the final result. Lines about the way
back have the field `direction` with the value `reverse`. After a stop, the same command continues in the direction
that was active.

Exit codes:
      0                              complete and verified
      1                              any other failure
      2                              refused by preflight or when connecting
      3                              differences found
      4                              stopped by --stop-after or abandon
      130, 143                       stopped by SIGINT, SIGTERM
Run the same command again to resume a migration that was stopped.
";

/// Parsed arguments. There is no `Debug`, because connection strings contain passwords.
#[derive(Default)]
pub struct Arguments {
    /// Source and target; `None` for the demonstration.
    pub deployments: Option<(String, String)>,
    /// Name of the migration; `None` means the default.
    pub id: Option<String>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub rename: Vec<(String, String)>,
    pub existing_data: ExistingData,
    /// `None` means on the target.
    pub checkpoint: Option<PathBuf>,
    pub manual_cutover: bool,
    pub block_writes: bool,
    pub reverse: bool,
    pub ddl: DdlPolicy,
    pub max_lag: Option<Duration>,
    pub window: Option<Duration>,
    pub stop_after: Option<StopAfter>,
    pub verification: Verification,
    /// Path of the certificate file.
    pub certificate: Option<PathBuf>,
    pub walkers: Option<usize>,
    pub all_walkers: bool,
    pub appliers: Option<usize>,
    pub chunk_bytes: Option<u64>,
    pub memory_bytes: Option<usize>,
    pub throttle: Throttle,
    pub accept_unencrypted: bool,
    pub path_policy: PathPolicy,
    pub scan: bool,
    pub json: bool,
    pub help: bool,
    /// Number of documents that the demonstration loads. It is for tests, and therefore not in the usage.
    pub documents: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAfter {
    Preflight,
    Ready,
}

impl Arguments {
    /// Parses the arguments without the program's name. Error messages never contain values: a misplaced one may be a
    /// password.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = Self::default();
        let (mut source, mut target) = (None, None);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = word
                .into_string()
                .map_err(|_| "an argument is not valid UTF-8".to_owned())?;
            let (option, mut attached) = match word.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option.to_owned(), Some(value.to_owned())),
                _ => (word, None),
            };
            let flag = match option.as_str() {
                "--accept-unencrypted" => Some(&mut arguments.accept_unencrypted),
                "--block-writes" => Some(&mut arguments.block_writes),
                "--reverse" => Some(&mut arguments.reverse),
                "--scan" => Some(&mut arguments.scan),
                "--all-walkers" => Some(&mut arguments.all_walkers),
                "--json" => Some(&mut arguments.json),
                "--help" | "-h" => Some(&mut arguments.help),
                _ => None,
            };
            if let Some(flag) = flag {
                if attached.is_some() {
                    return Err(format!("{option} takes no value"));
                }
                *flag = true;
                continue;
            }
            if !option.starts_with("--") {
                return Err("an argument belongs to no option".to_owned());
            }
            let mut value = || match attached.take() {
                Some(value) => Ok(value),
                None => match words.next().map(OsString::into_string) {
                    Some(Ok(value)) => Ok(value),
                    Some(Err(_)) => Err(format!("the value of {option} is not valid UTF-8")),
                    None => Err(format!("{option} needs a value")),
                },
            };
            match option.as_str() {
                "--source" => source = Some(value()?),
                "--target" => target = Some(value()?),
                "--id" => arguments.id = Some(value()?),
                "--include" => arguments.include.push(pattern(&option, value()?)?),
                "--exclude" => arguments.exclude.push(pattern(&option, value()?)?),
                "--rename" => {
                    let value = value()?;
                    let (from, to) = value.split_once('=').ok_or("--rename needs FROM=TO")?;
                    arguments
                        .rename
                        .push((pattern(&option, from.to_owned())?, pattern(&option, to.to_owned())?));
                }
                "--existing-data" => {
                    let choices = [
                        ("refuse", ExistingData::Refuse),
                        ("clear", ExistingData::Clear),
                        ("keep", ExistingData::Keep),
                    ];
                    arguments.existing_data = choice(&option, &value()?, &choices)?;
                }
                "--checkpoint" => {
                    let value = value()?;
                    arguments.checkpoint = (value != "target").then(|| PathBuf::from(value));
                }
                "--cutover" => {
                    arguments.manual_cutover = choice(&option, &value()?, &[("auto", false), ("manual", true)])?;
                }
                "--ddl" => {
                    let choices = [
                        ("apply", DdlPolicy::Apply),
                        ("warn", DdlPolicy::Warn),
                        ("fail", DdlPolicy::Fail),
                    ];
                    arguments.ddl = choice(&option, &value()?, &choices)?;
                }
                "--max-lag" => {
                    let seconds: f64 = number(&option, &value()?)?;
                    let lag = Duration::try_from_secs_f64(seconds)
                        .map_err(|_| "--max-lag needs a number of seconds that is not negative")?;
                    arguments.max_lag = Some(lag);
                }
                "--window-hours" => {
                    let window = hours(&value()?).ok_or("--window-hours needs a number of hours above 0")?;
                    arguments.window = Some(window);
                }
                "--stop-after" => {
                    let choices = [("preflight", StopAfter::Preflight), ("ready", StopAfter::Ready)];
                    arguments.stop_after = Some(choice(&option, &value()?, &choices)?);
                }
                "--verify" => {
                    let choices = [
                        ("none", Verification::None),
                        ("digest", Verification::Digest),
                        ("continuous", Verification::Continuous),
                    ];
                    arguments.verification = choice(&option, &value()?, &choices)?;
                }
                "--certificate" => arguments.certificate = Some(PathBuf::from(value()?)),
                "--path-policy" => {
                    let choices = [("upward", PathPolicy::Upward), ("hosted", PathPolicy::Hosted)];
                    arguments.path_policy = choice(&option, &value()?, &choices)?;
                }
                "--walkers" => arguments.walkers = Some(number(&option, &value()?)?),
                "--appliers" => arguments.appliers = Some(number(&option, &value()?)?),
                "--chunk-bytes" => arguments.chunk_bytes = Some(number(&option, &value()?)?),
                "--memory-bytes" => arguments.memory_bytes = Some(number(&option, &value()?)?),
                "--copy-bytes-per-second" => {
                    arguments.throttle.copy_bytes_per_second = limit(number(&option, &value()?)?);
                }
                "--tail-operations-per-second" => {
                    arguments.throttle.tail_operations_per_second = limit(number(&option, &value()?)?);
                }
                "--documents" => arguments.documents = Some(number(&option, &value()?)?),
                _ => return Err(format!("unknown option {option}")),
            }
        }
        arguments.deployments = match (source, target) {
            (Some(source), Some(target)) => Some((source, target)),
            (None, None) => None,
            _ => return Err("--source and --target must be given together".to_owned()),
        };
        Ok(arguments)
    }
}

/// Checks a namespace before connecting. The library checks it too, but only after it has connected.
fn pattern(option: &str, value: String) -> Result<String, String> {
    match value.parse::<Namespace>() {
        Ok(_) => Ok(value),
        Err(_) => Err(format!(
            "{option} needs names of the form database.collection, or shop.* for a whole database"
        )),
    }
}

fn choice<T: Copy>(option: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("{option} needs one of: {}", names.join(", "))
    })
}

/// Parses a time in hours, which may have a fraction.
pub fn hours(value: &str) -> Option<Duration> {
    let hours: f64 = value.parse().ok()?;
    let time = Duration::try_from_secs_f64(hours * 3600.0).ok()?;
    (!time.is_zero()).then_some(time)
}

/// Converts a rate to a limit. 0 means no limit.
pub fn limit(per_second: u64) -> Option<u64> {
    (per_second > 0).then_some(per_second)
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} needs a number"))
}
