//! The same operations as those that were captured, on the real 4.2: the rewritten entries are those of the time.

use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongoferry_testbed::{OldClient, OldQuery, Period};

use crate::{Bed, captured};

/// Captured cases that 4.2 cannot repeat, with the reason.
const IMPOSSIBLE: [(&str, &str); 11] = [
    ("ddl/create-autoIndexId-false", "refused by 4.2"),
    ("ddl/create-usePowerOf2Sizes", "the option is gone"),
    ("ddl/index-v0", "refused by 4.2"),
    ("ddl/index-odd-options", "refused by 4.2"),
    ("ddl/index-odd-key", "refused by 4.2"),
    ("ddl/index-legacy-insert", "there is no system.indexes"),
    ("ddl/collMod-usePowerOf2Sizes", "the option is gone"),
    ("ddl/view", "4.2 makes a view, of which the time knew nothing"),
    ("users/createUser", "another format of users"),
    ("users/createRole", "another format of roles"),
    ("ddl/capped-insert-and-roll", "nothing but inserts"),
];

/// Captured cases whose entries differ, with the reason.
const DIFFERENT: [(&str, &str); 14] = [
    ("update/set-two-new-order", "4.2 sorts the fields of an update by name"),
    ("update/set-nested", "4.2 sorts the fields of an update by name"),
    ("ddl/create-capped", "4.2 logs the size as it stores it, an integer"),
    ("ddl/index-unique-dropDups", "4.2 does not keep dropDups"),
    ("ddl/index-several", "the client sent the key before the name"),
    ("ddl/dropIndexes-key", "4.2 logs the name of the index"),
    ("ddl/deleteIndexes", "4.2 logs dropIndexes"),
    ("ddl/dropIndexes-all", "4.2 logs the name of each index"),
    (
        "ddl/cloneCollectionAsCapped",
        "4.2 logs the size as it stores it, an integer",
    ),
    ("ddl/collMod-ttl", "4.2 logs a number of 64 bits"),
    ("applyOps/ddl", "4.2 logs the command alone"),
    ("ddl/collation", "4.2 fills in the defaults of a collation"),
    ("ddl/out", "the temporary collection has a random name"),
    ("ddl/out-again", "the temporary collection has a random name"),
];

