//! Describes how two documents differ, without revealing their contents.

use std::fmt;

use bson::raw::RawDocument;
use bson::spec::ElementType;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use sha2::{Digest, Sha256};

use crate::model::format;
use crate::order::{Element, Elements, Key, RawValue};

/// Maximum number of paths to report.
const NAMED: usize = 20;

/// Maximum length of a path in characters. Longer ones are truncated.
const LONGEST_PATH: usize = 200;

/// Maximum nesting depth to compare. Servers store up to 180 levels.
const DEEPEST: usize = 200;

/// A document that differs between the two sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The `_id` of the document.
    #[serde(rename = "id", serialize_with = "format::debug")]
    pub key: Key,
    /// How the document differs.
    #[serde(flatten)]
    pub kind: DifferenceKind,
    /// SHA-256 of the document's bytes on the source, in hexadecimal; `None` if the source does not have it.
    pub source_hash: Option<String>,
    /// SHA-256 of the document's bytes on the target, in hexadecimal; `None` if the target does not have it.
    pub target_hash: Option<String>,
}

/// How a document differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// The target does not have it.
    Missing,
    /// The source does not have it.
    Extra,
    /// Both sides have the document, with different contents.
    Different {
        /// The paths of the fields that differ, at most 20. A path that ends with `(order)` has the same fields on both sides in a
        /// different order. A lone `(order)` refers to the top level of the document.
        paths: Vec<String>,
    },
}

/// Writes the kind and the paths of each kind as fields of the same names.
impl Serialize for DifferenceKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, paths) = match self {
            Self::Missing => ("missing", [].as_slice()),
            Self::Extra => ("extra", [].as_slice()),
            Self::Different { paths } => ("different", paths.as_slice()),
        };
        let mut fields = serializer.serialize_struct("DifferenceKind", 2)?;
        fields.serialize_field("kind", kind)?;
        fields.serialize_field("paths", paths)?;
        fields.end()
    }
}

