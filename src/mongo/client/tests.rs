use std::net::SocketAddr;

use bson::raw::RawDocument;
use bson::rawdoc;
use mongodb::options::{ClientOptions, ServerAddress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::*;

/// Real time: far longer than a call on this machine takes.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_mongos_is_told_with_what_to_do() {
    let told = |hello: Document| {
        let finding = not_a_replica_set(&hello, &Document::new());
        (finding.code, format!("{}; {}", finding.message, finding.fix))
    };
    // The answer of a mongos of any version to `hello`.
    let (code, mongos) = told(doc! { "ismaster": true, "msg": "isdbgrid", "maxWireVersion": 17 });
    assert_eq!(code, "mongos");
    assert!(mongos.contains("mongos") && mongos.contains("not a shard"), "{mongos}");
    let (code, uninitiated) = told(doc! { "ismaster": false, "isreplicaset": true });
    assert_eq!(code, "not_initiated");
    assert!(uninitiated.contains("rs.initiate()"), "{uninitiated}");
    let (code, standalone) = told(doc! { "ismaster": true });
    assert_eq!(code, "standalone");
    assert!(standalone.contains("--replSet"), "{standalone}");
}

/// Returns the driver's error for a server's answer with this code.
fn answered_with(code: i32) -> DriverError {
    let answer = doc! { "code": code, "codeName": "Name", "errmsg": "what { a: \"s3cret\" } is" };
    DriverErrorKind::Command(bson::deserialize_from_document(answer).unwrap()).into()
}

#[test]
fn each_row_of_the_table_decides_about_an_error() {
    for row in error_codes::ROWS {
        let error = convert("test", answered_with(row.code));
        let expected = match row.meaning {
            Meaning::Retried => (ErrorKind::Connection, true),
            Meaning::Snapshot => (ErrorKind::SnapshotUnavailable, true),
            Meaning::PositionLost => (ErrorKind::PositionLost, false),
            Meaning::Blocked => (ErrorKind::TargetBlocked, false),
            Meaning::Unauthorized => (ErrorKind::Unauthorized, false),
        };
        assert_eq!((error.kind(), error.is_retryable()), expected, "{row:?}");
        assert_eq!(code(&error), Some(row.code));
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret") && shown.contains("what {...} is"), "{shown}");
    }
    let other = convert("test", answered_with(2));
    assert_eq!((other.kind(), other.is_retryable()), (ErrorKind::Server, false));
}

#[test]
fn a_client_whose_runtime_is_gone_gives_errors() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (ours, theirs) = (runtime(), runtime());
    let server = ours.block_on(SilentServer::start());
    let client = theirs.block_on(async {
        let client = server.client();
        client.database("shop").run_command(doc! { "hello": 1 }).await.unwrap();
        client
    });
    theirs.shutdown_timeout(SOON);
    let find = || rawdoc! { "find": "orders" };
    // A call that is not answered at once is never answered.
    let soon = Duration::from_secs(2);
    ours.block_on(async {
        for answer in [
            timeout(soon, run_raw(&client, "ask", "shop", find()))
                .await
                .map(|answer| answer.map(drop)),
            timeout(soon, open_cursor(&client, "ask", "shop", find(), None))
                .await
                .map(|answer| answer.map(drop)),
        ] {
            // Whatever the driver returns, it is neither a panic nor an answer.
            assert!(!matches!(answer, Ok(Ok(()))), "{answer:?}");
        }
    });
}

#[tokio::test]
async fn a_command_whose_answer_is_lost_is_sent_again_after_a_minute() {
    let mut server = SilentServer::start().await;
    let client = server.client();
    let mut calls = JoinSet::new();
    let began = Instant::now();
    calls.spawn(async move { run(&client, "count", "shop", doc! { "count": "orders" }).await });
    server.is_asked("count").await;
    server.is_given_up(began).await;
    server.is_asked("count").await;
    assert!(calls.try_join_next().is_none());
}

#[tokio::test]
async fn a_cursor_whose_answer_is_lost_fails_after_a_minute() {
    let mut server = SilentServer::start().await;
    let open = |client: Client, command: RawDocumentBuf| async move {
        let mut batches = open_cursor(&client, "read", "shop", command, None).await?;
        while let Some(batch) = batches.next().await {
            batch?;
        }
        Ok(())
    };
    for (command, silent) in [
        (rawdoc! { "aggregate": "orders" }, "aggregate"),
        // The `find` gets an answer, but its cursor gets none.
        (rawdoc! { "find": "orders" }, "getMore"),
    ] {
        let mut calls = JoinSet::new();
        let began = Instant::now();
        calls.spawn(open(server.client(), command));
        server.is_asked(silent).await;
        server.is_given_up(began).await;
        let error: Error = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(error.is_retryable(), "{error}");
    }
}

