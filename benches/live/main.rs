//! Whole migrations between real replica sets, against what the servers do by themselves.
//!
//! `cargo bench -p mongoferry-benches --bench live` runs everything; `-- --help` lists the options. What is compared is measured in turns within one run, so
//! that a machine that grows slower does so for all; the migration runs in a process of its own, so that its CPU time and memory are its
//! own.

mod arguments;
mod catalog;
mod child;
mod copy;
mod data;
mod follow;
mod insertion;
mod lag;
mod legacy;
mod meter;
mod migration;
mod picture;
mod reading;
mod report;
mod rules;
mod traffic;
mod usage;
mod writers;

use std::error::Error;
use std::process::ExitCode;

use crate::arguments::{Arguments, Mode, USAGE};
use crate::report::Report;

/// A bench ends at the first error, and shows it.
type Result<T> = std::result::Result<T, AnyError>;
type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let outcome = Arguments::parse(std::env::args().skip(1)).and_then(|mode| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match mode {
            Mode::Help => {
                print!("{USAGE}");
                Ok(())
            }
            Mode::Bench(arguments) => runtime.block_on(bench(&arguments)),
            Mode::Migrate(deployments) => runtime.block_on(migration::serve(&deployments)),
            Mode::Read { source, target } => runtime.block_on(reading::serve(&source, &target)),
            Mode::Catalog {
                target,
                source,
                collections,
            } => runtime.block_on(catalog::serve(&target, source.as_deref(), collections)),
            Mode::Follow { source, reader } => runtime.block_on(legacy::serve(&source, reader)),
            Mode::Insert { target, scale } => runtime.block_on(insertion::serve(&target, scale)),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("live: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: &Arguments) -> Result<()> {
    let mut report = Report::new(arguments);
    if ["copy", "verify", "cutover", "writers"]
        .iter()
        .any(|name| arguments.wants(name))
    {
        copy::run(arguments, &mut report).await?;
    }
    if ["catch-up", "tail", "lag"].iter().any(|name| arguments.wants(name)) {
        follow::run(arguments, &mut report).await?;
    }
    if arguments.wants_on_request("rules") {
        rules::run(arguments, &mut report).await?;
    }
    legacy::run(arguments, &mut report).await?;
    if arguments.collections > 0 {
        catalog::run(arguments, &mut report).await?;
    }
    print!("{}", report.table());
    report.save(&arguments.json)?;
    println!("\nwritten to {}", arguments.json.display());
    if let Some(path) = &arguments.svg {
        std::fs::write(path, picture::draw(&report)?)?;
        println!("drawn to {}", path.display());
    }
    Ok(())
}
