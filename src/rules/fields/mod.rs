//! Transforms of single fields, ready to use.

use std::fmt;

use bson::Bson;
use bson::raw::RawDocument;

use super::error::RuleError;
use super::touched::TouchedFields;
use super::transform::{DeltaEffect, RuleIdentity, Transform, Transformed};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;

/// A transform that drops, renames, masks, hashes and sets fields.
#[derive(Clone, Debug)]
pub struct FieldRules {
    identity: RuleIdentity,
}

/// Collects the rules of [`FieldRules`].
#[derive(Clone, Debug)]
#[must_use]
pub struct FieldRulesBuilder {
    identity: RuleIdentity,
    paths: Vec<String>,
}

/// What stands in place of a masked value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Mask {
    /// A constant of the value's own type: an empty string, 0, `false`.
    ByType,
    /// This value.
    Value(Bson),
}

/// The key of [`FieldRulesBuilder::hash`].
#[derive(Clone)]
pub struct HashKey {
    bytes: Box<[u8]>,
}

/// Minimum size of a key in bytes.
const LEAST_KEY_BYTES: usize = 16;

impl HashKey {
    /// Creates a key from at least 16 secret random bytes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`] if there are fewer bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes: Vec<u8> = bytes.into();
        match bytes.len() >= LEAST_KEY_BYTES {
            true => Ok(Self { bytes: bytes.into() }),
            false => Err(invalid(format!(
                "the key has {} bytes; use at least {LEAST_KEY_BYTES} random bytes",
                bytes.len()
            ))),
        }
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashKey({} bytes)", self.bytes.len())
    }
}

impl FieldRules {
    /// Begins a transform. `name` and `version` stand in the checkpoint and the certificate.
    pub fn builder(name: impl Into<String>, version: impl Into<String>) -> FieldRulesBuilder {
        FieldRulesBuilder {
            identity: RuleIdentity::new(name, version),
            paths: Vec::new(),
        }
    }
}

impl FieldRulesBuilder {
    /// Removes the field.
    pub fn drop(self, path: &str) -> Self {
        self.with(path)
    }

    /// Gives the field another name.
    pub fn rename(self, path: &str, _to: &str) -> Self {
        self.with(path)
    }

    /// Replaces the value.
    pub fn mask(self, path: &str, _mask: Mask) -> Self {
        self.with(path)
    }

    /// Replaces the value by a token that is the same for equal values.
    pub fn hash(self, path: &str, _key: &HashKey) -> Self {
        self.with(path)
    }

    /// Gives the field a constant value.
    pub fn set(self, path: &str, _value: impl Into<Bson>) -> Self {
        self.with(path)
    }

    /// Removes all fields but these and `_id`.
    pub fn keep_only<'a>(self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        paths.into_iter().fold(self, Self::with)
    }

    fn with(mut self, path: &str) -> Self {
        self.paths.push(path.to_owned());
        self
    }

    /// Checks the rules.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`] if rules contradict each other, or name `_id`.
    pub fn build(self) -> Result<FieldRules> {
        match self.paths.first() {
            None => Ok(FieldRules {
                identity: self.identity,
            }),
            Some(path) => Err(invalid(format!("`{path}`: no rule is supported yet"))),
        }
    }
}

impl Transform for FieldRules {
    fn identity(&self) -> RuleIdentity {
        self.identity.clone()
    }

    fn apply(&self, _: &Namespace, _: &RawDocument) -> std::result::Result<Transformed, RuleError> {
        Ok(Transformed::Keep)
    }

    fn delta(&self, _: &Namespace, _: &TouchedFields<'_>) -> DeltaEffect {
        DeltaEffect::Forward
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfiguration, "build field rules", message)
}
