//! Connections to each server: a bounded number, used again, and closed once nobody has used them for a while.
//!
//! Nothing runs in the background. Connections that are too old are closed when another one is taken or returned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::Settings;
use super::connection::Connection;
use crate::error::{Error, ErrorKind, Result};

/// Maximum number of cursors that wait to be closed on one server. The server closes the others itself after ten minutes.
const MAX_CURSORS: usize = 10_000;

/// Maximum number of servers whose pools are kept although nobody uses them.
const MAX_UNUSED: usize = 100;

/// The pools of a client, by address.
#[derive(Default)]
pub(super) struct Pools {
    pools: Mutex<BTreeMap<String, Arc<Pool>>>,
}

/// The connections to one server.
pub(in crate::mongo::legacy) struct Pool {
    address: String,
    limit: usize,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// Cursors that nobody reads any more.
    cursors: Vec<i64>,
}

/// A connection that its holder alone uses. It goes back to the pool if nothing is in flight on it, and is closed otherwise.
pub(in crate::mongo::legacy) struct Lease {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    max_idle: Duration,
    /// Whether the connection was in the pool before.
    pub is_reused: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pools {
    /// Returns the pool of a server.
    pub fn of(&self, address: &str, settings: &Settings) -> Arc<Pool> {
        let mut pools = self.lock();
        if let Some(pool) = pools.get(address) {
            return Arc::clone(pool);
        }
        if pools.len() >= MAX_UNUSED {
            pools.retain(|_, pool| Arc::strong_count(pool) > 1 || !pool.lock().idle.is_empty());
        }
        let limit = (settings.options.max_pool_size as usize).clamp(1, Semaphore::MAX_PERMITS);
        let pool = Arc::new(Pool {
            address: address.to_owned(),
            limit,
            permits: Arc::new(Semaphore::new(limit)),
            state: Mutex::default(),
        });
        pools.insert(address.to_owned(), Arc::clone(&pool));
        // What has not been used for long goes, whichever server it belongs to.
        for pool in pools.values() {
            pool.lock().drop_old(settings.options.max_idle_time);
        }
        pool
    }

    /// The data is consistent between any two statements.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Returns a connection that is logged in: one that was used before, unless `fresh` asks for a new one.
    ///
    /// # Errors
    /// [`Connection`](ErrorKind::Connection), also if all connections stay in use, or the errors of a login.
    pub async fn lease(self: &Arc<Self>, settings: &Settings, fresh: bool) -> Result<Lease> {
        let permit = timeout(
            settings.options.answer_timeout,
            Arc::clone(&self.permits).acquire_owned(),
        );
        let Ok(Ok(permit)) = permit.await else {
            let message = format!("all {} connections are in use; raise `maxPoolSize`", self.limit);
            return Err(
                Error::new(ErrorKind::Connection, "take a connection", message).with_context("host", &self.address)
            );
        };
        let max_idle = settings.options.max_idle_time;
        let used = match fresh {
            false => self.lock().take(max_idle),
            true => {
                // One of them broke, so the others are probably broken too.
                self.lock().idle.clear();
                None
            }
        };
        let is_reused = used.is_some();
        let mut connection = match used {
            Some(connection) => connection,
            None => self
                .open(settings)
                .await
                .map_err(|error| error.with_context("host", &self.address))?,
        };
        let cursors = std::mem::take(&mut self.lock().cursors);
        if !cursors.is_empty() {
            connection.kill_cursors_first(&cursors)?;
        }
        Ok(Lease {
            connection: Some(connection),
            pool: Arc::clone(self),
            max_idle,
            is_reused,
            _permit: permit,
        })
    }

    async fn open(&self, settings: &Settings) -> Result<Connection> {
        let mut connection = Connection::open(settings, &self.address).await?;
        connection.log_in(settings).await?;
        Ok(connection)
    }

    /// Closes a cursor, at once if there is an unused connection that takes the request without a wait, or else before the next request
    /// to this server.
    pub fn kill(&self, cursor: i64) {
        let mut state = self.lock();
        if state.cursors.len() < MAX_CURSORS {
            state.cursors.push(cursor);
        }
        let Some(mut connection) = state.take(Duration::MAX) else {
            return;
        };
        let cursors = std::mem::take(&mut state.cursors);
        match connection.kill_cursors_now(&cursors) {
            true => state.idle.push(connection),
            false => state.cursors = cursors,
        }
    }

    /// The data is consistent between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the connection that was used last, if the server has not closed it.
    fn take(&mut self, max_idle: Duration) -> Option<Connection> {
        self.drop_old(max_idle);
        while let Some(connection) = self.idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn drop_old(&mut self, max_idle: Duration) {
        let now = Instant::now();
        self.idle
            .retain(|connection| now.saturating_duration_since(connection.last_used) < max_idle);
    }
}

impl Lease {
    /// The connection.
    ///
    /// # Errors
    /// Never: the connection leaves the lease only when that is dropped.
    pub fn connection(&mut self) -> Result<&mut Connection> {
        let missing = || {
            Error::new(
                ErrorKind::Connection,
                "talk to the server",
                "the connection was returned",
            )
        };
        self.connection.as_mut().ok_or_else(missing)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if connection.is_usable() {
            let mut state = self.pool.lock();
            state.drop_old(self.max_idle);
            state.idle.push(connection);
        }
    }
}
