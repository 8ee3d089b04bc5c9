//! Tests the table of old entries in `entries.md` against the decoder.

use std::collections::BTreeSet;

use super::captured::{CAPTURED, entries};
use super::*;
use crate::oplog::table::treatment;

const TABLE: &str = include_str!("../../entries.md");

const ALL: &[Series] = &[V2_6, V3_0, V3_2, V3_4, V3_6, V4_0];

/// Forms of entries, each with the versions that write it.
fn forms() -> Vec<(&'static [Series], Document)> {
    let command = |o: Document| doc! { "op": "c", "ns": "a.$cmd", "o": o };
    let update = |o: Document| doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": o };
    let insert = |ns: &str, o: Document| doc! { "op": "i", "ns": ns, "o": o };
    let (to_3_4, to_3_6, from_3_4, from_3_6) = (&ALL[..4], &ALL[..5], &ALL[3..], &ALL[4..]);
    let change = doc! { "keyPattern": { "x": 1 }, "expireAfterSeconds": 5 };
    vec![
        (ALL, command(doc! { "applyOps": [insert("a.b", doc! { "_id": 1 })] })),
        (ALL, command(doc! { "collMod": "b", "index": change })),
        (ALL, command(doc! { "collMod": "b", "usePowerOf2Sizes": true })),
        (from_3_6, command(doc! { "collMod": "b" })),
        (to_3_4, command(doc! { "convertToCapped": "b", "size": 4096 })),
        (ALL, command(doc! { "create": "c" })),
        (
            &ALL[1..],
            doc! { "op": "c", "ns": "admin.$cmd", "o": { "create": "system.users" } },
        ),
        (
            from_3_6,
            command(doc! { "createIndexes": "b", "v": 2, "key": { "x": 1 }, "name": "x" }),
        ),
        (&ALL[5..], command(doc! { "dbCheck": "a.b" })),
        (to_3_4, command(doc! { "deleteIndexes": "b", "index": "x" })),
        (ALL, command(doc! { "drop": "b" })),
        (ALL, command(doc! { "dropDatabase": 1 })),
        (ALL, command(doc! { "dropIndexes": "b", "index": "x" })),
        (to_3_4, command(doc! { "dropIndexes": "b", "index": { "x": 1 } })),
        (to_3_4, command(doc! { "dropIndexes": "b", "index": "*" })),
        (ALL, command(doc! { "emptycapped": "b" })),
        (ALL, command(doc! { "renameCollection": "a.b", "to": "a.c" })),
        (to_3_4, command(doc! { "renameCollection": "a.b", "to": "other.b" })),
        (ALL, doc! { "op": "d", "ns": "a.b", "o": { "_id": 1 } }),
        (&ALL[..1], doc! { "op": "db", "ns": "a", "o": {} }),
        (ALL, insert("a.b", doc! { "_id": 1 })),
        (ALL, insert("admin.system.users", doc! { "_id": 1 })),
        (
            to_3_6,
            insert("a.system.indexes", doc! { "ns": "a.b", "key": { "x": 1 }, "name": "x" }),
        ),
        (&ALL[..1], insert("a.system.users", doc! { "_id": 1 })),
        (
            from_3_4,
            insert("a.system.views", doc! { "_id": "a.v", "viewOn": "b", "pipeline": [] }),
        ),
        (ALL, doc! { "op": "n", "ns": "", "o": {} }),
        (from_3_6, update(doc! { "$v": 1, "$set": { "x": 1 } })),
        (&ALL[..3], update(doc! {})),
        (ALL, update(doc! { "_id": 1 })),
        (to_3_6, update(doc! { "$set": { "x": 1 } })),
    ]
}

/// The name of an entry's form.
fn form(entry: &Document) -> String {
    let (op, ns) = (entry.get_str("op").unwrap(), entry.get_str("ns").unwrap());
    let o = entry.get_document("o").unwrap();
    let first = o.keys().next().map_or("", String::as_str);
    let what = match (op, first) {
        ("c", "collMod") if o.len() == 1 => " without arguments",
        ("c", "collMod") if o.contains_key("usePowerOf2Sizes") => " of settings of MMAPv1",
        ("c", "create") if ns.starts_with("admin.") => " in `admin`",
        ("c", "dropIndexes") if o.get_document("index").is_ok() => " by a key",
        ("c", "dropIndexes") if o.get_str("index").is_ok_and(|index| index == "*") => " of all",
        ("c", "renameCollection") => {
            let database = |field: &str| o.get_str(field).unwrap().split('.').next().map(str::to_owned);
            match database("renameCollection") == database("to") {
                true => "",
                false => " across databases",
            }
        }
        ("u", "") => ", empty",
        ("u", "$v") => ", `$v: 1`",
        ("u", "$set" | "$unset") => ", without `$v`",
        ("u", _) => ", replacement",
        ("i", _) if ns.starts_with("admin.system.") => " in `admin.system.*`",
        ("i", _) if ns.ends_with(".system.indexes") => " of `system.indexes`",
        ("i", _) if ns.ends_with(".system.users") => " of `system.users`",
        ("i", _) if ns.ends_with(".system.views") => " of `system.views`",
        _ => "",
    };
    match op {
        "c" => format!("`c` `{first}`{what}"),
        _ => format!("`{op}`{what}"),
    }
}

/// What a migration does with an entry about the collection `a.b`, which is known.
fn does(series: Series, entry: &Document) -> String {
    let mut identities = LegacyIdentities::new(SET, series);
    let mut decoder = LegacyDecoder::new(series);
    let mut take = |fields: Document| {
        let mut entry = doc! { "ts": Timestamp { time: 1, increment: 1 } };
        entry.extend(fields);
        decoder.take(&raw(&entry), &mut identities).unwrap().items
    };
    take(doc! { "op": "u", "ns": "a.b", "o2": { "_id": 0 }, "o": { "_id": 0 } });
    let items = take(entry.clone());
    if entry.get_document("o").unwrap().contains_key("applyOps") {
        return "does what its operations say, at this position".to_owned();
    }
    match &items[..] {
        [] => "nothing; the position moves on".to_owned(),
        items => items.iter().map(treatment).collect::<Vec<_>>().join(", then "),
    }
}

#[test]
fn the_table_of_old_entries_says_what_the_decoder_does() {
    let seen: BTreeSet<(Series, String)> = CAPTURED
        .iter()
        .flat_map(|(name, series)| entries(name).into_iter().map(|(_, entry)| (*series, form(&entry))))
        .collect();
    let mut rows: Vec<String> = forms()
        .iter()
        .map(|(written_by, entry)| {
            let form = form(entry);
            let cells: Vec<&str> = ALL
                .iter()
                .map(|series| match written_by.contains(series) {
                    true if seen.contains(&(*series, form.clone())) => "seen",
                    true => "read",
                    false => "",
                })
                .collect();
            let all: BTreeSet<String> = written_by.iter().map(|series| does(*series, entry)).collect();
            assert_eq!(all.len(), 1, "{form}: {all:?}");
            format!("| {form} | {} | {} |", cells.join(" | "), all.first().unwrap())
                .replace("|  |", "| |")
                .replace("|  |", "| |")
        })
        .collect();
    rows.sort();
    let known: BTreeSet<String> = forms().iter().map(|(_, entry)| form(entry)).collect();
    for (series, form) in &seen {
        assert!(known.contains(form), "{series:?} wrote {form}, which is no row");
    }
    let (_, table) = TABLE.split_once("## Servers from 2.6 to 4.0").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let written: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(written == rows, "the rows must be\n{}", rows.join("\n"));
}
