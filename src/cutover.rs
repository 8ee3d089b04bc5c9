//! The hand-over: everything applied, everything compared, everything in its final form.

use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::certificate::Certificate;
use crate::checkpoint::{Checkpoint, CollectionState, States};
use crate::document::{CollectionKind, Position};
use crate::engine::{Engine, Requests};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{CollectionSummary, Event, Outcome, Summary};
use crate::index::{HARDLY_EVER, expiry, name_of, seconds};
use crate::listing::is_view_of_buckets;
use crate::migration::Verification;
use crate::open_transactions::wait_for_transactions;
use crate::preflight::not_migrated;
use crate::progress::Progress;
use crate::prove;
use crate::reverse::WayBack;
use crate::router::{Report, Request};
use crate::sink::CatalogCommand;
use crate::specification;
use crate::verify::{self, Comparison};

/// How often a collection is compared again because the source moved meanwhile: by documents that expire, for instance.
const COMPARISONS: usize = 5;

/// How long the hand-over waits for a run that goes on from its checkpoint after an error.
const PATIENCE: Duration = Duration::from_secs(300);

/// Applies what is left and compares both sides. Writers must have been stopped.
///
/// Unless both sides are identical, documents do not expire on the target afterwards, as before.
///
/// # Errors
/// [`WritesAfterStop`](ErrorKind::WritesAfterStop), a server error, or the run does not come to the position at which the writers stopped.
pub(crate) async fn hand_over(engine: &Engine, progress: &Arc<Progress>, requests: &Requests) -> Result<Summary> {
    let mut finalized = States::default();
    let result = try_hand_over(engine, progress, requests, &mut finalized).await;
    if !matches!(&result, Ok(summary) if summary.outcome == Outcome::Complete) {
        for state in finalized.iter() {
            // What cannot be taken back now is compared at the next cutover. The error that led here is the one that counts.
            let _ = set_expiry(engine, state, Expiry::HeldBack).await;
        }
    }
    result
}

