//! The meaning of server error codes: which errors may be temporary, and why.
//!
//! This is the only such table. A code that is not in it is final: the server refuses the request, and would refuse it again. The names are
//! those of the servers' `error_codes.yml`.

use Meaning::{Blocked, PositionLost, Retried, Snapshot, Unauthorized};

/// What a code means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The same call may succeed later. It was not carried out, or does no harm when it is carried out twice.
    Retried,
    /// The snapshot is not available; a newer one may be.
    Snapshot,
    /// The history no longer holds the position.
    PositionLost,
    /// The server takes no writes until somebody fixes that.
    Blocked,
    /// Credentials or a privilege are missing.
    Unauthorized,
}

/// The table row of one code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub code: i32,
    /// The code's name, used only in tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "says what the number is"))]
    pub name: &'static str,
    pub meaning: Meaning,
    /// The reason, as shown in messages. For [`Blocked`], what to do about it.
    pub why: &'static str,
}

/// Returns the row of a code, if it has one.
pub(crate) fn row(code: i32) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.code == code)
}

/// Whether the same call may succeed later.
pub(crate) fn is_retried(code: i32) -> bool {
    row(code).is_some_and(|row| row.meaning == Retried)
}

const NETWORK: &str = "members of the set cannot reach each other";
const SHUTDOWN: &str = "the server is shutting down";
const ELECTION: &str = "the set is electing a primary";
const KILLED: &str = "somebody ended the operation (`killOp`)";
const LOCK: &str = "another operation holds the lock";
const TIME: &str = "the operation took longer than the server allows";
const CURSOR: &str = "the server has closed the cursor";
const QUERY: &str = "the collection or its indexes changed under the query";
const BUILD: &str = "an index is being built there";
const TRANSACTION: &str = "the server has ended the transaction";
const SHARDING: &str = "the server is refreshing its sharding metadata";
const OVERLOADED: &str = "the server is overloaded";

/// Every code that is not final.
pub(crate) const ROWS: &[Row] = &[
    is(6, "HostUnreachable", Retried, NETWORK),
    is(7, "HostNotFound", Retried, NETWORK),
    is(13, "Unauthorized", Unauthorized, "a privilege is missing"),
    is(18, "AuthenticationFailed", Unauthorized, "the credentials are refused"),
    is(24, "LockTimeout", Retried, LOCK),
    is(43, "CursorNotFound", Retried, CURSOR),
    is(46, "LockBusy", Retried, LOCK),
    is(50, "MaxTimeMSExpired", Retried, TIME),
    is(63, "StaleShardVersion", Retried, SHARDING),
    is(
        64,
        "WriteConcernTimeout",
        Retried,
        "the members that make a majority do not follow the primary",
    ),
    is(89, "NetworkTimeout", Retried, NETWORK),
    is(91, "ShutdownInProgress", Retried, SHUTDOWN),
    is(94, "NotYetInitialized", Retried, "the member is starting"),
    is(112, "WriteConflict", Retried, LOCK),
    is(
        117,
        "ConflictingOperationInProgress",
        Retried,
        "a conflicting operation is in progress",
    ),
    is(133, "FailedToSatisfyReadPreference", Retried, NETWORK),
    is(
        134,
        "ReadConcernMajorityNotAvailableYet",
        Retried,
        "the member is starting",
    ),
    is(
        136,
        "CappedPositionLost",
        PositionLost,
        "the data to read next has been removed",
    ),
    is(150, "StaleEpoch", Retried, SHARDING),
    is(175, "QueryPlanKilled", Retried, QUERY),
    is(187, "LinearizableReadConcernError", Retried, ELECTION),
    is(189, "PrimarySteppedDown", Retried, ELECTION),
    is(202, "NetworkInterfaceExceededTimeLimit", Retried, NETWORK),
    is(
        211,
        "KeyNotFound",
        Retried,
        "the set has not yet created the keys that sign its times",
    ),
    is(215, "DatabaseDropPending", Retried, "the database is being dropped"),
    is(225, "TransactionTooOld", Retried, TRANSACTION),
    is(234, "RetryChangeStream", Retried, CURSOR),
    is(237, "CursorKilled", Retried, CURSOR),
    is(
        239,
        "SnapshotTooOld",
        Snapshot,
        "the snapshot is older than the server's history",
    ),
    is(
        246,
        "SnapshotUnavailable",
        Snapshot,
        "the server does not have the snapshot",
    ),
    is(
        250,
        "StaleChunkHistory",
        Snapshot,
        "the snapshot is older than the server's history",
    ),
    is(251, "NoSuchTransaction", Retried, TRANSACTION),
    is(
        261,
        "TooManyLogicalSessions",
        Retried,
        "the server has too many sessions",
    ),
    is(262, "ExceededTimeLimit", Retried, TIME),
    is(
        267,
        "PreparedTransactionInProgress",
        Retried,
        "a prepared transaction holds the document",
    ),
    is(276, "IndexBuildAborted", Retried, BUILD),
    is(279, "ClientDisconnect", Retried, "the connection broke"),
    is(
        280,
        "ChangeStreamFatalError",
        PositionLost,
        "the change stream cannot continue",
    ),
    is(285, "IndexBuildAlreadyInProgress", Retried, BUILD),
    is(
        286,
        "ChangeStreamHistoryLost",
        PositionLost,
        "the history no longer holds the position",
    ),
    is(290, "TransactionExceededLifetimeLimitSeconds", Retried, TRANSACTION),
    is(
        303,
        "SplitHorizonChange",
        Retried,
        "the set's configuration has changed",
    ),
    is(314, "ObjectIsBusy", Retried, LOCK),
    is(
        355,
        "InterruptedDueToStorageChange",
        Retried,
        "the server's storage is being changed",
    ),
    is(365, "TemporarilyUnavailable", Retried, "the server's cache is full"),
    is(
        371,
        "UserWritesBlocked",
        Blocked,
        "its writes are blocked: unblock them with `setUserWriteBlockMode: 1, global: false`",
    ),
    is(402, "ResourceExhausted", Retried, OVERLOADED),
    is(407, "PooledConnectionAcquisitionExceededTimeLimit", Retried, OVERLOADED),
    is(433, "AdmissionQueueOverflow", Retried, OVERLOADED),
    is(449, "RateLimitExceeded", Retried, OVERLOADED),
    is(450, "PooledConnectionAcquisitionRejected", Retried, OVERLOADED),
    is(462, "IngressRequestRateLimitExceeded", Retried, OVERLOADED),
    is(8000, "AtlasError", Unauthorized, "the service does not allow it"),
    is(9001, "SocketException", Retried, NETWORK),
    is(10058, "LegacyNotPrimary", Retried, ELECTION),
    is(10107, "NotWritablePrimary", Retried, ELECTION),
    is(11600, "InterruptedAtShutdown", Retried, SHUTDOWN),
    is(11601, "Interrupted", Retried, KILLED),
    is(11602, "InterruptedDueToReplStateChange", Retried, ELECTION),
    is(12586, "BackgroundOperationInProgressForDatabase", Retried, BUILD),
    is(12587, "BackgroundOperationInProgressForNamespace", Retried, BUILD),
    is(13388, "StaleConfig", Retried, SHARDING),
    is(13435, "NotPrimaryNoSecondaryOk", Retried, ELECTION),
    is(13436, "NotPrimaryOrSecondary", Retried, ELECTION),
    is(14031, "OutOfDiskSpace", Blocked, "its disk is full: make room on it"),
    is(46841, "ClientMarkedKilled", Retried, KILLED),
    is(91331, "RetriableRemoteCommandFailure", Retried, NETWORK),
    is(
        10_045_600,
        "InterruptedDueToFCVChange",
        Retried,
        "its feature compatibility version is being changed",
    ),
];

