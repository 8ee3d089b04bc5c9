//! Applies updates of 4.4 and earlier: `$v: 1` ones, and those without `$v` from before 3.6.
//!
//! Every operator update is logged as `$set` and `$unset` over dotted paths. New fields are added in the listed order. For `$v: 1` that is
//! their order by name, because servers list them so.

use std::collections::HashSet;

use super::fields::Fields;
use super::paths::{Numbering, path_parts};
use super::scan::{Element, elements};
use super::write::{IndexName, Writer};
use super::{DeltaError, MAX_BACKFILL, MAX_DOCUMENT_BYTES, parse_index};
use crate::order::element_type;

/// The two sections of a `$v: 1` update. The server writes them in either order. The order does not matter, because paths in one update
/// never overlap.
pub(super) struct Sections<'a> {
    pub set: Option<&'a [u8]>,
    pub unset: Option<&'a [u8]>,
}

impl<'a> Sections<'a> {
    pub(super) fn parse(delta: &'a [u8]) -> Result<Self, DeltaError> {
        let mut sections = Self { set: None, unset: None };
        for element in elements(delta) {
            let element = element?;
            let section = match element.name {
                b"$v" => continue,
                b"$set" => &mut sections.set,
                b"$unset" => &mut sections.unset,
                other => {
                    return Err(DeltaError::UnexpectedSection {
                        section: String::from_utf8_lossy(other).into_owned(),
                    });
                }
            };
            let paths = element.document().ok_or(DeltaError::Malformed {
                reason: "a section is not a document",
            })?;
            if section.replace(paths).is_some() {
                return Err(DeltaError::Malformed {
                    reason: "a section comes twice",
                });
            }
        }
        Ok(sections)
    }
}

/// Applies `delta` to `document`, and writes the result to `output`.
pub(super) fn apply_to_document(document: &[u8], delta: &[u8], output: &mut Writer) -> Result<(), DeltaError> {
    let sections = Sections::parse(delta)?;
    let mut editor = Editor {
        aliased: Numbering::of(&sections)?.aliased,
        backfilled: 0,
    };
    let mut root = Node::Raw {
        kind: element_type::DOCUMENT,
        value: document,
    };
    for element in sections.set.into_iter().flat_map(elements) {
        editor.set(&mut root, &element?)?;
    }
    for element in sections.unset.into_iter().flat_map(elements) {
        editor.unset(&mut root, &element?)?;
    }
    root.write_value(output)
}

/// A value that is expanded only along the paths that change, so that many paths into a large document cost one pass.
enum Node<'a> {
    Raw { kind: u8, value: &'a [u8] },
    Document(Fields<'a, Node<'a>>),
    Array(Vec<Node<'a>>),
}

const NULL: Node<'static> = Node::Raw {
    kind: element_type::NULL,
    value: &[],
};

impl<'a> Node<'a> {
    fn of(element: &Element<'a>) -> Self {
        Self::Raw {
            kind: element.kind,
            value: element.value,
        }
    }

    /// Expands a document or array by one level. Other values stay as they are.
    fn expand(&mut self) -> Result<(), DeltaError> {
        if let Self::Raw { kind, value } = *self {
            match kind {
                element_type::DOCUMENT => {
                    let mut fields = Fields::default();
                    for field in elements(value) {
                        let field = field?;
                        fields.push(field.name, Self::of(&field));
                    }
                    *self = Self::Document(fields);
                }
                element_type::ARRAY => {
                    let items = elements(value).map(|item| item.map(|item| Self::of(&item)));
                    *self = Self::Array(items.collect::<Result<_, _>>()?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Raw { kind, .. } => *kind,
            Self::Document(_) => element_type::DOCUMENT,
            Self::Array(_) => element_type::ARRAY,
        }
    }

    fn write_value(&self, output: &mut Writer) -> Result<(), DeltaError> {
        let opened = output.open();
        match self {
            Self::Document(fields) => {
                for (name, field) in fields.iter() {
                    field.write_element(name, output)?;
                }
            }
            Self::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.write_element(IndexName::new(index).as_bytes(), output)?;
                }
            }
            // Only a root that no path leads into gets here. Its elements are copied.
            Self::Raw { value, .. } => {
                for element in elements(value) {
                    output.element(&element?)?;
                }
            }
        }
        output.close(opened)
    }

    fn write_element(&self, name: &[u8], output: &mut Writer) -> Result<(), DeltaError> {
        match self {
            Self::Raw { kind, value } => output.value(*kind, name, value),
            Self::Document(_) | Self::Array(_) => {
                output.head(self.kind(), name);
                self.write_value(output)
            }
        }
    }
}

/// Applies the changes of one update.
struct Editor<'a> {
    aliased: HashSet<&'a [u8]>,
    /// Number of nulls added so far. Each takes space in the finished document.
    backfilled: usize,
}

