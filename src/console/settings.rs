//! What people choose in the page for a migration.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::builder::MigrationBuilder;
use crate::config::{DdlPolicy, ExistingData, Throttle, Verification};
use crate::console::endpoint::Endpoint;
use crate::console::http::openapi;
use crate::error::Result;
use crate::model::Selection;

/// Patterns and renames as they are posted, before they are checked.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PostedSelection {
    /// Patterns of what is migrated, such as `shop.*`. Default: everything.
    include: Vec<String>,
    /// Patterns of what is not migrated.
    exclude: Vec<String>,
    /// Pairs of a collection's name on the source and on the target.
    #[schema(value_type = Vec<Vec<String>>)]
    rename: Vec<(String, String)>,
}

impl PostedSelection {
    /// Checks the patterns and names.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if one is malformed.
    fn check(&self) -> Result<Selection> {
        let mut selection = Selection::all();
        for pattern in &self.include {
            selection.include(pattern)?;
        }
        for pattern in &self.exclude {
            selection.exclude(pattern)?;
        }
        for (from, to) in &self.rename {
            selection.rename(from, to)?;
        }
        Ok(selection)
    }
}

/// Defines the bodies that have these settings, each of which may be left out, so that the list stands here once.
macro_rules! bodies {
    ($($(#[$attribute:meta])* $name:ident: $type:ty,)*) => {
        /// A migration to create.
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct NewMigration {
            /// Its id among all migrations into the target: 1 to 64 ASCII letters, digits, `.`, `_` and `-`.
            #[schema(example = "tenant-42")]
            pub id: String,
            pub source: Endpoint,
            /// Left out if the console has a fixed target.
            pub target: Option<Endpoint>,
            $($(#[$attribute])* $name: Option<$type>,)*
        }

        /// Connections of a migration that is known, and settings that are to be other than before.
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct NewEndpoints {
            /// Left out if it stays as it is.
            pub source: Option<Endpoint>,
            /// Left out if it stays as it is, or if the console has a fixed target.
            pub target: Option<Endpoint>,
            $($(#[$attribute])* $name: Option<$type>,)*
        }

        impl NewMigration {
            pub fn changes(&self) -> Changes {
                Changes { $($name: self.$name.clone(),)* }
            }
        }

        impl NewEndpoints {
            pub fn changes(&self) -> Changes {
                Changes { $($name: self.$name.clone(),)* }
            }
        }

        /// The settings that a body has.
        pub(super) struct Changes {
            $($name: Option<$type>,)*
        }
    };
}

bodies! {
    selection: PostedSelection,
    /// What to do with existing collections on the target. Default: `refuse`.
    #[schema(schema_with = openapi::existing_data)]
    existing_data: ExistingData,
    /// How both sides are compared. Default: `continuous`.
    #[schema(schema_with = openapi::verification)]
    verification: Verification,
    /// What to do when the source's catalog changes. Default: `apply`.
    #[schema(schema_with = openapi::ddl_policy)]
    ddl_policy: DdlPolicy,
    #[schema(schema_with = openapi::throttle)]
    throttle: Throttle,
    /// Whether documents and passwords may be sent to other hosts without TLS. Default: no.
    accept_unencrypted: bool,
    /// Whether the cutover blocks client writes on the source. Default: no.
    block_source_writes: bool,
    /// How long the run follows the source after it is first ready. Default: 120 hours.
    cutover_window_ms: u64,
    /// Maximum lag at which the run counts as ready. Default: 2000.
    max_lag_ms: u64,
    /// Maximum number of ranges copied concurrently. Default: 4.
    walkers: usize,
}

/// Settings of a migration that was made in the page.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Settings {
    /// `null` if it is that of the migration that the target knows.
    #[schema(schema_with = openapi::selection)]
    pub selection: Option<Selection>,
    #[schema(schema_with = openapi::existing_data)]
    pub existing_data: ExistingData,
    #[schema(schema_with = openapi::verification)]
    pub verification: Verification,
    #[schema(schema_with = openapi::ddl_policy)]
    pub ddl_policy: DdlPolicy,
    #[schema(schema_with = openapi::throttle)]
    pub throttle: Throttle,
    pub accept_unencrypted: bool,
    pub block_source_writes: bool,
    pub cutover_window_ms: u64,
    pub max_lag_ms: u64,
    pub walkers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let defaults = crate::config::Settings::default();
        Self {
            selection: None,
            existing_data: defaults.existing_data,
            verification: defaults.collections.verification,
            ddl_policy: defaults.ddl,
            throttle: defaults.throttle,
            accept_unencrypted: defaults.accept_unencrypted,
            block_source_writes: defaults.block_source_writes,
            cutover_window_ms: super::view::milliseconds(defaults.cutover_window),
            max_lag_ms: super::view::milliseconds(defaults.max_lag),
            walkers: defaults.walkers,
        }
    }
}

impl Settings {
    /// Takes over what a body has.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) for a malformed pattern or rename.
    pub fn change(&mut self, changes: Changes) -> Result<()> {
        if let Some(selection) = changes.selection {
            self.selection = Some(selection.check()?);
        }
        macro_rules! take {
            ($($name:ident)*) => { $(if let Some(value) = changes.$name { self.$name = value; })* };
        }
        take!(existing_data verification ddl_policy throttle accept_unencrypted block_source_writes);
        take!(cutover_window_ms max_lag_ms walkers);
        Ok(())
    }

    /// Applies everything but the selection.
    pub fn apply(&self, builder: MigrationBuilder) -> MigrationBuilder {
        builder
            .existing_data(self.existing_data)
            .verification(self.verification)
            .ddl_policy(self.ddl_policy)
            .throttle(self.throttle)
            .accept_unencrypted(self.accept_unencrypted)
            .block_source_writes(self.block_source_writes)
            .cutover_window(Duration::from_millis(self.cutover_window_ms))
            .max_lag(Duration::from_millis(self.max_lag_ms))
            .walkers(self.walkers)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_changes_what_it_has_and_nothing_else() {
        let body = json!({
            "selection": { "include": ["shop.*"], "rename": [["shop.a", "shop.b"]] }, "existing_data": "keep",
            "throttle": { "copy_bytes_per_second": 5 }, "max_lag_ms": 1,
        });
        let body: NewEndpoints = serde_json::from_value(body).unwrap();
        let mut settings = Settings::default();
        settings.change(body.changes()).unwrap();
        let expected = json!({
            "selection": { "include": ["shop.*"], "exclude": [], "rename": [["shop.a", "shop.b"]] }, "existing_data": "keep",
            "verification": "continuous", "ddl_policy": "apply",
            "throttle": { "copy_bytes_per_second": 5, "tail_operations_per_second": null }, "accept_unencrypted": false,
            "block_source_writes": false, "cutover_window_ms": 432_000_000, "max_lag_ms": 1, "walkers": 4,
        });
        assert_eq!(serde_json::to_value(settings).unwrap(), expected);
    }

    #[test]
    fn unknown_fields_and_malformed_patterns_are_refused() {
        let unknown = json!({ "source": { "uri": "mongodb://h", "passwd": "" } });
        assert!(serde_json::from_value::<NewEndpoints>(unknown).is_err());
        assert!(serde_json::from_value::<NewEndpoints>(json!({ "exsting_data": "keep" })).is_err());
        let malformed: NewEndpoints = serde_json::from_value(json!({ "selection": { "include": ["shop"] } })).unwrap();
        assert!(Settings::default().change(malformed.changes()).is_err());
    }
}
