//! Start of a migration that takes a hand-over back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::raw::RawDocumentBuf;

use crate::catalog::{are_same_keys, name_of, seconds};
use crate::checkpoint::{Checkpoint, CollectionState};
use crate::engine::ownership::Ownership;
use crate::error::Result;
use crate::model::Collection;
use crate::runtime::expiry::{self, Form};
use crate::runtime::flush::SharedFlush;
use crate::runtime::job::Job;
use crate::runtime::users::Record;

impl Job {
    /// Saves the first checkpoint of a migration that takes a hand-over back, unless it has begun before.
    ///
    /// The old source has continued to expire documents until now. Following the target restores the documents that the target has changed
    /// since the hand-over, as long as both sides expire by the same rule. If the rule on the target has changed, the whole collection is
    /// compared.
    ///
    /// # Errors
    /// A server error, or the checkpoint belongs to another migration.
    pub(crate) async fn prepare_way_back(&self) -> Result<()> {
        if self.settings.way_back.is_none() || self.load().await?.is_some() {
            return Ok(());
        }
        let Some(mut first) = self.first_of_way_back().await? else {
            return Ok(());
        };
        let commands = expiry::commands(&first.collections, Form::HeldBack);
        expiry::execute(&*self.sink, &commands, || true).await?;
        // Not earlier: until here, the old source may have expired documents that the new rule keeps.
        let listed = self.source.collections_selected(&self.settings.selection).await?;
        for state in first
            .collections
            .iter_mut()
            .filter(|state| expires_otherwise(state, &listed))
        {
            state.ranges.clear();
            first.copied = false;
        }
        let durability = SharedFlush::new(Arc::clone(&self.sink));
        Ownership::load(self.records(), durability, self.settings.existing_data)
            .await?
            .begin()
            .await?;
        self.know_users(&mut first).await?;
        self.store.save(&first.encode()?).await
    }

    /// Notes which users and roles of the old set the hand-over has found equal, as if this migration had made them: they follow the new
    /// set. That is noted even if none are carried now, because a later start may carry some.
    async fn know_users(&self, first: &mut Checkpoint) -> Result<()> {
        let Some(users) = first.users.take() else {
            return Ok(());
        };
        let records = self.records();
        let mut record = Record::load(&records).await?;
        record.made = users.made();
        record.save(&records).await
    }
}

/// Returns `true` if documents of the collection expired at the hand-over, and now expire by another rule or no longer.
pub(crate) fn expires_otherwise(state: &CollectionState, listed: &[Collection]) -> bool {
    let before = rules(&state.options, &state.indexes);
    if before.is_empty() {
        return false;
    }
    // If the collection is gone, its drop appears in the oplog.
    let now = listed.iter().find(|collection| collection.id == state.id);
    now.is_some_and(|now| !are_same_rules(&before, &rules(&now.options, &now.indexes)))
}

/// Returns the expiry rules: the keys and the number of seconds after which documents expire, by index name. The collection's own option
/// has an empty name.
fn rules(options: &RawDocumentBuf, indexes: &[RawDocumentBuf]) -> BTreeMap<String, (i64, RawDocumentBuf)> {
    let by_index = indexes.iter().filter_map(|index| {
        let key = index.get_document("key").map(ToOwned::to_owned).unwrap_or_default();
        Some((name_of(index).to_owned(), (seconds(index)?, key)))
    });
    let by_option = seconds(options).map(|seconds| (String::new(), (seconds, RawDocumentBuf::new())));
    by_index.chain(by_option).collect()
}

fn are_same_rules(
    before: &BTreeMap<String, (i64, RawDocumentBuf)>,
    now: &BTreeMap<String, (i64, RawDocumentBuf)>,
) -> bool {
    before.len() == now.len()
        && before.iter().all(|(name, (seconds, key))| {
            now.get(name)
                .is_some_and(|(seconds_now, key_now)| seconds == seconds_now && are_same_keys(key, key_now))
        })
}
