//! Tokens in place of values.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::invalid;
use crate::error::Result;
use crate::order::{Feed, RawValue};

/// The key of [`FieldRulesBuilder::hash`](super::FieldRulesBuilder::hash). `Debug` does not show it.
#[derive(Clone)]
pub struct HashKey {
    /// The state after the key, so that it is not computed for each value.
    mac: Hmac<Sha256>,
}

/// Minimum size of a key in bytes.
const LEAST_KEY_BYTES: usize = 16;

impl HashKey {
    /// Creates a key from at least 16 secret random bytes.
    ///
    /// Whoever has the key can find out which of the values that he knows a token stands for. Keep it out of both databases.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if there are fewer bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        let too_short = || {
            invalid(format!(
                "the hash key has {} bytes; use at least {LEAST_KEY_BYTES} random bytes",
                bytes.len()
            ))
        };
        if bytes.len() < LEAST_KEY_BYTES {
            return Err(too_short());
        }
        let mac = Hmac::new_from_slice(bytes).map_err(|_| too_short())?;
        Ok(Self { mac })
    }

    /// The bytes of the string that stands in place of `value`, in hexadecimal digits.
    pub(super) fn token(&self, value: RawValue<'_>) -> [u8; 64] {
        let mut input = Input(self.mac.clone());
        value.feed(&mut input);
        hexadecimal(input.0)
    }

    /// Differs between keys, and does not reveal them.
    pub(super) fn fingerprint(&self) -> [u8; 64] {
        hexadecimal(self.mac.clone().chain_update(b"fingerprint of the key"))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

struct Input(Hmac<Sha256>);

/// Words are eight bytes, the least significant first. Bytes follow their number.
impl Feed for Input {
    fn word(&mut self, word: u64) {
        self.0.update(&word.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        self.0.update(bytes);
    }
}

fn hexadecimal(mac: Hmac<Sha256>) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(mac.finalize().into_bytes()) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text
}
