//! Collects field rules, and checks that they do not contradict each other.

use bson::Bson;
use bson::raw::RawDocumentBuf;
use sha2::{Digest, Sha256};

use super::mask::Mask;
use super::token::HashKey;
use super::tree::{Rule, Tree, Value};
use super::{FieldRules, invalid};
use crate::error::{Error, Result};
use crate::order::{Element, Elements};
use crate::rules::transform::RuleIdentity;

/// Collects the rules of [`FieldRules`]. The order of the calls does not matter, except among those of [`set`](Self::set).
#[derive(Clone, Debug)]
#[must_use]
pub struct FieldRulesBuilder {
    identity: RuleIdentity,
    kept: Option<Vec<String>>,
    steps: Vec<(String, Step)>,
}

/// A rule as the host gave it.
#[derive(Clone, Debug)]
enum Step {
    Drop,
    Rename(String),
    Mask(Mask),
    Hash(HashKey),
    Set(Bson),
}

impl FieldRulesBuilder {
    pub(super) fn new(identity: RuleIdentity) -> Self {
        Self {
            identity,
            kept: None,
            steps: Vec::new(),
        }
    }

    /// Removes the field.
    pub fn drop(self, path: impl Into<String>) -> Self {
        self.with(path, Step::Drop)
    }

    /// Gives the field another name at the same place. `to` is a path with the same parent, such as `address.zip` and `address.postcode`. A
    /// field that has that name already is removed, if the document has the field to rename.
    pub fn rename(self, path: impl Into<String>, to: impl Into<String>) -> Self {
        self.with(path, Step::Rename(to.into()))
    }

    /// Replaces the value. See [`Mask`] for what stands in its place.
    pub fn mask(self, path: impl Into<String>, mask: Mask) -> Self {
        self.with(path, Step::Mask(mask))
    }

    /// Replaces the value by a string of 64 hexadecimal digits, its HMAC-SHA-256 with this key.
    ///
    /// Equal values get equal tokens, in all fields, collections and migrations with the same key, so that joins and unique indexes still
    /// work. Values are equal if the server finds them so: numbers are compared by their mathematical value, whatever their types, strings
    /// by their bytes. In an array, and in one inside it, each element gets a token. An embedded document gets one token. Null and undefined
    /// stay as they are.
    ///
    /// The token of a string is that of these bytes: `04` and seven zero bytes; the number of its bytes in UTF-8, as eight bytes, the least
    /// significant first; and the string in UTF-8.
    pub fn hash(self, path: impl Into<String>, key: &HashKey) -> Self {
        self.with(path, Step::Hash(key.clone()))
    }

    /// Gives the field a constant value. An existing field gets it at its place. A missing one is inserted directly behind `_id`, or at the
    /// start of an embedded document. If the parent of the field is missing or no document, nothing is set.
    pub fn set(self, path: impl Into<String>, value: impl Into<Bson>) -> Self {
        self.with(path, Step::Set(value.into()))
    }

    /// Removes all fields but these and `_id`. Of a field that is kept in part, such as `address` by the path `address.zip`, the same is left
    /// as by a projection: only documents and arrays, and in arrays only these. Other rules may apply to kept fields, and
    /// [`set`](Self::set) to any. Several calls add up.
    pub fn keep_only<I>(mut self, paths: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let kept = self.kept.get_or_insert_default();
        kept.extend(paths.into_iter().map(Into::into));
        self
    }

    fn with(mut self, path: impl Into<String>, step: Step) -> Self {
        self.steps.push((path.into(), step));
        self
    }

    /// Checks the rules.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if a path is malformed or leads to `_id`, if two rules
    /// apply to the same value, or if a rule applies to a field that [`keep_only`](Self::keep_only) removes.
    pub fn build(self) -> Result<FieldRules> {
        let mut tree = Tree::new(self.kept.is_some());
        for path in self.kept.iter().flatten() {
            let parts = parts(path)?;
            if parts.first() != Some(&"_id") {
                keep(&mut tree, &parts);
            }
        }
        for (path, step) in &self.steps {
            add(&mut tree, path, step)?;
        }
        let version = format!("{}+{}", self.identity.version, self.digest());
        Ok(FieldRules {
            identity: RuleIdentity::new(self.identity.name, version),
            tree,
        })
    }

