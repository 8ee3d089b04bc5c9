//! Applies `$v: 2` updates, the nested document diff of 5.0 and later.
//!
//! ```text
//! o        = { $v: 2, diff: DOCUMENT }
//! DOCUMENT = { d?: {name: false, ..}, u?: {name: value, ..}, i?: {name: value, ..}, b?: {name: SPLICE, ..},
//!              s<name>: DOCUMENT | ARRAY, .. }
//! ARRAY    = { a: true, l?: new length, (u<index>: value | s<index>: DOCUMENT | ARRAY)* }
//! SPLICE   = { o: offset, d: binary }
//! ```
//!
//! Section `b` exists since 8.0, which uses it to append to compressed columns of time-series buckets.

use std::collections::HashMap;

use super::scan::{EMPTY_DOCUMENT, Element, Elements, elements, find};
use super::write::{IndexName, Writer};
use super::{DeltaError, MAX_DEPTH};
use crate::order::element_type;

/// Size of the length and subtype before the bytes of a binary value.
const BINARY_HEAD: usize = 5;

/// Applies `diff` to `document`, and appends the result to `output`.
pub(super) fn apply_to_document(
    document: &[u8],
    diff: &[u8],
    output: &mut Writer,
    depth: usize,
) -> Result<(), DeltaError> {
    if depth > MAX_DEPTH {
        return Err(DeltaError::TooDeep);
    }
    let mut changes = DocumentChanges::parse(diff)?;
    let opened = output.open();
    for element in elements(document) {
        let element = element?;
        let Some(field) = changes.by_name.get_mut(element.name) else {
            output.element(&element)?;
            continue;
        };
        if field.is_met {
            return Err(DeltaError::RepeatedName {
                name: String::from_utf8_lossy(element.name).into_owned(),
            });
        }
        field.is_met = true;
        match &field.change {
            // An insert of an existing name moves the field. This is how a new order of fields is logged.
            Change::Delete | Change::Insert => {}
            Change::Update(value) => output.element(value)?,
            Change::Splice(splice) => splice.apply(&element, output)?,
            Change::Nested(diff) => apply_to_value(&element, element.name, *diff, output, depth)?,
        }
    }
    for element in &changes.appended {
        let field = changes.by_name.get(element.name);
        let is_placed = field.is_some_and(|field| field.is_met && matches!(field.change, Change::Update(_)));
        if !is_placed {
            output.element(element)?;
        }
    }
    output.close(opened)
}

/// Writes the element `before` with a nested diff applied, under its name in the result.
///
/// A diff fails to fit the value only if the document is newer than the one the diff was made for. A later change then rewrites the field.
/// Until then, the field is null, as on a server.
fn apply_to_value(
    before: &Element<'_>,
    name: &[u8],
    diff: Nested<'_>,
    output: &mut Writer,
    depth: usize,
) -> Result<(), DeltaError> {
    match (before.kind, diff.is_array) {
        (element_type::DOCUMENT, false) => {
            output.head(element_type::DOCUMENT, name);
            apply_to_document(before.value, diff.bytes, output, depth + 1)
        }
        (element_type::ARRAY, true) => {
            output.head(element_type::ARRAY, name);
            apply_to_array(before.value, diff.bytes, output, depth + 1)
        }
        _ => output.null(name),
    }
}

fn apply_to_array(array: &[u8], diff: &[u8], output: &mut Writer, depth: usize) -> Result<(), DeltaError> {
    if depth > MAX_DEPTH {
        return Err(DeltaError::TooDeep);
    }
    let mut changes = ArrayChanges::parse(diff)?;
    let new_length = changes.new_length;
    let opened = output.open();
    let mut before = elements(array);
    let mut next = changes.next()?;
    let mut index = 0;
    loop {
        let existing = if new_length.is_none_or(|length| index < length) {
            before.next().transpose()?
        } else {
            None
        };
        if existing.is_none() && next.is_none() && new_length.is_none_or(|length| index >= length) {
            break;
        }
        let name = IndexName::new(index);
        let name = name.as_bytes();
        match (existing, next) {
            (existing, Some((at, change))) if at == index => {
                match (existing, change) {
                    (_, ArrayChange::Set(value)) => output.value(value.kind, name, value.value)?,
                    (Some(element), ArrayChange::Nested(diff)) => apply_to_value(&element, name, diff, output, depth)?,
                    (None, ArrayChange::Nested(_)) => output.null(name)?,
                }
                next = changes.next()?;
            }
            (Some(element), _) => output.value(element.kind, name, element.value)?,
            (None, _) => output.null(name)?,
        }
        index += 1;
    }
    output.close(opened)
}