impl<'a> Editor<'a> {
    fn set(&mut self, root: &mut Node<'a>, assignment: &Element<'a>) -> Result<(), DeltaError> {
        let path = assignment.name;
        let parts = path_parts(path)?;
        let mut node = root;
        let mut rest = parts.as_slice();
        let mut parent = 0;
        while let Some((&part, deeper)) = rest.split_first() {
            node.expand()?;
            node = match node {
                Node::Raw { .. } => return Err(conflict(path, part)),
                Node::Document(fields) => fields.get_or_push(part, || missing(deeper)),
                Node::Array(items) => {
                    self.check_alias(path, parent)?;
                    let index = parse_index(part).ok_or_else(|| conflict(path, part))?;
                    self.backfill(items, index)?;
                    if items.len() == index {
                        items.push(missing(deeper));
                    }
                    &mut items[index]
                }
            };
            rest = deeper;
            parent += part.len() + 1;
        }
        *node = Node::of(assignment);
        Ok(())
    }

    fn unset(&mut self, root: &mut Node<'a>, removal: &Element<'a>) -> Result<(), DeltaError> {
        let parts = path_parts(removal.name)?;
        let mut node = root;
        let mut rest = parts.as_slice();
        let mut parent = 0;
        while let Some((&part, deeper)) = rest.split_first() {
            node.expand()?;
            let child = match node {
                Node::Raw { .. } => None,
                Node::Document(fields) if deeper.is_empty() => {
                    fields.remove(part);
                    None
                }
                Node::Document(fields) => fields.get(part),
                Node::Array(items) => {
                    self.check_alias(removal.name, parent)?;
                    let child = parse_index(part).and_then(|index| items.get_mut(index));
                    match child {
                        // The element becomes null, so that the others keep their indexes.
                        Some(item) if deeper.is_empty() => {
                            *item = NULL;
                            None
                        }
                        child => child,
                    }
                }
            };
            match child {
                Some(child) => node = child,
                None => return Ok(()),
            }
            rest = deeper;
            parent += part.len() + 1;
        }
        Ok(())
    }

    /// Fails if the update spells an index of this array in two ways. `parent` is the length of the path up to the array.
    fn check_alias(&self, path: &[u8], parent: usize) -> Result<(), DeltaError> {
        if self.aliased.contains(&path[..parent]) {
            return Err(DeltaError::AliasedIndex {
                path: String::from_utf8_lossy(path).into_owned(),
            });
        }
        Ok(())
    }

    /// Appends nulls until `index` exists or is the next one.
    fn backfill(&mut self, items: &mut Vec<Node<'a>>, index: usize) -> Result<(), DeltaError> {
        let missing = index.saturating_sub(items.len());
        if missing > MAX_BACKFILL {
            return Err(DeltaError::Backfill);
        }
        self.backfilled += missing;
        // A null takes at least three bytes: the type, a digit, and the terminator of its name.
        if self.backfilled > MAX_DOCUMENT_BYTES / 3 {
            return Err(DeltaError::TooLarge);
        }
        items.extend(std::iter::repeat_with(|| NULL).take(missing));
        Ok(())
    }
}

fn conflict(path: &[u8], field: &[u8]) -> DeltaError {
    DeltaError::PathConflict {
        path: String::from_utf8_lossy(path).into_owned(),
        field: String::from_utf8_lossy(field).into_owned(),
    }
}

/// The value that a path creates for a missing part: a document if more parts follow, even numeric ones.
fn missing<'a>(deeper: &[&[u8]]) -> Node<'a> {
    if deeper.is_empty() {
        NULL
    } else {
        Node::Document(Fields::default())
    }
}
