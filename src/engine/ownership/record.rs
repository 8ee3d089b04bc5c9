//! Record of creations: names under which the migration creates collections on the target.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Uuid, rawdoc};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::OPERATION;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position};
use crate::sink::Records;

/// Name of the record on the sink.
const NAME: &str = "creations";

const READ: &str = "read the record of creations";

#[derive(Default)]
pub(super) struct Record {
    fence: i64,
    /// Whether the outcome of the last save is unknown.
    is_unsure: bool,
    /// What an earlier run was creating when it ended.
    pub earlier: BTreeSet<Namespace>,
    /// What this run is creating or has created, with its uuid on the target once that is known.
    pub made: BTreeMap<Namespace, Option<Uuid>>,
    /// What this run has dropped again, with the position up to which everything was routed before the drop.
    pub dropped: BTreeMap<Namespace, Position>,
}

impl Record {
    /// Reads the names that an earlier run was creating.
    ///
    /// # Errors
    /// A server error.
    pub async fn load(records: &Records) -> Result<Self> {
        let mut loaded = Self::default();
        if let Some(record) = records.load(NAME).await? {
            let malformed = |error| Error::malformed(READ, error);
            loaded.fence = record.get_i64("fence").map_err(malformed)?;
            for name in record.get_array("names").map_err(malformed)? {
                if let Some(name) = name.map_err(|error| Error::malformed(READ, error))?.as_str() {
                    loaded.earlier.insert(name.parse()?);
                }
            }
        }
        Ok(loaded)
    }

    /// Saves the names. If a save fails or its future is dropped, the next save makes up for it.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) if another process has saved names, or a server error.
    pub fn save<'a>(&'a mut self, records: &'a Records) -> BoxFuture<'a, Result<()>> {
        // Boxed here, so that it is compiled once and not in each caller.
        async move {
            if self.is_unsure {
                let stored = Self::load(records).await?.fence;
                if !(self.fence..=self.fence + 1).contains(&stored) {
                    return Err(taken_over());
                }
                self.fence = stored;
            }
            let mut names = bson::RawArrayBuf::new();
            let noted = self.earlier.iter().chain(self.made.keys()).chain(self.dropped.keys());
            for name in noted.collect::<BTreeSet<_>>() {
                names.push(name.as_str());
            }
            let record = rawdoc! { "fence": self.fence + 1, "names": names };
            self.is_unsure = true;
            let is_saved = records.save(NAME, &record, self.fence).await?;
            self.is_unsure = false;
            if !is_saved {
                return Err(taken_over());
            }
            self.fence += 1;
            Ok(())
        }
        .boxed()
    }

    /// Whether the outcome of the last save is known.
    pub fn is_saved(&self) -> bool {
        !self.is_unsure
    }

    /// Forgets all names.
    pub fn clear(&mut self) {
        self.earlier.clear();
        self.made.clear();
        self.dropped.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.earlier.len() + self.made.len() + self.dropped.len()
    }
}

/// Deletes the record.
///
/// # Errors
/// A server error.
pub(super) async fn delete(records: &Records) -> Result<()> {
    records.delete(NAME).await
}

fn taken_over() -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        OPERATION,
        "another process has recorded its own creations there",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::ExistingData;
    use crate::engine::ownership::Ownership;
    use crate::engine::track::collection::CollectionProgress;
    use crate::model::CollectionKind;
    use crate::model::MigrationId;
    use crate::runtime::flush::SharedFlush;
    use crate::sink::{MemorySink, Sink, SinkCall};

    async fn load(sink: &MemorySink) -> Ownership {
        let sink: Arc<dyn Sink> = Arc::new(sink.clone());
        let durability = SharedFlush::new(Arc::clone(&sink));
        Ownership::load(
            Records::new(sink, MigrationId::default()),
            durability,
            ExistingData::Refuse,
        )
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn a_name_is_noted_also_where_the_first_save_fails() {
        let (orders, parts): (Namespace, Namespace) = ("shop.orders".parse().unwrap(), "shop.parts".parse().unwrap());
        for is_carried_out in [false, true] {
            let sink = MemorySink::new();
            let ownership = load(&sink).await;
            if is_carried_out {
                sink.lose_next_answer(SinkCall::SaveRecord);
            } else {
                let error = Error::new(ErrorKind::Connection, "save", "the connection broke");
                sink.fail_next(SinkCall::SaveRecord, error);
            }
            ownership.claim(&orders, false).await.unwrap_err();
            ownership.claim(&orders, false).await.unwrap();
            assert_eq!(load(&sink).await.earlier().await, BTreeSet::from([orders.clone()]));
            ownership.claim(&parts, false).await.unwrap();
            let both = BTreeSet::from([orders.clone(), parts.clone()]);
            assert_eq!(load(&sink).await.earlier().await, both, "carried out: {is_carried_out}");
        }
    }

    /// The process was killed right after it had recreated a collection. The next process saves a checkpoint before it gets to that point
    /// again.
    #[tokio::test]
    async fn what_an_earlier_run_made_anew_stays_its_own() {
        let orders: Namespace = "shop.orders".parse().unwrap();
        let sink = MemorySink::new();
        let ownership = load(&sink).await;
        ownership.claim(&orders, false).await.unwrap();
        let first = ownership.create(&orders, CollectionKind::Plain, rawdoc! {}).await;
        let first = first.unwrap().unwrap();
        let listed = sink.collections().await.unwrap().remove(0);
        let mut collections = [CollectionProgress {
            made: Some(first),
            ..CollectionProgress::unread(&listed, orders.clone(), Vec::new())
        }];
        let replaced = ownership.replace(&orders, Some(first), CollectionKind::Plain, rawdoc! {});
        let second = replaced.await.unwrap().unwrap();
        assert_ne!(first, second);
        let ownership = load(&sink).await;
        ownership.expect_again(&mut collections).await.unwrap();
        let states = [collections[0].to_checkpoint()];
        ownership.saved(states.iter(), Position::ZERO, true).await.unwrap();
        assert!(ownership.earlier().await.is_empty());
        assert!(ownership.is_own(&orders, second, collections[0].made).await);
    }
}
