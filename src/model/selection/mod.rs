//! The selection of collections to migrate, and their names on the target.

mod automaton;
mod overlap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::model::namespace::is_internal_database;

pub(crate) use self::overlap::Overlap;

/// Which namespaces are migrated, and their names on the target.
///
/// Without includes, everything is selected. Excludes win over includes. The server's own databases and collections are never selected. A
/// pattern is a namespace in which `*` matches any characters.
///
/// A migration is described with the methods of [`MigrationBuilder`](crate::MigrationBuilder). For an
/// [`OplogCursor`](crate::oplog::OplogCursor), build a selection of its own:
///
/// ```
/// use mongoferry::Selection;
///
/// let mut selection = Selection::all();
/// selection.include("shop.*")?;
/// selection.exclude("shop.tmp_*")?;
/// assert!(selection.contains(&"shop.orders".parse()?));
/// # Ok::<(), mongoferry::Error>(())
/// ```
///
/// A selection can be read from a file of settings, with the same checks as the methods of the builder:
///
/// ```
/// let text = r#"{ "include": ["shop.*"], "exclude": ["shop.tmp_*"], "rename": [["shop.orders", "store.orders"]] }"#;
/// let selection: mongoferry::Selection = serde_json::from_str(text)?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Selection {
    include: Vec<String>,
    exclude: Vec<String>,
    rename: Vec<(Namespace, Namespace)>,
    /// Whether this is the selection of a reverse migration. Its patterns and renames are those of the original migration, and are applied
    /// in the opposite direction.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reversed: bool,
}

/// A selection as it was read, before its patterns and names are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    rename: Vec<(String, String)>,
    #[serde(default)]
    reversed: bool,
}

impl TryFrom<Unchecked> for Selection {
    type Error = Error;

    fn try_from(read: Unchecked) -> Result<Self> {
        let mut selection = Self::all();
        for pattern in &read.include {
            selection.include(pattern)?;
        }
        for pattern in &read.exclude {
            selection.exclude(pattern)?;
        }
        for (from, to) in &read.rename {
            selection.rename(from, to)?;
        }
        selection.reversed = read.reversed;
        Ok(selection)
    }
}

impl Selection {
    /// Selects everything, under its own name.
    pub fn all() -> Self {
        Self::default()
    }

    /// The same collections in the opposite direction: each is renamed from its name on the target back to its name on the source.
    pub(crate) fn reversed(&self) -> Self {
        Self {
            reversed: !self.reversed,
            ..self.clone()
        }
    }

    /// Takes another selection in place of this one, unless this is that of a reverse migration.
    pub(crate) fn replace(&mut self, selection: Selection) -> Result<()> {
        self.check_forward()?;
        selection.check_forward()?;
        *self = selection;
        Ok(())
    }

    /// Selects only namespaces that match a pattern such as `shop.*` or `*.orders`, and those of earlier calls.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the pattern is not of the form `database.collection`, or if this is the
    /// selection of a reverse migration.
    pub fn include(&mut self, pattern: &str) -> Result<()> {
        self.check_forward()?;
        self.include.push(checked(pattern)?);
        Ok(())
    }

    /// Excludes namespaces that match a pattern, even if they are included.
    ///
    /// # Errors
    /// Same as [`include`](Self::include).
    pub fn exclude(&mut self, pattern: &str) -> Result<()> {
        self.check_forward()?;
        self.exclude.push(checked(pattern)?);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.check_forward()?;
        let (from, to): (Namespace, Namespace) = (from.parse()?, to.parse()?);
        for (other_from, other_to) in &self.rename {
            if *other_from == from || *other_to == to {
                return Err(Error::new(
                    ErrorKind::InvalidConfiguration,
                    "add a rename",
                    format!(
                        "`{from}` to `{to}` contradicts `{other_from}` to `{other_to}`: each name may appear once on each side"
                    ),
                ));
            }
        }
        if to.is_internal() {
            return Err(Error::new(
                ErrorKind::InvalidConfiguration,
                "add a rename",
                format!("`{to}` belongs to the server itself"),
            ));
        }
        self.rename.push((from, to));
        Ok(())
    }

