//! Command-line arguments.

mod explain;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};
use mongoferry::{DdlPolicy, ExistingData, ExistingUsers, Namespace, PathPolicy, Throttle, Verification};

const WHAT: &str = "What to migrate";
const TARGET: &str = "Target and checkpoint";
const CUTOVER: &str = "Cutover";
const SPEED: &str = "Speed and memory";
const SAFETY: &str = "Checks";
const OUTPUT: &str = "Output";

/// Parsed arguments. There is no `Debug`, because connection strings contain passwords.
#[derive(Parser)]
#[command(name = "live_migration", about = ABOUT, after_help = AFTER, max_term_width = 100)]
#[command(args_override_self = true, disable_help_flag = true)]
pub struct Arguments {
    /// Connection string of the replica set to migrate from
    #[arg(help_heading = WHAT, long, value_name = "URI", requires = "target")]
    source: Option<String>,
    /// Connection string of the replica set to migrate to
    #[arg(help_heading = WHAT, long, value_name = "URI", requires = "source")]
    target: Option<String>,
    /// Migrate only namespaces that match, such as shop.* or *.orders; repeatable
    #[arg(help_heading = WHAT, long, value_name = "NAMESPACE", value_parser = pattern)]
    pub include: Vec<String>,
    /// Exclude namespaces that match, even if included; repeatable
    #[arg(help_heading = WHAT, long, value_name = "NAMESPACE", value_parser = pattern)]
    pub exclude: Vec<String>,
    /// Rename a collection on the target; repeatable
    #[arg(help_heading = WHAT, long, value_name = "FROM=TO", value_parser = renaming)]
    pub rename: Vec<(String, String)>,
    /// What to do when the source's catalog changes during the run: apply the change, apply it with a warning, or stop
    #[arg(help_heading = WHAT, long, value_name = "POLICY", default_value = "apply")]
    #[arg(value_parser = choice(&[("apply", DdlPolicy::Apply), ("warn", DdlPolicy::Warn), ("fail", DdlPolicy::Fail)]))]
    pub ddl: DdlPolicy,
    /// Carry users and roles, with their passwords; the choice says what happens if the target has one of the same name
    /// with other content: refuse, keep it, or replace it [default: carry none]
    #[arg(help_heading = WHAT, long, value_name = "CHOICE")]
    #[arg(value_parser = choice(&[
        ("refuse", ExistingUsers::Refuse), ("keep", ExistingUsers::Keep), ("replace", ExistingUsers::Replace),
    ]))]
    pub users: Option<ExistingUsers>,

    /// Name of this migration among those with the same target, whose names must be disjoint [default: default]
    #[arg(help_heading = TARGET, long, value_name = "ID")]
    pub id: Option<String>,
    /// What to do with existing collections on the target that are in the way: refuse to start, drop them, or make them
    /// equal to the source
    #[arg(help_heading = TARGET, long, value_name = "CHOICE", default_value = "refuse")]
    #[arg(value_parser = choice(&[
        ("refuse", ExistingData::Refuse), ("clear", ExistingData::Clear), ("keep", ExistingData::Keep),
    ]))]
    pub existing_data: ExistingData,
    /// Where the checkpoint is kept: on the target or in a file
    #[arg(help_heading = TARGET, long, value_name = "target|PATH", default_value = "target")]
    pub checkpoint: CheckpointPath,

    /// Cut over once the lag has stayed small for two seconds, or when `cutover` is read from standard input
    #[arg(help_heading = CUTOVER, long = "cutover", value_name = "WHEN", default_value = "auto")]
    #[arg(value_parser = choice(&[("auto", false), ("manual", true)]), action = clap::ArgAction::Set)]
    pub manual_cutover: bool,
    /// Block writes on the source at the cutover (setUserWriteBlockMode, 6.0 and newer); the block stays after the migration
    /// is complete
    #[arg(help_heading = CUTOVER, long)]
    pub block_writes: bool,
    /// After the migration is complete, migrate in the opposite direction, so that the source remains a way back; `cutover`
    /// hands back to the source, `abandon` stops; with --block-writes, the user on the source must be able to bypass the
    /// block
    #[arg(help_heading = CUTOVER, long)]
    pub reverse: bool,
    /// Maximum lag that counts as small [default: 2]
    #[arg(help_heading = CUTOVER, long, value_name = "SECONDS", value_parser = seconds)]
    pub max_lag: Option<Duration>,
    /// Hours to follow the source after the run is first ready [default: 120]
    #[arg(help_heading = CUTOVER, long = "window-hours", value_name = "N", value_parser = window)]
    pub window: Option<Duration>,
    /// Stop at this point, and keep the checkpoint
    #[arg(help_heading = CUTOVER, long, value_name = "POINT")]
    #[arg(value_parser = choice(&[("preflight", StopAfter::Preflight), ("ready", StopAfter::Ready)]))]
    pub stop_after: Option<StopAfter>,

    /// Maximum number of ranges copied concurrently [default: 4]
    #[arg(help_heading = SPEED, long, value_name = "N", value_parser = number::<usize>)]
    pub walkers: Option<usize>,
    /// Use all walkers even if that slows down the source's own writers
    #[arg(help_heading = SPEED, long)]
    pub all_walkers: bool,
    /// Number of connections that apply changes [default: 4]
    #[arg(help_heading = SPEED, long, value_name = "N", value_parser = number::<usize>)]
    pub appliers: Option<usize>,
    /// Size of a chunk in bytes of documents [default: 67108864]
    #[arg(help_heading = SPEED, long, value_name = "N", value_parser = number::<u64>)]
    pub chunk_bytes: Option<u64>,
    /// Limit for documents and changes in memory [default: 268435456]
    #[arg(help_heading = SPEED, long, value_name = "N", value_parser = number::<usize>)]
    pub memory_bytes: Option<usize>,
    /// Maximum bytes of documents read from the source per second [default: no limit]
    #[arg(help_heading = SPEED, long, value_name = "N", value_parser = number::<u64>)]
    copy_bytes_per_second: Option<u64>,
    /// Maximum operations read from the oplog per second [default: no limit]
    #[arg(help_heading = SPEED, long, value_name = "N", value_parser = number::<u64>)]
    tail_operations_per_second: Option<u64>,

    /// How documents are compared: not at all, all of them at cutover, or all of them during the run and later changes at
    /// cutover
    #[arg(help_heading = SAFETY, long = "verify", value_name = "HOW", default_value = "continuous")]
    #[arg(value_parser = choice(&[
        ("none", Verification::None), ("digest", Verification::Digest), ("continuous", Verification::Continuous),
    ]))]
    pub verification: Verification,
    /// Read every document in preflight, to find those that the target would refuse
    #[arg(help_heading = SAFETY, long)]
    pub scan: bool,
    /// Any path to the same or a newer version, or only those of hosted services
    #[arg(help_heading = SAFETY, long, value_name = "POLICY", default_value = "upward")]
    #[arg(value_parser = choice(&[("upward", PathPolicy::Upward), ("hosted", PathPolicy::Hosted)]))]
    pub path_policy: PathPolicy,
    /// Allow documents and passwords to be sent to other hosts without TLS
    #[arg(help_heading = SAFETY, long)]
    pub accept_unencrypted: bool,

    /// One JSON object per line on standard output, text on standard error
    #[arg(help_heading = OUTPUT, long)]
    pub json: bool,
    /// Write the certificate of a complete hand-over to this file, as BSON
    #[arg(help_heading = OUTPUT, long, value_name = "PATH")]
    pub certificate: Option<PathBuf>,
    /// Record what the run does in this file, as lines of JSON; the way back has a file of its own, PATH.reverse
    #[arg(help_heading = OUTPUT, long, value_name = "PATH")]
    pub recording: Option<PathBuf>,
    /// Maximum size of the recording
    #[arg(help_heading = OUTPUT, long, value_name = "N", value_parser = number::<u64>, default_value = "64000000")]
    pub recording_bytes: u64,
    /// Print this and exit
    #[arg(help_heading = OUTPUT, short, long, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,

    /// Number of documents that the demonstration loads. It is for tests, and therefore hidden.
    #[arg(long, hide = true, value_parser = number::<u64>)]
    pub documents: Option<u64>,
}

