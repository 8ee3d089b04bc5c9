//! Rules beside everything else that can happen to a collection.

use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};
use mongoferry::rules::{DeltaEffect, RuleError, RuleIdentity, TouchedFields, Transform, Transformed};
use mongoferry::source::MemorySource;
use mongoferry::{ErrorKind, MigrationHandle, Namespace, OnRuleError};
use mongoferry_testbed::wait_until;

use super::*;

const ORDERS: &str = "shop.orders";

/// Gives the field `from` the name `to`. The version is that of the host.
#[derive(Clone)]
struct Rename {
    from: &'static str,
    to: &'static str,
    version: &'static str,
    keeps: &'static str,
    has_inverse: bool,
}

impl Rename {
    const MAIL: Self = Self {
        from: "mail",
        to: "email",
        version: "1",
        keeps: "",
        has_inverse: true,
    };
}

impl Transform for Rename {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("rename", self.version)
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        let mut renamed = RawDocumentBuf::new();
        for field in document {
            let (name, value) = field.map_err(|_| RuleError::Malformed)?;
            match name.as_str() == self.from {
                true => renamed.append(bson::raw::CString::try_from(self.to).unwrap(), value),
                false => renamed.append(name, value),
            }
        }
        Ok(Transformed::Replace(renamed))
    }

    fn delta(&self, _: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        match touched.contains(self.from) {
            true => DeltaEffect::Image,
            false => DeltaEffect::Forward,
        }
    }

    fn keeps_copy_of(&self, earlier: &RuleIdentity) -> bool {
        earlier.version == self.keeps
    }

    fn inverse(&self) -> Option<Arc<dyn Transform>> {
        let inverse = Self {
            from: self.to,
            to: self.from,
            ..self.clone()
        };
        self.has_inverse.then(|| Arc::new(inverse) as Arc<dyn Transform>)
    }
}

async fn ready(run: &MigrationHandle) {
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
}

fn open() -> Document {
    doc! { "state": "open" }
}

fn is_open(document: &Document) -> bool {
    document.get_str("state").is_ok_and(|state| state == "open")
}

fn orders(count: i32) -> Vec<Document> {
    let state = |id: i32| ["open", "done"][id as usize % 2];
    let order = |id| doc! { "_id": id, "state": state(id), "code": id, "mail": "m", "note": "n" };
    (0..count).map(order).collect()
}

