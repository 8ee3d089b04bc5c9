//! What is said of a history that no longer holds what a tail needs.

use super::OPERATION;
use super::position::no_longer;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;

/// Examines an error that may mean that the cursor fell out of the oplog. That can also happen on its way to the first entry. The entry to
/// resume after may still exist, in which case a new cursor finds it, or not. `oldest` finds the oldest entry.
pub(crate) async fn fell_out(error: Error, after: Position, oldest: impl Future<Output = Result<Position>>) -> Error {
    if error.kind() != ErrorKind::PositionLost {
        return error;
    }
    match oldest.await {
        Ok(oldest) if oldest.timestamp() > after.timestamp() => lost(after, Ok(oldest)),
        Ok(_) => error.with_retryable(true),
        Err(error) => error,
    }
}

/// Returns the error for a history that does not hold the entry to resume after.
pub(crate) fn lost(after: Position, oldest: Result<Position>) -> Error {
    let message = match oldest {
        Ok(oldest) if oldest.timestamp() > after.timestamp() => no_longer(after, oldest),
        Ok(oldest) => format!(
            "the oplog does not contain {after}, although its oldest entry is {oldest}: it was rolled back or restored, or belongs to \
             another replica set; start at a position that it contains"
        ),
        // This error is the one that matters, whether or not its reason can be determined.
        Err(_) => format!("the oplog does not contain {after}; start at a position that it contains"),
    };
    Error::new(ErrorKind::PositionLost, OPERATION, message).with_context("position", after)
}

/// Returns the error for a history that does not hold `position`, which a majority of the set had.
#[cfg(feature = "legacy")]
pub(crate) fn rolled_back(position: Position) -> Error {
    let message = format!(
        "the oplog does not contain {position}, which a majority of the set had: it was rolled back in an election after documents may have \
         been read as of it; compare everything again, as `LostPosition::Resync` does"
    );
    Error::new(ErrorKind::PositionLost, OPERATION, message).with_context("position", position)
}

/// Returns the error for a history that does not hold `part`, which belongs to a transaction that ends after `last`.
pub(crate) fn part_lost(part: Position, last: Position) -> Error {
    let message = format!(
        "the oplog no longer contains {part}, a part of a transaction that ends after {last}; start after the end of that transaction, or at \
         a position before its beginning"
    );
    Error::new(ErrorKind::PositionLost, OPERATION, message)
}
