//! Filters and transforms of a migration.

use std::sync::Arc;

use bson::Document;

use super::MigrationBuilder;
use crate::config::{OnRuleError, Settings, UnsupportedFilter};
use crate::error::{Error, ErrorKind, Result};
use crate::report::Events;
use crate::rules::{Predicate, Query, Transform};
use crate::runtime::shaping::Shaping;
use crate::runtime::shaping::dead_letters::DeadLetters;
use crate::sink::Sink;

impl MigrationBuilder {
    /// Migrates only those documents that match a query, from the collections whose names on the source match a pattern. May be called
    /// again: a document has to fit all filters of its collection. [`docs::documents`](crate::docs::documents) has the supported operators;
    /// preflight refuses others.
    ///
    /// A document that begins to match appears on the target, and one that no longer does disappears there.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// use mongoferry::bson::doc;
    ///
    /// builder.filter("shop.orders", doc! { "year": { "$gte": 2024 } })
    /// # }
    /// ```
    #[must_use]
    pub fn filter(mut self, pattern: &str, query: Document) -> Self {
        match Query::new(query) {
            Ok(query) => self.filter_with(pattern, query),
            Err(unsupported) => {
                self.settings.unsupported_filters.push(UnsupportedFilter {
                    pattern: pattern.to_owned(),
                    reason: unsupported.to_string(),
                });
                self
            }
        }
    }

    /// Like [`filter`](Self::filter), with a decision in code.
    ///
    /// ```no_run
    /// use mongoferry::Predicate;
    ///
    /// # fn set(builder: mongoferry::MigrationBuilder, in_europe: impl Predicate) -> mongoferry::MigrationBuilder {
    /// builder.filter_with("shop.*", in_europe)
    /// # }
    /// ```
    #[must_use]
    pub fn filter_with(mut self, pattern: &str, filter: impl Predicate) -> Self {
        let added = self.settings.rules.filter(pattern, Arc::new(filter));
        self.select(|_| added);
        self
    }

    /// Changes the documents of the collections whose names on the source match a pattern on their way to the target. May be called again:
    /// each transform gets the results of those before it. Filters see the documents of the source.
    /// [`FieldRules`](crate::FieldRules) is a transform that drops, renames, masks, hashes and sets fields.
    ///
    /// ```no_run
    /// use mongoferry::Transform;
    ///
    /// # fn set(builder: mongoferry::MigrationBuilder, without_names: impl Transform) -> mongoferry::MigrationBuilder {
    /// builder.transform("shop.customers", without_names)
    /// # }
    /// ```
    #[must_use]
    pub fn transform(mut self, pattern: &str, transform: impl Transform) -> Self {
        let added = self.settings.rules.transform(pattern, Arc::new(transform));
        self.select(|_| added);
        self
    }

    /// What to do with documents for which a filter or transform fails. Default: [`OnRuleError::Fail`].
    ///
    /// A migration may be resumed with another choice, which then also applies to the documents that were left out before; see
    /// [`docs::documents`](crate::docs::documents#when-a-rule-fails).
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// use mongoferry::{Namespace, OnRuleError};
    ///
    /// builder.on_rule_error(OnRuleError::DeadLetter(Namespace::new("admin_data", "not_migrated")))
    /// # }
    /// ```
    #[must_use]
    pub fn on_rule_error(mut self, policy: OnRuleError) -> Self {
        self.settings.on_rule_error = policy;
        self
    }
}

/// What gives documents their form in a run with these settings.
///
/// # Errors
/// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the collection for dead letters has the name of a migrated one.
pub(super) fn shaping(settings: &Settings, sink: &Arc<dyn Sink>, events: &Events) -> Result<Arc<Shaping>> {
    let letters = match &settings.on_rule_error {
        OnRuleError::Fail | OnRuleError::Skip => None,
        OnRuleError::DeadLetter(collection) => {
            if settings.selection.produces(collection) || collection.database() == crate::METADATA_DATABASE {
                let message = format!(
                    "the collection `{collection}` for dead letters may get the name of a migrated one; choose another name, or exclude it"
                );
                return Err(Error::new(
                    ErrorKind::InvalidConfiguration,
                    "build the migration",
                    message,
                ));
            }
            Some(DeadLetters::new(Arc::clone(sink), collection.clone()))
        }
    };
    let policy = settings.on_rule_error.clone();
    let shaping = Shaping::new(settings.rules.clone(), policy, letters, events.clone());
    Ok(Arc::new(shaping))
}
