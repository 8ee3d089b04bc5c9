//! The command line, and that of the processes that the bench starts of itself.

use std::path::PathBuf;

use mongoferry_testbed::Version;

use crate::Result;
use crate::legacy::Reader;
use crate::rules::Rules;

pub(crate) const USAGE: &str = "\
Usage: cargo bench -p mongoferry-benches --bench live -- [OPTIONS]

  --rounds N      how often each thing is measured (5)
  --scale F       the size of the data, 1 being 2.6 GB (1)
  --only NAME     copy, verify, cutover, writers, catch-up, tail or lag alone; may be given several times; these are not part of the
                  default: rules, which measures copy and catch-up with filters and transforms, and legacy, which measures copy and tail
                  of an old source (or legacy-copy and legacy-tail, one of them)
  --collections N measure so many small collections, and nothing else that is not named with --only; a server keeps two files open for
                  each (`ulimit -n`)
  --server V      the servers' version, such as 6.0.27 (6.0.5)
  --cache GB      the cache of each server in GB (1)
  --walkers N     how many chunks are copied at the same time (4)
  --json FILE     where the numbers go (target/bench/live.json)
  --svg FILE      draw the numbers too
";

/// What this process is to do.
pub(crate) enum Mode {
    Help,
    Bench(Arguments),
    /// Migrate, as the process on the other end of the pipe says.
    Migrate(Deployments),
    /// Read both sides, likewise.
    Read {
        source: String,
        target: String,
    },
    /// Read the oplog, likewise.
    Follow {
        source: String,
        reader: Reader,
    },
    /// Make many collections, likewise.
    Catalog {
        target: String,
        source: Option<String>,
        collections: usize,
    },
    /// Insert the data of the copy, likewise.
    Insert {
        target: String,
        scale: f64,
    },
}

/// What to measure.
pub(crate) struct Arguments {
    pub rounds: usize,
    pub scale: f64,
    pub server: Version,
    pub cache_gb: f64,
    pub walkers: usize,
    pub json: PathBuf,
    pub svg: Option<PathBuf>,
    /// How many small collections are measured; none by default.
    pub collections: usize,
    only: Vec<String>,
}

/// The connection strings of a migration.
pub(crate) struct Deployments {
    pub source: String,
    /// Where nothing is named, writes are dropped.
    pub target: Option<String>,
    pub walkers: usize,
    pub reader: Reader,
    pub rules: Rules,
    pub scale: f64,
}

impl Arguments {
    /// # Errors
    /// A word that is no option, or a value that does not fit.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Mode> {
        let mut arguments = Self {
            rounds: 5,
            scale: 1.0,
            server: Version::default(),
            cache_gb: 1.0,
            walkers: 4,
            json: target_folder().join("bench/live.json"),
            svg: None,
            collections: 0,
            only: Vec::new(),
        };
        let mut words = words.peekable();
        let (mut migrate, mut insert, mut read, mut to) = (None, None, None, None);
        let (mut catalog, mut from, mut follow) = (None, None, None);
        let (mut rules, mut reader) = (Rules::None, Reader::Driver);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--help" => return Ok(Mode::Help),
                // What cargo adds.
                "--bench" => {}
                "--rounds" => arguments.rounds = value()?.parse::<usize>()?.max(1),
                "--scale" => arguments.scale = value()?.parse()?,
                "--only" => arguments.only.push(value()?),
                "--server" => arguments.server = version(&value()?)?,
                "--cache" => arguments.cache_gb = value()?.parse()?,
                "--walkers" => arguments.walkers = value()?.parse::<usize>()?.max(1),
                "--json" => arguments.json = value()?.into(),
                "--svg" => arguments.svg = Some(value()?.into()),
                "--migrate" => migrate = Some(value()?),
                "--rules" => rules = Rules::parse(&value()?)?,
                "--as" => reader = Reader::parse(&value()?)?,
                "--follow" => follow = Some(value()?),
                "--read" => read = Some(value()?),
                "--to" => to = Some(value()?),
                "--collections" => arguments.collections = value()?.parse()?,
                "--catalog" => catalog = Some(value()?),
                "--from" => from = Some(value()?),
                "--insert" => insert = Some(value()?),
                _ => return Err(format!("there is no option {word}\n\n{USAGE}").into()),
            }
        }
        let (scale, walkers) = (arguments.scale, arguments.walkers);
        if let Some(target) = catalog {
            return Ok(Mode::Catalog {
                target,
                source: from,
                collections: arguments.collections,
            });
        }
        if let Some(source) = follow {
            return Ok(Mode::Follow { source, reader });
        }
        Ok(match (migrate, read, insert, to) {
            (Some(source), _, _, target) => Mode::Migrate(Deployments {
                source,
                target,
                walkers,
                reader,
                rules,
                scale,
            }),
            (_, Some(source), _, Some(target)) => Mode::Read { source, target },
            (_, _, Some(target), _) => Mode::Insert { target, scale },
            _ => Mode::Bench(arguments),
        })
    }

    /// Whether this is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        (self.only.is_empty() && self.collections == 0) || self.only.iter().any(|only| only == name)
    }

    /// Whether something is to be measured that is not part of the default.
    pub fn wants_on_request(&self, name: &str) -> bool {
        self.only.iter().any(|only| only == name)
    }

    /// A number of documents or seconds at this scale.
    pub fn scaled(&self, full: u64, least: u64) -> u64 {
        scaled(full, self.scale).max(least)
    }
}

/// A number at a scale.
pub(crate) fn scaled(full: u64, scale: f64) -> u64 {
    (full as f64 * scale) as u64
}

fn version(name: &str) -> Result<Version> {
    let mut versions = Version::ALL.into_iter();
    versions
        .find(|version| version.release() == name)
        .ok_or_else(|| format!("there is no server {name} to start").into())
}

/// The folder of the workspace, unless the environment names another one.
fn target_folder() -> PathBuf {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(own, PathBuf::from)
}
