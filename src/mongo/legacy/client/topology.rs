//! Finds the primary by asking all members, each on a connection of its own that needs no login.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::connection::Connection;
use super::view::View;
use super::{Primary, Settings};
use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};
use crate::mongo::legacy::is_master::IsMaster;

/// How long an answer counts. A primary that cannot reach its set any more steps down within ten seconds.
const FRESH: Duration = Duration::from_secs(5);

/// How long the other members may answer, too, once one says that it is the primary: one of a newer election may be among them.
const GRACE: Duration = Duration::from_millis(200);

/// The pause before the same member is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// What is known of the set, and who asks.
pub(super) struct Topology {
    state: Mutex<State>,
    /// Whoever has this asks; others wait for what they find.
    asking: tokio::sync::Mutex<Monitors>,
}

struct State {
    view: View,
    /// What the errors of members say in findings.
    findings: BTreeMap<String, Vec<Finding>>,
    primary: Option<(Arc<Primary>, Instant)>,
}

/// The connections to the members.
type Monitors = BTreeMap<String, Connection>;

/// The answer of one member, with the connection if it is still good.
type Asked = (String, Result<(IsMaster, Connection)>);

impl Topology {
    /// Begins with what is given.
    pub fn new(settings: &Settings) -> Self {
        let options = &settings.options;
        Self {
            state: Mutex::new(State {
                view: View::new(&options.hosts, options.set_name.as_deref(), options.direct),
                findings: BTreeMap::new(),
                primary: None,
            }),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the primary, and waits for one if there is none.
    ///
    /// # Errors
    /// [`Connection`](ErrorKind::Connection), with a finding that says what each member is, if there is none in time, or
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if TLS cannot work.
    pub async fn primary(&self, settings: &Settings) -> Result<Arc<Primary>> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let deadline = Instant::now() + settings.options.server_selection_timeout;
        let found = timeout_at(deadline, async {
            let mut monitors = self.asking.lock().await;
            // Somebody else may have found it meanwhile.
            match self.known() {
                Some(known) => Ok(known),
                None => self.ask(settings, &mut monitors).await,
            }
        });
        found.await.unwrap_or_else(|_| Err(self.no_primary(settings)))
    }

    /// Notes that a member did not behave as a primary, so that the next call asks again.
    pub fn suspect(&self, address: &str) {
        self.lock().primary.take_if(|(primary, _)| primary.address == address);
    }

    /// The primary that was found last, however long ago, unless it has been suspected since.
    pub fn last_known(&self) -> Option<Arc<Primary>> {
        self.lock().primary.as_ref().map(|(primary, _)| Arc::clone(primary))
    }

    fn known(&self) -> Option<Arc<Primary>> {
        let state = self.lock();
        let (primary, asked) = state.primary.as_ref()?;
        (asked.elapsed() < FRESH).then(|| Arc::clone(primary))
    }

    /// Asks all members until one of them is the primary.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if TLS cannot work with any of them.
    async fn ask(&self, settings: &Settings, monitors: &mut Monitors) -> Result<Arc<Primary>> {
        self.forget();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let mut unusable: BTreeSet<String> = BTreeSet::new();
        let mut running: FuturesUnordered<BoxFuture<'_, Asked>> = FuturesUnordered::new();
        let mut grace: Option<Instant> = None;
        loop {
            let addresses = self.lock().view.addresses();
            monitors.retain(|address, _| addresses.contains(address));
            for address in addresses {
                if asked.insert(address.clone()) {
                    let connection = monitors.remove(&address);
                    running.push(Box::pin(ask(settings, address, connection, Duration::ZERO)));
                }
            }
            let wait = async {
                match grace {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let (address, answer) = tokio::select! {
                Some(answered) = running.next() => answered,
                () = wait => return self.conclude(),
                else => return Err(self.no_primary(settings)),
            };
            match answer {
                Ok((is_master, connection)) => {
                    self.lock().view.see(&address, is_master);
                    monitors.insert(address.clone(), connection);
                }
                Err(error) => {
                    self.fail(&address, &error);
                    if error.kind() == ErrorKind::InvalidConfiguration {
                        unusable.insert(address.clone());
                        // A member with a bad certificate is no reason to stop, but nothing will change if all are like that.
                        if unusable == asked {
                            return Err(error);
                        }
                    }
                }
            }
            let has_primary = self.lock().view.primary().is_some();
            match (
                has_primary,
                running.is_empty() && asked.is_superset(&self.lock().view.addresses()),
            ) {
                (true, true) => return self.conclude(),
                (true, false) => grace = grace.or_else(|| Some(Instant::now() + GRACE)),
                (false, _) => {
                    grace = None;
                    let connection = monitors.remove(&address);
                    running.push(Box::pin(ask(settings, address, connection, AGAIN)));
                }
            }
        }
    }

    fn forget(&self) {
        let mut state = self.lock();
        state.view.forget_primary();
        state.findings.clear();
    }

    fn fail(&self, address: &str, error: &Error) {
        let mut state = self.lock();
        // The message of an error with findings has their fixes, too.
        let reason = error
            .findings()
            .first()
            .map_or(error.message(), |finding| &finding.message);
        state.view.fail(address, reason.to_owned());
        state.findings.insert(address.to_owned(), error.findings().to_vec());
    }

    fn conclude(&self) -> Result<Arc<Primary>> {
        let mut state = self.lock();
        let Some((address, is_master)) = state.view.primary().cloned() else {
            return Err(Error::new(
                ErrorKind::Connection,
                "find the primary",
                "it was found and lost",
            ));
        };
        let primary = Arc::new(Primary { address, is_master });
        state.primary = Some((Arc::clone(&primary), Instant::now()));
        Ok(primary)
    }

    fn no_primary(&self, settings: &Settings) -> Error {
        let state = self.lock();
        let reasons = state.view.reasons();
        let finding = Finding::blocker(
            FindingCode::NoPrimary,
            format!(
                "no primary was found within {} s ({reasons})",
                settings.options.server_selection_timeout.as_secs()
            ),
            "see with `rs.status()` on a member why the set has none, and whether its members can be reached from here",
        );
        let mut findings = vec![finding];
        findings.extend(state.findings.values().flatten().cloned());
        Error::refused("find the primary", findings)
            .with_kind(ErrorKind::Connection)
            .with_retryable(true)
    }

    /// The data is consistent between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a member what it is, after a pause.
async fn ask(settings: &Settings, address: String, connection: Option<Connection>, pause: Duration) -> Asked {
    if !pause.is_zero() {
        sleep(pause).await;
    }
    let connection = connection.filter(Connection::is_usable);
    let answer = async {
        Ok(match connection {
            Some(mut connection) => (connection.greet(settings).await?, connection),
            None => {
                let connection = Connection::open(settings, &address).await?;
                (connection.is_master().clone(), connection)
            }
        })
    };
    let answer = answer.await;
    (address, answer)
}
