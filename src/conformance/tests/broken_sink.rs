//! Sinks that each break one sentence of the contract, which the suite must notice.

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::sort_fields;
use crate::conformance::check_sink;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    Account, AccountChanges, Batch, Collection, CollectionKind, Deployment, Layered, Namespace, Operation, Position,
    Write,
};
use crate::order::Key;
use crate::sink::{CatalogCommand, MemorySink, Refusal, RefusalReason, Sink, SinkLayer, SinkRead, WritesSeen};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    IdentityChanges,
    CreateReplaces,
    ViewsAreCollections,
    DropOfTheMissingFails,
    RenameOfTheMissingDrops,
    ModifyDoesNothing,
    IndexLosesOptions,
    UniqueIsNotChecked,
    FieldsAreSorted,
    InsertKeepsWhatIsThere,
    WritesAreReversed,
    DeltasAreReplacements,
    DeltaOnTheMissingIsDropped,
    RefusalStopsTheRest,
    DuplicatesHaveNoIndex,
    HalfOfALargeBatchIsLost,
    LowerEndIsInRange,
    NaturalOrderIsLost,
    BatchesAreLarge,
    PointsLoseOne,
    FlushOfNothingFails,
    DigestIsConstant,
    RecordsAreListed,
    FenceIsIgnored,
    DeletedRecordsStay,
    OwnWritesAreTold,
    WatchBeginsAnew,
    UsersAreNotReplaced,
    DroppedUsersStay,
}

struct Broken {
    sink: MemorySink,
    bug: Bug,
}

#[tokio::test]
async fn the_suite_notices_what_a_sink_does_wrong() {
    let in_order = "writes of one document are applied in order, and can be sent twice";
    let twice = "an insert replaces what has the same `_id`, and can be sent twice";
    let users = "users and roles are put, replaced and dropped, and can be sent twice";
    let watched = "writes of others are watched for, and no other is told";
    let ranges = "ranges take in their upper end, leave out their lower, and follow the order of `_id`";
    for (bug, check) in [
        (Bug::IdentityChanges, "the identity of a sink stays the same"),
        (
            Bug::CreateReplaces,
            "a collection is made with its options, and left as it is when it exists",
        ),
        (Bug::ViewsAreCollections, "a view is made, changed and dropped"),
        (
            Bug::DropOfTheMissingFails,
            "what is missing is dropped without an error",
        ),
        (Bug::RenameOfTheMissingDrops, "a rename replaces what has the new name"),
        (Bug::ModifyDoesNothing, "a view is made, changed and dropped"),
        (Bug::IndexLosesOptions, "an index is built once"),
        (Bug::UniqueIsNotChecked, "a unique index over equal keys is refused"),
        (Bug::FieldsAreSorted, "documents are stored byte for byte"),
        (Bug::InsertKeepsWhatIsThere, twice),
        (Bug::WritesAreReversed, in_order),
        (Bug::DeltasAreReplacements, in_order),
        (
            Bug::DeltaOnTheMissingIsDropped,
            "a delta on a missing document is refused by its index",
        ),
        (
            Bug::RefusalStopsTheRest,
            "a delta on a missing document is refused by its index",
        ),
        (
            Bug::DuplicatesHaveNoIndex,
            "a key that another document holds is refused by its index",
        ),
        (
            Bug::HalfOfALargeBatchIsLost,
            "batches have about the size that is asked for",
        ),
        (Bug::LowerEndIsInRange, ranges),
        (Bug::NaturalOrderIsLost, "a capped collection is read in natural order"),
        (Bug::BatchesAreLarge, "batches have about the size that is asked for"),
        (Bug::PointsLoseOne, "documents are read by `_id`"),
        (Bug::FlushOfNothingFails, "a flush follows what was written"),
        (Bug::DigestIsConstant, "a digest is equal for equal data only"),
        (Bug::RecordsAreListed, "a record comes back as it was saved"),
        (
            Bug::FenceIsIgnored,
            "a record is saved only over the fence that is expected",
        ),
        (Bug::DeletedRecordsStay, "a record that is deleted is gone"),
        (Bug::OwnWritesAreTold, watched),
        (Bug::WatchBeginsAnew, watched),
        (Bug::UsersAreNotReplaced, users),
        (Bug::DroppedUsersStay, users),
    ] {
        let sink = MemorySink::new();
        let failure = check_sink(&Layered(Broken { sink, bug }))
            .await
            .expect_err(&format!("{bug:?}"));
        assert_eq!(failure.check, check, "{bug:?}: {failure}");
    }
}

