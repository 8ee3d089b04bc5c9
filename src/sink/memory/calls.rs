//! The calls of a sink in memory, where tests inject faults.

use crate::error::Error;

/// Points of a [`MemorySink`](super::MemorySink) where a test can inject faults and gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SinkCall {
    /// [`Sink::describe`](crate::Sink::describe)
    Describe,
    /// [`Sink::collections`](crate::Sink::collections)
    Collections,
    /// [`Sink::identities`](crate::Sink::identities)
    Identities,
    /// [`Sink::execute`](crate::Sink::execute)
    Execute,
    /// [`Sink::create_index`](crate::Sink::create_index)
    CreateIndex,
    /// [`Sink::insert`](crate::Sink::insert)
    Insert,
    /// [`Sink::apply`](crate::Sink::apply)
    Apply,
    /// [`Sink::flush`](crate::Sink::flush)
    Flush,
    /// [`Sink::read`](crate::Sink::read)
    Read,
    /// A read that is about to yield a batch.
    ReadBatch,
    /// [`Sink::read_documents`](crate::Sink::read_documents)
    ReadDocuments,
    /// [`Sink::digest`](crate::Sink::digest)
    Digest,
    /// [`Sink::load_record`](crate::Sink::load_record)
    LoadRecord,
    /// [`Sink::save_record`](crate::Sink::save_record)
    SaveRecord,
    /// [`Sink::delete_record`](crate::Sink::delete_record)
    DeleteRecord,
    /// [`Sink::accounts`](crate::Sink::accounts)
    Accounts,
    /// [`Sink::change_accounts`](crate::Sink::change_accounts)
    ChangeAccounts,
}

/// Calls that fail once they have written some of their documents.
#[derive(Debug, Default)]
pub(super) struct Cuts(Vec<Cut>);

#[derive(Debug)]
struct Cut {
    call: SinkCall,
    /// Number of documents that are written.
    documents: usize,
    error: Error,
}

impl Cuts {
    /// Makes the next call of this kind with more than `documents` documents fail once it has written that many.
    pub fn plan(&mut self, call: SinkCall, documents: usize, error: Error) {
        self.0.push(Cut { call, documents, error });
    }

    /// Takes the cut for a call with `documents` documents, if there is one: how many it writes, and its error.
    pub fn take(&mut self, call: SinkCall, documents: usize) -> Option<(usize, Error)> {
        let is_due = |cut: &Cut| cut.call == call && cut.documents < documents;
        let cut = self.0.remove(self.0.iter().position(is_due)?);
        Some((cut.documents, cut.error))
    }
}
