//! One migration a version pair that meets every kind of write and of change to the catalog, each twice: while collections are being
//! copied, and while the oplog is followed.
//!
//! A case is a list of commands, those that make what stands before the migration and those that run during it. Each has databases of its
//! own, so that what differs in the end names its case.

use std::time::Duration;

use bson::{Bson, Document, doc};
use futures::{StreamExt, stream};
use mongodb::Client;
use mongodb::error::{Error, TRANSIENT_TRANSACTION_ERROR};
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Migration, Outcome};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::pairs::pairs;

mod collections;
mod documents;
mod indexes;
mod transactions;
mod updates;
pub mod values;

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// Stands for the case's own database in names that have to be whole, as `@.orders`. `@2` is a second database.
const DATABASE: char = '@';

/// Documents that keep the walkers busy while the first round of cases runs.
const FILLER: i32 = 30_000;

/// Servers from 4.4 on take no further write once a tenth of their cache is uncommitted, and several cases at the same time have
/// transactions of many megabytes: in the testbed's least cache such a source comes to a stand, with a migration or without.
const CACHE_GB: f64 = 2.0;

struct Case {
    name: &'static str,
    /// The first server version that knows what is used.
    since: Version,
    /// The last one that allows it.
    until: Version,
    before: Vec<Step>,
    during: Vec<Step>,
}

enum Step {
    /// A command on the case's database.
    Run(Document),
    /// A command on `admin`.
    Admin(Document),
    /// Writes in one transaction, committed or aborted.
    Transaction(Vec<Document>, bool),
}

fn case(name: &'static str, before: Vec<Step>, during: Vec<Step>) -> Case {
    Case {
        name,
        since: Version::V4_2,
        until: Version::V6_0_27,
        before,
        during,
    }
}

impl Case {
    fn since(mut self, version: Version) -> Self {
        self.since = version;
        self
    }

    fn until(mut self, version: Version) -> Self {
        self.until = version;
        self
    }

    /// The case's database in a round of cases.
    fn database(&self, round: &str) -> String {
        format!("{round}_{}", self.name)
    }
}

fn run(command: Document) -> Step {
    Step::Run(command)
}

fn insert(collection: &str, documents: Vec<Document>) -> Step {
    run(doc! { "insert": collection, "documents": documents })
}

fn numbered(collection: &str, count: i32) -> Step {
    insert(
        collection,
        (0..count).map(|i| doc! { "_id": i, "i": i, "g": i % 3 }).collect(),
    )
}

fn create(collection: &str, options: Document) -> Step {
    let mut command = doc! { "create": collection };
    command.extend(options);
    run(command)
}

fn index(collection: &str, key: Document, options: Document) -> Step {
    let name: Vec<String> = key.iter().map(|(field, kind)| format!("{field}_{kind}")).collect();
    let mut index = doc! { "key": key, "name": name.join("_").replace(['$', '"'], "") };
    index.extend(options);
    run(doc! { "createIndexes": collection, "indexes": [index] })
}

fn update(collection: &str, id: impl Into<Bson>, change: impl Into<Bson>) -> Step {
    run(doc! { "update": collection, "updates": [{ "q": { "_id": id.into() }, "u": change.into() }] })
}

fn delete(collection: &str, id: impl Into<Bson>) -> Step {
    run(doc! { "delete": collection, "deletes": [{ "q": { "_id": id.into() }, "limit": 1 }] })
}

fn rename(from: &str, to: &str) -> Step {
    Step::Admin(doc! { "renameCollection": format!("@.{from}"), "to": to.to_owned() })
}

