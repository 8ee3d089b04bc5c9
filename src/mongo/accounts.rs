//! Reads users and roles, and what a deployment knows of authentication.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc};
use futures::FutureExt;
use futures::future::BoxFuture;
use mongodb::Client;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Account, AccountKind, AccountName, Accounts};
use crate::mongo::client::{self, Commands, if_allowed};

const OPERATION: &str = "read users and roles";

/// Maximum size of all users and roles in bytes.
const MOST_BYTES: usize = 64 << 20;

/// Maximum number of users in one query, and of roles. A role is listed with everything that it inherits.
const USERS: usize = 1000;
const ROLES: usize = 50;

/// Maximum time of the server for a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(45);

/// A role that does not exist.
const NO_ROLE: &str = "mongoferry-no-such-role";

/// The server's error codes for a role that does not exist, and for actions that it does not know: from 5.0 on, and before.
const ROLE_NOT_FOUND: i32 = 31;
const UNKNOWN_ACTIONS: [i32; 2] = [2, 9];

/// Returns all users and roles as they are stored.
///
/// # Errors
/// [`Unauthorized`](ErrorKind::Unauthorized) if the user may not read them, [`Refused`](ErrorKind::Refused) if they are too large, or a
/// server error.
pub(crate) async fn stored(client: &dyn Commands) -> Result<Accounts> {
    let mut budget = MOST_BYTES;
    let mut accounts = find(client, AccountKind::Role, doc! {}, &mut budget).await?;
    accounts.extend(find(client, AccountKind::User, doc! {}, &mut budget).await?);
    let mut all = Accounts::new(accounts);
    all.own = own(client).await?;
    Ok(all)
}

/// Returns those of the named users and roles that exist. The documents of roles are as the server lists them, because the role `restore`
/// may list roles and not read their collection.
///
/// # Errors
/// Same as [`stored`].
pub(crate) async fn named(client: &Client, names: &BTreeSet<AccountName>) -> Result<Accounts> {
    let mut budget = MOST_BYTES;
    let of_kind = |kind: AccountKind| names.iter().filter(move |name| name.kind == kind).collect::<Vec<_>>();
    let mut accounts = Vec::new();
    for names in of_kind(AccountKind::User).chunks(USERS) {
        let ids: Vec<String> = names.iter().map(|name| name.id()).collect();
        let filter = doc! { "_id": { "$in": ids } };
        accounts.extend(find(client, AccountKind::User, filter, &mut budget).await?);
    }
    for names in of_kind(AccountKind::Role).chunks(ROLES) {
        accounts.extend(roles(client, names, &mut budget).await?);
    }
    Ok(Accounts::new(accounts))
}

/// Adds what the deployment knows of authentication, as far as the user may ask for it.
///
/// # Errors
/// A server error.
pub(crate) async fn add_facts(client: &Client, accounts: &mut Accounts) -> Result<()> {
    accounts.own = own(client).await?;
    let parameter = doc! { "getParameter": 1, "authenticationMechanisms": 1 };
    let reply = if_allowed(client::run(client, OPERATION, "admin", parameter).await)?;
    accounts.mechanisms = reply.map(|reply| {
        let listed = reply.get_array("authenticationMechanisms").map(Vec::as_slice);
        strings(listed.unwrap_or_default())
    });
    let built_in = doc! { "rolesInfo": 1, "showBuiltinRoles": true };
    if let Some(reply) = if_allowed(client::run(client, OPERATION, "admin", built_in).await)? {
        let roles = documents(&reply, "roles");
        let is_built_in = |role: &&&Document| role.get_bool("isBuiltin").unwrap_or(false);
        let names = roles.iter().filter(is_built_in);
        let names = names.filter_map(|role| role.get_str("role").ok().map(str::to_owned));
        accounts.built_in_roles = Some(names.collect());
    }
    Ok(())
}

/// Returns those of the actions that no role can have, or `None` if the server does not say.
///
/// No command lists the actions that a server knows, and built-in roles do not have all of them. But a server reads the actions of a role
/// that is to be changed before it looks whether the role exists.
///
/// # Errors
/// A server error.
pub(crate) async fn unknown_actions(client: &Client, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
    let listed: Vec<&str> = actions.iter().map(String::as_str).collect();
    let privilege = doc! { "resource": { "cluster": true }, "actions": listed };
    let update = doc! { "updateRole": NO_ROLE, "privileges": [privilege] };
    match client::run(client, OPERATION, crate::METADATA_DATABASE, update).await {
        Err(error) if client::code(&error) == Some(ROLE_NOT_FOUND) => Ok(Some(BTreeSet::new())),
        Err(error) if client::code(&error).is_some_and(|code| UNKNOWN_ACTIONS.contains(&code)) => {
            Ok(named_in(&client::answer(&error), actions))
        }
        other => if_allowed(other).map(|_| None),
    }
}

/// Returns those of the actions that a server's message lists, or `None` if it lists none.
fn named_in(message: &str, actions: &BTreeSet<String>) -> Option<BTreeSet<String>> {
    let (_, listed) = message.rsplit_once(':')?;
    let words = listed.split(|character: char| !character.is_alphanumeric());
    let named: BTreeSet<String> = words
        .filter(|word| actions.contains(*word))
        .map(str::to_owned)
        .collect();
    (!named.is_empty()).then_some(named)
}

