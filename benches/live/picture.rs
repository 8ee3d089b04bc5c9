//! Draws the medians as bars, each with a line from the least to the greatest.

use std::fmt::Write as _;

use crate::Result;
use crate::report::{Case, Report};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 250.0;
const BARS: f64 = 430.0;
const ROW: f64 = 26.0;

/// What is drawn of each group, and in which words.
const GROUPS: [(&str, &str); 5] = [
    ("copy", "Copy with indexes: seconds, less is better"),
    ("verify", "Comparing both sides: seconds, less is better"),
    ("cutover", "Cutover with verification: seconds, less is better"),
    ("catch-up", "Catch-up: seconds, less is better"),
    ("tail", "Reading and routing the oplog: seconds, less is better"),
];

/// The picture as SVG.
///
/// # Errors
/// Nothing was measured.
pub(crate) fn draw(report: &Report) -> Result<String> {
    let mut rows = String::new();
    let mut y = 62.0;
    for (group, title) in GROUPS {
        let cases: Vec<&Case> = report.cases(group).collect();
        let longest = cases.iter().map(|case| case.seconds()[2]).fold(0.0, f64::max);
        if cases.is_empty() || longest <= 0.0 {
            continue;
        }
        text(&mut rows, 16.0, y, "head", "start", title);
        y += 10.0;
        for case in cases {
            bar(&mut rows, y, case, BARS / longest);
            y += ROW;
        }
        y += 28.0;
    }
    if rows.is_empty() {
        return Err("nothing was measured that could be drawn".into());
    }
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <style>.head {{ font-weight: bold }} .note {{ fill: #666; font-size: 11px }} .ours {{ fill: #13795b }} .other {{ fill: #9aa5b1 }}\
         </style>\n<rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, 16.0, 22.0, "note", "start", &report.title);
    text(&mut svg, 16.0, 38.0, "note", "start", &report.machine);
    Ok(svg + &rows + "</svg>\n")
}

fn bar(svg: &mut String, y: f64, case: &Case, scale: f64) {
    let [least, median, most] = case.seconds();
    let class = if case.name.starts_with("mongoferry") {
        "ours"
    } else {
        "other"
    };
    let middle = y + ROW / 2.0;
    text(
        svg,
        LABELS - 8.0,
        middle + 4.0,
        "name",
        "end",
        case.name.trim_start_matches("mongoferry, "),
    );
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"18\"/>",
        y + 4.0,
        median * scale
    );
    let (from, to) = (LABELS + least * scale, LABELS + most * scale);
    let _ = writeln!(
        svg,
        "<path d=\"M{from:.1} {middle}H{to:.1}M{from:.1} {}v6M{to:.1} {}v6\" stroke=\"#222\" fill=\"none\"/>",
        middle - 3.0,
        middle - 3.0
    );
    let mut label = format!("{median:.1} s");
    if let Some(cpu) = case.client_cpu_per_unit() {
        let unit = match case.amount {
            crate::report::Amount::Megabytes(_) => "ms/MB",
            crate::report::Amount::Collections(_) => "ms each",
            crate::report::Amount::Entries(_) => "us/entry",
        };
        let _ = write!(label, ", {cpu:.2} {unit} CPU");
    }
    text(
        svg,
        to.max(LABELS + median * scale) + 8.0,
        middle + 4.0,
        "name",
        "start",
        &label,
    );
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}
