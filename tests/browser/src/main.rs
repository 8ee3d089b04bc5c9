//! A program that hosts a console, for tests to open in a browser, and to kill.
//!
//! It prints the address of the page, and ends its runs gracefully when its standard input closes.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use mongoferry::Migration;
use mongoferry::bson::rawdoc;
use mongoferry::console::{Console, ManagedMigration, router};
use mongoferry::sink::MemorySink;
use mongoferry::source::MemorySource;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long runs may take to end when the program does.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Where the console is, below the address of the program.
const PATH: &str = "/console";

#[derive(Default)]
struct Arguments {
    /// The port of the page; 0 for any.
    port: u16,
    /// The target of all migrations. Without one, people give it.
    target: Option<String>,
    /// Number of collections of a migration `memory` between sides in memory.
    memory: Option<usize>,
    /// Number of further migrations that are only listed.
    listed: usize,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        match word.as_str() {
            "--port" => arguments.port = value.parse()?,
            "--target" => arguments.target = Some(value),
            "--memory" => arguments.memory = Some(value.parse()?),
            "--listed" => arguments.listed = value.parse()?,
            _ => return Err(format!("{word} is unknown").into()),
        }
    }
    Ok(arguments)
}

fn console(arguments: &Arguments) -> Result<Console> {
    let mut builder = Console::builder().allow_create(true).documents_on_request(true);
    if let Some(target) = &arguments.target {
        builder = builder.target(target.as_str());
    }
    let console = builder.build();
    if let Some(collections) = arguments.memory {
        console.add(in_memory("memory".to_owned(), collections)?)?;
    }
    for index in 0..arguments.listed {
        console.add(in_memory(format!("tenant-{index:03}"), 1)?)?;
    }
    Ok(console)
}

/// A migration of small collections, whose applications need not be stopped because there are none.
fn in_memory(id: String, collections: usize) -> Result<ManagedMigration> {
    let (source, sink) = (MemorySource::new(), MemorySink::new());
    for index in 0..collections {
        source.insert(
            &format!("shop.collection_{index:03}"),
            rawdoc! { "_id": 1, "n": index as i64 },
        )?;
    }
    let name = id.clone();
    Ok(ManagedMigration::new(id, move || {
        let built = Migration::builder(source.clone(), sink.clone())
            .id(name.as_str())
            .build();
        async move { built }
    }))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments()?;
    let console = console(&arguments)?;
    let application = Router::new().nest_service(PATH, router(console.clone()));
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    println!("http://{}{PATH}/", listener.local_addr()?);
    let mut input = tokio::io::stdin();
    let mut nothing = [0];
    tokio::select! {
        served = axum::serve(listener, application).into_future() => served?,
        read = input.read(&mut nothing) => drop(read?),
    }
    console.shutdown(SHUTDOWN).await;
    Ok(())
}
