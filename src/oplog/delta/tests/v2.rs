use super::*;

#[test]
fn updates_in_place_and_appends_what_is_missing() {
    check_v2(
        rawdoc! { "_id": 1, "a": 1, "b": 2 },
        rawdoc! { "u": { "x": 7, "a": "new" }, "i": { "y": 8 } },
        rawdoc! { "_id": 1, "a": "new", "b": 2, "x": 7, "y": 8 },
    );
}

#[test]
fn insert_of_an_existing_field_moves_it_to_the_end() {
    check_v2(
        rawdoc! { "_id": 1, "a": 1, "b": 2, "c": 3 },
        rawdoc! { "i": { "b": 5, "new": 1, "a": 1 } },
        rawdoc! { "_id": 1, "c": 3, "b": 5, "new": 1, "a": 1 },
    );
}

#[test]
fn missing_updates_come_before_inserts_in_listed_order() {
    check_v2(
        rawdoc! { "_id": 1, "i2": 0 },
        rawdoc! { "u": { "u2": 1, "u1": 2 }, "i": { "i2": 3, "i1": 4 } },
        rawdoc! { "_id": 1, "u2": 1, "u1": 2, "i2": 3, "i1": 4 },
    );
}

#[test]
fn deletes_and_ignores_a_delete_of_a_missing_field() {
    check_v2(
        rawdoc! { "_id": 1, "a": 1, "b": 2 },
        rawdoc! { "d": { "a": false, "z": false } },
        rawdoc! { "_id": 1, "b": 2 },
    );
}

#[test]
fn descends_into_documents_and_ignores_missing_ones() {
    check_v2(
        rawdoc! { "_id": 1, "s": { "x": 1, "t": { "y": 2, "z": 3 } } },
        rawdoc! { "ss": { "d": { "x": false }, "st": { "u": { "y": 9 } } }, "sgone": { "i": { "a": 1 } } },
        rawdoc! { "_id": 1, "s": { "t": { "y": 9, "z": 3 } } },
    );
}

#[test]
fn a_change_of_a_repeated_name_is_refused_at_any_depth() {
    let twice = || rawdoc! { "x": 1, "y": 0, "x": 2 };
    let document = rawdoc! { "_id": 1, "x": 1, "s": twice(), "l": [0, twice()], "b": 1, "x": 2 };
    let refused = Err(DeltaError::RepeatedName { name: "x".to_owned() });
    for diff in [
        rawdoc! { "u": { "x": 3 } },
        rawdoc! { "d": { "x": false } },
        rawdoc! { "i": { "x": 3 } },
        rawdoc! { "sx": { "u": { "a": 1 } } },
        rawdoc! { "ss": { "u": { "x": 3 } } },
        rawdoc! { "sl": { "a": true, "s1": { "u": { "x": 3 } } } },
    ] {
        assert_eq!(apply(&document, &v2(diff.clone())), refused, "{diff:?}");
    }
    check_v2(
        document,
        rawdoc! { "d": { "b": false }, "u": { "s": { "y": 5 } }, "sl": { "a": true, "s1": { "i": { "y": twice() } } } },
        rawdoc! {
            "_id": 1, "x": 1, "s": { "y": 5 }, "l": [0, { "x": 1, "x": 2, "y": twice() }], "x": 2,
        },
    );
}

#[test]
fn a_nested_diff_on_another_type_makes_the_field_null() {
    let before = rawdoc! { "_id": 1, "scalar": 5, "array": [1], "document": { "x": 1 }, "last": 1 };
    check_v2(
        before,
        rawdoc! {
            "sscalar": { "u": { "x": 1 } },
            "sarray": { "u": { "x": 1 } },
            "sdocument": { "a": true, "u0": 1 },
        },
        rawdoc! { "_id": 1, "scalar": null, "array": null, "document": null, "last": 1 },
    );
}

#[test]
fn sets_array_elements_and_pads_with_null() {
    let before = || rawdoc! { "_id": 1, "l": [1, 2] };
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "u1": "x" } },
        rawdoc! { "_id": 1, "l": [1, "x"] },
    );
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "u4": 5 } },
        rawdoc! { "_id": 1, "l": [1, 2, null, null, 5] },
    );
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "s3": { "u": { "x": 1 } } } },
        rawdoc! { "_id": 1, "l": [1, 2, null, null] },
    );
}

