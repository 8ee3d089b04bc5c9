//! The register of migrations on a target: which there are, and what each of them may write to.
//!
//! # Disjointness
//! Several migrations share a target as long as their names there are disjoint. Each registers its selection before it creates or writes
//! anything else than its lease. The register is one record, and a save names the version that it replaces. So of two migrations that begin
//! at the same moment one is first, and the other one sees it: it reads the register again and yields. Only a migration that holds its own
//! lease changes its own entry.
//!
//! An entry stays until the migration is complete or forgotten. A migration that was stopped will continue, and still owns its names.
//!
//! # The end of the metadata database
//! Whoever removes the last entry may drop the database with all records. Another migration that registered in between would lose its entry.
//! The last removal therefore marks the register as closing, and nobody registers while the mark is there. If the process dies before it
//! has dropped the database, the mark counts for [`EXPIRY`].

use std::time::Duration;

use bson::DateTime;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};
use crate::model::raw::record;
use crate::model::{MigrationId, Overlap, Selection};
use crate::mongo::retry::random;
use crate::runtime::fence::{EXPIRY, HOLD};
use crate::sink::{CatalogCommand, Records, Sink};

/// Name of the register's record. It contains no `/`, so it is no record of a migration.
const RECORD: &str = "migrations";

/// The version of the format that this crate writes.
const FORMAT: i32 = 1;

/// Maximum size of the register in bytes. A record has at most 16 MiB.
const MOST_BYTES: usize = 12 << 20;

/// How long to try while other migrations keep changing the register.
const PATIENCE: Duration = Duration::from_secs(600);

/// Maximum pause before the next try.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One migration in the register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub id: String,
    /// Identity and name of the source.
    pub source: String,
    pub source_name: String,
    /// What the migration may write to; `None` once it is complete.
    pub selection: Option<Selection>,
    pub begun: DateTime,
    pub complete: bool,
}

/// All migrations that a target knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Register {
    #[serde(default)]
    format: i32,
    #[serde(default)]
    fence: i64,
    /// Whether the database is about to be dropped.
    #[serde(default)]
    closing: bool,
    #[serde(default)]
    pub migrations: Vec<Entry>,
}

impl Register {
    /// Reads the register.
    ///
    /// # Errors
    /// A server error, or the register was written by a newer version.
    pub async fn load(sink: &dyn Sink) -> Result<Self> {
        const OPERATION: &str = "read the register of migrations";
        let Some(kept) = sink.load_record(RECORD).await? else {
            return Ok(Self::default());
        };
        let read: Self = record::decode(kept.as_bytes()).map_err(|error| {
            Error::new(
                ErrorKind::CheckpointMismatch,
                OPERATION,
                "the record on the target is damaged",
            )
            .with_source(error)
        })?;
        if read.format > FORMAT {
            let message = format!(
                "it has format {}, this version reads up to {FORMAT}: use the newer version that wrote it",
                read.format
            );
            return Err(Error::new(ErrorKind::CheckpointMismatch, OPERATION, message));
        }
        Ok(read)
    }

    /// Findings about other migrations that are not complete and may write to the same names.
    pub fn conflicts(&self, id: &MigrationId, selection: &Selection) -> Vec<Finding> {
        let others = self
            .migrations
            .iter()
            .filter(|entry| entry.id != id.as_str() && !entry.complete);
        others.filter_map(|entry| conflict(entry, selection)).collect()
    }

    /// Whether another migration that is not complete may write to a database of the target.
    pub fn others_produce_in(&self, id: &MigrationId, database: &str) -> bool {
        let others = self.migrations.iter().filter(|entry| entry.id != id.as_str());
        others
            .filter_map(|entry| entry.selection.as_ref())
            .any(|selection| selection.target_reaches(database))
    }

    fn entry(&self, id: &MigrationId) -> Option<&Entry> {
        self.migrations.iter().find(|entry| entry.id == id.as_str())
    }

    /// Saves the register over the version that was read. Returns `false` if another one was saved in between.
    async fn save(&mut self, sink: &dyn Sink) -> Result<bool> {
        const OPERATION: &str = "save the register of migrations";
        let read = self.fence;
        (self.format, self.fence) = (FORMAT, read + 1);
        let record = record::encode(self)
            .map_err(|error| Error::new(ErrorKind::Protocol, OPERATION, "it cannot be encoded").with_source(error))?;
        if record.as_bytes().len() > MOST_BYTES {
            let message = "the selections of all migrations to this target are too large; use patterns instead of names, or forget \
                           migrations that are complete";
            return Err(Error::new(ErrorKind::InvalidConfiguration, OPERATION, message));
        }
        sink.save_record(RECORD, &record, read).await
    }
}