/// The users that the client is authenticated as, and the roles that they have.
fn own(client: &dyn Commands) -> BoxFuture<'_, Result<BTreeSet<AccountName>>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let status = client::run(client, OPERATION, "admin", doc! { "connectionStatus": 1 }).await?;
        let mut own = BTreeSet::new();
        if let Ok(authentication) = status.get_document("authInfo") {
            let text = |one: &Document, name: &str| one.get_str(name).unwrap_or_default().to_owned();
            for user in documents(authentication, "authenticatedUsers") {
                own.insert(AccountName::user(text(user, "user"), text(user, "db")));
            }
            for role in documents(authentication, "authenticatedUserRoles") {
                own.insert(AccountName::role(text(role, "role"), text(role, "db")));
            }
        }
        Ok(own)
    }
    .boxed()
}

async fn find(client: &dyn Commands, kind: AccountKind, filter: Document, budget: &mut usize) -> Result<Vec<Account>> {
    let collection = match kind {
        AccountKind::User => "system.users",
        AccountKind::Role => "system.roles",
    };
    let limit = i64::try_from(QUERY_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    let command = doc! {
        "find": collection, "filter": filter, "readConcern": { "level": "majority" }, "maxTimeMS": limit,
    };
    let found = client.documents_within(*budget, OPERATION, "admin", command).await?;
    let found = found.ok_or_else(too_large)?;
    found
        .into_iter()
        .map(|document| account(kind, document, budget))
        .collect()
}

async fn roles(client: &Client, names: &[&AccountName], budget: &mut usize) -> Result<Vec<Account>> {
    let listed: Vec<Document> = names
        .iter()
        .map(|name| doc! { "role": &name.name, "db": &name.database })
        .collect();
    let command = doc! { "rolesInfo": listed, "showPrivileges": true, "showAuthenticationRestrictions": true };
    let reply = client::run(client, OPERATION, "admin", command).await?;
    let mut found = Vec::new();
    for role in documents(&reply, "roles") {
        if !role.get_bool("isBuiltin").unwrap_or(false) {
            let document = RawDocumentBuf::try_from(&as_stored(role));
            let document = document.map_err(|error| Error::malformed(OPERATION, error))?;
            found.push(account(AccountKind::Role, document, budget)?);
        }
    }
    Ok(found)
}

/// Gives a role that a server lists the fields of its stored document.
fn as_stored(role: &Document) -> Document {
    let mut stored = Document::new();
    for name in ["_id", "role", "db", "privileges", "roles"] {
        if let Some(value) = role.get(name) {
            stored.insert(name, value.clone());
        }
    }
    // A list of lists: the role's own restrictions are one list among those of the roles that it inherits from.
    let restrictions = role.get_array("authenticationRestrictions").map(Vec::as_slice);
    let flat = restrictions.unwrap_or_default().iter().flat_map(|one| match one {
        Bson::Array(inner) => inner.clone(),
        other => vec![other.clone()],
    });
    let flat: Vec<Bson> = flat.collect();
    if !flat.is_empty() {
        stored.insert("authenticationRestrictions", flat);
    }
    stored
}

/// Reads an account, and takes its size from the budget.
fn account(kind: AccountKind, document: RawDocumentBuf, budget: &mut usize) -> Result<Account> {
    *budget = budget.checked_sub(document.as_bytes().len()).ok_or_else(too_large)?;
    Account::new(kind, document)
}

fn too_large() -> Error {
    let message = format!("they have more than {} MiB: select fewer databases", MOST_BYTES >> 20);
    Error::new(ErrorKind::Refused, OPERATION, message)
}

fn documents<'a>(document: &'a Document, name: &str) -> Vec<&'a Document> {
    let listed = document.get_array(name).map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(Bson::as_document).collect()
}

fn strings(values: &[Bson]) -> BTreeSet<String> {
    values.iter().filter_map(Bson::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn a_listed_role_gets_its_stored_form() {
        let listed = doc! {
            "role": "r", "db": "admin", "isBuiltin": false, "roles": [], "inheritedRoles": [], "inheritedPrivileges": [],
            "privileges": [{ "resource": { "cluster": true }, "actions": ["listDatabases"] }],
            "authenticationRestrictions": [[{ "clientSource": ["10.0.0.1/32"] }]],
        };
        let expected = doc! {
            "role": "r", "db": "admin",
            "privileges": [{ "resource": { "cluster": true }, "actions": ["listDatabases"] }], "roles": [],
            "authenticationRestrictions": [{ "clientSource": ["10.0.0.1/32"] }],
        };
        assert_eq!(as_stored(&listed), expected);
        let without = doc! { "role": "r", "db": "admin", "authenticationRestrictions": [] };
        assert_eq!(as_stored(&without), doc! { "role": "r", "db": "admin" });
    }

    #[test]
    fn unknown_actions_are_those_that_the_server_names() {
        let set = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<BTreeSet<_>>();
        let asked = set(&["find", "flyToTheMoon", "toMars"]);
        for message in [
            "Unrecognized action privilege strings: flyToTheMoon,toMars",
            "Unrecognized actions: flyToTheMoon, toMars",
        ] {
            assert_eq!(named_in(message, &asked), Some(set(&["flyToTheMoon", "toMars"])));
        }
        assert_eq!(named_in("it cannot find: that", &asked), None);
        assert_eq!(named_in("it cannot find that", &asked), None);
    }

    #[test]
    fn too_many_are_refused() {
        let document = rawdoc! { "user": "app", "db": "shop" };
        let mut budget = document.as_bytes().len();
        account(AccountKind::User, document.clone(), &mut budget).unwrap();
        let error = account(AccountKind::User, document, &mut budget).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
}