const fn is(code: i32, name: &'static str, meaning: Meaning, why: &'static str) -> Row {
    Row {
        code,
        name,
        meaning,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_one_row_and_each_row_a_reason() {
        assert!(ROWS.is_sorted_by(|left, right| left.code < right.code));
        assert!(ROWS.iter().all(|row| !row.why.is_empty() && !row.name.is_empty()));
    }

    #[test]
    fn codes_that_refuse_a_call_for_what_it_is_are_final() {
        // BadValue, NamespaceNotFound, PathNotViable, OperationFailed, CannotCreateIndex, InvalidOptions, UnsatisfiableWriteConcern,
        // DocumentValidationFailure, CommandNotSupportedOnView, AtomicityFailure, OperationNotSupportedInTransaction, BSONObjectTooLarge,
        // DuplicateKey.
        for code in [2, 26, 28, 96, 67, 72, 100, 121, 166, 226, 263, 10334, 11000] {
            assert!(row(code).is_none(), "{code}");
        }
    }

    /// Grouped by what happened, not by what the table says.
    #[test]
    fn codes_that_may_pass_are_retried() {
        for (what, codes) in [
            ("the network", &[6, 7, 89, 133, 202, 279, 9001, 91331] as &[i32]),
            ("a shutdown or a start", &[91, 94, 134, 211, 11600]),
            ("an election", &[187, 189, 303, 10058, 10107, 11602, 13435, 13436]),
            ("a majority that is behind", &[64]),
            ("a lock", &[24, 46, 112, 117, 215, 267, 314]),
            ("a build of an index", &[276, 285, 12586, 12587]),
            ("a limit of time, or `killOp`", &[50, 262, 11601, 46841]),
            (
                "a cursor, session or transaction that was ended",
                &[43, 175, 225, 234, 237, 251, 261, 290],
            ),
            ("sharding", &[63, 150, 13388]),
            ("overload", &[365, 402, 407, 433, 449, 450, 462]),
            ("storage or version being changed", &[355, 10_045_600]),
        ] {
            for code in codes {
                assert!(is_retried(*code), "{what}: {code}");
            }
        }
    }
}
