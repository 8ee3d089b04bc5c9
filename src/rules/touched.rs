//! Which top-level fields a delta changes.

use bson::RawDocument;

use crate::oplog::delta::{DeltaFormat, format_of};
use crate::order::{Element, Elements, RawValue, element_type};

/// The top-level fields that a delta sets, adds, removes, or changes something inside of.
///
/// A field is named as in the document. In a `$v: 1` delta it is the part of a path before the first dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TouchedFields<'a> {
    names: Vec<&'a str>,
}

impl<'a> TouchedFields<'a> {
    /// Reads a delta of either format: the `o` of an update entry, as in [`Operation::Delta`](crate::Operation::Delta).
    ///
    /// Returns `None` if the update is a replacement, or has a form that is not known, or touches `_id`, or has names that are not UTF-8.
    pub fn of(delta: &'a RawDocument) -> Option<Self> {
        let mut touched = Self { names: Vec::new() };
        match format_of(delta).ok()?? {
            DeltaFormat::Unversioned | DeltaFormat::V1 => {
                for section in elements(delta.as_bytes()) {
                    match section? {
                        (b"$v", _) => {}
                        (b"$set" | b"$unset", paths) => touched.add_all(paths, |path| path.split('.').next())?,
                        _ => return None,
                    }
                }
            }
            DeltaFormat::V2 => {
                for part in elements(delta.as_bytes()) {
                    match part? {
                        (b"$v", _) => {}
                        (b"diff", diff) => touched.add_diff(document(diff)?)?,
                        _ => return None,
                    }
                }
            }
        }
        (!touched.contains("_id")).then_some(touched)
    }

    /// The names, each at least once.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.names.iter().copied()
    }

    /// Returns `true` if the delta touches this top-level field.
    pub fn contains(&self, field: &str) -> bool {
        self.names.contains(&field)
    }

    /// Returns `true` if the delta touches no field.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Takes out the names of the fields that the target never has, and returns them.
    pub(crate) fn split_off(&mut self, is_removed: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let (removed, others) = std::mem::take(&mut self.names)
            .into_iter()
            .partition(|field| is_removed(field));
        self.names = others;
        removed
    }

    fn add_diff(&mut self, diff: &'a [u8]) -> Option<()> {
        for section in elements(diff) {
            match section? {
                (b"d" | b"u" | b"i" | b"b", fields) => self.add_all(fields, Some)?,
                ([b's', name @ ..], _) => self.names.push(std::str::from_utf8(name).ok()?),
                _ => return None,
            }
        }
        Some(())
    }

    fn add_all(&mut self, fields: RawValue<'a>, top: impl Fn(&'a str) -> Option<&'a str>) -> Option<()> {
        for field in elements(document(fields)?) {
            let (name, _) = field?;
            let name = top(std::str::from_utf8(name).ok()?)?;
            // Many paths of one delta often lead into the same field.
            if self.names.last() != Some(&name) {
                self.names.push(name);
            }
        }
        Some(())
    }
}

pub(super) fn elements(document: &[u8]) -> impl Iterator<Item = Option<(&[u8], RawValue<'_>)>> {
    Elements::of(document).map(|element| match element {
        Element::Field { name, value } => Some((name, value)),
        Element::Malformed(_) => None,
    })
}

pub(super) fn document(value: RawValue<'_>) -> Option<&[u8]> {
    (value.element_type() == element_type::DOCUMENT).then(|| value.bytes())
}

#[cfg(test)]
mod tests {
    use bson::raw::RawDocumentBuf;
    use bson::rawdoc;

    use super::*;

    fn names(delta: &RawDocument) -> Option<Vec<&str>> {
        TouchedFields::of(delta).map(|touched| touched.iter().collect())
    }

    #[test]
    fn top_level_names_of_both_formats_are_found() {
        let v1 = rawdoc! { "$v": 1, "$unset": { "gone.x": true }, "$set": { "a.0.b": 1, "a.1": 2, "c": 1 } };
        assert_eq!(names(&v1), Some(vec!["gone", "a", "c"]));
        let v2 = rawdoc! { "$v": 2, "diff": {
            "d": { "gone": false }, "u": { "a": 1 }, "i": { "new.name": 1 }, "b": { "column": { "o": 0, "d": 1 } },
            "sdeep": { "u": { "inner": 1 } }, "slist": { "a": true, "u0": 1 }, "s": { "u": { "x": 1 } },
        } };
        let expected = vec!["gone", "a", "new.name", "column", "deep", "list", ""];
        assert_eq!(names(&v2), Some(expected));
        assert_eq!(names(&rawdoc! { "$v": 1 }), Some(vec![]));
    }

    #[test]
    fn unknown_forms_are_not_read() {
        let mut malformed = rawdoc! { "$v": 1, "$set": { "a": 1 } }.into_bytes();
        let length = malformed.len();
        malformed[length - 7] = 0x70;
        for delta in [
            rawdoc! { "a": 1 },
            rawdoc! { "_id": 1, "$v": 1, "$set": { "a": 1 } },
            rawdoc! { "$v": 3, "diff": {} },
            rawdoc! { "$v": 1, "$inc": { "a": 1 } },
            rawdoc! { "$v": 1, "$set": 1 },
            rawdoc! { "$v": 1, "$set": { "_id.x": 1 } },
            rawdoc! { "$v": 2, "diff": { "x": {} } },
            rawdoc! { "$v": 2, "diff": { "u": 1 } },
            rawdoc! { "$v": 2, "diff": { "s_id": { "u": { "x": 1 } } } },
            rawdoc! { "$v": 2, "diff": {}, "more": 1 },
            RawDocumentBuf::from_bytes(malformed).unwrap(),
        ] {
            assert_eq!(names(&delta), None, "{delta:?}");
        }
    }
}
