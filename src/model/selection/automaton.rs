//! Patterns and names as automata that read a name character by character.
//!
//! A pattern with only `*` has a small deterministic automaton: each part between two `*` is best matched where it first occurs. So the
//! complement of a pattern is as easy to follow as the pattern itself.

use std::collections::HashMap;

/// State of an automaton.
pub(super) type State = u32;

/// The state from which nothing is accepted any more.
pub(super) const DEAD: State = State::MAX;

/// The automaton of a pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    /// The characters of all parts, one after the other. A state is an index into them: everything before it is matched.
    steps: Vec<Step>,
    /// Whether the pattern ends with `*`, so that the state after all parts accepts whatever follows.
    is_open: bool,
    /// The state after all parts, with a shorter match of the last one. The last part has to be at the end of the name, and what was read of
    /// it may contain the beginning of another occurrence. `None` for a pattern without `*`.
    again: Option<State>,
}

/// The character that the automaton waits for.
#[derive(Debug)]
struct Step {
    character: char,
    /// The state from which the same character is to be tried if it does not match; `None` before the first `*`, where nothing may be
    /// skipped. The first character of a part refers to itself: the automaton stays there.
    fallback: Option<State>,
}

impl Pattern {
    pub fn new(pattern: &str) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        let mut parts = pattern.split('*');
        steps.extend(parts.next().unwrap_or_default().chars().map(|character| Step {
            character,
            fallback: None,
        }));
        let (mut is_open, mut again) = (false, None);
        for part in parts {
            is_open = part.is_empty();
            let (begin, part): (usize, Vec<char>) = (steps.len(), part.chars().collect());
            for (index, character) in part.iter().enumerate() {
                steps.push(Step {
                    character: *character,
                    fallback: Some((begin + longest_border(&part[..index])) as State),
                });
            }
            again = Some((begin + longest_border(&part)) as State);
        }
        Self { steps, is_open, again }
    }

    pub fn next(&self, state: State, character: char) -> State {
        if state == DEAD {
            return DEAD;
        }
        let mut state = state as usize;
        if state == self.steps.len() {
            match self.again {
                _ if self.is_open => return state as State,
                Some(again) => state = again as usize,
                None => return DEAD,
            }
        }
        loop {
            let step = &self.steps[state];
            if step.character == character {
                return state as State + 1;
            }
            match step.fallback {
                None => return DEAD,
                Some(fallback) if fallback as usize == state => return fallback,
                Some(fallback) => state = fallback as usize,
            }
        }
    }

    pub fn accepts(&self, state: State) -> bool {
        state as usize == self.steps.len()
    }

    /// Whether everything that follows is accepted.
    pub fn accepts_all(&self, state: State) -> bool {
        self.is_open && self.accepts(state)
    }

    pub fn characters(&self) -> impl Iterator<Item = char> {
        self.steps.iter().map(|step| step.character)
    }
}

/// Length of the longest proper beginning of `text` that is also its end.
fn longest_border(text: &[char]) -> usize {
    (0..text.len())
        .rev()
        .find(|length| text.ends_with(&text[..*length]))
        .unwrap_or(0)
}

/// The automaton of names that can be those of collections with user data: a database and a collection, neither of them the server's own.
/// The server's databases are left to patterns.
pub(super) struct Valid;

/// What the collection's name must not begin with, unless the whole name is `system.js`.
const SYSTEM: &[u8] = b"system.";

impl Valid {
    const DATABASE: State = 1;
    const FREE: State = 2;
    /// From here on: how much of `system.js` the collection's name is so far.
    const COLLECTION: State = 3;

    pub fn next(state: State, character: char) -> State {
        match (state, character) {
            (DEAD, _) | (0, '.') => DEAD,
            (0, _) => Self::DATABASE,
            (Self::DATABASE, '.') => Self::COLLECTION,
            (Self::DATABASE | Self::FREE, _) => state,
            _ => {
                let read = (state - Self::COLLECTION) as usize;
                match b"system.js".get(read) {
                    Some(expected) if char::from(*expected) == character => state + 1,
                    _ if read < SYSTEM.len() => Self::FREE,
                    _ => DEAD,
                }
            }
        }
    }

