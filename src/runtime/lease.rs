//! The right to work on the target: one process at a time has it. What a process that has lost it can still do is said in
//! [`fence`](crate::runtime::fence).

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

/// The record's name on the sink.
const RECORD: &str = "lease";

/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(1);

/// How long the target may take to answer a renewal before the run ends and tries to go on from its checkpoint.
const PATIENCE: Duration = Duration::from_secs(60);

/// The right to work on the target. Each renewal states which one it follows, so that two processes can never both renew.
#[derive(Clone)]
pub(crate) struct Lease {
    sink: Arc<dyn Sink>,
    fence: Fence,
    holder: Arc<Holder>,
    token: Arc<Mutex<i64>>,
}

/// What a process that is refused is told of the one that is at work.
struct Holder {
    id: Uuid,
    host: String,
    process: u32,
    since: DateTime,
}

impl Lease {
    /// Takes the lease, once it has been seen to be free or given up by its holder, and opens the fence. Only the time between two looks
    /// is counted, so that the clocks of two hosts need not agree.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) when another process renews it.
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
                // The target is slow or has no primary, and its holder's renewals may be held up by the same.
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
                // One renewal may have been under way when its process died; one that lives goes on.
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
            // Another process was faster; its next renewal is what tells that it lives.
            seen = None;
        }
    }

    /// Renews the lease until it is told to stop.
    ///
    /// # Errors
    /// [`Lease`](ErrorKind::Lease) when another process has taken it, or what the target answered. The fence is closed for good then.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        let kept = self.renew_until(stop).await;
        if kept.is_err() {
            self.fence.lose();
        }
        kept
    }

    /// Gives the lease up, so that the next process need not wait. A failure only makes it wait.
    pub async fn release(&self) {
        let token = self.token.lock().await;
        self.fence.free();
        // Deleting the record could delete the next holder's, when the command arrives late.
        let record = rawdoc! { "fence": *token + 1, "holder": self.holder.id.to_string(), "released": true };
        let _ = timeout(PATIENCE, self.sink.save_record(RECORD, &record, *token)).await;
    }

    /// Leaves the lease to expire.
    pub fn abandon(&self) {
        self.fence.free();
    }

    /// Removes the record, when nothing of the migration is to be left. Nothing may be written any more by anybody who had it.
    ///
    /// # Errors
    /// The target's answer.
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
            // A renewal that took long is followed by the next at once: it has not left much of the time for which it is good.
            next = Instant::now() + RENEWAL;
            let renewed = timeout(PATIENCE, self.renew()).await.map_err(|_| {
                Error::new(
                    ErrorKind::Connection,
                    "renew the lease",
                    "the target has not answered a write for a minute; see whether its writes are locked (`db.fsyncLock()`), its disk is full, \
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

    /// Who has taken the lease, in words.
    async fn successor(&self) -> String {
        let by = match self.sink.load_record(RECORD).await {
            Ok(Some(record)) => name(&record),
            _ => "another process".to_owned(),
        };
        format!("{by} has taken the migration over; this one has stopped writing")
    }
}

/// The process that holds the lease and renews it now, if there is one. A lease that stands is looked at for as long as a renewal takes.
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

/// The holder of the lease, in words.
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

/// The name of this host, for people. There is no portable way to ask for it without a further dependency.
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
