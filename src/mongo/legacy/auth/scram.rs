//! The conversation of SCRAM (RFC 5802 and RFC 7677), without a server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::refused;
use crate::error::{Error, ErrorKind, Result};

/// The numbers of iterations that are accepted: what RFC 7677 has as the lowest, and half a second of work.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;

/// Maximum size of a salt in bytes. Servers have 16 or 28.
const MAX_SALT: usize = 1024;

/// The hash function of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

/// The keys that a password becomes with a salt. Deriving them is what takes time.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// What the keys are derived from, other than the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Salting {
    pub hash: Hash,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// A conversation after the client's first message.
pub(super) struct Conversation {
    hash: Hash,
    nonce: String,
    first: String,
}

/// The server's first message.
pub(super) struct Challenge {
    pub salting: Salting,
    nonce: String,
    text: String,
}

/// What the server has to prove in its last message: that it has the user's keys.
pub(super) struct Expected {
    hash: Hash,
    key: Vec<u8>,
    exchanged: String,
}

impl Hash {
    /// The name of the mechanism.
    pub fn mechanism(self) -> &'static str {
        match self {
            Hash::Sha1 => "SCRAM-SHA-1",
            Hash::Sha256 => "SCRAM-SHA-256",
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(bytes).to_vec(),
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], text: &[u8]) -> Result<Vec<u8>> {
        fn run<M: Mac + KeyInit>(key: &[u8], text: &[u8]) -> Result<Vec<u8>> {
            let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| unusable_key())?;
            mac.update(text);
            Ok(mac.finalize().into_bytes().to_vec())
        }
        match self {
            Hash::Sha1 => run::<Hmac<Sha1>>(key, text),
            Hash::Sha256 => run::<Hmac<Sha256>>(key, text),
        }
    }

    /// Compares in a time that does not depend on where the first difference is.
    fn has_hmac(self, key: &[u8], text: &[u8], expected: &[u8]) -> Result<bool> {
        fn run<M: Mac + KeyInit>(key: &[u8], text: &[u8], expected: &[u8]) -> Result<bool> {
            let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| unusable_key())?;
            mac.update(text);
            Ok(mac.verify_slice(expected).is_ok())
        }
        match self {
            Hash::Sha1 => run::<Hmac<Sha1>>(key, text, expected),
            Hash::Sha256 => run::<Hmac<Sha256>>(key, text, expected),
        }
    }
}

impl Keys {
    /// Derives the keys. This takes milliseconds.
    ///
    /// # Errors
    /// Never: keys of every length can be used.
    pub fn derive(password: &[u8], salting: &Salting) -> Result<Self> {
        let mut salted = vec![0; salting.hash.digest(&[]).len()];
        let derived = match salting.hash {
            Hash::Sha1 => pbkdf2::pbkdf2::<Hmac<Sha1>>(password, &salting.salt, salting.iterations, &mut salted),
            Hash::Sha256 => pbkdf2::pbkdf2::<Hmac<Sha256>>(password, &salting.salt, salting.iterations, &mut salted),
        };
        derived.map_err(|_| unusable_key())?;
        Ok(Self {
            client: salting.hash.hmac(&salted, b"Client Key")?,
            server: salting.hash.hmac(&salted, b"Server Key")?,
        })
    }
}

impl Conversation {
    /// Begins a conversation. `nonce` must be random, and must not contain a comma.
    pub fn new(hash: Hash, user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first = format!("n={user},r={nonce}");
        Self { hash, nonce, first }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first)
    }

    /// Reads the server's first message.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if it is malformed, answers another message, or asks for a number of iterations out of bounds.
    pub fn challenge(&self, payload: &[u8]) -> Result<Challenge> {
        let text = std::str::from_utf8(payload).map_err(|_| malformed("the challenge is no text"))?;
        let mut parts = text.split(',');
        let mut part = |name: &str| {
            let part = parts.next().and_then(|part| part.strip_prefix(name));
            part.ok_or_else(|| malformed(format!("the challenge has no `{name}` where it belongs")))
        };
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(malformed("the challenge is not for this login"));
        }
        let salt = BASE64.decode(salt).map_err(|_| malformed("the salt is not base64"))?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(malformed(format!("a salt of {} bytes is out of bounds", salt.len())));
        }
        let iterations: u32 = iterations
            .parse()
            .map_err(|_| malformed("the number of iterations cannot be read"))?;
        if !ITERATIONS.contains(&iterations) {
            return Err(malformed(format!(
                "{iterations} iterations are out of bounds: set `scramIterationCount` or `scramSHA256IterationCount` of the server to one \
                 from {} to {}, and the user's password anew",
                ITERATIONS.start(),
                ITERATIONS.end()
            )));
        }
        Ok(Challenge {
            salting: Salting {
                hash: self.hash,
                salt,
                iterations,
            },
            nonce: nonce.to_owned(),
            text: text.to_owned(),
        })
    }

    /// Returns the client's last message, and what the server has to prove then.
    ///
    /// # Errors
    /// Never: keys of every length can be used.
    pub fn last(self, challenge: &Challenge, keys: &Keys) -> Result<(String, Expected)> {
        let without_proof = format!("c=biws,r={}", challenge.nonce);
        let exchanged = format!("{},{},{without_proof}", self.first, challenge.text);
        let signature = self.hash.hmac(&self.hash.digest(&keys.client), exchanged.as_bytes())?;
        let proof: Vec<u8> = keys
            .client
            .iter()
            .zip(&signature)
            .map(|(left, right)| left ^ right)
            .collect();
        let last = format!("{without_proof},p={}", BASE64.encode(proof));
        let expected = Expected {
            hash: self.hash,
            key: keys.server.clone(),
            exchanged,
        };
        Ok((last, expected))
    }
}

