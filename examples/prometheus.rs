//! Metrics of a migration for Prometheus, on a page of this program.
//!
//! It needs the feature `metrics`. `cargo run --example prometheus -- SOURCE TARGET` migrates from one replica set to the other, serves
//! the page at <http://127.0.0.1:9187/metrics>, and cuts over once the applications are stopped. Without arguments, the example starts its
//! own servers, and ends by itself.

use std::error::Error;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use mongoferry::{Migration, MongoSink, MongoSource, Outcome};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, stdin};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Prometheus scrapes the page every few seconds. A histogram would grow until then, so it is tidied up in between.
const UPKEEP: Duration = Duration::from_secs(5);

/// Answers every request with the page. The page has no secrets, but it is for this machine only.
async fn serve(listener: TcpListener, page: PrometheusHandle) -> std::io::Result<()> {
    loop {
        let (mut connection, _) = listener.accept().await?;
        // A client that does not finish its request must not keep the others waiting for long.
        let answered = timeout(Duration::from_secs(5), answer(&mut connection, &page)).await;
        if !matches!(answered, Ok(Ok(()))) {
            println!("a request for the page failed");
        }
    }
}

async fn answer(connection: &mut TcpStream, page: &PrometheusHandle) -> std::io::Result<()> {
    let mut request = BufReader::new(&mut *connection).take(16 << 10);
    let mut line = String::new();
    while request.read_line(&mut line).await? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let page = page.render();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(page.as_bytes()).await?;
    connection.shutdown().await
}

/// Returns the value of a metric that has no other label than the migration.
async fn scrape(address: std::net::SocketAddr, metric: &str) -> Result<f64> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await?;
    let mut page = String::new();
    connection.read_to_string(&mut page).await?;
    let start = format!("{metric}{{");
    let line = page.lines().find(|line| line.starts_with(&start));
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.ok_or_else(|| format!("the page has no {metric}"))?.parse()?)
}

async fn migrate(source: &str, target: &str, port: u16, stop_writes: impl Future<Output = ()>) -> Result<()> {
    // The recorder must be installed before the start.
    let seconds = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0];
    let page = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
        .install_recorder()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("http://{address}/metrics");
    let migration = Migration::builder(MongoSource::connect(source).await?, MongoSink::connect(target).await?);
    let run = migration.id("example").build()?.start().await?;
    let upkeep = async {
        loop {
            sleep(UPKEEP).await;
            page.run_upkeep();
        }
    };
    let watch = async {
        run.ready_to_cut_over().await?;
        // The page is brought up to date every second.
        sleep(Duration::from_secs(2)).await;
        let lag = scrape(address, "mongoferry_lag_seconds").await?;
        let copied = scrape(address, "mongoferry_copied_documents_total").await?;
        println!("{copied} documents are copied, {lag} s behind");
        if copied != run.status().copied.documents as f64 {
            return Err(format!("the page differs from {:?}", run.status()).into());
        }
        let summary = run.cutover(stop_writes).await?;
        match summary.outcome {
            Outcome::Complete => Ok(()),
            _ => Err(format!("{summary:#?}").into()),
        }
    };
    tokio::select! {
        ended = watch => ended,
        ended = serve(listener, page.clone()) => Ok(ended?),
        () = upkeep => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, target] if arguments.iter().all(|uri| uri.starts_with("mongodb")) => {
            migrate(source, target, 9187, applications_stopped()).await
        }
        _ => {
            eprintln!("usage: cargo run --example prometheus -- SOURCE TARGET (two connection strings)");
            std::process::exit(2)
        }
    }
}

async fn applications_stopped() {
    println!("ready: stop the applications, then press Enter");
    // At the end of the input, nobody can press anything.
    let _ = BufReader::new(stdin()).read_line(&mut String::new()).await;
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry_testbed::{ReplicaSet, Version, workload};

    pub async fn run() -> super::Result<()> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        workload::load(&old.client().await?, 5000, 1).await?;
        super::migrate(&old.uri(), &new.uri(), 0, async {}).await
    }
}
