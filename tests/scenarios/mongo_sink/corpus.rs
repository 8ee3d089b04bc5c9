//! Documents that commands tend to change or refuse.

use bson::raw::{RawDocument, RawDocumentBuf};
use mongoferry::order::Key;
use mongoferry_testbed::Version;

/// A document with its name, and from which version on a target takes it.
pub struct Sample {
    pub name: &'static str,
    pub document: RawDocumentBuf,
    pub since: Option<Version>,
}

impl Sample {
    pub fn key(&self) -> Key {
        Key::of_document(&self.document).unwrap()
    }

    pub fn is_taken_by(&self, version: Version) -> bool {
        self.since.is_some_and(|since| since <= version)
    }
}

/// One element: its type, its name, its value.
pub fn element(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[kind], name, &[0], value].concat()
}

pub fn frame(elements: &[Vec<u8>]) -> Vec<u8> {
    let elements = elements.concat();
    [&(elements.len() as u32 + 5).to_le_bytes(), elements.as_slice(), &[0]].concat()
}

pub fn document(elements: &[Vec<u8>]) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(frame(elements)).unwrap()
}

pub fn int(name: &[u8], value: i32) -> Vec<u8> {
    element(0x10, name, &value.to_le_bytes())
}

pub fn string(name: &[u8], value: &[u8]) -> Vec<u8> {
    element(
        0x02,
        name,
        &[&(value.len() as u32 + 1).to_le_bytes(), value, &[0]].concat(),
    )
}

pub fn nested(name: &[u8], elements: &[Vec<u8>]) -> Vec<u8> {
    element(0x03, name, &frame(elements))
}

pub fn array(name: &[u8], elements: &[Vec<u8>]) -> Vec<u8> {
    element(0x04, name, &frame(elements))
}

pub fn empty_timestamp(name: &[u8]) -> Vec<u8> {
    element(0x11, name, &[0; 8])
}

/// A document of so many bytes.
fn of_size(id: i32, bytes: usize) -> RawDocumentBuf {
    let around = document(&[int(b"_id", id), string(b"s", b"")]).as_bytes().len();
    document(&[int(b"_id", id), string(b"s", &vec![b'x'; bytes - around])])
}

/// A document of so many levels.
fn of_depth(id: i32, levels: usize) -> RawDocumentBuf {
    let inner = (1..levels).fold(int(b"a", 1), |inner, _| nested(b"a", &[inner]));
    document(&[int(b"_id", id), inner])
}

