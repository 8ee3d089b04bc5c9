use bson::{RawBsonRef, rawdoc};

use super::*;
use crate::model::CollectionKind;

fn checkpoint() -> Checkpoint {
    let mut selection = Selection::all();
    selection.include("shop.*").unwrap();
    selection.exclude("shop.tmp_*").unwrap();
    selection.rename("shop.orders", "store.orders").unwrap();
    let position = |increment| Position {
        time: 1_700_000_000,
        increment,
        term: 3,
    };
    let range = |upper: Option<RawBsonRef<'_>>, done| RangeState {
        upper: upper.map(Key::from),
        done,
    };
    Checkpoint {
        format: FORMAT,
        id: "tenant-42".to_owned(),
        source: "source".to_owned(),
        sink: "sink".to_owned(),
        selection,
        watermark: position(9),
        resume: position(4),
        seen: position(11),
        left_over: vec![LeftOver {
            target: Namespace::new("shop", "old"),
            made: None,
            moved_to: Some(Namespace::new("shop", "new")),
        }],
        collections: vec![CollectionState {
            id: Uuid::from_bytes([7; 16]),
            namespace: Namespace::new("shop", "orders"),
            target: Namespace::new("store", "orders"),
            made: Some(Uuid::from_bytes([8; 16])),
            kind: CollectionKind::Clustered,
            options: rawdoc! { "validator": { "z": 1, "a": -0.0 } },
            indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
            indexed: true,
            documents: u64::from(u32::MAX) + 1,
            bytes: 5,
            copied_documents: 2,
            copied_bytes: 3,
            ranges: vec![
                range(Some(RawBsonRef::MinKey), Some(position(1))),
                range(Some(RawBsonRef::Double(f64::NAN)), None),
                range(Some(RawBsonRef::Int64(5)), Some(Position::ZERO)),
                range(Some(RawBsonRef::String("a.b")), None),
                range(
                    Some(RawBsonRef::Document(&rawdoc! { "z": [1, { "$x": 2 }], "a": 1 })),
                    None,
                ),
                range(None, Some(position(2))),
            ],
            compared: Some(ComparedState {
                upper: Some(Key::from(RawBsonRef::Int64(5))),
                changed: vec![Key::from(RawBsonRef::Double(5.0)), Key::from(RawBsonRef::Null)],
                position: Some(position(7)),
                documents: 3,
                bytes: 4,
            }),
        }],
        unsettled: Vec::new(),
        renaming: None,
        gone: Vec::new(),
        gone_names: Vec::new(),
        created: true,
        copied: true,
        copied_documents: 12,
        copied_bytes: 3456,
        resyncs: 2,
        window: CutoverWindow {
            first_ready: Some(bson::DateTime::from_millis(1_700_000_000_123)),
            extended_millis: 86_400_000,
        },
        left_selection: vec![LeftSelection {
            from: Namespace::new("shop", "sold"),
            to: Namespace::new("archive", "sold"),
            position: position(8),
        }],
        source_writes_blocked: true,
        expiry_final: true,
        rules: Vec::new(),
        failed: Vec::new(),
        dead_letters: None,
        users: None,
        takes_back: None,
        watched: Some(position(20)),
        durable: Some(position(21)),
        complete: false,
        way_back: None,
        certificate: None,
    }
}

#[test]
fn a_checkpoint_comes_back_as_it_was() {
    let checkpoint = checkpoint();
    let bytes = checkpoint.encode().unwrap();
    let again = Checkpoint::decode(&bytes).unwrap();
    assert_eq!(again, checkpoint);
    // Keys compare by value. The bytes must be the same too, since 5 and 5.0 are written differently in a query.
    assert_eq!(again.encode().unwrap().as_bytes(), bytes.as_bytes());
    let upper = again.collections[0].ranges[2].upper.as_ref().unwrap();
    assert!(matches!(upper.to_bson_ref().unwrap(), RawBsonRef::Int64(5)));
}

/// The first released version wrote this checkpoint. It must stay readable, whatever is added to the format.
#[test]
fn a_checkpoint_of_format_1_stays_readable() {
    let path = format!("{}/tests/samples/checkpoint/1.bson", env!("CARGO_MANIFEST_DIR"));
    let bytes = RawDocumentBuf::from_bytes(std::fs::read(path).unwrap()).unwrap();
    let read = Checkpoint::decode(&bytes).unwrap();
    let mut expected = Checkpoint {
        id: "default".to_owned(),
        seen: Position::ZERO,
        left_over: Vec::new(),
        resyncs: 0,
        left_selection: Vec::new(),
        source_writes_blocked: false,
        expiry_final: false,
        window: CutoverWindow::default(),
        unsettled: vec![UnsettledDocuments {
            collection: Uuid::from_bytes([7; 16]),
            ids: vec![Key::from(RawBsonRef::String("a"))],
        }],
        renaming: Some(Renaming {
            collection: Uuid::from_bytes([7; 16]),
            to: Namespace::new("shop", "sold"),
            dropped: Some(Uuid::from_bytes([8; 16])),
            position: Position {
                time: 1_700_000_001,
                increment: 1,
                term: 3,
            },
        }),
        gone: vec![Uuid::from_bytes([9; 16])],
        watched: None,
        durable: None,
        ..checkpoint()
    };
    (expected.collections[0].compared, expected.collections[0].made) = (None, None);
    (
        expected.collections[0].copied_documents,
        expected.collections[0].copied_bytes,
    ) = (0, 0);
    assert_eq!(read, expected);
    let upper = |range: usize| format!("{:?}", read.collections[0].ranges[range].upper);
    let expected_upper = |range: usize| format!("{:?}", expected.collections[0].ranges[range].upper);
    for range in 0..expected.collections[0].ranges.len() {
        // Keys compare by value. Their types must be the same, too.
        assert_eq!(upper(range), expected_upper(range));
    }
}

#[test]
fn collections_that_are_gone_have_their_names_if_they_were_saved() {
    let ids = [8, 9].map(|byte| Uuid::from_bytes([byte; 16]));
    let name = || Namespace::new("shop", "gone");
    for (gone_names, expected) in [
        (vec![name(), name()], [Some(name()), Some(name())]),
        (Vec::new(), [None, None]),
    ] {
        let saved = Checkpoint {
            gone: ids.to_vec(),
            gone_names,
            ..checkpoint()
        };
        let read = Checkpoint::decode(&saved.encode().unwrap()).unwrap();
        let read: Vec<_> = read.gone_with_names().collect();
        assert_eq!(read, ids.into_iter().zip(expected).collect::<Vec<_>>());
    }
}

#[test]
fn a_newer_format_is_refused_and_says_what_to_do() {
    let newer = Checkpoint {
        format: FORMAT + 1,
        ..checkpoint()
    };
    let error = Checkpoint::decode(&newer.encode().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointMismatch);
    assert!(error.to_string().contains("newer version"), "{error}");
    // The same if nothing else in it can be read.
    let error = Checkpoint::decode(&rawdoc! { "format": FORMAT + 1 }).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    for bytes in [
        rawdoc! {},
        rawdoc! { "format": "1" },
        rawdoc! { "format": FORMAT },
        rawdoc! { "format": FORMAT, "source": 5 },
    ] {
        let error = Checkpoint::decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointMismatch, "{bytes:?}");
        assert!(!error.is_retryable());
    }
}
