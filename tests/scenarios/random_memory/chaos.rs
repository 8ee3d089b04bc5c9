//! A source and a sink that take their time, fail, and lose answers, as the dice say.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use mongoferry::oplog::Entry;
use mongoferry::order::Key;
use mongoferry::sink::{CatalogCommand, MemorySink, Refusal, SinkRead, WritesSeen};
use mongoferry::source::{Deployment, MemorySource, PointRequest, ReadRequest};
use mongoferry::{
    Batch, Collection, CollectionKind, Error, ErrorKind, Namespace, Position, Result, Sink, Source, Write,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What decides how long each call takes and whether it fails.
pub struct Dice {
    random: Mutex<StdRng>,
    faults: AtomicBool,
    /// One call in so many fails while faults are on.
    odds: u32,
    /// The longest delay before and after a call, but for its own factor.
    delay: Duration,
    seed: u64,
    /// Whether writes whose callers are gone are still carried out a while later, as a server does.
    pub ghosts: bool,
}

impl Dice {
    pub fn new(seed: u64, odds: u32, delay: Duration, ghosts: bool) -> Arc<Self> {
        Arc::new(Self {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: AtomicBool::new(false),
            odds,
            delay,
            seed,
            ghosts,
        })
    }

    pub fn set_faults(&self, on: bool) {
        self.faults.store(on, Relaxed);
    }

    /// Takes some time, then perhaps fails.
    async fn roll(&self, operation: &'static str) -> Result<()> {
        let (delay, fails) = {
            let mut random = self.random.lock().unwrap();
            let longest = self.delay.mul_f64(self.factor(operation));
            let delay = match random.random_range(0..10) {
                0..4 => Duration::ZERO,
                4..9 => longest.mul_f64(random.random_range(0.0..0.2)),
                _ => longest.mul_f64(random.random_range(0.0..1.0)),
            };
            (
                delay,
                self.faults.load(Relaxed) && random.random_range(0..self.odds) == 0,
            )
        };
        if delay.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(delay).await;
        }
        if fails {
            return Err(Error::new(ErrorKind::Connection, operation, "the dice said so"));
        }
        Ok(())
    }

    /// Some calls are slow in a run and others fast, so that each overtakes each other in some run.
    fn factor(&self, operation: &str) -> f64 {
        let hash = operation
            .bytes()
            .fold(self.seed, |hash, byte| hash.rotate_left(7) ^ u64::from(byte));
        [0.02, 0.2, 1.0, 4.0][StdRng::seed_from_u64(hash).random_range(0..4)]
    }

    fn slowly<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let dice = Arc::clone(self);
        stream::unfold(Some(items), move |items| {
            let dice = Arc::clone(&dice);
            async move {
                let mut items = items?;
                if let Err(error) = dice.roll(operation).await {
                    return Some((Err(error), None));
                }
                match items.next().await? {
                    Ok(item) => Some((Ok(item), Some(items))),
                    Err(error) => Some((Err(error), None)),
                }
            }
        })
        .boxed()
    }
}

#[derive(Clone)]
pub struct ChaosSource {
    pub inner: MemorySource,
    pub dice: Arc<Dice>,
}

#[async_trait]
impl Source for ChaosSource {
    async fn describe(&self) -> Result<Deployment> {
        self.dice.roll("describe the source").await?;
        self.inner.describe().await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.dice.roll("list the source").await?;
        let answer = self.inner.collections().await;
        self.dice.roll("list the source").await?;
        answer
    }

    async fn position(&self) -> Result<Position> {
        self.dice.roll("ask for the position").await?;
        let answer = self.inner.position().await;
        self.dice.roll("ask for the position").await?;
        answer
    }

    async fn sentinel(&self) -> Result<Position> {
        self.dice.roll("write a sentinel").await?;
        self.inner.sentinel().await
    }

    async fn start_position(&self) -> Result<Position> {
        self.dice.roll("find the start").await?;
        self.inner.start_position().await
    }

