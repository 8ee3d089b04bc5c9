//! The lease: the right to write to the target, held by one process.
//!
//! The limits of this protection are described in [`fence`](crate::runtime::fence).

use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{DateTime, Uuid, rawdoc};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::fence::{EXPIRY, Fence};
use crate::sink::Sink;

/// Name of the lease record on the sink.
const RECORD: &str = "lease";

/// Interval between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);

/// Timeout for one renewal. After it the run ends and tries to resume from its checkpoint.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lease on the target. Each renewal names the one that it follows, so two processes can never both renew.
#[derive(Clone)]
pub(crate) struct Lease {
    sink: Arc<dyn Sink>,
    fence: Fence,
    holder: Arc<Holder>,
    token: Arc<Mutex<i64>>,
}

/// Description of the process that holds the lease, for the error that a refused process gets.
struct Holder {
    id: Uuid,
    host: String,
    process: u32,
    since: DateTime,
}

impl Lease {
    /// Acquires the lease once its holder has released it or let it expire, and opens the fence. Expiry is measured only by the time
    /// between two looks at the record, so the clocks of two hosts need not agree.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) if another process renews it.
    pub async fn acquire(sink: Arc<dyn Sink>, fence: Fence) -> Result<Self> {
        let holder = Arc::new(Holder {
            id: Uuid::new(),
            host: host(),
            process: std::process::id(),
            since: DateTime::now(),
        });
        let mut seen: Option<(i64, Instant)> = None;
        let mut last_look = Instant::now();
        let mut renewals = 0;
        loop {
            let look = Instant::now();
            let record = sink.load_record(RECORD).await?;
            if look.elapsed() >= RENEWAL {
                // The target is slow or has no primary. The same may delay the renewals of the current holder.
                seen = None;
            }
            let token = record
                .as_ref()
                .and_then(|record| record.get_i64("fence").ok())
                .unwrap_or_default();
            let expired = match (&record, seen) {
                (None, _) => true,
                (Some(record), _) if record.get_bool("released").unwrap_or(false) => true,
                (Some(_), Some((before, since))) if before == token => since.elapsed() >= EXPIRY,
                (Some(_), None) => false,
                // A single renewal can be the last one of a process that has died. A second one shows that the holder is alive.
                (Some(record), Some(_)) => {
                    renewals += 1;
                    if renewals > 1 {
                        return Err(held(record, last_look.elapsed()));
                    }
                    seen = None;
                    false
                }
            };
            last_look = look;
            if !expired {
                seen.get_or_insert((token, Instant::now()));
                sleep(EXPIRY / 20).await;
                continue;
            }
            let lease = Self {
                sink: Arc::clone(&sink),
                fence: fence.clone(),
                holder: Arc::clone(&holder),
                token: Arc::new(Mutex::new(token)),
            };
            if lease.renew().await? {
                return Ok(lease);
            }
            // Another process was faster. Its next renewal will show whether it is alive.
            seen = None;
        }
    }

    /// Renews the lease until `stop` is cancelled.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) if another process has taken the lease, or an error of the target. The fence then stays closed for good.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        let kept = self.renew_until(stop).await;
        if kept.is_err() {
            self.fence.lose();
        }
        kept
    }

    /// Releases the lease, so that the next process need not wait. If this fails, the next process waits until the lease expires.
    pub async fn release(&self) {
        let token = self.token.lock().await;
        self.fence.free();
        // A delayed command that deletes the record could delete the next holder's record.
        let record = rawdoc! { "fence": *token + 1, "holder": self.holder.id.to_string(), "released": true };
        let _ = timeout(PATIENCE, self.sink.save_record(RECORD, &record, *token)).await;
    }

    /// Leaves the lease to expire.
    pub fn abandon(&self) {
        self.fence.free();
    }

    /// Removes the record, so that nothing of the migration is left. No holder of this lease may write any more.
    ///
    /// # Errors
    /// An error of the target.
    pub async fn remove(self) -> Result<()> {
        self.fence.free();
        self.sink.delete_record(RECORD).await
    }

    async fn renew_until(&self, stop: CancellationToken) -> Result<()> {
        let mut next = Instant::now() + RENEWAL;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(next) => {}
            }
            // The interval counts from here, so a slow renewal is followed by the next one at once: little is left of the time that it
            // grants.
            next = Instant::now() + RENEWAL;
            let renewed = timeout(PATIENCE, self.renew()).await.map_err(|_| {
                Error::new(
                    ErrorKind::Connection,
                    "renew the lease",
                    "the target has not answered a write for a minute; check whether its writes are locked (`db.fsyncLock()`), its disk is full, \
                     or too few of its members are up for a majority",
                )
            })??;
            if !renewed {
                return Err(Error::new(ErrorKind::Lease, "renew the lease", self.successor().await));
            }
        }
    }

    async fn renew(&self) -> Result<bool> {
        let mut token = self.token.lock().await;
        let begun = Instant::now();
        let record = rawdoc! {
            "fence": *token + 1,
            "holder": self.holder.id.to_string(),
            "host": self.holder.host.as_str(),
            "process": i64::from(self.holder.process),
            "since": self.holder.since,
            "renewed": DateTime::now(),
        };
        let renewed = self.sink.save_record(RECORD, &record, *token).await?;
        if renewed {
            *token += 1;
            self.fence.renewed(begun);
        }
        Ok(renewed)
    }

    /// Message that names the process that has taken the lease.
    async fn successor(&self) -> String {
        let by = match self.sink.load_record(RECORD).await {
            Ok(Some(record)) => name(&record),
            _ => "another process".to_owned(),
        };
        format!("{by} has taken over the migration; this one has stopped writing")
    }
}

/// Returns the process that currently renews the lease, if there is one. An existing lease is observed for the time of two renewals.
///
/// # Errors
/// A server error.
pub(crate) async fn holder(sink: &dyn Sink) -> Result<Option<String>> {
    let mut seen = None;
    let began = Instant::now();
    loop {
        let Some(record) = sink.load_record(RECORD).await? else {
            return Ok(None);
        };
        if record.get_bool("released").unwrap_or(false) {
            return Ok(None);
        }
        let fence = record.get_i64("fence").unwrap_or_default();
        match seen {
            Some(before) if before != fence => return Ok(Some(name(&record))),
            Some(_) if began.elapsed() >= RENEWAL * 2 => return Ok(None),
            _ => seen = Some(fence),
        }
        sleep(EXPIRY / 20).await;
    }
}

fn held(record: &RawDocumentBuf, age: Duration) -> Error {
    let age = age.as_secs_f64().ceil().max(1.0);
    Error::new(
        ErrorKind::Lease,
        "take the lease",
        format!(
            "{}, last seen within {age} s, is migrating to this target; stop it first, or wait for it to end",
            name(record)
        ),
    )
}

/// Description of the lease's holder for messages.
fn name(record: &RawDocumentBuf) -> String {
    let since = record
        .get_datetime("since")
        .ok()
        .and_then(|since| since.try_to_rfc3339_string().ok());
    match (record.get_i64("process"), record.get_str("host"), since) {
        (Ok(process), Ok(host), Some(since)) => format!("process {process} on host {host}, working since {since}"),
        _ => format!("the process {}", record.get_str("holder").unwrap_or("without a name")),
    }
}

/// Name of this machine, for messages. There is no portable way to query it without another dependency.
fn host() -> String {
    let known = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok());
    match known.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "(unknown)".to_owned(),
    }
}
