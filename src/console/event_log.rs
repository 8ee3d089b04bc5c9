//! The last events of a migration, for readers that come, go and come back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use crate::console::lock;
use crate::model::format;
use crate::report::Event;

/// Maximum number of events kept.
const KEPT: usize = 1000;

/// Maximum number of bytes of the events kept. A single event may be larger.
const KEPT_BYTES: usize = 1 << 20;

/// Maximum number of different warnings that are counted.
const WARNINGS: usize = 1000;

/// A ring of events with consecutive numbers. Readers pull from it, so a slow reader holds no memory.
#[derive(Debug)]
pub(super) struct EventLog {
    log: Mutex<Log>,
    /// Counts the changes, to wake readers.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Number of the last event.
    last: u64,
    /// The last event that is not kept, and how many there were.
    passing: Option<(u64, Entry)>,
    warnings: std::collections::BTreeSet<String>,
}

/// An event as text.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its number, from 1 on; `None` for one that is not kept.
    pub id: Option<u64>,
    pub name: String,
    pub data: Arc<str>,
}

/// How far a reader has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// Number of the last event that was read.
    read: u64,
    passed: u64,
}

impl Cursor {
    /// After the event with this number.
    pub fn after(read: u64) -> Self {
        Self { read, passed: 0 }
    }
}

/// What a reader gets next.
#[derive(Debug)]
pub(super) enum Next {
    Event(Entry),
    /// So many events are gone.
    Missed(u64),
}

/// An event with its time.
#[derive(Serialize)]
struct Timed<'a> {
    #[serde(serialize_with = "format::time")]
    at: SystemTime,
    #[serde(flatten)]
    event: &'a Event,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl EventLog {
    /// Adds an event. A checkpoint is saved every second, which would soon push everything else out: only the last such event is known.
    pub fn push(&self, event: &Event) {
        let at = SystemTime::now();
        let Ok(data) = serde_json::to_string(&Timed { at, event }) else {
            return;
        };
        let name = name_of(event);
        let mut log = lock(&self.log);
        if let Some(warning) = warning(event, &name)
            && log.warnings.len() < WARNINGS
        {
            log.warnings.insert(warning);
        }
        if matches!(event, Event::CheckpointSaved { .. }) {
            let count = log.passing.as_ref().map_or(0, |(count, _)| *count) + 1;
            let entry = Entry {
                id: None,
                name,
                data: data.into(),
            };
            log.passing = Some((count, entry));
        } else {
            log.last += 1;
            log.bytes += data.len();
            let entry = Entry {
                id: Some(log.last),
                name,
                data: data.into(),
            };
            log.entries.push_back(entry);
            while log.entries.len() > 1 && (log.entries.len() > KEPT || log.bytes > KEPT_BYTES) {
                if let Some(gone) = log.entries.pop_front() {
                    log.bytes -= gone.data.len();
                }
            }
        }
        drop(log);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Returns what a reader has not read yet; `None` if it has read everything.
    pub fn next(&self, cursor: &mut Cursor) -> Option<Next> {
        let log = lock(&self.log);
        // The number is of an earlier process, whose events are gone.
        if cursor.read > log.last {
            *cursor = Cursor::default();
        }
        let first = log.last + 1 - log.entries.len() as u64;
        if cursor.read + 1 < first {
            let missed = first - cursor.read - 1;
            cursor.read = first - 1;
            return Some(Next::Missed(missed));
        }
        if cursor.read < log.last {
            let index = usize::try_from(cursor.read + 1 - first).unwrap_or(usize::MAX);
            cursor.read += 1;
            return log.entries.get(index).cloned().map(Next::Event);
        }
        let (count, entry) = log.passing.as_ref()?;
        if *count == cursor.passed {
            return None;
        }
        cursor.passed = *count;
        Some(Next::Event(entry.clone()))
    }

    /// Returns a receiver that changes with each new event, and is closed when the log is gone.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Number of different warnings so far.
    pub fn warnings(&self) -> usize {
        lock(&self.log).warnings.len()
    }

    /// Forgets the warnings of earlier runs.
    pub fn begin_run(&self) {
        lock(&self.log).warnings.clear();
    }
}

/// The variant in snake case.
fn name_of(event: &Event) -> String {
    match serde_json::to_value(event) {
        Ok(value) => value["type"].as_str().unwrap_or_default().to_owned(),
        Err(_) => String::new(),
    }
}

