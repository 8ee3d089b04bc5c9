//! MONGODB-CR, the only login of 2.6 with a password.

use std::fmt::Write;

use md5::{Digest, Md5};

/// The form in which servers to 3.6 know a password. SCRAM-SHA-1 uses it too.
pub(super) fn digest(user: &str, password: &str) -> String {
    hex(&[user, ":mongo:", password])
}

/// The answer to a challenge.
pub(super) fn key(nonce: &str, user: &str, password: &str) -> String {
    hex(&[nonce, user, &digest(user, password)])
}

fn hex(parts: &[&str]) -> String {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values were made with `md5sum`, by the formula of the server.
    #[test]
    fn the_answer_follows_the_formula_of_the_server() {
        assert_eq!(digest("user", "pencil"), "1c33006ec1ffd90f9cadcbcc0e118200");
        assert_eq!(
            key("2375531c32080ae8", "user", "pencil"),
            "21742f26431831d5cfca035a08c5bdf6"
        );
    }
}
