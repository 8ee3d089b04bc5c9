//! Privileges on collections that get other names on the target.

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document};

use crate::model::{Account, AccountKind, Namespace, Selection};

/// A role as the target is to have it.
pub(super) struct Mapped {
    pub account: Account,
    /// The resources whose names could not be mapped exactly, as text. The privileges on them are as on the source.
    pub unmapped: Vec<String>,
}

/// Names collections in the privileges of a role as the migration renames them. A privilege on one collection gets its new name. A privilege
/// on a whole database, or on a name in all databases, stays as it is, even if it covers a renamed collection. So does one of a role
/// outside `admin` whose collection goes to another database, because such a role has privileges on its own database alone.
pub(super) fn map(account: &Account, selection: &Selection) -> Mapped {
    let unchanged = |unmapped| Mapped {
        account: account.clone(),
        unmapped,
    };
    if account.name().kind != AccountKind::Role || selection.renames().next().is_none() {
        return unchanged(Vec::new());
    }
    let Ok(mut document) = Document::try_from(account.document()) else {
        return unchanged(Vec::new());
    };
    let mut unmapped = Vec::new();
    let mut is_changed = false;
    let listed = document.get_array_mut("privileges").map(Vec::as_mut_slice);
    for privilege in listed.unwrap_or_default() {
        let Some(resource) = privilege
            .as_document_mut()
            .and_then(|one| one.get_document_mut("resource").ok())
        else {
            continue;
        };
        match rename(resource, &account.name().database, selection) {
            Renamed::Not => {}
            Renamed::Exactly => is_changed = true,
            Renamed::Unknown(text) => unmapped.push(text),
        }
    }
    if !is_changed {
        return unchanged(unmapped);
    }
    let mapped = RawDocumentBuf::try_from(&document).ok();
    match mapped.and_then(|document| Account::new(AccountKind::Role, document).ok()) {
        Some(account) => Mapped { account, unmapped },
        None => unchanged(unmapped),
    }
}

enum Renamed {
    Not,
    Exactly,
    Unknown(String),
}

fn rename(resource: &mut Document, of: &str, selection: &Selection) -> Renamed {
    let text = |name: &str| resource.get(name).and_then(Bson::as_str).map(str::to_owned);
    let (database, collection) = (text("db"), text("collection"));
    let shown = format!(
        "{} in {}",
        named(collection.as_ref().or(text("system_buckets").as_ref())),
        named(database.as_ref())
    );
    let covers = |part: &Option<String>, name: &str| part.as_ref().is_none_or(|part| part.is_empty() || part == name);
    match (&database, &collection) {
        (Some(database), Some(collection)) if !database.is_empty() && !collection.is_empty() => {
            let Ok(name) = format!("{database}.{collection}").parse::<Namespace>() else {
                return Renamed::Not;
            };
            let target = selection.target(&name);
            if !selection.contains(&name) || target == name {
                return Renamed::Not;
            }
            if of != "admin" && target.database() != of {
                return Renamed::Unknown(shown);
            }
            resource.insert("db", target.database());
            resource.insert("collection", target.collection());
            Renamed::Exactly
        }
        // The cluster, or any resource.
        (None, None) if !resource.contains_key("system_buckets") => Renamed::Not,
        // Everything in every database has its new name, too.
        (Some(database), Some(collection)) if database.is_empty() && collection.is_empty() => Renamed::Not,
        (database, collection) => {
            let buckets = text("system_buckets");
            let mut renames = selection.renames();
            let concerns = renames.any(|(from, _)| {
                let name = from.time_series().unwrap_or_else(|| from.clone());
                let part = if collection.is_some() { collection } else { &buckets };
                covers(database, name.database()) && covers(part, name.collection())
            });
            if concerns {
                Renamed::Unknown(shown)
            } else {
                Renamed::Not
            }
        }
    }
}

fn named(part: Option<&String>) -> String {
    match part.map(String::as_str).unwrap_or_default() {
        "" => "everything".to_owned(),
        name => format!("`{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    fn role(database: &str, resource: Document) -> Account {
        let privilege = doc! { "resource": resource, "actions": ["find"] };
        let document = doc! { "role": "r", "db": database, "privileges": [privilege], "roles": [] };
        let document = bson::serialize_to_raw_document_buf(&document).unwrap();
        Account::new(AccountKind::Role, document).unwrap()
    }

    fn resource(account: &Account) -> Document {
        let document = Document::try_from(account.document()).unwrap();
        let privilege = document.get_array("privileges").unwrap()[0]
            .as_document()
            .unwrap()
            .clone();
        privilege.get_document("resource").unwrap().clone()
    }

    #[test]
    fn only_the_privilege_on_one_collection_is_mapped() {
        let mut selection = Selection::all();
        selection.rename("shop.orders", "store.orders").unwrap();
        selection.rename("shop.items", "shop.parts").unwrap();
        selection.exclude("other.*").unwrap();
        let on = |database: &str, collection: &str| doc! { "db": database, "collection": collection };
        for (of, before, after, is_unmapped) in [
            ("admin", on("shop", "orders"), on("store", "orders"), false),
            ("shop", on("shop", "orders"), on("shop", "orders"), true),
            ("shop", on("shop", "items"), on("shop", "parts"), false),
            ("admin", on("shop", "other"), on("shop", "other"), false),
            ("admin", on("shop", ""), on("shop", ""), true),
            ("admin", on("", "orders"), on("", "orders"), true),
            ("admin", on("", "users"), on("", "users"), false),
            ("admin", on("", ""), on("", ""), false),
            ("admin", on("elsewhere", ""), on("elsewhere", ""), false),
            ("admin", doc! { "cluster": true }, doc! { "cluster": true }, false),
            (
                "admin",
                doc! { "anyResource": true },
                doc! { "anyResource": true },
                false,
            ),
            (
                "admin",
                doc! { "db": "shop", "system_buckets": "orders" },
                doc! { "db": "shop", "system_buckets": "orders" },
                true,
            ),
        ] {
            let mapped = map(&role(of, before.clone()), &selection);
            assert_eq!(resource(&mapped.account), after, "{of} {before}");
            assert_eq!(!mapped.unmapped.is_empty(), is_unmapped, "{of} {before}");
            let unchanged = map(&role(of, before.clone()), &Selection::all());
            assert_eq!(resource(&unchanged.account), before);
        }
        let user = Account::new(AccountKind::User, rawdoc! { "user": "app", "db": "shop" }).unwrap();
        assert!(map(&user, &selection).unmapped.is_empty());
    }
}
