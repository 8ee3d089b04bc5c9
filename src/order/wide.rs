//! Wide integers without the heap, for comparing decimals with doubles exactly.

use std::cmp::Ordering;

/// An unsigned integer. It is wide enough for a coefficient times any power of five within the range of doubles: `2^113 * 5^358` has 945
/// bits.
pub(super) struct Wide {
    /// Least significant limb first.
    limbs: [u64; 16],
}

impl From<u128> for Wide {
    fn from(value: u128) -> Self {
        let mut limbs = [0; 16];
        limbs[0] = value as u64;
        limbs[1] = (value >> 64) as u64;
        Self { limbs }
    }
}

impl Wide {
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        self.limbs.iter().rev().cmp(other.limbs.iter().rev())
    }

    pub(super) fn multiply_by_power_of_5(&mut self, mut exponent: u32) {
        // 5^27 is the greatest power of five that fits into a limb.
        while exponent > 27 {
            self.multiply(5u64.pow(27));
            exponent -= 27;
        }
        self.multiply(5u64.pow(exponent));
    }

    fn multiply(&mut self, factor: u64) {
        let mut carry = 0;
        for limb in &mut self.limbs {
            let product = u128::from(*limb) * u128::from(factor) + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
        debug_assert_eq!(carry, 0, "the product is too wide");
    }

    /// Does nothing for a negative number of bits.
    pub(super) fn shift_left(&mut self, bits: i32) {
        let Ok(bits) = usize::try_from(bits) else { return };
        let (whole, part) = (bits / 64, bits % 64);
        for index in (0..self.limbs.len()).rev() {
            let upper = index.checked_sub(whole).map_or(0, |from| self.limbs[from]);
            let lower = index.checked_sub(whole + 1).map_or(0, |from| self.limbs[from]);
            self.limbs[index] = if part == 0 {
                upper
            } else {
                upper << part | lower >> (64 - part)
            };
        }
    }

    pub(super) fn bit_length(&self) -> i32 {
        let zeros: u32 = match self.limbs.iter().rposition(|limb| *limb != 0) {
            None => return 0,
            Some(index) => (self.limbs.len() - 1 - index) as u32 * 64 + self.limbs[index].leading_zeros(),
        };
        self.limbs.len() as i32 * 64 - zeros as i32
    }
}
