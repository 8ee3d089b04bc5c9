//! A checkpoint store in a local file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;

use super::CheckpointStore;
use crate::error::{Error, ErrorKind, Result};

/// Keeps the checkpoint in a file. Each save replaces the whole file.
///
/// Only one process at a time may use the file. Within a process, clones of a store work together.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: PathBuf,
    turns: Arc<Turns>,
}

/// Orders the changes of the file.
///
/// A save whose future was dropped may still be running when the next one begins. It must neither write into the other one's file nor
/// replace it afterwards.
#[derive(Debug, Default)]
struct Turns {
    last_begun: AtomicU64,
    last_done: Mutex<u64>,
}

impl FileStore {
    /// Creates a store in the file at `path`. The folder of the file must exist. While saving, the store also uses a file beside it, whose
    /// name has `.new` added.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            turns: Arc::default(),
        }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes one change to the file, unless a later change was made already.
    async fn change(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let turn = self.turns.last_begun.fetch_add(1, Ordering::Relaxed) + 1;
        let store = self.clone();
        // A single blocking step, so that dropping the future cannot interrupt between writing and renaming.
        tokio::task::spawn_blocking(move || store.in_turn(turn, change))
            .await
            .map_err(|error| Error::new(ErrorKind::Panic, operation, "the task failed").with_source(error))?
            .map_err(|error| self.error(operation, error))
    }

    fn in_turn(&self, turn: u64, change: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut last_done = self.turns.last_done.lock().unwrap_or_else(PoisonError::into_inner);
        if *last_done < turn {
            change(&self.path)?;
            *last_done = turn;
        }
        Ok(())
    }

    fn error(&self, operation: &'static str, error: io::Error) -> Error {
        Error::new(ErrorKind::Io, operation, "the file cannot be used")
            .with_context("path", self.path.display())
            .with_source(error)
    }
}

#[async_trait]
impl CheckpointStore for FileStore {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        const OPERATION: &str = "load the checkpoint";
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error(OPERATION, error)),
        };
        RawDocumentBuf::from_bytes(bytes).map(Some).map_err(|error| {
            Error::new(ErrorKind::CheckpointMismatch, OPERATION, "the file is not a checkpoint")
                .with_context("path", self.path.display())
                .with_source(error)
        })
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        let bytes = checkpoint.as_bytes().to_vec();
        self.change("save the checkpoint", move |path| replace(path, &bytes))
            .await
    }

    async fn clear(&self) -> Result<()> {
        self.change("remove the checkpoint", remove).await
    }
}

/// Writes a file beside this one, makes it durable, and renames it over this one. A crash therefore leaves the old file or the new one
/// intact.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    {
        let mut file = std::fs::File::create(&beside)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
    }
    std::fs::rename(&beside, path)?;
    sync_folder(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the rename or removal durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn store() -> (tempfile::TempDir, FileStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("checkpoint"));
        (folder, store)
    }

    #[tokio::test]
    async fn only_a_missing_folder_is_an_error() {
        let (folder, store) = store();
        assert_eq!(store.load().await.unwrap(), None);
        let nowhere = FileStore::new(folder.path().join("missing").join("checkpoint"));
        assert_eq!(nowhere.load().await.unwrap(), None);
        let error = nowhere.save(&rawdoc! { "n": 1 }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[tokio::test]
    async fn a_crash_before_the_rename_leaves_the_old_checkpoint() {
        let (folder, store) = store();
        let (old, next) = (rawdoc! { "n": 1 }, rawdoc! { "n": 3 });
        store.save(&old).await.unwrap();
        // Left by a process that died while it wrote the new checkpoint.
        let beside = folder.path().join("checkpoint.new");
        std::fs::write(&beside, &rawdoc! { "n": 2, "longer": true }.as_bytes()[..7]).unwrap();
        let after_the_crash = FileStore::new(store.path());
        assert_eq!(after_the_crash.load().await.unwrap(), Some(old));
        after_the_crash.save(&next).await.unwrap();
        assert_eq!(after_the_crash.load().await.unwrap(), Some(next));
        assert!(!beside.exists());
    }

    #[tokio::test]
    async fn a_file_of_something_else_is_refused() {
        let (_folder, store) = store();
        for content in [&b""[..], b"no BSON", &rawdoc! { "n": 1 }.as_bytes()[..8]] {
            std::fs::write(store.path(), content).unwrap();
            assert_eq!(store.load().await.unwrap_err().kind(), ErrorKind::CheckpointMismatch);
        }
    }

    #[tokio::test]
    async fn a_save_that_comes_late_does_not_overwrite_a_later_one() {
        let (_folder, store) = store();
        let (old, new) = (rawdoc! { "n": 1 }, rawdoc! { "n": 2 });
        // The first save begins, but gets its thread only after the second one is done.
        let late = store.turns.last_begun.fetch_add(1, Ordering::Relaxed) + 1;
        store.save(&new).await.unwrap();
        store.in_turn(late, |path| replace(path, old.as_bytes())).unwrap();
        assert_eq!(store.load().await.unwrap(), Some(new));
    }
}
