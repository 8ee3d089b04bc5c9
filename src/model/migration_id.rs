//! The name of a migration among the others into the same target.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The id of migrations that the host has not named.
pub(crate) const DEFAULT_ID: &str = "default";

/// Maximum length of an id in characters.
const LONGEST: usize = 64;

/// The id of a migration, which names its records on the target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MigrationId(Arc<str>);

impl MigrationId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MigrationId {
    fn default() -> Self {
        Self(DEFAULT_ID.into())
    }
}

impl FromStr for MigrationId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=LONGEST).contains(&id.len()) && id.chars().all(is_allowed) {
            return Ok(Self(id.into()));
        }
        Err(Error::new(
            ErrorKind::InvalidConfiguration,
            "name the migration",
            format!("`{id}` is no id: use 1 to {LONGEST} characters of ASCII letters, digits, `.`, `_` and `-`"),
        ))
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_only_characters_that_can_be_part_of_a_name() {
        let longest = "x".repeat(LONGEST);
        for id in ["default", "tenant-42", "a", "A.b_c-9", &longest] {
            assert_eq!(id.parse::<MigrationId>().unwrap().as_str(), id);
        }
        let too_long = "x".repeat(LONGEST + 1);
        for id in ["", "a/b", "a b", "ä", "a\n", &too_long] {
            let error = id.parse::<MigrationId>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfiguration, "{id}");
        }
    }
}