const ABOUT: &str = "\
Migrates a live MongoDB replica set to another one.

Without --source and --target, the program starts two replica sets of its own, loads a sample shop
into one of them, keeps writing to it, and migrates it.";

const AFTER: &str = "\
Commands on standard input, one per line:
  cutover                     cut over as soon as everything is copied and the lag is small
  pause, resume               pause the run, continue it
  status                      print the status
  verify                      compare both sides while both are being written to
  repair                      write the documents that verify found to differ
  extend HOURS                extend the cutover window
  throttle BYTES OPERATIONS   change the two limits per second (0 for no limit)
  abandon                     stop, and keep the checkpoint

With --reverse there are two summaries, one for each direction. The last one is the final result.
Lines about the way back have the field `direction` with the value `reverse`. After a stop, the same
command continues in the direction that was active.

Exit codes:
  0         complete and verified, also if an earlier run has completed the migration
  1         any other failure
  2         refused by preflight or when connecting
  3         differences found
  4         stopped by --stop-after or abandon
  130, 143  stopped by SIGINT, SIGTERM

Run the same command again to resume a migration that was stopped.
On a terminal, NO_COLOR=1 switches colours off.";

/// What the arguments ask for.
pub enum Parsed {
    Run(Box<Arguments>),
    /// To print this text.
    Help(String),
}

