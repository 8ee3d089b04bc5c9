//! Text for people: numbers, times, colours, and drawing with characters. Nothing here reads or writes anything.

use std::time::Duration;

/// How a line is meant. On a terminal it decides about the colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Tone {
    /// Puts `text` between the escape codes for this tone.
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => 32,
            Self::Warning => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Cuts a line to `width` columns. Escape codes do not count, and wide characters count twice.
pub fn fit(line: &str, width: usize) -> String {
    console::truncate_str(line, width, "…").into_owned()
}

/// Cuts a line to `width` columns, or fills it with spaces.
pub fn pad(text: &str, width: usize) -> String {
    let text = fit(text, width);
    let missing = width.saturating_sub(console::measure_text_width(&text));
    text + &" ".repeat(missing)
}

/// Returns as many of the parts, from the first one on, as fit into `width` columns with `separator` between them. The
/// first part always stays, cut off if necessary.
pub fn as_many_as_fit(parts: &[String], separator: &str, width: usize) -> String {
    let mut parts = parts.iter();
    let mut line = parts.next().cloned().unwrap_or_default();
    for part in parts {
        let longer = format!("{line}{separator}{part}");
        if console::measure_text_width(&longer) > width {
            break;
        }
        line = longer;
    }
    fit(&line, width)
}

/// Draws values as a row of blocks of different heights: the newest `width` of them, the highest one as high as a line.
/// `floor` is the least value that is drawn that high, so that small values look small.
pub fn sparkline(values: &[f64], floor: f64, width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let highest = shown.iter().copied().fold(floor, f64::max);
    let block = |value: &f64| {
        let height = (value / highest * (BLOCKS.len() - 1) as f64).round() as usize;
        BLOCKS[height.min(BLOCKS.len() - 1)]
    };
    shown.iter().map(block).collect()
}

/// Draws a share between 0 and 1 as a bar. A bar looks full only if the share is 1.
pub fn bar(share: f64, width: usize) -> String {
    let full = match share >= 1.0 {
        true => width,
        false => ((share * width as f64) as usize).min(width.saturating_sub(1)),
    };
    "█".repeat(full) + &"░".repeat(width - full)
}

/// Part of a whole from 0 to 1. There may turn out to be more than was counted at first.
pub fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => (part as f64 / whole as f64).min(1.0),
    }
}

/// Formats a share as percent, rounded down, so that 100 % means all.
pub fn percent(share: f64) -> String {
    format!("{:>3.0} %", (share * 100.0).floor())
}

/// Formats a number of bytes with a unit that leaves few digits.
pub fn size(bytes: u64) -> String {
    let (unit, name, digits) = unit(bytes);
    format!("{:.digits$} {name}", bytes as f64 / unit)
}

/// Formats a part of a number of bytes, both in the unit of the whole.
pub fn size_of(part: u64, whole: u64) -> String {
    let (unit, name, digits) = unit(whole);
    format!(
        "{:.digits$} of {:.digits$} {name}",
        part as f64 / unit,
        whole as f64 / unit
    )
}

/// A unit, its name, and the digits after the point.
fn unit(bytes: u64) -> (f64, &'static str, usize) {
    match bytes {
        1_000_000_000_000.. => (1e12, "TB", 2),
        1_000_000_000.. => (1e9, "GB", 2),
        _ => (1e6, "MB", 1),
    }
}

/// Formats a time in its two largest units.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

/// Formats a number with commas between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_the_newest_values_relative_to_the_highest() {
        assert_eq!(sparkline(&[0.0, 7.0, 14.0], 1.0, 10), "▁▅█");
        assert_eq!(sparkline(&[100.0, 0.0, 1.0, 2.0], 1.0, 3), "▁▅█");
        assert_eq!(sparkline(&[], 1.0, 10), "");
    }

    #[test]
    fn small_values_look_small_in_a_sparkline() {
        assert_eq!(sparkline(&[0.0, 0.1, 0.2], 2.0, 10), "▁▁▂");
        assert_eq!(sparkline(&[0.0], 0.0, 10), "▁", "nothing is divided by zero");
    }

    #[test]
    fn lines_are_cut_to_columns_that_are_seen() {
        assert_eq!(fit("shop.orders", 20), "shop.orders");
        assert_eq!(fit("shop.orders", 6), "shop.…");
        assert_eq!(fit("商店.订单", 6), "商店.…");
        assert_eq!(console::measure_text_width(&fit(&Tone::Bad.paint("shop.orders"), 6)), 6);
        assert_eq!(pad("订单", 6), "订单  ");
        assert_eq!(pad("shop.orders", 6), "shop.…");
    }

    #[test]
    fn parts_that_do_not_fit_are_left_out_from_the_end() {
        let parts = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(as_many_as_fit(&parts, ", ", 15), "one, two, three");
        assert_eq!(as_many_as_fit(&parts, ", ", 14), "one, two");
        assert_eq!(as_many_as_fit(&parts, ", ", 2), "o…");
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        assert_eq!(bar(0.0, 4), "░░░░");
        assert_eq!(bar(0.5, 4), "██░░");
        assert_eq!(bar(0.999, 4), "███░");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(percent(0.999), " 99 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(share(3, 0), 0.0);
        assert_eq!(share(5, 4), 1.0);
    }

    #[test]
    fn numbers_and_times_are_easy_to_read() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(size(112_140_000), "112.1 MB");
        assert_eq!(size(2_345_000_000), "2.35 GB");
        assert_eq!(size_of(450_000_000, 2_345_000_000), "0.45 of 2.35 GB");
        assert_eq!(time(Duration::from_secs(59)), "59 s");
        assert_eq!(time(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(time(Duration::from_secs(7320)), "2 h 2 min");
        assert_eq!(time(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
