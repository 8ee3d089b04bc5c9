//! What a migration in the opposite direction has to know of users and roles.

use serde::{Deserialize, Serialize};

use super::plan::Made;
use super::{Fingerprint, UserSelection};
use crate::model::AccountName;

/// Users and roles at a hand-over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsersAtHandOver {
    pub selection: UserSelection,
    /// Those that were the same on both sides, with fingerprints of what the source has. Nobody else made them there since.
    pub known: Vec<KnownName>,
    /// The users that the migration was connected as on either side, and the roles of its user on the target.
    pub own: Vec<AccountName>,
}

/// A user or role with the fingerprints that it may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KnownName {
    pub name: AccountName,
    pub prints: Vec<Fingerprint>,
}

impl UsersAtHandOver {
    /// The same as what the opposite migration has made.
    pub fn made(&self) -> Made {
        let known = self.known.iter();
        known.map(|known| (known.name.clone(), known.prints.clone())).collect()
    }
}

impl KnownName {
    /// Lists what was made.
    pub fn all(made: &Made) -> Vec<Self> {
        let made = made.iter().map(|(name, prints)| Self {
            name: name.clone(),
            prints: prints.clone(),
        });
        made.collect()
    }
}