/// What is run on the real server for a case: databases and commands, in order.
fn operations(case: &str) -> Vec<(&'static str, Document)> {
    let set = |update: Document| doc! { "update": "t", "updates": [{ "q": { "_id": 1 }, "u": update }] };
    let insert = |collection: &str, documents: Vec<Document>| doc! { "insert": collection, "documents": documents };
    let index = |collection: &str, index: Document| doc! { "createIndexes": collection, "indexes": [index] };
    let ids = |range: std::ops::Range<i32>| range.map(|id| doc! { "_id": id }).collect::<Vec<_>>();
    let command = match case {
        "insert/implicit-create+single" => insert(
            "t",
            vec![doc! { "_id": 1, "a": 1, "arr": [1, 2, 3, 4, 5], "sub": { "x": 1, "y": { "z": 1 } }, "s": "str" }],
        ),
        "insert/many-3" => insert("t", ids(2..5)),
        "insert/no-id-order" => insert("t", vec![doc! { "b": 1, "_id": 5 }]),
        "update/set" => set(doc! { "$set": { "a": 2 } }),
        "update/set-two-new-order" => set(doc! { "$set": { "zz": 1, "aa": 2, "mm": 3 } }),
        "update/set-nested" => set(doc! { "$set": { "sub.y.z": 5, "sub.n": 1 } }),
        "update/set-deep-new" => set(doc! { "$set": { "p.q.r": 1 } }),
        "update/inc" => set(doc! { "$inc": { "a": 1 } }),
        "update/unset" => set(doc! { "$unset": { "s": 1 } }),
        "update/push" => set(doc! { "$push": { "arr": 6 } }),
        "update/push-slice" => set(doc! { "$push": { "arr": { "$each": [7, 8], "$slice": -3 } } }),
        "update/push-sort" => set(doc! { "$push": { "arr": { "$each": [0], "$sort": 1 } } }),
        "update/pop" => set(doc! { "$pop": { "arr": 1 } }),
        "update/pull" => set(doc! { "$pull": { "arr": 7 } }),
        "update/addToSet" => set(doc! { "$addToSet": { "arr": 99 } }),
        "update/set-array-index" => set(doc! { "$set": { "arr.0": 42 } }),
        "update/set-array-beyond" => set(doc! { "$set": { "arr.9": 1 } }),
        "update/rename" => set(doc! { "$rename": { "a": "renamed" } }),
        "update/currentDate" => set(doc! { "$currentDate": { "when": true } }),
        "update/mul" => set(doc! { "$mul": { "n": 2 } }),
        "update/min" => set(doc! { "$min": { "low": 1 } }),
        "update/bit" => set(doc! { "$bit": { "bits": { "or": 5 } } }),
        "update/mixed" => set(doc! { "$set": { "k1": 1 }, "$unset": { "k2": 1 }, "$inc": { "k3": 1 } }),
        "update/replace" => doc! { "update": "t", "updates": [{ "q": { "_id": 2 }, "u": { "x": 1, "y": 2 } }] },
        "update/replace-empty" => doc! { "update": "t", "updates": [{ "q": { "_id": 2 }, "u": {} }] },
        "update/multi" => {
            let which = doc! { "_id": { "$in": [3, 4] } };
            doc! { "update": "t", "updates": [{ "q": which, "u": { "$set": { "m": 1 } }, "multi": true }] }
        }
        "update/upsert-operators" => {
            doc! { "update": "t", "updates": [{ "q": { "_id": 50 }, "u": { "$set": { "u": 1 } }, "upsert": true }] }
        }
        "update/upsert-replace" => {
            doc! { "update": "t", "updates": [{ "q": { "_id": 51 }, "u": { "u": 1 }, "upsert": true }] }
        }
        "update/findAndModify" => {
            doc! { "findAndModify": "t", "query": { "_id": 3 }, "update": { "$set": { "f": 1 } } }
        }
        "update/positional" => {
            let update = doc! { "q": { "_id": 60, "l.k": 2 }, "u": { "$set": { "l.$.v": 9 } } };
            return vec![
                (
                    "app",
                    insert("t", vec![doc! { "_id": 60, "l": [{ "k": 1 }, { "k": 2 }] }]),
                ),
                ("app", doc! { "update": "t", "updates": [update] }),
            ];
        }
        "delete/one" => doc! { "delete": "t", "deletes": [{ "q": { "_id": 4 }, "limit": 1 }] },
        "delete/many" => doc! { "delete": "t", "deletes": [{ "q": { "_id": { "$gte": 50 } }, "limit": 0 }] },
        "delete/findAndModify" => doc! { "findAndModify": "t", "query": { "_id": 3 }, "remove": true },
        "ddl/create" => doc! { "create": "plain" },
        "ddl/create-capped" => doc! { "create": "cap", "capped": true, "size": 65536.0, "max": 100 },
        "ddl/create-storageEngine" => {
            let engine = doc! { "wiredTiger": { "configString": "block_compressor=zlib" } };
            doc! { "create": "se", "storageEngine": engine }
        }
        "ddl/index-plain" => index("t", doc! { "name": "a_1", "key": { "a": 1 } }),
        "ddl/index-background" => index("t", doc! { "background": true, "name": "b_1", "key": { "b": 1 } }),
        "ddl/index-unique-dropDups" => {
            let options = doc! { "unique": true, "sparse": true, "dropDups": true, "name": "x_1", "key": { "x": 1 } };
            index("t", options)
        }
        "ddl/index-ttl" => index(
            "t",
            doc! { "expireAfterSeconds": 3600, "name": "when_1", "key": { "when": 1 } },
        ),
        "ddl/index-text" => {
            let options = doc! { "default_language": "german", "weights": { "s": 3 } };
            let mut text = options;
            text.extend(doc! { "name": "s_text", "key": { "s": "text" } });
            index("t", text)
        }
        "ddl/index-2dsphere" => index("t", doc! { "name": "g_2dsphere", "key": { "g": "2dsphere" } }),
        "ddl/index-2d" => {
            let options = doc! { "min": -500, "max": 500, "bits": 20, "name": "loc_2d", "key": { "loc": "2d" } };
            index("t", options)
        }
        "ddl/index-hashed" => index("t", doc! { "name": "h_hashed", "key": { "h": "hashed" } }),
        "ddl/index-geoHaystack" => {
            let key = doc! { "hay": "geoHaystack", "c": 1 };
            index("t", doc! { "bucketSize": 1, "name": "hay_geoHaystack_c_1", "key": key })
        }
        "ddl/index-on-new-collection" => index("fresh", doc! { "name": "q_1", "key": { "q": 1 } }),
        "ddl/index-several" => {
            let indexes = [
                doc! { "key": { "s1": 1 }, "name": "s1" },
                doc! { "key": { "s2": 1 }, "name": "s2" },
            ];
            doc! { "createIndexes": "t", "indexes": indexes.to_vec() }
        }
        "ddl/dropIndexes-name" => doc! { "dropIndexes": "t", "index": "a_1" },
        "ddl/dropIndexes-key" => doc! { "dropIndexes": "t", "index": { "b": 1 } },
        "ddl/deleteIndexes" => doc! { "deleteIndexes": "t", "index": "s1" },
        "ddl/dropIndexes-all" => doc! { "dropIndexes": "fresh", "index": "*" },
        "ddl/collMod-ttl" => {
            doc! { "collMod": "t", "index": { "keyPattern": { "when": 1 }, "expireAfterSeconds": 60 } }
        }
        "ddl/rename-same-db" => return vec![("admin", doc! { "renameCollection": "app.plain", "to": "app.plain2" })],
        "ddl/rename-drop-target" => {
            return vec![
                ("app", insert("tgt", ids(1..2))),
                (
                    "admin",
                    doc! { "renameCollection": "app.plain2", "to": "app.tgt", "dropTarget": true },
                ),
            ];
        }
        "ddl/rename-other-db" => {
            return vec![
                ("app", insert("mv", ids(0..3))),
                ("admin", doc! { "renameCollection": "app.mv", "to": "other.mv" }),
            ];
        }
        "ddl/convertToCapped" => {
            return vec![
                ("app", insert("conv", ids(0..3))),
                ("app", index("conv", doc! { "name": "k_1", "key": { "k": 1 } })),
                ("app", doc! { "convertToCapped": "conv", "size": 8192 }),
            ];
        }
        "ddl/cloneCollectionAsCapped" => {
            doc! { "cloneCollectionAsCapped": "conv", "toCollection": "conv2", "size": 8192.0 }
        }
        "ddl/out" | "ddl/out-again" => {
            let pipeline = [doc! { "$match": { "_id": 1 } }, doc! { "$out": "res" }];
            doc! { "aggregate": "t", "pipeline": pipeline.to_vec(), "cursor": {} }
        }
        "ddl/collation" => doc! { "create": "coll", "collation": { "locale": "de" } },
        "ddl/validator" => doc! { "create": "val", "validator": { "a": 1 } },
        "ddl/drop" => doc! { "drop": "fresh" },
        "ddl/dropDatabase" => {
            return vec![
                ("gone", insert("a", ids(1..2))),
                ("gone", insert("b", ids(1..2))),
                ("gone", doc! { "dropDatabase": 1 }),
            ];
        }
        "applyOps/user" => {
            let (ns, id) = ("app.t", doc! { "_id": 700 });
            let operations = [
                doc! { "op": "i", "ns": ns, "o": id.clone() },
                doc! { "op": "u", "ns": ns, "o2": id.clone(), "o": { "$set": { "z": 1 } } },
                doc! { "op": "d", "ns": ns, "o": id },
            ];
            return vec![("admin", doc! { "applyOps": operations.to_vec() })];
        }
        "applyOps/ddl" => {
            let create = doc! { "op": "c", "ns": "app.$cmd", "o": { "create": "byapply" } };
            return vec![("admin", doc! { "applyOps": [create] })];
        }
        "noop/appendOplogNote" => return vec![("admin", doc! { "appendOplogNote": 1, "data": { "note": 1 } })],
        "system/js" => {
            let code = Bson::JavaScriptCode("function(){}".to_owned());
            insert("system.js", vec![doc! { "_id": "f", "value": code }])
        }
        "gridfs/put" => {
            let files = doc! { "filename": 1, "uploadDate": 1 };
            let chunks = doc! { "unique": true, "name": "files_id_1_n_1", "key": { "files_id": 1, "n": 1 } };
            return vec![
                (
                    "app",
                    index("fs.files", doc! { "name": "filename_1_uploadDate_1", "key": files }),
                ),
                ("app", index("fs.chunks", chunks)),
                (
                    "app",
                    insert("fs.chunks", vec![doc! { "_id": 1, "files_id": 1, "n": 0 }]),
                ),
            ];
        }
        _ => return Vec::new(),
    };
    vec![("app", command)]
}