impl Broken {
    fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// Writes until the first refusal and returns it. Later writes are not made.
    async fn until_refused(&self, namespace: &Namespace, writes: &[Write]) -> Result<Vec<Refusal>> {
        for (index, write) in writes.iter().enumerate() {
            let alone = std::slice::from_ref(write);
            if let Some(refusal) = self.sink.apply(namespace, CollectionKind::Plain, alone).await?.pop() {
                return Ok(vec![Refusal { index, ..refusal }]);
            }
        }
        Ok(Vec::new())
    }
}

#[async_trait]
impl SinkLayer for Broken {
    fn inner(&self) -> &dyn Sink {
        &self.sink
    }

    async fn describe(&self) -> Result<Deployment> {
        let mut deployment = self.sink.describe().await?;
        if self.is(Bug::IdentityChanges) {
            deployment.identity = bson::Uuid::new().to_string();
        }
        Ok(deployment)
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        let mut listed = self.sink.collections().await?;
        if self.is(Bug::RecordsAreListed)
            && self.sink.load_record("conformance_saved").await?.is_some()
            && let Some(first) = listed.first().cloned()
        {
            listed.push(first);
        }
        Ok(listed)
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        let mut command = command.clone();
        match &mut command {
            CatalogCommand::Create { namespace, .. } if self.is(Bug::CreateReplaces) => {
                let namespace = namespace.clone();
                self.sink.execute(&CatalogCommand::Drop { namespace }).await?;
            }
            CatalogCommand::Create { kind, .. }
                if self.is(Bug::ViewsAreCollections) && *kind == CollectionKind::View =>
            {
                *kind = CollectionKind::Plain;
            }
            CatalogCommand::Drop { namespace } if self.is(Bug::DropOfTheMissingFails) => {
                let listed = self.sink.collections().await?;
                if !listed.iter().any(|collection| collection.namespace == *namespace) {
                    return Err(Error::new(
                        ErrorKind::TargetRefused,
                        "drop",
                        "there is no such collection",
                    ));
                }
            }
            CatalogCommand::Rename { from, to } if self.is(Bug::RenameOfTheMissingDrops) => {
                let listed = self.sink.collections().await?;
                if !listed.iter().any(|collection| collection.namespace == *from) {
                    let namespace = to.clone();
                    self.sink.execute(&CatalogCommand::Drop { namespace }).await?;
                }
            }
            CatalogCommand::Modify { .. } if self.is(Bug::ModifyDoesNothing) => return Ok(()),
            _ => {}
        }
        self.sink.execute(&command).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        let lost: &[&str] = match self.bug {
            Bug::IndexLosesOptions => &["sparse", "expireAfterSeconds"],
            Bug::UniqueIsNotChecked => &["unique"],
            _ => &[],
        };
        let mut kept = RawDocumentBuf::new();
        for (name, value) in specification.iter().map_while(|field| field.ok()) {
            if !lost.contains(&name.as_str()) {
                kept.append(name, value);
            }
        }
        self.sink.create_index(namespace, &kept).await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        let mut changed = Batch::new();
        for (place, document) in batch.iter().enumerate() {
            let key = Key::of_document(document).into_iter().collect::<Vec<_>>();
            if self.is(Bug::InsertKeepsWhatIsThere) && !self.sink.read_documents(namespace, &key).await?.is_empty() {
                continue;
            }
            if self.is(Bug::HalfOfALargeBatchIsLost) && place >= 150 {
                continue;
            }
            match self.bug {
                Bug::FieldsAreSorted => changed.push(&sort_fields(document)),
                _ => changed.push(document),
            }
        }
        let mut refusals = self.sink.insert(namespace, &changed).await?;
        if self.is(Bug::DuplicatesHaveNoIndex) {
            for refusal in &mut refusals {
                refusal.index = 0;
            }
        }
        Ok(refusals)
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        let mut writes = writes.to_vec();
        match self.bug {
            Bug::WritesAreReversed => writes.reverse(),
            Bug::RefusalStopsTheRest => return self.until_refused(namespace, &writes).await,
            Bug::DeltasAreReplacements => {
                for write in &mut writes {
                    if let Operation::Delta(delta) = &write.operation {
                        write.operation = Operation::Replace(delta.clone());
                    }
                }
            }
            _ => {}
        }
        let mut refusals = self.sink.apply(namespace, kind, &writes).await?;
        if self.is(Bug::DeltaOnTheMissingIsDropped) {
            refusals.retain(|refusal| {
                !matches!(
                    refusal.reason,
                    RefusalReason::CannotApply(_) | RefusalReason::NoDocument(_)
                )
            });
        }
        Ok(refusals)
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        let Some(watch) = self.sink.foreign_writes(after).await? else {
            return Ok(None);
        };
        let bug = self.bug;
        let watch = watch.map(move |seen| {
            let mut seen = seen?;
            match bug {
                Bug::OwnWritesAreTold => seen.collections.push("conformance.orders".parse()?),
                Bug::WatchBeginsAnew if after.is_some() => seen.until.increment += 1,
                _ => {}
            }
            Ok(seen)
        });
        Ok(Some(watch.boxed()))
    }

