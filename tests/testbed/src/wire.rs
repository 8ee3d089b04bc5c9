//! Single commands over the wire protocol, for setting sets up.
//!
//! The driver would do, but each version of it refuses servers that it holds for too old, and the testbed has to start
//! those too, if only to see them refused; and a driver's client takes longer to start than a server.

use std::io;

use mongodb::bson::Document;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const OP_MSG: i32 = 2013;
/// The header and the flags that follow it, before the first section.
const PRELUDE: usize = 16 + 4;
/// The largest message a server sends.
const LARGEST: usize = 48_000_000;

/// Runs `command` on `admin` of the server at `address`, on a connection of its own without authentication or TLS.
///
/// A command that the server refuses is an answer with `ok: 0`, not an error.
pub(crate) async fn admin_command(address: &str, mut command: Document) -> io::Result<Document> {
    command.insert("$db", "admin");
    let body = command.to_vec().map_err(io::Error::other)?;
    let message = message(1, 0, &body);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&message).await?;
    let length = stream.read_i32_le().await? as usize;
    if !(PRELUDE + 1..=LARGEST).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a reply"));
    }
    let mut reply = vec![0; length - 4];
    stream.read_exact(&mut reply).await?;
    Document::from_reader(&reply[PRELUDE + 1 - 4..]).map_err(io::Error::other)
}

/// The message with its body as `rewrite` leaves it; one that has not exactly one body that can be read stays as it is.
pub(crate) fn with_body(original: Vec<u8>, rewrite: &dyn Fn(&mut Document)) -> Vec<u8> {
    let number = |at: usize| {
        original
            .get(at..at + 4)
            .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    let (Some(id), Some(answers), Some(OP_MSG), Some(0)) = (number(4), number(8), number(12), number(16)) else {
        return original;
    };
    let Some([0, body @ ..]) = original.get(PRELUDE..) else {
        return original;
    };
    let Ok(mut document) = Document::from_reader(body) else {
        return original;
    };
    rewrite(&mut document);
    match document.to_vec() {
        Ok(body) => message(id, answers, &body),
        Err(_) => original,
    }
}

/// A message of one section of kind 0, a document.
fn message(id: i32, answers: i32, body: &[u8]) -> Vec<u8> {
    let length = PRELUDE + 1 + body.len();
    let mut message = Vec::with_capacity(length);
    for number in [length as i32, id, answers, OP_MSG, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(body);
    message
}
