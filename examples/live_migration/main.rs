//! Command-line program that migrates a live MongoDB replica set to another one.
//!
//! `cargo run --example live_migration` shows a whole migration on two replica sets of its own;
//! `cargo run --release --example live_migration -- --help` explains how to migrate others.
//!
//! The three files that matter to a host program are `assembly.rs`, `session.rs` and `follow.rs`. `assembly.rs` describes a
//! migration, `session.rs` starts it, and `follow.rs` follows its events and hands over. The other files are the command
//! line around them.

mod arguments;
mod assembly;
mod collections;
mod console;
mod demo;
mod ending;
mod follow;
mod guide;
mod input;
mod json;
mod keyboard;
mod panel;
mod rate;
mod screen;
mod session;
mod text;
mod tone;
mod waits;

use std::process::ExitCode;

use arguments::{Arguments, Parsed};
use console::Console;
use ending::Ending;
use input::Input;
use mongoferry::{Error, ErrorKind};
use session::Session;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let json = words.iter().any(|word| word == "--json");
    let (mut console, ending) = match Arguments::parse(words) {
        Ok(Parsed::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Run(mut arguments)) => {
            if arguments.deployments().is_none() {
                // The demonstration has little data, so small chunks make its progress visible.
                arguments.chunk_bytes.get_or_insert(4 << 20);
            }
            let mut console = Console::new(json);
            let ending = run(&arguments, &mut console);
            (console, ending)
        }
        Err(message) => {
            eprintln!("live_migration: {message}; --help lists the options");
            let ending = Ending::failed(ErrorKind::InvalidConfiguration, "read the arguments", message);
            (Console::new(json), ending)
        }
    };
    console.summary(&ending);
    ExitCode::from(ending.exit)
}

fn run(arguments: &Arguments, console: &mut Console) -> Ending {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Ending::of_error(failed("start the runtime", error)),
    };
    runtime.block_on(async {
        let input = match Input::new(console.is_drawn()) {
            Ok(input) => input,
            Err(error) => return Ending::of_error(failed("receive signals", error)),
        };
        let mut session = Session::new(arguments, console, input);
        match arguments.deployments() {
            Some((source, target)) => {
                // The user is responsible for the applications that write to the source. With `--cutover manual` they
                // are stopped before `cutover` is entered.
                session.migrate(source, target, Box::pin(std::future::ready(()))).await
            }
            None => demo::run(&mut session).await,
        }
    })
}

fn failed(operation: &'static str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, operation, "the operating system refuses it").with_source(error)
}
