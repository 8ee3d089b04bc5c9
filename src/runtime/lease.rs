//! The lease: the right to write to the target, held by one process.
//!
//! The limits of this protection are described in [`fence`](crate::runtime::fence).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bson::raw::{RawDocumentBuf, cstr};
use bson::{DateTime, Uuid, rawdoc};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{MigrationId, Position, format, raw};
use crate::report::Phase;
use crate::runtime::fence::{EXPIRY, Fence};
use crate::runtime::progress::RunState;
use crate::sink::{Records, Sink};

/// Name of the lease record on the sink.
const RECORD: &str = "lease";

/// Interval between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);

/// Timeout for one renewal. After it the run ends and tries to resume from its checkpoint.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lease on the target. Each renewal names the one that it follows, so two processes can never both renew.
#[derive(Clone)]
pub(crate) struct Lease {
    records: Records,
    fence: Fence,
    holder: Arc<Holder>,
    token: Arc<Mutex<i64>>,
    told: Told,
    written_until: Option<Position>,
}

/// What the lease's record says about the progress of the migration, for those who list the migrations of a target.
#[derive(Clone, Debug, Default)]
struct Told {
    /// State of the run, once there is one.
    run: Option<Arc<RunState>>,
    /// What the previous holder's record says.
    before: Progress,
}

/// Last known progress of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub phase: Phase,
    /// When a checkpoint was saved last.
    pub saved: Option<DateTime>,
}

/// The process that renews a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LeaseOwner {
    /// Name of its host.
    pub host: String,
    /// Its process id.
    pub process: u32,
    /// Since when it has the lease.
    #[serde(serialize_with = "format::time")]
    pub since: SystemTime,
}