/// Path of the checkpoint's file. `None` means on the target.
#[derive(Clone)]
pub struct CheckpointPath(pub Option<PathBuf>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAfter {
    Preflight,
    Ready,
}

impl Arguments {
    /// Parses the arguments without the program's name. Error messages never contain values: a misplaced one may be a
    /// password.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
        let words = std::iter::once("live_migration".into()).chain(words);
        let parsed = Self::command()
            .try_get_matches_from(words)
            .and_then(|matches| Self::from_arg_matches(&matches));
        match parsed {
            Ok(arguments) => Ok(Parsed::Run(Box::new(arguments))),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(Parsed::Help(error.to_string())),
            Err(error) => Err(explain::explain(&error)),
        }
    }

    /// Source and target; `None` for the demonstration.
    pub fn deployments(&self) -> Option<(&str, &str)> {
        self.source.as_deref().zip(self.target.as_deref())
    }

    pub fn throttle(&self) -> Throttle {
        let mut throttle = Throttle::unlimited();
        throttle.copy_bytes_per_second = self.copy_bytes_per_second.and_then(limit);
        throttle.tail_operations_per_second = self.tail_operations_per_second.and_then(limit);
        throttle
    }
}

impl FromStr for CheckpointPath {
    type Err = std::convert::Infallible;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(Self((value != "target").then(|| PathBuf::from(value))))
    }
}

/// Checks a namespace before connecting. The library checks it too, but only after it has connected.
fn pattern(value: &str) -> Result<String, String> {
    match value.parse::<Namespace>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err("needs names of the form database.collection, or shop.* for a whole database".to_owned()),
    }
}

fn renaming(value: &str) -> Result<(String, String), String> {
    let (from, to) = value.split_once('=').ok_or("needs FROM=TO")?;
    Ok((pattern(from)?, pattern(to)?))
}

/// Parses one of several names.
fn choice<T: Clone + Send + Sync + 'static>(choices: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(choices.iter().map(|(name, _)| *name)).try_map(|value| {
        let found = choices.iter().find(|(name, _)| *name == value);
        found.map(|(_, choice)| choice.clone()).ok_or("needs another value")
    })
}

fn seconds(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().map_err(|_| "needs a number")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "needs a number of seconds that is not negative".to_owned())
}

fn window(value: &str) -> Result<Duration, String> {
    hours(value).ok_or_else(|| "needs a number of hours above 0".to_owned())
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "needs a number".to_owned())
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
