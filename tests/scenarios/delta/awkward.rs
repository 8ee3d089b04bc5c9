//! Updates that each meet one corner of the delta formats.

use bson::{Bson, Document, Timestamp, bson, doc};
use mongoferry_testbed::Version;

/// One update of one document.
pub struct Case {
    pub name: &'static str,
    pub before: Document,
    pub change: Bson,
    replacement_from_5_0: bool,
}

impl Case {
    /// Whether the server logs it as a delta: pipelines only from 5.0 on, and only when the diff is the smaller one.
    pub fn is_delta(&self, version: Version) -> bool {
        match self.change {
            Bson::Array(_) => version >= Version::V5_0 && !self.replacement_from_5_0,
            _ => true,
        }
    }
}

/// The cases; some need names that servers store from 5.0 on.
pub fn cases(dollar_names: bool) -> Vec<Case> {
    let mut cases = operators();
    cases.extend(pipelines());
    if dollar_names {
        cases.extend(dollars());
    }
    cases
}

/// The pad makes a diff smaller than the document, and stays first so that it is no part of the diff.
fn case(name: &'static str, fields: Document, change: impl Into<Bson>) -> Case {
    let mut before = doc! { "pad": "p".repeat(300) };
    before.extend(fields);
    Case {
        name,
        before,
        change: change.into(),
        replacement_from_5_0: false,
    }
}

fn base() -> Document {
    doc! {
        "a": 1, "s": "str", "sub": { "x": 1, "y": { "z": 1 } }, "arr": [1, 2, 3, 4, 5],
        "items": [{ "k": 1, "v": 1 }, { "k": 2, "v": 2 }], "nested": [[1, 2], [3, 4]], "num": { "0": 1, "10": 2 },
    }
}

fn operators() -> Vec<Case> {
    let deep = (0..150).fold(doc! { "v": 1 }, |inner, _| doc! { "x": inner });
    let deep_path = format!("{}v", "x.".repeat(150));
    let deep_arrays = (0..80).fold(bson!(1), |inner, _| Bson::Array(vec![inner]));
    let deep_index = format!("x{}", ".0".repeat(80));
    vec![
        case("set existing", base(), doc! { "$set": { "a": 2 } }),
        case(
            "set several new, unsorted",
            base(),
            doc! { "$set": { "zz": 1, "bb": 2, "mm": 3, "10": 4, "9": 5 } },
        ),
        case(
            "set new nested",
            base(),
            doc! { "$set": { "sub.q.w": 5, "brand.new": 1 } },
        ),
        case(
            "set several levels",
            base(),
            doc! { "$set": { "sub.y.z": 5, "sub.x": 4, "a": 3, "b.n": 1 }, "$unset": { "s": 1 } },
        ),
        case(
            "numeric names out of order",
            base(),
            doc! { "$set": { "9": 2, "10": 1, "02": 1, "n.9": 1, "n.10": 1, "b": 1 } },
        ),
        case(
            "set and unset in one parent",
            base(),
            doc! { "$set": { "sub.b": 3, "sub.c": 1 }, "$unset": { "sub.x": 1 } },
        ),
        case(
            "names like diff keys",
            base(),
            doc! { "$set": { "u": 1, "d": { "u": 1 }, "i": 2, "l": 3, "b": [1], "sa": 1 } },
        ),
        case("unset an array element", base(), doc! { "$unset": { "arr.1": 1 } }),
        case(
            "unset in an array element",
            base(),
            doc! { "$unset": { "items.1.v": 1 } },
        ),
        case("push one", base(), doc! { "$push": { "arr": 6 } }),
        case(
            "push several",
            base(),
            doc! { "$push": { "arr": { "$each": [6, 7, 8, 9, 10, 11, 12] } } },
        ),
        case(
            "push and slice",
            base(),
            doc! { "$push": { "arr": { "$each": [6, 7], "$slice": -3 } } },
        ),
        case(
            "push to the front",
            base(),
            doc! { "$push": { "arr": { "$each": [0], "$position": 0 } } },
        ),
        case(
            "push and sort",
            base(),
            doc! { "$push": { "arr": { "$each": [0], "$sort": -1 } } },
        ),
        case("push to a new array", base(), doc! { "$push": { "fresh.list": 1 } }),
        case("pop", base(), doc! { "$pop": { "arr": 1, "nested": -1 } }),
        case("pull", base(), doc! { "$pull": { "arr": { "$gt": 2 } } }),
        case("set an array element", base(), doc! { "$set": { "arr.2": 33 } }),
        case("set beyond the end", base(), doc! { "$set": { "arr.8": 88 } }),
        case(
            "set two beyond the end",
            base(),
            doc! { "$set": { "arr.9": 9, "arr.10": 10 } },
        ),
        case(
            "set with a leading zero",
            base(),
            doc! { "$set": { "arr.01": 9, "arr.008": 7 } },
        ),
        case(
            "set a document beyond the end",
            base(),
            doc! { "$set": { "items.4.n.q": 1 } },
        ),
        case(
            "set in an array of arrays",
            base(),
            doc! { "$set": { "nested.0.1": 22, "nested.1.3": 5 } },
        ),
        case(
            "set all elements",
            base(),
            doc! { "$set": { "items.$[].v": { "w": 1 } } },
        ),
        case(
            "set a number in a document",
            base(),
            doc! { "$set": { "num.0": 100, "num.9": 3, "num.10": 200 } },
        ),
        case("rename", base(), doc! { "$rename": { "a": "z.a", "sub.x": "moved" } }),
        case("multiply into a double", base(), doc! { "$mul": { "a": 2.5 } }),
        case(
            "current date",
            base(),
            doc! { "$currentDate": { "d": true, "sub.t": { "$type": "timestamp" } } },
        ),
        case(
            "array becomes scalar",
            base(),
            doc! { "$set": { "arr": 1, "items": { "0": 1 } } },
        ),
        case(
            "zero timestamps",
            base(),
            doc! { "$set": { "t": zero(), "sub.t": zero() } },
        ),
        case(
            "a dotted name beside a path",
            doc! { "a.b": 1, "a": { "b": 1 } },
            doc! { "$set": { "a.b": 8 } },
        ),
        case("150 levels", deep, doc! { "$set": { deep_path: 2 } }),
        case(
            "80 arrays",
            doc! { "x": deep_arrays },
            doc! { "$set": { deep_index: 2 } },
        ),
    ]
}

