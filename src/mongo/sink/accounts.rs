//! Makes users and roles on the target, in the way in which servers restore them.
//!
//! Documents with credentials are inserted into a temporary collection, from which `_mergeAuthzCollections` takes them. That command leaves
//! alone what exists. So an existing role is changed by `updateRole`, and an existing user is dropped right before the merge: no command
//! changes a user's stored credentials. The temporary collections are in the database of the migration's own records and named after the
//! migration.

use std::collections::BTreeSet;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Bson, Document, doc, rawdoc};

use super::connection::TargetConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Account, AccountChanges, AccountKind, AccountName};
use crate::mongo::accounts;
use crate::mongo::client;

const OPERATION: &str = "change users and roles";

/// Maximum number of users or roles in one merge, and their approximate size in bytes.
const AT_ONCE: usize = 100;
const BYTES: usize = 8 << 20;

/// The server's error codes for a user or role that does not exist.
const MISSING: [i32; 2] = [11, 31];

/// The server's error code for a document that exists.
const DUPLICATE: i32 = 11000;

/// Makes the changes; see [`Sink::change_accounts`](crate::Sink::change_accounts).
///
/// # Errors
/// A server error. Temporary collections may be left behind, for the next call.
pub(super) async fn change(target: &TargetConnection, changes: &AccountChanges) -> Result<()> {
    let merge = Merge::of(target, &changes.migration);
    merge.clear().await?;
    let made = make(target, &merge, changes).await;
    let cleared = match changes.put.is_empty() {
        true => Ok(()),
        false => merge.clear().await,
    };
    made.and(cleared)
}

async fn make(target: &TargetConnection, merge: &Merge<'_>, changes: &AccountChanges) -> Result<()> {
    let names: BTreeSet<AccountName> = changes.put.iter().map(|account| account.name().clone()).collect();
    let standing = accounts::named(target.client(), &names).await?.accounts;
    let before = |account: &Account| standing.iter().find(|other| other.name() == account.name());
    let of_kind = |kind: AccountKind| changes.put.iter().filter(move |account| account.name().kind == kind);
    let new_roles: Vec<&Account> = of_kind(AccountKind::Role)
        .filter(|role| before(role).is_none())
        .collect();
    merge.all(&new_roles).await?;
    // A role that the target refuses does not keep the others from their changes.
    let mut refused = Ok(());
    for role in of_kind(AccountKind::Role) {
        if let Some(before) = before(role)
            && let Err(error) = update_role(target, before, role).await
        {
            match error.is_retryable() {
                true => return Err(error),
                false => refused = Err(error),
            }
        }
    }
    let users: Vec<&Account> = of_kind(AccountKind::User).collect();
    for chunk in chunks(&users) {
        for user in chunk.iter().filter(|user| before(user).is_some()) {
            drop_account(target, user.name()).await?;
        }
        merge.chunk(chunk).await?;
    }
    // Users first: a role that is dropped is taken away from those who have it.
    for kind in [AccountKind::User, AccountKind::Role] {
        for name in changes.drop.iter().filter(|name| name.kind == kind) {
            drop_account(target, name).await?;
        }
    }
    refused
}

/// Merges documents through the temporary collections of one migration.
struct Merge<'a> {
    target: &'a TargetConnection,
    users: String,
    roles: String,
}

impl<'a> Merge<'a> {
    fn of(target: &'a TargetConnection, migration: &str) -> Self {
        Self {
            target,
            users: format!("users.{migration}"),
            roles: format!("roles.{migration}"),
        }
    }

    async fn all(&self, accounts: &[&Account]) -> Result<()> {
        for chunk in chunks(accounts) {
            self.chunk(chunk).await?;
        }
        Ok(())
    }

    /// Merges some users, or some roles.
    async fn chunk(&self, accounts: &[&Account]) -> Result<()> {
        let Some(first) = accounts.first() else {
            return Ok(());
        };
        let collection = match first.name().kind {
            AccountKind::User => &self.users,
            AccountKind::Role => &self.roles,
        };
        let mut documents = RawArrayBuf::new();
        for account in accounts {
            documents.push(account.document().to_owned());
        }
        let insert = rawdoc! { "insert": collection.as_str(), "ordered": false, "documents": documents };
        let reply = self
            .target
            .write_durably(OPERATION, crate::METADATA_DATABASE, &insert)
            .await?;
        // What exists was inserted by an attempt whose answer was lost.
        if let Some(error) = reply.errors.iter().find(|error| error.code != DUPLICATE) {
            return Err(
                Error::new(ErrorKind::Server, OPERATION, error.message.clone()).with_context("code", error.code)
            );
        }
        let full = |collection: &str| format!("{}.{collection}", crate::METADATA_DATABASE);
        // Some releases require both names, and accept one of a collection that does not exist.
        let merge = rawdoc! {
            "_mergeAuthzCollections": 1,
            "tempUsersCollection": full(&self.users),
            "tempRolesCollection": full(&self.roles),
            "db": "",
            "drop": false,
        };
        self.target.write_durably(OPERATION, "admin", &merge).await?;
        self.empty(collection).await
    }

