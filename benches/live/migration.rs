//! The process that migrates. It does what it is told, and answers how many seconds that took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;
use futures::stream::BoxStream;
use mongoferry::order::Key;
use mongoferry::sink::{CatalogCommand, MemorySink, Refusal, SinkRead};
use mongoferry::source::Deployment;
use mongoferry::{
    Batch, Collection, CollectionKind, Migration, MigrationHandle, MongoSink, Namespace, Outcome, Phase, Sink,
    Verification, Write,
};
use tokio::time::sleep;

use crate::Result;
use crate::arguments::Deployments;
use crate::child::Orders;

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Serves the orders of the process that measures.
///
/// # Errors
/// The migration has failed.
pub(crate) async fn serve(deployments: &Deployments) -> Result<()> {
    let mut orders = Orders::new();
    let mut run = None;
    let mut answer = 0.0;
    while let Some(order) = orders.next(answer).await? {
        let started = Instant::now();
        let words: Vec<&str> = order.split(' ').collect();
        match (words.as_slice(), &run) {
            (["start"], _) => {
                let source = deployments.reader.connect(&deployments.source).await?;
                let builder = match &deployments.target {
                    Some(target) => Migration::builder(source, MongoSink::connect(target).await?),
                    None => Migration::builder(source, Discard::default()),
                };
                let started = deployments
                    .rules
                    .add_to(builder, deployments.scale)?
                    .include("bench.*")
                    .accept_unencrypted(true)
                    .walkers(deployments.walkers)
                    .verification(Verification::Continuous)
                    .build()?
                    .start()
                    .await?;
                copied(&started).await?;
                run = Some(started);
            }
            (["pause"], Some(run)) => run.pause().await?,
            (["resume"], Some(run)) => run.resume()?,
            (["applied", time, increment], Some(run)) => applied(run, (time.parse()?, increment.parse()?)).await?,
            (["compared", documents], Some(run)) => compared(run, documents.parse()?).await?,
            (["ready"], Some(run)) => run.ready_to_cut_over().await?,
            (["cutover"], Some(run)) => {
                let mut stopped = None;
                let summary = run.cutover_now(async { stopped = Some(Instant::now()) }).await?;
                if summary.outcome != Outcome::Complete {
                    return Err(format!("the sides differ: {summary:?}").into());
                }
                answer = stopped.unwrap_or(started).elapsed().as_secs_f64();
                continue;
            }
            _ => return Err(format!("no such order at present: {order}").into()),
        }
        answer = started.elapsed().as_secs_f64();
    }
    if let Some(run) = run {
        run.abandon().await;
    }
    Ok(())
}

/// Waits until everything is copied and indexed.
async fn copied(run: &MigrationHandle) -> Result<()> {
    loop {
        match run.status().phase {
            Phase::CatchUp | Phase::Ready => return Ok(()),
            Phase::Failed => return Err("the migration has failed".into()),
            _ => sleep(LOOK).await,
        }
    }
}

/// Waits until so many documents have been compared.
async fn compared(run: &MigrationHandle, documents: u64) -> Result<()> {
    while run.status().compared.documents < documents {
        if run.status().phase == Phase::Failed {
            return Err("the migration has failed".into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until everything up to a position is applied and durable.
async fn applied(run: &MigrationHandle, (time, increment): (u32, u32)) -> Result<()> {
    loop {
        let status = run.status();
        let position = status.position.map(|position| (position.time, position.increment));
        if position >= Some((time, increment)) {
            return Ok(());
        }
        if status.phase == Phase::Failed {
            return Err("the migration has failed".into());
        }
        sleep(LOOK).await;
    }
}

/// A target that forgets all documents and keeps the rest in memory, so that reading and routing are all there is to do.
#[derive(Clone, Default)]
struct Discard(Arc<MemorySink>);

#[async_trait::async_trait]
impl Sink for Discard {
    async fn insert(&self, _: &Namespace, _: &Batch) -> mongoferry::Result<Vec<Refusal>> {
        Ok(Vec::new())
    }

    async fn apply(&self, _: &Namespace, _: CollectionKind, _: &[Write]) -> mongoferry::Result<Vec<Refusal>> {
        Ok(Vec::new())
    }

    async fn describe(&self) -> mongoferry::Result<Deployment> {
        self.0.describe().await
    }

    async fn collections(&self) -> mongoferry::Result<Vec<Collection>> {
        self.0.collections().await
    }

    async fn execute(&self, command: &CatalogCommand) -> mongoferry::Result<()> {
        self.0.execute(command).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> mongoferry::Result<()> {
        self.0.create_index(namespace, specification).await
    }

    async fn flush(&self) -> mongoferry::Result<()> {
        self.0.flush().await
    }

    async fn read(&self, request: SinkRead) -> mongoferry::Result<BoxStream<'static, mongoferry::Result<Batch>>> {
        self.0.read(request).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> mongoferry::Result<Vec<RawDocumentBuf>> {
        self.0.read_documents(namespace, keys).await
    }

    async fn digest(&self, namespace: &Namespace) -> mongoferry::Result<Option<String>> {
        self.0.digest(namespace).await
    }

    async fn load_record(&self, name: &str) -> mongoferry::Result<Option<RawDocumentBuf>> {
        self.0.load_record(name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> mongoferry::Result<bool> {
        self.0.save_record(name, record, expected).await
    }

    async fn delete_record(&self, name: &str) -> mongoferry::Result<()> {
        self.0.delete_record(name).await
    }
}
