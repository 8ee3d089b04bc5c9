//! Answers to commands, and the system collections.

use mongodb::bson::{Bson, Document, doc};
use mongoferry_testbed::{OldQuery, Period};

use crate::{Bed, captured};

/// Indexes that 4.2 lists otherwise than they were captured, with the reason.
const OTHER_INDEXES: [(&str, &str); 8] = [
    ("odd", "refused by 4.2"),
    ("oddkey", "refused by 4.2"),
    ("v0_1", "refused by 4.2"),
    ("byhand", "there is no system.indexes"),
    ("s2", "not made here"),
    ("x_1", "4.2 does not keep dropDups, which 2.6 lists"),
    ("when_1", "3.0 lists 64 bits after a collMod"),
    ("hay_geoHaystack_c_1", "4.2 makes the size of a bucket a fraction"),
];

#[tokio::test]
async fn answers_of_2_6_have_the_captured_form() {
    let bed = filled(Period::V2_6).await;
    let facts = captured::facts(Period::V2_6);
    for command in ["listCollections", "listIndexes", "find", "getMore"] {
        refused_as_captured(&bed, command, &facts).await;
    }
    common(&bed, &facts).await;

    let namespaces = system_collection(&bed, "system.namespaces", Document::new()).await;
    let expected = facts.get_array("system.namespaces").unwrap();
    let names = [
        "app.t",
        "app.cap",
        "app.system.indexes",
        "app.t.$_id_",
        "app.cap.$_id_",
        "app.t.$g_2dsphere",
    ];
    for name in names {
        let named = |entry: &&Document| entry.get_str("name").unwrap() == name;
        let mut captured = expected
            .iter()
            .filter_map(Bson::as_document)
            .find(named)
            .unwrap()
            .clone();
        // The option of the storage engine of the time.
        captured
            .remove("options")
            .filter(|_| name != "app.t")
            .map(|options| captured.insert("options", options));
        assert_eq!(
            namespaces
                .iter()
                .find(named)
                .unwrap_or_else(|| panic!("{name}: {namespaces:?}"))
                .to_vec()
                .unwrap(),
            captured.to_vec().unwrap(),
            "{name}: {namespaces:?}"
        );
    }
    assert!(
        namespaces
            .iter()
            .all(|entry| entry.get_str("name").unwrap() != "app.system.namespaces")
    );

    let of_t = doc! { "ns": "app.t" };
    let indexes = system_collection(&bed, "system.indexes", of_t).await;
    let expected = facts.get_array("system.indexes").unwrap();
    indexes_as_captured(&indexes, expected.iter().filter_map(Bson::as_document));
    assert_eq!(
        system_collection(&bed, "system.indexes", doc! { "ns": "app.none" }).await,
        Vec::<Document>::new()
    );
}

#[tokio::test]
async fn answers_of_3_0_have_the_captured_form() {
    let bed = filled(Period::V3_0).await;
    let facts = captured::facts(Period::V3_0);
    for command in ["find", "getMore"] {
        refused_as_captured(&bed, command, &facts).await;
    }
    common(&bed, &facts).await;

    let mut client = bed.client().await;
    let listed = client.command("app", doc! { "listCollections": 1 }).await.unwrap();
    same_form(
        "listCollections",
        &without_batch(facts.get_document("listCollections").unwrap()),
        &without_batch(&listed),
    );
    let cap = |answer: &Document| {
        let mut listed = batch(answer);
        listed.retain(|entry| entry.get_str("name").unwrap() == "cap");
        listed.pop().unwrap().to_vec().unwrap()
    };
    assert_eq!(
        cap(&listed),
        cap(facts.get_document("listCollections").unwrap()),
        "{listed}"
    );

    let listed = client.command("app", doc! { "listIndexes": "t" }).await.unwrap();
    same_form(
        "listIndexes",
        &without_batch(facts.get_document("listIndexes").unwrap()),
        &without_batch(&listed),
    );
    let expected = batch(facts.get_document("listIndexes").unwrap());
    indexes_as_captured(&batch(&listed), expected.iter());

    for collection in ["system.namespaces", "system.indexes"] {
        assert_eq!(
            system_collection(&bed, collection, Document::new()).await,
            Vec::<Document>::new()
        );
    }
}

