//! What is migrated, and under which names.

use super::MigrationBuilder;
use crate::config::CollectionSettings;
use crate::error::Result;
use crate::model::Selection;

impl MigrationBuilder {
    /// Migrates only namespaces that match a pattern such as `shop.*` or `*.orders`. May be called again to add patterns. Without any
    /// pattern, everything is migrated.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.include("shop.*").include("*.orders")
    /// # }
    /// ```
    #[must_use]
    pub fn include(mut self, pattern: &str) -> Self {
        self.select(|selection| selection.include(pattern));
        self
    }

    /// Excludes namespaces that match `pattern`, even if they are included. May be called again to add patterns.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.include("shop.*").exclude("shop.tmp_*")
    /// # }
    /// ```
    #[must_use]
    pub fn exclude(mut self, pattern: &str) -> Self {
        self.select(|selection| selection.exclude(pattern));
        self
    }

    /// Renames a collection on the target. May be called again for other collections.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.rename("shop.orders", "store.orders")
    /// # }
    /// ```
    #[must_use]
    pub fn rename(mut self, from: &str, to: &str) -> Self {
        self.select(|selection| selection.rename(from, to));
        self
    }

    /// Selects and renames as a selection says that was read from a file of settings. Patterns and renames that were added before are
    /// dropped; further ones can be added.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Self {
        self.select(|current| current.replace(selection));
        self
    }

    /// Settings of the collections whose names on the source match a pattern such as `shop.log_*`. May be called again for other patterns;
    /// where several match, the last one counts. Default: [`CollectionSettings::default`] for every collection.
    ///
    /// They are no part of the checkpoint: a migration may be resumed with others.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// use mongoferry::{CollectionSettings, IndexPolicy, Verification};
    ///
    /// builder
    ///     .collection_settings("shop.orders", CollectionSettings::default().priority(1))
    ///     .collection_settings("shop.log_*", CollectionSettings::default().verification(Verification::Digest).indexes(IndexPolicy::Later))
    /// # }
    /// ```
    #[must_use]
    pub fn collection_settings(mut self, pattern: &str, settings: CollectionSettings) -> Self {
        let added = self.settings.collections.add(pattern, settings);
        self.select(|_| added);
        self
    }

    pub(super) fn select(&mut self, change: impl FnOnce(&mut Selection) -> Result<()>) {
        // `build` reports the first mistake.
        if let Ok(selection) = &mut self.selection
            && let Err(error) = change(selection)
        {
            self.selection = Err(error);
        }
    }
}