#[test]
fn resizes_arrays() {
    let before = || rawdoc! { "_id": 1, "l": [1, 2, 3] };
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "l": 1 } },
        rawdoc! { "_id": 1, "l": [1] },
    );
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "l": 0 } },
        rawdoc! { "_id": 1, "l": [] },
    );
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "l": 5 } },
        rawdoc! { "_id": 1, "l": [1, 2, 3, null, null] },
    );
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "l": 2, "u0": 9 } },
        rawdoc! { "_id": 1, "l": [9, 2] },
    );
    check_v2(
        before(),
        rawdoc! { "sl": { "a": true, "l": 5, "u4": 9 } },
        rawdoc! { "_id": 1, "l": [1, 2, 3, null, 9] },
    );
    check_v2(before(), rawdoc! { "sl": { "a": true } }, before());
}

#[test]
fn descends_into_array_elements() {
    check_v2(
        rawdoc! { "_id": 1, "l": [{ "x": 1 }, [1, 2], 3, [4]] },
        rawdoc! { "sl": {
            "a": true,
            "s0": { "i": { "y": 2 } },
            "s1": { "a": true, "u1": 5 },
            "s2": { "u": { "x": 1 } },
            "s3": { "u": { "x": 1 } },
        } },
        rawdoc! { "_id": 1, "l": [{ "x": 1, "y": 2 }, [1, 5], null, null] },
    );
}

/// A binary value of the subtype of compressed columns.
fn column(bytes: &[u8]) -> bson::Binary {
    bson::Binary {
        subtype: bson::spec::BinarySubtype::Column,
        bytes: bytes.to_vec(),
    }
}

/// The diff that an 8.0 server logs for an insert into an existing bucket.
#[test]
fn a_binary_splice_replaces_what_comes_from_its_offset_on() {
    let splice = |offset: i32, data: &[u8]| {
        let data = bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: data.to_vec(),
        };
        rawdoc! { "o": offset, "d": data }
    };
    let before =
        || rawdoc! { "_id": 1, "control": { "count": 2 }, "data": { "t": column(b"abc\0"), "v": column(b"xy\0") } };
    check_v2(
        before(),
        rawdoc! {
            "scontrol": { "u": { "count": 3 } },
            "sdata": { "i": { "w": column(b"new\0") }, "b": { "t": splice(3, b"def\0"), "v": splice(0, b"z\0") } },
        },
        rawdoc! {
            "_id": 1, "control": { "count": 3 },
            "data": { "t": column(b"abcdef\0"), "v": column(b"z\0"), "w": column(b"new\0") },
        },
    );
    // At the very end, with no data, and beyond the end.
    check_v2(
        before(),
        rawdoc! { "sdata": { "b": { "t": splice(4, b"e"), "v": splice(2, b"") } } },
        rawdoc! { "_id": 1, "control": { "count": 2 }, "data": { "t": column(b"abc\0e"), "v": column(b"xy") } },
    );
    check_v2(
        before(),
        rawdoc! { "b": { "control": splice(0, b"e"), "gone": splice(0, b"e") }, "sdata": { "b": { "t": splice(5, b"e") } } },
        rawdoc! { "_id": 1, "control": null, "data": { "t": null, "v": column(b"xy\0") } },
    );
    for diff in [
        rawdoc! { "b": { "t": splice(1, b"x") } },
        rawdoc! { "sdata": { "b": { "t": splice(1, b"x") } } },
    ] {
        assert_eq!(v2_as_operators(&v2(diff.clone())), Ok(None));
        assert_eq!(merge(&v2(rawdoc! { "u": { "x": 1 } }), &v2(diff)), Ok(None));
    }
}

#[test]
fn names_are_never_paths_and_may_be_anything() {
    check_v2(
        rawdoc! { "_id": 1, "": { "": 1 }, "a.b": 1, "a": { "b": 2 }, "$x": { "$y": 1 }, "l": 1, "s": 2, "u": { "d": 1 } },
        rawdoc! {
            "d": { "l": false },
            "u": { "a.b": 5, "s": 6 },
            "i": { "$z": 7 },
            "s": { "u": { "": 8 } },
            "s$x": { "u": { "$y": 9 } },
            "su": { "i": { "a": true } },
        },
        rawdoc! { "_id": 1, "": { "": 8 }, "a.b": 5, "a": { "b": 2 }, "$x": { "$y": 9 }, "s": 6,
        "u": { "d": 1, "a": true }, "$z": 7 },
    );
}

