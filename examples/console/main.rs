//! The console of mongoferry: a web page where people run migrations.
//!
//! `cargo run --release --example console --features console` starts two replica sets of its own with an application that keeps writing,
//! and prints the address of the page. `-- --target URI` is for real use: people create migrations into that replica set.
//!
//! This file is what a host program needs. `demo.rs` is the demonstration.

mod demo;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use mongoferry::console::{Console, router};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: console [OPTION...]

  --target URI         the replica set to migrate to, such as mongodb://USER:PASSWORD@HOST/?replicaSet=NAME
                       (without it: a demonstration with replica sets of its own)
  --port PORT          the port of the page on this machine (default: any)
  --recordings FOLDER  record each run in a file in this folder, for reports of bugs
  --show-documents     let people read single documents of both sides, to look at what differs
  --documents NUMBER   how much data the demonstration has (default: 300000)
";

/// Maximum size of a recording.
const RECORDING_BYTES: u64 = 64 << 20;

/// How long runs may take to end when the program does.
const SHUTDOWN: Duration = Duration::from_secs(30);

struct Arguments {
    target: Option<String>,
    port: u16,
    recordings: Option<PathBuf>,
    show_documents: bool,
    documents: u64,
}

/// Returns `None` if the usage was asked for.
fn arguments() -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        target: None,
        port: 0,
        recordings: None,
        show_documents: false,
        documents: 300_000,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" {
            return Ok(None);
        }
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--target" => arguments.target = Some(value()?),
            "--port" => arguments.port = value()?.parse()?,
            "--recordings" => arguments.recordings = Some(value()?.into()),
            "--show-documents" => arguments.show_documents = true,
            "--documents" => arguments.documents = value()?.parse()?,
            _ => return Err(format!("{word} is unknown; --help lists the options").into()),
        }
    }
    Ok(Some(arguments))
}

/// Serves the console on this machine until the program is to end, and then ends the runs.
///
/// Whoever knows the address may use the page, so it has a part that nobody can guess. A program that serves other machines needs TLS and a
/// login around the router.
async fn serve(console: Console, port: u16) -> Result<()> {
    let secret = format!("/{:032x}", rand::random::<u128>());
    let application = Router::new().nest_service(&secret, router(console.clone()));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}{secret}/", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, application).into_future() => served?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    println!("ending the runs; they keep their checkpoints");
    console.shutdown(SHUTDOWN).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(arguments) = arguments()? else {
        print!("{USAGE}");
        return Ok(());
    };
    let mut console = Console::builder().documents_on_request(arguments.show_documents);
    if let Some(folder) = arguments.recordings {
        console = console.record_in(folder, RECORDING_BYTES);
    }
    match arguments.target {
        Some(target) => serve(console.allow_create(true).target(target).build(), arguments.port).await,
        None => {
            let demonstration = demo::start(arguments.documents).await?;
            serve(demonstration.console(console)?, arguments.port).await
        }
    }
}