/// The change of a diff to one field.
enum Change<'a> {
    Delete,
    Update(Element<'a>),
    Insert,
    Splice(Splice<'a>),
    Nested(Nested<'a>),
}

/// A field that a diff changes.
struct Field<'a> {
    change: Change<'a>,
    /// Whether the field has been found in the old document.
    is_met: bool,
}

/// New bytes of a binary value from an offset to its end.
struct Splice<'a> {
    offset: usize,
    data: &'a [u8],
}

impl<'a> Splice<'a> {
    fn parse(element: &Element<'a>) -> Result<Self, DeltaError> {
        const MALFORMED: DeltaError = DeltaError::Malformed {
            reason: "a binary diff has no offset and data",
        };
        let splice = element.document().ok_or(MALFORMED)?;
        let offset = find(splice, b"o")?.and_then(|offset| offset.integer());
        let data = find(splice, b"d")?.filter(|data| data.kind == element_type::BINARY);
        Ok(Self {
            offset: offset
                .and_then(|offset| usize::try_from(offset).ok())
                .ok_or(MALFORMED)?,
            data: data.and_then(|data| data.value.get(BINARY_HEAD..)).ok_or(MALFORMED)?,
        })
    }

    /// Writes the binary value with `data` in place of everything from the offset on. If the offset does not fit, the value becomes null,
    /// as with a nested diff.
    fn apply(&self, before: &Element<'_>, output: &mut Writer) -> Result<(), DeltaError> {
        let kept = match before.kind {
            element_type::BINARY => before
                .value
                .get(BINARY_HEAD..)
                .and_then(|bytes| bytes.get(..self.offset)),
            _ => None,
        };
        let Some(kept) = kept else {
            return output.null(before.name);
        };
        let length = i32::try_from(kept.len() + self.data.len()).map_err(|_| DeltaError::TooLarge)?;
        let mut value = Vec::with_capacity(BINARY_HEAD + kept.len() + self.data.len());
        value.extend_from_slice(&length.to_le_bytes());
        value.push(before.value[BINARY_HEAD - 1]);
        value.extend_from_slice(kept);
        value.extend_from_slice(self.data);
        output.value(element_type::BINARY, before.name, &value)
    }
}

#[derive(Clone, Copy)]
struct Nested<'a> {
    bytes: &'a [u8],
    is_array: bool,
}

impl<'a> Nested<'a> {
    fn parse(element: &Element<'a>) -> Result<Self, DeltaError> {
        let bytes = element.document().ok_or(DeltaError::Malformed {
            reason: "a nested diff is not a document",
        })?;
        let first = elements(bytes).next().transpose()?;
        let first = first.ok_or(DeltaError::Malformed {
            reason: "a nested diff is empty",
        })?;
        let is_array = first.name == b"a";
        if is_array && (first.kind != element_type::BOOLEAN || first.value != [1]) {
            return Err(DeltaError::Malformed {
                reason: "the array flag of a diff is not true",
            });
        }
        Ok(Self { bytes, is_array })
    }
}

struct DocumentChanges<'a> {
    by_name: HashMap<&'a [u8], Field<'a>>,
    /// Updates, then inserts, in listed order. Those that are not in the old document follow its fields in this order.
    appended: Vec<Element<'a>>,
}

