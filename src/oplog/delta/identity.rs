//! Detects updates that change a document's `_id`.

use super::scan::{Element, elements, find};
use super::{DeltaError, MAX_DEPTH};
use crate::order::element_type;

/// Returns `true` if the `_id` after an update is a different value than before.
///
/// A pipeline update may write an `_id` that compares as equal but has another numeric type (`1` and `1.0`). Servers log that like any
/// other delta, so comparing bytes would refuse it. Decimals are compared as bytes nevertheless: finding that `1` and `1.00` are equal
/// takes decimal arithmetic, and no application is known to rewrite its `_id` like that.
pub(super) fn changes_id(before: &[u8], after: &[u8]) -> Result<bool, DeltaError> {
    match (find(before, b"_id")?, find(after, b"_id")?) {
        // An update may add an `_id` to a document without one.
        (None, _) => Ok(false),
        (Some(_), None) => Ok(true),
        (Some(before), Some(after)) => Ok(!is_same_value(&before, &after, 1)?),
    }
}

fn is_same_value(before: &Element<'_>, after: &Element<'_>, depth: usize) -> Result<bool, DeltaError> {
    if before.kind == after.kind && before.value == after.value {
        return Ok(true);
    }
    if depth > MAX_DEPTH {
        return Err(DeltaError::TooDeep);
    }
    match (before.kind, after.kind) {
        (element_type::DOCUMENT, element_type::DOCUMENT) | (element_type::ARRAY, element_type::ARRAY) => {
            let (mut before, mut after) = (elements(before.value), elements(after.value));
            loop {
                match (before.next().transpose()?, after.next().transpose()?) {
                    (None, None) => return Ok(true),
                    (Some(before), Some(after))
                        if before.name == after.name && is_same_value(&before, &after, depth + 1)? => {}
                    _ => return Ok(false),
                }
            }
        }
        _ => Ok(before.integer().is_some() && before.integer() == after.integer()),
    }
}
