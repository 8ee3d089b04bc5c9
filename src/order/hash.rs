//! A 64-bit hash that is the same in every process, unlike those of `std`.

/// Feeds words and bytes into a 64-bit state, with one multiplication for every eight bytes.
pub(super) struct StableHasher {
    state: u64,
}

impl StableHasher {
    const MULTIPLIER: u64 = 0x517c_c1b7_2722_0a95;

    pub(super) fn new() -> Self {
        Self { state: 0 }
    }

    pub(super) fn word(&mut self, word: u64) {
        self.state = (self.state.rotate_left(5) ^ word).wrapping_mul(Self::MULTIPLIER);
    }

    /// Feeds the length first, so that moving bytes between two adjacent strings changes the hash.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
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
