//! Inserts the data of the copy from memory, by raw commands: fills the source, and shows what a target can take.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bson::doc;
use futures::future::try_join_all;
use mongodb::Client;

use crate::Result;
use crate::child::Orders;
use crate::data::{DATABASE, Kind};

/// Two are enough for a server on two processors.
const WRITERS: usize = 2;

/// Makes everything in memory, answers its bytes, and when told inserts it and builds the indexes; answers how many seconds that took.
///
/// # Errors
/// A server error.
pub(crate) async fn serve(target: &str, scale: f64) -> Result<()> {
    let client = Client::with_uri_str(target).await?;
    let (mut commands, mut total) = (VecDeque::new(), 0);
    for kind in Kind::ALL {
        let (inserts, bytes) = kind.inserts(scale);
        commands.extend(inserts);
        total += bytes;
    }
    let mut orders = Orders::new();
    if orders.next(total as f64).await?.is_none() {
        return Ok(());
    }
    let started = Instant::now();
    let commands = Mutex::new(commands);
    try_join_all((0..WRITERS).map(|_| write(&client, &commands))).await?;
    let builds = Kind::ALL.into_iter().flat_map(|kind| {
        let indexes = kind.indexes().into_iter();
        indexes.map(move |index| {
            doc! { "createIndexes": kind.collection(), "indexes": [index], "writeConcern": { "w": 1 } }
        })
    });
    let database = client.database(DATABASE);
    try_join_all(builds.map(|command| database.run_command(command).into_future())).await?;
    orders.next(started.elapsed().as_secs_f64()).await?;
    Ok(())
}

async fn write(client: &Client, commands: &Mutex<VecDeque<bson::RawDocumentBuf>>) -> Result<()> {
    let database = client.database(DATABASE);
    let next = || commands.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some(command) = next() {
        let answer = database.run_raw_command(command).await?;
        if answer.contains_key("writeErrors") {
            return Err("a document was not inserted".into());
        }
    }
    Ok(())
}