    /// Half of the SHA-256 of the rules. It is the same for the same rules in another order.
    fn digest(&self) -> String {
        let mut steps: Vec<&(String, Step)> = self.steps.iter().collect();
        // The sort is stable, so the order of the fields to set remains.
        steps.sort_by_key(|(path, step)| match step {
            Step::Set(_) => None,
            _ => Some(path),
        });
        let mut kept: Vec<&String> = self.kept.iter().flatten().collect();
        kept.sort();
        let mut digest = Sha256::new();
        let mut feed = |part: &[u8]| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        feed(&[u8::from(self.kept.is_some())]);
        kept.iter().for_each(|path| feed(path.as_bytes()));
        for (path, step) in steps {
            feed(path.as_bytes());
            match step {
                Step::Drop => feed(b"drop"),
                Step::Rename(to) => {
                    feed(b"rename");
                    feed(to.as_bytes());
                }
                Step::Mask(Mask::ByType) => feed(b"mask by type"),
                Step::Mask(Mask::Value(value)) => {
                    feed(b"mask");
                    feed(in_document(value).as_bytes());
                }
                Step::Hash(key) => {
                    feed(b"hash");
                    feed(&key.fingerprint());
                }
                Step::Set(value) => {
                    feed(b"set");
                    feed(in_document(value).as_bytes());
                }
            }
        }
        digest
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Adds a kept path. A field that is kept whole stays so.
fn keep(tree: &mut Tree, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let name = first.as_bytes();
    match (tree.get_mut(name), rest) {
        (_, []) => tree.insert(name, Rule::Keep),
        (Some(Rule::Inside(inner)), rest) => keep(inner, rest),
        (Some(_), _) => {}
        (None, rest) => {
            let mut inner = Tree::new(true);
            keep(&mut inner, rest);
            tree.insert(name, Rule::Inside(inner));
        }
    }
}

/// Adds a rule. All kept paths must have been added before.
fn add(tree: &mut Tree, path: &str, step: &Step) -> Result<()> {
    let all = parts(path)?;
    let Some((last, parents)) = all.split_last() else {
        return Ok(());
    };
    if all.first() == Some(&"_id") {
        return Err(names_id(path));
    }
    let mut tree = tree;
    for parent in parents {
        tree = descend(tree, parent.as_bytes(), path)?;
    }
    let name = last.as_bytes();
    let rule = match step {
        Step::Drop => Rule::Drop,
        Step::Mask(Mask::ByType) => Rule::MaskByType,
        Step::Mask(Mask::Value(value)) => Rule::Replace(raw(value)),
        Step::Hash(key) => Rule::Hash(key.clone()),
        Step::Set(value) => Rule::Set(raw(value)),
        Step::Rename(to) => {
            let to_parts = parts(to)?;
            let (to_name, to_parents) = to_parts.split_last().unwrap_or((&"", &[]));
            if to_parents != parents {
                return Err(invalid(format!(
                    "`{path}` cannot be renamed to `{to}`, which has another parent; rename it within its document"
                )));
            }
            if to_parts == ["_id"] {
                return Err(names_id(to));
            }
            let is_kept = match tree.get(to_name.as_bytes()) {
                None => !tree.drops_others,
                Some(Rule::Keep) => true,
                Some(_) => return Err(contradiction(to)),
            };
            let from = name.into();
            tree.insert(to_name.as_bytes(), Rule::RenamedOver { from, is_kept });
            Rule::Rename(to_name.as_bytes().into())
        }
    };
    match tree.get(name) {
        None if tree.drops_others && !matches!(rule, Rule::Set(_)) => Err(removed(path)),
        None | Some(Rule::Keep) => {
            tree.insert(name, rule);
            Ok(())
        }
        Some(_) => Err(contradiction(path)),
    }
}

/// The tree of the documents in a field.
fn descend<'a>(tree: &'a mut Tree, name: &[u8], path: &str) -> Result<&'a mut Tree> {
    match tree.get(name) {
        None if tree.drops_others => return Err(removed(path)),
        // A field that is kept whole keeps all others inside it.
        None | Some(Rule::Keep) => tree.insert(name, Rule::Inside(Tree::new(false))),
        Some(_) => {}
    }
    match tree.get_mut(name) {
        Some(Rule::Inside(inner)) => Ok(inner),
        _ => Err(contradiction(path)),
    }
}

fn parts(path: &str) -> Result<Vec<&str>> {
    let parts: Vec<&str> = path.split('.').collect();
    if parts.iter().any(|part| part.is_empty() || part.contains('\0')) {
        return Err(invalid(format!(
            "`{path}` is not a path; write the names of fields with a dot between them, such as `address.zip`"
        )));
    }
    Ok(parts)
}

fn raw(value: &Bson) -> Value {
    let document = in_document(value);
    match Elements::of(document.as_bytes()).next() {
        Some(Element::Field { value, .. }) => Value {
            element_type: value.element_type(),
            bytes: value.bytes().into(),
        },
        _ => Value {
            element_type: crate::order::element_type::NULL,
            bytes: [].into(),
        },
    }
}

fn in_document(value: &Bson) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&bson::doc! { "v": value.clone() }).unwrap_or_default()
}

fn names_id(path: &str) -> Error {
    invalid(format!(
        "`{path}` leads to `_id`, which never changes; leave it out, or exclude the collection"
    ))
}

fn removed(path: &str) -> Error {
    invalid(format!(
        "`{path}` has a rule, but `keep_only` removes it; add it to `keep_only`, or leave the rule out"
    ))
}

fn contradiction(path: &str) -> Error {
    invalid(format!(
        "`{path}` or a field around it has two rules; leave one out, or give the second one to another transform of the same pattern"
    ))
}
