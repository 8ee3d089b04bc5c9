//! Lists what a delta changes, for people and for filters.

use bson::RawDocument;

use super::scan::{Element, elements, find};
use super::v1::Sections;
use super::{DeltaError, DeltaFormat, MAX_DEPTH, format_of};
use crate::order::element_type;

/// What a delta changes, as paths such as `address.city` and `tags.0`; see [`changed_paths`].
///
/// Bytes of names that are not UTF-8 become the replacement character. A name that contains a dot looks like a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedPaths {
    /// Fields and array elements that get a new value, whether or not they existed before.
    pub set: Vec<String>,
    /// Fields that are removed. An array element in a `$v: 1` delta becomes null instead.
    pub unset: Vec<String>,
    /// Arrays that are cut to a length, or extended to it with nulls, each with that length.
    pub resized: Vec<(String, u64)>,
    /// Binary values that get new bytes from some offset on.
    pub spliced: Vec<String>,
}

impl ChangedPaths {
    /// Returns `true` if the delta changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty() && self.resized.is_empty() && self.spliced.is_empty()
    }
}

/// Returns the paths that a delta changes, in its order. `delta` is the `o` of an update entry, as in
/// [`Operation::Delta`](crate::Operation::Delta).
///
/// ```
/// use mongoferry::bson::rawdoc;
/// use mongoferry::oplog::delta::changed_paths;
///
/// let delta = rawdoc! { "$v": 2, "diff": {
///     "d": { "draft": false },
///     "u": { "status": "paid" },
///     "saddress": { "i": { "zip": "10115" } },
///     "stags": { "a": true, "l": 3, "u0": "new" },
/// } };
/// let changed = changed_paths(&delta)?;
/// assert_eq!(changed.set, ["status", "address.zip", "tags.0"]);
/// assert_eq!(changed.unset, ["draft"]);
/// assert_eq!(changed.resized, [("tags".to_owned(), 3)]);
/// # Ok::<(), mongoferry::oplog::delta::DeltaError>(())
/// ```
///
/// # Errors
///
/// [`DeltaError::UnknownFormat`] for a replacement and for an unknown `$v`, [`DeltaError::UnexpectedSection`], [`DeltaError::TooDeep`] and
/// [`DeltaError::Malformed`] for what is no delta of a server.
pub fn changed_paths(delta: &RawDocument) -> Result<ChangedPaths, DeltaError> {
    let mut changed = ChangedPaths::default();
    match format_of(delta)?.ok_or(DeltaError::UnknownFormat)? {
        DeltaFormat::Unversioned | DeltaFormat::V1 => {
            let sections = Sections::parse(delta.as_bytes())?;
            for (section, paths) in [(sections.set, &mut changed.set), (sections.unset, &mut changed.unset)] {
                for element in section.into_iter().flat_map(elements) {
                    paths.push(String::from_utf8_lossy(element?.name).into_owned());
                }
            }
        }
        DeltaFormat::V2 => {
            let diff = find(delta.as_bytes(), b"diff")?.and_then(|diff| diff.document());
            let diff = diff.ok_or(malformed("a $v: 2 update has no diff document"))?;
            changed.add_document(diff, "", 1)?;
        }
    }
    Ok(changed)
}

impl ChangedPaths {
    /// Adds the changes of a diff of the document at `path`, which is empty or ends with a dot.
    fn add_document(&mut self, diff: &[u8], path: &str, depth: usize) -> Result<(), DeltaError> {
        for section in elements(diff) {
            let section = section?;
            let paths = match section.name {
                b"d" => &mut self.unset,
                b"u" | b"i" => &mut self.set,
                b"b" => &mut self.spliced,
                [b's', name @ ..] => {
                    self.add_nested(&section, name, path, depth)?;
                    continue;
                }
                _ => return Err(unexpected(&section)),
            };
            let fields = section
                .document()
                .ok_or(malformed("a diff section is not a document"))?;
            for field in elements(fields) {
                paths.push(below(path, field?.name));
            }
        }
        Ok(())
    }

