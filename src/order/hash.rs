//! A 64-bit hash that is the same in every process, unlike those of `std`.

/// Takes what distinguishes a value from all values that do not compare as equal.
pub(crate) trait Feed {
    /// Feeds a number.
    fn word(&mut self, word: u64);

    /// Feeds the length, and then the bytes, so that moving bytes between two adjacent strings makes a difference.
    fn bytes(&mut self, bytes: &[u8]);
}

/// Feeds words and bytes into a 64-bit state, with one multiplication for every eight bytes.
pub(super) struct StableHasher {
    state: u64,
}

impl StableHasher {
    const MULTIPLIER: u64 = 0x517c_c1b7_2722_0a95;

    pub(super) fn new() -> Self {
        Self { state: 0 }
    }

    /// Mixes the bits before returning the hash: the multiplication leaves the low bits weak, and callers take the hash modulo a small
    /// number.
    pub(super) fn finish(&self) -> u64 {
        let mut hash = self.state;
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

impl Feed for StableHasher {
    fn word(&mut self, word: u64) {
        self.state = (self.state.rotate_left(5) ^ word).wrapping_mul(Self::MULTIPLIER);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            self.word(u64::from_le_bytes(last));
        }
    }
}