/// A set with the collections and indexes of the captured one that 4.2 takes.
async fn filled(period: Period) -> Bed {
    let bed = Bed::start(period).await;
    bed.run(
        "app",
        doc! { "create": "cap", "capped": true, "size": 65536, "max": 100 },
    )
    .await;
    let indexes = [
        doc! { "key": { "x": 1 }, "name": "x_1", "unique": true, "sparse": true },
        doc! { "key": { "when": 1 }, "name": "when_1", "expireAfterSeconds": 60 },
        doc! { "key": { "s": "text" }, "name": "s_text", "default_language": "german", "weights": { "s": 3 } },
        doc! { "key": { "g": "2dsphere" }, "name": "g_2dsphere" },
        doc! { "key": { "loc": "2d" }, "name": "loc_2d", "min": -500, "max": 500, "bits": 20 },
        doc! { "key": { "h": "hashed" }, "name": "h_hashed" },
        doc! { "key": { "hay": "geoHaystack", "c": 1 }, "name": "hay_geoHaystack_c_1", "bucketSize": 1 },
    ];
    bed.run("app", doc! { "createIndexes": "t", "indexes": indexes.to_vec() })
        .await;
    bed.run("app", doc! { "insert": "t", "documents": [{ "_id": 1 }] })
        .await;
    bed
}

/// What both versions answer.
async fn common(bed: &Bed, facts: &Document) {
    let period = bed.server.period();
    let mut client = bed.client().await;
    let fact = |name: &str| facts.get_document(name).unwrap();

    let answer = client.command("admin", doc! { "isMaster": 1 }).await.unwrap();
    same_form("isMaster", fact("isMaster"), &answer);
    for name in [
        "maxWireVersion",
        "minWireVersion",
        "maxWriteBatchSize",
        "maxBsonObjectSize",
        "maxMessageSizeBytes",
    ] {
        assert_eq!(answer.get(name), fact("isMaster").get(name), "{name}");
    }
    let address = bed.server.member_address(0);
    assert_eq!(answer.get_array("hosts").unwrap(), &vec![Bson::from(address.clone())]);
    assert_eq!(
        (answer.get_str("me").unwrap(), answer.get_str("primary").unwrap()),
        (&*address, &*address)
    );

    let answer = client.command("admin", doc! { "buildInfo": 1 }).await.unwrap();
    assert_eq!(
        answer.get_str("version").unwrap(),
        fact("buildInfo").get_str("version").unwrap()
    );

    let answer = client.command("admin", doc! { "replSetGetStatus": 1 }).await.unwrap();
    same_form("replSetGetStatus", fact("replSetGetStatus"), &answer);
    let newest = OldQuery {
        query: doc! { "$query": {}, "$orderby": { "$natural": -1 } },
        batch: -1,
        ..OldQuery::default()
    };
    let newest = client.query("local.oplog.rs", newest).await.unwrap();
    let member = answer.get_array("members").unwrap()[0].as_document().unwrap();
    assert_eq!(
        member.get_timestamp("optime").unwrap(),
        newest.documents[0].get_timestamp("ts").unwrap()
    );
    assert_eq!(member.get_str("name").unwrap(), address);

    let answer = client.command("app", doc! { "dbHash": 1 }).await.unwrap();
    let mut expected = fact("dbHash").clone();
    let (listed, found) = (
        answer.get_document("collections").unwrap(),
        answer.get_i32("numCollections").unwrap(),
    );
    assert_eq!(found, listed.len() as i32);
    // The digest of a capped collection without documents: the same bytes have the same digest.
    assert_eq!(listed.get_str("cap").unwrap(), "d41d8cd98f00b204e9800998ecf8427e");
    let mut answer = answer.clone();
    for name in ["collections", "numCollections", "host"] {
        answer.remove(name);
        expected.remove(name);
    }
    let sorted = |document: &Document| {
        let mut names: Vec<String> = document.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&answer), sorted(&expected));

    let answer = client.command("app", doc! { "collStats": "t" }).await.unwrap();
    assert_eq!(answer.contains_key("wiredTiger"), period == Period::V3_0);

    let answer = client.command("admin", doc! { "serverStatus": 1 }).await.unwrap();
    let captured: Vec<&str> = facts
        .get_array("serverStatus.keys")
        .unwrap()
        .iter()
        .filter_map(Bson::as_str)
        .collect();
    let later: Vec<&String> = answer
        .keys()
        .filter(|name| !captured.contains(&name.as_str()))
        .collect();
    assert_eq!(later, Vec::<&String>::new());
    assert_eq!(answer.get_str("version").unwrap(), period.release());

    // The commands of the time, all of them and no other.
    let known: Vec<&str> = facts
        .get_array("commands")
        .unwrap()
        .iter()
        .filter_map(Bson::as_str)
        .collect();
    let real = bed.run("admin", doc! { "listCommands": 1 }).await;
    for command in real.get_document("commands").unwrap().keys() {
        // What would end or hang the server, or the login.
        if known.contains(&command.as_str()) || command == "find" {
            continue;
        }
        let answer = client.command("admin", doc! { command: 1 }).await.unwrap();
        assert_eq!(answer.get_i32("code").ok(), Some(59), "{command}: {answer}");
    }
}

