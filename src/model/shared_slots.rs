//! A list whose clones share what has not changed.

use std::sync::Arc;

/// Number of values in a block. If a clone shares a block and one of its values changes, the whole block is copied.
const BLOCK: usize = 64;

/// Values by slot. A clone costs the same however many there are, and a change afterwards copies one block.
#[derive(Debug)]
pub(crate) struct SharedSlots<T> {
    blocks: Arc<Vec<Arc<Block<T>>>>,
}

/// A slot without a value is empty.
type Block<T> = Vec<Option<Arc<T>>>;

impl<T> SharedSlots<T> {
    /// All values in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.blocks.iter().flat_map(|block| block.iter().flatten())
    }

    /// Returns the value in a slot.
    pub fn get(&self, slot: usize) -> Option<&T> {
        self.blocks.get(slot / BLOCK)?.get(slot % BLOCK)?.as_deref()
    }

    /// Sets the value in a slot, or clears the slot.
    pub fn set(&mut self, slot: usize, value: Option<T>) {
        let blocks = Arc::make_mut(&mut self.blocks);
        if blocks.len() <= slot / BLOCK {
            blocks.resize_with(slot / BLOCK + 1, || Arc::new(vec![None; BLOCK]));
        }
        if let Some(block) = blocks.get_mut(slot / BLOCK)
            && let Some(place) = Arc::make_mut(block).get_mut(slot % BLOCK)
        {
            *place = value.map(Arc::new);
        }
    }
}

impl<T> Clone for SharedSlots<T> {
    fn clone(&self) -> Self {
        Self {
            blocks: Arc::clone(&self.blocks),
        }
    }
}

impl<T> Default for SharedSlots<T> {
    fn default() -> Self {
        Self { blocks: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise, with tens of thousands of collections, each waiting checkpoint would take as much memory as all of them.
    #[test]
    fn clones_share_what_has_not_changed() {
        let mut slots = SharedSlots::default();
        for number in 0..200 {
            slots.set(number, Some(number));
        }
        let before = slots.clone();
        slots.set(100, None);
        slots.set(7, Some(1000));
        let blocks = |slots: &SharedSlots<usize>| slots.blocks.iter().map(Arc::as_ptr).collect::<Vec<_>>();
        let (old, new) = (blocks(&before), blocks(&slots));
        let changed: Vec<usize> = (0..old.len()).filter(|block| old[*block] != new[*block]).collect();
        assert_eq!(changed, [0, 100 / BLOCK]);
        let all = |slots: &SharedSlots<usize>| slots.iter().map(Arc::as_ptr).collect::<Vec<_>>();
        let (old, new) = (all(&before), all(&slots));
        assert_eq!((old.len(), new.len()), (200, 199));
        let copied = new.iter().filter(|value| !old.contains(value)).count();
        assert_eq!(copied, 1, "only the value that was set is new");
        assert_eq!(
            (before.get(7), slots.get(7), slots.get(100)),
            (Some(&7), Some(&1000), None)
        );
    }
}
