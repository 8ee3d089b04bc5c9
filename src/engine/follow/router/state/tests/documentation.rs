//! The tests that the router's documentation names exist.

#[test]
fn named_tests_exist() {
    let tests = [
        include_str!("table.rs"),
        include_str!("chunks.rs"),
        include_str!("relief.rs"),
        include_str!("barriers.rs"),
        include_str!("comparisons.rs"),
        include_str!("random/mod.rs"),
        include_str!("../../tests.rs"),
    ]
    .concat();
    let documentation = include_str!("../../mod.rs")
        .lines()
        .take_while(|line| line.starts_with("//!"));
    let mut named = 0;
    for line in documentation {
        for name in line.split('`').skip(1).step_by(2) {
            // A name of a test is a sentence.
            if name.matches('_').count() >= 3 {
                named += 1;
                assert!(tests.contains(&format!("fn {name}()")), "there is no test {name}");
            }
        }
    }
    assert!(named >= 15, "{named}");
}