fn all() -> Vec<Case> {
    [
        collections::cases(),
        documents::cases(),
        indexes::cases(),
        transactions::cases(),
        updates::cases(),
        values::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Puts the case's database in the place of its sign, wherever a string begins with it.
fn located(value: Bson, database: &str) -> Bson {
    match value {
        Bson::String(text) => Bson::String(match text.strip_prefix(DATABASE) {
            Some(rest) if rest.starts_with('.') || rest.starts_with('2') => format!("{database}{rest}"),
            _ => text,
        }),
        Bson::Array(values) => Bson::Array(values.into_iter().map(|value| located(value, database)).collect()),
        Bson::Document(document) => Bson::Document(located_document(&document, database)),
        other => other,
    }
}

fn located_document(document: &Document, database: &str) -> Document {
    let place = |(name, value): (&String, &Bson)| (name.clone(), located(value.clone(), database));
    document.iter().map(place).collect()
}

/// Runs the steps; answers what the server refused.
async fn perform(client: &Client, case: &Case, database: &str, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        let answers = match step {
            Step::Run(command) => {
                let command = located_document(command, database);
                vec![(command.clone(), client.database(database).run_command(command).await)]
            }
            Step::Admin(command) => {
                let command = located_document(command, database);
                vec![(command.clone(), client.database("admin").run_command(command).await)]
            }
            Step::Transaction(commands, commit) => {
                let mut attempts = 0;
                loop {
                    let answers = transaction(client, database, commands, *commit).await;
                    let again = |error: &Error| error.contains_label(TRANSIENT_TRANSACTION_ERROR);
                    attempts += 1;
                    if attempts == 5 || !answers.iter().any(|(_, answer)| answer.as_ref().is_err_and(again)) {
                        break answers;
                    }
                }
            }
        };
        for (command, answer) in answers {
            let refused = match answer {
                Ok(answer) if !answer.contains_key("writeErrors") => continue,
                Ok(answer) => answer.to_string(),
                Err(error) => error.to_string(),
            };
            let command: String = command.to_string().chars().take(300).collect();
            return Err(format!("{}: {command}: {refused}", case.name));
        }
    }
    Ok(())
}

/// Runs a transaction; answers what the server says of each command and of the end. What it calls transient is for the caller to do anew, as
/// applications do.
async fn transaction(
    client: &Client,
    database: &str,
    commands: &[Document],
    commit: bool,
) -> Vec<(Document, mongodb::error::Result<Document>)> {
    let mut answers = Vec::new();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for command in commands {
        let command = located_document(command, database);
        let on = client.database(database);
        let answer = on.run_command(command.clone()).session(&mut session).await;
        let failed = answer.is_err();
        answers.push((command, answer));
        if failed {
            return answers;
        }
    }
    let (name, ended) = match commit {
        true => ("commitTransaction", session.commit_transaction().await),
        false => ("abortTransaction", session.abort_transaction().await),
    };
    answers.push((doc! { name: 1 }, ended.map(|()| doc! {})));
    answers
}

/// Runs the steps of all cases, some at the same time.
async fn perform_all(client: &Client, cases: &[Case], round: &str, steps: impl Fn(&Case) -> &[Step]) {
    let results: Vec<Result<(), String>> = stream::iter(cases)
        .map(|case| {
            let steps = steps(case);
            async move {
                let database = case.database(round);
                let performed = tokio::time::timeout(DEADLINE, perform(client, case, &database, steps)).await;
                performed.unwrap_or_else(|_| Err(format!("{}: no answer in {DEADLINE:?}", case.name)))
            }
        })
        .buffer_unordered(4)
        .collect()
        .await;
    let refused: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "the source refused: {refused:#?}");
}

