//! The keys of SCRAM, which all connections of a client share: deriving them takes milliseconds of processor time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::task::AbortOnDropHandle;

use super::scram::{Keys, Salting};
use crate::error::{Error, ErrorKind, Result};

/// Maximum number of keys. Servers from 3.0 to 3.6 choose a new salt at each login of a user of MONGODB-CR.
const MAX_KEYS: usize = 4;

/// Keys that were derived for one credential.
#[derive(Default)]
pub(in crate::mongo::legacy) struct KeyCache {
    keys: Mutex<Vec<(Salting, Keys)>>,
}

impl KeyCache {
    /// Returns the keys of a password. All calls must have the same password.
    ///
    /// # Errors
    /// [`Panic`](ErrorKind::Panic) if the derivation panics.
    pub(super) async fn get(&self, password: String, salting: Salting) -> Result<Keys> {
        let known = self
            .lock()
            .iter()
            .find(|(known, _)| *known == salting)
            .map(|(_, keys)| keys.clone());
        if let Some(keys) = known {
            return Ok(keys);
        }
        let (keys, salting) = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
            (Keys::derive(password.as_bytes(), &salting), salting)
        }))
        .await
        .map_err(|error| {
            Error::new(ErrorKind::Panic, super::OPERATION, "deriving a key panicked").with_source(error)
        })?;
        let keys = keys?;
        let mut known = self.lock();
        known.truncate(MAX_KEYS - 1);
        known.insert(0, (salting, keys.clone()));
        Ok(keys)
    }

    /// The data is consistent between any two statements.
    fn lock(&self) -> MutexGuard<'_, Vec<(Salting, Keys)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scram::Hash;
    use super::*;

    #[tokio::test]
    async fn keys_are_derived_once_and_their_number_is_bounded() {
        let cache = KeyCache::default();
        let salting = |salt: u8| Salting {
            hash: Hash::Sha1,
            salt: vec![salt],
            iterations: 4096,
        };
        for salt in 0..10 {
            let keys = cache.get("pencil".to_owned(), salting(salt)).await.unwrap();
            assert!(keys == Keys::derive(b"pencil", &salting(salt)).unwrap());
            // The cache does not look at the password, so this shows that the keys are not derived again.
            assert!(keys == cache.get(String::new(), salting(salt)).await.unwrap());
        }
        assert_eq!(cache.lock().len(), MAX_KEYS);
    }
}
