//! Events of a run as events of `tracing`, for the host's log.
//!
//! Fields hold names, positions, counts, times and `_id`s, never the content of a document.

use std::time::Duration;

use tracing::Level;

use crate::report::Event;

/// Target of all spans and events of this crate.
pub(crate) const TARGET: &str = "mongoferry";

/// Emits one event of `tracing`. The field `event` has the name of the variant in snake case.
macro_rules! emit {
    ($level:ident, $name:literal, $message:literal $(, $($fields:tt)+)?) => {
        tracing::event!(target: TARGET, Level::$level, event = $name, $($($fields)+,)? $message)
    };
}

/// Emits an event: at level `INFO` for progress, at `WARN` for what needs attention, at `ERROR` for the end of the run by an error. What can
/// come for every collection or every second without being news has the level `DEBUG`.
pub(super) fn trace(event: &Event) {
    match event {
        Event::PhaseChanged { phase } => {
            emit!(INFO, "phase_changed", "entered another phase", phase = phase.as_str());
        }
        Event::Failed { error } => {
            emit!(ERROR, "failed", "an error ended the run", kind = ?error.kind(), error = %error);
        }
        Event::Started { resumed, position } => {
            emit!(INFO, "started", "the run began", resumed, position = %position);
        }
        Event::Resync {
            lost,
            position,
            gap,
            reason,
        } => {
            let gap = gap.as_secs_f64();
            emit!(WARN, "resync", "the position is lost; everything is compared with the source",
                lost = %lost, position = %position, gap_seconds = gap, reason);
        }
        Event::CollectionCopied { namespace } => {
            emit!(INFO, "collection_copied", "a collection is copied", namespace = %namespace);
        }
        Event::IndexBuilt { namespace, name } => {
            emit!(INFO, "index_built", "an index is built", namespace = %namespace, index = name);
        }
        Event::IndexFailed {
            namespace,
            name,
            reason,
        } => {
            emit!(WARN, "index_failed", "an index could not be built", namespace = %namespace, index = name, reason);
        }
        Event::RecordingFailed { reason } => {
            emit!(WARN, "recording_failed", "the recording cannot be written", reason);
        }
        Event::DocumentRefused { namespace, id, reason } => {
            emit!(WARN, "document_refused", "the target refused a document", namespace = %namespace, id, reason);
        }
        Event::RuleFailed { namespace, id, reason } => {
            emit!(WARN, "rule_failed", "a rule failed for a document, which is left out", namespace = %namespace, id, reason);
        }
        Event::Retrying { cause, delay } => {
            let delay = delay.as_secs_f64();
            emit!(
                WARN,
                "retrying",
                "the run goes back to its checkpoint",
                cause,
                delay_seconds = delay
            );
        }
        Event::CheckpointSaved { watermark } => {
            emit!(DEBUG, "checkpoint_saved", "a checkpoint is saved", watermark = %watermark);
        }
        Event::FallingBehind { .. }
        | Event::OplogWindowShort { .. }
        | Event::CutoverWindowShort { .. }
        | Event::Waiting { .. } => trace_slow(event),
        Event::CatalogChanged { .. } | Event::CatalogChangeMet { .. } | Event::LeftSelection { .. } => {
            trace_catalog(event);
        }
        Event::OpenTransactions { .. }
        | Event::WritesAfterStop { .. }
        | Event::SourceWritesBlocked
        | Event::SourceWritesUnblocked
        | Event::SourceWriteBlockStays { .. }
        | Event::CutoverStep { .. }
        | Event::Verified { .. }
        | Event::HookFailed { .. } => trace_cutover(event),
        Event::DocumentDiffers { .. }
        | Event::ForeignWrite { .. }
        | Event::ForeignWritesNotWatched { .. }
        | Event::UsersCarried { .. }
        | Event::UsersNotCarried { .. }
        | Event::MembersChanged { .. }
        | Event::FeatureCompatibilityChanged { .. } => trace_sides(event),
        // Made for one slow reader, and never sent.
        Event::Missed { .. } => {}
    }
}