impl Expected {
    /// Checks the server's last message.
    ///
    /// # Errors
    /// [`Unauthorized`](ErrorKind::Unauthorized) if the server refuses the password, or does not know it itself.
    pub fn check(&self, payload: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(payload).map_err(|_| malformed("the end of the login is no text"))?;
        if text.starts_with("e=") {
            return Err(refused(
                "the server refuses the login; correct the user, the password or `authSource`",
            ));
        }
        let signature = text.split(',').next().and_then(|part| part.strip_prefix("v="));
        let signature = signature.ok_or_else(|| malformed("the server does not prove that it knows the user"))?;
        let signature = BASE64
            .decode(signature)
            .map_err(|_| malformed("the server's proof is not base64"))?;
        match self.hash.has_hmac(&self.key, self.exchanged.as_bytes(), &signature)? {
            true => Ok(()),
            false => Err(refused(
                "the server cannot prove that it knows the user's password, so it is not the server of this user; correct the host",
            )),
        }
    }
}

fn malformed(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, super::OPERATION, what)
}

fn unusable_key() -> Error {
    Error::new(
        ErrorKind::Protocol,
        super::OPERATION,
        "a key of the login cannot be used",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conversation of an RFC.
    struct Sample {
        hash: Hash,
        nonce: &'static str,
        challenge: &'static str,
        last: &'static str,
        end: &'static str,
    }

    const RFC_5802: Sample = Sample {
        hash: Hash::Sha1,
        nonce: "fyko+d2lbbFgONRv9qkxdawL",
        challenge: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        last: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        end: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    };

    const RFC_7677: Sample = Sample {
        hash: Hash::Sha256,
        nonce: "rOprNGfwEbeRWgbNEkqO",
        challenge: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        last: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        end: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    };

    fn conversation(sample: &Sample) -> Conversation {
        Conversation::new(sample.hash, "user", sample.nonce.to_owned())
    }

    #[test]
    fn the_conversations_of_the_rfcs_are_reproduced() {
        for sample in [RFC_5802, RFC_7677] {
            let conversation = conversation(&sample);
            assert_eq!(conversation.first(), format!("n,,n=user,r={}", sample.nonce));
            let challenge = conversation.challenge(sample.challenge.as_bytes()).unwrap();
            let keys = Keys::derive(b"pencil", &challenge.salting).unwrap();
            let (last, expected) = conversation.last(&challenge, &keys).unwrap();
            assert_eq!(last, sample.last);
            expected.check(sample.end.as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_refused() {
        let conversation = conversation(&RFC_5802);
        let challenge = conversation.challenge(RFC_5802.challenge.as_bytes()).unwrap();
        let keys = Keys::derive(b"pencil", &challenge.salting).unwrap();
        let (_, expected) = conversation.last(&challenge, &keys).unwrap();
        for (end, kind) in [
            ("v=rmF9pqV8S7suAoZWja4dJRkFsKA=", ErrorKind::Unauthorized),
            ("v=", ErrorKind::Unauthorized),
            ("e=invalid-proof", ErrorKind::Unauthorized),
            ("v=?", ErrorKind::Protocol),
            ("", ErrorKind::Protocol),
        ] {
            assert_eq!(expected.check(end.as_bytes()).unwrap_err().kind(), kind, "{end}");
        }
    }

    #[test]
    fn challenges_out_of_bounds_are_refused() {
        let nonce = RFC_5802.nonce;
        for challenge in [
            format!("r={nonce},s=QSXCR+Q6sek8bf92,i=4096"),
            "r=other,s=QSXCR+Q6sek8bf92,i=4096".to_owned(),
            format!("r={nonce}x,s=QSXCR+Q6sek8bf92,i=4095"),
            format!("r={nonce}x,s=QSXCR+Q6sek8bf92,i=1000001"),
            format!("r={nonce}x,s=QSXCR+Q6sek8bf92,i=-1"),
            format!("r={nonce}x,s=,i=4096"),
            format!("r={nonce}x,s=?,i=4096"),
            format!("r={nonce}x,s={},i=4096", BASE64.encode([0; MAX_SALT + 1])),
            format!("m=x,r={nonce}x,s=QSXCR+Q6sek8bf92,i=4096"),
            String::new(),
        ] {
            let error = conversation(&RFC_5802).challenge(challenge.as_bytes()).err();
            assert_eq!(
                error.map(|error| error.kind()),
                Some(ErrorKind::Protocol),
                "{challenge}"
            );
        }
        assert!(conversation(&RFC_5802).challenge(&[0xFF]).is_err());
    }

    #[test]
    fn a_name_is_escaped() {
        let conversation = Conversation::new(Hash::Sha1, "a=b,c", "x".to_owned());
        assert_eq!(conversation.first(), "n,,n=a=3Db=2Cc,r=x");
    }
}
