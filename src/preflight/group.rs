//! One finding for each cause, however many collections it concerns.

use crate::error::Finding;

/// Number of messages and of fixes that a finding has in full.
const IN_FULL: usize = 5;

/// Combines findings of the same cause. Findings that concern nothing in particular stay as they are.
pub(super) fn group(findings: Vec<Finding>) -> Vec<Finding> {
    let mut groups: Vec<Vec<Finding>> = Vec::new();
    for finding in findings {
        let same = |group: &&mut Vec<Finding>| group.first().is_some_and(|first| first.is_same_cause(&finding));
        match groups.iter_mut().find(same) {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups.into_iter().filter_map(combined).collect()
}

fn combined(group: Vec<Finding>) -> Option<Finding> {
    let names = group
        .iter()
        .flat_map(|finding| finding.affected.iter().cloned())
        .collect();
    let messages = in_full(group.iter().map(|finding| &finding.message));
    let fixes = in_full(group.iter().map(|finding| &finding.fix));
    let mut whole = group.into_iter().next()?;
    if whole.affected.is_empty() {
        return Some(whole);
    }
    whole.message = messages;
    whole.fix = fixes;
    Some(whole.about_all(names))
}

/// Joins the first different texts, and says how many others there are.
fn in_full<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let mut texts: Vec<&str> = Vec::new();
    let mut more = 0;
    for text in all {
        if texts.contains(&text.as_str()) {
            continue;
        }
        match texts.len() < IN_FULL {
            true => texts.push(text),
            false => more += 1,
        }
    }
    let mut joined = texts.join("; ");
    if more > 0 {
        joined += &format!("; and {more} more of the same kind");
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FindingCode;

    #[test]
    fn what_has_one_cause_is_one_finding_with_a_bounded_list() {
        let of = |name: String| {
            Finding::blocker(FindingCode::IndexValue, format!("`{name}` has one"), "rebuild it").about(name)
        };
        let mut all: Vec<Finding> = (0..30).map(|number| of(format!("shop.c{number}"))).collect();
        all.insert(3, Finding::note(FindingCode::SmallOplog, "small", "none"));
        all.push(Finding::note(FindingCode::SmallOplog, "also small", "none"));
        // The same collection twice, and another cause with the same code.
        all.push(of("shop.c0".to_owned()));
        all.push(of("shop.c0".to_owned()).because("other"));
        let found = group(all);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!((found[0].affected.len(), found[0].affected_count), (20, 30));
        assert_eq!(found[0].affected[1], "shop.c1");
        assert!(found[0].message.starts_with("`shop.c0` has one; `shop.c1` has one; "));
        assert!(
            found[0]
                .message
                .ends_with("`shop.c4` has one; and 25 more of the same kind"),
            "{}",
            found[0].message
        );
        assert_eq!(found[0].fix, "rebuild it");
        assert_eq!(
            (found[1].message.as_str(), found[2].message.as_str()),
            ("small", "also small")
        );
        assert_eq!(found[3].affected_count, 1);
    }
}