    /// Removes the temporary collections.
    async fn clear(&self) -> Result<()> {
        for collection in [&self.users, &self.roles] {
            self.empty(collection).await?;
            let drop = doc! { "drop": collection };
            match client::run(self.target.client(), OPERATION, crate::METADATA_DATABASE, drop).await {
                // A user who may not drop it leaves an empty collection behind.
                Err(error) if !client::is_gone(&error) && error.kind() != ErrorKind::Unauthorized => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn empty(&self, collection: &str) -> Result<()> {
        let delete = rawdoc! { "delete": collection, "deletes": [{ "q": {}, "limit": 0 }] };
        self.target
            .write_durably(OPERATION, crate::METADATA_DATABASE, &delete)
            .await?;
        Ok(())
    }
}

/// Splits accounts of one kind into parts that one merge can take.
fn chunks<'a, 'b>(accounts: &'b [&'a Account]) -> Vec<&'b [&'a Account]> {
    let mut chunks = Vec::new();
    let mut rest = accounts;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take(AT_ONCE).take_while(|account| {
            bytes += account.document().as_bytes().len();
            bytes <= BYTES
        });
        let (chunk, later) = rest.split_at(fitting.count().max(1));
        chunks.push(chunk);
        rest = later;
    }
    chunks
}

async fn update_role(target: &TargetConnection, before: &Account, role: &Account) -> Result<()> {
    let database = &role.name().database;
    let command = update_of(before, role).map_err(|error| Error::malformed(OPERATION, error))?;
    let updated = target.write_durably(OPERATION, database, &command).await;
    updated
        .map(|_| ())
        .map_err(|error| error.with_context("role", role.name()))
}

fn update_of(before: &Account, role: &Account) -> bson::error::Result<RawDocumentBuf> {
    const RESTRICTIONS: &str = "authenticationRestrictions";
    let after = Document::try_from(role.document())?;
    let array = |name: &str| after.get_array(name).cloned().unwrap_or_default();
    let mut command =
        doc! { "updateRole": &role.name().name, "privileges": array("privileges"), "roles": array("roles") };
    let restrictions = array(RESTRICTIONS);
    let had = before
        .document()
        .get_array(RESTRICTIONS)
        .is_ok_and(|had| had.into_iter().next().is_some());
    if had || !restrictions.is_empty() {
        command.insert(RESTRICTIONS, Bson::Array(restrictions));
    }
    RawDocumentBuf::try_from(&command)
}

async fn drop_account(target: &TargetConnection, name: &AccountName) -> Result<()> {
    let command = match name.kind {
        AccountKind::User => rawdoc! { "dropUser": name.name.as_str() },
        AccountKind::Role => rawdoc! { "dropRole": name.name.as_str() },
    };
    match target.write_durably(OPERATION, &name.database, &command).await {
        Err(error) if !client::code(&error).is_some_and(|code| MISSING.contains(&code)) => {
            Err(error.with_context("name", name))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(bytes: usize) -> Account {
        let document = rawdoc! { "user": "app", "db": "shop", "customData": { "a": "x".repeat(bytes) } };
        Account::new(AccountKind::User, document).unwrap()
    }

    #[test]
    fn a_merge_takes_a_bounded_part() {
        let small: Vec<Account> = (0..250).map(|_| user(10)).collect();
        let lengths = |accounts: &[Account]| -> Vec<usize> {
            let accounts: Vec<&Account> = accounts.iter().collect();
            chunks(&accounts).iter().map(|chunk| chunk.len()).collect()
        };
        assert_eq!(lengths(&small), [100, 100, 50]);
        assert_eq!(
            lengths(&[user(9 << 20), user(3 << 20), user(3 << 20), user(3 << 20)]),
            [1, 2, 1]
        );
        assert_eq!(lengths(&[]), [0; 0]);
    }

    #[test]
    fn restrictions_are_sent_only_if_there_are_any() {
        let role = |restrictions: RawArrayBuf| {
            let document = rawdoc! { "role": "r", "db": "admin", "authenticationRestrictions": restrictions };
            Account::new(AccountKind::Role, document).unwrap()
        };
        let mut some = RawArrayBuf::new();
        some.push(rawdoc! { "clientSource": ["10.0.0.1"] });
        let (with, without) = (role(some), role(RawArrayBuf::new()));
        for (before, after, sent) in [
            (&with, &without, true),
            (&without, &with, true),
            (&without, &without, false),
        ] {
            let command = update_of(before, after).unwrap();
            assert_eq!(command.get("authenticationRestrictions").unwrap().is_some(), sent);
        }
    }
}