async fn migrate(from: Version, to: Version) {
    let (source_set, target_set) = futures::try_join!(
        ReplicaSet::builder(from)
            .cache_gb(CACHE_GB)
            .set_parameter("ttlMonitorSleepSecs", 1)
            .start(),
        ReplicaSet::builder(to).name("rs1").cache_gb(CACHE_GB).start()
    )
    .unwrap();
    let (source, target) = (source_set.client().await.unwrap(), target_set.client().await.unwrap());
    let mut cases = all();
    cases.retain(|case| case.since <= from && from <= case.until);
    if let Ok(only) = std::env::var("MONGOFERRY_CASE") {
        cases.retain(|case| case.name == only);
    }
    let text = "x".repeat(200);
    for start in (0..FILLER).step_by(5_000) {
        let documents = (start..start + 5_000).map(|id| doc! { "_id": id, "text": &text });
        source
            .database("filler")
            .collection("documents")
            .insert_many(documents)
            .await
            .unwrap();
    }
    for round in ["copy", "tail"] {
        perform_all(&source, &cases, round, |case| &case.before).await;
    }

    let (from_uri, to_uri) = (source_set.uri(), target_set.uri());
    let (reader, writer) = futures::try_join!(MongoSource::connect(&from_uri), MongoSink::connect(&to_uri)).unwrap();
    let migration = Migration::builder(reader, writer).walkers(2).chunk_bytes(32 << 10);
    let handle = tokio::time::timeout(DEADLINE, migration.build().unwrap().start());
    let handle = handle.await.expect("it starts in time").unwrap();
    perform_all(&source, &cases, "copy", |case| &case.during).await;
    let ready = tokio::time::timeout(DEADLINE, handle.ready_to_cut_over());
    if let Err(error) = ready.await.expect("it becomes ready in time") {
        panic!("{from} to {to}: {error:?}");
    }
    perform_all(&source, &cases, "tail", |case| &case.during).await;
    // What the source deletes by itself has to come to rest before both sides are compared.
    for round in ["copy", "tail"] {
        let expiring = source
            .database(&format!("{round}_ttl_deletes"))
            .collection::<Document>("a");
        wait_until(DEADLINE, "the source to expire documents", async || {
            let expired = doc! { "at": bson::DateTime::from_millis(0) };
            expiring.count_documents(expired).await.is_ok_and(|count| count == 0)
        })
        .await
        .unwrap();
    }
    let summary = tokio::time::timeout(DEADLINE, handle.cutover(async {}))
        .await
        .expect("it cuts over in time");
    let summary = summary.unwrap_or_else(|error| panic!("{from} to {to}: {error:?}"));
    // The testbed's own comparison first: it names what differs.
    let options = CompareOptions::default();
    let identical = tokio::time::timeout(DEADLINE, assert_identical(&source, &target, &options)).await;
    identical.expect("the comparison ends in time").unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let (on_source, on_target) = (names(&source).await, names(&target).await);
    let left: Vec<_> = on_target.iter().filter(|name| !on_source.contains(name)).collect();
    assert!(left.is_empty(), "databases are left behind: {left:?}");
}

/// The names of all databases with data of users.
async fn names(client: &Client) -> Vec<String> {
    let mut names = client.list_database_names().await.unwrap();
    names.retain(|name| !matches!(name.as_str(), "admin" | "config" | "local") && !name.starts_with("__mdb_internal"));
    names.sort();
    names
}

// What lies between the ends of a path is run where there is more time.
pairs! {
    migrate;
    every_case_from_4_2_to_4_2: V4_2 => V4_2,
    #[ignore = "takes most of a minute"]
    every_case_from_4_2_to_4_4: V4_2 => V4_4,
    #[ignore = "takes most of a minute"]
    every_case_from_4_2_to_5_0: V4_2 => V5_0,
    every_case_from_4_2_to_6_0: V4_2 => V6_0,
    every_case_from_4_4_to_4_4: V4_4 => V4_4,
    every_case_from_4_4_to_5_0: V4_4 => V5_0,
    #[ignore = "takes most of a minute"]
    every_case_from_4_4_to_6_0: V4_4 => V6_0,
    every_case_from_5_0_to_5_0: V5_0 => V5_0,
    every_case_from_5_0_to_6_0: V5_0 => V6_0,
    every_case_from_6_0_to_6_0: V6_0 => V6_0,
    every_case_from_6_0_27_to_6_0_27: V6_0_27 => V6_0_27,
}
