use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mongodb::bson::Document;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{ReplicaSet, TestbedError, wire};

/// The length of a message's header in bytes.
const HEADER: i32 = 16;
/// The largest message in bytes, and so the most that a connection holds back in each direction.
const LARGEST: i32 = 48_000_000 + 16 * 1024;

/// A TCP proxy that does to the connections of a server what networks do. Everything ends when it is dropped.
///
/// Each switch works on connections that are open already as well. It knows messages, and so servers with TLS cannot be
/// behind it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    losses: Arc<Losses>,
    /// The one task, which owns the connections; dropping the set ends it.
    _acceptor: JoinSet<()>,
}

/// What the proxy does to what passes.
#[derive(Clone, Debug, Default)]
struct State {
    delay: Duration,
    cut: bool,
    /// Parts of first requests; connections that began with none of them are closed.
    open_only_to: Option<Vec<Vec<u8>>>,
    stalled: bool,
    replies_swallowed: bool,
    rewrite: Option<Rewrite>,
}

/// What is made of replies.
#[derive(Clone)]
struct Rewrite(Arc<dyn Fn(&mut Document) + Send + Sync>);

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rewrite")
    }
}

/// Replies that are to be lost, by a part of their requests.
#[derive(Debug, Default)]
struct Losses {
    wanted: Mutex<VecDeque<(Vec<u8>, Loss)>>,
    done: AtomicU64,
}

/// What becomes of a reply before its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing of it is sent.
    Whole,
    /// Its first half is sent.
    Half,
}

/// The id of the request under way on a connection whose reply is to be lost. A connection has one request under way at a time.
type Doomed = Mutex<Option<(i64, Loss)>>;

impl Proxy {
    /// Starts a proxy on a free loopback port for the server at `target`, such as [`ReplicaSet::member_address`].
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when there is no port.
    pub async fn start(target: impl Into<String>) -> Result<Proxy, TestbedError> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(TestbedError::io("starting a proxy"))?;
        let address = listener.local_addr().map_err(TestbedError::io("starting a proxy"))?;
        let (state, watched) = watch::channel(State::default());
        let losses = Arc::new(Losses::default());
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, target.into(), watched, Arc::clone(&losses)));
        Ok(Proxy {
            address,
            state,
            losses,
            _acceptor: acceptor,
        })
    }

    /// Where it listens, such as `127.0.0.1:27017`.
    pub fn addr(&self) -> String {
        self.address.to_string()
    }

    /// The connection string for the server behind it, which is a member of `set`: direct, since the other members
    /// would be found past the proxy.
    pub fn uri(&self, set: &ReplicaSet) -> String {
        set.direct_uri(&self.addr())
    }

    /// Delivers every message `delay` later, in each direction. Zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Closes every connection, and each new one at once, until [`Proxy::restore`].
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = true);
    }

    /// Closes every connection whose first request has none of these in its bytes, and each new one once it has sent
    /// such a request, until [`Proxy::restore`].
    ///
    /// The first request tells who has made the connection: [`Peer`] has what servers and clients send in it.
    pub fn open_only_to(&self, peers: impl IntoIterator<Item = Peer>) {
        let peers = peers.into_iter().map(|peer| peer.0).collect();
        self.state.send_modify(|state| state.open_only_to = Some(peers));
    }

    /// Forwards nothing in either direction while connections stay open and new ones are accepted, until
    /// [`Proxy::restore`], when what has come meanwhile is forwarded.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// Whether what the server sends is thrown away; requests still reach it.
    pub fn swallow_replies(&self, swallow: bool) {
        self.state.send_modify(|state| state.replies_swallowed = swallow);
    }

    /// Ends everything: cut, closed to some, stall, delay, swallowed replies, and replies that are still to be lost.
    pub fn restore(&self) {
        self.losses.wanted().clear();
        self.state.send_replace(State::default());
    }

    /// Loses the reply to the next request with `needle` in its bytes: it reaches the server, and once the server
    /// answers the connection is closed without the answer. Called again before that, it waits for one more request.
    ///
    /// Field names and strings stand in a request as they are (`b"insert\0"`), unless the connection string has
    /// `compressors`.
    pub fn lose_next_reply_matching(&self, needle: impl Into<Vec<u8>>) {
        self.losses.wanted().push_back((needle.into(), Loss::Whole));
    }

    /// As [`Proxy::lose_next_reply_matching`], but the connection is closed in the middle of the answer.
    pub fn cut_next_reply_matching(&self, needle: impl Into<Vec<u8>>) {
        self.losses.wanted().push_back((needle.into(), Loss::Half));
    }

    /// Sends the body of every reply as `rewrite` leaves it, until [`Proxy::restore`]: for what servers answer that the testbed has not.
    ///
    /// Bodies are seen unless the connection string has `compressors`.
    pub fn rewrite_replies(&self, rewrite: impl Fn(&mut Document) + Send + Sync + 'static) {
        self.state
            .send_modify(|state| state.rewrite = Some(Rewrite(Arc::new(rewrite))));
    }

    /// How many replies were lost by [`Proxy::lose_next_reply_matching`] and [`Proxy::cut_next_reply_matching`].
    pub fn lost_replies(&self) -> u64 {
        self.losses.done.load(Ordering::SeqCst)
    }
}