pub fn samples() -> Vec<Sample> {
    let always = Some(Version::V4_2);
    let code_with_scope = {
        let parts = [string(b"", b"f()")[2..].to_vec(), frame(&[int(b"x", 1)])].concat();
        [(parts.len() as u32 + 4).to_le_bytes().to_vec(), parts].concat()
    };
    let mut samples = Vec::new();
    let mut add = |name: &'static str, since: Option<Version>, elements: &dyn Fn(Vec<u8>) -> Vec<Vec<u8>>| {
        let id = int(b"_id", samples.len() as i32);
        samples.push(Sample {
            name,
            document: document(&elements(id)),
            since,
        });
    };
    add("an ordinary one", always, &|id| {
        vec![id, int(b"a", 1), string(b"b", b"x")]
    });
    add("an empty timestamp", always, &|id| {
        vec![id, int(b"a", 1), empty_timestamp(b"t"), empty_timestamp(b"u")]
    });
    add("an empty timestamp inside", always, &|id| {
        vec![id, nested(b"a", &[empty_timestamp(b"t")])]
    });
    add("an empty timestamp as _id", always, &|_| {
        vec![empty_timestamp(b"_id"), int(b"a", 1)]
    });
    add("an empty timestamp and a name twice", always, &|id| {
        vec![id, int(b"a", 1), empty_timestamp(b"t"), int(b"a", 2)]
    });
    add("an empty timestamp and a name twice inside", always, &|id| {
        vec![id, empty_timestamp(b"t"), nested(b"n", &[int(b"a", 1), int(b"a", 2)])]
    });
    add("an empty timestamp and a name with a $", Some(Version::V5_0), &|id| {
        vec![id, int(b"$a", 1), empty_timestamp(b"t")]
    });
    add("a name with a $", always, &|id| {
        vec![id, int(b"$x", 1), int(b"$set", 2)]
    });
    add("a name with a $ inside", always, &|id| {
        vec![id, nested(b"a", &[int(b"$x", 1)])]
    });
    add("$id before $ref", always, &|id| {
        vec![id, nested(b"a", &[int(b"$id", 1), string(b"$ref", b"c")])]
    });
    add("empty and dotted names", always, &|id| {
        vec![
            id,
            int(b"", 1),
            int(b"a.b", 2),
            nested(b"c", &[int(b"", 1), int(b"d.e", 2)]),
        ]
    });
    add("names twice", always, &|id| {
        vec![
            id,
            int(b"a", 1),
            int(b"a", 2),
            nested(b"b", &[int(b"c", 1), int(b"c", 2)]),
        ]
    });
    add("two _id", always, &|id| vec![id, int(b"a", 1), int(b"_id", 77)]);
    add("odd numbers", always, &|id| {
        vec![
            id,
            element(0x01, b"zero", &(-0.0_f64).to_le_bytes()),
            element(0x01, b"nan", &0x7ff8_0000_dead_beef_u64.to_le_bytes()),
            element(0x13, b"decimal nan", &[0xff; 16]),
            element(0x13, b"decimal zero", &(1_u128 << 127 | 0x1820 << 113).to_le_bytes()),
            element(0x13, b"trailing zeros", &(0x3030_u128 << 113 | 1000).to_le_bytes()),
        ]
    });
    add("old types", always, &|id| {
        vec![
            id,
            element(0x06, b"undefined", &[]),
            element(
                0x0c,
                b"pointer",
                &[2_u32.to_le_bytes().as_slice(), b"c\0", &[7; 12]].concat(),
            ),
            element(0x0e, b"symbol", &string(b"", b"s")[2..]),
            element(0x0f, b"scope", &code_with_scope),
            element(0x05, b"binary", &[7, 0, 0, 0, 2, 3, 0, 0, 0, 1, 2, 3]),
        ]
    });
    add("bytes that are not UTF-8", always, &|id| {
        vec![
            id,
            string(b"a", &[0xff, 0xfe]),
            int(&[0xff], 1),
            nested(b"n", &[string(&[0xc0], &[0x80])]),
        ]
    });
    add("a NUL in a string", always, &|id| vec![id, string(b"a", b"x\0y")]);
    add("an _id that is not UTF-8", always, &|_| {
        vec![string(b"_id", &[b'i', 0xff]), int(b"a", 1)]
    });
    add("a regular expression as _id", always, &|_| {
        vec![element(0x0b, b"_id", b"^x\0i\0"), int(b"a", 1)]
    });
    add("an array as _id", always, &|_| {
        vec![array(b"_id", &[int(b"0", 1)]), int(b"a", 1)]
    });
    add("an embedded document as _id", always, &|_| {
        vec![nested(b"_id", &[int(b"x", 1)]), int(b"a", 1)]
    });
    add("null as _id", always, &|_| {
        vec![element(0x0a, b"_id", &[]), int(b"a", 1)]
    });
    add("MinKey as _id", always, &|_| {
        vec![element(0xff, b"_id", &[]), int(b"a", 1)]
    });
    add("NaN as _id", always, &|_| {
        vec![element(0x01, b"_id", &f64::NAN.to_le_bytes()), int(b"a", 1)]
    });
    add("undefined as _id", None, &|_| {
        vec![element(0x06, b"_id", &[]), int(b"a", 1)]
    });
    add("a $ in the _id", None, &|_| {
        vec![nested(b"_id", &[int(b"$x", 1)]), int(b"a", 1)]
    });
    add("an _id that is not first", None, &|id| vec![int(b"a", 1), id]);
    for (name, document, since) in [
        ("180 levels", of_depth(1000, 180), always),
        ("181 levels", of_depth(1001, 181), always),
        ("16 MB", of_size(1002, 16 * 1024 * 1024), always),
        ("16 MB and a byte", of_size(1003, 16 * 1024 * 1024 + 1), None),
    ] {
        samples.push(Sample { name, document, since });
    }
    samples
}

/// A plain document of a sample's `_id`, to be replaced by it.
pub fn plain(document: &RawDocument) -> RawDocumentBuf {
    let mut plain = RawDocumentBuf::from_bytes(Key::of_document(document).unwrap().document_bytes().to_vec()).unwrap();
    plain.append(bson::raw::cstr!("a"), 5);
    plain.append(bson::raw::cstr!("n"), bson::rawdoc! { "a": 1 });
    plain
}
