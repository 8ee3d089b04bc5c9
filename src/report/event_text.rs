//! Events as lines for people.

use std::fmt;
use std::time::Duration;

use crate::model::{shown, write_wait};
use crate::report::{CutoverStep, Event};

/// Writes one line without a time and without a line break. A reason that a server gave may be longer than a line of a terminal.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PhaseChanged { phase } => write!(f, "phase: {phase}"),
            Self::Failed { error } => write!(f, "{error:#}"),
            Self::Started {
                resumed: true,
                position,
            } => write!(f, "resuming from the checkpoint at position {position}"),
            Self::Started {
                resumed: false,
                position,
            } => write!(f, "starting at position {position}"),
            Self::Resync { gap, reason, .. } => write!(
                f,
                "the position is lost, with a gap of {} s: comparing everything with the source ({reason})",
                gap.as_secs()
            ),
            Self::FallingBehind {
                source_rate,
                applied_rate,
                lag,
            } => write!(
                f,
                "falling behind: the source writes {source_rate:.0} operations per second, {applied_rate:.0} are applied; the lag is {} s",
                lag.as_secs()
            ),
            Self::OplogWindowShort { window, time_left, .. } => {
                let window = window.as_secs();
                write!(
                    f,
                    "the oplog spans {window} s, and will no longer contain the position "
                )?;
                match time_left {
                    Some(left) => write!(f, "in {} s", left.as_secs()),
                    None => f.write_str("soon"),
                }
            }
            Self::CutoverWindowShort { left, .. } => {
                write!(f, "the cutover window ends in {}; it can be extended", minutes(*left))
            }
            Self::CollectionCopied { namespace } => write!(f, "{} is copied", shown(namespace)),
            Self::IndexBuilt { namespace, name } => write!(f, "index `{name}` of {} is built", shown(namespace)),
            Self::IndexFailed {
                namespace,
                name,
                reason,
            } => write!(f, "index `{name}` of {}: {reason}", shown(namespace)),
            Self::CatalogChanged { description, .. } => write!(f, "applied to the target: {description}"),
            Self::CatalogChangeMet { namespace, change, .. } => write!(f, "the source changed {namespace} by {change}"),
            Self::LeftSelection { from, to, .. } => write!(
                f,
                "{} was renamed out of the selection, to {}, and is dropped on the target",
                shown(from),
                shown(to)
            ),
            Self::DocumentRefused { namespace, id, reason } => {
                write!(
                    f,
                    "{}: the document with _id {id} was refused: {reason}",
                    shown(namespace)
                )
            }
            Self::RuleFailed { namespace, id, reason } => {
                write!(
                    f,
                    "{}: the document with _id {id} is left out: {reason}",
                    shown(namespace)
                )
            }
            Self::Waiting {
                side,
                operation,
                elapsed,
                limit,
            } => write_wait(f, *side, operation, *elapsed, *limit),
            Self::OpenTransactions { transactions } => {
                write!(
                    f,
                    "the cutover waits for {} open transactions on the source",
                    transactions.len()
                )?;
                for (index, transaction) in transactions.iter().take(3).enumerate() {
                    let separator = if index == 0 { ":" } else { "," };
                    let open = transaction.open.as_secs();
                    write!(f, "{separator} of {} for {open} s", transaction.client)?;
                }
                Ok(())
            }
            Self::Retrying { cause, delay } => write!(f, "trying again in {:.1} s: {cause}", delay.as_secs_f64()),
            Self::CheckpointSaved { watermark } => write!(f, "a checkpoint is saved at position {watermark}"),
            Self::WritesAfterStop { writes, accepted } => {
                let accepted = if *accepted { "; these writes are accepted" } else { "" };
                write!(
                    f,
                    "the source was written to after its writers were stopped{accepted}: {writes}"
                )
            }
            Self::SourceWritesBlocked => f.write_str("writes on the source are blocked"),
            Self::SourceWritesUnblocked => f.write_str("writes on the source are no longer blocked"),
            Self::SourceWriteBlockStays { reason } => {
                write!(f, "the block of writes on the source cannot be lifted: {reason}")
            }
            Self::CutoverStep { step } => f.write_str(match step {
                CutoverStep::StopWrites => "cutover: stopping the writers of the source",
                CutoverStep::Drain => "cutover: applying the last changes",
                CutoverStep::Compare => "cutover: comparing both sides",
                CutoverStep::Finish => "cutover: saving that the migration is complete",
            }),
            Self::Verified { namespace, identical } => match identical {
                true => write!(f, "{} is identical on both sides", shown(namespace)),
                false => write!(f, "{} DIFFERS between both sides", shown(namespace)),
            },
            Self::DocumentDiffers { namespace, difference } => write!(f, "{}: {difference}", shown(namespace)),
            Self::ForeignWrite { namespace, writes } => write!(
                f,
                "another program writes to {} on the target: {writes} writes so far",
                shown(namespace)
            ),
            Self::ForeignWritesNotWatched { reason } => {
                write!(f, "foreign writes to the target are not seen: {reason}")
            }
            Self::UsersCarried {
                put,
                dropped,
                carried,
                kept,
                left_out,
            } => write!(
                f,
                "users and roles: {put} made or changed, {dropped} dropped; {carried} are the same on both sides, {kept} kept, {left_out} left out"
            ),
            Self::UsersNotCarried { reason } => write!(f, "users and roles are not carried: {reason}"),
            Self::MembersChanged { side, added, removed } => {
                write!(
                    f,
                    "the members of the {side} have changed: added {added:?}, removed {removed:?}"
                )
            }
            Self::FeatureCompatibilityChanged {
                side,
                from: [major, minor],
                to: [next_major, next_minor],
            } => write!(
                f,
                "the feature compatibility version of the {side} was changed from {major}.{minor} to {next_major}.{next_minor}"
            ),
            Self::RecordingFailed { reason } => write!(f, "the recording cannot be written: {reason}"),
            Self::HookFailed { hook, reason } => write!(f, "the hook {hook} failed: {reason}"),
            Self::Missed { events } => write!(f, "{events} events were lost, because they were read too slowly"),
        }
    }
}

fn minutes(time: Duration) -> String {
    match time.as_secs() / 60 {
        minutes if minutes >= 120 => format!("{} hours", minutes / 60),
        1 => "1 minute".to_owned(),
        minutes => format!("{minutes} minutes"),
    }
}
