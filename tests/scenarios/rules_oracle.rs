//! Filters by a query, with real servers as the judges: random queries of random documents have the same results in memory and there.
//!
//! `MONGOFERRY_SEED` repeats a run, `MONGOFERRY_CASES` makes it longer or shorter.

mod random;

use std::collections::BTreeSet;

use bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongoferry::rules::{Predicate, Query};
use mongoferry_testbed::{ReplicaSet, Version};

use self::random::Maker;
use super::cases::values::every_type;
use super::delta::wire::Connection;

const DATABASE: &str = "rules";
const DOCUMENTS: usize = 1_000;
/// Number of queries for which the documents stay the same.
const ROUND: usize = 500;

#[tokio::test]
async fn queries_select_what_4_2_selects() {
    check(Version::V4_2, 2_000).await;
}

#[tokio::test]
async fn queries_select_what_6_0_selects() {
    check(Version::V6_0, 2_000).await;
}

#[tokio::test]
#[ignore = "the oldest and the newest version are enough for every day"]
async fn queries_select_what_4_4_selects() {
    check(Version::V4_4, 2_000).await;
}

#[tokio::test]
#[ignore = "the oldest and the newest version are enough for every day"]
async fn queries_select_what_5_0_selects() {
    check(Version::V5_0, 2_000).await;
}

