//! Identities of collections through their history.

use super::*;

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

fn insert(ns: &str) -> Document {
    doc! { "op": "i", "ns": ns, "o": { "_id": 1 } }
}

fn command(database: &str, o: Document) -> Document {
    doc! { "op": "c", "ns": format!("{database}.$cmd"), "o": o }
}

impl Bench {
    fn all(&mut self, entries: Vec<Document>) -> Vec<String> {
        entries.into_iter().flat_map(|entry| self.take(entry)).collect()
    }

    fn listed(&mut self, name: &str, uuid: Option<Uuid>) -> Uuid {
        self.identities.listed(&namespace(name), uuid)
    }
}

#[test]
fn a_collection_begins_with_its_first_document_on_2_6() {
    let mut bench = Bench::new(V2_6);
    let items = bench.all(vec![
        insert("a.b"),
        insert("a.b"),
        command("a", doc! { "drop": "b" }),
        insert("a.b"),
    ]);
    let document = "{ \"_id\": 1 }";
    assert_eq!(
        items,
        [
            "create a.b #1 {} _id v1".to_owned(),
            format!("insert a.b #1 {document}"),
            format!("insert a.b #1 {document}"),
            "drop a.b #1".to_owned(),
            "create a.b #2 {} _id v1".to_owned(),
            format!("insert a.b #2 {document}"),
        ]
    );
    // Newer servers log the creation.
    let mut bench = Bench::new(V3_0);
    assert_eq!(bench.all(vec![insert("a.b")]), [format!("insert a.b #1 {document}")]);
}

#[test]
fn an_index_begins_a_collection_on_2_6() {
    let mut bench = Bench::new(V2_6);
    let index = doc! { "op": "i", "ns": "a.system.indexes", "o": { "ns": "a.b", "key": { "x": 1 }, "name": "x" } };
    assert_eq!(
        bench.all(vec![index]),
        [
            "create a.b #1 {} _id v1",
            "index a.b #1 { \"v\": 1, \"key\": { \"x\": 1 }, \"name\": \"x\" }"
        ]
    );
}

#[test]
fn a_listing_and_a_tail_agree_without_knowing_of_each_other() {
    for series in [V2_6, V3_0] {
        let mut bench = Bench::new(series);
        bench.take(insert("a.b"));
        let mut fresh = LegacyIdentities::new(SET, series);
        assert_eq!(fresh.listed(&namespace("a.b"), None), bench.listed("a.b", None));
        assert_ne!(fresh.listed(&namespace("a.c"), None), bench.listed("a.b", None));
        let mut other = LegacyIdentities::new("another set", series);
        assert_ne!(other.listed(&namespace("a.b"), None), bench.listed("a.b", None));
    }
}

#[test]
fn a_listing_does_not_hide_that_a_collection_begins() {
    let mut bench = Bench::new(V2_6);
    let listed = bench.listed("a.b", None);
    let items = bench.take(insert("a.b"));
    assert_eq!(items.len(), 2, "{items:?}");
    assert_eq!(bench.ids[&listed], "#1");
}

#[test]
fn a_replay_from_a_checkpoint_gives_the_same_ids() {
    let before = vec![
        insert("a.kept"),
        insert("a.b"),
        command("a", doc! { "drop": "b" }),
        insert("a.b"),
        command("a", doc! { "convertToCapped": "kept", "size": 4096 }),
    ];
    let after = vec![
        insert("a.b"),
        insert("a.kept"),
        command("a", doc! { "drop": "b" }),
        insert("a.b"),
        command(
            "admin",
            doc! { "renameCollection": "a.kept", "to": "a.b", "dropTarget": true },
        ),
        command("a", doc! { "create": "c" }),
    ];
    let mut bench = Bench::new(V2_6);
    bench.all(before);
    let known = ["a.kept", "a.b"].map(|name| (namespace(name), bench.listed(name, None)));
    let mut again = Bench::with(V2_6, LegacyIdentities::restored(SET, V2_6, known));
    again.increment = bench.increment;
    again.ids = bench.ids.clone();
    assert_eq!(again.all(after.clone()), bench.all(after));
    assert_eq!(again.ids, bench.ids);
    for name in ["a.b", "a.c"] {
        assert_eq!(again.listed(name, None), bench.listed(name, None));
    }
}

#[test]
fn a_rename_takes_the_identity_along() {
    for (to, database) in [("a.c", "a"), ("other.c", "other")] {
        let mut bench = Bench::new(V3_0);
        let [moved, replaced] = ["a.b", to].map(|name| bench.listed(name, None));
        bench.take(command(
            "admin",
            doc! { "renameCollection": "a.b", "to": to, "dropTarget": true },
        ));
        assert_eq!(bench.listed(to, None), moved, "{database}");
        let items = bench.all(vec![command("a", doc! { "create": "b" }), insert(to)]);
        assert_eq!(bench.ids[&moved], "#1");
        assert_eq!(bench.ids[&replaced], "#2");
        assert_eq!(
            items,
            [
                "create a.b #3 {} _id v1".to_owned(),
                format!("insert {to} #1 {{ \"_id\": 1 }}")
            ]
        );
    }
}

