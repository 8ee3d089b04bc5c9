//! Guides: how a migration works, and how to run one.
//!
//! | page | answers |
//! |---|---|
//! | [concepts] | What happens to a document and to a change? What is migrated? What survives a crash? |
//! | [cutover] | How do the applications move to the target, and how do they move back? |
//! | [documents] | Which documents migrate, and in which form? |
//! | [verification] | How is it known that both sides are identical? |
//! | [operations] | How is a migration run, what is watched, and what is done about an error or a finding? |
//! | [format](mod@format) | How are status, events, findings, errors and results written as JSON, and how are settings read? |
//! | [observability] | What goes to logs, traces, dashboards and alerts? |
//! | [console] | How do people run migrations in a web page, and programs over HTTP? |
//! | [sizing] | How much memory, disk, oplog and bandwidth does it need? |
//! | [security] | Which users and privileges does it need, and what does it store where? |
//! | [versions] | Which server versions work, from which to which? |
//! | [benchmarks] | How fast is it, and how is that measured? |
//! | [hosted] | How does it compare with the procedure of hosted live migration? |
//! | [contributing] | How are the tests run, and how is a rule, an oplog entry or a server version added? |

#[doc = include_str!("concepts.md")]
pub mod concepts {}

#[doc = include_str!("cutover.md")]
pub mod cutover {}

#[doc = include_str!("documents.md")]
pub mod documents {}

#[doc = include_str!("verification.md")]
pub mod verification {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("format.md")]
pub mod format {}

#[doc = include_str!("observability.md")]
pub mod observability {}

#[doc = include_str!("console.md")]
pub mod console {}

#[doc = include_str!("sizing.md")]
pub mod sizing {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("versions.md")]
pub mod versions {}

#[doc = include_str!("benchmarks.md")]
#[doc = "\n# The numbers as a picture\n"]
#[doc = include_str!("live.svg")]
pub mod benchmarks {}

#[doc = include_str!("hosted.md")]
pub mod hosted {}

#[doc = include_str!("contributing.md")]
pub mod contributing {}

#[cfg(test)]
pub(crate) mod format_test;
#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use crate::error::FindingCode;

    const OPERATIONS: &str = include_str!("operations.md");

    /// What stands in backticks in the first cell of each row of a part of the runbook.
    fn first_cells(from: &str, to: &str) -> Vec<&'static str> {
        let (_, part) = OPERATIONS.split_once(from).unwrap();
        let (part, _) = part.split_once(to).unwrap();
        part.lines()
            .filter(|line| line.starts_with("| `"))
            .flat_map(|line| line.split('|').nth(1).unwrap().split(','))
            .map(|name| name.trim().trim_matches('`'))
            .collect()
    }

    #[track_caller]
    fn assert_same(documented: &[&str], expected: BTreeSet<&str>) {
        let unique: BTreeSet<&str> = documented.iter().copied().collect();
        assert_eq!(unique, expected);
        assert_eq!(unique.len(), documented.len(), "one has two rows");
    }

    #[test]
    fn runbook_has_a_row_for_each_error_kind() {
        let (_, kinds) = include_str!("../error/mod.rs")
            .split_once("pub enum ErrorKind {\n")
            .unwrap();
        let (kinds, _) = kinds.split_once("\n}").unwrap();
        let kinds = kinds.lines().filter_map(|line| line.trim().strip_suffix(','));
        let kinds: BTreeSet<&str> = kinds.filter(|line| !line.contains("//")).collect();
        assert!(kinds.len() > 20, "{kinds:?}");
        assert_same(
            &first_cells("# The run ended with an error", "## Remove the checkpoint"),
            kinds,
        );
    }

    #[test]
    fn runbook_has_a_row_for_each_finding() {
        let codes = FindingCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_same(&first_cells("# Findings of preflight", "# After the cutover"), codes);
    }

    #[test]
    fn files_that_the_readme_links_to_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for (_, rest) in include_str!("../../README.md")
            .match_indices("](")
            .map(|(at, _)| include_str!("../../README.md").split_at(at + 2))
        {
            let (target, _) = rest.split_once(')').unwrap();
            let file = target.split('#').next().unwrap();
            if !file.contains("://") {
                assert!(root.join(file).is_file(), "{target}");
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn files_that_contributing_names_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for quoted in include_str!("contributing.md").split('`').skip(1).step_by(2) {
            if ["src/", "tests/", "benches/"]
                .iter()
                .any(|folder| quoted.starts_with(folder))
            {
                assert!(root.join(quoted).exists(), "{quoted}");
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }

    /// All Rust code below a folder.
    fn code(folder: &Path, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                code(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    /// A test that is renamed or taken out is missed here.
    #[test]
    fn each_row_of_hosted_names_tests_that_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut all = String::new();
        for folder in ["src", "tests"] {
            code(&root.join(folder), &mut all);
        }
        let rows = include_str!("hosted.md")
            .lines()
            .filter(|line| line.starts_with("| ") && !line.contains("shown by"));
        let mut count = 0;
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 3, "{row}");
            for test in cells[2]
                .split(',')
                .map(|name| name.trim().trim_matches('`'))
                .filter(|name| !name.is_empty())
            {
                assert!(all.contains(&format!("fn {test}(")), "there is no test `{test}`");
                count += 1;
            }
        }
        assert!(count > 50, "{count}");
    }
}
