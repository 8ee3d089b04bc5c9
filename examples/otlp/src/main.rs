//! Traces and metrics of a migration for an OpenTelemetry collector, with OTLP over HTTP.
//!
//! `cargo run -p mongoferry-otlp -- SOURCE TARGET` migrates from one replica set to the other. Spans and metrics go to the collector at
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, or at `http://localhost:4318` without that variable. Without arguments, the example starts its own servers and
//! a small receiver in place of the collector, and fails if the spans and metrics of the migration do not arrive there.
//!
//! The example is a package of its own, so that no other one builds the crates of OpenTelemetry.

mod recorder;

use std::error::Error;
use std::time::Duration;

use mongoferry::{Migration, MongoSink, MongoSource, Outcome};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use recorder::OtelRecorder;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::runtime::Runtime;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Interval at which metrics are sent.
const INTERVAL: Duration = Duration::from_secs(10);

/// What sends spans and metrics, from threads of its own.
struct Telemetry {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
}

impl Telemetry {
    /// Installs the subscriber of `tracing` and the recorder of `metrics`, which must both be there before a migration starts. Without a
    /// collector's URL, that of the environment counts.
    fn install(collector: Option<&str>) -> Result<Self> {
        let (mut spans, mut metrics) = (
            SpanExporter::builder().with_http(),
            MetricExporter::builder().with_http(),
        );
        if let Some(collector) = collector {
            spans = spans.with_endpoint(format!("{collector}/v1/traces"));
            metrics = metrics.with_endpoint(format!("{collector}/v1/metrics"));
        }
        let service = Resource::builder().with_service_name("mongoferry").build();
        let tracers = SdkTracerProvider::builder()
            .with_batch_exporter(spans.build()?)
            .with_resource(service.clone())
            .build();
        let reader = PeriodicReader::builder(metrics.build()?)
            .with_interval(INTERVAL)
            .build();
        let meters = SdkMeterProvider::builder()
            .with_reader(reader)
            .with_resource(service)
            .build();

        // Those of other crates, also of the exporter itself, are left out.
        let ours = |level| Targets::new().with_target("mongoferry", level);
        let traces = tracing_opentelemetry::layer().with_tracer(tracers.tracer("mongoferry"));
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        tracing_subscriber::registry()
            .with(traces.with_filter(ours(LevelFilter::DEBUG)))
            .with(log.with_filter(ours(LevelFilter::INFO)))
            .try_init()?;
        metrics::set_global_recorder(OtelRecorder::new(meters.meter("mongoferry")))
            .map_err(|_| "a recorder of metrics is installed already")?;
        Ok(Self { tracers, meters })
    }

    /// Sends what has not been sent yet. It blocks, so it is not for asynchronous code.
    fn shutdown(&self) -> Result<()> {
        self.tracers.shutdown()?;
        Ok(self.meters.shutdown()?)
    }
}

/// Migrates. Once `stop_writes` has returned, nothing may write to the source any more.
async fn migrate(source: &str, target: &str, stop_writes: impl Future<Output = ()>) -> Result<()> {
    let migration = Migration::builder(MongoSource::connect(source).await?, MongoSink::connect(target).await?);
    let run = migration.id("example").build()?.start().await?;
    run.ready_to_cut_over().await?;
    let summary = run.cutover(stop_writes).await?;
    println!("{:?}", summary.outcome);
    match summary.outcome {
        Outcome::Complete => Ok(()),
        _ => Err(format!("{summary:#?}").into()),
    }
    // The handle is dropped here, which ends the span `migration`. A span is sent when it has ended.
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run(),
        [source, target] if arguments.iter().all(|uri| uri.starts_with("mongodb")) => {
            let telemetry = Telemetry::install(None)?;
            let ended = Runtime::new()?.block_on(migrate(source, target, applications_stopped()));
            telemetry.shutdown()?;
            ended
        }
        _ => {
            eprintln!("usage: cargo run -p mongoferry-otlp -- SOURCE TARGET (two connection strings)");
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
    use std::sync::{Arc, Mutex, PoisonError};

    use mongoferry_testbed::{ReplicaSet, Version, workload};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Result, Runtime, Telemetry, migrate};

    /// The paths and bodies of the requests that arrived.
    type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

    pub fn run() -> Result<()> {
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let collector = format!("http://{}", listener.local_addr()?);
        let received = Received::default();
        runtime.spawn(receive(listener, Arc::clone(&received)));
        let telemetry = Telemetry::install(Some(&collector))?;
        runtime.block_on(async {
            let (old, new) = futures::try_join!(
                ReplicaSet::builder(Version::V6_0).name("old").start(),
                ReplicaSet::builder(Version::V6_0).name("new").start()
            )?;
            workload::load(&old.client().await?, 5000, 1).await?;
            migrate(&old.uri(), &new.uri(), async {}).await
        })?;
        telemetry.shutdown()?;

        let received = received.lock().unwrap_or_else(PoisonError::into_inner);
        for span in ["migration", "run", "phase", "chunk", "checkpoint", "cutover"] {
            // The name of a span is field 5 in its message of protobuf.
            let length = u8::try_from(span.len())?;
            let name = [&[5 << 3 | 2, length], span.as_bytes()].concat();
            println!("span {span}: {}", count(&received, "/v1/traces", &name)?);
        }
        for metric in [
            "mongoferry_copied_documents_total",
            "mongoferry_lag_seconds",
            "mongoferry_chunk_seconds",
        ] {
            println!(
                "metric {metric}: {}",
                count(&received, "/v1/metrics", metric.as_bytes())?
            );
        }
        Ok(())
    }

    /// Returns how often the bytes are in what was sent to this path.
    fn count(received: &[(String, Vec<u8>)], path: &str, wanted: &[u8]) -> Result<usize> {
        let bodies = received.iter().filter(|(to, _)| to == path).map(|(_, body)| body);
        match bodies
            .map(|body| body.windows(wanted.len()).filter(|bytes| *bytes == wanted).count())
            .sum()
        {
            0 => Err(format!("`{}` did not arrive", String::from_utf8_lossy(wanted).escape_debug()).into()),
            found => Ok(found),
        }
    }

    /// Accepts everything, in place of a collector.
    async fn receive(listener: TcpListener, received: Received) -> std::io::Result<()> {
        loop {
            let (connection, _) = listener.accept().await?;
            tokio::spawn(keep(connection, Arc::clone(&received)));
        }
    }

    /// Keeps the requests of a connection.
    async fn keep(connection: TcpStream, received: Received) -> std::io::Result<()> {
        let mut connection = BufReader::new(connection);
        loop {
            let (mut path, mut length, mut line) = (String::new(), 0, String::new());
            while connection.read_line(&mut line).await? > 0 && !line.trim().is_empty() {
                if let Some(rest) = line.strip_prefix("POST ") {
                    path = rest.split(' ').next().unwrap_or_default().to_owned();
                } else if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap_or_default();
                }
                line.clear();
            }
            if path.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; length];
            connection.read_exact(&mut body).await?;
            received
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((path, body));
            connection
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await?;
        }
    }
}