    async fn oldest_position(&self) -> Result<Position> {
        self.inner.oldest_position().await
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        self.dice.roll("open the tail").await?;
        let tail = in_parts(self.inner.tail(after).await?, after);
        Ok(self.dice.slowly("follow the tail", tail))
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        self.dice.roll("split").await?;
        self.inner.split(collection, bytes).await
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        self.dice.roll("read a range").await?;
        Ok(self.dice.slowly("read a range", self.inner.read(request).await?))
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        self.dice.roll("read documents").await?;
        let answer = self.inner.read_documents(request).await;
        self.dice.roll("read documents").await?;
        answer
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.dice.roll("digest the source").await?;
        self.inner.digest(namespace).await
    }
}

/// Gives every other transaction in parts, as one that is too large for memory comes.
fn in_parts(tail: BoxStream<'static, Result<Vec<Entry>>>, after: Position) -> BoxStream<'static, Result<Vec<Entry>>> {
    let mut before = after;
    let split = move |entries: Vec<Entry>| {
        let mut parts = Vec::new();
        for mut entry in entries {
            let resume = before.min(entry.resume);
            before = entry.position;
            while entry.items.len() > 1 && entry.position.increment % 2 == 0 {
                let rest = entry.items.split_off(1);
                let part = Entry {
                    resume,
                    continues: true,
                    ..entry.clone()
                };
                parts.push(vec![part]);
                entry.items = rest;
            }
            parts.push(vec![entry]);
        }
        stream::iter(parts.into_iter().map(Ok))
    };
    tail.map_ok(split).try_flatten().boxed()
}

#[derive(Clone)]
pub struct ChaosSink {
    pub inner: MemorySink,
    pub dice: Arc<Dice>,
}

impl ChaosSink {
    /// Does what the call is for, and goes on doing it when nobody waits for the answer any more.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let dice = Arc::clone(&self.dice);
        let work = async move {
            dice.roll(operation).await?;
            let answer = call.await?;
            dice.roll(operation).await?;
            Ok(answer)
        };
        if self.dice.ghosts {
            tokio::spawn(work).await.unwrap()
        } else {
            work.await
        }
    }
}

#[async_trait]
impl Sink for ChaosSink {
    async fn describe(&self) -> Result<Deployment> {
        self.dice.roll("describe the target").await?;
        self.inner.describe().await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        self.inner.foreign_writes(after).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.dice.roll("list the target").await?;
        self.inner.collections().await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        let (sink, command) = (self.inner.clone(), command.clone());
        self.write("execute a command", async move { sink.execute(&command).await })
            .await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        let (sink, namespace, specification) = (self.inner.clone(), namespace.clone(), specification.clone());
        self.write("build an index", async move {
            sink.create_index(&namespace, &specification).await
        })
        .await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        let (sink, namespace, batch) = (self.inner.clone(), namespace.clone(), batch.clone());
        self.write("insert", async move { sink.insert(&namespace, &batch).await })
            .await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        let (sink, namespace, writes) = (self.inner.clone(), namespace.clone(), writes.to_vec());
        self.write(
            "apply writes",
            async move { sink.apply(&namespace, kind, &writes).await },
        )
        .await
    }

    fn losses(&self) -> u64 {
        self.inner.losses()
    }

    async fn flush(&self) -> Result<()> {
        self.dice.roll("flush").await?;
        self.inner.flush().await?;
        self.dice.roll("flush").await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.dice.roll("read from the target").await?;
        Ok(self
            .dice
            .slowly("read from the target", self.inner.read(request).await?))
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.dice.roll("read from the target").await?;
        self.inner.read_documents(namespace, keys).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.dice.roll("digest the target").await?;
        self.inner.digest(namespace).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.dice.roll("load a record").await?;
        self.inner.load_record(name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        let (sink, name, record) = (self.inner.clone(), name.to_owned(), record.clone());
        self.write("save a record", async move {
            sink.save_record(&name, &record, expected).await
        })
        .await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        let (sink, name) = (self.inner.clone(), name.to_owned());
        self.write("delete a record", async move { sink.delete_record(&name).await })
            .await
    }
}
