//! Which users and roles a host wants carried.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::AccountName;

/// Whether users and roles are carried to the target; see [`MigrationBuilder::users`](crate::MigrationBuilder::users).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Users {
    /// No users and roles are carried.
    #[default]
    None,
    /// The selected ones are carried.
    Carry(UserSelection),
}

impl Users {
    /// The selection, if there is one.
    pub(crate) fn selection(&self) -> Option<&UserSelection> {
        match self {
            Self::None => None,
            Self::Carry(selection) => Some(selection),
        }
    }
}

/// A selection of users and user-defined roles. Built-in roles are never carried, and neither are the users that the migration itself
/// connects as.
///
/// ```
/// use mongoferry::{ExistingUsers, UserSelection};
///
/// let selection = UserSelection::all()
///     .databases(["shop", "admin", "$external"])
///     .exclude("intern", "shop")
///     .existing(ExistingUsers::Keep);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSelection {
    /// `None` for all databases.
    databases: Option<BTreeSet<String>>,
    /// Names and databases of users and roles that are left out.
    excluded: BTreeSet<(String, String)>,
    existing: ExistingUsers,
}

/// What to do with a user or role that the target has under the same name and with other content, if the migration did not make it or
/// somebody has changed it since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExistingUsers {
    /// Preflight refuses to start. If there is such a user or role later, the cutover is refused, and the existing one stays as it is.
    #[default]
    Refuse,
    /// The target keeps its own. The summary and the certificate name it, and it does not count as carried.
    Keep,
    /// The source's replaces it. From then on it counts as made by the migration: if it is dropped on the source, it is dropped on the
    /// target, too.
    Replace,
}

impl UserSelection {
    /// Selects all users and roles of all databases.
    pub fn all() -> Self {
        Self::default()
    }

    /// Selects only users and roles that these databases define: the database that a user authenticates against, not those that he may
    /// use. Users with certificates and the like are in `$external`. A further call adds databases.
    #[must_use]
    pub fn databases(mut self, databases: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let selected = self.databases.get_or_insert_default();
        selected.extend(databases.into_iter().map(Into::into));
        self
    }

    /// Leaves out the user and the role of this name that a database defines. May be called again for others.
    #[must_use]
    pub fn exclude(mut self, name: impl Into<String>, database: impl Into<String>) -> Self {
        self.excluded.insert((name.into(), database.into()));
        self
    }

    /// What to do with users and roles that the target already has with other content. Default: [`ExistingUsers::Refuse`].
    #[must_use]
    pub fn existing(mut self, existing: ExistingUsers) -> Self {
        self.existing = existing;
        self
    }

    /// Whether only some databases are selected.
    pub(crate) fn is_limited(&self) -> bool {
        self.databases.is_some()
    }

    /// Whether its database is selected.
    pub(crate) fn reaches(&self, name: &AccountName) -> bool {
        let databases = self.databases.as_ref();
        databases.is_none_or(|databases| databases.contains(&name.database))
    }

    /// Whether it is left out by name.
    pub(crate) fn excludes(&self, name: &AccountName) -> bool {
        // A set of pairs of strings cannot be searched with borrowed ones. There are few.
        let mut excluded = self.excluded.iter();
        excluded.any(|(other, database)| (other, database) == (&name.name, &name.database))
    }

    /// Whether it is carried as far as the host says.
    pub(crate) fn contains(&self, name: &AccountName) -> bool {
        self.reaches(name) && !self.excludes(name)
    }

    pub(crate) fn if_existing(&self) -> ExistingUsers {
        self.existing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_and_names_select() {
        let (app, role) = (AccountName::user("app", "shop"), AccountName::role("app", "shop"));
        let other = AccountName::user("app", "store");
        let all = UserSelection::all();
        assert!(all.contains(&app) && all.contains(&other));
        let shop = UserSelection::all().databases(["shop"]);
        assert!(shop.contains(&app) && shop.contains(&role) && !shop.contains(&other));
        let both = shop.clone().databases(["store"]);
        assert!(both.contains(&app) && both.contains(&other));
        let without = both.exclude("app", "shop");
        assert!(!without.contains(&app) && !without.contains(&role) && without.contains(&other));
        assert!(without.reaches(&app) && without.excludes(&app));
    }
}