    pub fn accepts(state: State) -> bool {
        let read = state.wrapping_sub(Self::COLLECTION) as usize;
        state == Self::FREE || (1..SYSTEM.len()).contains(&read) || read == SYSTEM.len() + 2
    }

    pub fn characters() -> impl Iterator<Item = char> {
        b"system.js".iter().map(|byte| char::from(*byte))
    }
}

/// The automaton of a finite set of names.
#[derive(Debug)]
pub(super) struct Names {
    /// For each state, the states that follow, and whether a name ends there. The first one is the beginning.
    states: Vec<(HashMap<char, State>, bool)>,
}

impl Names {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut states = vec![(HashMap::new(), false)];
        for name in names {
            let mut state = 0;
            for character in name.chars() {
                let new = states.len() as State;
                let (following, _): &mut (HashMap<char, State>, bool) = &mut states[state as usize];
                state = *following.entry(character).or_insert(new);
                if state == new {
                    states.push((HashMap::new(), false));
                }
            }
            states[state as usize].1 = true;
        }
        Self { states }
    }

    pub fn next(&self, state: State, character: char) -> State {
        let following = self
            .states
            .get(state as usize)
            .and_then(|(following, _)| following.get(&character));
        following.copied().unwrap_or(DEAD)
    }

    pub fn accepts(&self, state: State) -> bool {
        self.states.get(state as usize).is_some_and(|(_, is_end)| *is_end)
    }

    pub fn characters(&self) -> impl Iterator<Item = char> {
        self.states.iter().flat_map(|(following, _)| following.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::super::matches;
    use super::*;
    use crate::model::Namespace;

    /// Every text of up to `length` characters.
    fn texts(alphabet: &[char], length: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut begin = 0;
        for _ in 0..length {
            let end = texts.len();
            for index in begin..end {
                let longer = alphabet.iter().map(|character| format!("{}{character}", texts[index]));
                let longer: Vec<String> = longer.collect();
                texts.extend(longer);
            }
            begin = end;
        }
        texts
    }

    #[test]
    fn a_pattern_accepts_what_it_matches() {
        let names = texts(&['a', 'b', '.'], 6);
        for pattern in texts(&['a', 'b', '*'], 5)
            .into_iter()
            .chain(["aab*aabaa".to_owned(), "*aba*ab".to_owned()])
        {
            let automaton = Pattern::new(&pattern);
            for name in &names {
                let state = name
                    .chars()
                    .fold(0, |state, character| automaton.next(state, character));
                assert_eq!(automaton.accepts(state), matches(&pattern, name), "{pattern} {name}");
                assert!(!automaton.accepts_all(state) || matches(&pattern, &format!("{name}.ba")));
            }
        }
    }

    #[test]
    fn valid_names_are_those_with_user_data() {
        for name in [
            "",
            "a",
            ".a",
            "a.",
            "a.b",
            "a.b.c",
            "a..",
            "a.system",
            "a.system.",
            "a.system.js",
            "a.system.jsx",
            "a.system.views",
            "a.sys",
            "a.systemx",
            "a.b.system.c",
            "system.js",
            "a.system.j",
        ] {
            let state = name.chars().fold(0, Valid::next);
            let expected = name.parse::<Namespace>().is_ok_and(|name| !name.is_internal());
            assert_eq!(Valid::accepts(state), expected, "{name}");
        }
    }

    #[test]
    fn a_set_accepts_its_names_alone() {
        let set = ["a.b", "a.bc", "b.a"];
        let automaton = Names::new(set.into_iter());
        for name in texts(&['a', 'b', 'c', '.'], 4) {
            let state = name
                .chars()
                .fold(0, |state, character| automaton.next(state, character));
            assert_eq!(automaton.accepts(state), set.contains(&name.as_str()), "{name}");
        }
    }
}