    /// Adds the changes of a diff of an array, without its leading flag.
    fn add_array(&mut self, diff: &[u8], array: &str, depth: usize) -> Result<(), DeltaError> {
        let path = format!("{array}.");
        for change in elements(diff).skip(1) {
            let change = change?;
            match change.name {
                b"l" => {
                    let length = change.integer().and_then(|length| u64::try_from(length).ok());
                    let length = length.ok_or(malformed("an array length is not a count"))?;
                    self.resized.push((array.to_owned(), length));
                }
                [b'u', index @ ..] => self.set.push(below(&path, index)),
                [b's', index @ ..] => self.add_nested(&change, index, &path, depth)?,
                _ => return Err(unexpected(&change)),
            }
        }
        Ok(())
    }

    fn add_nested(&mut self, nested: &Element<'_>, name: &[u8], path: &str, depth: usize) -> Result<(), DeltaError> {
        if depth >= MAX_DEPTH {
            return Err(DeltaError::TooDeep);
        }
        let diff = nested.document().ok_or(malformed("a nested diff is not a document"))?;
        let first = elements(diff).next().transpose()?;
        let path = below(path, name);
        match first {
            // In a document's diff, `a` is no section.
            Some(first) if first.name == b"a" && first.kind == element_type::BOOLEAN => {
                self.add_array(diff, &path, depth + 1)
            }
            _ => self.add_document(diff, &format!("{path}."), depth + 1),
        }
    }
}

fn below(path: &str, name: &[u8]) -> String {
    format!("{path}{}", String::from_utf8_lossy(name))
}

fn malformed(reason: &'static str) -> DeltaError {
    DeltaError::Malformed { reason }
}

fn unexpected(section: &Element<'_>) -> DeltaError {
    DeltaError::UnexpectedSection {
        section: String::from_utf8_lossy(section.name).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn paths_of_both_formats_are_listed() {
        let v1 = rawdoc! { "$v": 1, "$set": { "a.b": 1, "l.2": 3 }, "$unset": { "c": true } };
        let changed = changed_paths(&v1).unwrap();
        assert_eq!(
            (changed.set, changed.unset),
            (vec!["a.b".into(), "l.2".into()], vec!["c".into()])
        );

        let v2 = rawdoc! { "$v": 2, "diff": {
            "u": { "x": 1 },
            "b": { "column": { "o": 4, "d": 1 } },
            "sdeep": { "d": { "gone": false }, "slist": { "a": true, "l": 2, "s1": { "i": { "in": 1 } } } },
        } };
        let changed = changed_paths(&v2).unwrap();
        assert_eq!(changed.set, ["x", "deep.list.1.in"]);
        assert_eq!(changed.unset, ["deep.gone"]);
        assert_eq!(changed.resized, [("deep.list".to_owned(), 2)]);
        assert_eq!(changed.spliced, ["column"]);
        assert!(!changed.is_empty());
    }

    #[test]
    fn what_is_no_delta_has_no_paths() {
        for (update, expected) in [
            (rawdoc! { "_id": 1, "$v": 2 }, DeltaError::UnknownFormat),
            (rawdoc! { "$v": 3 }, DeltaError::UnknownFormat),
            (
                rawdoc! { "$v": 2, "diff": 1 },
                malformed("a $v: 2 update has no diff document"),
            ),
            (
                rawdoc! { "$v": 2, "diff": { "x": {} } },
                DeltaError::UnexpectedSection { section: "x".into() },
            ),
            (
                rawdoc! { "$v": 1, "$inc": { "a": 1 } },
                DeltaError::UnexpectedSection { section: "$inc".into() },
            ),
        ] {
            assert_eq!(changed_paths(&update).unwrap_err(), expected);
        }
        let mut nested = rawdoc! { "u": { "a": 1 } };
        for _ in 0..MAX_DEPTH {
            nested = rawdoc! { "sa": nested };
        }
        let deep = rawdoc! { "$v": 2, "diff": nested };
        assert_eq!(changed_paths(&deep).unwrap_err(), DeltaError::TooDeep);
    }
}
