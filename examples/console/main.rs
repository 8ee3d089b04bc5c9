//! The console of mongoferry: a web page where people run migrations.
//!
//! `cargo run --release --example console --features console` starts two replica sets of its own with an application that keeps writing,
//! and prints the address of the page. `-- --target URI` is for real use: people create migrations into that replica set.
//!
//! This file is what a host program needs. `demo.rs` is the demonstration.

mod demo;

use std::error::Error;
use std::time::Duration;

use axum::Router;
use mongoferry::console::{Console, router};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: console [--target URI] [--port PORT] [--documents NUMBER]

  --target URI         the replica set to migrate to, such as mongodb://USER:PASSWORD@HOST/?replicaSet=NAME
                       (without it: a demonstration with replica sets of its own)
  --port PORT          the port of the page on this machine (default: any)
  --documents NUMBER   how much data the demonstration has (default: 300000)
";

/// How long runs may take to end when the program does.
const SHUTDOWN: Duration = Duration::from_secs(30);

struct Arguments {
    target: Option<String>,
    port: u16,
    documents: u64,
}

/// Returns `None` if the usage was asked for.
fn arguments() -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        target: None,
        port: 0,
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
    match arguments.target {
        Some(target) => {
            let console = Console::builder().allow_create(true).target(target).build();
            serve(console, arguments.port).await
        }
        None => {
            let demonstration = demo::start(arguments.documents).await?;
            serve(demonstration.console()?, arguments.port).await
        }
    }
}
