//! What the terminal shows at one moment, as lines that fit into its window. Nothing here reads or writes anything.

use std::time::Duration;

use mongoferry::{Phase, Status};

use super::collections::{Activity, Row, choose};
use super::text::{Tone, as_many_as_fit, bar, fit, grouped, pad, percent, share, size, size_of, sparkline, time};
use super::waits::Waiting;

/// Maximum number of collections that are shown at the same time.
const COLLECTIONS: usize = 8;

/// Maximum number of waits that are shown at the same time.
const WAITS: usize = 3;

/// Columns of the word that each line begins with.
const LABEL: usize = 9;

/// Columns of a window in which the totals have a bar, too.
const WIDE: usize = 100;

/// A lag that is drawn as high as a line if there was no higher one, in seconds.
const HIGH_LAG: f64 = 5.0;

/// Everything that the panel shows.
#[derive(Default)]
pub struct Panel<'a> {
    /// What is being done now, and for how long.
    pub step: Option<(&'a str, Duration)>,
    /// State of the run. `None` before there is one.
    pub status: Option<&'a Status>,
    pub collections: Vec<Row>,
    /// Bytes that are copied per second.
    pub bytes_per_second: Option<u64>,
    /// Calls to servers that are waited for, the longest wait first.
    pub waits: Vec<Waiting>,
    /// A further line of the demonstration.
    pub further: Option<String>,
    /// What to type next.
    pub next: String,
    /// What has been typed so far. `None` if nothing can be typed.
    pub typed: Option<&'a str>,
    pub colours: bool,
}

impl Panel<'_> {
    /// Returns at most `height` lines of at most `width` columns. If there is little room, the collections go first,
    /// and what to type stays.
    pub fn lines(&self, width: usize, height: usize) -> Vec<String> {
        let mut above = Vec::new();
        if let Some(status) = self.status {
            above.push(self.totals(status, width));
            above.push(self.changes(status, width));
        }
        if let Some((step, elapsed)) = self.step {
            above.push(labelled("now", &[step.to_owned(), time(elapsed)], width));
        }
        for wait in self.waits.iter().take(WAITS) {
            let elapsed = match wait.limit {
                Some(limit) => format!("{} of at most {}", time(wait.elapsed), time(limit)),
                None => time(wait.elapsed),
            };
            let line = labelled("waiting", &[wait.what.clone(), elapsed], width);
            above.push(self.paint(Tone::Warning, &line));
        }
        above.extend(self.further.as_ref().map(|further| fit(further, width)));
        let mut below = Vec::new();
        if !self.next.is_empty() {
            below.push(self.paint(Tone::Good, &labelled("next", std::slice::from_ref(&self.next), width)));
        }
        below.extend(self.typed.map(|typed| prompt(typed, width)));
        below.truncate(height);
        above.truncate(height - below.len());
        let mut lines = self.rows(width, height - below.len() - above.len());
        lines.append(&mut above);
        lines.append(&mut below);
        lines
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        match self.colours {
            true => tone.paint(text),
            false => text.to_owned(),
        }
    }

    /// The bars of the collections.
    fn rows(&self, width: usize, height: usize) -> Vec<String> {
        let (shown, further) = choose(&self.collections, height.min(COLLECTIONS));
        let longest = shown.iter().map(|row| console::measure_text_width(&row.name)).max();
        let name = longest.unwrap_or_default().min(width / 3);
        let line = |row: &Row| {
            let label = match row.activity {
                Activity::Copy => "copy",
                Activity::Index => "index",
                Activity::Compare => "compare",
            };
            let drawn = bar(row.share, (width / 4).clamp(5, 40));
            let parts = [
                format!("{} {drawn} {}", pad(&row.name, name), percent(row.share)),
                row.amount.clone(),
            ];
            labelled(label, &parts, width)
        };
        let mut lines: Vec<String> = shown.into_iter().map(line).collect();
        if further > 0 {
            lines.push(labelled("", &[format!("and {further} more collections")], width));
        }
        lines
    }

    /// The line about all documents.
    fn totals(&self, status: &Status, width: usize) -> String {
        let done = copied_share(status);
        let mut parts = vec![match width >= WIDE {
            true => format!("{} {}", bar(done, (width / 8).min(20)), percent(done)),
            false => percent(done).trim().to_owned(),
        }];
        parts.push(format!("{} documents", grouped(status.copied.documents)));
        if status.copy_complete {
            parts.push(size(status.copied.bytes));
            if status.indexes.total > 0 {
                parts.push(format!("{} of {} indexes", status.indexes.built, status.indexes.total));
            }
            if status.all_compared {
                parts.push("compared".to_owned());
            } else if status.compared.documents > 0 {
                let compared = share(status.compared.bytes, status.total.bytes);
                // Documents that have changed are compared again, so the share says nothing about the rest.
                parts.push(match compared < 1.0 {
                    true => format!("{} compared", percent(compared).trim()),
                    false => "changed documents are compared again".to_owned(),
                });
            }
        } else {
            parts.push(size_of(status.copied.bytes, status.total.bytes));
            parts.extend(status.time_left.map(|left| format!("{} left", time(left))));
            parts.extend(self.bytes_per_second.map(|rate| format!("{}/s", size(rate))));
        }
        labelled(phase(status.phase), &parts, width)
    }

    /// The line about the changes of the source.
    fn changes(&self, status: &Status, width: usize) -> String {
        let history: Vec<f64> = status
            .lag_history
            .iter()
            .map(|sample| sample.lag.as_secs_f64())
            .collect();
        let drawn = sparkline(&history, HIGH_LAG, (width / 5).clamp(5, 60));
        let now = status.lag.map_or("unknown".to_owned(), lag);
        let mut parts = vec![match drawn.is_empty() {
            true => now,
            false => format!("{drawn} {now}"),
        }];
        parts.extend(
            status
                .applied_per_second
                .map(|rate| format!("{} changes/s", grouped(rate.round() as u64))),
        );
        parts.push(format!("{} applied", grouped(status.changes.applied)));
        parts.push(format!("{} held", size(status.changes.held_bytes)));
        labelled("lag", &parts, width)
    }
}

