//! Options of collections.

use bson::raw::{RawBson, RawDocument, RawDocumentBuf};

use crate::catalog::Series;
use crate::catalog::normal::{is_true, whole};

/// Returns the options that have a meaning on servers of a series, in the form in which newer servers list them. `given` is the `options` of
/// a listing, or the fields of `create` without the name.
pub(crate) fn options(series: Series, given: &RawDocument) -> RawDocumentBuf {
    let mut options = RawDocumentBuf::new();
    for (name, value) in given.iter().filter_map(Result::ok) {
        let value = match name.as_str() {
            "capped" => is_true(value).then_some(RawBson::Boolean(true)),
            "autoIndexId" => (!is_true(value)).then_some(RawBson::Boolean(false)),
            "size" | "max" => Some(whole(value).map_or_else(|| RawBson::from(value), RawBson::Int64)),
            option => (series >= first_series(option)).then(|| RawBson::from(value)),
        };
        if let Some(value) = value {
            options.append(name, value);
        }
    }
    options
}

/// Returns the arguments of `collMod` that have a meaning both on servers of a series and on a target. `given` has the fields that the user
/// sent, without the name of the collection.
pub(crate) fn modification(series: Series, given: &RawDocument) -> RawDocumentBuf {
    let mut arguments = RawDocumentBuf::new();
    for (name, value) in given.iter().filter_map(Result::ok) {
        let is_kept = match name.as_str() {
            "index" => true,
            argument @ ("validator" | "validationLevel" | "validationAction" | "viewOn" | "pipeline") => {
                series >= first_series(argument)
            }
            _ => false,
        };
        if is_kept {
            arguments.append(name, value);
        }
    }
    arguments
}

/// First series that knows an option. No series for one that no target needs, or that users made up.
fn first_series(option: &str) -> Series {
    match option {
        "storageEngine" => [3, 0],
        "validator" | "validationLevel" | "validationAction" | "indexOptionDefaults" => [3, 2],
        "collation" | "viewOn" | "pipeline" => [3, 4],
        _ => [u32::MAX; 2],
    }
}
