//! Lines of `--json`: one object each, with `type` and `at`.

use std::time::{Duration, SystemTime};

use bson::DateTime;
use mongoferry::{
    Amount, CollectionSummary, ComparedCollection, Difference, DifferenceKind, Estimate, Event, Finding, ForeignWrites,
    IndexSummary, LagSample, LateWrites, LeftSelection, NotKept, Plan, Position, Side, Status, VerifyReport, Wait,
};
use serde_json::{Value, json};

use crate::ending::{Ending, shown};

/// Adds the current time to a line.
pub fn stamped(mut line: Value) -> Value {
    line["at"] = rfc3339(SystemTime::now()).into();
    line
}

fn rfc3339(time: SystemTime) -> String {
    DateTime::from_system_time(time)
        .try_to_rfc3339_string()
        .unwrap_or_default()
}

pub fn status(status: &Status) -> Value {
    json!({
        "type": "status",
        "phase": status.phase.as_str(),
        "position": status.position.map(position),
        "source_position": status.source_position.map(position),
        "lag_seconds": status.lag.map(|lag| lag.as_secs()),
        "copy_complete": status.copy_complete,
        "can_cut_over": status.can_cut_over,
        "copied": amount(status.copied),
        "total": amount(status.total),
        "changes": {
            "applied": status.changes.applied,
            "dropped": status.changes.dropped,
            "held_bytes": status.changes.held_bytes,
        },
        "compared": amount(status.compared),
        "all_compared": status.all_compared,
        "differences": status.differences,
        "eta_seconds": status.time_left.map(|left| left.as_secs()),
        "oplog_window_seconds": status.oplog_window.map(|window| window.as_secs()),
        "oplog_left_seconds": status.oplog_time_left.map(|left| left.as_secs()),
        "cutover_estimate_ms": status.cutover_estimate.map(|estimate| estimate.as_millis() as u64),
        "cutover_deadline": status.cutover_deadline.map(rfc3339),
        "throttle": {
            "copy_bytes_per_second": status.throttle.copy_bytes_per_second,
            "tail_operations_per_second": status.throttle.tail_operations_per_second,
        },
        "walkers": status.walkers,
        "lag_history": status.lag_history.iter().map(lag_sample).collect::<Vec<_>>(),
        "applied_per_second": status.applied_per_second,
        "indexes": { "built": status.indexes.built, "total": status.indexes.total },
    })
}

fn lag_sample(sample: &LagSample) -> Value {
    json!({ "at": rfc3339(sample.at), "lag_seconds": sample.lag.as_secs() })
}

