//! Checks of users and roles on a sink.

use std::collections::BTreeSet;

use bson::raw::RawDocumentBuf;
use bson::rawdoc;

use super::{ConformanceFailure, Found, Outcome, check, ensure};
use crate::error::ErrorKind;
use crate::model::{Account, AccountChanges, AccountKind, AccountName};
use crate::sink::Sink;
use crate::users::is_same;

const DATABASE: &str = super::DATABASE;

pub(super) async fn run(sink: &dyn Sink) -> Result<(), ConformanceFailure> {
    check(
        "users and roles are put, replaced and dropped, and can be sent twice",
        changed(sink),
    )
    .await
}

async fn changed(sink: &dyn Sink) -> Outcome {
    let names = BTreeSet::from([AccountName::user("app", DATABASE), AccountName::role("clerk", DATABASE)]);
    match sink.accounts(&names).await {
        Err(error) if error.kind() == ErrorKind::Refused => return Ok(()),
        found => ensure!(found?.accounts.is_empty(), "there are users before any was put"),
    }
    let other = AccountName::user("other", DATABASE);
    for action in ["find", "find", "insert"] {
        let put = vec![user("app", action)?, role(action)?];
        change(sink, put.clone(), Vec::new()).await?;
        let found = sink.accounts(&names).await?.accounts;
        ensure!(found.len() == 2, "{found:?} are there, and two were put");
        for wanted in &put {
            ensure!(
                found.iter().any(|found| is_same(found, wanted)),
                "the {} is not as it was put",
                wanted.name()
            );
        }
        ensure!(
            sink.accounts(&BTreeSet::from([other.clone()]))
                .await?
                .accounts
                .is_empty(),
            "a user is listed whose name was not asked for"
        );
    }
    change(sink, vec![user("other", "find")?], names.iter().cloned().collect()).await?;
    ensure!(
        sink.accounts(&names).await?.accounts.is_empty(),
        "a user or role is there that was dropped"
    );
    let left = BTreeSet::from([other.clone()]);
    ensure!(
        sink.accounts(&left).await?.accounts.len() == 1,
        "a user is gone that was not dropped"
    );
    for _ in 0..2 {
        change(sink, Vec::new(), vec![other.clone()]).await?;
    }
    ensure!(
        sink.accounts(&left).await?.accounts.is_empty(),
        "a user is there that was dropped"
    );
    Ok(())
}

async fn change(sink: &dyn Sink, put: Vec<Account>, drop: Vec<AccountName>) -> Result<(), Found> {
    let changes = AccountChanges {
        migration: "conformance".to_owned(),
        put,
        drop,
    };
    Ok(sink.change_accounts(&changes).await?)
}

fn user(name: &str, data: &str) -> Result<Account, Found> {
    account(
        AccountKind::User,
        rawdoc! {
            "_id": format!("{DATABASE}.{name}"), "user": name, "db": DATABASE,
            "credentials": {
                "SCRAM-SHA-1": {
                    "iterationCount": 10_000, "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "storedKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                    "serverKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                },
            },
            "customData": { "data": data },
            "roles": [{ "role": "clerk", "db": DATABASE }],
        },
    )
}

fn role(action: &str) -> Result<Account, Found> {
    account(
        AccountKind::Role,
        rawdoc! {
            "_id": format!("{DATABASE}.clerk"), "role": "clerk", "db": DATABASE,
            "privileges": [{ "resource": { "db": DATABASE, "collection": "a" }, "actions": [action] }],
            "roles": [{ "role": "read", "db": DATABASE }],
        },
    )
}

fn account(kind: AccountKind, document: RawDocumentBuf) -> Result<Account, Found> {
    Ok(Account::new(kind, document)?)
}
