//! Whether two migrations can ever write to the same name on one target.
//!
//! A selection describes a set of names on the target: those that match its patterns and are not renamed, and those that its renames lead
//! to. Includes and excludes are languages, so the question is whether the intersection of two such sets is empty. It is answered exactly,
//! by following the automata of all patterns at once until a name is found or nothing new can be reached.

use std::collections::{HashMap, HashSet, VecDeque};

use super::automaton::{DEAD, Names, Pattern, State, Valid};
use super::{Selection, matches};
use crate::model::Namespace;

/// Limit for the memory of one search, in states of single automata. Dozens of excludes with several `*` each can have more combinations of
/// states than that. Such selections count as overlapping.
const LONGEST_SEARCH: usize = 1 << 20;

/// What two selections have in common on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// No name.
    Nothing,
    /// For example this name.
    Name(String),
    /// Unknown, because their patterns are too many to be compared.
    Unknown,
}

impl Selection {
    /// Whether a migration with this selection may write to `target`, a name on its target.
    pub fn produces(&self, target: &Namespace) -> bool {
        let shown = target.time_series();
        let name = shown.as_ref().unwrap_or(target);
        let mut is_removed = false;
        for (from, to) in &self.rename {
            let (before, after) = match self.reversed {
                true => (to, from),
                false => (from, to),
            };
            if after == name && !before.is_internal() && self.fits(from) {
                return true;
            }
            is_removed |= before == name;
        }
        !is_removed && !name.is_internal() && self.fits(name)
    }

    /// Finds out which name on a target two migrations with these selections may both write to.
    pub(crate) fn overlap(&self, other: &Selection) -> Overlap {
        let (ours, theirs) = (Targets::of(self), Targets::of(other));
        for (names, of) in [(&ours, &theirs), (&theirs, &ours)] {
            let candidates = names.added.iter().chain(&names.literals);
            for name in candidates.filter(|name| names.contains(name)) {
                if of.contains(name) {
                    return Overlap::Name((*name).to_owned());
                }
            }
        }
        let mut overlap = Overlap::Nothing;
        for one in &ours.patterns {
            for another in theirs.patterns.iter().filter(|another| may_meet(one, another)) {
                match Search::new(one, another, [&ours, &theirs]).run() {
                    Overlap::Nothing => {}
                    Overlap::Name(name) => return Overlap::Name(name),
                    Overlap::Unknown => overlap = Overlap::Unknown,
                }
            }
        }
        overlap
    }
}

/// The names on the target that a selection describes.
struct Targets<'a> {
    /// Includes with a `*`.
    patterns: Vec<&'a str>,
    /// Includes that are names.
    literals: HashSet<&'a str>,
    excluded_patterns: Vec<&'a str>,
    excluded: HashSet<&'a str>,
    /// Names whose collections get another name.
    removed: HashSet<&'a str>,
    /// Names that such collections get.
    added: HashSet<&'a str>,
}

impl<'a> Targets<'a> {
    fn of(selection: &'a Selection) -> Self {
        let is_pattern = |pattern: &&str| pattern.contains('*');
        let split = |patterns: &'a [String]| -> (Vec<&'a str>, Vec<&'a str>) {
            patterns.iter().map(String::as_str).partition(is_pattern)
        };
        let (mut patterns, literals) = split(&selection.include);
        let (excluded_patterns, excluded) = split(&selection.exclude);
        if selection.include.is_empty() {
            patterns.push("*");
        }
        let mut targets = Self {
            patterns,
            literals: literals.into_iter().collect(),
            excluded_patterns,
            excluded: excluded.into_iter().collect(),
            removed: HashSet::new(),
            added: HashSet::new(),
        };
        for (from, to) in &selection.rename {
            let (before, after) = match selection.reversed {
                true => (to, from),
                false => (from, to),
            };
            // The patterns are those of the original direction, in which `from` is the name on the source.
            if !before.is_internal() && targets.fits(from.as_str()) {
                targets.added.insert(after.as_str());
            }
            targets.removed.insert(before.as_str());
        }
        targets
    }

    fn fits(&self, name: &str) -> bool {
        let is_any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.literals.contains(name) || is_any(&self.patterns))
            && !self.excluded.contains(name)
            && !is_any(&self.excluded_patterns)
    }

    fn contains(&self, name: &str) -> bool {
        let is_internal = || name.parse::<Namespace>().is_ok_and(|name| name.is_internal());
        self.added.contains(name) || (!self.removed.contains(name) && self.fits(name) && !is_internal())
    }
}