async fn check(version: Version, cases: usize) {
    let seed = match std::env::var("MONGOFERRY_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("seed {seed}");
    let cases = std::env::var("MONGOFERRY_CASES").map_or(cases, |cases| cases.parse().unwrap());
    let mut maker = Maker::new(seed);
    let set = ReplicaSet::builder(version).start().await.unwrap();
    let server = Connection::open(&set.member_address(0)).await;
    let namespace = format!("{DATABASE}.documents").parse().unwrap();
    let (mut selective, mut wrong) = (0, Vec::new());
    let mut documents = Vec::new();
    for case in 0..cases {
        if case % ROUND == 0 {
            documents = replace_all(&server, &mut maker).await;
        }
        let query = maker.query(&documents);
        let filter = match Query::new(query.clone()) {
            // Servers differ on these, so they are refused.
            Err(refused) if refused.reason.contains("DBPointer") => continue,
            filter => filter.unwrap_or_else(|error| panic!("{error}: {query}")),
        };
        let fits = |document: &&RawDocumentBuf| filter.fits(&namespace, document).unwrap();
        let ours: BTreeSet<i32> = documents.iter().filter(fits).map(|document| number(document)).collect();
        selective += usize::from((1..documents.len()).contains(&ours.len()));
        let mut difference = |theirs: &BTreeSet<i32>, what: &str, counts: &dyn Fn(&RawDocument) -> bool| {
            for number in ours.symmetric_difference(theirs) {
                let document = documents
                    .iter()
                    .find(|document| self::number(document) == *number)
                    .unwrap();
                if counts(document) {
                    let decision = if ours.contains(number) {
                        "only we take"
                    } else {
                        "only the server takes"
                    };
                    wrong.push(format!("{what} {query}\n  {decision} {}", shown(document)));
                    return;
                }
            }
        };
        // Servers differ on undefined, and older ones on remainders, so the query of the host counts only without these.
        let may_differ = version < Version::V6_0 && query.to_string().contains("$mod");
        let counts = |document: &RawDocument| !may_differ && !has(document, "$undefined");
        // 4.2 refuses some queries of `_id`, which are not pushed down.
        if filter.query().is_some() || !query.to_string().contains("_id") {
            difference(&find(&server, raw(&query)).await, "given", &counts);
        }
        if let Some(pushed_down) = filter.query() {
            difference(&find(&server, pushed_down.to_owned()).await, "pushed down", &|_| true);
        }
        if wrong.len() >= 20 {
            break;
        }
    }
    assert!(wrong.is_empty(), "{version}, seed {seed}\n{}", wrong.join("\n"));
    assert!(
        selective > cases / 4,
        "only {selective} of {cases} queries select some documents"
    );
}

/// The index of `_id` makes servers refuse some conditions, and decide others in another way. Those are decided in memory.
#[tokio::test]
async fn conditions_on_an_indexed_field_mean_the_same_on_every_version() {
    let start = async |version| {
        let set = ReplicaSet::builder(version).start().await.unwrap();
        let server = Connection::open(&set.member_address(0)).await;
        let insert = rawdoc! { "insert": "documents", "documents": of_every_type(), "ordered": false };
        server.run(DATABASE, insert).await;
        let documents = server.find(DATABASE, rawdoc! { "find": "documents" }).await;
        (version, set, server, documents)
    };
    let servers = futures::future::join_all(Version::ALL.map(start)).await;
    let mut wrong = Vec::new();
    let mut pushed_down = 0;
    let namespace = "rules.documents".parse().unwrap();
    let queries = every_type().into_iter().flat_map(|value| conditions(&value));
    for query in queries.map(|condition| doc! { "_id": condition }) {
        let Ok(filter) = Query::new(query.clone()) else {
            continue;
        };
        let Some(for_server) = filter.query() else {
            continue;
        };
        pushed_down += 1;
        for (version, _, server, documents) in &servers {
            let find = rawdoc! { "find": "documents", "filter": for_server.to_owned(), "batchSize": 10_000 };
            let reply = server.reply(DATABASE, find).await;
            if reply.get_f64("ok").ok() != Some(1.0) {
                wrong.push(format!("{version} refuses {query}: {:?}", reply.get_str("errmsg")));
                continue;
            }
            let theirs = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
            let theirs: BTreeSet<i32> = theirs
                .into_iter()
                .map(|document| number(document.unwrap().as_document().unwrap()))
                .collect();
            let fits = |document: &&RawDocumentBuf| filter.fits(&namespace, document).unwrap();
            let ours: BTreeSet<i32> = documents.iter().filter(fits).map(|document| number(document)).collect();
            if ours != theirs {
                wrong.push(format!("{version} finds {theirs:?} and not {ours:?} by {query}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pushed_down > 2_000, "{pushed_down}");
}

/// A document for each value, with a number in the field `n`. The server refuses some.
fn of_every_type() -> RawArrayBuf {
    let mut documents = RawArrayBuf::new();
    for (value, number) in every_type().iter().zip(0..) {
        documents.push(raw(&doc! { "_id": value, "n": number }));
    }
    documents
}

/// Each operator with the value, plain, negated, and for the elements of an array.
fn conditions(value: &Bson) -> Vec<Document> {
    let plain = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]
        .into_iter()
        .map(|operator| doc! { operator: value })
        .chain([
            doc! { "$in": [value, 1] },
            doc! { "$nin": [value] },
            doc! { "$nin": [value, 1] },
            doc! { "$all": [value] },
        ]);
    let forms = |condition: Document| {
        [
            doc! { "$elemMatch": &condition },
            doc! { "$elemMatch": { "$not": &condition } },
            doc! { "$not": { "$elemMatch": &condition } },
            doc! { "$not": { "$not": &condition } },
            doc! { "$not": &condition },
            condition,
        ]
    };
    plain.flat_map(forms).collect()
}

/// Inserts other documents. Returns those that the server took, as it stored them.
async fn replace_all(server: &Connection, maker: &mut Maker) -> Vec<RawDocumentBuf> {
    let mut everything = RawArrayBuf::new();
    everything.push(rawdoc! { "q": {}, "limit": 0 });
    let delete = rawdoc! { "delete": "documents", "deletes": everything };
    server.run(DATABASE, delete).await;
    let mut documents = RawArrayBuf::new();
    for number in 0..DOCUMENTS {
        documents.push(maker.document(number as i32));
    }
    let insert = rawdoc! { "insert": "documents", "documents": documents, "ordered": false };
    server.run(DATABASE, insert).await;
    let stored = server.find(DATABASE, rawdoc! { "find": "documents" }).await;
    assert!(stored.len() > DOCUMENTS / 2);
    stored
}

async fn find(server: &Connection, filter: RawDocumentBuf) -> BTreeSet<i32> {
    let find =
        rawdoc! { "find": "documents", "filter": filter, "projection": { "_id": 0, "n": 1 }, "batchSize": 10_000 };
    server
        .find(DATABASE, find)
        .await
        .iter()
        .map(|document| number(document))
        .collect()
}

fn number(document: &RawDocument) -> i32 {
    document.get_i32("n").unwrap()
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

/// Whether a word is in the document, written as extended JSON.
fn has(document: &RawDocument, word: &str) -> bool {
    shown(document).contains(word)
}

fn shown(document: &RawDocument) -> String {
    let fields = document.as_bytes();
    let key = mongoferry::order::RawValue::from_parts(0x03, fields);
    format!("{key:?}")
}
