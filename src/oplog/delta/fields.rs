//! Fields of a document under change, with fast lookup by name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Maximum number of fields to search one by one. Larger documents get an index.
const MOST_COMPARED: usize = 16;

/// Fields in document order. If a name is repeated, a lookup finds the first of them.
pub(super) struct Fields<'a, T> {
    /// A removed field leaves its place empty.
    places: Vec<Option<(&'a [u8], T)>>,
    index: Option<Index<'a>>,
}

/// Maps each name to the place of its first field.
struct Index<'a> {
    first: HashMap<&'a [u8], usize>,
    has_repeated_names: bool,
}

impl<T> Default for Fields<'_, T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            index: None,
        }
    }
}

impl<'a, T> Fields<'a, T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &(&'a [u8], T)> {
        self.places.iter().flatten()
    }

    pub(super) fn push(&mut self, name: &'a [u8], value: T) {
        if let Some(index) = &mut self.index {
            index.add(name, self.places.len());
        }
        self.places.push(Some((name, value)));
    }

    pub(super) fn get(&mut self, name: &[u8]) -> Option<&mut T> {
        let place = self.place_of(name)?;
        let (_, value) = self.places.get_mut(place)?.as_mut()?;
        Some(value)
    }

    /// Returns the field called `name`. Appends it if there is none.
    pub(super) fn get_or_push(&mut self, name: &'a [u8], value: impl Fn() -> T) -> &mut T {
        let place = self.place_of(name).unwrap_or(self.places.len());
        if place == self.places.len() {
            self.push(name, value());
        }
        let (_, value) = self.places[place].get_or_insert_with(|| (name, value()));
        value
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        let Some(place) = self.place_of(name) else { return };
        self.places[place] = None;
        if let Some(index) = &mut self.index {
            index.first.remove(name);
            if index.has_repeated_names {
                let mut later = self.places.iter().zip(0..).skip(place + 1);
                let next = later.find_map(|(field, place)| {
                    let (other, _) = field.as_ref()?;
                    (*other == name).then_some((*other, place))
                });
                index.first.extend(next);
            }
        }
    }

    fn place_of(&mut self, name: &[u8]) -> Option<usize> {
        if self.index.is_none() && self.places.len() > MOST_COMPARED {
            let mut index = Index {
                first: HashMap::with_capacity(self.places.len()),
                has_repeated_names: false,
            };
            for (place, field) in self.places.iter().enumerate() {
                if let Some((name, _)) = field {
                    index.add(name, place);
                }
            }
            self.index = Some(index);
        }
        match &self.index {
            Some(index) => index.first.get(name).copied(),
            None => self
                .places
                .iter()
                .position(|field| field.as_ref().is_some_and(|(other, _)| *other == name)),
        }
    }
}

impl<'a> Index<'a> {
    fn add(&mut self, name: &'a [u8], place: usize) {
        match self.first.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(place);
            }
            Entry::Occupied(_) => self.has_repeated_names = true,
        }
    }
}