#[test]
fn refuses_sections_it_does_not_know_or_in_another_order() {
    let document = rawdoc! { "_id": 1, "a": { "b": 1 }, "l": [1] };
    for (diff, section) in [
        (rawdoc! { "u": { "a": 1 }, "d": { "b": false } }, "d"),
        (rawdoc! { "i": { "a": 1 }, "u": { "b": 1 } }, "u"),
        (rawdoc! { "u": { "a": 1 }, "u": { "b": 1 } }, "u"),
        (rawdoc! { "x": { "a": 1 } }, "x"),
        (rawdoc! { "b": {}, "i": { "a": 1 } }, "i"),
        (rawdoc! { "sa": { "u": { "b": 1 } }, "b": {} }, "b"),
        (rawdoc! { "sa": { "u": { "b": 1 } }, "i": { "x": 1 } }, "i"),
        (rawdoc! { "sa": { "what": { "b": 1 } } }, "what"),
        (rawdoc! { "sl": { "a": true, "u0": 1, "l": 5 } }, "l"),
        (rawdoc! { "sl": { "a": true, "d0": 1 } }, "d0"),
    ] {
        let error = apply(&document, &v2(diff)).unwrap_err();
        assert_eq!(
            error,
            DeltaError::UnexpectedSection {
                section: section.to_owned()
            }
        );
    }
}

#[test]
fn refuses_what_is_malformed() {
    let document = rawdoc! { "_id": 1, "a": { "b": 1 }, "l": [1] };
    for diff in [
        rawdoc! {},
        rawdoc! { "sa": {} },
        rawdoc! { "u": 5 },
        rawdoc! { "sa": [1] },
        rawdoc! { "sl": { "a": false } },
        rawdoc! { "sl": { "a": 1 } },
        rawdoc! { "d": { "a": false }, "u": { "a": 1 } },
        rawdoc! { "sl": { "a": true, "l": -1 } },
        rawdoc! { "sl": { "a": true, "l": 1_i64 } },
        rawdoc! { "sl": { "a": true, "u": 1 } },
        rawdoc! { "sl": { "a": true, "ux": 1 } },
        rawdoc! { "sl": { "a": true, "u99999999999999999999999": 1 } },
        rawdoc! { "b": { "a": 1 } },
        rawdoc! { "b": { "a": { "o": 1 } } },
        rawdoc! { "b": { "a": { "o": -1, "d": column(b"x") } } },
        rawdoc! { "b": { "a": { "o": 1, "d": "text" } } },
        rawdoc! { "u": { "a": 1 }, "b": { "a": { "o": 1, "d": column(b"x") } } },
        // These would abort a server, or never end on it.
        rawdoc! { "sl": { "a": true, "l": 1, "u3": 1 } },
        rawdoc! { "sl": { "a": true, "u2": 1, "u1": 1 } },
        rawdoc! { "sl": { "a": true, "u2": 1, "u2": 1 } },
    ] {
        assert_malformed(apply(&document, &v2(diff)));
    }
    assert_malformed(apply(&document, &rawdoc! { "$v": 2 }));
    assert_malformed(apply(&document, &rawdoc! { "$v": 2, "diff": [1] }));
}

#[test]
fn bounds_the_size_of_the_result() {
    let document = rawdoc! { "_id": 1, "l": [1] };
    assert_eq!(
        apply(&document, &v2(rawdoc! { "sl": { "a": true, "l": i32::MAX } })),
        Err(DeltaError::TooLarge)
    );
    assert_eq!(
        apply(&document, &v2(rawdoc! { "sl": { "a": true, "u999999999999": 1 } })),
        Err(DeltaError::TooLarge)
    );
}