/// What the filter [`open`] and the transform [`without_notes`] leave of a collection.
async fn wanted(collection: &Collection<Document>) -> Vec<Document> {
    let all = documents(collection).await;
    all.iter()
        .filter(|document| is_open(document))
        .map(without_note)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_take_documents_to_other_rules() {
    let sides = Sides::start(Version::V6_0).await;
    for name in [ORDERS, "shop.plain", "shop.orders_moved"] {
        sides.source(name).insert_many(orders(50)).await.unwrap();
    }
    let builder = sides
        .builder()
        .await
        .filter("shop.orders*", open())
        .transform("shop.orders*", without_notes());
    let run = builder.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let rename = async |from: &str, to: &str, replace: bool| {
        let command = doc! { "renameCollection": from, "to": to, "dropTarget": replace };
        sides.source.database("admin").run_command(command).await.unwrap();
        sides
            .source(to)
            .insert_many((100..110).map(|id| doc! { "_id": id, "state": "open", "note": 1 }))
            .await
            .unwrap();
        let set = doc! { "$set": { "state": "open", "mail": 2 } };
        sides
            .source(to)
            .update_many(doc! { "_id": { "$lt": 20 } }, set)
            .await
            .unwrap();
    };
    rename(ORDERS, "shop.out", false).await;
    rename("shop.plain", ORDERS, false).await;
    rename("shop.orders_moved", "shop.orders_two", false).await;
    // A collection that is made later, under the rules from its first change on.
    sides.source("shop.orders_new").insert_many(orders(20)).await.unwrap();
    sides
        .source("shop.orders_new")
        .update_many(doc! {}, doc! { "$set": { "state": "open" } })
        .await
        .unwrap();
    sides.source("shop.third").insert_many(orders(20)).await.unwrap();
    rename("shop.orders_new", "shop.third", true).await;
    sides.source("shop.orders_new").insert_many(orders(20)).await.unwrap();
    cut_over(run).await;
    for name in [ORDERS, "shop.orders_two", "shop.orders_new"] {
        let found = documents(&sides.target(name)).await;
        assert_eq!(found, wanted(&sides.source(name)).await, "{name}");
    }
    for name in ["shop.out", "shop.third"] {
        assert_eq!(
            documents(&sides.target(name)).await,
            documents(&sides.source(name)).await,
            "{name}"
        );
    }
    let names = sides.target.database("shop").list_collection_names().await.unwrap();
    assert_eq!(names.len(), 5, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_indexes_hold_beside_documents_left_out() {
    let sides = Sides::start(Version::V6_0).await;
    let source = sides.source(ORDERS);
    source.insert_many(orders(40)).await.unwrap();
    let index =
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "code": 1 }, "name": "code", "unique": true }] };
    sides.source.database("shop").run_command(index).await.unwrap();
    let builder = sides.builder().await.filter(ORDERS, open());
    let run = builder.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let set = async |id: i32, set: Document| {
        source
            .update_one(doc! { "_id": id }, doc! { "$set": set })
            .await
            .unwrap();
    };
    for round in 0..50 {
        // A code goes from one that is there to one that appears, and back.
        let (one, other) = (round % 20 * 2, round % 20 * 2 + 1);
        let codes = (one, other);
        set(one, doc! { "code": 1000 + round, "state": "done" }).await;
        set(other, doc! { "code": codes.0, "state": "open" }).await;
        set(one, doc! { "code": codes.1 }).await;
        if round >= 45 {
            continue;
        }
        set(one, doc! { "state": "open" }).await;
        set(other, doc! { "code": 2000 + round }).await;
        set(one, doc! { "code": codes.0 }).await;
        set(other, doc! { "code": codes.1, "state": "done" }).await;
    }
    assert_eq!(run.status().refused_documents, 0);
    cut_over(run).await;
    let kept: Vec<_> = documents(&source).await.into_iter().filter(is_open).collect();
    assert_eq!(kept.len(), 20);
    assert_eq!(documents(&sides.target(ORDERS)).await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_and_options_follow_beside_rules() {
    let sides = Sides::start(Version::V6_0).await;
    sides.source(ORDERS).insert_many(orders(40)).await.unwrap();
    let builder = sides
        .builder()
        .await
        .filter(ORDERS, open())
        .transform(ORDERS, without_notes());
    let run = builder.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let database = sides.source.database("shop");
    for command in [
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "note": 1 }, "name": "note" }, { "key": { "code": 1 }, "name": "code" }] },
        doc! { "collMod": "orders", "validator": { "code": { "$gte": 0 } } },
        doc! { "dropIndexes": "orders", "index": "code" },
    ] {
        database.run_command(command).await.unwrap();
        sides
            .source(ORDERS)
            .update_many(doc! {}, doc! { "$set": { "note": 2 }, "$inc": { "code": 1 } })
            .await
            .unwrap();
    }
    let summary = cut_over(run).await;
    assert!(summary.indexes.iter().any(|index| index.name == "note" && index.ok));
    assert_eq!(
        documents(&sides.target(ORDERS)).await,
        wanted(&sides.source(ORDERS)).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_restores_what_the_rules_say() {
    let sides = Sides::start(Version::V6_0).await;
    sides.source(ORDERS).insert_many(orders(40)).await.unwrap();
    let builder = sides
        .builder()
        .await
        .filter(ORDERS, open())
        .transform(ORDERS, without_notes());
    let run = builder
        .watch_foreign_writes(false)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    ready(&run).await;
    let target = sides.target(ORDERS);
    target.delete_one(doc! { "_id": 0 }).await.unwrap();
    target.insert_one(doc! { "_id": 1, "state": "done" }).await.unwrap();
    target
        .update_one(doc! { "_id": 2 }, doc! { "$set": { "note": "n" } })
        .await
        .unwrap();
    let report = timeout(DEADLINE, run.verify(&[ORDERS.parse().unwrap()]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(report.difference_count(), 3, "{report:#?}");
    timeout(DEADLINE, run.repair(&report)).await.unwrap().unwrap();
    let summary = cut_over(run).await;
    assert_eq!(documents(&target).await, wanted(&sides.source(ORDERS)).await);
    let text = summary.to_string();
    assert!(text.contains("identical after transform"), "{text}");
    let certified = &summary.certificate.as_ref().unwrap().collections[0];
    assert_eq!(certified.documents, 20);
    let rules = certified.rules.as_ref().unwrap();
    assert_eq!((rules.source_documents, rules.failed, rules.rules.len()), (40, 0, 2));
    assert_eq!(rules.rules[1].name, "without notes");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_with_a_collation_are_filtered() {
    let sides = Sides::start(Version::V6_0).await;
    let collation = doc! { "create": "orders", "collation": { "locale": "en", "strength": 2 } };
    sides.source.database("shop").run_command(collation).await.unwrap();
    let source = sides.source(ORDERS);
    let order = |id: &str, state: &str| doc! { "_id": id, "state": state, "note": 1 };
    let names: Vec<String> = (0..60).map(|number| format!("Id{number}")).collect();
    source
        .insert_many(names.iter().map(|name| order(name, "OPEN")))
        .await
        .unwrap();
    let builder = sides
        .builder()
        .await
        .filter(ORDERS, open())
        .transform(ORDERS, without_notes());
    let run = builder.build().unwrap().start().await.unwrap();
    ready(&run).await;
    for (number, name) in names.iter().enumerate() {
        let found = doc! { "_id": name };
        let state = ["open", "Open"][number % 2];
        source
            .update_one(found.clone(), doc! { "$set": { "state": state, "note": 2 } })
            .await
            .unwrap();
        if number % 3 == 0 {
            // Another document, which the collation takes for the same.
            source.delete_one(found.clone()).await.unwrap();
            source.insert_one(order(&name.to_uppercase(), "open")).await.unwrap();
            source
                .update_one(found, doc! { "$set": { "note": 3, "more": 1 } })
                .await
                .unwrap();
        }
    }
    cut_over(run).await;
    let found = documents(&sides.target(ORDERS)).await;
    // Strings compare by their bytes, whatever the collation.
    assert_eq!(found, wanted(&source).await);
    assert_eq!(found.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_get_too_large_are_left_out() {
    let sides = Sides::start(Version::V6_0).await;
    let source = sides.source(ORDERS);
    source.insert_many(orders(4)).await.unwrap();
    let padded = FieldRules::builder("padded", "1")
        .set("pad", "p".repeat(10_000))
        .build()
        .unwrap();
    let builder = sides
        .builder()
        .await
        .transform(ORDERS, padded)
        .on_rule_error(OnRuleError::Skip);
    let run = builder.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let nearly = "x".repeat((16 << 20) - 5_000);
    for id in 0..3 {
        source
            .update_one(doc! { "_id": id }, doc! { "$set": { "large": &nearly } })
            .await
            .unwrap();
    }
    let waited = wait_until(DEADLINE, "documents to fail", async || run.status().rule_failures == 3);
    waited.await.unwrap();
    // Changes of nothing that the rule names, to a document that is not there.
    source
        .update_one(doc! { "_id": 0 }, doc! { "$set": { "code": 7 } })
        .await
        .unwrap();
    source
        .update_one(doc! { "_id": 1 }, doc! { "$unset": { "large": "" } })
        .await
        .unwrap();
    source.delete_one(doc! { "_id": 2 }).await.unwrap();
    let summary = cut_over(run).await;
    let ids: Vec<i32> = documents(&sides.target(ORDERS))
        .await
        .iter()
        .map(|found| found.get_i32("_id").unwrap())
        .collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(summary.collections[0].rules.as_ref().unwrap().failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rules_copy_only_their_collections_again() {
    let sides = Sides::start(Version::V6_0).await;
    for name in [ORDERS, "shop.plain"] {
        sides.source(name).insert_many(orders(40)).await.unwrap();
    }
    let start = async |rename: Rename| {
        let builder = sides.builder().await.transform(ORDERS, rename);
        builder.build().unwrap().start().await.unwrap()
    };
    let run = start(Rename::MAIL).await;
    ready(&run).await;
    drop(run);
    let kept = Rename {
        version: "2",
        keeps: "1",
        ..Rename::MAIL
    };
    let run = start(kept).await;
    ready(&run).await;
    assert_eq!(run.status().copied.documents, 80, "the copy is kept");
    assert!(
        run.status().compared.documents >= 40,
        "it is compared again: {:?}",
        run.status().compared
    );
    drop(run);
    let other = Rename {
        to: "address",
        version: "3",
        ..Rename::MAIL
    };
    let run = start(other).await;
    ready(&run).await;
    cut_over(run).await;
    let found = documents(&sides.target(ORDERS)).await;
    assert!(
        found
            .iter()
            .all(|order| order.contains_key("address") && !order.contains_key("email")),
        "{found:?}"
    );
    assert_eq!(documents(&sides.target("shop.plain")).await, orders(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn transforms_are_taken_back_by_their_inverses() {
    let sides = Sides::start(Version::V6_0).await;
    sides.source(ORDERS).insert_many(orders(40)).await.unwrap();
    let forward = async |rename: Rename| sides.builder().await.transform(ORDERS, rename).build().unwrap();
    let summary = cut_over(forward(Rename::MAIL).await.start().await.unwrap()).await;
    let backward = async || {
        let (old, new) = (sides.source_set.uri(), sides.target_set.uri());
        futures::try_join!(MongoSource::connect(&new), MongoSink::connect(&old)).unwrap()
    };
    let (new, old) = backward().await;
    let refused = summary.reverse(new, old).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("Migration::reverse"), "{refused}");
    let without = Rename {
        has_inverse: false,
        ..Rename::MAIL
    };
    let (new, old) = backward().await;
    let refused = forward(without).await.reverse(new, old).await.err().unwrap();
    assert!(refused.to_string().contains("no inverse"), "{refused}");

    sides
        .target(ORDERS)
        .update_many(
            doc! { "_id": { "$lt": 9 } },
            doc! { "$set": { "email": "new", "code": 1 } },
        )
        .await
        .unwrap();
    sides
        .target(ORDERS)
        .insert_one(doc! { "_id": 100, "email": "e" })
        .await
        .unwrap();
    let (new, old) = backward().await;
    let back = forward(Rename::MAIL).await.reverse(new, old).await.unwrap();
    let run = back.build().unwrap().start().await.unwrap();
    sides.target(ORDERS).delete_one(doc! { "_id": 20 }).await.unwrap();
    cut_over(run).await;
    let found = documents(&sides.source(ORDERS)).await;
    assert_eq!(found.len(), 40);
    assert_eq!(found[0].get_str("mail").unwrap(), "new");
    assert_eq!(found[39], doc! { "_id": 100, "mail": "e" });
    assert!(found.iter().all(|order| !order.contains_key("email")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_cannot_be_taken_back() {
    let sides = Sides::start(Version::V6_0).await;
    sides.source(ORDERS).insert_many(orders(4)).await.unwrap();
    let forward = async || sides.builder().await.filter(ORDERS, open()).build().unwrap();
    cut_over(forward().await.start().await.unwrap()).await;
    let (old, new) = (sides.source_set.uri(), sides.target_set.uri());
    let (new, old) = futures::try_join!(MongoSource::connect(&new), MongoSink::connect(&old)).unwrap();
    let refused = forward().await.reverse(new, old).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("filter"), "{refused}");
}

/// The history is lost while the process is down: everything is compared under the rules.
#[tokio::test(start_paused = true)]
async fn a_resync_keeps_to_the_rules() {
    let (source, sink) = (MemorySource::new(), mongoferry::sink::MemorySink::new());
    let order = |id: i32, state: &str| bson::rawdoc! { "_id": id, "state": state, "note": 1 };
    for id in 0..20 {
        source
            .insert(ORDERS, order(id, ["open", "done"][id as usize % 2]))
            .unwrap();
    }
    let start = async || {
        let builder = Migration::builder(source.clone(), sink.clone()).filter(ORDERS, open());
        let migration = builder.transform(ORDERS, without_notes()).build().unwrap();
        migration.start().await.unwrap()
    };
    let run = start().await;
    ready(&run).await;
    drop(run);
    source.replace(ORDERS, order(0, "done")).unwrap();
    source.replace(ORDERS, order(1, "open")).unwrap();
    source.delete(ORDERS, 2).unwrap();
    source.insert(ORDERS, order(100, "open")).unwrap();
    source.set_history_window(1);
    let run = start().await;
    ready(&run).await;
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!((summary.outcome, summary.resyncs), (Outcome::Complete, 1));
    let ids: Vec<i32> = sink
        .documents(ORDERS)
        .unwrap()
        .iter()
        .map(|found| found.get_i32("_id").unwrap())
        .collect();
    assert_eq!(ids, [1, 4, 6, 8, 10, 12, 14, 16, 18, 100]);
    assert!(
        sink.documents(ORDERS)
            .unwrap()
            .iter()
            .all(|found| found.get("note").unwrap().is_none())
    );
}
