use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mongodb::{
    Client, Database,
    bson::{Document, doc},
    error::{Error, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR, WriteFailure},
    options::ReturnDocument,
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    operation::{Inserted, Operation, Plan},
    shop::{DATABASE, Origin},
};
use crate::TestbedError;

/// Options of a [`Writer`].
#[derive(Debug)]
#[must_use = "nothing is written before `start`"]
pub struct WriterBuilder {
    client: Client,
    seed: u64,
    operations_per_second: Option<u32>,
    workers: u32,
    structural_changes: bool,
}

impl WriterBuilder {
    /// The most operations that are begun in a second, by all workers together; 200 by default, 0 for no limit.
    pub fn operations_per_second(mut self, operations: u32) -> Self {
        self.operations_per_second = (operations > 0).then_some(operations);
        self
    }

    /// How many operations are under way at once; two by default.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Whether indexes and collections are made, renamed and dropped now and then: each hundredth operation of the
    /// first worker; yes by default.
    pub fn structural_changes(mut self, wanted: bool) -> Self {
        self.structural_changes = wanted;
        self
    }

    /// Starts to write.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Server`] when the shop's collections cannot be read.
    pub async fn start(self) -> Result<Writer, TestbedError> {
        let (stop, stopped) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let mut workers = JoinSet::new();
        let database = self.client.database(DATABASE);
        for number in 0..self.workers {
            let plan = plan(&database)
                .await
                .map_err(TestbedError::server("reading the shop's collections"))?;
            let worker = Worker {
                database: database.clone(),
                random: SmallRng::seed_from_u64(self.seed ^ (u64::from(number) << 32)),
                plan,
                pause: self
                    .operations_per_second
                    .map(|most| Duration::from_secs(1) * self.workers / most),
                structural_changes: self.structural_changes && number == 0,
                counters: Arc::clone(&counters),
                stopped: stopped.clone(),
            };
            workers.spawn(worker.run());
        }
        Ok(Writer {
            stop,
            counters,
            workers,
        })
    }
}

/// Writes as the shop's application does until it is stopped. What it was told to be done is there for good: the writes
/// are acknowledged by a majority, and what an election interrupts is tried again.
///
/// Dropping it stops it as well, at once, and the outcome of the operations under way is not known then.
#[derive(Debug)]
pub struct Writer {
    stop: watch::Sender<bool>,
    counters: Arc<Counters>,
    workers: JoinSet<()>,
}

/// What a writer has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Operations that were acknowledged; a transaction is one.
    pub operations: u64,
    /// Attempts that failed for a passing reason and were made again.
    pub retries: u64,
    /// Operations that failed for good.
    pub errors: u64,
    /// The last of these failures.
    pub last_error: Option<String>,
}

impl Writer {
    /// A writer with the default options.
    ///
    /// # Errors
    ///
    /// As [`WriterBuilder::start`].
    pub async fn start(client: &Client, seed: u64) -> Result<Writer, TestbedError> {
        Writer::builder(client, seed).start().await
    }

    /// A writer on the shop that [`load`](super::load) made. Several may write at once; each, also one with a `seed`
    /// that was used before, inserts documents of its own.
    pub fn builder(client: &Client, seed: u64) -> WriterBuilder {
        WriterBuilder {
            client: client.clone(),
            seed,
            operations_per_second: Some(200),
            workers: 2,
            structural_changes: true,
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> WriterStats {
        self.counters.read()
    }

    /// Stops once the operations under way have ended: nothing is written after this returns. An operation that waits
    /// to be tried again is given up.
    pub async fn stop(mut self) -> WriterStats {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                self.counters.failed(error.to_string());
            }
        }
        self.counters.read()
    }
}

#[derive(Debug, Default)]
struct Counters {
    operations: AtomicU64,
    retries: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    fn failed(&self, error: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn read(&self) -> WriterStats {
        WriterStats {
            operations: self.operations.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Takes a new origin from the shop and counts what was loaded.
async fn plan(database: &Database) -> Result<Plan, Error> {
    let counter = database
        .collection::<Document>("counters")
        .find_one_and_update(doc! { "_id": "origins" }, doc! { "$inc": { "last": 1 } })
        .upsert(true)
        .return_document(ReturnDocument::After)
        .await?;
    let origin = counter.and_then(|counter| counter.get_i32("last").ok()).unwrap_or(1) as Origin;
    let mut loaded = Inserted::default();
    for collection in ["orders", "customers", "products", "events", "mixed"] {
        *loaded.of(collection) = database
            .collection::<Document>(collection)
            .estimated_document_count()
            .await?;
    }
    Ok(Plan {
        origin,
        loaded,
        inserted: Inserted::default(),
        changes: 0,
    })
}

struct Worker {
    database: Database,
    random: SmallRng,
    plan: Plan,
    pause: Option<Duration>,
    structural_changes: bool,
    counters: Arc<Counters>,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) {
        let mut ticks = self.pause.map(|pause| {
            let mut ticks = interval(pause);
            // After an election the application does not catch up on what it did not do.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let mut number = 0_u64;
        loop {
            if let Some(ticks) = &mut ticks {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = self.stopped.changed() => {}
                }
            }
            if *self.stopped.borrow() {
                return;
            }
            number += 1;
            let operation = if self.structural_changes && number.is_multiple_of(100) {
                self.plan.structural_change(&mut self.random)
            } else {
                self.plan.write(&mut self.random)
            };
            self.execute(&operation).await;
        }
    }

    async fn execute(&mut self, operation: &Operation) {
        let mut attempts = 0_u32;
        loop {
            attempts += 1;
            match operation.run(&self.database).await {
                Ok(()) => break,
                // Done already, by the attempt whose answer was lost.
                Err(error) if attempts > 1 && is_done_already(&error) => break,
                Err(error) if is_passing(&error) => {
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(50)) => {}
                        _ = self.stopped.changed() => {}
                    }
                    if *self.stopped.borrow() {
                        return;
                    }
                }
                Err(error) => return self.counters.failed(error.to_string()),
            }
        }
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
    }
}

/// Elections, restarts, lost connections and conflicts between transactions.
fn is_passing(error: &Error) -> bool {
    /// Host unreachable and not found, network timeout, shutdown, primary stepped down, interrupted, not primary
    /// (several), socket exception, lock timeout, write conflict, no such transaction, background operation under way.
    const CODES: [i32; 19] = [
        6, 7, 24, 89, 91, 112, 117, 189, 251, 262, 9001, 10_058, 10_107, 11_600, 11_602, 12_586, 13_435, 13_436, 11_601,
    ];
    error.contains_label(RETRYABLE_WRITE_ERROR)
        || error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || matches!(
            &*error.kind,
            ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::ServerSelection { .. }
        )
        || code(error).is_some_and(|code| CODES.contains(&code))
}

/// A duplicate key, or a collection or index that is there or gone as it should be.
fn is_done_already(error: &Error) -> bool {
    const CODES: [i32; 6] = [11_000, 26, 27, 48, 85, 86];
    code(error).is_some_and(|code| CODES.contains(&code))
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => match (&error.write_errors, &error.write_concern_error) {
            (Some(errors), _) => errors.first().map(|error| error.code),
            (None, Some(error)) => Some(error.code),
            (None, None) => None,
        },
        _ => None,
    }
}