#[test]
fn goes_two_hundred_levels_deep_and_has_a_bound() {
    let nested = |levels: usize, name: &str, innermost: RawDocumentBuf| {
        (0..levels).fold(innermost, |inner, _| {
            let mut outer = RawDocumentBuf::new();
            outer.append(bson::raw::CString::try_from(name.to_owned()).unwrap(), inner);
            outer
        })
    };
    let with_id = |mut inner: RawDocumentBuf| {
        inner.append(c_name("_id"), 1);
        inner
    };
    let before = with_id(nested(200, "x", rawdoc! { "v": 1 }));
    let diff = nested(200, "sx", rawdoc! { "u": { "v": 2 } });
    assert_eq!(
        applied(&before, &v2(diff)),
        with_id(nested(200, "x", rawdoc! { "v": 2 }))
    );

    let before = with_id(nested(MAX_DEPTH + 50, "x", rawdoc! { "v": 1 }));
    let diff = nested(MAX_DEPTH + 50, "sx", rawdoc! { "u": { "v": 2 } });
    assert_eq!(apply(&before, &v2(diff)), Err(DeltaError::TooDeep));

    let arrays = |levels: usize, innermost: Bson| (0..levels).fold(innermost, |inner, _| Bson::Array(vec![inner]));
    let before = RawDocumentBuf::try_from(&bson::doc! { "_id": 1, "x": arrays(198, Bson::Int32(1)) }).unwrap();
    let diff = (0..197).fold(
        rawdoc! { "a": true, "u0": 2 },
        |inner, _| rawdoc! { "a": true, "s0": inner },
    );
    let after = RawDocumentBuf::try_from(&bson::doc! { "_id": 1, "x": arrays(198, Bson::Int32(2)) }).unwrap();
    assert_eq!(applied(&before, &v2(rawdoc! { "sx": diff })), after);
}

#[test]
fn operators_stand_for_a_delta_that_adds_no_field() {
    let operators = |diff| v2_as_operators(&v2(diff));
    assert_eq!(
        operators(rawdoc! { "d": { "a": false }, "u": { "b": 1, "0": [1] } }),
        Ok(Some(rawdoc! { "$unset": { "a": false }, "$set": { "b": 1, "0": [1] } }))
    );
    for diff in [
        rawdoc! { "i": { "a": 1 } },
        rawdoc! { "u": { "a": 1 }, "i": { "b": 1 } },
        rawdoc! { "u": { "a": 1 }, "sb": { "u": { "c": 1 } } },
        rawdoc! { "u": { "_id": 1.0 } },
        rawdoc! { "u": { "a.b": 1 } },
        rawdoc! { "u": { "$a": 1 } },
        rawdoc! { "u": { "": 1 } },
        rawdoc! { "d": { "a.b": false } },
        rawdoc! { "u": {} },
        rawdoc! {},
    ] {
        assert_eq!(operators(diff.clone()), Ok(None), "{diff:?}");
    }
    for broken in [rawdoc! { "$v": 2 }, v2(rawdoc! { "u": 1 })] {
        let refused = v2_as_operators(&broken);
        assert!(matches!(refused, Err(DeltaError::Malformed { .. })), "{broken:?}");
    }
}

#[test]
fn of_two_deltas_that_add_no_field_the_later_values_count() {
    let merged = |earlier, later| merge(&v2(earlier), &v2(later)).unwrap();
    assert_eq!(
        merged(
            rawdoc! { "d": { "x": false }, "u": { "a": 1, "b": 1, "c": 1 } },
            rawdoc! { "d": { "a": false }, "u": { "b": 2, "z": 2 } },
        ),
        Some(v2(
            rawdoc! { "d": { "x": false, "a": false }, "u": { "c": 1, "b": 2, "z": 2 } }
        ))
    );
    assert_eq!(
        merged(rawdoc! { "u": { "a": 1 } }, rawdoc! { "d": { "a": false } }),
        Some(v2(rawdoc! { "d": { "a": false } }))
    );
    let plain = || rawdoc! { "u": { "a": 1 } };
    for other in [
        rawdoc! { "i": { "a": 1 } },
        rawdoc! { "u": { "a": 1 }, "i": { "b": 1 } },
        rawdoc! { "sa": { "u": { "c": 1 } } },
        rawdoc! { "u": { "_id": 1.0 } },
    ] {
        assert_eq!(merged(plain(), other.clone()), None);
        assert_eq!(merged(other, plain()), None);
    }
    assert_eq!(merged(rawdoc! { "d": { "a": false } }, plain()), None);
    assert_eq!(merge(&v1_set(plain()), &v1_set(plain())), Ok(None));
    let replacement = rawdoc! { "_id": 1, "$v": 2, "diff": {} };
    assert_eq!(merge(&replacement, &v2(plain())), Ok(None));
    assert_eq!(merge(&v2(plain()), &replacement), Ok(None));
    assert_eq!(v2_as_operators(&replacement), Err(DeltaError::UnknownFormat));
    let many = || {
        let fields: bson::Document = (0..101).map(|number| (number.to_string(), number.into())).collect();
        let fields = RawDocumentBuf::try_from(&fields).unwrap();
        rawdoc! { "u": fields }
    };
    assert_eq!(merged(many(), many()), None, "looking for names would take too long");
}
