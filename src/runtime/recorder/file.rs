//! A file of lines whose size is bounded. When it is full, the older part is thinned out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bson::DateTime;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

/// A file to which lines are appended, one JSON object each. It is created with the first line, and what it holds already is kept.
pub(super) struct RecordingFile {
    path: PathBuf,
    limit: u64,
    /// `None` until the first line is written, and after an error.
    open: Option<Open>,
}

struct Open {
    file: File,
    bytes: u64,
}

/// What the thinning looks at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    r#type: String,
    at: String,
}

/// How much of the older part is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Thinning {
    /// Everything but what repeats, and a status each minute.
    Minutes,
    /// What marks the course of the run, and a status each 10 minutes.
    TenMinutes,
    /// The very first line alone.
    Nothing,
}

impl RecordingFile {
    pub fn new(path: PathBuf, limit: u64) -> Self {
        Self {
            path,
            limit,
            open: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line. A line that is too large for the file is replaced by its type and size.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn append(&mut self, line: Value) -> io::Result<()> {
        let mut text = line.to_string();
        if text.len() as u64 > self.limit / 4 {
            text =
                serde_json::json!({ "type": line["type"], "at": line["at"], "omitted_bytes": text.len() }).to_string();
        }
        text.push('\n');
        let (path, limit, open) = (self.path.clone(), self.limit, self.open.take());
        // An aborted task does not stop a write in the middle of a line.
        let written = spawn_blocking(move || append(open, &path, limit, text.as_bytes())).await;
        self.open = Some(written.map_err(io::Error::other)??);
        Ok(())
    }
}

fn append(open: Option<Open>, path: &Path, limit: u64, line: &[u8]) -> io::Result<Open> {
    let mut open = match open {
        Some(open) => open,
        None => Open::at(path)?,
    };
    if open.bytes + line.len() as u64 > limit {
        drop(open);
        thin_out(path, limit)?;
        open = Open::at(path)?;
    }
    open.file.write_all(line)?;
    open.bytes += line.len() as u64;
    Ok(open)
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        // What happened in a migration concerns nobody else on this machine.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let mut bytes = file.metadata()?.len();
        if bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            // A process that was killed may have left a part of a line.
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Self { file, bytes })
    }
}

/// Rewrites the file, so that it takes at most three quarters of its limit. The newest lines are kept up to half of the limit.
fn thin_out(path: &Path, limit: u64) -> io::Result<()> {
    let mut thinned = path.as_os_str().to_owned();
    thinned.push(".thinned");
    let thinned = Path::new(&thinned);
    let tail = fs::metadata(path)?.len().saturating_sub(limit / 2);
    for thinning in [Thinning::Minutes, Thinning::TenMinutes, Thinning::Nothing] {
        if write_thinned(path, thinned, tail, thinning)? <= limit / 4 * 3 {
            break;
        }
    }
    fs::rename(thinned, path)
}

/// Writes what is kept to another file, and returns its size. `tail` is where the part begins that is kept as it is.
fn write_thinned(path: &Path, to: &Path, tail: u64, thinning: Thinning) -> io::Result<u64> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut writer = BufWriter::new(options.open(to)?);
    let (mut line, mut read, mut written) = (Vec::new(), 0, 0);
    let mut older = Older::new(thinning);
    while reader.read_until(b'\n', &mut line)? > 0 {
        let begin = read;
        read += line.len() as u64;
        if begin >= tail || older.keeps(&line) {
            writer.write_all(&line)?;
            written += line.len() as u64;
        }
        line.clear();
    }
    writer.into_inner()?.sync_all()?;
    Ok(written)
}

/// Decides which of the older lines are kept.
struct Older {
    thinning: Thinning,
    is_first: bool,
    /// Time of the last status that was kept, in milliseconds.
    last_status: Option<i64>,
}

impl Older {
    fn new(thinning: Thinning) -> Self {
        Self {
            thinning,
            is_first: true,
            last_status: None,
        }
    }

    fn keeps(&mut self, line: &[u8]) -> bool {
        if std::mem::take(&mut self.is_first) {
            return true;
        }
        let head: Head = serde_json::from_slice(line).unwrap_or_default();
        match (self.thinning, head.r#type.as_str()) {
            (Thinning::Nothing, _) | (_, "") => false,
            (Thinning::Minutes, "status") => self.is_due(&head.at, 60),
            (Thinning::TenMinutes, "status") => self.is_due(&head.at, 600),
            (Thinning::Minutes, kind) => !matches!(kind, "checkpoint_saved" | "waiting" | "collection"),
            (Thinning::TenMinutes, kind) => matches!(
                kind,
                "recording"
                    | "plan"
                    | "summary"
                    | "phase_changed"
                    | "started"
                    | "failed"
                    | "resync"
                    | "retrying"
                    | "call"
            ),
        }
    }

