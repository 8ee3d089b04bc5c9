//! A delta without its changes to some fields.

use bson::raw::{RawDocument, RawDocumentBuf};

use super::touched::{document, elements};
use crate::model::raw::writer::RawWriter;
use crate::oplog::delta::{DeltaFormat, format_of};
use crate::order::RawValue;

/// Returns the delta without its changes to the top-level fields `removed`, in the same format and order. Sections without changes are left
/// out, as servers do.
///
/// Returns `None` in the same cases as [`TouchedFields::of`](super::TouchedFields::of).
pub(crate) fn delta_without(delta: &RawDocument, removed: &[&str]) -> Option<RawDocumentBuf> {
    let format = format_of(delta).ok()??;
    let mut writer = RawWriter::with_capacity(delta.as_bytes().len());
    for section in elements(delta.as_bytes()) {
        let (name, value) = section?;
        let text = std::str::from_utf8(name).ok()?;
        match (format, name) {
            (_, b"$v") => {
                writer.value(text, value);
            }
            (DeltaFormat::Unversioned | DeltaFormat::V1, b"$set" | b"$unset") => {
                let is_removed = |path: &str| path.split('.').next().is_some_and(|field| removed.contains(&field));
                write_others(&mut writer, text, value, is_removed)?;
            }
            (DeltaFormat::V2, b"diff") => {
                writer.open_document(text);
                for part in elements(document(value)?) {
                    let (name, value) = part?;
                    let text = std::str::from_utf8(name).ok()?;
                    match name {
                        b"d" | b"u" | b"i" | b"b" => {
                            write_others(&mut writer, text, value, |field| removed.contains(&field))?;
                        }
                        [b's', ..] if removed.contains(&text.get(1..)?) => {}
                        [b's', ..] => {
                            writer.value(text, value);
                        }
                        _ => return None,
                    }
                }
                writer.close();
            }
            _ => return None,
        }
    }
    Some(writer.finish())
}

/// Writes the fields of a section that are not removed, if there are any.
fn write_others(
    writer: &mut RawWriter,
    section: &str,
    fields: RawValue<'_>,
    is_removed: impl Fn(&str) -> bool,
) -> Option<()> {
    let mut is_open = false;
    for field in elements(document(fields)?) {
        let (name, value) = field?;
        let name = std::str::from_utf8(name).ok()?;
        if is_removed(name) {
            continue;
        }
        if !is_open {
            writer.open_document(section);
            is_open = true;
        }
        writer.value(name, value);
    }
    if is_open {
        writer.close();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn changes_of_removed_fields_are_left_out_of_both_formats() {
        let v1 = rawdoc! { "$v": 1, "$unset": { "a.x": true }, "$set": { "a": 1, "ab": 2, "b.a": 3, "c.0.d": 4 } };
        let expected = rawdoc! { "$v": 1, "$set": { "ab": 2, "b.a": 3 } };
        assert_eq!(delta_without(&v1, &["a", "c"]), Some(expected));
        let unversioned = rawdoc! { "$set": { "a": 1, "b": 2 } };
        assert_eq!(
            delta_without(&unversioned, &["a"]),
            Some(rawdoc! { "$set": { "b": 2 } })
        );
        let v2 = rawdoc! { "$v": 2, "diff": {
            "d": { "a": false }, "u": { "a": 1, "b": 2 }, "i": { "c": 3, "a.b": 4 }, "b": { "a": { "o": 0, "d": 1 } },
            "sa": { "u": { "b": 1 } }, "sb": { "u": { "a": 1 } }, "s": { "u": { "a": 1 } },
        } };
        let expected = rawdoc! { "$v": 2, "diff": {
            "u": { "b": 2 }, "i": { "a.b": 4 }, "sb": { "u": { "a": 1 } }, "s": { "u": { "a": 1 } },
        } };
        assert_eq!(delta_without(&v2, &["a", "c"]), Some(expected));
        assert_eq!(delta_without(&v2, &["x"]), Some(v2));
    }

    #[test]
    fn unknown_forms_have_no_result() {
        for delta in [
            rawdoc! { "a": 1 },
            rawdoc! { "$v": 1, "$inc": { "a": 1 } },
            rawdoc! { "$v": 2, "diff": { "x": {} } },
            rawdoc! { "$v": 2, "diff": { "u": 1 } },
        ] {
            assert_eq!(delta_without(&delta, &["a"]), None, "{delta:?}");
        }
    }
}
