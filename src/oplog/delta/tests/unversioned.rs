use super::*;
use crate::oplog::delta::{changed_paths, unversioned_needs_ordered_sets};

#[test]
fn new_fields_come_in_the_listed_order() {
    let delta = rawdoc! { "$set": { "z": 1, "a": 2, "s.y": 3, "s.b": 4 }, "$unset": { "gone": true } };
    let after = apply(&rawdoc! { "_id": 1, "gone": 0, "a": 0, "s": {} }, &delta).unwrap();
    assert_eq!(after, rawdoc! { "_id": 1, "a": 2, "s": { "y": 3, "b": 4 }, "z": 1 });
    let changed = changed_paths(&delta).unwrap();
    assert_eq!(
        (changed.set, changed.unset),
        (
            ["z", "a", "s.y", "s.b"].map(String::from).to_vec(),
            vec!["gone".to_owned()]
        )
    );
}

#[test]
fn one_update_does_only_where_the_order_is_by_name() {
    for (set, expected) in [
        (rawdoc! { "a": 1 }, false),
        (rawdoc! { "a": 1, "b": 1 }, false),
        (rawdoc! { "b": 1, "a": 1 }, true),
        (rawdoc! { "a.b": 1, "a.c": 1, "b": 1 }, false),
        (rawdoc! { "a.c": 1, "a.b": 1 }, true),
        // Parts are compared, not whole paths: `-` comes before the dot.
        (rawdoc! { "a.x": 1, "a-b": 1 }, false),
        (rawdoc! { "a-b": 1, "a.x": 1 }, true),
        // By name, 10 comes before 9.
        (rawdoc! { "l.9": 1, "l.10": 1 }, true),
    ] {
        let delta = rawdoc! { "$set": set.clone(), "$unset": { "A": true } };
        assert_eq!(unversioned_needs_ordered_sets(&delta), Ok(expected), "{set:?}");
        let ordered = v1_as_ordered_operators(&delta).unwrap();
        assert_eq!(ordered.len(), set.iter().count() + 1, "{set:?}");
    }
}
