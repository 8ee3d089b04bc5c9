//! Typing on a terminal whose screen is being drawn at the same time.
//!
//! The terminal would echo what is typed into the middle of what is drawn. Therefore the echo is off while the program
//! runs, and the program shows the typed text itself. Ctrl-C and Ctrl-Z work as always.

use std::io;

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// Maximum length of a line in bytes. More is ignored.
const LONGEST: usize = 1000;

/// The terminal of standard input without echo. Dropping this restores it.
pub struct Keyboard {
    before: Termios,
}

impl Keyboard {
    /// Turns the echo off. Returns `None` if standard input is no terminal, or that of another process: to change such
    /// a terminal would stop this process.
    pub fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok().filter(|_| in_foreground())?;
        let keyboard = Self { before };
        keyboard.echo_off();
        Some(keyboard)
    }

    /// Turns the echo off again after the process was stopped and continued: the shell has turned it on.
    pub fn echo_off(&self) {
        let mut modes = self.before.clone();
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        if in_foreground() {
            // A terminal that refuses it still works: it shows the typed text twice.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if in_foreground() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        }
    }
}

fn in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// The line that is being typed.
#[derive(Debug, Default)]
pub struct Line {
    bytes: Vec<u8>,
    /// Position in an escape sequence, such as that of an arrow key, which is ignored.
    escape: Escape,
}

#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    Begun,
    Parameters,
}

impl Line {
    /// Takes a byte that was typed. Returns the line when it is complete.
    pub fn push(&mut self, byte: u8) -> Option<String> {
        match (self.escape, byte) {
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Parameters,
            (Escape::Parameters, 0x20..=0x3f) => {}
            (Escape::Begun | Escape::Parameters, _) => self.escape = Escape::None,
            (Escape::None, 0x1b) => self.escape = Escape::Begun,
            (Escape::None, b'\n' | b'\r') => {
                let line = self.text();
                self.bytes.clear();
                return Some(line);
            }
            // Backspace, one character back.
            (Escape::None, 0x08 | 0x7f) => while self.bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U and Ctrl-W, the whole line and the last word.
            (Escape::None, 0x15) => self.bytes.clear(),
            (Escape::None, 0x17) => {
                let text = self.text();
                let rest = text.trim_end().rfind(' ').map_or(0, |space| space + 1);
                self.bytes.truncate(rest);
            }
            (Escape::None, 0..0x20) => {}
            (Escape::None, byte) if self.bytes.len() < LONGEST => self.bytes.push(byte),
            (Escape::None, _) => {}
        }
        None
    }

    /// What has been typed so far. A character of which not all bytes have come is left out.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.chars()
            .filter(|character| !character.is_control() && *character != char::REPLACEMENT_CHARACTER)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are complete, and what is left.
    fn typed(bytes: &str) -> (Vec<String>, String) {
        let mut line = Line::default();
        let complete = bytes.bytes().filter_map(|byte| line.push(byte)).collect();
        (complete, line.text())
    }

    #[test]
    fn lines_are_complete_at_their_end() {
        let (complete, rest) = typed("pause\nextend 3\rcut");
        assert_eq!(complete, ["pause", "extend 3"]);
        assert_eq!(rest, "cut");
    }

    #[test]
    fn characters_words_and_lines_are_erased() {
        assert_eq!(typed("paüö\x7f\x08use").1, "pause");
        assert_eq!(typed("paö\x7f\x7fause").1, "pause");
        assert_eq!(typed("extend 30\x17").1, "extend ");
        assert_eq!(typed("extend 30\x17\x17").1, "");
        assert_eq!(typed("nonsense\x15pause").1, "pause");
        assert_eq!(typed("\x7f\x7fa").1, "a");
    }

    #[test]
    fn arrow_keys_and_other_controls_type_nothing() {
        assert_eq!(typed("pa\x1b[Aus\x1bOCe\x1b[1;5D\t\x04").1, "pause");
    }

    #[test]
    fn a_line_is_bounded() {
        assert_eq!(typed(&"a".repeat(LONGEST + 5)).1.len(), LONGEST);
    }
}
