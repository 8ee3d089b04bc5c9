//! One connection that sends commands and takes replies as bytes.
//!
//! The driver refuses 4.2, and replies that are not UTF-8: servers put values into the messages of their errors.

use bson::{RawDocument, RawDocumentBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

const OP_MSG: i32 = 2013;
/// The header, the flags and the kind of the only section.
const PRELUDE: usize = 16 + 4 + 1;

pub struct Connection {
    stream: Mutex<TcpStream>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        Self {
            stream: Mutex::new(TcpStream::connect(address).await.unwrap()),
        }
    }

    /// Runs a command that the server has to accept.
    pub async fn run(&self, database: &str, command: RawDocumentBuf) -> RawDocumentBuf {
        let reply = self.reply(database, command).await;
        assert_eq!(
            reply.get_f64("ok").ok(),
            Some(1.0),
            "{}",
            super::bytes::readable(&reply)
        );
        reply
    }

    /// Runs a command that the server may refuse.
    pub async fn reply(&self, database: &str, mut command: RawDocumentBuf) -> RawDocumentBuf {
        command.append(bson::raw::cstr!("$db"), database);
        let body = command.as_bytes();
        let length = i32::try_from(PRELUDE + body.len()).unwrap();
        let mut message = Vec::with_capacity(PRELUDE + body.len());
        for number in [length, 1, 0, OP_MSG, 0] {
            message.extend(number.to_le_bytes());
        }
        message.push(0);
        message.extend(body);

        let mut stream = self.stream.lock().await;
        stream.write_all(&message).await.unwrap();
        let length = usize::try_from(stream.read_i32_le().await.unwrap()).unwrap();
        let mut reply = vec![0; length - 4];
        stream.read_exact(&mut reply).await.unwrap();
        RawDocumentBuf::from_bytes(reply.split_off(PRELUDE - 4)).unwrap()
    }

    /// Runs a command with a cursor and reads all of it.
    pub async fn find(&self, database: &str, command: RawDocumentBuf) -> Vec<RawDocumentBuf> {
        let mut reply = self.run(database, command).await;
        let mut documents = Vec::new();
        loop {
            let cursor = reply.get_document("cursor").unwrap();
            let batch = cursor
                .get_array("firstBatch")
                .or_else(|_| cursor.get_array("nextBatch"))
                .unwrap();
            documents.extend(
                batch
                    .into_iter()
                    .map(|document| document.unwrap().as_document().unwrap().to_owned()),
            );
            let id = cursor.get_i64("id").unwrap();
            if id == 0 {
                return documents;
            }
            let collection = collection_of(cursor);
            reply = self
                .run(database, bson::rawdoc! { "getMore": id, "collection": collection })
                .await;
        }
    }
}

fn collection_of(cursor: &RawDocument) -> &str {
    let (_, collection) = cursor.get_str("ns").unwrap().split_once('.').unwrap();
    collection
}
