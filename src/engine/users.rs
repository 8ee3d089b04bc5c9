//! Carries users and roles to the target, and keeps them the same until the cutover.
//!
//! An entry of the oplog is only a signal: both sides are read, compared, and made equal. A signal that nobody saw does not matter, because
//! each run begins by comparing, and the cutover compares once more after the writers have stopped.
//!
//! # What is the migration's own
//! The record of users has the names that the migration has made, with fingerprints of their content. It is saved before a change and after
//! it. A user or role of the target that has another fingerprint was changed by somebody else: it is neither replaced, unless the host says
//! so, nor dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Account, AccountChanges, AccountName, Accounts, Selection, joined};
use crate::report::{Event, UsersSummary};
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;
use crate::runtime::users::Record;
use crate::sink::Records;
use crate::source::Source;
use crate::users::{Known, UserSelection, UsersAtHandOver, UsersPlan};

const OPERATION: &str = "carry users and roles";

/// Maximum number of times that users are compared again because the source or the target has changed meanwhile.
const ROUNDS: usize = 8;

/// Pause after a signal: a change of users often comes with others.
const SETTLE: Duration = Duration::from_millis(100);

/// Pause before users are carried again after an error.
const RETRY: Duration = Duration::from_secs(10);

/// Maximum number of names in a message.
const SHOWN: usize = 10;

/// Everything that is needed to carry users. It does not need the rest of a run.
pub(crate) struct Carrier {
    source: Arc<dyn Source>,
    records: Records,
    users: UserSelection,
    never: Vec<AccountName>,
    selection: Selection,
    progress: Arc<RunState>,
}

/// Users and roles that are the same on both sides.
pub(crate) struct Carried {
    pub summary: UsersSummary,
    pub at_hand_over: UsersAtHandOver,
}

impl Carrier {
    /// Returns `None` if the host wants no users carried.
    pub fn of(job: &Job, progress: &Arc<RunState>) -> Option<Self> {
        let users = job.settings.users.selection()?;
        Some(Self {
            source: Arc::clone(&job.source),
            records: job.records(),
            users: users.clone(),
            never: job.settings.never_carried().to_vec(),
            selection: job.settings.selection.clone(),
            progress: Arc::clone(progress),
        })
    }

