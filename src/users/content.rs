//! When two users or roles are the same, and hashes of their content.
//!
//! Servers list a role in other forms than they store it in: actions on one resource are combined and sorted, an address gets its prefix
//! length. The canonical form has neither these differences nor what identifies a document (`_id`, `userId`).

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::Account;

/// Identifies the content of a user or role, credentials included, without revealing anything that helps to guess a password: of the
/// credentials it covers the salts, which a server tells anybody who logs in and which change with every password.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Fingerprint(pub String);

/// What the canonical form has of the credentials.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Credentials {
    All,
    /// Names, salts and iteration counts.
    Salts,
    None,
}

/// Whether both have the same content, credentials included.
pub(crate) fn is_same(left: &Account, right: &Account) -> bool {
    left.name() == right.name() && canonical(left, Credentials::All) == canonical(right, Credentials::All)
}

/// The fingerprint of the content.
pub(crate) fn fingerprint(account: &Account) -> Fingerprint {
    Fingerprint(digest("fingerprint", &canonical(account, Credentials::Salts)))
}

/// A hash of the content without credentials, to show to people: equal content has an equal hash on both sides.
pub(crate) fn hash(account: &Account) -> String {
    digest("content", &canonical(account, Credentials::None))
}

fn digest(purpose: &str, canonical: &Document) -> String {
    let mut digest = Sha256::new();
    digest.update(purpose);
    digest.update([0]);
    digest.update(encoded(canonical));
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn canonical(account: &Account, credentials: Credentials) -> Document {
    let mut fields = BTreeMap::new();
    for field in account.document() {
        let Ok((name, value)) = field else { break };
        if let Ok(value) = Bson::try_from(value) {
            fields.insert(name.as_str().to_owned(), value);
        }
    }
    for identity in ["_id", "userId"] {
        fields.remove(identity);
    }
    if credentials == Credentials::None {
        fields.remove("credentials");
    }
    fields.entry("roles".to_owned()).or_insert(Bson::Array(Vec::new()));
    let canonical = fields.into_iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("credentials", Bson::Document(all)) => Bson::Document(canonical_credentials(all, credentials)),
            ("roles", Bson::Array(roles)) => sorted(roles.into_iter().map(sorted_fields)),
            ("privileges", Bson::Array(privileges)) => canonical_privileges(privileges),
            ("authenticationRestrictions", Bson::Array(all)) => sorted(all.into_iter().map(canonical_restriction)),
            (_, value) => value,
        };
        (name, value)
    });
    canonical
        .filter(|(name, value)| name != "authenticationRestrictions" || *value != Bson::Array(Vec::new()))
        .collect()
}

fn canonical_credentials(all: Document, credentials: Credentials) -> Document {
    let by_name: BTreeMap<String, Bson> = all.into_iter().collect();
    let reduced = by_name.into_iter().map(|(mechanism, value)| {
        let value = match value {
            Bson::Document(fields) => {
                let shown = |name: &str| credentials == Credentials::All || matches!(name, "salt" | "iterationCount");
                let fields: BTreeMap<_, _> = fields.into_iter().filter(|(name, _)| shown(name)).collect();
                Bson::Document(fields.into_iter().collect())
            }
            other if credentials == Credentials::All => other,
            _ => Bson::Null,
        };
        (mechanism, value)
    });
    reduced.collect()
}

/// Combines the actions on each resource.
fn canonical_privileges(privileges: Vec<Bson>) -> Bson {
    let mut by_resource: BTreeMap<Vec<u8>, (Bson, BTreeSet<String>)> = BTreeMap::new();
    for privilege in privileges {
        let Bson::Document(mut privilege) = privilege else {
            continue;
        };
        let resource = sorted_fields(privilege.remove("resource").unwrap_or(Bson::Null));
        let (_, actions) = by_resource
            .entry(bytes(&resource))
            .or_insert_with(|| (resource, BTreeSet::new()));
        let listed = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        actions.extend(listed.iter().filter_map(Bson::as_str).map(str::to_owned));
    }
    let combined = by_resource.into_values();
    Bson::Array(
        combined
            .map(|(resource, actions)| {
                let actions: Vec<String> = actions.into_iter().collect();
                Bson::Document(doc! { "resource": resource, "actions": actions })
            })
            .collect(),
    )
}

fn canonical_restriction(restriction: Bson) -> Bson {
    let Bson::Document(restriction) = restriction else {
        return restriction;
    };
    let fields: BTreeMap<String, Bson> = restriction.into_iter().collect();
    let canonical = fields.into_iter().map(|(name, value)| {
        let value = match value {
            Bson::Array(addresses) => sorted(addresses.into_iter().map(address)),
            other => address(other),
        };
        (name, value)
    });
    Bson::Document(canonical.collect())
}

/// An address without the prefix length that stands for itself alone.
fn address(value: Bson) -> Bson {
    match value {
        Bson::String(text) => {
            let whole = if text.contains(':') { "/128" } else { "/32" };
            Bson::String(text.strip_suffix(whole).unwrap_or(&text).to_owned())
        }
        other => other,
    }
}

