//! What applications write: 40 % inserts, 40 % updates by `_id` and 20 % deletes over four collections.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use bson::rawdoc;
use futures::future::join_all;
use mongodb::Client;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::Result;
use crate::data::{DATABASE, Text, insert};

const COLLECTIONS: u64 = 4;

/// So many writes go together: two commands of inserts and updates, of two fifths each, and one of deletes.
const BLOCK: u64 = 500;

/// Applications that write to a source.
pub(crate) struct Traffic {
    client: Client,
    tables: Vec<Table>,
}

impl Traffic {
    /// Fills the collections with so many documents each.
    ///
    /// # Errors
    /// A server error.
    pub async fn begin(uri: &str, documents: u64) -> Result<Self> {
        let client = Client::with_uri_str(uri).await?;
        let mut tables: Vec<Table> = (0..COLLECTIONS).map(Table::new).collect();
        for table in &mut tables {
            while (table.ids.len() as u64) < documents {
                let command = table.insert(BLOCK);
                run(&client, command).await?;
            }
        }
        Ok(Self { client, tables })
    }

    /// Makes about so many writes, at so many a second where that is said, and gives how many there were.
    ///
    /// # Errors
    /// A server error.
    pub async fn write(&mut self, writes: u64, rate: Option<f64>) -> Result<u64> {
        let blocks = writes.div_ceil(BLOCK * COLLECTIONS).max(1);
        self.write_blocks(blocks, rate, &AtomicU64::new(0)).await?;
        Ok(blocks * BLOCK * COLLECTIONS)
    }

    /// Writes as fast as it goes until something else has ended, and gives how many writes there were.
    ///
    /// # Errors
    /// A server error, or that of what else is done.
    pub async fn write_until(&mut self, ended: impl Future<Output = Result<()>>) -> Result<u64> {
        let written = AtomicU64::new(0);
        tokio::select! {
            ended = ended => ended?,
            failed = self.write_blocks(u64::MAX, None, &written) => failed?,
        }
        Ok(written.load(Relaxed))
    }

    async fn write_blocks(&mut self, blocks: u64, rate: Option<f64>, written: &AtomicU64) -> Result<()> {
        let pause = rate.map(|rate| Duration::from_secs_f64((BLOCK * COLLECTIONS) as f64 / rate));
        let client = &self.client;
        // Two of them, each with two collections.
        let writers = self.tables.chunks_mut(2).map(|tables| async move {
            let started = Instant::now();
            for block in 0..blocks {
                if let Some(pause) = pause {
                    tokio::time::sleep_until((started + pause.mul_f64(block as f64)).into()).await;
                }
                for table in &mut *tables {
                    for command in [
                        table.insert(BLOCK / 5 * 2),
                        table.update(BLOCK / 5 * 2),
                        table.delete(BLOCK / 5),
                    ] {
                        run(client, command).await?;
                    }
                    written.fetch_add(BLOCK, Relaxed);
                }
            }
            Ok(())
        });
        let outcomes: Vec<Result<()>> = join_all(writers).await;
        outcomes.into_iter().collect()
    }
}

async fn run(client: &Client, command: RawDocumentBuf) -> Result<()> {
    let answer = client.database(DATABASE).run_raw_command(command).await?;
    if answer.contains_key("writeErrors") {
        return Err(format!("a write was refused: {answer}").into());
    }
    Ok(())
}

/// One collection, and the `_id`s of the documents in it.
struct Table {
    name: String,
    ids: Vec<i64>,
    next: i64,
    text: Text,
    random: SmallRng,
}

impl Table {
    fn new(number: u64) -> Self {
        Self {
            name: format!("table{number}"),
            ids: Vec::new(),
            next: 0,
            text: Text::new(),
            random: SmallRng::seed_from_u64(number),
        }
    }

    fn insert(&mut self, count: u64) -> RawDocumentBuf {
        let mut documents = RawArrayBuf::new();
        for _ in 0..count {
            documents.push(rawdoc! {
                "_id": self.next,
                "name": format!("item-{}", self.next),
                "count": 0,
                "price": self.random.random::<f64>(),
                "note": self.text.slice(100, &mut self.random),
            });
            self.ids.push(self.next);
            self.next += 1;
        }
        insert(&self.name, documents)
    }

    fn update(&mut self, count: u64) -> RawDocumentBuf {
        let mut updates = RawArrayBuf::new();
        for _ in 0..count {
            let id = self.ids[self.random.random_range(0..self.ids.len())];
            let (number, note) = (self.random.random::<i32>(), self.text.slice(40, &mut self.random));
            updates.push(rawdoc! { "q": { "_id": id }, "u": { "$set": { "count": number, "note": note } } });
        }
        let mut command = rawdoc! { "update": &*self.name, "writeConcern": { "w": 1 } };
        command.append(cstr!("updates"), updates);
        command
    }

    fn delete(&mut self, count: u64) -> RawDocumentBuf {
        let mut deletes = RawArrayBuf::new();
        for _ in 0..count {
            let id = self.ids.swap_remove(self.random.random_range(0..self.ids.len()));
            deletes.push(rawdoc! { "q": { "_id": id }, "limit": 1 });
        }
        let mut command = rawdoc! { "delete": &*self.name, "writeConcern": { "w": 1 } };
        command.append(cstr!("deletes"), deletes);
        command
    }
}
