//! The command line, parsed by hand: an example should not need a parser crate.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mongoferry::{DdlPolicy, ExistingData, Namespace, PathPolicy, Throttle, Verification};

pub const USAGE: &str = "\
Migrates a live MongoDB replica set into another one.

Usage: live_migration [--source URI --target URI] [OPTIONS]

Without --source and --target it starts two replica sets of its own, loads a sample shop into one of them, keeps
writing to it, and migrates that.

Options:
      --source URI                   connection string of the replica set to migrate from
      --target URI                   connection string of the replica set to migrate to
      --include NAMESPACE            migrate only what fits, such as shop.* or *.orders; may be repeated
      --exclude NAMESPACE            leave out what fits, whatever is included; may be repeated
      --rename FROM=TO               give a collection another name on the target; may be repeated
      --existing-data refuse|clear|keep
                                     what to do with collections that stand in the way on the target: refuse to start,
                                     drop them, or make them equal to the source [default: refuse]
      --checkpoint target|PATH       where the checkpoint is kept: on the target or in a file [default: target]
      --cutover auto|manual          cut over as soon as the lag has stayed small for two seconds, or when `cutover` is
                                     read from standard input [default: auto]
      --block-writes                 block writes on the source at the cutover (setUserWriteBlockMode, 6.0 and newer); the
                                     block stays once the migration is complete
      --reverse                      go on in the opposite direction once the migration is complete, so that the source
                                     stays a way back, until `cutover` is read, which hands back, or `abandon`;
                                     with --block-writes the user on the source has to be one who may pass the block
      --ddl apply|warn|fail          what to do when the catalogue of the source is changed meanwhile: carry it over, say
                                     so too, or stop [default: apply]
      --max-lag SECONDS              the lag that counts as small [default: 2]
      --window-hours N               hours that the source is followed after the run was first ready [default: 120]
      --stop-after preflight|ready   stop there, with the checkpoint kept
      --verify none|digest|continuous
                                     how documents are compared: not at all, all of them at cutover, or all of them while
                                     the source is followed and what changes afterwards at cutover [default: continuous]
      --certificate PATH             write what was handed over into this file, as BSON, once it is complete
      --walkers N                    ranges copied at the same time [default: 4]
      --all-walkers                  copy so many also while that slows the source's own writers down
      --lanes N                      connections that apply changes [default: 4]
      --chunk-bytes N                bytes of documents in a chunk [default: 67108864]
      --memory-bytes N               bytes of documents and changes held in memory [default: 268435456]
      --copy-bytes-per-second N      bytes of documents read from the source each second at most [default: no limit]
      --tail-operations-per-second N operations taken out of the oplog each second at most [default: no limit]
      --accept-unencrypted           let documents and passwords go to other hosts without TLS
      --path-policy upward|hosted    any path to the same or a newer version, or those of hosted services [default: upward]
      --scan                         let preflight read every document, to find those that the target would refuse
      --json                         one JSON object a line on standard output, text on standard error
      --help                         print this and exit

Commands on standard input, one a line: cutover, pause, resume, status, abandon, verify, which compares both sides while
both are written to, repair, which writes what it found to differ, extend HOURS, which makes the cutover window longer,
and throttle BYTES OPERATIONS, which changes the two limits (0 for none).

With --reverse there are two summaries, one for each direction, of which the last says how it ended; lines about the way
back have the field `direction` with the value `reverse`. The same command goes on with the direction it was in.

Exit codes: 0 complete and verified; 2 refused by preflight or when connecting; 3 differences found; 4 stopped by --stop-after or abandon;
130 and 143 stopped by SIGINT and SIGTERM; 1 any other failure. The same command again resumes what was stopped.
";

/// What was asked for. It has no `Debug`, since connection strings hold passwords.
#[derive(Default)]
pub struct Arguments {
    /// Source and target; `None` for the demonstration.
    pub deployments: Option<(String, String)>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub rename: Vec<(String, String)>,
    pub existing_data: ExistingData,
    /// `None` for the target.
    pub checkpoint: Option<PathBuf>,
    pub manual_cutover: bool,
    pub block_writes: bool,
    pub reverse: bool,
    pub ddl: DdlPolicy,
    pub max_lag: Option<Duration>,
    pub window: Option<Duration>,
    pub stop_after: Option<StopAfter>,
    pub verification: Verification,
    /// Where the certificate is written.
    pub certificate: Option<PathBuf>,
    pub walkers: Option<usize>,
    pub all_walkers: bool,
    pub lanes: Option<usize>,
    pub chunk_bytes: Option<u64>,
    pub memory_bytes: Option<usize>,
    pub throttle: Throttle,
    pub accept_unencrypted: bool,
    pub path_policy: PathPolicy,
    pub scan: bool,
    pub json: bool,
    pub help: bool,
    /// How many documents the demonstration loads; not in the usage, as it is for tests.
    pub documents: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAfter {
    Preflight,
    Ready,
}

impl Arguments {
    /// Parses the arguments, without the program's name. Messages never hold values: a misplaced one may be a password.
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
                return Err("there is an argument that belongs to no option".to_owned());
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
                "--lanes" => arguments.lanes = Some(number(&option, &value()?)?),
                "--chunk-bytes" => arguments.chunk_bytes = Some(number(&option, &value()?)?),
                "--memory-bytes" => arguments.memory_bytes = Some(number(&option, &value()?)?),
                "--copy-bytes-per-second" => {
                    arguments.throttle.copy_bytes_per_second = limit(number(&option, &value()?)?);
                }
                "--tail-operations-per-second" => {
                    arguments.throttle.tail_operations_per_second = limit(number(&option, &value()?)?);
                }
                "--documents" => arguments.documents = Some(number(&option, &value()?)?),
                _ => return Err(format!("there is no option {option}")),
            }
        }
        arguments.deployments = match (source, target) {
            (Some(source), Some(target)) => Some((source, target)),
            (None, None) => None,
            _ => return Err("--source and --target are given both or neither".to_owned()),
        };
        Ok(arguments)
    }
}

/// The library checks this too, but not before it is connected.
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

/// A time in hours, of which there may be a fraction.
pub fn hours(value: &str) -> Option<Duration> {
    let hours: f64 = value.parse().ok()?;
    let time = Duration::try_from_secs_f64(hours * 3600.0).ok()?;
    (!time.is_zero()).then_some(time)
}

/// 0 is for no limit.
pub fn limit(per_second: u64) -> Option<u64> {
    (per_second > 0).then_some(per_second)
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} needs a number"))
}