fn conflict(entry: &Entry, selection: &Selection) -> Option<Finding> {
    let what = match entry.selection.as_ref()?.overlap(selection) {
        Overlap::Nothing => return None,
        Overlap::Name(name) => format!("may also write to names on the target such as `{name}`"),
        Overlap::Unknown => {
            "may also write to the same names on the target: the patterns are too many to compare".to_owned()
        }
    };
    Some(Finding::blocker(
        FindingCode::OverlappingMigration,
        format!("the migration `{}` from `{}` {what}", entry.id, entry.source_name),
        format!(
            "exclude these names from one of them, or complete the migration `{}`, or call its `Migration::forget`",
            entry.id
        ),
    ))
}

/// Registers a migration whose lease the caller holds, unless another one may write to the same names. If the register has the migration
/// already, nothing is saved.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) with a finding for each of these others, or a server error.
pub(crate) async fn enter(records: &Records, source: (&str, &str), selection: &Selection) -> Result<()> {
    let id = records.id();
    change(records, "register the migration", true, |register| {
        let conflicts = register.conflicts(id, selection);
        if !conflicts.is_empty() {
            return Err(Error::refused("start the migration", conflicts));
        }
        let known = register.entry(id);
        if known.is_some_and(|entry| entry.source == source.0 && entry.selection.as_ref() == Some(selection)) {
            return Ok(false);
        }
        register.migrations.retain(|entry| entry.id != id.as_str());
        register.migrations.push(Entry {
            id: id.to_string(),
            source: source.0.to_owned(),
            source_name: source.1.to_owned(),
            selection: Some(selection.clone()),
            begun: DateTime::now(),
            complete: false,
        });
        Ok(true)
    })
    .await
    .map(|_| ())
}

/// Marks a migration as complete: it owns no names any more.
///
/// # Errors
/// A server error.
pub(crate) async fn complete(records: &Records) -> Result<()> {
    let id = records.id().as_str();
    let marked = change(records, "mark the migration as complete", false, |register| {
        let entry = register
            .migrations
            .iter_mut()
            .find(|entry| entry.id == id && !entry.complete);
        Ok(entry.is_some_and(|entry| {
            (entry.complete, entry.selection) = (true, None);
            true
        }))
    });
    marked.await.map(|_| ())
}

/// What is left of a register after a removal.
#[derive(Debug)]
pub(crate) enum Left {
    Others,
    /// Nothing. The register is closing since this moment, or a later one.
    Nothing(Register, Instant),
}

/// Removes a migration.
///
/// # Errors
/// A server error.
pub(crate) async fn remove(records: &Records) -> Result<Left> {
    let id = records.id().as_str();
    let removed = change(records, "forget the migration", false, |register| {
        let before = register.migrations.len();
        register.migrations.retain(|entry| entry.id != id);
        register.closing = register.migrations.is_empty();
        Ok(register.closing || register.migrations.len() < before)
    });
    let (register, since) = removed.await?;
    Ok(match register.closing {
        true => Left::Nothing(register, since),
        false => Left::Others,
    })
}

/// Drops the database with the records of all migrations, after the last one was removed.
///
/// # Errors
/// A server error. A missing privilege is none: the records hold nothing of a migration any more.
pub(crate) async fn drop_database(sink: &dyn Sink, mut closing: Register, since: Instant) -> Result<()> {
    let database = crate::METADATA_DATABASE.to_owned();
    let command = CatalogCommand::DropDatabase { database };
    // Later, another process may take the mark for one that a dead process has left.
    let dropped = match HOLD.checked_sub(since.elapsed()) {
        Some(left) => timeout(left, sink.execute(&command)).await.unwrap_or(Ok(())),
        None => Ok(()),
    };
    if is_refused(&dropped) && since.elapsed() < HOLD {
        // A register that is missing is an empty one.
        return sink.delete_record(RECORD).await;
    }
    // If the register still exists, it is opened again.
    closing.closing = false;
    let opened = closing.save(sink).await;
    match dropped {
        Err(error) if error.kind() != ErrorKind::Unauthorized => Err(error),
        _ => opened.map(|_| ()),
    }
}

fn is_refused(dropped: &Result<()>) -> bool {
    matches!(dropped, Err(error) if error.kind() == ErrorKind::Unauthorized)
}

