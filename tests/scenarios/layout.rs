//! Imports go down: a file of `src` uses rooms on floors below its own, or its own room, and nothing above.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up. Rooms of one floor do not use each other, but for those named in `NEIGHBOURS`.
const FLOORS: &[&[&str]] = &[
    &["order", "error"],
    &["spill", "model"],
    &["catalog", "compare", "users"],
    &["oplog"],
    &["rules"],
    &["sink"],
    &["source"],
    &["checkpoint"],
    &["config"],
    &["mongo"],
    &["report"],
    &["runtime"],
    &["preflight"],
    &["engine::track"],
    &["engine::ownership", "engine::messages"],
    &["engine::copy", "engine::start"],
    &[
        "engine::follow",
        "engine::checkpointer",
        "engine::watch",
        "engine::expiry",
        "engine::window",
        "engine::users",
    ],
    &["engine::write_block"],
    &["engine"],
    &["engine::supervise"],
    &["cutover"],
    &["api"],
    &["console"],
];

/// What is for tests, or only shows what is below under a public path.
const OUTSIDE: &[&str] = &["conformance", "docs", "test_util", "lib"];

#[test]
fn imports_go_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in files(&source) {
        let module = path.strip_prefix(&source).unwrap().with_extension("");
        let module: Vec<&str> = module
            .iter()
            .map(|part| part.to_str().unwrap())
            .filter(|part| *part != "mod")
            .collect();
        if OUTSIDE.contains(&module[0]) || is_test(&module) {
            continue;
        }
        let own = room(&module).unwrap_or_else(|| panic!("{module:?} is on no floor"));
        for used in uses(&fs::read_to_string(&path).unwrap()) {
            let used: Vec<&str> = used.split("::").collect();
            if used[0] == "METADATA_DATABASE" || OUTSIDE.contains(&used[0]) {
                continue;
            }
            let other = room(&used).unwrap_or_else(|| panic!("{module:?} uses {used:?}, which is on no floor"));
            if other.0 > own.0 || (other.0 == own.0 && other.1 != own.1) {
                wrong.push(format!("{} uses {}", module.join("::"), used.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The floor of a module, and the room.
fn room(module: &[&str]) -> Option<(usize, &'static str)> {
    let rooms = || {
        FLOORS
            .iter()
            .enumerate()
            .flat_map(|(floor, rooms)| rooms.iter().map(move |room| (floor, *room)))
    };
    let inner = module.iter().take(2).copied().collect::<Vec<_>>().join("::");
    rooms()
        .find(|(_, room)| *room == inner)
        .or_else(|| rooms().find(|(_, room)| *room == module[0]))
}

/// The paths from the crate's root in code that is no test. What is shown under another path by `pub use` is not used.
fn uses(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//") && !line.starts_with("pub use "));
    let code: String = lines.flat_map(|line| [line, "\n"]).collect();
    let path = |rest: &str| {
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        rest[..end].trim_end_matches(':').to_owned()
    };
    code.split("crate::")
        .skip(1)
        .map(path)
        .filter(|path| !path.is_empty())
        .collect()
}

fn is_test(module: &[&str]) -> bool {
    module
        .iter()
        .any(|part| ["tests", "fixture", "samples", "table"].contains(part))
        && !module.ends_with(&["memory", "table"])
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