fn pipelines() -> Vec<Case> {
    let replace = |after: Document| {
        let after = doc! { "$mergeObjects": [{ "_id": "$_id", "pad": "$pad" }, { "$literal": after }] };
        bson!([{ "$replaceWith": after }])
    };
    let change = |name, before: Document, after: Document| case(name, before, replace(after));
    vec![
        case("pipeline: set", base(), bson!([{ "$set": { "a": 2, "sub.new": 1 } }])),
        case("pipeline: unset", base(), bson!([{ "$unset": ["s", "sub.x"] }])),
        case(
            "pipeline: id becomes a double",
            base(),
            bson!([{ "$set": { "_id": { "$toDouble": "$_id" } } }]),
        ),
        change(
            "pipeline: grow an array",
            doc! { "arr": [{ "x": 1 }, 2] },
            doc! { "arr": [{ "x": 2 }, 2, 3, 4] },
        ),
        change(
            "pipeline: truncate",
            doc! { "arr": [1, 2, 3, 4, 5] },
            doc! { "arr": [1, 2] },
        ),
        change(
            "pipeline: truncate and set",
            doc! { "arr": [1, 2, 3, 4, 5] },
            doc! { "arr": [100, 2, 3] },
        ),
        change(
            "pipeline: truncate and nest",
            doc! { "arr": [{ "x": 1, "y": 1 }, 2] },
            doc! { "arr": [{ "x": 2, "y": 1 }] },
        ),
        change(
            "pipeline: elements change type",
            doc! { "arr": [1, { "x": 1 }, [1, 2]] },
            doc! { "arr": ["1", 5, [1, 3]] },
        ),
        change(
            "pipeline: insert before",
            doc! { "a": 1, "b": 2 },
            doc! { "a": 1, "n": 1, "b": 2 },
        ),
        change(
            "pipeline: nested reorder",
            doc! { "s": { "a": 1, "b": 2, "c": [1] } },
            doc! { "s": { "c": [1], "b": 2, "a": 1 } },
        ),
        change("pipeline: int becomes double", doc! { "a": 1 }, doc! { "a": 1.0 }),
        change(
            "pipeline: document becomes array",
            doc! { "a": { "0": 1 } },
            doc! { "a": [1] },
        ),
        change("pipeline: empty array", doc! { "a": [1, 2] }, doc! { "a": [] }),
        change(
            "pipeline: empty and dotted names",
            doc! { "": 1, "a.b": 2, "n": { "": { "": 1 }, "c.d": 1 } },
            doc! { "": 5, "a.b": 3, "n": { "": { "": 2 }, "c.d": [] } },
        ),
        Case {
            replacement_from_5_0: true,
            ..case(
                "pipeline: another document",
                base(),
                bson!([{ "$replaceWith": { "_id": "$_id", "z": 1 } }]),
            )
        },
    ]
}

fn dollars() -> Vec<Case> {
    let set = |field: &str, value: i32| {
        let field = doc! { "field": { "$literal": field }, "input": "$$ROOT", "value": value };
        bson!([{ "$replaceWith": { "$setField": field } }])
    };
    vec![
        case("dollar name: new", base(), set("$dol", 77)),
        case("dollar name: changed", doc! { "$dol": 1, "b": 1 }, set("$dol", 77)),
        case(
            "dollar name: nested",
            doc! { "n": { "$x": 1, "y": 2 } },
            doc! { "$set": { "n.$x": 2 } },
        ),
        case("field called like the version", base(), set("$v", 1)),
    ]
}

fn zero() -> Timestamp {
    Timestamp { time: 0, increment: 0 }
}