/// Compares the refusal of a command with the captured one: the text, the code, and the command where it is repeated.
async fn refused_as_captured(bed: &Bed, command: &str, facts: &Document) {
    let fact = facts.get_document(command).unwrap();
    let captured = fact.get_str("error").unwrap();
    let answer = bed.client().await.command("app", doc! { command: "t" }).await.unwrap();
    assert_eq!(answer.get_f64("ok").unwrap(), 0.0, "{answer}");
    assert_eq!(answer.get_str("errmsg").ok(), captured.split(", full error").next());
    assert_eq!(answer.get_i32("code").ok(), fact.get_i32("code").ok(), "{answer}");
    assert_eq!(
        answer.contains_key("bad cmd"),
        captured.contains("'bad cmd'"),
        "{answer}"
    );
}

fn indexes_as_captured<'a>(listed: &[Document], captured: impl Iterator<Item = &'a Document>) {
    let mut compared = 0;
    for captured in captured.filter(|index| index.get_str("ns").unwrap() == "app.t") {
        let name = captured.get_str("name").unwrap();
        let found = listed.iter().find(|index| index.get_str("name").unwrap() == name);
        if OTHER_INDEXES.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let found = found.unwrap_or_else(|| panic!("no {name}: {listed:?}"));
        assert_eq!(found, captured);
        compared += 1;
    }
    assert_eq!(compared, 5);
}

async fn system_collection(bed: &Bed, collection: &str, filter: Document) -> Vec<Document> {
    let query = OldQuery {
        query: filter,
        ..OldQuery::default()
    };
    let reply = bed
        .client()
        .await
        .query(&format!("app.{collection}"), query)
        .await
        .unwrap();
    let documents = reply.documents.iter();
    documents
        .map(|document| Document::try_from(document.as_ref()).unwrap())
        .collect()
}

fn batch(answer: &Document) -> Vec<Document> {
    let batch = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    batch.iter().map(|entry| entry.as_document().unwrap().clone()).collect()
}

fn without_batch(answer: &Document) -> Document {
    let mut answer = answer.clone();
    answer
        .get_document_mut("cursor")
        .unwrap()
        .insert("firstBatch", Bson::Array(Vec::new()));
    answer
}

/// Compares the names, the types and the order of all fields.
fn same_form(what: &str, captured: &Document, answer: &Document) {
    assert_eq!(form(answer), form(captured), "{what}: {answer}");
}

fn form(document: &Document) -> Vec<String> {
    let mut all = Vec::new();
    for (name, value) in document {
        all.push(format!("{name}: {:?}", value.element_type()));
        let inner = match value {
            Bson::Document(inner) => form(inner),
            Bson::Array(values) => values.first().and_then(Bson::as_document).map(form).unwrap_or_default(),
            _ => Vec::new(),
        };
        all.extend(inner.into_iter().map(|line| format!("{name}.{line}")));
    }
    all
}
