//! Analyzes the paths of a `$v: 1` update, without the document.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use super::scan::elements;
use super::v1::Sections;
use super::{DeltaError, MAX_DEPTH};

/// Splits a path into its parts. The server refuses empty parts in an update, so it never logs them.
pub(super) fn path_parts(path: &[u8]) -> Result<Vec<&[u8]>, DeltaError> {
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(DeltaError::Malformed {
            reason: "a path has an empty part",
        });
    }
    if parts.len() > MAX_DEPTH {
        return Err(DeltaError::TooDeep);
    }
    Ok(parts)
}

/// Properties of the numeric parts of an update's paths.
pub(super) struct Numbering<'a> {
    /// Parents below which two parts spell the same number in two ways, such as `1` and `01`: two names in a document, but the same element
    /// of an array. Each is the path up to the parent, with a dot after each part.
    pub aliased: HashSet<&'a [u8]>,
    /// Whether `$set` lists a larger number before a smaller one below the same parent, or spells one in two ways.
    pub descends: bool,
}

impl<'a> Numbering<'a> {
    pub(super) fn of(sections: &Sections<'a>) -> Result<Self, DeltaError> {
        let mut numbering = Self {
            aliased: HashSet::new(),
            descends: false,
        };
        let mut spellings: HashMap<(&[u8], &[u8]), &[u8]> = HashMap::new();
        let mut largest: HashMap<&[u8], &[u8]> = HashMap::new();
        let set = sections.set.into_iter().flat_map(elements).map(|path| (path, true));
        let unset = sections.unset.into_iter().flat_map(elements).map(|path| (path, false));
        for (element, is_set) in set.chain(unset) {
            let path = element?.name;
            let mut start = 0;
            for part in path_parts(path)? {
                let parent = &path[..start];
                start += part.len() + 1;
                if !part.iter().all(u8::is_ascii_digit) {
                    continue;
                }
                let zeros = part.iter().take_while(|&&digit| digit == b'0').count();
                let number = &part[zeros..];
                let spelled_twice = *spellings.entry((parent, number)).or_insert(part) != part;
                // A part without a parent is a field of the document itself.
                if spelled_twice && !parent.is_empty() {
                    numbering.aliased.insert(parent);
                }
                if is_set {
                    let last = largest.entry(parent).or_insert(number);
                    numbering.descends |= spelled_twice || compare(number, last) == Ordering::Less;
                    *last = number;
                }
            }
        }
        Ok(numbering)
    }
}

/// Compares two numbers of any length, given as digits without leading zeros.
fn compare(left: &[u8], right: &[u8]) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}
