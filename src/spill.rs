//! Temporary files for data that does not fit into memory.

use std::fs::OpenOptions;
use std::io::SeekFrom;
use std::path::PathBuf;

use bson::Uuid;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};

use crate::error::{Error, ErrorKind, Result};

/// A temporary file without a name: no other process can open it, and it disappears when its handle is closed.
#[derive(Debug)]
pub(crate) struct Spill {
    file: File,
    end: u64,
}

/// The location of a block of bytes in a [`Spill`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    start: u64,
    length: usize,
}

impl Place {
    /// Length in bytes.
    pub fn length(self) -> usize {
        self.length
    }
}

impl Spill {
    /// Creates an empty file in the temporary directory.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the directory is not writable.
    pub async fn create() -> Result<Self> {
        Ok(Self {
            file: create(std::env::temp_dir()).await?,
            end: 0,
        })
    }

    /// Appends `bytes` to the file.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be written.
    pub async fn append(&mut self, bytes: &[u8]) -> Result<Place> {
        self.file.write_all(bytes).await.map_err(failed)?;
        let place = Place {
            start: self.end,
            length: bytes.len(),
        };
        self.end += bytes.len() as u64;
        Ok(place)
    }

    /// Reads the bytes at `place`. Do not [`append`](Self::append) afterwards: the file position has moved.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be read.
    pub async fn read(&mut self, place: Place) -> Result<Vec<u8>> {
        self.file.flush().await.map_err(failed)?;
        self.file.seek(SeekFrom::Start(place.start)).await.map_err(failed)?;
        let mut bytes = vec![0; place.length];
        self.file.read_exact(&mut bytes).await.map_err(failed)?;
        Ok(bytes)
    }

    /// Returns a reader of the whole file, from its beginning.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be read.
    pub async fn into_reader(mut self) -> Result<BufReader<File>> {
        self.file.flush().await.map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).await.map_err(failed)?;
        Ok(BufReader::new(self.file))
    }
}

async fn create(folder: PathBuf) -> Result<File> {
    // Create and unlink the file in one blocking step, so that dropping the future cannot leave a named file behind.
    let create = move || {
        let path = folder.join(format!("mongoferry-{}", Uuid::new()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    tokio::task::spawn_blocking(create)
        .await
        .map_err(std::io::Error::from)
        .and_then(|made| made)
        .map(File::from_std)
        .map_err(failed)
}

/// The error for a temporary file that cannot be used.
pub(crate) fn failed(error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Io,
        "keep changes in a temporary file",
        "the temporary folder must be writable and have room",
    )
    .with_context("folder", std::env::temp_dir().display())
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_in_any_order() {
        let mut file = Spill::create().await.unwrap();
        let mut places = Vec::new();
        for number in 0..100_u8 {
            places.push(file.append(&vec![number; usize::from(number) * 7]).await.unwrap());
        }
        for number in [99, 0, 50, 1, 98_u8] {
            let read = file.read(places[usize::from(number)]).await.unwrap();
            assert_eq!(read, vec![number; usize::from(number) * 7]);
        }
    }

    #[tokio::test]
    async fn no_file_is_left_wherever_the_making_of_one_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        for polls in 0..6 {
            let mut making = Box::pin(create(folder.path().to_owned()));
            for _ in 0..polls {
                if futures::poll!(&mut making).is_ready() {
                    break;
                }
                // Let the blocking task that was spawned before finish.
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            }
            drop(making);
        }
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        for _ in 0..1000 {
            if left() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{} files are left", left());
    }
}
