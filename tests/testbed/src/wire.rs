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
    let mut message = Vec::with_capacity(PRELUDE + 1 + body.len());
    let length = i32::try_from(PRELUDE + 1 + body.len()).map_err(io::Error::other)?;
    for number in [length, 1, 0, OP_MSG, 0] {
        message.extend(number.to_le_bytes());
    }
    // One section of kind 0: the command's document.
    message.push(0);
    message.extend(body);

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