/// Share of the documents that is copied.
pub fn copied_share(status: &Status) -> f64 {
    match status.copy_complete {
        true => 1.0,
        // The last chunk may still be on its way.
        false => share(status.copied.bytes, status.total.bytes).min(0.999),
    }
}

/// Formats the lag, with tenths of a second while it is small.
pub fn lag(lag: Duration) -> String {
    match lag.as_secs() {
        0..10 => format!("{:.1} s", lag.as_secs_f64()),
        _ => time(lag),
    }
}

/// The name of a phase for people.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::CatchUp => "catch up",
        other => other.as_str(),
    }
}

/// A line that begins with a word.
fn labelled(label: &str, parts: &[String], width: usize) -> String {
    let label = pad(label, LABEL.min(width)) + " ";
    let left = width.saturating_sub(console::measure_text_width(&label));
    fit(&(label + &as_many_as_fit(parts, ", ", left)), width)
}

/// The line with what is typed. Of a long text the end is shown.
fn prompt(typed: &str, width: usize) -> String {
    let room = width.saturating_sub(3);
    let mut shown = String::new();
    for character in typed.chars().rev() {
        let longer = format!("{character}{shown}");
        if console::measure_text_width(&longer) > room {
            break;
        }
        shown = longer;
    }
    fit(&format!("> {shown}_"), width)
}

#[cfg(test)]
mod tests {
    use super::super::collections::tests::row;
    use super::*;

    fn waiting(what: &str) -> Waiting {
        Waiting {
            what: what.to_owned(),
            elapsed: Duration::from_secs(2),
            limit: Some(Duration::from_secs(30)),
        }
    }

    fn copying() -> Status {
        let mut status = Status::default();
        status.phase = Phase::Copy;
        (status.copied.documents, status.copied.bytes) = (1_234_567, 450_000_000);
        (status.total.documents, status.total.bytes) = (2_500_000, 1_000_000_000);
        status.time_left = Some(Duration::from_secs(75));
        status.lag = Some(Duration::from_millis(1200));
        status.applied_per_second = Some(411.7);
        status
    }

