//! Copies that cannot be resumed once they stop. A pause waits for them.
//!
//! These are the copies of collections that cannot be read in ranges of `_id`.

use tokio::sync::watch;

/// Number of running copies, and whether new ones may begin.
#[derive(Debug, Default)]
pub(crate) struct WholeCopies {
    running: watch::Sender<usize>,
    is_closed: watch::Sender<bool>,
}

/// Guard that counts one running copy until it is dropped.
#[derive(Debug)]
pub(crate) struct WholeCopy<'a>(&'a WholeCopies);

impl WholeCopies {
    /// Counts a copy that begins.
    pub fn begin(&self) -> WholeCopy<'_> {
        self.running.send_modify(|running| *running += 1);
        WholeCopy(self)
    }

    /// Whether any copy is running.
    pub fn are_running(&self) -> bool {
        *self.running.borrow() > 0
    }

    /// Prevents walkers from starting work until the next run [opens](Self::open) it.
    pub fn close(&self) {
        self.is_closed.send_replace(true);
    }

    /// Allows walkers to start work.
    pub fn open(&self) {
        self.is_closed.send_replace(false);
    }

    /// Waits until walkers may start work.
    pub async fn opened(&self) {
        // It cannot fail, because `self` owns the sender.
        let _ = self.is_closed.subscribe().wait_for(|is_closed| !is_closed).await;
    }

    /// Waits until no copy is running.
    pub async fn ended(&self) {
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Drop for WholeCopy<'_> {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}
