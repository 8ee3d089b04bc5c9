//! Queries as commands, and as the older messages have them. Pure.

use bson::raw::{RawDocumentBuf, cstr};
use bson::rawdoc;

use super::find::{Find, FindMode};
use super::wire::QueryFlags;

/// The command `find`.
pub(super) fn command_of(find: &Find) -> RawDocumentBuf {
    let mut command = rawdoc! { "find": find.namespace.1.as_str(), "filter": find.filter.clone() };
    for (name, value) in [
        (cstr!("projection"), &find.projection),
        (cstr!("sort"), &find.sort),
        (cstr!("hint"), &find.hint),
        (cstr!("min"), &find.min),
        (cstr!("max"), &find.max),
        (cstr!("readConcern"), &find.read_concern),
        (cstr!("collation"), &find.collation),
    ] {
        if let Some(value) = value {
            command.append(name, value.clone());
        }
    }
    for (name, value) in [(cstr!("batchSize"), find.batch_size), (cstr!("limit"), find.limit)] {
        if let Some(value) = value {
            command.append(name, i64::from(value));
        }
    }
    if let Some(limit) = find.max_time {
        command.append(cstr!("maxTimeMS"), milliseconds(limit));
    }
    let is_tail = matches!(find.mode, FindMode::TailAwait { .. });
    for (name, is_set) in [
        (cstr!("tailable"), is_tail),
        (cstr!("awaitData"), is_tail),
        (cstr!("oplogReplay"), find.oplog_replay),
        (cstr!("noCursorTimeout"), find.no_cursor_timeout),
    ] {
        if is_set {
            command.append(name, true);
        }
    }
    command
}

/// The command `getMore`.
pub(super) fn get_more_of(find: &Find, cursor: i64) -> RawDocumentBuf {
    let mut command = rawdoc! { "getMore": cursor, "collection": find.namespace.1.as_str() };
    if let Some(size) = find.batch_size {
        command.append(cstr!("batchSize"), i64::from(size));
    }
    if let FindMode::TailAwait { await_ms } = find.mode {
        command.append(cstr!("maxTimeMS"), i64::from(await_ms));
    }
    command
}

/// The document of an older query.
pub(super) fn query_of(find: &Find) -> RawDocumentBuf {
    let mut query = rawdoc! { "$query": find.filter.clone() };
    for (name, value) in [
        (cstr!("$orderby"), &find.sort),
        (cstr!("$hint"), &find.hint),
        (cstr!("$min"), &find.min),
        (cstr!("$max"), &find.max),
    ] {
        if let Some(value) = value {
            query.append(name, value.clone());
        }
    }
    if let Some(limit) = find.max_time {
        query.append(cstr!("$maxTimeMS"), milliseconds(limit));
    }
    query
}

/// The flags of an older query.
pub(super) fn flags_of(find: &Find, slave_ok: bool) -> QueryFlags {
    let is_tail = matches!(find.mode, FindMode::TailAwait { .. });
    QueryFlags {
        tailable: is_tail,
        await_data: is_tail,
        slave_ok,
        oplog_replay: find.oplog_replay,
        no_cursor_timeout: find.no_cursor_timeout,
    }
}

impl Find {
    /// Number of documents that an older query asks for first. 1 means to servers that the cursor is closed after it, as negative numbers
    /// do.
    pub(super) fn first_batch(&self) -> i32 {
        match (self.limit.filter(|limit| *limit > 0), self.batch_size) {
            (Some(1), _) => -1,
            (Some(limit), size) => small(limit.min(size.unwrap_or(limit)).max(2)),
            (None, Some(size)) => small(size.max(2)),
            (None, None) => 0,
        }
    }

    /// Number of documents that an older query asks for once it has `returned` some. 0 lets the server choose.
    pub(super) fn later_batch(&self, returned: u64) -> i32 {
        let size = self.batch_size.map(u64::from).filter(|size| *size > 0);
        let rest = self
            .limit
            .filter(|limit| *limit > 0)
            .map(|limit| u64::from(limit).saturating_sub(returned));
        let asked = match (size, rest) {
            (Some(size), Some(rest)) => size.min(rest),
            (size, rest) => size.or(rest).unwrap_or_default(),
        };
        i32::try_from(asked).unwrap_or(i32::MAX)
    }
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn milliseconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn full() -> Find {
        Find {
            projection: Some(rawdoc! { "p": 1 }),
            sort: Some(rawdoc! { "s": 1 }),
            hint: Some(rawdoc! { "h": 1 }),
            min: Some(rawdoc! { "h": 2 }),
            max: Some(rawdoc! { "h": 3 }),
            batch_size: Some(7),
            mode: FindMode::TailAwait { await_ms: 500 },
            oplog_replay: true,
            no_cursor_timeout: true,
            max_time: Some(Duration::from_secs(2)),
            ..Find::new("d", "c", rawdoc! { "f": 1 })
        }
    }

    #[test]
    fn a_query_is_the_same_as_command_and_as_message() {
        let expected = rawdoc! {
            "find": "c", "filter": { "f": 1 }, "projection": { "p": 1 }, "sort": { "s": 1 }, "hint": { "h": 1 }, "min": { "h": 2 },
            "max": { "h": 3 }, "batchSize": 7_i64, "maxTimeMS": 2000_i64, "tailable": true, "awaitData": true, "oplogReplay": true,
            "noCursorTimeout": true,
        };
        assert_eq!(command_of(&full()), expected);
        let expected = rawdoc! {
            "$query": { "f": 1 }, "$orderby": { "s": 1 }, "$hint": { "h": 1 }, "$min": { "h": 2 }, "$max": { "h": 3 }, "$maxTimeMS": 2000_i64,
        };
        assert_eq!(query_of(&full()), expected);
        let flags = flags_of(&full(), false);
        assert!(flags.tailable && flags.await_data && flags.oplog_replay && flags.no_cursor_timeout && !flags.slave_ok);
    }

    #[test]
    fn a_later_batch_asks_for_nothing_else() {
        let expected = rawdoc! { "getMore": 5_i64, "collection": "c", "batchSize": 7_i64, "maxTimeMS": 500_i64 };
        assert_eq!(get_more_of(&full(), 5), expected);
        let plain = Find::new("d", "c", rawdoc! {});
        assert_eq!(get_more_of(&plain, 5), rawdoc! { "getMore": 5_i64, "collection": "c" });
        assert_eq!(
            flags_of(&plain, true),
            QueryFlags {
                slave_ok: true,
                ..QueryFlags::default()
            }
        );
    }

    #[test]
    fn older_queries_keep_to_batch_and_limit() {
        for (batch, limit, first, later) in [
            (None, None, 0, 0),
            (Some(1), None, 2, 1),
            (Some(0), None, 2, 0),
            (Some(100), None, 100, 100),
            (None, Some(1), -1, 0),
            (None, Some(50), 50, 40),
            (Some(20), Some(50), 20, 20),
            (Some(60), Some(50), 50, 40),
        ] {
            let find = Find {
                batch_size: batch,
                limit,
                ..Find::new("d", "c", rawdoc! {})
            };
            assert_eq!(
                (find.first_batch(), find.later_batch(10)),
                (first, later),
                "{batch:?} {limit:?}"
            );
        }
    }
}
