//! What a run tells its host of users and roles.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{AccountKind, AccountName};
use crate::users::{Users, UsersPlan, hash};

/// Users and roles at the end of a cutover; see [`MigrationBuilder::users`](crate::MigrationBuilder::users).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UsersSummary {
    /// Those that were compared and have the same content on both sides, credentials included, ordered by kind, database and name.
    pub carried: Vec<CarriedUser>,
    /// Those that the target keeps with other content than the source's.
    pub kept: Vec<AccountName>,
    /// Those of the selected databases that were not carried.
    pub left_out: Vec<LeftOutUser>,
}

/// A user or role that is the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CarriedUser {
    /// Whether it is a user or a role.
    pub kind: AccountKind,
    /// The database that defines it.
    pub database: String,
    /// Its name.
    pub name: String,
    /// SHA-256 of its content on the target, in hexadecimal digits: roles, privileges, restrictions and custom data, without credentials,
    /// which were compared too.
    pub hash: String,
}

impl CarriedUser {
    /// Its name.
    pub fn account(&self) -> AccountName {
        AccountName {
            kind: self.kind,
            database: self.database.clone(),
            name: self.name.clone(),
        }
    }
}

/// Writes a text such as `user app@shop`.
impl fmt::Display for CarriedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account().fmt(f)
    }
}

/// A user or role that was not carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LeftOutUser {
    /// Its name.
    #[serde(flatten)]
    pub name: AccountName,
    /// Why it was not carried.
    pub reason: &'static str,
}

/// Users and roles during a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UsersStatus {
    /// Number of users and roles that had the same content on both sides when they were compared last.
    pub carried: u64,
    /// Number of those that the target keeps with other content than the source's.
    pub kept: u64,
    /// Number of those of the selected databases that are not carried.
    pub left_out: u64,
    /// Why not all of them could be carried or compared; `None` if they could. The run tries again, and so does the cutover, which does not
    /// complete with a problem.
    pub problem: Option<String>,
}

impl UsersSummary {
    /// The numbers of this summary.
    pub(crate) fn status(&self) -> UsersStatus {
        UsersStatus {
            carried: self.carried.len() as u64,
            kept: self.kept.len() as u64,
            left_out: self.left_out.len() as u64,
            problem: None,
        }
    }
}

/// Lists the users and roles that are not carried, as lines for people. `summary` is known if the host wants any carried.
pub(crate) fn users_not_migrated(users: &Users, summary: Option<&UsersSummary>) -> Vec<String> {
    let Some(selection) = users.selection() else {
        return vec!["users and roles (admin.system.users, admin.system.roles)".to_owned()];
    };
    let mut all = Vec::new();
    if selection.is_limited() {
        all.push("users and roles of databases that are not selected for them".to_owned());
    }
    let Some(summary) = summary else { return all };
    let kept = summary.kept.iter();
    all.extend(kept.map(|name| format!("the {name} (the target keeps its own)")));
    let left_out = summary.left_out.iter();
    all.extend(left_out.map(|one| format!("the {} ({})", one.name, one.reason)));
    all
}

impl UsersPlan {
    /// What is carried once the plan is carried out, and what is not.
    pub(crate) fn summary(&self) -> UsersSummary {
        let carried = self.wanted.iter().map(|account| {
            let AccountName { kind, database, name } = account.name().clone();
            let hash = hash(account);
            CarriedUser {
                kind,
                database,
                name,
                hash,
            }
        });
        let left_out = self.left_out.iter().map(|(name, reason)| LeftOutUser {
            name: name.clone(),
            reason: reason.as_str(),
        });
        UsersSummary {
            carried: carried.collect(),
            kept: self.kept.clone(),
            left_out: left_out.collect(),
        }
    }
}