/// What counts as one warning: each occurrence of some events, and the mere existence of those that repeat.
fn warning(event: &Event, name: &str) -> Option<String> {
    match event {
        Event::IndexFailed { .. }
        | Event::DocumentRefused { .. }
        | Event::LeftSelection { .. }
        | Event::Resync { .. }
        | Event::CatalogChangeMet { .. } => Some(event.to_string().chars().take(200).collect()),
        Event::FallingBehind { .. }
        | Event::OplogWindowShort { .. }
        | Event::CutoverWindowShort { .. }
        | Event::ForeignWrite { .. }
        | Event::ForeignWritesNotWatched { .. }
        | Event::RuleFailed { .. }
        | Event::UsersNotCarried { .. }
        | Event::SourceWriteBlockStays { .. }
        | Event::HookFailed { .. }
        | Event::WritesAfterStop { .. } => Some(name.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::docs::format_test::events;
    use crate::report::Phase;
    use crate::test_util::at;

    fn phase() -> Event {
        Event::PhaseChanged { phase: Phase::Copy }
    }

    fn ids(log: &EventLog, cursor: &mut Cursor) -> Vec<Result<u64, u64>> {
        let next = || {
            log.next(cursor).map(|next| match next {
                Next::Event(entry) => Ok(entry.id.unwrap_or_default()),
                Next::Missed(count) => Err(count),
            })
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_reader_gets_each_event_once_and_is_told_what_is_gone() {
        let log = EventLog::default();
        let mut cursor = Cursor::default();
        (0..3).for_each(|_| log.push(&phase()));
        assert_eq!(ids(&log, &mut cursor), [Ok(1), Ok(2), Ok(3)]);
        assert_eq!(ids(&log, &mut cursor), []);
        (0..KEPT + 5).for_each(|_| log.push(&phase()));
        let read = ids(&log, &mut cursor);
        assert_eq!((read[0], read[1], read.len()), (Err(5), Ok(9), KEPT + 1));
        // One that comes back with the number of an event of another process begins again.
        let mut later = Cursor {
            read: 1 << 40,
            ..Cursor::default()
        };
        assert_eq!(ids(&log, &mut later)[0], Err(8));
    }

    #[test]
    fn checkpoints_push_nothing_out() {
        let log = EventLog::default();
        log.push(&phase());
        (0..2 * KEPT).for_each(|_| log.push(&Event::CheckpointSaved { watermark: at(1) }));
        let mut cursor = Cursor::default();
        assert_eq!(ids(&log, &mut cursor), [Ok(1), Ok(0)]);
        assert_eq!(ids(&log, &mut cursor), []);
    }

    #[test]
    fn large_events_are_bounded_by_bytes() {
        let log = EventLog::default();
        let reason = "x".repeat(KEPT_BYTES / 4);
        (0..9).for_each(|_| log.push(&Event::ForeignWritesNotWatched { reason: reason.clone() }));
        assert_eq!(ids(&log, &mut Cursor::default()), [Err(6), Ok(7), Ok(8), Ok(9)]);
        assert_eq!(log.warnings(), 1);
    }

    /// The page counts the warnings of a recording by itself.
    #[test]
    fn the_page_knows_what_counts_as_a_warning() {
        let page = include_str!("page/replay.js");
        let names = |list: &str| -> BTreeSet<String> {
            let (_, after) = page.split_once(list).unwrap();
            let (names, _) = after.split_once(']').unwrap();
            names.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let (mut each, mut repeated) = (BTreeSet::new(), BTreeSet::new());
        for event in events() {
            let name = name_of(&event);
            match warning(&event, &name) {
                Some(warning) if warning == name => repeated.insert(name),
                Some(_) => each.insert(name),
                None => false,
            };
        }
        assert_eq!(names("const WARNINGS = new Set(["), each);
        assert_eq!(names("const REPEATED = new Set(["), repeated);
    }

    #[test]
    fn what_keeps_repeating_counts_as_one_warning() {
        let log = EventLog::default();
        for reason in ["first", "second"] {
            let reason = || reason.to_owned();
            log.push(&Event::UsersNotCarried { reason: reason() });
            log.push(&Event::HookFailed {
                hook: "before_cutover",
                reason: reason(),
            });
        }
        assert_eq!(log.warnings(), 2);
    }
}
