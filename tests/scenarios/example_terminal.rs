//! The example `live_migration` as people use it: on a terminal, and in a pipe without `--json`.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use mongoferry_testbed::workload::Writer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::example::{PATIENCE, Sets, binary, piped};

/// Size of the terminal.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

const SENTENCE: &str = "The applications may go to the target: both sides are identical.";

#[tokio::test(flavor = "multi_thread")]
async fn example_in_a_pipe_writes_plain_lines() {
    let sets = Sets::start(2000).await;
    let mut child = in_a_pipe(&sets, &["--cutover", "manual"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut seen, mut times) = (Vec::new(), Vec::new());
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("ready ") {
                times.push(Instant::now());
                if times.len() == 2 {
                    let input = child.stdin.as_mut().unwrap();
                    input.write_all(b"cutover\n").await.unwrap();
                }
            }
            seen.push(line);
        }
    };
    timeout(PATIENCE, read).await.expect("it did not end");
    let ended = child.wait_with_output().await.unwrap();
    let (out, err) = (seen.join("\n"), text(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{out}{err}");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "{out:?}{err:?}");
    assert!(seen[0].starts_with("connecting to the source"), "{out}");
    let next = seen.iter().find(|line| line.starts_with("next: "));
    assert!(next.is_some_and(|line| line.contains("then type `cutover`")), "{out}");
    assert!(
        times[1] - times[0] > Duration::from_secs(4),
        "not at a calm pace: {:?} {out}",
        times[1] - times[0]
    );
    assert_eq!(seen.last().map(String::as_str), Some(SENTENCE), "{out}");

    let again = timeout(PATIENCE, in_a_pipe(&sets, &[]).wait_with_output());
    let again = again.await.expect("it did not end").unwrap();
    let out = text(&again.stdout);
    assert_eq!(again.status.code(), Some(0), "{out}");
    let last = out.lines().last().unwrap();
    assert!(
        last.contains("may go to the target") && last.contains("already complete"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn example_on_a_terminal_tears_no_line() {
    let sets = Sets::start(4000).await;
    let recording = sets.folder().join("recording");
    let recording = recording.to_str().unwrap();
    let writer = Writer::builder(&sets.source_client, 4)
        .operations_per_second(50)
        .start()
        .await
        .unwrap();
    // Slow enough for a copy that is seen.
    let arguments = "--cutover manual --chunk-bytes 65536 --copy-bytes-per-second 1000000 --recording";
    let arguments: Vec<&str> = arguments.split(' ').chain([recording]).collect();
    let mut terminal = Terminal::start(&sets, "", &arguments);
    terminal
        .until("connecting", |screen| screen.has("connecting to the source"))
        .await;
    let is_bar =
        |line: &String| line.starts_with("copy      shop.") && line.contains('█') && line.contains(" documents");
    terminal
        .until("a bar", |screen| screen.shown().iter().any(is_bar))
        .await;
    let is_totals = |line: &String| line.starts_with("copy ") && line.contains(" MB/s");
    terminal
        .until("a rate", |screen| screen.shown().iter().any(is_totals))
        .await;
    terminal
        .until("ready", |screen| {
            screen.has("then type `cutover` to cut over") && screen.has("changes/s")
        })
        .await;
    assert!(terminal.raw.contains("\x1b[32m"), "it has no colours");

    // What is being typed is on the last line while everything above is redrawn.
    terminal.write("pau").await;
    terminal
        .until("the text", |screen| screen.last() == Some("> pau_"))
        .await;
    let more = terminal.raw.len() + 2000;
    terminal.until_raw("more drawing", |raw| raw.len() > more).await;
    assert_eq!(terminal.screen.last(), Some("> pau_"));
    terminal.write("x\x7fse\n").await;
    terminal
        .until("the pause", |screen| screen.has("type `resume` to continue"))
        .await;
    terminal.write("cutover\n").await;
    terminal
        .until("a refusal", |screen| {
            screen.has("cutover: refused: resume the run first")
        })
        .await;
    terminal.write("resume\n").await;
    terminal
        .until("ready", |screen| screen.has("then type `cutover`"))
        .await;
    let statistics = writer.stop().await;
    assert_eq!(statistics.errors, 0, "{statistics:?}");
    terminal.write("cutover\n").await;
    let (screen, exit) = terminal.end().await;
    assert_eq!(exit, Some(0), "{screen:#?}");
    assert_eq!(screen.last(), Some(SENTENCE));
    // Nothing of what was redrawn is left, neither in the window nor above it.
    for line in screen.lines.iter().map(|line| line.trim_end()) {
        for drawn in ["lag  ", "now  ", "next  ", "copy  ", "ready  ", "> "] {
            assert!(!line.starts_with(drawn), "{line:?} is left: {:#?}", screen.lines);
        }
        assert!(!line.contains('█') && !line.contains('░'), "{line:?}");
    }
    assert!(screen.has("pause: paused") && screen.has("resume: the run is running"));
    let recorded = std::fs::read_to_string(Path::new(recording)).unwrap();
    assert!(
        recorded.starts_with('{') && recorded.contains("\"recording\""),
        "{recorded}"
    );
    sets.assert_identical().await;

    for (variable, colours) in [("NO_COLOR=1", false), ("NO_COLOR=", true)] {
        let (screen, exit) = Terminal::start(&sets, variable, &[]).end().await;
        assert_eq!(exit, Some(0));
        assert!(screen.last().unwrap().contains("already complete"), "{screen:#?}");
        assert_eq!(screen.coloured, colours, "{variable}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn example_says_that_a_pause_is_refused() {
    let sets = Sets::start(1000).await;
    let mut example = sets.example(&["--cutover", "manual"]);
    example.phase("ready").await;
    // The cutover waits for it.
    let mut session = sets.source_client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let orders = sets.source_client.database("shop").collection("orders");
    let insert = orders.insert_one(doc! { "_id": "open" }).session(&mut session);
    insert.await.unwrap();
    example.command("cutover").await;
    example.phase("cutover").await;
    example.command("pause").await;
    let reply = example
        .until("a reply", |line| {
            line["type"] == "command" && line["command"] == "pause"
        })
        .await;
    assert_eq!(reply["accepted"], false, "{reply:#}");
    let message = reply["message"].as_str().unwrap();
    assert!(message.contains("wait for the cutover to end"), "{reply:#}");
    session.abort_transaction().await.unwrap();
    example.end().await.summary("complete", 0);
}

#[tokio::test]
async fn example_help_fits_100_columns() {
    let run = Command::new(binary("live_migration")).arg("--help").output();
    let output = timeout(PATIENCE, run).await.unwrap().unwrap();
    let help = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for line in help.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let options = "source target id include exclude rename existing-data checkpoint cutover block-writes reverse ddl users max-lag \
         window-hours stop-after verify certificate walkers all-walkers appliers chunk-bytes memory-bytes \
         copy-bytes-per-second tail-operations-per-second accept-unencrypted path-policy scan json recording \
         recording-bytes help";
    for option in options.split_whitespace() {
        let named = |line: &str| line.split_whitespace().any(|word| word == format!("--{option}"));
        assert!(help.lines().any(named), "--{option} is missing: {help}");
    }
    for part in [
        "What to migrate:",
        "Cutover:",
        "Speed and memory:",
        "Output:",
        "Exit codes:",
    ] {
        assert!(help.contains(part), "{part} is missing: {help}");
    }
    assert!(!help.contains("--documents"), "{help}");
}

fn in_a_pipe(sets: &Sets, arguments: &[&str]) -> Child {
    let (source, target) = sets.uris();
    piped("live_migration")
        .args(["--source", &source, "--target", &target])
        .args(arguments)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm-256color")
        .spawn()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The example on a pseudo terminal, which `script` of util-linux provides.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    output: ChildStdout,
    /// Bytes of a character that is not complete.
    rest: Vec<u8>,
    raw: String,
    screen: Screen,
}

impl Terminal {
    /// Starts the example with an environment variable, `NAME=VALUE`.
    fn start(sets: &Sets, variable: &str, arguments: &[&str]) -> Self {
        let (source, target) = sets.uris();
        let arguments: String = ["--source", &source, "--target", &target]
            .iter()
            .chain(arguments)
            .map(|argument| format!(" '{argument}'"))
            .collect();
        let command = format!(
            "stty rows {ROWS} cols {COLUMNS}; exec env -u NO_COLOR TERM=xterm-256color {variable} '{}'{arguments}",
            binary("live_migration").display()
        );
        let mut child = Command::new("script")
            .args(["-q", "-e", "-c", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            keys: child.stdin.take().unwrap(),
            output: child.stdout.take().unwrap(),
            child,
            rest: Vec::new(),
            raw: String::new(),
            screen: Screen::default(),
        }
    }

    async fn write(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
    }

    /// Reads until the screen fits.
    async fn until(&mut self, what: &str, fits: impl Fn(&Screen) -> bool) {
        let read = async {
            while !fits(&self.screen) {
                assert!(self.read().await, "it ended without {what}: {:#?}", self.screen);
            }
        };
        if timeout(PATIENCE, read).await.is_err() {
            panic!("{what} did not come: {:#?}", self.screen);
        }
    }

    async fn until_raw(&mut self, what: &str, fits: impl Fn(&str) -> bool) {
        let read = async {
            while !fits(&self.raw) || !self.is_still().await {
                assert!(self.read().await, "it ended without {what}: {:#?}", self.screen);
            }
        };
        timeout(PATIENCE, read).await.expect(what);
    }

    /// Whether nothing is being drawn, so that the screen is not that of half a frame.
    async fn is_still(&mut self) -> bool {
        timeout(Duration::from_millis(50), self.read()).await.is_err()
    }

    /// Reads something. Returns `false` at the end.
    async fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let count = self.output.read(&mut bytes).await.unwrap();
        self.rest.extend(&bytes[..count]);
        let valid = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text: Vec<u8> = self.rest.drain(..valid).collect();
        let text = String::from_utf8(text).unwrap();
        self.screen.write(&text);
        self.raw += &text;
        count > 0
    }

    /// Reads the rest. Returns the exit code, too.
    async fn end(mut self) -> (Screen, Option<i32>) {
        let end = async {
            while self.read().await {}
            self.child.wait().await.unwrap().code()
        };
        let Ok(exit) = timeout(PATIENCE, end).await else {
            panic!("it did not end: {:#?}", self.screen);
        };
        (self.screen, exit)
    }
}

/// As much of a terminal as the example uses.
#[derive(Debug, Default)]
struct Screen {
    /// All lines from the first one on, those included that have left the window.
    lines: Vec<String>,
    /// Line and column of the cursor. A column behind the last one means that the next character wraps.
    row: usize,
    column: usize,
    /// An escape sequence that is not complete.
    escape: String,
    /// Whether any colour was set.
    coloured: bool,
}

impl Screen {
    fn has(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// The lines in the window.
    fn shown(&self) -> &[String] {
        &self.lines[self.lines.len().saturating_sub(ROWS)..]
    }

    /// The last line that is not empty.
    fn last(&self) -> Option<&str> {
        let mut lines = self.lines.iter().rev().map(|line| line.trim_end());
        lines.find(|line| !line.is_empty())
    }

    fn write(&mut self, text: &str) {
        for character in text.chars() {
            if !self.escape.is_empty() {
                self.escape.push(character);
                if character != '[' && (character.is_ascii_alphabetic() || self.escape.len() == 1) {
                    let escape = std::mem::take(&mut self.escape);
                    self.obey(&escape);
                }
                continue;
            }
            match character {
                '\x1b' => self.escape.push(character),
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                character => {
                    if self.column == COLUMNS {
                        (self.row, self.column) = (self.row + 1, 0);
                    }
                    self.put(character);
                    self.column += 1;
                }
            }
            while self.lines.len() <= self.row {
                self.lines.push(String::new());
            }
        }
    }

    fn put(&mut self, character: char) {
        while self.lines.len() <= self.row {
            self.lines.push(String::new());
        }
        let line = &mut self.lines[self.row];
        let mut characters: Vec<char> = line.chars().collect();
        characters.resize(characters.len().max(self.column + 1), ' ');
        characters[self.column] = character;
        *line = characters.into_iter().collect();
    }

    /// Does what a sequence such as `ESC [ 2 A` says.
    fn obey(&mut self, escape: &str) {
        let body = &escape[2..escape.len() - 1];
        let count: usize = body.parse().unwrap_or(1);
        let top = self.lines.len().saturating_sub(ROWS);
        match escape.chars().last() {
            Some('A') => self.row = self.row.saturating_sub(count).max(top),
            Some('B') => self.row = (self.row + count).min(top + ROWS - 1),
            Some('K') => {
                assert_eq!(body, "2", "{escape:?}");
                self.lines[self.row].clear();
            }
            Some('m') => self.coloured = true,
            Some('h' | 'l') => {}
            _ => panic!("{escape:?} is not known"),
        }
    }
}
