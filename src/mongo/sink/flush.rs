//! The flush, and the terms of the primaries that acknowledged writes before it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::{Document, rawdoc};
use futures::TryFutureExt;

use super::connection::TargetConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::model::SharedCalls;

/// The election terms in which writes were acknowledged since the last flush.
///
/// A write that only the primary acknowledged is lost if another primary is elected without it. Within one term there is one primary. If a
/// majority has one of its writes, the majority also has everything that it wrote before.
#[derive(Debug, Default)]
pub(super) struct Terms(Mutex<Option<Span>>);

/// Lowest and highest term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    lowest: i64,
    highest: i64,
}

impl Span {
    fn with(self, other: Span) -> Span {
        Span {
            lowest: self.lowest.min(other.lowest),
            highest: self.highest.max(other.highest),
        }
    }
}

impl Terms {
    /// Records the term of a reply that acknowledged writes. This happens before the caller gets the reply, so that a flush that the caller
    /// starts afterwards includes the term.
    pub fn acknowledged(&self, term: i64) {
        self.merge(Span {
            lowest: term,
            highest: term,
        });
    }

    fn merge(&self, span: Span) {
        let mut terms = self.lock();
        *terms = Some(terms.map_or(span, |terms| terms.with(span)));
    }

    /// Takes the terms recorded so far. Terms recorded from now on belong to the next flush.
    fn take(&self) -> Taken<'_> {
        Taken {
            terms: self,
            span: self.lock().take(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Span>> {
        // A span changes in one assignment, so it is consistent even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Terms taken by a flush. Dropping them puts them back, unless the flush has completed. A flush that fails or is dropped forgets nothing.
struct Taken<'a> {
    terms: &'a Terms,
    span: Option<Span>,
}

impl Taken<'_> {
    /// Completes the flush, whatever the result. Returns `true` if everything was acknowledged in `term`.
    fn settle(mut self, term: i64) -> bool {
        self.span.take().is_none_or(|span| {
            span == Span {
                lowest: term,
                highest: term,
            }
        })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            self.terms.merge(span);
        }
    }
}

/// Returns the term of the primary that sent a reply: the last 8 bytes of its election id, or the term of its newest entry.
pub(super) fn term_of(reply: &Document) -> Option<i64> {
    if let Ok(id) = reply.get_object_id("electionId") {
        let [_, _, _, _, term @ ..] = id.bytes();
        return Some(i64::from_be_bytes(term));
    }
    reply.get_document("opTime").ok()?.get_i64("t").ok()
}

/// The flushes of a target, of whichever migration. They run one at a time, so that each knows of the losses that those before it have found.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    calls: SharedCalls,
    /// Number of flushes that have found a loss.
    losses: AtomicU64,
}

impl Flushes {
    pub fn losses(&self) -> u64 {
        self.losses.load(SeqCst)
    }
}

/// Makes everything acknowledged so far durable.
pub(super) async fn flush(target: &TargetConnection) -> Result<()> {
    let flushes = target.flushes();
    let flush = flush_now(target).inspect_err(|error| {
        if error.kind() == ErrorKind::PrimaryChanged {
            flushes.losses.fetch_add(1, SeqCst);
        }
    });
    flushes.calls.run(flush).await
}

/// Flushes with one write that a majority has to journal.
async fn flush_now(target: &TargetConnection) -> Result<()> {
    const OPERATION: &str = "flush the target";
    let taken = target.terms().take();
    // The counter ensures that there is something to write. The reply is then that of a write in the primary's own term.
    let update = rawdoc! {
        "update": "flush",
        "updates": [{ "q": { "_id": "flush" }, "u": { "$inc": { "flushes": 1_i64 } }, "upsert": true }],
    };
    let mut reply = target
        .write_durably(OPERATION, crate::METADATA_DATABASE, &update)
        .await?;
    if !reply.errors.is_empty() {
        // Two concurrent first flushes insert the same document. The one that lost finds it on its second attempt.
        reply = target
            .write_durably(OPERATION, crate::METADATA_DATABASE, &update)
            .await?;
    }
    if let Some(error) = reply.errors.first() {
        return Err(Error::new(ErrorKind::Server, OPERATION, error.message.clone()).with_context("code", error.code));
    }
    let term = reply.term.ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            OPERATION,
            "the reply does not name the primary's term",
        )
    })?;
    if taken.settle(term) {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::PrimaryChanged,
            OPERATION,
            "the target has elected another primary since the last flush; what the old one acknowledged may have been rolled back",
        )
        .with_context("term", term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn writes_of_one_term_are_durable_with_a_flush_in_it() {
        let terms = Terms::default();
        assert!(terms.take().settle(3), "nothing was written");
        terms.acknowledged(3);
        terms.acknowledged(3);
        assert!(terms.take().settle(3));
    }

    #[test]
    fn a_changed_term_is_told_once() {
        let terms = Terms::default();
        terms.acknowledged(3);
        assert!(!terms.take().settle(4));
        assert!(terms.take().settle(4));
        terms.acknowledged(4);
        terms.acknowledged(5);
        assert!(!terms.take().settle(5));
    }

    #[test]
    fn a_flush_that_fails_forgets_nothing() {
        let terms = Terms::default();
        terms.acknowledged(3);
        drop(terms.take());
        assert!(!terms.take().settle(4));
    }

    #[test]
    fn what_is_acknowledged_during_a_flush_is_left_to_the_next() {
        let terms = Terms::default();
        terms.acknowledged(4);
        let taken = terms.take();
        terms.acknowledged(3);
        assert!(taken.settle(4));
        assert!(!terms.take().settle(4));
    }

    #[test]
    fn the_election_id_holds_the_term() {
        let id = bson::oid::ObjectId::parse_str("7fffffff000000000000000c").unwrap();
        assert_eq!(term_of(&doc! { "electionId": id }), Some(12));
        assert_eq!(term_of(&doc! { "opTime": { "t": 7_i64 } }), Some(7));
        assert_eq!(term_of(&doc! {}), None);
    }
}
