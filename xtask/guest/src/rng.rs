//! A small generator of random numbers whose state children share: one task of a
//! family runs at a time, so a seed gives the same operations again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// xorshift64*, by Vigna.
#[derive(Debug, Default)]
pub struct Rng(AtomicU64);

impl Rng {
    /// Starts anew from `seed`.
    pub fn seed(&self, seed: u64) {
        // The state must not be 0; the constant spreads small seeds.
        self.0
            .store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, Relaxed);
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut state = self.0.load(Relaxed);
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.store(state, Relaxed);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of the weighted choices.
    pub fn choose<T: Copy>(&self, choices: &[(usize, T)]) -> T {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut left = self.below(total);
        for &(weight, choice) in choices {
            if left < weight {
                return choice;
            }
            left -= weight;
        }
        unreachable!("a number below the sum of the weights is within one of them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let (a, b) = (Rng::default(), Rng::default());
        a.seed(7);
        b.seed(7);
        let draw = |rng: &Rng| (0..9).map(|_| rng.next()).collect::<Vec<_>>();
        assert_eq!(draw(&a), draw(&b));
        b.seed(8);
        assert_ne!(draw(&a), draw(&b));
    }

    #[test]
    fn every_choice_comes_up() {
        let rng = Rng::default();
        rng.seed(1);
        let drawn: Vec<char> = (0..100)
            .map(|_| rng.choose(&[(1, 'a'), (3, 'b')]))
            .collect();
        assert!(drawn.contains(&'a') && drawn.contains(&'b'));
    }
}