/// As [`hand_over`]; `finalized` are the collections that may have got their final form.
async fn try_hand_over(
    engine: &Engine,
    progress: &Arc<Progress>,
    requests: &Requests,
    finalized: &mut States,
) -> Result<Summary> {
    wait_for_transactions(&*engine.source, &engine.settings.selection, &progress.events).await?;
    let stopped = watch_for_late_writes(requests).await?;
    let (report, mut collections) = loop {
        let (report, run) = applied_to(requests, stopped).await?;
        check_late_writes(engine, progress)?;
        let proven = prove::proven(engine, progress, requests, &report).await?;
        let mut collections = Vec::new();
        for state in report.collections.iter() {
            let mut summary = CollectionSummary {
                namespace: state.namespace.clone(),
                target: state.target.clone(),
                documents: 0,
                verified: false,
                digest: None,
                differences: Vec::new(),
            };
            if engine.settings.verification == Verification::None {
                summary.differences = progress.refused_of(&state.namespace);
            } else {
                if !proven.contains(&state.id) {
                    let found = compare(engine, progress, requests, state).await?;
                    (summary.digest, summary.differences) = (found.digest, found.differences);
                }
                summary.verified = true;
            }
            collections.push(summary);
        }
        finalized.clone_from(&report.collections);
        for state in report.collections.iter() {
            set_expiry(engine, state, Expiry::Final).await?;
        }
        // This makes the final form durable, and meets every write that came until now. When the target has lost it instead, the run has
        // begun again from its checkpoint.
        let (_, after) = applied_to(requests, engine.source.sentinel().await?).await?;
        check_late_writes(engine, progress)?;
        if after.same_channel(&run) {
            break (report, collections);
        }
    };
    // The listing may show more than there was at this position, which is met again from there, and never less.
    let handed_over = engine.sink.sentinel().await?;
    let (listed, standing) = futures::try_join!(engine.source.collections(), engine.sink.collections())?;
    let (ours, theirs) = futures::try_join!(engine.source.describe(), engine.sink.describe())?;
    let servers = [specification::series(&ours), specification::series(&theirs)];
    let (mut indexes, mut not_kept) = (Vec::new(), Vec::new());
    for summary in &mut collections {
        let target = verify::find(&standing, &summary.target);
        summary.documents = target.map(|target| target.documents).unwrap_or_default();
        match verify::find(&listed, &summary.namespace) {
            Some(source) => {
                summary
                    .differences
                    .extend(specification::compare_options(source, target, &servers));
                indexes.extend(specification::compare_indexes(source, target, &servers));
                let lost = specification::not_kept(source, target, servers[1]);
                not_kept.extend(lost.into_iter().map(|(_, lost)| lost));
            }
            None => summary.differences.push("it no longer exists on the source".to_owned()),
        }
        summary.verified &= summary.differences.is_empty();
        let identical = summary.differences.is_empty();
        progress.events.send(Event::Verified {
            namespace: summary.namespace.clone(),
            identical,
        });
    }
    let late_writes = progress.late_writes.found();
    if late_writes.count > 0 {
        progress.events.send(Event::WritesAfterStop {
            writes: late_writes.clone(),
            accepted: true,
        });
    }
    let same =
        collections.iter().all(|collection| collection.differences.is_empty()) && indexes.iter().all(|index| index.ok);
    let left_out: Vec<_> = listed
        .iter()
        .filter(|collection| {
            !engine.settings.selection.contains(&collection.namespace) || is_view_of_buckets(collection)
        })
        .collect();
    let not_migrated = not_migrated(&left_out);
    let certificate = if same {
        let (sides, notes) = ((&*listed, &*standing), (&*not_migrated, &*not_kept, &late_writes));
        Some(Certificate::issue(engine, report.position, &collections, sides, notes).await?)
    } else {
        None
    };
    let way_back = match handed_over {
        Some(position) if same => Some(WayBack::begin(engine, position, &report.collections, &standing).await?),
        _ => None,
    };
    Ok(Summary {
        outcome: if same { Outcome::Complete } else { Outcome::Differences },
        position: Some(report.position),
        collections,
        indexes,
        late_writes,
        resyncs: progress.resyncs(),
        foreign_writes: progress.foreign_writes(),
        left_selection: progress.left_selection.all(),
        not_migrated,
        not_kept,
        certificate,
        way_back,
    })
}

/// Notes in the checkpoint that the migration is over, so that it cannot be started again by mistake, and how it can be taken back.
///
/// # Errors
/// The store cannot be read or written.
pub(crate) async fn complete(engine: &Engine, way_back: Option<&WayBack>) -> Result<()> {
    // The run has ended, and the lease with it. Another process that has begun since would be refused, or refuses this.
    if let Some(bytes) = engine.unfenced.store.load().await? {
        let checkpoint = Checkpoint {
            complete: true,
            way_back: way_back.cloned(),
            ..Checkpoint::decode(&bytes)?
        };
        engine.unfenced.store.save(&checkpoint.encode()?).await?;
    }
    Ok(())
}

