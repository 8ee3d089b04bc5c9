//! Users and roles as a server stores them.

use std::collections::BTreeSet;
use std::fmt;

use bson::raw::{RawDocument, RawDocumentBuf};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// What an [`Account`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AccountKind {
    /// A role that people have defined. The server's built-in roles are none.
    Role,
    /// A user.
    User,
}

impl AccountKind {
    /// The kind's name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::User => "user",
        }
    }
}

/// The name of a user or role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AccountName {
    /// Whether it is a user or a role.
    pub kind: AccountKind,
    /// The database that defines it, such as `admin`; `$external` for users whose credentials are kept elsewhere.
    pub database: String,
    /// Its name in that database.
    pub name: String,
}

impl AccountName {
    /// Names a user.
    pub fn user(name: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            kind: AccountKind::User,
            database: database.into(),
            name: name.into(),
        }
    }

    /// Names a role.
    pub fn role(name: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            kind: AccountKind::Role,
            database: database.into(),
            name: name.into(),
        }
    }

    /// The `_id` of its document.
    pub(crate) fn id(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }
}

/// Writes a text such as `user app@shop`.
impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}@{}", self.kind.as_str(), self.name, self.database)
    }
}

/// A user or role with its document, in the form of `admin.system.users` or `admin.system.roles`.
///
/// The document of a user contains credentials. `Debug` shows the name only.
#[derive(Clone, PartialEq)]
pub struct Account {
    name: AccountName,
    document: RawDocumentBuf,
}

impl Account {
    /// Reads the name in a document.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the document does not name a user or a role, whichever `kind` says.
    pub fn new(kind: AccountKind, document: RawDocumentBuf) -> Result<Self> {
        let field = |name: &str| document.get_str(name).map(str::to_owned);
        let (Ok(name), Ok(database)) = (field(kind.as_str()), field("db")) else {
            let message = format!("a document does not name a {}", kind.as_str());
            return Err(Error::new(ErrorKind::Protocol, "read users and roles", message));
        };
        let name = AccountName { kind, database, name };
        Ok(Self { name, document })
    }

    /// Its name.
    pub fn name(&self) -> &AccountName {
        &self.name
    }

    /// Its document, credentials included.
    pub fn document(&self) -> &RawDocument {
        &self.document
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.name).finish()
    }
}

/// Users and roles of a deployment, and what a migration has to know about the deployment to carry some to it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Accounts {
    /// The users and roles, in any order.
    pub accounts: Vec<Account>,
    /// The users that the connection is authenticated as, and the roles that they have. A migration never changes them.
    pub own: BTreeSet<AccountName>,
    /// The mechanisms by which clients may authenticate, such as `SCRAM-SHA-256`; `None` if they are not known.
    pub mechanisms: Option<BTreeSet<String>>,
    /// The names of the built-in roles; `None` if they are not known.
    pub built_in_roles: Option<BTreeSet<String>>,
}

impl Accounts {
    /// Users and roles of a deployment of which nothing else is known.
    pub fn new(accounts: Vec<Account>) -> Self {
        Self {
            accounts,
            ..Self::default()
        }
    }
}

/// Changes to the users and roles of a sink; see [`Sink::change_accounts`](crate::Sink::change_accounts).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AccountChanges {
    /// The id of the migration. Temporary collections are named after it, because several migrations may change accounts at once.
    pub migration: String,
    /// Users and roles that the sink is to have exactly so. They replace those of the same name.
    pub put: Vec<Account>,
    /// Users and roles that the sink is not to have.
    pub drop: Vec<AccountName>,
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn debug_shows_no_credentials() {
        let document =
            rawdoc! { "user": "app", "db": "shop", "credentials": { "SCRAM-SHA-1": { "storedKey": "hidden" } } };
        let account = Account::new(AccountKind::User, document).unwrap();
        let accounts = Accounts::new(vec![account.clone()]);
        let changes = AccountChanges {
            put: vec![account.clone()],
            ..AccountChanges::default()
        };
        for text in [format!("{account:?}"), format!("{accounts:?}"), format!("{changes:#?}")] {
            assert!(text.contains("app") && !text.contains("hidden"), "{text}");
        }
        assert_eq!(account.name().to_string(), "user app@shop");
        assert_eq!(account.name().id(), "shop.app");
    }

    #[test]
    fn a_document_without_a_name_is_refused() {
        for document in [rawdoc! { "role": "app", "db": "shop" }, rawdoc! { "user": "app" }] {
            assert_eq!(
                Account::new(AccountKind::User, document).unwrap_err().kind(),
                ErrorKind::Protocol
            );
        }
    }
}
