use super::*;

#[test]
fn sets_in_listed_order_and_appends_new_fields() {
    check_v1(
        rawdoc! { "_id": 1, "a": 1, "b": { "c": 1 } },
        v1_set(rawdoc! { "02": 1, "10": 2, "9": 3, "a": 4, "b.10": 5, "b.9": 6, "b.c": 7 }),
        rawdoc! { "_id": 1, "a": 4, "b": { "c": 7, "10": 5, "9": 6 }, "02": 1, "10": 2, "9": 3 },
    );
}

#[test]
fn creates_missing_parents_as_documents() {
    check_v1(
        rawdoc! { "_id": 1 },
        v1_set(rawdoc! { "a.b.c": 1, "a.b.d": 2, "n.0.x": 3 }),
        rawdoc! { "_id": 1, "a": { "b": { "c": 1, "d": 2 } }, "n": { "0": { "x": 3 } } },
    );
}

#[test]
fn a_numeric_part_is_an_index_or_a_name() {
    check_v1(
        rawdoc! { "_id": 1, "l": [1, { "x": 1 }, [5]], "d": { "0": 1 } },
        v1_set(rawdoc! { "l.0": 9, "l.1.x": 8, "l.2.0": 7, "d.0": 6, "d.1": 5 }),
        rawdoc! { "_id": 1, "l": [9, { "x": 8 }, [7]], "d": { "0": 6, "1": 5 } },
    );
}

#[test]
fn pads_arrays_with_null() {
    check_v1(
        rawdoc! { "_id": 1, "l": [1] },
        v1_set(rawdoc! { "l.3": 4, "l.6.x.y": 7 }),
        rawdoc! { "_id": 1, "l": [1, null, null, 4, null, null, { "x": { "y": 7 } }] },
    );
    // Paths are in string order, so a later element may be set first.
    check_v1(
        rawdoc! { "_id": 1, "l": [] },
        v1_set(rawdoc! { "l.10": 10, "l.9": 9, "l.01": 1 }),
        rawdoc! { "_id": 1, "l": [null, 1, null, null, null, null, null, null, null, 9, 10] },
    );
}

#[test]
fn bounds_the_padding_as_a_server_does() {
    let document = rawdoc! { "_id": 1, "l": [1] };
    let at = |index: usize| {
        let mut paths = RawDocumentBuf::new();
        paths.append(c_name(&format!("l.{index}")), 7);
        apply(&document, &v1_set(paths))
    };
    let filled = at(MAX_BACKFILL + 1).unwrap();
    assert_eq!(
        elements(filled.get_array("l").unwrap().as_bytes()).count(),
        MAX_BACKFILL + 2
    );
    assert_eq!(at(MAX_BACKFILL + 2), Err(DeltaError::Backfill));
}

#[test]
fn bounds_the_padding_of_all_arrays_together() {
    let mut document = rawdoc! { "_id": 1 };
    let mut paths = RawDocumentBuf::new();
    for name in 'a'..='z' {
        document.append(c_name(&name.to_string()), bson::rawbson!([]));
        paths.append(c_name(&format!("{name}.{MAX_BACKFILL}")), 1);
    }
    // It must fail before the next path is read, not only when the document is written.
    paths.append(c_name("_id.x"), 1);
    assert_eq!(apply(&document, &v1_set(paths)), Err(DeltaError::TooLarge));
}

#[test]
fn a_path_through_a_value_without_fields_is_a_conflict() {
    let document = rawdoc! { "_id": 1, "a": 5, "l": [1], "n": null };
    for (paths, path, field) in [
        (rawdoc! { "z": 1, "a.b": 1 }, "a.b", "b"),
        (rawdoc! { "a.b.c": 1 }, "a.b.c", "b"),
        (rawdoc! { "l.x": 1 }, "l.x", "x"),
        (rawdoc! { "l.0.x": 1 }, "l.0.x", "x"),
        (
            rawdoc! { "l.99999999999999999999999": 1 },
            "l.99999999999999999999999",
            "99999999999999999999999",
        ),
        (rawdoc! { "n.x": 1 }, "n.x", "x"),
    ] {
        let error = apply(&document, &v1_set(paths)).unwrap_err();
        assert_eq!(
            error,
            DeltaError::PathConflict {
                path: path.to_owned(),
                field: field.to_owned()
            }
        );
    }
}

#[test]
fn unset_removes_fields_and_empties_array_elements() {
    check_v1(
        rawdoc! { "_id": 1, "a": 1, "b": { "c": 1, "d": 2 }, "l": [1, 2, { "x": 1, "y": 2 }] },
        v1_unset(rawdoc! { "a": true, "b.c": true, "l.1": true, "l.2.x": true }),
        rawdoc! { "_id": 1, "b": { "d": 2 }, "l": [1, null, { "y": 2 }] },
    );
}

