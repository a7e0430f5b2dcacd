//! Who did something, and how often.

/// So many are told apart; the rest is one.
const MOST: usize = 64;

/// How often something was of which sort.
#[derive(Clone, Debug)]
pub struct Tally<K> {
    known: Vec<(K, u64)>,
    /// Those of sorts that found no place.
    others: u64,
    /// Where the last one was: they come in runs.
    last: usize,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Tally {
            known: Vec::new(),
            others: 0,
            last: 0,
        }
    }
}

impl<K: Copy + Ord> Tally<K> {
    /// Counts one.
    pub fn add(&mut self, key: K) {
        self.add_many(key, 1);
    }

    /// Counts so many.
    pub fn add_many(&mut self, key: K, count: u64) {
        if let Some((last, sum)) = self.known.get_mut(self.last)
            && *last == key
        {
            *sum += count;
            return;
        }
        let at = self.known.iter().position(|(known, _)| *known == key);
        match at {
            Some(at) => {
                self.known[at].1 += count;
                self.last = at;
            }
            None if self.known.len() < MOST => {
                self.last = self.known.len();
                self.known.push((key, count));
            }
            None => self.others += count,
        }
    }

    /// Counts all of another.
    pub fn add_all(&mut self, other: &Tally<K>) {
        for (key, count) in &other.known {
            self.add_many(*key, *count);
        }
        self.others += other.others;
    }

    /// Those that are known, the most frequent first.
    pub fn ranked(&self) -> Vec<(K, u64)> {
        let mut all = self.known.clone();
        all.sort_unstable_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
        all
    }

    /// How many were of sorts that are not told apart.
    pub fn others(&self) -> u64 {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first_and_nothing_is_lost() {
        let mut tally = Tally::default();
        for key in 0..100_u32 {
            (0..=key % 3).for_each(|_| tally.add(key));
        }
        let ranked = tally.ranked();
        assert_eq!(ranked.len(), MOST);
        assert_eq!(ranked[..2], [(2, 3), (5, 3)]);
        let known: u64 = ranked.iter().map(|(_, count)| count).sum();
        assert_eq!(
            known + tally.others(),
            (0..100).map(|key| key % 3 + 1).sum::<u64>()
        );
        let mut twice = tally.clone();
        twice.add_all(&tally);
        assert_eq!(twice.ranked()[0], (2, 6));
    }
}