#[test]
fn a_dropped_database_ends_all_its_collections() {
    let mut bench = Bench::new(V2_6);
    let unseen = bench.listed("a.unseen", None);
    bench.all(vec![insert("a.c"), insert("a.b"), insert("ab.c")]);
    let items = bench.take(command("a", doc! { "dropDatabase": 1 }));
    assert_eq!(items, ["drop a.b #2", "drop a.c #1", "drop database a"]);
    // A collection whose name had not been seen has ended as well.
    let items = bench.all(vec![insert("a.unseen"), insert("ab.c")]);
    assert_eq!(items.len(), 3, "{items:?}");
    assert!(
        !bench.ids.contains_key(&unseen),
        "the id of the dropped collection is used again"
    );
}

#[test]
fn a_uuid_is_the_identity_where_there_is_one() {
    let mut bench = Bench::new(V3_6);
    assert_eq!(bench.listed("a.b", Some(uuid(1))), uuid(1));
    let with_uuid = |mut entry: Document, byte: u8| {
        entry.insert("ui", bson::Binary::from(uuid(byte)));
        entry
    };
    bench.take(with_uuid(insert("a.b"), 1));
    bench.take(with_uuid(command("a", doc! { "create": "c" }), 2));
    let rename = command(
        "a",
        doc! { "renameCollection": "a.c", "to": "a.b", "dropTarget": bson::Binary::from(uuid(1)) },
    );
    assert_eq!(bench.take(with_uuid(rename, 2)), ["rename a.c a.b #2 in place of #1"]);
    assert_eq!(bench.ids[&uuid(1)], "#1");
    assert_eq!(bench.ids[&uuid(2)], "#2");
    assert_eq!(bench.listed("a.b", Some(uuid(2))), uuid(2));
    // A listing that is newer than the tail shows the next collection of the name.
    assert_eq!(bench.listed("a.b", Some(uuid(3))), uuid(3));
}

#[test]
fn a_listing_that_shows_a_rename_early_drops_nothing() {
    let mut bench = Bench::new(V3_6);
    let entry = |o: Document| {
        let mut entry = command("a", o);
        entry.insert("ui", bson::Binary::from(uuid(1)));
        entry
    };
    bench.take(entry(doc! { "create": "b" }));
    assert_eq!(bench.listed("a.c", Some(uuid(1))), uuid(1));
    let rename = doc! { "renameCollection": "a.b", "to": "a.c", "dropTarget": false };
    assert_eq!(bench.take(entry(rename)), ["rename a.b a.c #1"]);
}

/// The entries of 3.6 when the feature compatibility version becomes 3.6, and later 3.4 again.
#[test]
fn a_collection_that_gets_a_uuid_later_keeps_its_identity() {
    let mut bench = Bench::new(V3_6);
    let id = bench.listed("a.b", None);
    bench.take(insert("a.b"));
    let mut upgrade = command("a", doc! { "collMod": "b" });
    upgrade.insert("ui", bson::Binary::from(uuid(7)));
    assert!(bench.take(upgrade).is_empty());
    assert_eq!(bench.listed("a.b", Some(uuid(7))), id);
    let mut write = insert("a.b");
    write.insert("ui", bson::Binary::from(uuid(7)));
    let mut rename = command("a", doc! { "renameCollection": "a.b", "to": "a.c" });
    rename.insert("ui", bson::Binary::from(uuid(7)));
    let items = bench.all(vec![
        write,
        rename,
        command("a", doc! { "collMod": "c" }),
        insert("a.c"),
    ]);
    let document = "{ \"_id\": 1 }";
    assert_eq!(
        items,
        [
            format!("insert a.b #1 {document}"),
            "rename a.b a.c #1".to_owned(),
            format!("insert a.c #1 {document}"),
        ]
    );
    assert_eq!(bench.ids[&id], "#1");

    // The listing may show the uuid before the entry comes, and a restarted run knows the id alone.
    let mut early = Bench::new(V3_6);
    assert_eq!(early.listed("a.b", None), id);
    assert_eq!(early.listed("a.b", Some(uuid(7))), id);
    let mut restored = LegacyIdentities::restored(SET, V3_6, [(namespace("a.c"), id)]);
    assert_eq!(restored.listed(&namespace("a.c"), Some(uuid(7))), id);
}

#[test]
fn what_is_remembered_of_dropped_collections_is_bounded() {
    let mut bench = Bench::new(V3_0);
    for number in 0..25_000 {
        bench.take(command("a", doc! { "create": format!("c{number}") }));
        bench.take(command("a", doc! { "drop": format!("c{number}") }));
        bench.ids.clear();
    }
    let shown = format!("{:?}", bench.identities);
    assert!(shown.matches("Ended").count() <= 10_000);
}
