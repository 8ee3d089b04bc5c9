//! Keeps a second process from working on the same target.

use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{DateTime, Uuid, rawdoc};
use tokio::sync::Mutex;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;

/// The record's name on the sink.
const RECORD: &str = "lease";

/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(1);

/// A lease that is not renewed for so long belongs to a process that is gone. Only the time between two looks is counted, so that the
/// clocks of two hosts need not agree.
const EXPIRY: Duration = Duration::from_secs(5);

/// The right to work on the target. Each renewal states which one it follows, so that two processes can never both renew.
#[derive(Clone)]
pub(crate) struct Lease {
    sink: Arc<dyn Sink>,
    holder: Uuid,
    fence: Arc<Mutex<i64>>,
}

impl Lease {
    /// Takes the lease, once it has been seen to be free or given up by its holder.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) when another process renews it.
    pub async fn acquire(sink: Arc<dyn Sink>) -> Result<Self> {
        let holder = Uuid::new();
        let mut seen: Option<(i64, Instant)> = None;
        let mut renewals = 0;
        loop {
            let record = sink.load_record(RECORD).await?;
            let fence = record
                .as_ref()
                .and_then(|record| record.get_i64("fence").ok())
                .unwrap_or_default();
            let expired = match (&record, seen) {
                (None, _) => true,
                (Some(record), _) if record.get_bool("released").unwrap_or(false) => true,
                (Some(_), Some((before, since))) if before == fence => since.elapsed() >= EXPIRY,
                (Some(_), None) => false,
                // One renewal may have been under way when its process died; one that lives goes on.
                (Some(record), Some(_)) => {
                    renewals += 1;
                    if renewals > 1 {
                        return Err(held(record));
                    }
                    seen = None;
                    false
                }
            };
            if !expired {
                seen.get_or_insert((fence, Instant::now()));
                sleep(EXPIRY / 20).await;
                continue;
            }
            let lease = Self {
                sink: Arc::clone(&sink),
                holder,
                fence: Arc::new(Mutex::new(fence)),
            };
            if lease.renew().await? {
                return Ok(lease);
            }
            // Another process was faster; its next renewal is what tells that it lives.
            seen = None;
        }
    }

    /// Renews the lease until the run ends.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) when another process has taken it.
    pub async fn keep(self, cancel: CancellationToken) -> Result<()> {
        let mut tick = interval(RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            if !self.renew().await? {
                return Err(Error::new(
                    ErrorKind::Lease,
                    "renew the lease",
                    "another process has taken the migration over",
                ));
            }
        }
    }

    /// Gives the lease up, so that the next process need not wait. A failure only makes it wait.
    pub async fn release(&self) {
        let fence = self.fence.lock().await;
        // Deleting the record could delete the next holder's, when the command arrives late.
        let record = rawdoc! { "fence": *fence + 1, "holder": self.holder.to_string(), "released": true };
        let _ = self.sink.save_record(RECORD, &record, *fence).await;
    }

    async fn renew(&self) -> Result<bool> {
        let mut fence = self.fence.lock().await;
        let record = rawdoc! { "fence": *fence + 1, "holder": self.holder.to_string(), "renewed": DateTime::now() };
        let renewed = self.sink.save_record(RECORD, &record, *fence).await?;
        if renewed {
            *fence += 1;
        }
        Ok(renewed)
    }
}

fn held(record: &RawDocumentBuf) -> Error {
    let holder = record.get_str("holder").unwrap_or("an unknown process");
    Error::new(
        ErrorKind::Lease,
        "take the lease",
        format!("the process {holder} is migrating to this target; stop it first, or wait for it to end"),
    )
}