    fn losses(&self) -> u64 {
        self.sink.losses()
    }

    async fn flush(&self) -> Result<()> {
        let last = self.sink.journal().pop();
        if self.is(Bug::FlushOfNothingFails) && matches!(last, Some(crate::sink::JournalEntry::Flushed)) {
            return Err(Error::new(ErrorKind::Server, "flush", "there is nothing to flush"));
        }
        self.sink.flush().await
    }

    async fn read(&self, mut request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        let mut first = Batch::new();
        match self.bug {
            Bug::LowerEndIsInRange => {
                let key = request.range.lower.iter().cloned().collect::<Vec<_>>();
                for document in self.sink.read_documents(&request.namespace, &key).await? {
                    first.push(&document);
                }
            }
            Bug::NaturalOrderIsLost => request.kind = CollectionKind::Plain,
            Bug::BatchesAreLarge => request.batch_bytes *= 100,
            _ => {}
        }
        let first = (!first.is_empty()).then_some(Ok(first));
        Ok(stream::iter(first).chain(self.sink.read(request).await?).boxed())
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        let mut documents = self.sink.read_documents(namespace, keys).await?;
        if self.is(Bug::PointsLoseOne) {
            documents.pop();
        }
        Ok(documents)
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        if self.is(Bug::DigestIsConstant) {
            return Ok(Some("constant".to_owned()));
        }
        self.sink.digest(namespace).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, mut expected: i64) -> Result<bool> {
        if self.is(Bug::FenceIsIgnored)
            && let Some(stored) = self.sink.load_record(name).await?
        {
            expected = stored.get_i64("fence").unwrap_or_default();
        }
        self.sink.save_record(name, record, expected).await
    }

    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        let mut changes = changes.clone();
        if self.is(Bug::UsersAreNotReplaced) {
            let names = changes.put.iter().map(|account| account.name().clone()).collect();
            let standing = self.sink.accounts(&names).await?.accounts;
            let is_new = |account: &Account| standing.iter().all(|other| other.name() != account.name());
            changes.put.retain(is_new);
        }
        if self.is(Bug::DroppedUsersStay) {
            changes.drop.clear();
        }
        self.sink.change_accounts(&changes).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        if self.is(Bug::DeletedRecordsStay) {
            return Ok(());
        }
        self.sink.delete_record(name).await
    }
}
