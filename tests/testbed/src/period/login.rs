//! MONGODB-CR towards clients, the only login of 2.6 (seen), and SCRAM-SHA-1 towards the server, which knows no other
//! that both have.

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use sha1::Sha1;

/// A user whose password the period server knows.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
    pub(super) database: String,
}

impl User {
    /// What `authenticate` has to send for a nonce: `md5(nonce + user + md5(user:mongo:password))` in hexadecimal digits.
    pub(super) fn key(&self, nonce: &str) -> String {
        hexadecimal(&Md5::digest(format!("{nonce}{}{}", self.name, self.digest())))
    }

    /// What stands for the password in MONGODB-CR and SCRAM-SHA-1.
    fn digest(&self) -> String {
        hexadecimal(&Md5::digest(format!("{}:mongo:{}", self.name, self.password)))
    }

    /// Begins to log in with SCRAM-SHA-1: the conversation, and its first command.
    pub(super) fn log_in(&self) -> (Conversation, Document) {
        let name = self.name.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={name},r={}", BASE64_STANDARD.encode(rand::random::<[u8; 24]>()));
        let command = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-1", "payload": payload(&format!("n,,{bare}")) };
        let conversation = Conversation {
            digest: self.digest(),
            bare,
            is_proven: false,
        };
        (conversation, command)
    }
}

/// A login that has begun.
pub(super) struct Conversation {
    digest: String,
    /// What the client said first.
    bare: String,
    is_proven: bool,
}

impl Conversation {
    /// The command that follows the server's answer to the last one; `None` once the login is done.
    pub(super) fn next(&mut self, answer: &Document) -> io::Result<Option<Document>> {
        let challenge = text(answer)?;
        if answer.get_bool("done").is_ok_and(|done| done) {
            return Ok(None);
        }
        let said = if self.is_proven {
            String::new()
        } else {
            self.proof(&challenge)?
        };
        self.is_proven = true;
        let id = answer.get("conversationId").cloned().unwrap_or(1.into());
        Ok(Some(
            doc! { "saslContinue": 1, "conversationId": id, "payload": payload(&said) },
        ))
    }

    fn proof(&self, challenge: &str) -> io::Result<String> {
        let part = |key: &str| {
            let found = challenge.split(',').find_map(|part| part.strip_prefix(key));
            found.ok_or_else(|| io::Error::other("not a challenge of SCRAM"))
        };
        let salt = BASE64_STANDARD.decode(part("s=")?).map_err(io::Error::other)?;
        let rounds: u32 = part("i=")?.parse().map_err(io::Error::other)?;
        let salted = salted(self.digest.as_bytes(), &salt, rounds);
        let client_key = mac(&salted, b"Client Key");
        let unproven = format!("c=biws,r={}", part("r=")?);
        let signature = mac(
            &Sha1::digest(client_key),
            format!("{},{challenge},{unproven}", self.bare).as_bytes(),
        );
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, mask)| key ^ mask).collect();
        Ok(format!("{unproven},p={}", BASE64_STANDARD.encode(proof)))
    }
}

/// Sixteen digits, as a real 2.6 gives.
pub(super) fn nonce() -> String {
    hexadecimal(&rand::random::<[u8; 8]>())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn payload(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

/// What a server says in a conversation, or why it ended it.
fn text(answer: &Document) -> io::Result<String> {
    match answer.get_binary_generic("payload") {
        Ok(bytes) => String::from_utf8(bytes.clone()).map_err(io::Error::other),
        Err(_) => Err(io::Error::other(
            answer.get_str("errmsg").unwrap_or("no payload").to_owned(),
        )),
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 20] {
    match Hmac::<Sha1>::new_from_slice(key) {
        Ok(mac) => mac.chain_update(message).finalize().into_bytes().into(),
        // A key may have any length.
        Err(_) => [0; 20],
    }
}

/// PBKDF2 with one block.
fn salted(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 20] {
    let mut block = mac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut salted = block;
    for _ in 1..rounds {
        block = mac(password, &block);
        for (sum, byte) in salted.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
    salted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of RFC 6070 with two rounds.
    #[test]
    fn passwords_are_salted_as_the_standard_says() {
        let expected = "ea6c014dc72d6f8ffd08b2f5b6d5b5b6";
        let salted = salted(b"password", b"salt", 2);
        assert_eq!(hexadecimal(&salted[..4]), &expected[..8]);
    }
}