/// From now on every write to the source is one that came too late. Answers the position from which on that is so.
async fn watch_for_late_writes(requests: &Requests) -> Result<Position> {
    let started = Instant::now();
    loop {
        let sender = requests.borrow().clone();
        if let Some(sender) = sender {
            let (reply, stopped) = oneshot::channel();
            // Both fail when the run has ended; it goes on from its checkpoint, and this waits for that.
            if sender.send(Request::WatchForLateWrites { reply }).await.is_ok()
                && let Ok(stopped) = stopped.await
            {
                match stopped {
                    // It ended while the source was being asked.
                    Err(error) if error.kind() == ErrorKind::Stopped => {}
                    stopped => return stopped,
                }
            }
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Connection,
                "cut over",
                "the run did not go on in time",
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Unless the host accepts them, writes that came too late end the cutover.
fn check_late_writes(engine: &Engine, progress: &Progress) -> Result<()> {
    let writes = progress.late_writes.found();
    if writes.count == 0 || engine.settings.accept_late_writes {
        return Ok(());
    }
    let error = writes.to_error();
    progress.events.send(Event::WritesAfterStop {
        writes,
        accepted: false,
    });
    Err(error)
}

/// The state of the migration once everything is copied and all changes up to `position` have been applied and are durable, and the run
/// that says so.
async fn applied_to(requests: &Requests, position: Position) -> Result<(Report, mpsc::Sender<Request>)> {
    let started = Instant::now();
    loop {
        let sender = requests.borrow().clone();
        if let Some(sender) = sender {
            let (reply, report) = oneshot::channel();
            // Both fail when the run has ended; it goes on from its checkpoint, and this waits for that.
            if sender.send(Request::Report { reply }).await.is_ok()
                && let Ok(report) = report.await
                && report.complete
                && report.position >= position
            {
                return Ok((report, sender));
            }
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Connection,
                "cut over",
                "the rest of the changes could not be applied in time",
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Compares a collection, again where the source has moved meanwhile.
///
/// Writers that insert into a capped collection at the same time can leave its documents in another order than the oplog has them in, so
/// that the source's own secondaries differ. Nothing is written any more, so such a collection, which is small, is copied once more as it
/// stands.
async fn compare(
    engine: &Engine,
    progress: &Progress,
    requests: &Requests,
    state: &CollectionState,
) -> Result<Comparison> {
    for attempt in 0..COMPARISONS {
        let before = applied_to(requests, engine.source.sentinel().await?).await?.0.position;
        check_late_writes(engine, progress)?;
        let found = verify::compare_documents(engine, state).await?;
        if found.differences.is_empty() {
            return Ok(found);
        }
        // Not a sentinel, which moves the source itself.
        let still = engine.source.read_position().await? <= before;
        if attempt == 0 && state.kind == CollectionKind::Capped {
            copy_again(progress, requests, state).await?;
        } else if still {
            return Ok(found);
        }
    }
    verify::compare_documents(engine, state).await
}

async fn copy_again(progress: &Progress, requests: &Requests, state: &CollectionState) -> Result<()> {
    let sender = requests.borrow().clone();
    let (reply, begun) = oneshot::channel();
    if let Some(sender) = sender
        && sender
            .send(Request::CopyAgain {
                collection: state.id,
                reply,
            })
            .await
            .is_ok()
        && begun.await.is_ok()
    {
        let started = Instant::now();
        while !progress.is_indexed() && started.elapsed() < PATIENCE {
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// When documents expire on the target.
#[derive(Clone, Copy)]
pub(crate) enum Expiry {
    /// Hardly ever, as long as the source is followed.
    HeldBack,
    /// As on the source.
    Final,
}

/// Lets documents expire on the target as they do on the source, or no longer.
pub(crate) async fn set_expiry(engine: &Engine, state: &CollectionState, form: Expiry) -> Result<()> {
    if state.kind == CollectionKind::View {
        return Ok(());
    }
    let mut changes: Vec<RawDocumentBuf> = Vec::new();
    for index in &state.indexes {
        if let Some(seconds) = seconds(index) {
            let mut change = rawdoc! { "name": name_of(index) };
            match form {
                Expiry::HeldBack => change.append(bson::raw::cstr!("expireAfterSeconds"), HARDLY_EVER),
                Expiry::Final => change.append(bson::raw::cstr!("expireAfterSeconds"), seconds),
            }
            changes.push(rawdoc! { "index": change });
        }
    }
    if let Some(seconds) = expiry(&state.options) {
        let mut change = RawDocumentBuf::new();
        match form {
            Expiry::HeldBack => change.append(bson::raw::cstr!("expireAfterSeconds"), "off"),
            Expiry::Final => change.append(bson::raw::cstr!("expireAfterSeconds"), seconds),
        }
        changes.push(change);
    }
    for arguments in changes {
        let command = CatalogCommand::Modify {
            namespace: state.target.clone(),
            arguments,
        };
        match engine.sink.execute(&command).await {
            // An index that could not be built: the summary names it.
            Err(error) if error.kind() == ErrorKind::TargetRefused => {}
            other => other?,
        }
    }
    Ok(())
}
