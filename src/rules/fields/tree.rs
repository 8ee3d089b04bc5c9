//! The rules of one document, and of the documents inside it.

use super::editor::{Editor, Field, MAX_DEPTH, fields};
use super::mask::mask_by_type;
use super::token::HashKey;
use crate::model::raw::writer::IndexNames;
use crate::order::{RawValue, element_type};
use crate::rules::error::RuleError;

/// The rules of the fields of one document.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// In the order of the length of the names, then of the names.
    rules: Vec<(Box<[u8]>, Rule)>,
    /// Whether fields without a rule are removed.
    pub drops_others: bool,
    /// The fields to set, in the order in which they were given.
    sets: Vec<Box<[u8]>>,
}

/// What becomes of a field.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// It stays as it is.
    Keep,
    Drop,
    /// It gets this name.
    Rename(Box<[u8]>),
    /// It is removed if the document has the field `from`, which then has its name. Otherwise it stays, if it is kept.
    RenamedOver {
        from: Box<[u8]>,
        is_kept: bool,
    },
    MaskByType,
    /// It gets this value, if it exists.
    Replace(Value),
    Hash(HashKey),
    /// It gets this value, whether or not it exists.
    Set(Value),
    /// The rules apply to the embedded document, or to those in the array.
    Inside(Tree),
}

/// A value and its type, as bytes.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub element_type: u8,
    pub bytes: Box<[u8]>,
}

/// Where a tree is applied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Inside,
}

