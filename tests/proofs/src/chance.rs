//! Choices that a seed repeats.

use valetkey_core::{Entropy, SystemEntropy};

/// A sequence of choices (SplitMix64): the same seed makes the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed for a run that names none; small enough to be typed.
    pub(crate) fn any_seed() -> u64 {
        let bytes = <dyn Entropy>::bytes32(&SystemEntropy);
        u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// A place in something of this length; 0 if it is empty.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// So many times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Rubbish.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        out.fill_with(|| self.next().to_le_bytes()[0]);
    }

    /// Once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub(crate) fn one_of<'a, T>(&mut self, these: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(these.len() as u64)).unwrap_or(0);
        these.get(index)
    }

    pub(crate) fn shuffle<T>(&mut self, these: &mut [T]) {
        for last in (1..these.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(0);
            these.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_choices() {
        let choices = |seed| {
            let mut chance = Chance::new(seed);
            let mut order: Vec<u32> = (0..20).collect();
            chance.shuffle(&mut order);
            (order, chance.below(1_000))
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }
}