    /// Carries users at the beginning of a run and after each change on the source, until the run is cancelled.
    ///
    /// A problem with users does not end the run: it is reported, and the cutover refuses to complete with it.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) if another process has taken over the migration.
    pub async fn follow(self, cancel: CancellationToken) -> Result<()> {
        let mut changes = self.progress.users.changes();
        loop {
            changes.borrow_and_update();
            let carried = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                carried = self.carry() => carried,
            };
            let is_failed = match carried {
                Err(error) if error.kind() == ErrorKind::LeaseLost => return Err(error),
                carried => carried.is_err(),
            };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                // This cannot fail because `progress` owns the sender.
                _ = changes.changed() => sleep(SETTLE).await,
                () = sleep(RETRY), if is_failed => {}
            }
        }
    }

    /// Makes the users and roles of the target those of the source, and compares them.
    ///
    /// # Errors
    /// [`TargetRefused`](ErrorKind::TargetRefused) if the target has other content under a name that must not be replaced,
    /// [`Refused`](ErrorKind::Refused) if source or sink do not support this, or a server error.
    ///
    /// # Cancellation
    /// Dropping the future leaves some of the users changed. The next call makes up for it.
    pub async fn carry(&self) -> Result<Carried> {
        let _turn = self.progress.users.turn.lock().await;
        let carried = self.settle().await;
        match &carried {
            Ok(carried) => self.progress.users.set(carried.summary.status()),
            Err(error) => {
                let reason = error.report();
                if self.progress.users.set_problem(&reason) {
                    self.progress.events.send(Event::UsersNotCarried { reason });
                }
            }
        }
        carried
    }

    async fn settle(&self) -> Result<Carried> {
        let mut record = Record::load(&self.records).await?;
        // A process that began a change may not have removed its temporary collections. Every change that succeeds removes them.
        let mut is_littered = record.is_busy;
        let (mut put, mut dropped) = (0, 0);
        for _ in 0..ROUNDS {
            let (plan, at_hand_over) = self.plan(&record).await?;
            if plan.put.is_empty() && plan.drop.is_empty() {
                if is_littered {
                    change(&self.records, Vec::new(), Vec::new()).await?;
                }
                if record.settle(&plan.wanted, &plan.forget) {
                    record.save(&self.records).await?;
                }
                let summary = self.settled(&plan, put, dropped)?;
                return Ok(Carried { summary, at_hand_over });
            }
            record.expect(&plan.put);
            record.save(&self.records).await?;
            put += plan.put.len();
            dropped += plan.drop.len();
            change(&self.records, plan.put, plan.drop).await?;
            is_littered = false;
        }
        let message = "users and roles keep changing; see that nobody changes them on both sides";
        Err(Error::new(ErrorKind::TargetRefused, OPERATION, message).with_retryable(true))
    }

    async fn plan(&self, record: &Record) -> Result<(UsersPlan, UsersAtHandOver)> {
        let source = self.source.accounts().await?;
        let names = Known::names(&source, &self.users, &record.made);
        let target = self.records.sink().accounts(&names).await?;
        let known = Known {
            source: &source,
            target: &target,
            made: &record.made,
            users: &self.users,
            never: &self.never,
            selection: &self.selection,
        };
        let plan = known.plan();
        let at_hand_over = known.at_hand_over(&plan);
        Ok((plan, at_hand_over))
    }

    /// Reports what was done, once both sides are the same.
    fn settled(&self, plan: &UsersPlan, put: usize, dropped: usize) -> Result<UsersSummary> {
        let summary = plan.summary();
        if put + dropped > 0 {
            self.progress.events.send(Event::UsersCarried {
                put: put as u64,
                dropped: dropped as u64,
                carried: summary.carried.len() as u64,
                kept: summary.kept.len() as u64,
                left_out: summary.left_out.len() as u64,
            });
        }
        match plan.conflicts.is_empty() {
            true => Ok(summary),
            false => Err(conflict(&plan.conflicts)),
        }
    }
}

/// Drops what the migration has made on the target, unless somebody has changed it.
///
/// # Errors
/// A server error.
pub(crate) async fn drop_made(job: &Job) -> Result<()> {
    let Some(users) = job.settings.users.selection() else {
        return Ok(());
    };
    let records = job.records();
    let record = Record::load(&records).await?;
    if record.made.is_empty() {
        return Ok(());
    }
    let target = records.sink().accounts(&record.made.keys().cloned().collect()).await?;
    let known = Known {
        source: &Accounts::default(),
        target: &target,
        made: &record.made,
        users,
        never: job.settings.never_carried(),
        selection: &job.settings.selection,
    };
    change(&records, Vec::new(), known.plan().drop).await
}

/// Removes what the migration keeps of users on the target. The users stay.
///
/// # Errors
/// A server error.
pub(crate) async fn forget(records: &Records) -> Result<()> {
    if Record::load(records).await?.is_busy {
        change(records, Vec::new(), Vec::new()).await?;
    }
    Record::delete(records).await
}

async fn change(records: &Records, put: Vec<Account>, drop: Vec<AccountName>) -> Result<()> {
    let migration = records.id().to_string();
    let changes = AccountChanges { migration, put, drop };
    records.sink().change_accounts(&changes).await
}

fn conflict(names: &[AccountName]) -> Error {
    let message = format!(
        "the target has other content than the source under these names: {}; drop or exclude them, or choose `ExistingUsers::Keep` or \
         `ExistingUsers::Replace`",
        joined(names, SHOWN)
    );
    Error::new(ErrorKind::TargetRefused, OPERATION, message)
}