    /// Whether the namespace is migrated. Buckets follow their time-series collection.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        if namespace.is_internal() {
            return false;
        }
        let shown = namespace.time_series();
        let name = shown.as_ref().unwrap_or(namespace);
        match self.reversed {
            true => self.fits(self.name_before(name)),
            false => self.fits(name),
        }
    }

    /// Whether a database of the source may contain something to migrate.
    pub fn reaches(&self, database: &str) -> bool {
        let comes_back =
            |(from, to): &(Namespace, Namespace)| self.reversed && to.database() == database && self.fits(from);
        self.patterns_reach(database) || self.rename.iter().any(comes_back)
    }

    /// Whether a database of the target may contain something that is migrated to it.
    pub fn target_reaches(&self, database: &str) -> bool {
        let goes_there =
            |(from, to): &(Namespace, Namespace)| !self.reversed && to.database() == database && self.fits(from);
        self.patterns_reach(database) || self.rename.iter().any(goes_there)
    }

    /// The namespace's name on the target.
    pub fn target(&self, namespace: &Namespace) -> Namespace {
        let shown = namespace.time_series();
        let name = shown.as_ref().unwrap_or(namespace);
        let target = match self.reversed {
            true => self.name_before(name),
            false => self.name_after(name),
        };
        match shown.is_some() {
            true => target.buckets(),
            false => target.clone(),
        }
    }
}

impl Selection {
    /// Whether a name matches the patterns.
    fn fits(&self, name: &Namespace) -> bool {
        let name = name.as_str();
        (self.include.is_empty() || self.include.iter().any(|pattern| matches(pattern, name)))
            && !self.exclude.iter().any(|pattern| matches(pattern, name))
    }

    /// The renames: the name on this selection's source, and the one on its target.
    pub(crate) fn renames(&self) -> impl Iterator<Item = (&Namespace, &Namespace)> {
        let is_reversed = self.reversed;
        self.rename
            .iter()
            .map(move |(from, to)| if is_reversed { (to, from) } else { (from, to) })
    }

    fn name_after<'a>(&'a self, name: &'a Namespace) -> &'a Namespace {
        let renamed = self.rename.iter().find(|(from, _)| from == name);
        renamed.map_or(name, |(_, to)| to)
    }

    /// The inverse of `name_after`. A name that no rename leads to maps to itself. If a rename moved a collection away from that name, two
    /// collections map to it. The collision is found where the selected collections are put together.
    fn name_before<'a>(&'a self, name: &'a Namespace) -> &'a Namespace {
        let renamed = self.rename.iter().find(|(_, to)| to == name);
        renamed.map_or(name, |(from, _)| from)
    }

    fn check_forward(&self) -> Result<()> {
        if !self.reversed {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidConfiguration,
            "select namespaces",
            "a reverse migration has the selection and the names of the migration that it reverses",
        ))
    }

    /// Whether some name in a database may match the patterns.
    fn patterns_reach(&self, database: &str) -> bool {
        // Every namespace in the database starts with this prefix. For the part of a pattern after its first `*`, there is always some name
        // that matches.
        let prefix = format!("{database}.");
        let fits_some = |pattern: &String| match pattern.split_once('*') {
            Some((first, _)) => first.starts_with(&prefix) || prefix.starts_with(first),
            None => pattern.starts_with(&prefix),
        };
        let fits_all = |pattern: &String| pattern.ends_with('*') && matches(pattern, &prefix);
        (self.include.is_empty() || self.include.iter().any(fits_some)) && !self.exclude.iter().any(fits_all)
    }

    /// Whether something known only by `name` may be migrated. `name` is a namespace, a database if nothing more is known, or empty, which
    /// stands for anything.
    pub(crate) fn may_concern(&self, name: &str) -> bool {
        match name.parse() {
            Ok(namespace) => self.contains(&namespace),
            Err(_) => match name.split('.').next() {
                None | Some("") => true,
                Some(database) => !is_internal_database(database) && self.reaches(database),
            },
        }
    }
}

/// Checks that a pattern has the form `database.collection`.
pub(crate) fn checked(pattern: &str) -> Result<String> {
    let dot = pattern.find('.');
    if dot.is_none_or(|dot| dot == 0 || dot + 1 == pattern.len()) {
        return Err(Error::new(
            ErrorKind::InvalidConfiguration,
            "read a namespace pattern",
            format!("`{pattern}` is not of the form `database.collection`; use `{pattern}.*` for a whole database"),
        ));
    }
    Ok(pattern.to_owned())
}

