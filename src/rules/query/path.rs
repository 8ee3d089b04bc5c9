//! Finds the values that a dotted path leads to, as the server does.

use crate::order::{Element, Elements, RawValue, element_type};
use crate::rules::error::RuleError;

/// A dotted path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    name: Box<[u8]>,
    /// Whether the name may be the index of an array element.
    is_index: bool,
}

/// What a test sees of an array that a path ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Each element, and then the array itself.
    Elements,
    /// The array itself.
    Whole,
}

/// Maximum number of names in a path. No server stores a document deeper than 250 levels.
const MAX_PARTS: usize = 200;

impl Path {
    /// Returns `None` if there are empty names, too many names, or a NUL.
    pub(super) fn new(text: &str) -> Option<Self> {
        let parts: Vec<Part> = text
            .split('.')
            .map(|name| Part {
                name: name.as_bytes().into(),
                is_index: name.bytes().all(|byte| byte.is_ascii_digit()),
            })
            .collect();
        let is_valid = parts.len() <= MAX_PARTS && parts.iter().all(|part| !part.name.is_empty());
        (is_valid && !text.contains('\0')).then(|| Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// The top-level field.
    pub(super) fn top(&self) -> &str {
        self.text.split('.').next().unwrap_or_default()
    }

    /// Returns `true` if `test` does for any of the values that the path leads to. Where the path leads to nothing in a document, the test
    /// gets `None`.
    pub(super) fn any(&self, document: &[u8], leaf: Leaf, test: &mut Test<'_>) -> Result<bool, RuleError> {
        in_document(&self.parts, document, leaf, test)
    }
}

/// A test of a value, or of a missing one.
pub(super) type Test<'t> = dyn FnMut(Option<RawValue<'_>>) -> Result<bool, RuleError> + 't;

fn in_document(path: &[Part], document: &[u8], leaf: Leaf, test: &mut Test<'_>) -> Result<bool, RuleError> {
    let mut document = document;
    let mut path = path;
    while let [part, rest @ ..] = path {
        match find(document, &part.name)? {
            None => break,
            Some(value) => match (value.element_type(), rest) {
                (element_type::ARRAY, rest) => return in_array(rest, value, leaf, test),
                (_, []) => return test(Some(value)),
                (element_type::DOCUMENT, rest) => {
                    document = value.bytes();
                    path = rest;
                }
                _ => break,
            },
        }
    }
    test(None)
}

/// `path` is what is left of it behind the array.
fn in_array(path: &[Part], array: RawValue<'_>, leaf: Leaf, test: &mut Test<'_>) -> Result<bool, RuleError> {
    let [part, rest @ ..] = path else {
        if leaf == Leaf::Elements {
            for element in elements(array.bytes()) {
                if test(Some(element?.1))? {
                    return Ok(true);
                }
            }
        }
        return test(Some(array));
    };
    for element in elements(array.bytes()) {
        let (name, value) = element?;
        let is_indexed = part.is_index && *part.name == *name;
        let is_document = value.element_type() == element_type::DOCUMENT;
        // The part may be a field of the document, or the index of the document in the array.
        if is_document && in_document(path, value.bytes(), leaf, test)? {
            return Ok(true);
        }
        let found = match rest {
            _ if !is_indexed => false,
            // The server does not look into an array that an index leads to.
            [] => test(Some(value))?,
            rest if is_document => in_document(rest, value.bytes(), leaf, test)?,
            rest if value.element_type() == element_type::ARRAY => in_array(rest, value, leaf, test)?,
            _ => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first field called `name`.
fn find<'a>(document: &'a [u8], name: &[u8]) -> Result<Option<RawValue<'a>>, RuleError> {
    for element in elements(document) {
        let (other, value) = element?;
        if other == name {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

pub(super) fn elements(document: &[u8]) -> impl Iterator<Item = Result<(&[u8], RawValue<'_>), RuleError>> {
    Elements::of(document).map(|element| match element {
        Element::Field { name, value } => Ok((name, value)),
        Element::Malformed(_) => Err(RuleError::Malformed),
    })
}
