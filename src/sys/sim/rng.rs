//! Random numbers that follow from a seed.

use crate::sys::Rng;
use parking_lot::Mutex;

/// A seeded generator (SplitMix64, Steele et al. 2014). Written out here and not taken from `rand`, so that a seed
/// means the same run whatever version of a dependency is built in.
#[derive(Debug)]
pub struct SimRng(Mutex<u64>);

impl SimRng {
    /// Starts at a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Another generator, whose numbers do not depend on how many more are taken from this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.next())
    }

    fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        self.next() % bound
    }

    /// True once in `n` times.
    #[must_use]
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Rng for SimRng {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_forks_are_apart() {
        let (a, b) = (SimRng::new(7), SimRng::new(7));
        let (fork_a, fork_b) = (a.fork(), b.fork());
        let _ = a.next_u64(); // a fork does not follow what its parent does later
        let numbers = |rng: &SimRng| (0..20).map(|_| rng.below(1000)).collect::<Vec<_>>();
        assert_eq!(numbers(&fork_a), numbers(&fork_b));
        assert_ne!(numbers(&a), numbers(&fork_a));
        assert_ne!(numbers(&SimRng::new(1)), numbers(&SimRng::new(2)));
        let mut bytes = [0; 13];
        a.fill(&mut bytes);
        assert!(bytes[8..].iter().any(|b| *b != 0));
    }
}