pub fn event(event: &Event) -> Value {
    match event {
        Event::PhaseChanged { phase } => json!({ "type": "phase_changed", "phase": phase.as_str() }),
        Event::Started {
            resumed,
            position: from,
        } => {
            json!({ "type": "started", "resumed": resumed, "position": position(*from) })
        }
        Event::Resync {
            lost,
            position: from,
            gap,
            reason,
        } => {
            json!({
                "type": "resync",
                "lost": position(*lost),
                "position": position(*from),
                "gap_seconds": gap.as_secs(),
                "reason": reason,
            })
        }
        Event::FallingBehind {
            source_rate,
            applied_rate,
            lag,
        } => {
            json!({
                "type": "falling_behind",
                "source_rate": source_rate,
                "applied_rate": applied_rate,
                "lag_seconds": lag.as_secs(),
            })
        }
        Event::OplogWindowShort {
            position: needed,
            oldest,
            window,
            time_left,
        } => {
            json!({
                "type": "oplog_window_short",
                "position": position(*needed),
                "oldest": position(*oldest),
                "window_seconds": window.as_secs(),
                "left_seconds": time_left.map(|left| left.as_secs()),
            })
        }
        Event::CutoverWindowShort { deadline, left } => {
            json!({ "type": "cutover_window_short", "deadline": rfc3339(*deadline), "left_seconds": left.as_secs() })
        }
        Event::CollectionCopied { namespace } => {
            json!({ "type": "collection_copied", "namespace": shown(namespace).as_str() })
        }
        Event::IndexBuilt { namespace, name } => {
            json!({ "type": "index_built", "namespace": shown(namespace).as_str(), "name": name })
        }
        Event::IndexFailed {
            namespace,
            name,
            reason,
        } => {
            json!({ "type": "index_failed", "namespace": shown(namespace).as_str(), "name": name, "reason": reason })
        }
        Event::CatalogChanged {
            position: at,
            description,
        } => {
            json!({ "type": "catalog_changed", "position": position(*at), "description": description })
        }
        Event::CatalogChangeMet {
            position: at,
            namespace,
            change,
        } => {
            json!({ "type": "catalog_change_met", "position": position(*at), "namespace": namespace, "change": change })
        }
        Event::LeftSelection { from, to, position: at } => {
            json!({ "type": "left_selection", "from": shown(from).as_str(), "to": shown(to).as_str(), "position": position(*at) })
        }
        Event::DocumentRefused { namespace, id, reason } => {
            json!({ "type": "document_refused", "namespace": shown(namespace).as_str(), "id": id, "reason": reason })
        }
        Event::Waiting {
            side,
            operation,
            elapsed,
            limit,
        } => waiting(*side, operation, *elapsed, *limit),
        Event::Retrying { cause, delay } => {
            json!({ "type": "retrying", "cause": cause, "delay_seconds": delay.as_secs_f64() })
        }
        Event::CheckpointSaved { watermark } => {
            json!({ "type": "checkpoint_saved", "position": position(*watermark) })
        }
        Event::WritesAfterStop { writes, accepted } => {
            let mut line = late_writes(writes);
            line["type"] = "writes_after_stop".into();
            line["accepted"] = (*accepted).into();
            line
        }
        Event::SourceWritesBlocked => json!({ "type": "source_writes_blocked" }),
        Event::SourceWritesUnblocked => json!({ "type": "source_writes_unblocked" }),
        Event::SourceWriteBlockStays { reason } => json!({ "type": "source_write_block_stays", "reason": reason }),
        Event::Verified { namespace, identical } => {
            json!({ "type": "verified", "namespace": shown(namespace).as_str(), "identical": identical })
        }
        Event::DocumentDiffers { namespace, difference } => {
            let mut line = self::difference(difference);
            line["type"] = "document_differs".into();
            line["namespace"] = shown(namespace).as_str().into();
            line
        }
        Event::ForeignWrite { namespace, writes } => {
            json!({ "type": "foreign_write", "namespace": shown(namespace).as_str(), "writes": writes })
        }
        Event::Missed { events } => json!({ "type": "missed", "events": events }),
        other => json!({ "type": "event", "description": format!("{other:?}") }),
    }
}

pub fn plan(plan: &Plan) -> Value {
    let collections: Vec<Value> = plan
        .collections
        .iter()
        .map(|collection| {
            json!({
                "namespace": shown(&collection.namespace).as_str(),
                "target": shown(&collection.target).as_str(),
                "documents": collection.amount.documents,
                "bytes": collection.amount.bytes,
                "indexes": collection.indexes,
            })
        })
        .collect();
    json!({
        "type": "plan",
        "total": amount(plan.total),
        "indexes": plan.indexes,
        "estimate": plan.estimate.map(estimate),
        "to_drop": plan.to_drop.iter().map(|namespace| shown(namespace).to_string()).collect::<Vec<_>>(),
        "collections": collections,
        "findings": plan.findings.iter().map(finding).collect::<Vec<_>>(),
        "not_migrated": plan.not_migrated,
    })
}

fn estimate(estimate: Estimate) -> Value {
    json!({
        "copy_seconds": estimate.copy_time.as_secs_f64(),
        "bytes_per_second": estimate.bytes_per_second,
        "oplog_bytes": estimate.oplog_bytes,
    })
}

/// A wait before the run exists, in the same form as the run's event for it.
pub fn wait(wait: &Wait) -> Value {
    waiting(wait.side, &wait.operation, wait.elapsed, wait.limit)
}

fn waiting(side: Side, operation: &str, elapsed: Duration, limit: Option<Duration>) -> Value {
    json!({
        "type": "waiting",
        "side": side.as_str(),
        "operation": operation,
        "elapsed_seconds": elapsed.as_secs_f64(),
        "limit_seconds": limit.map(|limit| limit.as_secs_f64()),
    })
}

/// A finding on a separate line, for scripts that look for its code.
pub fn finding_line(found: &Finding) -> Value {
    let mut line = finding(found);
    line["type"] = "finding".into();
    line
}

