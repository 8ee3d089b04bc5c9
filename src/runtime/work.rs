//! Whether the work of a run is done.

use std::time::Duration;

use tokio::time::Instant;

/// Whether anything remains to be done: collections to be copied and indexes to be built, or documents to be compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Work {
    /// The initial work is not done yet.
    #[default]
    First,
    Done,
    /// Everything was done before. The source has made more work since then.
    More(Instant),
}

impl Work {
    pub fn set(&mut self, is_done: bool) {
        *self = match *self {
            _ if is_done => Self::Done,
            Self::Done => Self::More(Instant::now()),
            before => before,
        };
    }

    pub fn is_done(self) -> bool {
        matches!(self, Self::Done)
    }

    /// Whether everything is done, except for work that the source has made within `latest`. Without this exception an application that
    /// keeps creating small collections and indexes would never be ready for cutover. The cutover waits for such work as it does for the
    /// lag.
    pub fn is_done_but_for(self, latest: Duration) -> bool {
        match self {
            Self::First => false,
            Self::Done => true,
            Self::More(since) => since.elapsed() <= latest,
        }
    }
}