#[test]
fn unset_of_what_is_missing_changes_nothing() {
    let document = || rawdoc! { "_id": 1, "a": 1, "l": [1] };
    let paths = rawdoc! { "z": true, "z.y": true, "a.b": true, "l.1": true, "l.x": true, "l.0.x": true };
    check_v1(document(), v1_unset(paths), document());
    check_v1(document(), rawdoc! { "$v": 1 }, document());
}

#[test]
fn takes_its_sections_in_either_order() {
    let before = || rawdoc! { "_id": 1, "s": { "a": 1, "b": 2 } };
    let after = || rawdoc! { "_id": 1, "s": { "b": 3, "c": 1 } };
    check_v1(
        before(),
        rawdoc! { "$v": 1, "$unset": { "s.a": true }, "$set": { "s.b": 3, "s.c": 1 } },
        after(),
    );
    check_v1(
        before(),
        rawdoc! { "$v": 1, "$set": { "s.b": 3, "s.c": 1 }, "$unset": { "s.a": true } },
        after(),
    );
}

#[test]
fn touches_the_first_field_of_a_repeated_name() {
    let before = raw(&[(b"_id", 1), (b"d", 1), (b"x", 5), (b"d", 2)]);
    let after = raw(&[(b"_id", 1), (b"d", 9), (b"x", 5), (b"d", 2)]);
    assert_eq!(applied(&before, &v1_set(rawdoc! { "d": 9 })), after);
    assert_eq!(
        applied(&before, &v1_unset(rawdoc! { "d": true })),
        raw(&[(b"_id", 1), (b"x", 5), (b"d", 2)])
    );
}

#[test]
fn refuses_what_is_malformed() {
    let document = rawdoc! { "_id": 1, "a": 1 };
    for delta in [
        rawdoc! { "$v": 1, "$set": 5 },
        rawdoc! { "$v": 1, "$set": { "a": 1 }, "$set": { "b": 1 } },
        rawdoc! { "$v": 1, "$set": { "a..b": 1 } },
        rawdoc! { "$v": 1, "$set": { "": 1 } },
        rawdoc! { "$v": 1, "$unset": { "a.": true } },
    ] {
        assert_malformed(apply(&document, &delta));
    }
    assert_eq!(
        apply(&document, &rawdoc! { "$v": 1, "$inc": { "a": 1 } }),
        Err(DeltaError::UnexpectedSection {
            section: "$inc".to_owned()
        })
    );
    let mut paths = RawDocumentBuf::new();
    paths.append(c_name(&vec!["x"; MAX_DEPTH + 1].join(".")), 1);
    assert_eq!(apply(&document, &v1_set(paths)), Err(DeltaError::TooDeep));
}

#[test]
fn many_paths_into_a_large_array_are_quick() {
    let items: Vec<Bson> = (0..20_000).map(Bson::Int32).collect();
    let before = RawDocumentBuf::try_from(&bson::doc! { "_id": 1, "l": items }).unwrap();
    let mut paths = RawDocumentBuf::new();
    for index in 20_000..40_000 {
        paths.append(c_name(&format!("l.{index}")), index);
    }
    let items: Vec<Bson> = (0..40_000).map(Bson::Int32).collect();
    let after = RawDocumentBuf::try_from(&bson::doc! { "_id": 1, "l": items }).unwrap();
    // Copying the document for each path would move about ten gigabytes, and make this test visibly slow.
    assert_eq!(applied(&before, &v1_set(paths)), after);
}

/// As with an operator. Documents with many fields use another lookup.
#[test]
fn the_first_of_a_repeated_name_is_meant() {
    for count in [3, 40] {
        let named = |skip: &[usize]| {
            let mut document = rawdoc! { "_id": 1 };
            for number in (0..count).filter(|number| !skip.contains(number)) {
                document.append(c_name(&format!("f{}", number % 20)), number as i32);
            }
            document.append(c_name("f1"), -1);
            document
        };
        let mut set = named(&[]);
        set.append(c_name("n"), 9);
        check_v1(named(&[]), v1_set(rawdoc! { "f1": 1, "n": 9 }), set);
        check_v1(named(&[]), v1_unset(rawdoc! { "f1": true }), named(&[1]));
        check_v1(
            named(&[1]),
            rawdoc! { "$v": 1, "$unset": { "f1": true, "none": true } },
            if count > 20 {
                named(&[1, 21])
            } else {
                rawdoc! { "_id": 1, "f0": 0, "f2": 2 }
            },
        );
    }
}
