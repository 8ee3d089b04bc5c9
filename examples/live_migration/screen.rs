//! The terminal: lines that stay, and below them a panel that is redrawn in place.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Maximum number of times that the panel is drawn in a second.
const RATE: u8 = 30;

/// Number of lines that are written again when the size of the window has changed.
const KEPT: usize = 200;

/// A terminal on standard output and standard error. Dropping this removes the panel.
pub struct Screen {
    term: Term,
    /// `indicatif` redraws it and knows how many lines of the window it has taken. One bar has all lines, so that a tick
    /// draws once.
    bar: ProgressBar,
    /// Height and width of the window when the panel was last drawn.
    size: (u16, u16),
    /// The last lines that stay.
    kept: VecDeque<String>,
}

impl Screen {
    /// Returns `None` unless both outputs are terminals that can be drawn on.
    pub fn new() -> Option<Self> {
        if !io::stdout().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(RATE));
        // Hidden is what `TERM` says cannot be drawn on.
        (!bar.is_hidden()).then(|| {
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            let term = Term::stderr();
            // The panel shows where text is typed. Errors mean that the terminal is gone, here and below.
            let _ = term.hide_cursor();
            Self {
                size: term.size(),
                term,
                bar,
                kept: VecDeque::new(),
            }
        })
    }

    /// Height and width of the window, without the last line and the last column.
    pub fn room(&self) -> (usize, usize) {
        let (height, width) = self.term.size();
        (
            usize::from(height.max(2)) - 1,
            // Some terminals wrap a line already that fills the window.
            usize::from(width.max(2)) - 1,
        )
    }

    /// Redraws the panel with these lines.
    pub fn draw(&mut self, lines: &[String]) {
        let size = self.term.size();
        if self.size != size {
            self.size = size;
            self.restore();
        }
        let lines = lines.join("\n");
        if self.bar.message() != lines {
            self.bar.set_message(lines);
        }
    }

    /// Writes lines above the panel, which stay.
    pub fn write(&mut self, lines: &[String]) {
        self.bar.suspend(|| {
            for line in lines {
                let _ = writeln!(io::stderr(), "{line}");
            }
        });
        self.kept.extend(lines.iter().cloned());
        let surplus = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..surplus);
    }

    /// Clears the window, and writes again what was in it. Where the old lines are after a change of its size is known
    /// only to the terminal: some wrap them anew, others cut them off.
    fn restore(&self) {
        let height = usize::from(self.size.0);
        self.bar.suspend(|| {
            let mut text = String::from("\x1b[H\x1b[2J");
            for line in self.kept.iter().skip(self.kept.len().saturating_sub(height)) {
                text += line;
                text.push('\n');
            }
            let _ = io::stderr().write_all(text.as_bytes());
        });
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        let _ = self.term.show_cursor();
    }
}
