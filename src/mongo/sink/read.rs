//! Reads ranges of documents from the target.

use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use mongodb::Client;

use super::connection::TargetConnection;
use crate::error::Result;
use crate::model::Batch;
use crate::mongo::client;
use crate::mongo::range_query::{Numbers, batch_size, open_range, range_find};
use crate::mongo::retry::{RetryPolicy, retry};
use crate::sink::SinkRead;

/// Returns the documents of a range as the primary has them. A stream that breaks is not resumed.
///
/// # Errors
/// A server error, from the call or from the stream.
pub(super) async fn read(target: &TargetConnection, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
    let size = batch_size(request.batch_bytes, request.document_bytes);
    let SinkRead {
        namespace, kind, range, ..
    } = request;
    let client = target.client();
    let opened = open_range(&namespace, Numbers::All, |numbers| {
        let find = range_find(&namespace, kind, &range, size, None, numbers);
        async {
            let batches = open(client, namespace.database(), &find.command, size).await?;
            Ok((find, batches))
        }
    });
    let (find, batches) = opened.await?;
    Ok(find
        .within(batches)
        .try_filter(|batch| std::future::ready(!batch.is_empty()))
        .map_err(move |error| error.with_context("namespace", &namespace))
        .boxed())
}

async fn open(
    client: &Client,
    database: &str,
    find: &RawDocumentBuf,
    size: u32,
) -> Result<BoxStream<'static, Result<Batch>>> {
    retry(RetryPolicy::SERVER, || {
        client::open_cursor(client, "read a range", database, find.clone(), Some(size))
    })
    .await
}