    fn is_due(&mut self, at: &str, seconds: i64) -> bool {
        let Ok(at) = DateTime::parse_rfc3339_str(at) else {
            return false;
        };
        let at = at.timestamp_millis();
        // A clock that was set back begins anew.
        let is_due = self
            .last_status
            .is_none_or(|last| at < last || at - last >= seconds * 1000);
        if is_due {
            self.last_status = Some(at);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMIT: u64 = 20_000;

    fn status(second: i64) -> Value {
        let at = DateTime::from_millis(second * 1000).try_to_rfc3339_string().unwrap();
        json!({ "type": "status", "at": at, "second": second, "pad": "p".repeat(60) })
    }

    fn event(kind: &str, second: i64) -> Value {
        let at = DateTime::from_millis(second * 1000).try_to_rfc3339_string().unwrap();
        json!({ "type": kind, "at": at, "second": second })
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn filled(path: &Path, seconds: i64) {
        let mut file = RecordingFile::new(path.to_owned(), LIMIT);
        file.append(json!({ "type": "recording" })).await.unwrap();
        for second in 0..seconds {
            file.append(status(second)).await.unwrap();
            file.append(event("checkpoint_saved", second)).await.unwrap();
            if second % 100 == 0 {
                file.append(event("phase_changed", second)).await.unwrap();
            }
            assert!(fs::metadata(path).unwrap().len() <= LIMIT, "{second}");
        }
    }

    #[tokio::test]
    async fn a_full_file_keeps_its_newest_part_and_thins_out_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        filled(&path, 1200).await;
        let lines = lines(&path);
        assert_eq!(lines[0]["type"], "recording");
        let seconds = |kind: &str| -> Vec<i64> {
            let of_kind = lines.iter().filter(|line| line["type"] == kind);
            of_kind.map(|line| line["second"].as_i64().unwrap()).collect()
        };
        let statuses = seconds("status");
        // The newest ones without a gap, and before that a minute between two.
        assert_eq!(statuses[statuses.len() - 40..], (1160..1200).collect::<Vec<_>>());
        let gaps: Vec<i64> = statuses.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let newer = gaps.iter().rposition(|gap| *gap != 1).unwrap();
        assert!(newer > 10 && gaps[..newer].iter().all(|gap| *gap == 60), "{statuses:?}");
        assert_eq!(statuses[0], 0);
        assert_eq!(
            seconds("phase_changed"),
            (0..12).map(|each| each * 100).collect::<Vec<_>>()
        );
        assert!(seconds("checkpoint_saved").iter().all(|second| *second > 1000));
    }

    #[tokio::test]
    async fn a_very_long_run_stays_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut file = RecordingFile::new(path.clone(), LIMIT);
        for second in 0..3000 {
            file.append(event("phase_changed", second)).await.unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= LIMIT, "{second}");
        }
        let lines = lines(&path);
        assert_eq!(
            (lines[0]["second"].as_i64(), lines.last().unwrap()["second"].as_i64()),
            (Some(0), Some(2999))
        );
    }

    #[tokio::test]
    async fn another_process_appends_after_a_broken_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        fs::write(&path, "{\"type\":\"recording\"}\n{\"type\":\"sta").unwrap();
        let mut file = RecordingFile::new(path.clone(), LIMIT);
        file.append(event("started", 1)).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(
            (
                text.lines().count(),
                serde_json::from_str::<Value>(last).unwrap()["second"].as_i64()
            ),
            (3, Some(1))
        );
    }

    #[tokio::test]
    async fn a_line_that_is_too_large_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut file = RecordingFile::new(path.clone(), LIMIT);
        file.append(json!({ "type": "plan", "at": "now", "pad": "p".repeat(6000) }))
            .await
            .unwrap();
        let lines = lines(&path);
        assert_eq!(
            (
                lines[0]["type"].as_str(),
                lines[0]["omitted_bytes"].as_u64().unwrap() > 6000
            ),
            (Some("plan"), true)
        );
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_an_error_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later").join("run.jsonl");
        let mut file = RecordingFile::new(path.clone(), LIMIT);
        file.append(event("started", 1)).await.unwrap_err();
        fs::create_dir(folder.path().join("later")).unwrap();
        file.append(event("started", 2)).await.unwrap();
        assert_eq!(lines(&path).len(), 1);
    }
}