impl<'a> DocumentChanges<'a> {
    fn parse(diff: &'a [u8]) -> Result<Self, DeltaError> {
        let mut changes = Self {
            by_name: HashMap::new(),
            appended: Vec::new(),
        };
        if diff == EMPTY_DOCUMENT {
            return Err(DeltaError::Malformed {
                reason: "a diff is empty",
            });
        }
        // Each section may occur once, and only in this order.
        let mut allowed: &[&[u8]] = &[b"d", b"u", b"i", b"b"];
        for section in elements(diff) {
            let section = section?;
            if let Some(position) = allowed.iter().position(|&name| name == section.name) {
                allowed = &allowed[position + 1..];
                changes.add_section(&section)?;
            } else if let Some((b's', name)) = section.name.split_first() {
                allowed = &[];
                changes.add(name, Change::Nested(Nested::parse(&section)?))?;
            } else {
                return Err(DeltaError::UnexpectedSection {
                    section: String::from_utf8_lossy(section.name).into_owned(),
                });
            }
        }
        Ok(changes)
    }

    fn add_section(&mut self, section: &Element<'a>) -> Result<(), DeltaError> {
        let fields = section.document().ok_or(DeltaError::Malformed {
            reason: "a diff section is not a document",
        })?;
        for element in elements(fields) {
            let element = element?;
            let change = match section.name {
                b"d" => Change::Delete,
                b"u" => Change::Update(element),
                b"b" => Change::Splice(Splice::parse(&element)?),
                _ => Change::Insert,
            };
            self.add(element.name, change)?;
            if matches!(section.name, b"u" | b"i") {
                self.appended.push(element);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &'a [u8], change: Change<'a>) -> Result<(), DeltaError> {
        let field = Field { change, is_met: false };
        match self.by_name.insert(name, field) {
            None => Ok(()),
            Some(_) => Err(DeltaError::Malformed {
                reason: "a diff names a field twice",
            }),
        }
    }
}

#[derive(Clone, Copy)]
enum ArrayChange<'a> {
    Set(Element<'a>),
    Nested(Nested<'a>),
}

struct ArrayChanges<'a> {
    new_length: Option<usize>,
    rest: std::iter::Peekable<Elements<'a>>,
    previous: Option<usize>,
}

impl<'a> ArrayChanges<'a> {
    fn parse(diff: &'a [u8]) -> Result<Self, DeltaError> {
        let mut rest = elements(diff).peekable();
        // `Nested::parse` has checked the field `a` already.
        rest.next().transpose()?;
        let mut new_length = None;
        if let Some(Ok(element)) = rest.peek()
            && element.name == b"l"
        {
            let length = if element.kind == element_type::INT32 {
                element.integer()
            } else {
                None
            };
            let length = length.and_then(|length| usize::try_from(length).ok());
            new_length = Some(length.ok_or(DeltaError::Malformed {
                reason: "an array length is not a count",
            })?);
            rest.next();
        }
        Ok(Self {
            new_length,
            rest,
            previous: None,
        })
    }

    fn next(&mut self) -> Result<Option<(usize, ArrayChange<'a>)>, DeltaError> {
        let Some(element) = self.rest.next().transpose()? else {
            return Ok(None);
        };
        let (change, digits) = match element.name.split_first() {
            Some((b'u', digits)) => (ArrayChange::Set(element), digits),
            Some((b's', digits)) => (ArrayChange::Nested(Nested::parse(&element)?), digits),
            _ => {
                return Err(DeltaError::UnexpectedSection {
                    section: String::from_utf8_lossy(element.name).into_owned(),
                });
            }
        };
        let index = super::parse_index(digits).ok_or(DeltaError::Malformed {
            reason: "an array index is not a number",
        })?;
        // Applying such a diff would abort a server or never end: the result would be shorter than the change needs.
        if self.previous.is_some_and(|previous| index <= previous)
            || self.new_length.is_some_and(|length| index >= length)
        {
            return Err(DeltaError::Malformed {
                reason: "an array index is out of order or beyond the new length",
            });
        }
        self.previous = Some(index);
        Ok(Some((index, change)))
    }
}