    #[test]
    fn lines_fit_into_every_window() {
        let status = copying();
        let names = ["shop.orders", "shop.一个很长的集合名称一个很长的集合名称", "a.b"];
        let panel = Panel {
            status: Some(&status),
            step: Some(("connecting to the source and to the target", Duration::from_secs(3))),
            collections: names.iter().map(|name| row(Activity::Copy, name, 1)).collect(),
            bytes_per_second: Some(12_300_000),
            waits: vec![waiting("source: connect to db1.example:27017"); 5],
            further: Some("application: 1,204 operations".to_owned()),
            next: "type `cutover` to cut over".to_owned(),
            typed: Some("extend 商店商店商店商店商店商店商店商店商店商店商店商店商店商店商店商店商店商店"),
            colours: true,
        };
        for width in 1..200 {
            for height in 1..20 {
                let lines = panel.lines(width, height);
                assert!(lines.len() <= height, "{height}: {lines:#?}");
                for line in &lines {
                    assert!(console::measure_text_width(line) <= width, "{width}: {line}");
                    assert!(!line.contains('\n'));
                }
            }
        }
    }

    #[test]
    fn a_wide_window_shows_everything() {
        let status = copying();
        let panel = Panel {
            status: Some(&status),
            collections: vec![row(Activity::Copy, "shop.orders", 1)],
            bytes_per_second: Some(12_300_000),
            next: "type `abandon` to stop".to_owned(),
            typed: Some("aban"),
            ..Panel::default()
        };
        assert_eq!(
            panel.lines(110, 24),
            [
                "copy      shop.orders █████████████░░░░░░░░░░░░░░  50 %, 5,000 of 10,000 documents",
                "copy      █████░░░░░░░░  45 %, 1,234,567 documents, 0.45 of 1.00 GB, 1 min 15 s left, 12.3 MB/s",
                "lag       1.2 s, 412 changes/s, 0 applied, 0.0 MB held",
                "next      type `abandon` to stop",
                "> aban_",
            ]
        );
    }

    #[test]
    fn the_totals_fit_into_80_columns() {
        let mut status = copying();
        let totals = |status: &Status| {
            let panel = Panel {
                status: Some(status),
                bytes_per_second: Some(9_300_000),
                ..Panel::default()
            };
            panel.lines(79, 24)[0].clone()
        };
        assert_eq!(
            totals(&status),
            "copy      45 %, 1,234,567 documents, 0.45 of 1.00 GB, 1 min 15 s left, 9.3 MB/s"
        );
        status.copied.documents *= 1000;
        assert!(totals(&status).ends_with("1 min 15 s left"), "{}", totals(&status));
    }

    #[test]
    fn what_is_waited_for_is_named_before_any_run() {
        let panel = Panel {
            step: Some(("connecting", Duration::from_secs(2))),
            waits: vec![waiting("source: connect to db1.example:27017")],
            ..Panel::default()
        };
        assert_eq!(
            panel.lines(79, 24),
            [
                "now       connecting, 2 s",
                "waiting   source: connect to db1.example:27017, 2 s of at most 30 s",
            ]
        );
    }

    #[test]
    fn what_to_type_stays_in_a_small_window() {
        let status = copying();
        let panel = Panel {
            status: Some(&status),
            collections: vec![row(Activity::Copy, "shop.orders", 1)],
            next: "type `cutover` to cut over".to_owned(),
            typed: Some(""),
            ..Panel::default()
        };
        let lines = panel.lines(80, 3);
        assert!(lines[0].starts_with("copy      45 %"), "{lines:#?}");
        assert_eq!(lines[1..], ["next      type `cutover` to cut over", "> _"]);
    }

    #[test]
    fn an_unfinished_copy_is_never_shown_as_whole() {
        let mut status = copying();
        status.copied.bytes = status.total.bytes + 5;
        assert_eq!(percent(copied_share(&status)), " 99 %");
        status.copy_complete = true;
        assert_eq!(percent(copied_share(&status)), "100 %");
    }

    #[test]
    fn the_end_of_a_long_line_is_seen_while_it_is_typed() {
        assert_eq!(prompt("throttle 1000 2000", 12), "> 1000 2000_");
        assert_eq!(prompt("throttle 1000 2000", 11), "> 000 2000_");
    }

    #[test]
    fn times_of_the_lag_are_short() {
        assert_eq!(lag(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(lag(Duration::from_secs(100)), "1 min 40 s");
    }
}
