//! The schema describes everything that is serialized.

mod errors;
mod events;
mod results;
mod settings;
mod status;

use std::collections::BTreeSet;
use std::time::Duration;

use bson::RawBsonRef;
use mongoferry_testbed::schema;
use serde::Serialize;
use serde_json::Value;

use crate::compare::difference::{Difference, DifferenceKind};
use crate::model::Namespace;
use crate::order::Key;
use crate::report::{LateWrite, LateWrites};
use crate::test_util::at;

pub(crate) use self::events::events;

const SECOND: Duration = Duration::from_secs(1);

fn document() -> Value {
    serde_json::from_str(include_str!("../format.schema.json")).unwrap()
}

/// Checks what is serialized, and returns it.
#[track_caller]
fn fits(definition: &str, content: &impl Serialize) -> Value {
    let value = serde_json::to_value(content).unwrap();
    if let Err(failure) = schema::check(&document(), Some(definition), &value) {
        panic!("{definition}: {failure}");
    }
    value
}

/// The variants of an enum, in snake case, by its source text.
fn variants(text: &str, name: &str) -> BTreeSet<String> {
    let (_, body) = text.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let is_variant = |line: &&str| line.starts_with("    ") && line.chars().nth(4).is_some_and(char::is_uppercase);
    let names = body.lines().filter(is_variant);
    names
        .map(|line| {
            let name = line.trim().split([' ', ',']).next().unwrap();
            let mut text = String::new();
            for (index, letter) in name.char_indices() {
                if index > 0 && letter.is_uppercase() {
                    text.push('_');
                }
                text.push(letter.to_ascii_lowercase());
            }
            text
        })
        .collect()
}

fn orders() -> Namespace {
    Namespace::new("shop", "orders")
}

fn late_writes() -> LateWrites {
    let write = |id: Option<&str>| LateWrite {
        position: at(3),
        namespace: orders(),
        id: id.map(str::to_owned),
    };
    LateWrites {
        count: 2,
        named: vec![write(Some("7")), write(None)],
    }
}

fn differences() -> Vec<Difference> {
    let paths = vec!["a.b".to_owned()];
    [
        DifferenceKind::Missing,
        DifferenceKind::Extra,
        DifferenceKind::Different { paths },
    ]
    .into_iter()
    .map(|kind| Difference {
        key: Key::from(RawBsonRef::Int32(7)),
        source_hash: (kind != DifferenceKind::Extra).then(|| "00".to_owned()),
        target_hash: (kind != DifferenceKind::Missing).then(|| "11".to_owned()),
        kind,
    })
    .collect()
}
