//! Collects the facts about a connection.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::{AuthMechanism, ClientOptions, ReadPreference, SelectionCriteria, Tls};
use tokio::time::{Instant, sleep, timeout};

use crate::model::Connection;

/// Maximum wait for a client created by the host to find the other members of a set.
const FOUND: Duration = Duration::from_millis(500);

/// Returns the facts that the options state.
pub(super) fn connection_of(options: &ClientOptions) -> Connection {
    let user = options.credential.as_ref().map(|credential| {
        let database = match credential.mechanism {
            Some(AuthMechanism::MongoDbX509) => "$external".to_owned(),
            _ => credential.source.clone().unwrap_or_else(|| "admin".to_owned()),
        };
        (credential.username.clone().unwrap_or_default(), database)
    });
    Connection {
        hosts: options.hosts.iter().map(ToString::to_string).collect(),
        encrypted: Some(matches!(options.tls, Some(Tls::Enabled(_)))),
        direct: options.direct_connection == Some(true),
        unreachable: Vec::new(),
        user,
        read_preference: read_preference_of(options.selection_criteria.as_ref()),
    }
}

/// Returns the read preference unless it is `primary`.
fn read_preference_of(criteria: Option<&SelectionCriteria>) -> Option<String> {
    let name = match criteria? {
        SelectionCriteria::ReadPreference(ReadPreference::Primary) => return None,
        SelectionCriteria::ReadPreference(ReadPreference::Secondary { .. }) => "secondary",
        SelectionCriteria::ReadPreference(ReadPreference::PrimaryPreferred { .. }) => "primaryPreferred",
        SelectionCriteria::ReadPreference(ReadPreference::SecondaryPreferred { .. }) => "secondaryPreferred",
        SelectionCriteria::ReadPreference(ReadPreference::Nearest { .. }) => "nearest",
        _ => "another one",
    };
    Some(name.to_owned())
}

/// Returns the facts about the connection of a client that the host has created.
pub(super) async fn connection_of_client(client: &Client, hello: &Document) -> Connection {
    let names = names_of(hello);
    let end = Instant::now() + FOUND;
    // The driver looks for the other members after it has found the first one.
    let hosts = loop {
        let hosts = servers_of(client).await;
        if hosts.len() > 1 || names.len() <= 1 || Instant::now() >= end {
            break hosts;
        }
        sleep(FOUND / 10).await;
    };
    let direct = hosts.len() == 1 && names.iter().any(|name| !hosts.contains(name));
    Connection {
        direct,
        unreachable: names
            .into_iter()
            .filter(|name| direct && !hosts.contains(name))
            .collect(),
        hosts: hosts.into_iter().collect(),
        encrypted: None,
        user: None,
        read_preference: read_preference_of(client.selection_criteria()),
    }
}

/// Returns the addresses of the data-bearing members that a client knows.
async fn servers_of(client: &Client) -> BTreeSet<String> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let notes = Arc::clone(&seen);
    // The driver passes every member it knows to a selection predicate.
    let all = SelectionCriteria::Predicate(Arc::new(move |server| {
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert(server.address().to_string());
        true
    }));
    let admin = client.database("admin");
    // The answer does not matter.
    let _ = timeout(FOUND, admin.run_command(doc! { "isMaster": 1 }).selection_criteria(all)).await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.clone()
}

/// Returns the names by which the members of a set know each other.
pub(super) fn names_of(hello: &Document) -> Vec<String> {
    let listed = hello.get_array("hosts").map(Vec::as_slice).unwrap_or_default();
    listed
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_string_is_remembered_without_its_password() {
        for (uri, user, direct, read_preference) in [
            ("mongodb://h1:1", None, false, None),
            (
                "mongodb://u:secret@h1:1/?authSource=shop&readPreference=nearest",
                Some(("u".to_owned(), "shop".to_owned())),
                false,
                Some("nearest".to_owned()),
            ),
            (
                "mongodb://h1:1/?directConnection=true&readPreference=primary",
                None,
                true,
                None,
            ),
        ] {
            let connection = connection_of(&ClientOptions::parse(uri).await.unwrap());
            assert_eq!(connection.hosts, ["h1:1"]);
            assert_eq!(
                (
                    connection.user.clone(),
                    connection.direct,
                    connection.read_preference.clone()
                ),
                (user, direct, read_preference),
                "{uri}"
            );
            assert!(!format!("{connection:?}").contains("secret"));
        }
    }
}