/// What takes long, or longer than there is time.
fn trace_slow(event: &Event) {
    let seconds = |time: &Option<Duration>| time.map(|time| time.as_secs_f64());
    match event {
        Event::FallingBehind {
            source_rate,
            applied_rate,
            lag,
        } => {
            let lag = lag.as_secs_f64();
            emit!(
                WARN,
                "falling_behind",
                "the source writes faster than the target can apply",
                source_rate,
                applied_rate,
                lag_seconds = lag
            );
        }
        Event::OplogWindowShort {
            position,
            oldest,
            window,
            time_left,
        } => {
            emit!(WARN, "oplog_window_short", "the oplog may roll over before the run resumes",
                position = %position, oldest = %oldest, window_seconds = window.as_secs_f64(),
                left_seconds = seconds(time_left));
        }
        Event::CutoverWindowShort { left, .. } => {
            let left = left.as_secs_f64();
            emit!(
                WARN,
                "cutover_window_short",
                "the cutover window is about to end",
                left_seconds = left
            );
        }
        Event::Waiting {
            side,
            operation,
            elapsed,
            limit,
        } => {
            emit!(WARN, "waiting", "a server keeps the run waiting", side = ?side, operation,
                elapsed_seconds = elapsed.as_secs_f64(), limit_seconds = seconds(limit));
        }
        _ => {}
    }
}

/// What happened to the source's catalog.
fn trace_catalog(event: &Event) {
    match event {
        Event::CatalogChanged { position, description } => {
            emit!(INFO, "catalog_changed", "a catalog change was applied", position = %position, change = description);
        }
        Event::CatalogChangeMet {
            position,
            namespace,
            change,
        } => {
            emit!(WARN, "catalog_change_met", "the source's catalog was changed", position = %position, namespace, change);
        }
        Event::LeftSelection { from, to, position } => {
            emit!(WARN, "left_selection", "a collection was renamed to a name that is not selected",
                from = %from, to = %to, position = %position);
        }
        _ => {}
    }
}

/// What happened before, in or after a cutover.
fn trace_cutover(event: &Event) {
    match event {
        Event::OpenTransactions { transactions } => {
            let count = transactions.len();
            emit!(
                WARN,
                "open_transactions",
                "the cutover waits for open transactions",
                count
            );
        }
        Event::WritesAfterStop { writes, accepted } => {
            let count = writes.count;
            emit!(
                WARN,
                "writes_after_stop",
                "the source was written to after the writers were stopped",
                count,
                accepted
            );
        }
        Event::SourceWritesBlocked => emit!(INFO, "source_writes_blocked", "writes on the source are blocked"),
        Event::SourceWritesUnblocked => emit!(
            INFO,
            "source_writes_unblocked",
            "writes on the source are possible again"
        ),
        Event::SourceWriteBlockStays { reason } => {
            emit!(
                WARN,
                "source_write_block_stays",
                "the block of writes on the source could not be lifted",
                reason
            );
        }
        Event::CutoverStep { step } => {
            emit!(
                INFO,
                "cutover_step",
                "the cutover has begun a step",
                step = step.as_str()
            );
        }
        Event::Verified {
            namespace,
            identical: true,
        } => {
            emit!(DEBUG, "verified", "both sides are identical", namespace = %namespace, identical = true);
        }
        Event::Verified { namespace, .. } => {
            emit!(WARN, "verified", "both sides differ", namespace = %namespace, identical = false);
        }
        Event::HookFailed { hook, reason } => {
            emit!(WARN, "hook_failed", "a hook of the host failed", hook, reason);
        }
        _ => {}
    }
}

/// What was found on the two sides.
fn trace_sides(event: &Event) {
    match event {
        Event::DocumentDiffers { namespace, difference } => {
            emit!(WARN, "document_differs", "a document differs", namespace = %namespace, difference = %difference);
        }
        Event::ForeignWrite { namespace, writes } => {
            emit!(WARN, "foreign_write", "another program writes to the target", namespace = %namespace, writes);
        }
        Event::ForeignWritesNotWatched { reason } => {
            emit!(
                WARN,
                "foreign_writes_not_watched",
                "writes of other programs may be missed",
                reason
            );
        }
        Event::UsersCarried {
            put,
            dropped,
            carried,
            kept,
            left_out,
        } => {
            emit!(
                INFO,
                "users_carried",
                "users and roles of the target are those of the source",
                put,
                dropped,
                carried,
                kept,
                left_out
            );
        }
        Event::UsersNotCarried { reason } => {
            emit!(WARN, "users_not_carried", "users and roles are not carried", reason);
        }
        Event::MembersChanged { side, added, removed } => {
            emit!(WARN, "members_changed", "the members of a replica set changed", side = ?side, added = ?added, removed = ?removed);
        }
        Event::FeatureCompatibilityChanged { side, from, to } => {
            emit!(WARN, "feature_compatibility_changed", "a feature compatibility version changed",
                side = ?side, from = ?from, to = ?to);
        }
        _ => {}
    }
}
