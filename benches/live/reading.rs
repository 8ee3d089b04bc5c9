//! Reads everything on both sides and looks at nothing, which is the least that a comparison has to do.

use std::time::Instant;

use bson::doc;
use futures::{StreamExt, future};
use mongodb::Client;

use crate::Result;
use crate::child::Orders;
use crate::data::{DATABASE, Kind};

/// Reads both sides when told, each by one cursor, and answers how many seconds that took.
///
/// # Errors
/// A server error.
pub(crate) async fn serve(source: &str, target: &str) -> Result<()> {
    let clients = future::try_join(Client::with_uri_str(source), Client::with_uri_str(target)).await?;
    let mut orders = Orders::new();
    let mut answer = 0.0;
    while orders.next(answer).await?.is_some() {
        let started = Instant::now();
        future::try_join(read(&clients.0), read(&clients.1)).await?;
        answer = started.elapsed().as_secs_f64();
    }
    Ok(())
}

async fn read(client: &Client) -> Result<()> {
    for kind in Kind::ALL {
        let collection = client
            .database(DATABASE)
            .collection::<bson::Document>(kind.collection());
        let mut batches = collection.find(doc! {}).batch().await?;
        while let Some(batch) = batches.next().await {
            batch?;
        }
    }
    Ok(())
}
