//! Copies that cannot be gone on with once they are stopped: of collections without ranges. A pause waits for them.

use tokio::sync::watch;

/// The copies under way, and whether others may begin.
#[derive(Debug, Default)]
pub(crate) struct WholeCopies {
    running: watch::Sender<usize>,
    is_closed: watch::Sender<bool>,
}

/// HeldChanges while such a copy is under way.
#[derive(Debug)]
pub(crate) struct WholeCopy<'a>(&'a WholeCopies);

impl WholeCopies {
    /// Says that a copy begins.
    pub fn begin(&self) -> WholeCopy<'_> {
        self.running.send_modify(|running| *running += 1);
        WholeCopy(self)
    }

    /// Whether any is under way.
    pub fn are_running(&self) -> bool {
        *self.running.borrow() > 0
    }

    /// Keeps walkers from beginning anything until the next run [opens](Self::open) it.
    pub fn close(&self) {
        self.is_closed.send_replace(true);
    }

    /// Lets walkers begin something.
    pub fn open(&self) {
        self.is_closed.send_replace(false);
    }

    /// Waits until something may begin.
    pub async fn opened(&self) {
        // The sender lives as long as this.
        let _ = self.is_closed.subscribe().wait_for(|is_closed| !is_closed).await;
    }

    /// Waits until none is under way.
    pub async fn ended(&self) {
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Drop for WholeCopy<'_> {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}
