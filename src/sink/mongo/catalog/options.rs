//! The options of a collection, as another version of the server takes them.

use bson::raw::RawDocument;

use crate::document::CollectionKind;
use crate::order::{Element, Elements, RawValue};
use crate::sink::mongo::target::Target;
use crate::splice::Splice;

/// Appends the options that `create` takes to the command. What the target does not know goes along unless it says nothing, so that the
/// server's refusal names it.
pub(super) fn write(command: &mut Splice, target: &Target, kind: CollectionKind, options: &RawDocument) {
    for element in Elements::of(options.as_bytes()) {
        let Element::Field { name, value } = element else {
            continue;
        };
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if is_wanted(target, kind, name, value) {
            command.value(name, value);
        }
    }
}

fn is_wanted(target: &Target, kind: CollectionKind, name: &str, value: RawValue<'_>) -> bool {
    if kind == CollectionKind::TimeSeriesBuckets {
        // The server makes the buckets, with their validator and their order, from these.
        return matches!(
            name,
            "timeseries" | "expireAfterSeconds" | "collation" | "storageEngine"
        );
    }
    match name {
        // Not options: the command's name, what belongs to one server, what the server sets itself.
        "create" | "uuid" | "temp" | "idIndex" | "ns" | "writeConcern" | "$db" => false,
        // Without meaning since MMAPv1, and the default.
        "flags" => false,
        "autoIndexId" => !is_true(value),
        // Asked for or not, 4.2 has none.
        "recordPreImages" => target.is_at_least(4, 4) || is_true(value),
        "changeStreamPreAndPostImages" => target.is_at_least(6, 0) || is_enabled(value),
        _ => true,
    }
}

fn is_true(value: RawValue<'_>) -> bool {
    value.bytes().iter().any(|byte| *byte != 0)
}

/// Of `{enabled: <bool>}`.
fn is_enabled(value: RawValue<'_>) -> bool {
    Elements::of(value.bytes()).any(|element| match element {
        Element::Field { name, value } => name == b"enabled" && is_true(value),
        Element::Malformed(_) => false,
    })
}