/// Whether `name` matches `pattern`. Each `*` matches any number of characters, including none.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn patterns_match_from_end_to_end() {
        for (pattern, name, expected) in [
            ("shop.*", "shop.orders", true),
            ("shop.*", "shops.orders", false),
            ("*.orders", "shop.orders", true),
            ("*.orders", "shop.orders2", false),
            ("shop.tmp_*_x", "shop.tmp_1_x_x", true),
            ("shop.orders", "shop.orders", true),
            ("shop.orders", "shop.orders.old", false),
            ("s*p.o*s", "shop.orders", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_selection_reaches_the_databases_that_its_patterns_name() {
        let mut selection = Selection::all();
        assert!(selection.reaches("shop"));
        selection.exclude("old*.*").unwrap();
        selection.exclude("shop.tmp*").unwrap();
        selection.exclude("shop.a.*").unwrap();
        assert!(selection.reaches("shop") && !selection.reaches("older"));
        selection.include("shop.a").unwrap();
        selection.include("hard*.*").unwrap();
        selection.rename("shop.a", "store.a").unwrap();
        for (database, expected) in [("shop", true), ("hardware", true), ("other", false), ("sho", false)] {
            assert_eq!(selection.reaches(database), expected, "{database}");
        }
        assert!(selection.target_reaches("store") && selection.target_reaches("shop"));
        assert!(!selection.target_reaches("other") && !selection.reaches("store"));
        let back = selection.reversed();
        assert!(back.reaches("store") && !back.reaches("other") && !back.target_reaches("store"));
        // A `*` may match a dot, too.
        selection.include("m*ware.x").unwrap();
        assert!(selection.contains(&namespace("m.software.x")) && selection.reaches("m"));
    }

    #[test]
    fn an_exclude_wins_and_buckets_follow_their_collection() {
        let mut selection = Selection::all();
        selection.include("shop.*").unwrap();
        selection.exclude("shop.tmp_*").unwrap();
        selection.rename("shop.weather", "store.weather").unwrap();
        assert!(selection.contains(&namespace("shop.orders")));
        assert!(!selection.contains(&namespace("shop.tmp_1")));
        assert!(!selection.contains(&namespace("shop.system.buckets.tmp_1")));
        assert!(!selection.contains(&namespace("shop.system.views")));
        assert!(!selection.contains(&namespace("other.orders")));
        assert_eq!(
            selection.target(&namespace("shop.system.buckets.weather")),
            namespace("store.system.buckets.weather")
        );
        assert!(selection.rename("shop.weather", "x.y").is_err());
    }

    #[test]
    fn the_opposite_direction_has_the_former_names() {
        let mut forward = Selection::all();
        forward.include("shop.*").unwrap();
        forward.exclude("shop.tmp_*").unwrap();
        forward.exclude("store.*").unwrap();
        forward.rename("shop.orders", "store.bought").unwrap();
        forward.rename("shop.a", "shop.tmp_a").unwrap();
        let mut back = forward.reversed();
        for name in [
            "shop.orders",
            "shop.a",
            "shop.carts",
            "shop.system.buckets.orders",
            "shop.system.js",
        ] {
            let name = namespace(name);
            let there = forward.target(&name);
            assert!(back.contains(&there), "{there}");
            assert_eq!(back.target(&there), name);
            assert!(back.produces(&name), "{name}");
        }
        // Whatever the forward direction leaves out by its patterns of source names, and the server's own databases.
        for name in ["shop.tmp_b", "store.other", "other.a", "admin.a"] {
            assert!(!back.contains(&namespace(name)), "{name}");
        }
        assert!(!back.produces(&namespace("shop.tmp_b")));
        // The rename moved a collection away from this name, so two collections map to it in reverse. The collision is found where the
        // selected collections are put together.
        assert_eq!(back.target(&namespace("shop.orders")), namespace("shop.orders"));
        assert_eq!(back.reversed(), forward);
        for change in [back.include("a.b"), back.exclude("a.b"), back.rename("a.b", "a.c")] {
            assert_eq!(change.unwrap_err().kind(), ErrorKind::InvalidConfiguration);
        }
        // Older checkpoints do not have the field, and those of forward migrations leave it out.
        let kept = bson::serialize_to_document(&forward).unwrap();
        assert!(!kept.contains_key("reversed"), "{kept}");
        assert_eq!(bson::deserialize_from_document::<Selection>(kept).unwrap(), forward);
        let kept = bson::serialize_to_document(&back).unwrap();
        assert_eq!(bson::deserialize_from_document::<Selection>(kept).unwrap(), back);
    }

    #[test]
    fn a_selection_produces_the_names_that_its_collections_get() {
        let mut selection = Selection::all();
        selection.include("shop.*").unwrap();
        selection.exclude("shop.tmp").unwrap();
        selection.rename("shop.orders", "store.bought").unwrap();
        selection.rename("shop.tmp", "shop.kept").unwrap();
        for (target, expected) in [
            ("shop.carts", true),
            ("store.bought", true),
            ("store.system.buckets.bought", true),
            ("shop.orders", false),
            // What would be renamed to this name is not selected, and what has this name is.
            ("shop.kept", true),
            ("other.carts", false),
        ] {
            assert_eq!(selection.produces(&namespace(target)), expected, "{target}");
        }
    }
}