/// Reads the register, changes it and saves it, again and again until no other process was faster. `change` returns `false` if there is
/// nothing to save. With `waits`, a register that is closing is waited for. Returns the register, and when its save began.
async fn change(
    records: &Records,
    operation: &'static str,
    waits: bool,
    mut change: impl FnMut(&mut Register) -> Result<bool>,
) -> Result<(Register, Instant)> {
    let sink = &**records.sink();
    let _turn = records.turn().await;
    let began = Instant::now();
    let mut closing_since: Option<(i64, Instant)> = None;
    let mut pause = Duration::from_millis(2);
    loop {
        let mut register = Register::load(sink).await?;
        if waits && register.closing {
            let (fence, since) = *closing_since.get_or_insert((register.fence, Instant::now()));
            if fence != register.fence {
                closing_since = None;
            }
            if since.elapsed() < EXPIRY {
                sleep(EXPIRY / 60).await;
                continue;
            }
            register.closing = false;
        }
        let attempted = Instant::now();
        if !change(&mut register)? || register.save(sink).await? {
            return Ok((register, attempted));
        }
        if began.elapsed() > PATIENCE {
            let message = "other migrations to this target keep changing it; start fewer at the same moment";
            return Err(Error::new(ErrorKind::Connection, operation, message));
        }
        // The pauses differ, so that many that begin at once do not all try again at once.
        sleep(pause.mul_f64(0.5 + random())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;
    use crate::sink::{MemorySink, SinkCall};

    fn selection(pattern: &str) -> Selection {
        let mut selection = Selection::all();
        selection.include(pattern).unwrap();
        selection
    }

    fn records(sink: &MemorySink, id: &str) -> Records {
        Records::new(Arc::new(sink.clone()), id.parse().unwrap())
    }

    async fn enter_as(sink: &MemorySink, id: &str, pattern: &str) -> Result<()> {
        enter(&records(sink, id), ("source", "rs0"), &selection(pattern)).await
    }

    async fn ids(sink: &MemorySink) -> Vec<String> {
        let register = Register::load(sink).await.unwrap();
        register.migrations.into_iter().map(|entry| entry.id).collect()
    }

    /// Both have read the empty register before either of them saves.
    #[tokio::test(start_paused = true)]
    async fn of_two_that_have_both_seen_nothing_one_yields() {
        for (pattern, passes) in [("shop.*", 1), ("store.*", 2)] {
            let sink = MemorySink::new();
            let saving = sink.hold(SinkCall::SaveRecord);
            let mut one = Box::pin(enter_as(&sink, "one", "shop.*"));
            let mut two = Box::pin(enter_as(&sink, "two", pattern));
            assert!((&mut one).now_or_never().is_none() && (&mut two).now_or_never().is_none());
            saving.release();
            let (one, two) = futures::join!(one, two);
            let results = [one, two];
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), passes);
            for error in results.into_iter().filter_map(Result::err) {
                assert_eq!(error.findings()[0].code, FindingCode::OverlappingMigration.as_str());
            }
            assert_eq!(ids(&sink).await.len(), passes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_begins_anew_with_another_selection() {
        let sink = MemorySink::new();
        enter_as(&sink, "one", "a.*").await.unwrap();
        let saved = sink.calls(SinkCall::SaveRecord);
        enter_as(&sink, "one", "a.*").await.unwrap();
        assert_eq!(sink.calls(SinkCall::SaveRecord), saved);
        // Whoever holds the lease may change what is its own.
        enter_as(&sink, "one", "b.*").await.unwrap();
        enter_as(&sink, "two", "a.*").await.unwrap();
        enter_as(&sink, "three", "b.x").await.unwrap_err();
        complete(&records(&sink, "one")).await.unwrap();
        enter_as(&sink, "three", "b.x").await.unwrap();
        let register = Register::load(&sink).await.unwrap();
        assert!(register.others_produce_in(&"two".parse().unwrap(), "b"));
        assert!(!register.others_produce_in(&"three".parse().unwrap(), "b"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_removal_closes_the_register() {
        let sink = MemorySink::new();
        enter_as(&sink, "one", "a.*").await.unwrap();
        enter_as(&sink, "two", "b.*").await.unwrap();
        assert!(matches!(remove(&records(&sink, "one")).await.unwrap(), Left::Others));
        let Left::Nothing(closing, since) = remove(&records(&sink, "two")).await.unwrap() else {
            panic!("one is left: {:?}", ids(&sink).await);
        };
        let mut waiting = Box::pin(enter_as(&sink, "three", "c.*"));
        assert!(timeout(EXPIRY / 2, &mut waiting).await.is_err());
        drop_database(&sink, closing, since).await.unwrap();
        waiting.await.unwrap();
        assert_eq!(ids(&sink).await, ["three"]);
        // A user who may not drop the database leaves nothing in it.
        let Left::Nothing(closing, since) = remove(&records(&sink, "three")).await.unwrap() else {
            panic!("one is left: {:?}", ids(&sink).await);
        };
        sink.fail_next(SinkCall::Execute, Error::new(ErrorKind::Unauthorized, "drop", "no"));
        drop_database(&sink, closing, since).await.unwrap();
        assert_eq!(sink.load_record(RECORD).await.unwrap(), None);
        enter_as(&sink, "three", "c.*").await.unwrap();
        // A process that died before it dropped the database, which it does not do later.
        let Left::Nothing(closing, since) = remove(&records(&sink, "three")).await.unwrap() else {
            panic!("one is left: {:?}", ids(&sink).await);
        };
        enter_as(&sink, "four", "c.*").await.unwrap();
        assert!(since.elapsed() >= EXPIRY);
        drop_database(&sink, closing, since).await.unwrap();
        assert_eq!(ids(&sink).await, ["four"]);
    }
}
