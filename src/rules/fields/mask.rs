//! What stands in place of masked values.

use bson::Bson;

use super::editor::{Editor, Field, MAX_DEPTH, fields};
use crate::order::element_type;
use crate::rules::error::RuleError;

/// What stands in place of a masked value.
///
/// An array stays an array with as many elements, and each of them is masked, also those of an array inside it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Mask {
    /// A constant of the value's own type, so that validators and applications still find the type that they expect.
    ///
    /// | type | constant |
    /// |---|---|
    /// | string, symbol, code | empty |
    /// | int, long, double, decimal | 0 |
    /// | boolean | `false` |
    /// | date, timestamp | 0, which is 1970-01-01 |
    /// | ObjectId, UUID, MD5 | all zeros |
    /// | other binary data | empty, with the same subtype |
    /// | regular expression, DBPointer, code with scope | all parts empty or zero |
    /// | embedded document | the same fields, each masked |
    /// | null, undefined, MinKey, MaxKey | as it is |
    ByType,
    /// This value, for values of all types, including null.
    Value(Bson),
}

impl Mask {
    /// A fixed text, such as `***`.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Value(Bson::String(text.into()))
    }
}

const OLD_BINARY: u8 = 2;
const OLD_UUID: u8 = 3;
const UUID: u8 = 4;
const MD5: u8 = 5;

/// Masks a value by its type.
pub(super) fn mask_by_type(editor: &mut Editor<'_>, field: &Field<'_>, depth: usize) -> Result<(), RuleError> {
    const ZEROS: [u8; 16] = [0; 16];
    const EMPTY_STRING: [u8; 5] = [1, 0, 0, 0, 0];
    let bytes = field.value.bytes();
    match field.value.element_type() {
        element_type::DOCUMENT | element_type::ARRAY => {
            if depth >= MAX_DEPTH {
                return Err(RuleError::Malformed);
            }
            let opened = editor.open(field.value_at());
            for inner in fields(bytes, field.value_at()) {
                mask_by_type(editor, &inner?, depth + 1)?;
            }
            editor.close(&opened, field.end);
        }
        element_type::STRING | element_type::SYMBOL | element_type::CODE => editor.set_bytes(field, &EMPTY_STRING),
        // A coefficient of 0 with the exponent 0.
        element_type::DECIMAL128 => {
            let mut zero = ZEROS;
            zero[14..].copy_from_slice(&[0x40, 0x30]);
            editor.set_bytes(field, &zero);
        }
        element_type::BINARY => match bytes.get(4).copied().unwrap_or_default() {
            subtype @ (OLD_UUID | UUID | MD5) => {
                let mut zeros = [0; 4 + 1 + 16];
                zeros[0] = 16;
                zeros[4] = subtype;
                editor.set_bytes(field, &zeros);
            }
            // Its content begins with a length of its own.
            OLD_BINARY => editor.set_bytes(field, &[4, 0, 0, 0, OLD_BINARY, 0, 0, 0, 0]),
            subtype => editor.set_bytes(field, &[0, 0, 0, 0, subtype]),
        },
        element_type::REGEX => editor.set_bytes(field, &[0, 0]),
        element_type::DB_POINTER => {
            let mut pointer = [0; 5 + 12];
            pointer[0] = 1;
            editor.set_bytes(field, &pointer);
        }
        element_type::CODE_WITH_SCOPE => {
            editor.set_bytes(field, &[14, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0]);
        }
        // Numbers, booleans, dates, timestamps and ObjectIds have a fixed size. The others have no bytes.
        _ => {
            if let Some(zeros @ [_, ..]) = ZEROS.get(..bytes.len()) {
                editor.set_bytes(field, zeros);
            }
        }
    }
    Ok(())
}