/// Whether two patterns can match the same name, as far as their fixed beginnings and ends show. This spares most searches.
fn may_meet(one: &str, another: &str) -> bool {
    let (one_begin, one_end) = ends(one);
    let (another_begin, another_end) = ends(another);
    (one_begin.starts_with(another_begin) || another_begin.starts_with(one_begin))
        && (one_end.ends_with(another_end) || another_end.ends_with(one_end))
}

fn ends(pattern: &str) -> (&str, &str) {
    let begin = pattern.split('*').next().unwrap_or_default();
    let end = pattern.rsplit('*').next().unwrap_or_default();
    (begin, end)
}

/// The search for a name that matches two patterns and nothing that is excluded.
struct Search {
    wanted: [Pattern; 2],
    excluded: Vec<Pattern>,
    excluded_names: Names,
    /// Every character that the automata distinguish, and one that stands for all others.
    alphabet: Vec<char>,
}

/// The states of all automata: of valid names, the wanted patterns, the names that are excluded, and the excluded patterns.
type Combined = Box<[State]>;

impl Search {
    fn new(one: &str, another: &str, of: [&Targets<'_>; 2]) -> Self {
        let metadata = format!("{}*", crate::METADATA_DATABASE);
        let internal = ["admin.*", "local.*", "config.*", &metadata];
        let excluded = of.iter().flat_map(|targets| targets.excluded_patterns.iter().copied());
        let excluded: HashSet<&str> = excluded.chain(internal).collect();
        let excluded = excluded
            .into_iter()
            .filter(|pattern| may_meet(pattern, one) && may_meet(pattern, another));
        let excluded: Vec<Pattern> = excluded.map(Pattern::new).collect();
        let names = of
            .iter()
            .flat_map(|targets| targets.excluded.iter().chain(&targets.removed));
        let names = names.filter(|name| matches(one, name) && matches(another, name));
        let excluded_names = Names::new(names.copied());
        let wanted = [Pattern::new(one), Pattern::new(another)];
        let known: HashSet<char> = Valid::characters()
            .chain(wanted.iter().chain(&excluded).flat_map(Pattern::characters))
            .chain(excluded_names.characters())
            .collect();
        let mut alphabet: Vec<char> = ('a'..=char::MAX)
            .find(|other| !known.contains(other))
            .into_iter()
            .collect();
        let mut known = Vec::from_iter(known);
        known.sort_unstable();
        alphabet.extend(known);
        Self {
            wanted,
            excluded,
            excluded_names,
            alphabet,
        }
    }

    /// Follows the automata, shortest names first.
    fn run(&self) -> Overlap {
        let begin: Combined = vec![0; 4 + self.excluded.len()].into();
        let most = LONGEST_SEARCH / begin.len();
        // How each combination of states was reached first.
        let mut reached: HashMap<Combined, Option<(Combined, char)>> = HashMap::from([(begin.clone(), None)]);
        let mut open = VecDeque::from([begin]);
        while let Some(state) = open.pop_front() {
            for character in &self.alphabet {
                let Some(next) = self.next(&state, *character) else {
                    continue;
                };
                if reached.contains_key(&next) {
                    continue;
                }
                let is_found = self.accepts(&next);
                reached.insert(next.clone(), Some((state.clone(), *character)));
                if is_found {
                    return Overlap::Name(name_of(&reached, &next));
                }
                if reached.len() > most {
                    return Overlap::Unknown;
                }
                open.push_back(next);
            }
        }
        Overlap::Nothing
    }

    /// The states after one more character, or `None` if no name that begins in this way can be found.
    fn next(&self, state: &[State], character: char) -> Option<Combined> {
        let mut next = Vec::with_capacity(state.len());
        next.push(Valid::next(state[0], character));
        next.extend(
            self.wanted
                .iter()
                .zip(&state[1..3])
                .map(|(pattern, state)| pattern.next(*state, character)),
        );
        if next.contains(&DEAD) {
            return None;
        }
        next.push(self.excluded_names.next(state[3], character));
        for (pattern, state) in self.excluded.iter().zip(&state[4..]) {
            let state = pattern.next(*state, character);
            if pattern.accepts_all(state) {
                return None;
            }
            next.push(state);
        }
        Some(next.into())
    }

    fn accepts(&self, state: &[State]) -> bool {
        let accepts = |(pattern, state): (&Pattern, &State)| pattern.accepts(*state);
        Valid::accepts(state[0])
            && self.wanted.iter().zip(&state[1..3]).all(accepts)
            && !self.excluded_names.accepts(state[3])
            && !self.excluded.iter().zip(&state[4..]).any(accepts)
    }
}

/// The name that leads to these states.
fn name_of(reached: &HashMap<Combined, Option<(Combined, char)>>, state: &Combined) -> String {
    let mut name = Vec::new();
    let mut state = state;
    while let Some(Some((before, character))) = reached.get(state) {
        name.push(*character);
        state = before;
    }
    name.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str], rename: &[(&str, &str)]) -> Selection {
        let mut selection = Selection::all();
        include.iter().for_each(|pattern| selection.include(pattern).unwrap());
        exclude.iter().for_each(|pattern| selection.exclude(pattern).unwrap());
        rename.iter().for_each(|(from, to)| selection.rename(from, to).unwrap());
        selection
    }

    fn meet(one: &Selection, another: &Selection) -> bool {
        let overlap = one.overlap(another);
        assert_eq!(overlap != Overlap::Nothing, another.overlap(one) != Overlap::Nothing);
        overlap != Overlap::Nothing
    }

    #[test]
    fn selections_meet_if_some_name_may_come_from_both() {
        let shop = selection(&["shop.*"], &[], &[]);
        for (include, exclude, rename, expected) in [
            (&["shop.*"] as &[&str], &[] as &[&str], &[] as &[(&str, &str)], true),
            (&["store.*"], &[], &[], false),
            (&["shops.*"], &[], &[], false),
            (&["*.orders"], &[], &[], true),
            (&["sho*.x"], &[], &[], true),
            (&[], &[], &[], true),
            (&[], &["shop.*"], &[], false),
            (&[], &["sh*"], &[], true),
            (&[], &["sh*.*"], &[], false),
            (&["*p.a*"], &["shop.*"], &[], false),
            (&["*p.a*"], &["shop.ab*"], &[], true),
            (&["shop.system.views"], &[], &[], false),
            (&["store.a"], &[], &[("store.a", "shop.b")], true),
            (&["store.*"], &["store.a"], &[("store.a", "shop.b")], false),
            (&["shop.a"], &[], &[("shop.a", "store.a")], false),
            (&["shop.a*"], &[], &[("shop.a", "store.a")], true),
            (&["shop.a*"], &["shop.a*b*", "shop.a*c"], &[("shop.a", "store.a")], true),
        ] {
            let exclude: Vec<&str> = exclude
                .iter()
                .filter(|pattern| pattern.contains('.'))
                .copied()
                .collect();
            let other = selection(include, &exclude, rename);
            assert_eq!(meet(&shop, &other), expected, "{other:?}");
        }
        assert_eq!(
            shop.overlap(&selection(&["*.orders"], &[], &[])),
            Overlap::Name("shop.orders".to_owned())
        );
        // Only names of user data count.
        assert!(!meet(
            &selection(&["admin.*", "*.system.vi*"], &["*.a*"], &[]),
            &selection(&["ad*.*"], &["ad*.*"], &[])
        ));
        assert!(meet(
            &selection(&["a.system.*"], &[], &[]),
            &selection(&["*.system.js"], &[], &[])
        ));
        assert!(!meet(&selection(&["a.system.v*"], &[], &[]), &Selection::all()));
    }

    #[test]
    fn a_selection_produces_what_its_renames_lead_to() {
        let forward = selection(
            &["shop.*"],
            &["shop.tmp"],
            &[("shop.a", "store.b"), ("shop.tmp", "store.c")],
        );
        let back = forward.reversed();
        for (name, ours, theirs) in [
            ("shop.a", false, true),
            ("store.b", true, false),
            ("store.c", false, false),
            ("shop.x", true, true),
            ("shop.system.buckets.x", true, true),
            ("store.system.buckets.b", true, false),
            ("shop.system.views", false, false),
            ("shop.tmp", false, false),
        ] {
            let name = name.parse().unwrap();
            assert_eq!(
                (forward.produces(&name), back.produces(&name)),
                (ours, theirs),
                "{name}"
            );
        }
        assert!(forward.target_reaches("store") && forward.target_reaches("shop") && !forward.target_reaches("other"));
    }

    #[test]
    fn thousands_of_names_are_compared_within_a_moment() {
        let named = |database: &str| -> Selection {
            let names: Vec<String> = (0..5_000).map(|number| format!("{database}.c{number}")).collect();
            selection(&names.iter().map(String::as_str).collect::<Vec<_>>(), &["*.tmp*"], &[])
        };
        let (a, b) = (named("a"), named("b"));
        assert!(!meet(&a, &b) && meet(&a, &a));
        assert!(!meet(&selection(&["*.*"], &["a.*"], &[]), &a));
    }

    #[test]
    fn patterns_that_are_too_many_count_as_overlapping() {
        // Each exclude remembers whether its letter has occurred, and all of them together make every combination a state of its own.
        let letters = 'A'..='Z';
        let exclude: Vec<String> = letters.map(|letter| format!("a.*{letter}*q")).collect();
        let exclude: Vec<&str> = exclude.iter().map(String::as_str).collect();
        let one = selection(&["a.*q"], &[&exclude[..], &["a.q", "a.*q"]].concat(), &[]);
        assert_eq!(one.overlap(&selection(&["a.*"], &[], &[])), Overlap::Unknown);
        assert_eq!(one.overlap(&selection(&["b.*"], &[], &[])), Overlap::Nothing);
    }

    use crate::test_util::Random;

    fn pattern(random: &mut Random) -> String {
        loop {
            let length = 1 + random.below(6);
            let text: String = (0..length).map(|_| ['a', 'b', '.', '*'][random.below(4)]).collect();
            if Selection::all().include(&text).is_ok() {
                return text;
            }
        }
    }

    fn random_selection(random: &mut Random) -> Selection {
        let mut selection = Selection::all();
        for _ in 0..random.below(3) {
            selection.include(&pattern(random)).unwrap();
        }
        for _ in 0..random.below(4) {
            selection.exclude(&pattern(random)).unwrap();
        }
        for _ in 0..random.below(3) {
            let name =
                |random: &mut Random| format!("{}.{}", ["a", "b"][random.below(2)], ["a", "b", "ab"][random.below(3)]);
            let (from, to) = (name(random), name(random));
            let _ = selection.rename(&from, &to);
        }
        if random.below(3) == 0 {
            selection.reversed()
        } else {
            selection
        }
    }

    /// Every name of up to 6 characters, of which `c` stands for those that are in no pattern.
    fn all_names() -> Vec<Namespace> {
        let mut texts = vec![String::new()];
        let mut names = Vec::new();
        for _ in 0..6 {
            let longer = texts
                .iter()
                .flat_map(|text| ['a', 'b', 'c', '.'].map(|character| format!("{text}{character}")));
            texts = longer.collect();
            names.extend(texts.iter().filter_map(|text| text.parse().ok()));
        }
        names
    }

    /// What an actual migration does with every name of the source is what the answer must agree with.
    #[test]
    fn the_answer_is_that_of_trying_every_name() {
        let names = all_names();
        let mut random = Random::new(7);
        let mut disjoint = 0;
        for round in 0..300 {
            let selections = [random_selection(&mut random), random_selection(&mut random)];
            let made = selections.each_ref().map(|selection| -> HashSet<Namespace> {
                let selected = names.iter().filter(|name| selection.contains(name));
                selected.map(|name| selection.target(name)).collect()
            });
            let common = made[0].intersection(&made[1]).next();
            match selections[0].overlap(&selections[1]) {
                Overlap::Nothing => {
                    disjoint += 1;
                    assert_eq!(common, None, "{round} {selections:?}");
                }
                Overlap::Name(found) => {
                    // It may be longer than the names that were tried.
                    let found: Namespace = found.parse().unwrap();
                    for selection in &selections {
                        let renamed = selection.rename.iter().flat_map(|(from, to)| [from, to]);
                        let mut sources = renamed.chain([&found]);
                        let is_made = sources.any(|name| selection.contains(name) && selection.target(name) == found);
                        assert!(is_made, "{round} {found} {selection:?}");
                    }
                }
                Overlap::Unknown => panic!("{round} {selections:?}"),
            }
            for selection in &selections {
                let renamed = selection.rename.iter().flat_map(|(from, to)| [from, to]);
                let renamed: Vec<&Namespace> = renamed.collect();
                for name in &names[..600] {
                    let mut sources = renamed.iter().copied().chain([name]);
                    let is_made = sources.any(|from| selection.contains(from) && selection.target(from) == *name);
                    assert_eq!(selection.produces(name), is_made, "{name} {selection:?}");
                    assert!(
                        !is_made || selection.target_reaches(name.database()),
                        "{name} {selection:?}"
                    );
                    let is_read = selection.contains(name);
                    assert!(!is_read || selection.reaches(name.database()), "{name} {selection:?}");
                }
            }
        }
        assert!(
            (30..270).contains(&disjoint),
            "{disjoint} of 300 are disjoint: the test sees one case only"
        );
    }
}