/// Answers `hello` and opens the cursor of a `find`. It accepts every other command and never answers it.
struct SilentServer {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<String>,
    /// Receives a message for each connection that was closed after a command went unanswered.
    closed: mpsc::UnboundedReceiver<()>,
    _tasks: JoinSet<()>,
}

impl SilentServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ask, asked) = mpsc::unbounded_channel();
        let (close, closed) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let (ask, close) = (ask.clone(), close.clone());
                connections.spawn(async move {
                    let mut was_asked = false;
                    // An error means that the connection has ended.
                    let _ = serve(connection, |command| {
                        was_asked = true;
                        let _ = ask.send(command);
                    })
                    .await;
                    if was_asked {
                        let _ = close.send(());
                    }
                });
            }
        });
        Self {
            address,
            asked,
            closed,
            _tasks: tasks,
        }
    }

    /// Returns a client that sends nothing on its own.
    fn client(&self) -> Client {
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(self.address.to_string()).unwrap()];
        options.direct_connection = Some(true);
        options.heartbeat_freq = Some(Duration::from_secs(3600));
        Client::with_options(options).unwrap()
    }

    async fn is_asked(&mut self, command: &str) {
        let asked = timeout(SOON, self.asked.recv()).await.expect(command);
        assert_eq!(asked.as_deref(), Some(command));
    }

    /// Advances the clock until the client abandons a call, which must happen a minute after `began`.
    async fn is_given_up(&mut self, began: Instant) {
        // Nothing is in flight now, so the paused clock advances to the next timer.
        tokio::time::pause();
        timeout(COMMAND_TIMEOUT * 10, self.closed.recv())
            .await
            .expect("the client closes the connection");
        let took = began.elapsed();
        tokio::time::resume();
        assert!(took >= COMMAND_TIMEOUT && took < COMMAND_TIMEOUT + SOON, "{took:?}");
    }
}

/// Serves one connection until it is closed. Passes the name of each command that gets no answer to `ask`.
async fn serve(mut connection: TcpStream, mut ask: impl FnMut(String)) -> std::io::Result<()> {
    const OP_REPLY: i32 = 1;
    const OP_QUERY: i32 = 2004;
    loop {
        let mut header = [0; 16];
        connection.read_exact(&mut header).await?;
        let [length, id, _, operation] =
            [0, 4, 8, 12].map(|at| i32::from_le_bytes(header[at..at + 4].try_into().unwrap()));
        let mut body = vec![0; length as usize - header.len()];
        connection.read_exact(&mut body).await?;
        // The command is preceded by flags, and by the namespace with two numbers or the kind of the section.
        let at = match operation {
            OP_QUERY => 4 + body[4..].iter().position(|byte| *byte == 0).unwrap() + 1 + 8,
            _ => 4 + 1,
        };
        let size = i32::from_le_bytes(body[at..at + 4].try_into().unwrap()) as usize;
        let command = RawDocument::from_bytes(&body[at..at + size]).unwrap();
        let name = command.iter().next().unwrap().unwrap().0.to_string();
        let answer = match name.to_lowercase().as_str() {
            "hello" | "ismaster" => rawdoc! {
                "ismaster": true,
                "minWireVersion": 0,
                "maxWireVersion": 8,
                "maxBsonObjectSize": 16 << 20,
                "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": 100_000,
                "ok": 1,
            },
            "find" => rawdoc! { "cursor": { "id": 7_i64, "ns": "shop.orders", "firstBatch": [] }, "ok": 1 },
            // Sent by a client for a cursor that it no longer needs.
            "killcursors" => rawdoc! { "ok": 1 },
            _ => {
                ask(name);
                continue;
            }
        };
        let (reply, before) = match operation {
            // Flags, cursor id, starting position, number of documents.
            OP_QUERY => (OP_REPLY, [0_i32, 0, 0, 0, 1].map(i32::to_le_bytes).concat()),
            // Flags, kind of the section.
            _ => (operation, vec![0; 5]),
        };
        let length = (header.len() + before.len() + answer.as_bytes().len()) as i32;
        let mut message = [length, 0, id, reply].map(i32::to_le_bytes).concat();
        message.extend(before);
        message.extend(answer.as_bytes());
        connection.write_all(&message).await?;
    }
}
