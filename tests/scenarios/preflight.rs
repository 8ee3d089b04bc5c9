//! Preflight on real servers: every rule that a server can be made to break.

mod connection;
mod data;
mod members;
mod privileges;
mod rules;
mod waits;

pub(super) use self::privileges::grant_by_fix;

use bson::{Document, doc};
use mongodb::Client;
use mongoferry::{Error, Finding, Migration, MigrationBuilder, MongoSink, MongoSource, Plan, Severity};

/// A migration between two connection strings.
async fn between(source: &str, target: &str) -> MigrationBuilder {
    let (source, sink) = futures::try_join!(MongoSource::connect(source), MongoSink::connect(target)).unwrap();
    Migration::builder(source, sink)
}

/// The plan of a migration.
async fn plan(builder: MigrationBuilder) -> Plan {
    builder.build().unwrap().preflight().await.unwrap()
}

/// The findings of one code.
fn of_code<'a>(plan: &'a Plan, code: &str) -> Vec<&'a Finding> {
    plan.findings.iter().filter(|finding| finding.code == code).collect()
}

/// The one finding of a code, whose message has a text.
#[track_caller]
fn assert_found<'a>(plan: &'a Plan, severity: Severity, code: &str, text: &str) -> &'a Finding {
    let found = of_code(plan, code);
    assert_eq!(found.len(), 1, "{code} in:\n{plan}");
    assert_eq!(found[0].severity, severity, "{plan}");
    assert!(found[0].message.contains(text), "`{text}` in:\n{plan}");
    assert!(!found[0].fix.is_empty());
    found[0]
}

/// An error says in two lines what is wrong, without what the driver or the server's reply has inside.
#[track_caller]
fn assert_plain(error: &Error) {
    let mut texts = vec![error.to_string(), error.report(), format!("{error:?}")];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        texts.push(cause.to_string());
        texts.push(format!("{cause:?}"));
        source = cause.source();
    }
    for text in &texts {
        for inside in [
            "Kind:",
            "labels",
            "Topology",
            "Servers:",
            "server response",
            "RawDocumentBuf",
            "lsid",
            "$clusterTime",
            "os error",
        ] {
            assert!(!text.contains(inside), "{inside} in: {text}");
        }
    }
    assert!(texts[0].len() < 600 && texts[0].lines().count() == 1, "{error}");
}

/// The codes of blockers and warnings.
fn grave(plan: &Plan) -> Vec<&'static str> {
    let grave = plan.findings.iter().filter(|finding| finding.severity < Severity::Note);
    grave.map(|finding| finding.code.as_str()).collect()
}

async fn run(client: &Client, database: &str, command: Document) -> Document {
    client.database(database).run_command(command).await.unwrap()
}

async fn admin(client: &Client, command: Document) -> Document {
    run(client, "admin", command).await
}

async fn insert(client: &Client, namespace: &str, documents: impl IntoIterator<Item = Document>) {
    let (database, name) = namespace.split_once('.').unwrap();
    let documents: Vec<Document> = documents.into_iter().collect();
    let reply = run(client, database, doc! { "insert": name, "documents": documents }).await;
    assert!(!reply.contains_key("writeErrors"), "{reply}");
}