/// Who has made a connection.
#[derive(Clone, Debug)]
pub struct Peer(Vec<u8>);

impl Peer {
    /// A client by the Rust driver.
    pub fn client() -> Peer {
        Peer(b"mongo-rust-driver".to_vec())
    }

    /// A member of a set with test commands, by which alone servers tell their port.
    ///
    /// # Panics
    ///
    /// When there is no member `index`.
    pub fn member(set: &ReplicaSet, index: usize) -> Peer {
        let address = set.member_address(index);
        let port = address.rsplit(':').next().unwrap_or_default();
        Peer(format!(":{port}\0").into_bytes())
    }
}

impl State {
    fn is_open_to(&self, first: &[u8]) -> bool {
        let is_one = |peers: &Vec<Vec<u8>>| peers.iter().any(|peer| contains(first, peer));
        self.open_only_to.as_ref().is_none_or(is_one)
    }
}

impl Losses {
    fn wanted(&self) -> MutexGuard<'_, VecDeque<(Vec<u8>, Loss)>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the reply to a request is to be lost, if it is. Answers so once for each wish.
    fn take(&self, request: &[u8]) -> Option<Loss> {
        let mut wanted = self.wanted();
        let found = wanted.iter().position(|(needle, _)| contains(request, needle))?;
        wanted.remove(found).map(|(_, loss)| loss)
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && bytes.windows(needle.len()).any(|window| window == needle)
}

async fn accept(listener: TcpListener, target: String, mut state: watch::Receiver<State>, losses: Arc<Losses>) {
    let mut connections = JoinSet::new();
    loop {
        if state.borrow_and_update().cut {
            connections.abort_all();
        }
        tokio::select! {
            accepted = listener.accept() => {
                // While cut, a new connection is closed at once. Without the listener the system would refuse it, but
                // might also give the port away.
                if let Ok((client, _)) = accepted && !state.borrow().cut {
                    connections.spawn(connection(client, target.clone(), state.clone(), Arc::clone(&losses)));
                }
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Both directions of one connection, until one side closes it or a reply is lost.
async fn connection(client: TcpStream, target: String, state: watch::Receiver<State>, losses: Arc<Losses>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    // Small messages would wait for each other's acknowledgement otherwise.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (mut client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let Ok(first) = read_message(&mut client_read).await else {
        return;
    };
    let doomed = Doomed::default();
    tokio::select! {
        biased;
        () = closed(state.clone(), &first) => {}
        _ = requests(&first, client_read, server_write, state.clone(), &losses, &doomed) => {}
        _ = replies(server_read, client_write, state, &losses, &doomed) => {}
    }
}

fn lock(doomed: &Doomed) -> MutexGuard<'_, Option<(i64, Loss)>> {
    doomed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the proxy is closed to a connection that began with this request.
async fn closed(mut state: watch::Receiver<State>, first: &[u8]) {
    // An error means that the proxy is dropped.
    let _ = state.wait_for(|state| !state.is_open_to(first)).await;
}

async fn requests(
    first: &[u8],
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    losses: &Losses,
    doomed: &Doomed,
) -> io::Result<()> {
    let mut message = first.to_vec();
    loop {
        passage(&mut state).await;
        if let Some(loss) = losses.take(&message) {
            *lock(doomed) = Some((number_at(&message, 4), loss));
        }
        server.write_all(&message).await?;
        message = read_message(&mut client).await?;
    }
}

async fn replies(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    losses: &Losses,
    doomed: &Doomed,
) -> io::Result<()> {
    loop {
        let mut message = read_message(&mut server).await?;
        let doomed = lock(doomed).filter(|(request, _)| *request == number_at(&message, 8));
        if let Some((_, loss)) = doomed {
            losses.done.fetch_add(1, Ordering::SeqCst);
            if loss == Loss::Half {
                client.write_all(&message[..message.len() / 2]).await?;
            }
            return Ok(());
        }
        passage(&mut state).await;
        let rewrite = state.borrow().rewrite.clone();
        if let Some(Rewrite(rewrite)) = rewrite {
            message = wire::with_body(message, &*rewrite);
        }
        if !state.borrow().replies_swallowed {
            client.write_all(&message).await?;
        }
    }
}

/// Waits as long as the proxy's state demands of a message that came just now.
async fn passage(state: &mut watch::Receiver<State>) {
    let arrived = Instant::now();
    loop {
        let (due, stalled) = {
            let state = state.borrow_and_update();
            (arrived + state.delay, state.stalled)
        };
        if !stalled && due <= Instant::now() {
            return;
        }
        tokio::select! {
            () = sleep_until(due), if !stalled => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads one whole message, header included, since what is lost or swallowed must be whole messages.
async fn read_message(stream: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = stream.read_i32_le().await?;
    if !(HEADER..=LARGEST).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message"));
    }
    let mut message = vec![0; length as usize];
    message[..4].copy_from_slice(&length.to_le_bytes());
    stream.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// A number of the message's header: length, request id, the id that it answers, kind.
fn number_at(message: &[u8], offset: usize) -> i64 {
    let bytes = message[offset..offset + 4].try_into().unwrap_or_default();
    i64::from(i32::from_le_bytes(bytes))
}
