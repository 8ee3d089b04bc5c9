//! Rules for sources that the driver does not talk to, and what was run of each.

use bson::Document;

use super::Context;
use super::path::{DRIVER, Series, series, text, too_low};
use crate::error::{Finding, FindingCode};
use crate::model::LOSES_WRITES;

/// What tests run of a version as a source, in place of replica sets of that version.
pub(super) struct Run {
    pub source: Series,
    pub what: &'static str,
    /// Series of the targets.
    pub targets: &'static [Series],
}

/// A 4.2 that is made to look like the version.
const EMULATION: &str = "an emulation on a 4.2";

/// All versions before 4.2 that are read. The README and the guide `versions` say the same, and a test compares them with this.
pub(super) const RUNS: &[Run] = &[
    Run {
        source: [2, 6],
        what: "a replay of what a real 2.6.12 logged, and an emulation on a 4.2",
        targets: &[[6, 0]],
    },
    Run {
        source: [3, 0],
        what: "replays of what a real 3.0.15 logged, and an emulation on a 4.2",
        targets: &[[6, 0]],
    },
    Run {
        source: [3, 2],
        what: EMULATION,
        targets: &[[6, 0]],
    },
    Run {
        source: [3, 4],
        what: EMULATION,
        targets: &[[6, 0]],
    },
    Run {
        source: [3, 6],
        what: EMULATION,
        targets: &[[6, 0]],
    },
    Run {
        source: [4, 0],
        what: "a real 4.2 at feature compatibility version 4.0, and an emulation on a 4.2",
        targets: &[[4, 2], [6, 0]],
    },
];

/// Reports what is special about a source that the driver does not talk to.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let source = series(context.source);
    untested(source, findings);
    let weakness = match source {
        [..3, _] | [3, 0] => context.source.deployment.weakness(),
        _ => has_protocol_version_0(&context.source.inspection.hello)
            .then(|| format!("the source's replica set has protocol version 0, and {LOSES_WRITES}")),
    };
    if let Some(weakness) = weakness {
        findings.push(Finding::warning(
            FindingCode::SourcePromise,
            weakness,
            "avoid elections of the source during the migration, and have the applications check their newest writes if there was one",
        ));
    }
    let target = &context.target.deployment;
    // At 4.0, indexes refuse keys over 1024 bytes, of which a source with `failIndexKeyTooLong` off may have some.
    if target.feature_compatibility < DRIVER && series(context.target) >= DRIVER {
        findings.push(too_low(
            context,
            &format!(
                "keeps limits of old servers; a source of {} needs 4.2 or newer",
                text(source)
            ),
        ));
    }
}

fn untested(source: Series, findings: &mut Vec<Finding>) {
    let run = match RUNS.iter().find(|run| run.source == source) {
        Some(run) => {
            let targets: Vec<String> = run.targets.iter().map(|series| text(*series)).collect();
            format!("what was run is {}, to targets of {}", run.what, targets.join(" and "))
        }
        None => "nothing like it was run".to_owned(),
    };
    findings.push(Finding::warning(
        FindingCode::UntestedPath,
        format!(
            "no replica set of {} was run as a source: {run}; the rest is known from the server's source code",
            text(source)
        ),
        "rehearse with a copy of the data",
    ));
}

/// Whether the set elects its primaries by the older protocol. From 3.2 on, the id of an election by the newer one begins with these bytes.
fn has_protocol_version_0(hello: &Document) -> bool {
    hello
        .get_object_id("electionId")
        .is_ok_and(|election| election.bytes()[..4] != [0x7f, 0xff, 0xff, 0xff])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::fixture::{Facts, findings};

    #[test]
    #[cfg(feature = "legacy")]
    fn each_old_version_says_what_was_run_of_it() {
        for run in RUNS {
            let mut facts = Facts::new();
            facts.source.deployment.version = [run.source[0], run.source[1], 9];
            let found = findings(&facts, super::super::path::check);
            let finding = found.iter().find(|finding| finding.code == "untested_path").unwrap();
            assert!(finding.message.contains(run.what), "{finding:?}");
            for target in run.targets {
                assert!(finding.message.contains(&text(*target)), "{finding:?}");
            }
        }
    }

    /// The row of the README has a cell for each of 4.2, 4.4, 5.0, 6.0, and one for what is newer.
    #[test]
    fn readme_and_guide_say_what_was_run() {
        let targets: [Series; 5] = [[4, 2], [4, 4], [5, 0], [6, 0], [7, 0]];
        let cells = targets.map(|target| {
            let mut to: Vec<String> = Vec::new();
            for run in RUNS.iter().filter(|run| run.targets.contains(&target)) {
                to.push(text(run.source));
            }
            match to.len() {
                0 => "read from source".to_owned(),
                all if all == RUNS.len() => "emulated".to_owned(),
                _ => format!("emulated ({})", to.join(", ")),
            }
        });
        let row = format!("| 2.6 to 4.0 | {} |", cells.join(" | "));
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&row), "the README lacks the row\n{row}");
        let guide = include_str!("../docs/versions.md");
        for run in RUNS {
            let to: Vec<String> = run.targets.iter().map(|series| text(*series)).collect();
            let row = format!("| {} | {} | {} |", text(run.source), run.what, to.join(", "));
            assert!(guide.contains(&row), "the guide lacks the row\n{row}");
        }
    }
}