fn finding(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.to_string(),
        "code": finding.code,
        "message": finding.message,
        "fix": finding.fix,
    })
}

pub fn report(report: &VerifyReport) -> Value {
    let collection = |collection: &ComparedCollection| {
        json!({
            "namespace": shown(&collection.namespace).as_str(),
            "target": shown(&collection.target).as_str(),
            "position": collection.position.map(position),
            "documents": collection.documents,
            "bytes": collection.bytes,
            "difference_count": collection.difference_count,
            "differences": collection.differences.iter().map(difference).collect::<Vec<_>>(),
            "not_compared": collection.not_compared,
        })
    };
    json!({
        "type": "verify_report",
        "identical": report.is_identical(),
        "difference_count": report.difference_count(),
        "collections": report.collections.iter().map(collection).collect::<Vec<_>>(),
    })
}

/// Which document differs, and how. Hashes replace the contents.
fn difference(difference: &Difference) -> Value {
    let (kind, paths) = match &difference.kind {
        DifferenceKind::Missing => ("missing", Vec::new()),
        DifferenceKind::Extra => ("extra", Vec::new()),
        DifferenceKind::Different { paths } => ("different", paths.clone()),
        // A newer version of the library may distinguish more kinds.
        _ => ("unknown", Vec::new()),
    };
    json!({
        "id": format!("{:?}", difference.key),
        "kind": kind,
        "paths": paths,
        "source_hash": difference.source_hash,
        "target_hash": difference.target_hash,
    })
}

pub fn command(command: &str, accepted: bool, message: &str) -> Value {
    json!({ "type": "command", "command": command, "accepted": accepted, "message": message })
}

pub fn summary(ending: &Ending) -> Value {
    let collection = |collection: &CollectionSummary| {
        json!({
            "namespace": shown(&collection.namespace).as_str(),
            "target": shown(&collection.target).as_str(),
            "documents": collection.documents,
            "verified": collection.verified,
            "differences": collection.differences,
        })
    };
    let index = |index: &IndexSummary| {
        json!({
            "namespace": shown(&index.namespace).as_str(),
            "name": index.name,
            "ok": index.ok,
            "reason": index.reason,
        })
    };
    let foreign =
        |foreign: &ForeignWrites| json!({ "namespace": shown(&foreign.namespace).as_str(), "writes": foreign.writes });
    let left = |left: &LeftSelection| {
        json!({
            "from": shown(&left.from).as_str(),
            "to": shown(&left.to).as_str(),
            "position": position(left.position),
        })
    };
    json!({
        "type": "summary",
        "outcome": ending.outcome,
        "position": ending.position.map(position),
        "collections": ending.collections.iter().map(collection).collect::<Vec<_>>(),
        "indexes": ending.indexes.iter().map(index).collect::<Vec<_>>(),
        "late_writes": late_writes(&ending.late_writes),
        "resyncs": ending.resyncs,
        "foreign_writes": ending.foreign_writes.iter().map(foreign).collect::<Vec<_>>(),
        "left_selection": ending.left_selection.iter().map(left).collect::<Vec<_>>(),
        "not_migrated": ending.not_migrated,
        "not_kept": ending.not_kept.iter().map(not_kept).collect::<Vec<_>>(),
        "error": ending.error,
        "seconds": ending.took.map(|took| took.as_secs_f64()),
        "downtime_seconds": ending.downtime.map(|downtime| downtime.as_secs_f64()),
    })
}

fn not_kept(lost: &NotKept) -> Value {
    json!({
        "namespace": shown(&lost.namespace).as_str(),
        "index": lost.index,
        "option": lost.option,
        "code": lost.code,
        "reason": lost.reason,
    })
}

/// The number of writes, and some of them individually.
fn late_writes(writes: &LateWrites) -> Value {
    let named: Vec<Value> = writes
        .named
        .iter()
        .map(|write| {
            json!({
                "namespace": shown(&write.namespace).as_str(),
                "id": write.id,
                "position": position(write.position),
            })
        })
        .collect();
    json!({ "count": writes.count, "named": named })
}

fn position(position: Position) -> Value {
    json!({ "t": position.time, "i": position.increment })
}

fn amount(amount: Amount) -> Value {
    json!({ "documents": amount.documents, "bytes": amount.bytes })
}