impl Difference {
    /// Compares two documents. `None` stands for a missing document.
    pub(crate) fn between(key: Key, ours: Option<&RawDocument>, theirs: Option<&RawDocument>) -> Self {
        let kind = match (ours, theirs) {
            (_, None) => DifferenceKind::Missing,
            (None, Some(_)) => DifferenceKind::Extra,
            (Some(ours), Some(theirs)) => {
                let mut paths = Vec::new();
                compare("", ours.as_bytes(), theirs.as_bytes(), DEEPEST, &mut paths);
                DifferenceKind::Different { paths }
            }
        };
        Self {
            key,
            kind,
            source_hash: ours.map(hash),
            target_hash: theirs.map(hash),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the document with _id {:?} ", self.key)?;
        match &self.kind {
            DifferenceKind::Missing => f.write_str("is missing on the target"),
            DifferenceKind::Extra => f.write_str("is on the target only"),
            DifferenceKind::Different { paths } => write!(f, "differs in {}", paths.join(", ")),
        }
    }
}

fn hash(document: &RawDocument) -> String {
    use fmt::Write;
    Sha256::digest(document.as_bytes())
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Adds the paths of the differences between two documents or arrays.
fn compare(path: &str, ours: &[u8], theirs: &[u8], depth: usize, paths: &mut Vec<String>) {
    let (our_fields, their_fields) = (fields(ours), fields(theirs));
    let before = paths.len();
    let in_order = our_fields.len() == their_fields.len()
        && our_fields
            .iter()
            .zip(&their_fields)
            .all(|(ours, theirs)| ours.0 == theirs.0);
    if in_order {
        for ((name, ours), (_, theirs)) in our_fields.iter().zip(&their_fields) {
            compare_values(path, name, *ours, *theirs, depth, paths);
        }
    } else {
        for (name, ours) in &our_fields {
            match their_fields.iter().find(|(theirs, _)| theirs == name) {
                Some((_, theirs)) => compare_values(path, name, *ours, *theirs, depth, paths),
                None => add(path, name, "", paths),
            }
        }
        for (name, _) in &their_fields {
            if !our_fields.iter().any(|(ours, _)| ours == name) {
                add(path, name, "", paths);
            }
        }
    }
    if paths.len() == before && ours != theirs {
        // The fields and values are the same, so their order differs, or bytes that cannot be read.
        let order = if path.is_empty() {
            "(order)".to_owned()
        } else {
            format!("{path} (order)")
        };
        paths.push(order);
    }
    paths.truncate(NAMED);
}

fn compare_values(
    path: &str,
    name: &[u8],
    ours: RawValue<'_>,
    theirs: RawValue<'_>,
    depth: usize,
    paths: &mut Vec<String>,
) {
    if paths.len() >= NAMED || (ours.element_type() == theirs.element_type() && ours.bytes() == theirs.bytes()) {
        return;
    }
    let is_nested = |value: RawValue<'_>| {
        matches!(
            ElementType::from(value.element_type()),
            Some(ElementType::EmbeddedDocument | ElementType::Array)
        )
    };
    if depth > 0 && ours.element_type() == theirs.element_type() && is_nested(ours) {
        compare(&join(path, name), ours.bytes(), theirs.bytes(), depth - 1, paths);
    } else {
        add(path, name, "", paths);
    }
}

fn add(path: &str, name: &[u8], suffix: &str, paths: &mut Vec<String>) {
    if paths.len() < NAMED {
        paths.push(join(path, name) + suffix);
    }
}

fn join(path: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut joined = if path.is_empty() {
        name.into_owned()
    } else {
        format!("{path}.{name}")
    };
    if let Some((end, _)) = joined.char_indices().nth(LONGEST_PATH) {
        joined.truncate(end);
    }
    joined
}

fn fields(document: &[u8]) -> Vec<(&[u8], RawValue<'_>)> {
    Elements::of(document)
        .filter_map(|element| match element {
            Element::Field { name, value } => Some((name, value)),
            Element::Malformed(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, RawDocumentBuf, rawdoc};

    use super::*;

    fn paths(ours: RawDocumentBuf, theirs: RawDocumentBuf) -> Vec<String> {
        let key = Key::from(RawBsonRef::Int32(1));
        match Difference::between(key, Some(&ours), Some(&theirs)).kind {
            DifferenceKind::Different { paths } => paths,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_that_differ_are_named_by_their_paths() {
        assert_eq!(paths(rawdoc! { "_id": 1, "a": 1 }, rawdoc! { "_id": 1, "a": 2 }), ["a"]);
        assert_eq!(
            paths(
                rawdoc! { "_id": 1, "a": { "b": [1, { "c": 2 }] }, "only": 1 },
                rawdoc! { "_id": 1, "a": { "b": [1, { "c": 3 }] }, "there": 1 },
            ),
            ["a.b.1.c", "only", "there"]
        );
        assert_eq!(
            paths(rawdoc! { "a": 1, "b": 2 }, rawdoc! { "b": 2, "a": 1 }),
            ["(order)"]
        );
        assert_eq!(
            paths(rawdoc! { "x": { "a": 1, "b": 2 } }, rawdoc! { "x": { "b": 2, "a": 1 } }),
            ["x (order)"]
        );
        // Equal by value, but of a different type or sign.
        assert_eq!(paths(rawdoc! { "a": 1 }, rawdoc! { "a": 1_i64 }), ["a"]);
        assert_eq!(paths(rawdoc! { "a": 0.0 }, rawdoc! { "a": -0.0 }), ["a"]);
        assert_eq!(paths(rawdoc! { "a": { "b": 1 } }, rawdoc! { "a": [1] }), ["a"]);
    }

    #[test]
    fn what_is_named_is_bounded() {
        let document = |value: i32| {
            let mut document = RawDocumentBuf::new();
            for number in 0..1000 {
                document.append(bson::raw::CString::try_from(format!("f{number}")).unwrap(), value);
            }
            document
        };
        assert_eq!(paths(document(1), document(2)).len(), NAMED);
    }

    #[test]
    fn a_missing_or_extra_document_has_one_hash() {
        let document = rawdoc! { "_id": 1 };
        let key = || Key::from(RawBsonRef::Int32(1));
        let missing = Difference::between(key(), Some(&document), None);
        assert_eq!(missing.kind, DifferenceKind::Missing);
        // Output of `sha256sum` for the bytes 0e 00 00 00 10 5f 69 64 00 01 00 00 00 00.
        assert_eq!(
            missing.source_hash.as_deref(),
            Some("2fe93d7561368009c932ffef6a24dbbfff5802e05ab8939cf195d7a3912fba7c")
        );
        assert_eq!(missing.target_hash, None);
        let extra = Difference::between(key(), None, Some(&document));
        assert_eq!((extra.kind, extra.source_hash), (DifferenceKind::Extra, None));
        assert_eq!(extra.target_hash, missing.source_hash);
    }
}