#[tokio::test]
async fn entries_of_2_6_have_the_captured_form() {
    compare(Period::V2_6).await;
}

#[tokio::test]
async fn entries_of_3_0_have_the_captured_form() {
    compare(Period::V3_0).await;
}

async fn compare(period: Period) {
    let bed = Bed::start(period).await;
    let mut client = bed.client().await;
    let captured = captured::entries(period);
    let mut cases: Vec<&str> = captured.iter().map(|(case, _)| case.as_str()).collect();
    cases.dedup();
    let mut wrong = Vec::new();
    let mut last = entries_after(&mut client, None)
        .await
        .pop()
        .unwrap()
        .get_timestamp("ts")
        .unwrap();
    for case in cases {
        let commands = operations(case);
        if commands.is_empty() {
            assert!(
                IMPOSSIBLE.iter().any(|(known, _)| *known == case),
                "{case} is not repeated"
            );
            continue;
        }
        for (database, command) in commands {
            bed.run(database, command).await;
        }
        let found = entries_after(&mut client, Some(last)).await;
        last = found.last().map_or(last, |entry| entry.get_timestamp("ts").unwrap());
        for entry in &found {
            assert_ne!(entry.get_i64("h").unwrap(), 0, "{case}: {entry}");
        }
        let expected: Vec<Document> = captured
            .iter()
            .filter(|(of, _)| of == case)
            .map(|(_, entry)| comparable(entry))
            .collect();
        let found: Vec<Document> = found.iter().map(comparable).collect();
        let is_listed = DIFFERENT.iter().any(|(known, _)| *known == case);
        // By their bytes: documents are equal whatever the order of their fields.
        let bytes = |entries: &[Document]| entries.iter().map(|entry| entry.to_vec().unwrap()).collect::<Vec<_>>();
        if (bytes(&found) == bytes(&expected)) == is_listed {
            wrong.push(format!(
                "{case}{}\n  captured  {}\n  rewritten {}",
                if is_listed { " is listed as different" } else { "" },
                lines(&expected),
                lines(&found)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The versions that nothing was captured of, by the source code of each.
#[tokio::test]
async fn entries_of_later_versions_have_their_fields() {
    for period in [Period::V3_2, Period::V3_4, Period::V3_6, Period::V4_0] {
        let bed = Bed::start(period).await;
        let mut client = bed.client().await;
        let insert = |collection: &str| doc! { "insert": collection, "documents": [{ "_id": 1 }] };
        let index = doc! { "key": { "a": 1 }, "name": "a_1", "sparse": true };
        let writes = [
            ("app", insert("a")),
            (
                "app",
                doc! { "update": "a", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "x": 1 } } }] },
            ),
            ("app", doc! { "createIndexes": "a", "indexes": [index] }),
            ("app", insert("b")),
            (
                "admin",
                doc! { "renameCollection": "app.a", "to": "app.b", "dropTarget": true },
            ),
            ("app", doc! { "convertToCapped": "b", "size": 8192 }),
            ("admin", doc! { "renameCollection": "app.b", "to": "other.b" }),
            ("other", doc! { "dropDatabase": 1 }),
        ];
        let last = entries_after(&mut client, None)
            .await
            .pop()
            .unwrap()
            .get_timestamp("ts")
            .unwrap();
        for (database, command) in writes {
            bed.run(database, command).await;
        }
        let found = entries_after(&mut client, Some(last)).await;
        let mut common = vec!["ts", "t", "h", "v", "op", "ns"];
        if period >= Period::V3_6 {
            common.extend(["ui", "wall"]);
        }
        for entry in &found {
            let fields: Vec<&str> = entry
                .keys()
                .map(String::as_str)
                .filter(|name| !["o", "o2"].contains(name))
                .collect();
            let is_without = entry.get_document("o").unwrap().contains_key("dropDatabase");
            let expected = common.iter().copied().filter(|name| !is_without || *name != "ui");
            assert_eq!(fields, expected.collect::<Vec<_>>(), "{period}: {entry}");
            assert_ne!(entry.get_i64("h").unwrap(), 0);
        }
        let short = |entry: &Document| {
            let object = entry.get_document("o").unwrap();
            let first = object.iter().next().unwrap();
            format!(
                "{} {} {}: {}",
                entry.get_str("op").unwrap(),
                entry.get_str("ns").unwrap(),
                first.0,
                first.1
            )
        };
        let found_short: Vec<String> = found.iter().map(short).collect();
        if period >= Period::V3_6 {
            // As 4.2: each step of a command, and `$v`.
            let names = [
                "i app.a _id: 1",
                "u app.a $v: 1",
                r#"c app.$cmd createIndexes: "a""#,
                r#"c other.$cmd drop: "b""#,
            ];
            assert!(
                names.iter().all(|name| found_short.iter().any(|found| found == name)),
                "{period}: {found_short:#?}"
            );
            continue;
        }
        let expected = [
            r#"c app.$cmd create: "a""#,
            "i app.a _id: 1",
            "u app.a $set: { \"x\": 1 }",
            r#"i app.system.indexes ns: "app.a""#,
            r#"c app.$cmd create: "b""#,
            "i app.b _id: 1",
            r#"c app.$cmd renameCollection: "app.a""#,
            r#"c app.$cmd convertToCapped: "b""#,
            r#"c app.$cmd renameCollection: "app.b""#,
            "c other.$cmd dropDatabase: 1",
        ];
        assert_eq!(found_short, expected, "{period}");
        let object = |index: usize| found[index].get_document("o").unwrap().clone();
        assert_eq!(object(0).contains_key("idIndex"), period == Period::V3_4);
        assert_eq!(object(3).contains_key("v"), period == Period::V3_4);
        let rename = doc! { "renameCollection": "app.a", "to": "app.b", "stayTemp": false, "dropTarget": true };
        assert_eq!(object(6), rename);
        assert_eq!(object(7), doc! { "convertToCapped": "b", "size": 8192 });
        let rename = doc! { "renameCollection": "app.b", "to": "other.b", "stayTemp": false, "dropTarget": false };
        assert_eq!(object(8), rename);
    }
}

fn lines(entries: &[Document]) -> String {
    let lines: Vec<String> = entries.iter().map(ToString::to_string).collect();
    lines.join("\n            ")
}

/// Without what differs each time: time stamps and hashes, dates, and the documents of GridFS.
fn comparable(entry: &Document) -> Document {
    let mut entry = entry.clone();
    for name in ["ts", "h"] {
        assert!(entry.contains_key(name), "{entry}");
        entry.insert(name, Bson::Null);
    }
    if let Ok(set) = entry
        .get_document_mut("o")
        .and_then(|object| object.get_document_mut("$set"))
        && matches!(set.get("when"), Some(Bson::DateTime(_)))
    {
        set.insert("when", "a date");
    }
    if entry.get_str("ns").is_ok_and(|namespace| namespace == "app.fs.chunks") {
        entry.insert("o", "a chunk");
    }
    entry
}

/// The rewritten entries after a time stamp, as a client of the time reads them.
async fn entries_after(client: &mut OldClient, after: Option<Timestamp>) -> Vec<Document> {
    let query = OldQuery {
        query: after.map_or_else(Document::new, |after| doc! { "ts": { "$gt": after } }),
        batch: 1000,
        ..OldQuery::default()
    };
    let reply = client.query("local.oplog.rs", query).await.unwrap();
    let documents = reply.documents.iter();
    documents
        .map(|entry| Document::try_from(entry.as_ref()).unwrap())
        .collect()
}