fn sorted_fields(value: Bson) -> Bson {
    match value {
        Bson::Document(fields) => {
            let by_name: BTreeMap<_, _> = fields.into_iter().collect();
            Bson::Document(by_name.into_iter().collect())
        }
        other => other,
    }
}

/// The different values, in an order that depends on them alone.
fn sorted(values: impl Iterator<Item = Bson>) -> Bson {
    let by_bytes: BTreeMap<Vec<u8>, Bson> = values.map(|value| (bytes(&value), value)).collect();
    Bson::Array(by_bytes.into_values().collect())
}

fn bytes(value: &Bson) -> Vec<u8> {
    encoded(&doc! { "": value })
}

fn encoded(document: &Document) -> Vec<u8> {
    // Documents of a server can be encoded: they come from bytes.
    RawDocumentBuf::try_from(document)
        .map(RawDocumentBuf::into_bytes)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::model::AccountKind;

    fn user(document: RawDocumentBuf) -> Account {
        Account::new(AccountKind::User, document).unwrap()
    }

    fn role(document: RawDocumentBuf) -> Account {
        Account::new(AccountKind::Role, document).unwrap()
    }

    fn with_password(salt: &str, stored_key: &str) -> Account {
        let credentials =
            rawdoc! { "SCRAM-SHA-1": { "iterationCount": 10_000, "salt": salt, "storedKey": stored_key } };
        user(
            rawdoc! { "_id": "shop.app", "userId": 1, "user": "app", "db": "shop", "credentials": credentials, "roles": [] },
        )
    }

    #[test]
    fn a_role_is_the_same_in_each_form() {
        let stored = role(rawdoc! {
            "_id": "admin.r", "role": "r", "db": "admin",
            "privileges": [
                { "resource": { "db": "shop", "collection": "a" }, "actions": ["insert", "find"] },
                { "resource": { "cluster": true }, "actions": ["listDatabases"] },
                { "resource": { "collection": "a", "db": "shop" }, "actions": ["remove", "find"] },
            ],
            "roles": [{ "role": "x", "db": "admin" }, { "role": "a", "db": "admin" }],
            "authenticationRestrictions": [{ "clientSource": ["10.0.0.1", "::1"] }],
        });
        let listed = role(rawdoc! {
            "role": "r", "db": "admin",
            "roles": [{ "db": "admin", "role": "a" }, { "role": "x", "db": "admin" }],
            "privileges": [
                { "resource": { "cluster": true }, "actions": ["listDatabases"] },
                { "resource": { "db": "shop", "collection": "a" }, "actions": ["find", "insert", "remove"] },
            ],
            "authenticationRestrictions": [{ "clientSource": ["::1/128", "10.0.0.1/32"] }],
        });
        assert!(is_same(&stored, &listed));
        assert_eq!(
            (fingerprint(&stored), hash(&stored)),
            (fingerprint(&listed), hash(&listed))
        );
        for other in [
            rawdoc! { "role": "r", "db": "admin", "privileges": [], "roles": [] },
            rawdoc! { "role": "s", "db": "admin", "privileges": [], "roles": [] },
            rawdoc! { "role": "r", "db": "admin", "privileges": [], "roles": [{ "role": "x", "db": "admin" }] },
            rawdoc! {
                "role": "r", "db": "admin", "privileges": [], "roles": [],
                "authenticationRestrictions": [{ "clientSource": ["10.0.0.1/31"] }],
            },
        ] {
            let other = role(other);
            assert!(!is_same(&stored, &other) && is_same(&other, &other));
            assert_ne!(hash(&stored), hash(&other));
        }
    }

    #[test]
    fn a_password_shows_in_the_comparison_alone() {
        let (one, other) = (with_password("c2FsdA==", "key"), with_password("c2FsdA==", "another"));
        assert!(!is_same(&one, &other));
        assert_eq!(
            fingerprint(&one),
            fingerprint(&other),
            "the key cannot be guessed by the fingerprint"
        );
        let changed = with_password("bmV3", "key");
        assert_ne!(
            fingerprint(&one),
            fingerprint(&changed),
            "a new password has a new salt"
        );
        assert_eq!(hash(&one), hash(&changed), "credentials are left out of what is shown");
    }

    #[test]
    fn identities_and_empty_restrictions_do_not_count() {
        let one =
            user(rawdoc! { "_id": "a", "userId": 1, "user": "app", "db": "shop", "authenticationRestrictions": [] });
        let other = user(rawdoc! { "_id": "b", "userId": 2, "user": "app", "db": "shop", "roles": [] });
        assert!(is_same(&one, &other));
        let with_data = user(rawdoc! { "user": "app", "db": "shop", "customData": { "a": 1 } });
        assert!(!is_same(&one, &with_data));
        assert_ne!(hash(&one), hash(&with_data));
    }
}