/// What the record of a lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub progress: Progress,
    /// The process that renews the lease; `None` if there is none.
    pub owner: Option<LeaseOwner>,
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
    /// [`LeaseHeld`](ErrorKind::LeaseHeld) if another process renews it.
    pub async fn acquire(records: Records, fence: Fence) -> Result<Self> {
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
            let record = records.load(RECORD).await?;
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
                records: records.clone(),
                fence: fence.clone(),
                holder: Arc::clone(&holder),
                token: Arc::new(Mutex::new(token)),
                told: Told {
                    run: None,
                    before: record.as_ref().map(progress_of).unwrap_or_default(),
                },
                written_until: record.as_ref().and_then(written_until_of),
            };
            if lease.renew().await? {
                return Ok(lease);
            }
            // Another process was faster. Its next renewal will show whether it is alive.
            seen = None;
        }
    }

    /// A position of the source that no document on the target is newer than, if the previous holder has released the lease and left one.
    pub fn written_until(&self) -> Option<Position> {
        self.written_until
    }

    /// The same lease, for a run: its record also tells the progress of the run.
    pub fn of_run(self, records: Records, run: Arc<RunState>) -> Self {
        let told = Told {
            run: Some(run),
            before: self.told.before,
        };
        Self { records, told, ..self }
    }

    /// Does some work while the lease is kept.
    ///
    /// # Errors
    /// That of the work, or the same as [`keep`](Self::keep).
    pub async fn while_kept<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let stop = CancellationToken::new();
        let work = async {
            let done = work.await?;
            stop.cancel();
            Ok(done)
        };
        let (_, done) = futures::try_join!(self.clone().keep(stop.clone()), work)?;
        Ok(done)
    }

    /// Renews the lease until `stop` is cancelled.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) if another process has taken the lease, or an error of the target. The fence then stays closed for good.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        let kept = self.renew_until(stop).await;
        if kept.is_err() {
            self.fence.lose();
        }
        kept
    }

    /// Releases the lease, so that the next process need not wait. If this fails, the next process waits until the lease expires.
    ///
    /// `written_until` is left to the next holder, as its [`written_until`](Self::written_until).
    pub async fn release(&self, written_until: Option<Position>) {
        let token = self.token.lock().await;
        self.fence.free();
        // A delayed command that deletes the record could delete the next holder's record.
        let mut record = rawdoc! { "fence": *token + 1, "holder": self.holder.id.to_string(), "released": true };
        self.told.write(&mut record);
        if let Some(until) = written_until.and_then(|until| raw::record::encode(&until).ok()) {
            record.append(cstr!("written_until"), until);
        }
        let _ = timeout(PATIENCE, self.records.save(RECORD, &record, *token)).await;
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
        self.records.delete(RECORD).await
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
                return Err(Error::new(
                    ErrorKind::LeaseLost,
                    "renew the lease",
                    self.successor().await,
                ));
            }
        }
    }

    async fn renew(&self) -> Result<bool> {
        let mut token = self.token.lock().await;
        let begun = Instant::now();
        let mut record = rawdoc! {
            "fence": *token + 1,
            "holder": self.holder.id.to_string(),
            "host": self.holder.host.as_str(),
            "process": i64::from(self.holder.process),
            "since": self.holder.since,
            "renewed": DateTime::now(),
        };
        self.told.write(&mut record);
        let mut renewed = self.records.save(RECORD, &record, *token).await?;
        // The last migration to be forgotten drops the database with all records. While the fence is open, no other process can have taken
        // the lease, so a missing record is this one.
        if !renewed && *token > 0 && self.fence.is_open() && self.records.load(RECORD).await?.is_none() {
            renewed = self.records.save(RECORD, &record, 0).await?;
        }
        if renewed {
            *token += 1;
            self.fence.renewed(begun);
        }
        Ok(renewed)
    }

    /// Message that names the process that has taken the lease.
    async fn successor(&self) -> String {
        let by = match self.records.load(RECORD).await {
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
pub(crate) async fn holder(records: &Records) -> Result<Option<String>> {
    Ok(observe(&**records.sink(), records.id())
        .await?
        .filter(|seen| seen.is_renewed)
        .map(|seen| name(&seen.record)))
}

/// Returns what the record of a lease says. An existing lease is observed for the time of two renewals.
///
/// # Errors
/// A server error.
pub(crate) async fn look_at(sink: &dyn Sink, id: &MigrationId) -> Result<Known> {
    let Some(seen) = observe(sink, id).await? else {
        return Ok(Known::default());
    };
    Ok(Known {
        progress: progress_of(&seen.record),
        owner: owner_of(&seen.record).filter(|_| seen.is_renewed),
    })
}

/// A lease that was observed.
struct Observed {
    record: RawDocumentBuf,
    /// Whether a process renews it.
    is_renewed: bool,
}

async fn observe(sink: &dyn Sink, id: &MigrationId) -> Result<Option<Observed>> {
    let name = Records::name_of(id, RECORD);
    let mut seen = None;
    let began = Instant::now();
    loop {
        let Some(record) = sink.load_record(&name).await? else {
            return Ok(None);
        };
        let fence = record.get_i64("fence").unwrap_or_default();
        let is_renewed = match seen {
            _ if record.get_bool("released").unwrap_or(false) => Some(false),
            Some(before) if before != fence => Some(true),
            Some(_) if began.elapsed() >= RENEWAL * 2 => Some(false),
            _ => None,
        };
        if let Some(is_renewed) = is_renewed {
            return Ok(Some(Observed { record, is_renewed }));
        }
        seen = Some(fence);
        sleep(EXPIRY / 20).await;
    }
}

impl Told {
    fn progress(&self) -> Progress {
        match &self.run {
            Some(run) => Progress {
                phase: run.phase(),
                saved: run.last_saved().or(self.before.saved),
            },
            None => self.before,
        }
    }

    fn write(&self, record: &mut RawDocumentBuf) {
        let Progress { phase, saved } = self.progress();
        record.append(cstr!("phase"), phase.as_str());
        if let Some(saved) = saved {
            record.append(cstr!("saved"), saved);
        }
    }
}

fn progress_of(record: &RawDocumentBuf) -> Progress {
    Progress {
        phase: record.get_str("phase").ok().and_then(Phase::named).unwrap_or_default(),
        saved: record.get_datetime("saved").ok(),
    }
}

fn written_until_of(record: &RawDocumentBuf) -> Option<Position> {
    let until = record.get_document("written_until").ok()?;
    raw::record::decode(until.as_bytes()).ok()
}

fn owner_of(record: &RawDocumentBuf) -> Option<LeaseOwner> {
    Some(LeaseOwner {
        host: record.get_str("host").ok()?.to_owned(),
        process: u32::try_from(record.get_i64("process").ok()?).ok()?,
        since: record.get_datetime("since").ok()?.to_system_time(),
    })
}

/// The error of a start while a process runs the migration.
pub(crate) fn held_by(holder: &str) -> Error {
    Error::new(
        ErrorKind::LeaseHeld,
        "take the lease",
        format!("{holder} runs this migration; stop it first, or wait for it to end"),
    )
}

fn held(record: &RawDocumentBuf, age: Duration) -> Error {
    let age = age.as_secs_f64().ceil().max(1.0);
    Error::new(
        ErrorKind::LeaseHeld,
        "take the lease",
        format!(
            "{}, last seen within {age} s, runs this migration; stop it first, or wait for it to end",
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
