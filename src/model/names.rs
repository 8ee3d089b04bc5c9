//! Names in messages.

use std::fmt::Display;

/// Joins names for a message: the first `most` of them, and the number of the others.
pub(crate) fn joined<T: Display>(names: &[T], most: usize) -> String {
    let first: Vec<String> = names.iter().take(most).map(ToString::to_string).collect();
    let text = first.join(", ");
    match names.len().saturating_sub(most) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        assert_eq!(joined(&["a", "b"], 2), "a, b");
        assert_eq!(joined(&["a", "b", "c"], 2), "a, b and 1 more");
        assert_eq!(joined::<String>(&[], 2), "");
    }
}
