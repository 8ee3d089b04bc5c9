//! The collections that are copied, indexed or compared now. Nothing here reads or writes anything.

use mongoferry::{CollectionPhase, CollectionStatus};

use super::text::{grouped, share};

/// What happens to a collection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    Copy,
    Index,
    Compare,
}

/// A collection that is copied, indexed or compared now.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub activity: Activity,
    pub name: String,
    /// Size in bytes. Large collections are shown first.
    pub bytes: u64,
    /// Share of the activity that is done.
    pub share: f64,
    /// The same in words.
    pub amount: String,
}

impl Row {
    /// Returns `None` if nothing happens to the collection now.
    pub fn of(collection: &CollectionStatus) -> Option<Self> {
        let (copied, total) = (collection.copied, collection.total);
        let (activity, done) = match collection.phase {
            CollectionPhase::Copying => (Activity::Copy, share(copied.bytes, total.bytes)),
            CollectionPhase::Indexing => (
                Activity::Index,
                share(collection.indexes.built, collection.indexes.total),
            ),
            CollectionPhase::Copied | CollectionPhase::Following
                if !collection.all_compared && collection.compared.documents > 0 =>
            {
                (Activity::Compare, share(collection.compared.bytes, total.bytes))
            }
            _ => return None,
        };
        let of = |part: u64, whole: u64, what: &str| format!("{} of {} {what}", grouped(part), grouped(whole));
        let namespace = &collection.namespace;
        Some(Self {
            activity,
            name: namespace.time_series().unwrap_or_else(|| namespace.clone()).to_string(),
            bytes: total.bytes,
            share: done,
            amount: match activity {
                Activity::Copy => of(copied.documents, total.documents, "documents"),
                Activity::Index => of(collection.indexes.built, collection.indexes.total, "indexes"),
                Activity::Compare => of(collection.compared.documents, total.documents, "documents"),
            },
        })
    }
}

/// Chooses the collections to show on `lines` lines, and returns how many others there are. If there are others, a line
/// is left for their number.
pub fn choose(rows: &[Row], lines: usize) -> (Vec<&Row>, usize) {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| {
        let order = (a.activity, std::cmp::Reverse(a.bytes)).cmp(&(b.activity, std::cmp::Reverse(b.bytes)));
        order.then_with(|| a.name.cmp(&b.name))
    });
    if rows.len() <= lines {
        return (rows, 0);
    }
    let shown = lines.saturating_sub(1);
    let further = match lines {
        0 => 0,
        _ => rows.len() - shown,
    };
    rows.truncate(shown);
    (rows, further)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn row(activity: Activity, name: &str, bytes: u64) -> Row {
        Row {
            activity,
            name: name.to_owned(),
            bytes,
            share: 0.5,
            amount: "5,000 of 10,000 documents".to_owned(),
        }
    }

    #[test]
    fn large_collections_are_shown_first_and_the_rest_is_counted() {
        let rows = [
            row(Activity::Compare, "compared", 900),
            row(Activity::Copy, "small", 1),
            row(Activity::Index, "indexed", 500),
            row(Activity::Copy, "large", 100),
        ];
        let names = |lines| {
            let (shown, further) = choose(&rows, lines);
            let names: Vec<&str> = shown.iter().map(|row| row.name.as_str()).collect();
            (names.join(" "), further)
        };
        assert_eq!(names(4), ("large small indexed compared".to_owned(), 0));
        assert_eq!(names(3), ("large small".to_owned(), 2));
        assert_eq!(names(1), (String::new(), 4));
        assert_eq!(names(0), (String::new(), 0));
    }
}
