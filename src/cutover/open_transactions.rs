//! Waits at cutover for transactions that began before the writers stopped.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Selection, TransactionFacts};
use crate::report::{Event, Events};
use crate::source::Source;

/// Maximum wait for transactions. The applications stand still in that time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Polling interval.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of transactions that an error names, and of collections for each of them.
const NAMED: usize = 5;

/// Waits until the transactions that are open now have ended, because a later commit would be lost. Whether a transaction has written
/// anything cannot be known. Transactions that are known to have locked no collection of the selection are ignored.
///
/// # Errors
/// [`OperationsUnderWay`](ErrorKind::OperationsUnderWay), which names the transactions that do not end, or a server error.
pub(crate) async fn wait_for_transactions(source: &dyn Source, selection: &Selection, events: &Events) -> Result<()> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        // Younger transactions do not belong to a writer that was stopped.
        let waited = begun.elapsed();
        let mut open = source.open_transactions().await?;
        open.retain(|transaction| {
            let names = &transaction.namespaces;
            transaction.open >= waited && (names.is_empty() || names.iter().any(|name| selection.contains(name)))
        });
        if open.is_empty() {
            return Ok(());
        }
        if waited >= PATIENCE {
            let message = format!(
                "{}; what they commit later would be lost: end them or their clients, and cut over again",
                Open(&open)
            );
            return Err(Error::new(ErrorKind::OperationsUnderWay, "cut over", message).with_retryable(true));
        }
        if !told {
            events.send(Event::OpenTransactions { transactions: open });
            told = true;
        }
        sleep(POLL_INTERVAL).await;
    }
}

struct Open<'a>(&'a [TransactionFacts]);

impl fmt::Display for Open<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} transactions are open on the source: ", self.0.len())?;
        for (number, transaction) in self.0.iter().take(NAMED).enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(
                f,
                "{separator}of {} for {} s",
                transaction.client,
                transaction.open.as_secs()
            )?;
            for (number, name) in transaction.namespaces.iter().take(NAMED).enumerate() {
                let separator = if number > 0 { ", " } else { " on " };
                write!(f, "{separator}{name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::model::Namespace;
    use crate::source::MemorySource;

    #[tokio::test(start_paused = true)]
    async fn cutover_waits_for_transactions_open_at_its_start() {
        let (source, selection, events) = (MemorySource::new(), Selection::all(), Events::new());
        let wait = || wait_for_transactions(&source, &selection, &events);
        assert!(wait().now_or_never().is_some(), "there are none");

        let mut told = events.subscribe(false);
        let before = source.open_transaction();
        let mut waiting = std::pin::pin!(wait());
        assert!(waiting.as_mut().now_or_never().is_none());
        let Some(Some(Event::OpenTransactions { transactions })) = told.next().now_or_never() else {
            panic!("no event was emitted");
        };
        assert_eq!(transactions.len(), 1);
        sleep(POLL_INTERVAL).await;
        let later = source.open_transaction();
        assert!(waiting.as_mut().now_or_never().is_none());
        before.abort();
        waiting.await.unwrap();

        sleep(Duration::from_secs(7)).await;
        let error = wait().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OperationsUnderWay);
        assert!(
            error
                .to_string()
                .contains("1 transactions are open on the source: of memory for 17 s"),
            "{error}"
        );
        later.abort();
    }

    #[test]
    fn transactions_are_named_with_their_collections() {
        let open = |seconds, namespaces: &[&str]| TransactionFacts {
            client: "10.0.0.7:50112".to_owned(),
            open: Duration::from_secs(seconds),
            operation: None,
            namespaces: namespaces.iter().map(|name| Namespace::new("shop", name)).collect(),
        };
        let both = [open(3, &[]), open(12, &["orders", "items"])];
        assert_eq!(
            Open(&both).to_string(),
            "2 transactions are open on the source: of 10.0.0.7:50112 for 3 s; of 10.0.0.7:50112 for 12 s on shop.orders, shop.items"
        );
    }
}