impl Tree {
    pub(super) fn new(drops_others: bool) -> Self {
        Self {
            rules: Vec::new(),
            drops_others,
            sets: Vec::new(),
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Rule> {
        let at = self.place_of(name).ok()?;
        self.rules.get(at).map(|(_, rule)| rule)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Rule> {
        let at = self.place_of(name).ok()?;
        self.rules.get_mut(at).map(|(_, rule)| rule)
    }

    /// Adds a rule, or replaces that of the same name.
    pub(super) fn insert(&mut self, name: &[u8], rule: Rule) {
        if matches!(rule, Rule::Set(_)) {
            self.sets.push(name.into());
        }
        match self.place_of(name) {
            Ok(at) => self.rules[at].1 = rule,
            Err(at) => self.rules.insert(at, (name.into(), rule)),
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.rules.iter().map(|(name, _)| name.as_ref())
    }

    /// Applies the rules to a whole document.
    pub(super) fn apply(&self, document: &[u8]) -> Result<Option<Vec<u8>>, RuleError> {
        let mut editor = Editor::new(document);
        self.apply_to_document(&mut editor, document, 0, Place::Root, 0)?;
        Ok(editor.finish())
    }

    fn place_of(&self, name: &[u8]) -> Result<usize, usize> {
        self.rules
            .binary_search_by(|(other, _)| (other.len(), other.as_ref()).cmp(&(name.len(), name)))
    }

    /// `document` is at `offset` in the source.
    fn apply_to_document(
        &self,
        editor: &mut Editor<'_>,
        document: &[u8],
        offset: usize,
        place: Place,
        depth: usize,
    ) -> Result<(), RuleError> {
        if depth >= MAX_DEPTH {
            return Err(RuleError::Malformed);
        }
        let opened = editor.open(offset);
        let mut missing = self.missing_sets(document, offset, place)?;
        for field in fields(document, offset) {
            let field = field?;
            if let Some((_, bytes)) = missing.take_if(|(at, _)| *at <= field.start) {
                editor.insert(field.start, &bytes);
            }
            match self.get(field.name) {
                None if self.drops_others && (place == Place::Inside || field.name != b"_id") => editor.remove(&field),
                None => {}
                Some(rule) => rule.apply(editor, &field, document, depth)?,
            }
        }
        let end = offset + document.len();
        if let Some((_, bytes)) = missing {
            editor.insert(end - 1, &bytes);
        }
        editor.close(&opened, end);
        Ok(())
    }

    /// The fields to set that the document does not have, as bytes, and where they are inserted: behind `_id`, or at the start of a document
    /// without one. There, deltas that touch only other fields neither move them nor get in between.
    fn missing_sets(
        &self,
        document: &[u8],
        offset: usize,
        place: Place,
    ) -> Result<Option<(usize, Vec<u8>)>, RuleError> {
        if self.sets.is_empty() {
            return Ok(None);
        }
        let mut at = offset + 4;
        let mut bytes = Vec::new();
        if place == Place::Root {
            for field in fields(document, offset) {
                let field = field?;
                if field.name == b"_id" {
                    at = field.end;
                    break;
                }
            }
        }
        for name in &self.sets {
            if let Some(Rule::Set(value)) = self.get(name)
                && !has(document, name)?
            {
                bytes.push(value.element_type);
                bytes.extend_from_slice(name);
                bytes.push(0);
                bytes.extend_from_slice(&value.bytes);
            }
        }
        Ok((!bytes.is_empty()).then_some((at, bytes)))
    }

    /// Applies the rules to the documents in an array, and in arrays inside it. If others are dropped, the elements that are no documents
    /// are.
    fn apply_to_array(&self, editor: &mut Editor<'_>, array: &Field<'_>, depth: usize) -> Result<(), RuleError> {
        if depth >= MAX_DEPTH {
            return Err(RuleError::Malformed);
        }
        let opened = editor.open(array.value_at());
        let mut names = IndexNames::default();
        let mut has_dropped = false;
        for element in fields(array.value.bytes(), array.value_at()) {
            let element = element?;
            if self.drops(element.value) {
                editor.remove(&element);
                has_dropped = true;
                continue;
            }
            let name = names.next();
            if has_dropped {
                editor.rename(&element, name.as_bytes());
            }
            self.apply_to_value(editor, &element, depth)?;
        }
        editor.close(&opened, array.end);
        Ok(())
    }

    fn apply_to_value(&self, editor: &mut Editor<'_>, field: &Field<'_>, depth: usize) -> Result<(), RuleError> {
        match field.value.element_type() {
            element_type::DOCUMENT => {
                self.apply_to_document(editor, field.value.bytes(), field.value_at(), Place::Inside, depth + 1)
            }
            element_type::ARRAY => self.apply_to_array(editor, field, depth + 1),
            _ => Ok(()),
        }
    }

    /// Whether a value is dropped because nothing in it can be kept.
    fn drops(&self, value: RawValue<'_>) -> bool {
        self.drops_others && !matches!(value.element_type(), element_type::DOCUMENT | element_type::ARRAY)
    }
}

impl Rule {
    fn apply(
        &self,
        editor: &mut Editor<'_>,
        field: &Field<'_>,
        document: &[u8],
        depth: usize,
    ) -> Result<(), RuleError> {
        match self {
            Self::Keep => {}
            Self::Drop => editor.remove(field),
            Self::Rename(name) => editor.rename(field, name),
            Self::RenamedOver { from, is_kept } => {
                if !is_kept || has(document, from)? {
                    editor.remove(field);
                }
            }
            Self::MaskByType => mask_by_type(editor, field, depth)?,
            Self::Set(value) => {
                if (field.value.element_type(), field.value.bytes()) != (value.element_type, &value.bytes) {
                    editor.set(field, value.element_type, &value.bytes);
                }
            }
            Self::Replace(value) => {
                each_element(editor, field, depth, &|editor, field| {
                    editor.set(field, value.element_type, &value.bytes);
                })?;
            }
            Self::Hash(key) => each_element(editor, field, depth, &|editor, field| {
                if !matches!(field.value.element_type(), element_type::NULL | element_type::UNDEFINED) {
                    editor.set(field, element_type::STRING, &string(&key.token(field.value)));
                }
            })?,
            Self::Inside(tree) if tree.drops(field.value) => editor.remove(field),
            Self::Inside(tree) => tree.apply_to_value(editor, field, depth)?,
        }
        Ok(())
    }
}

/// Calls `change` for a value, or for each element if it is an array.
fn each_element(
    editor: &mut Editor<'_>,
    field: &Field<'_>,
    depth: usize,
    change: &impl Fn(&mut Editor<'_>, &Field<'_>),
) -> Result<(), RuleError> {
    if field.value.element_type() != element_type::ARRAY {
        change(editor, field);
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(RuleError::Malformed);
    }
    let opened = editor.open(field.value_at());
    for element in fields(field.value.bytes(), field.value_at()) {
        each_element(editor, &element?, depth + 1, change)?;
    }
    editor.close(&opened, field.end);
    Ok(())
}

fn has(document: &[u8], name: &[u8]) -> Result<bool, RuleError> {
    for field in fields(document, 0) {
        if field?.name == name {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of a string value.
fn string(text: &[u8; 64]) -> [u8; 4 + 64 + 1] {
    let mut bytes = [0; 4 + 64 + 1];
    bytes[0] = 64 + 1;
    bytes[4..68].copy_from_slice(text);
    bytes
}
