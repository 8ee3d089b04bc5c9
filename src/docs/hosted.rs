#![doc = include_str!("hosted.md")]

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

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
    fn each_row_names_tests_that_exist() {
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
