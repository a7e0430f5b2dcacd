//! How long something took, of many.
//!
//! There may be thousands of these, one for each function in each container, and each
//! operation adds to several. So only the powers of two that have come up take memory, a
//! quarter of a KiB each, and to add is to count in a place that follows from the bits.

/// Between a power of two and the next so many lengths are told apart.
const PARTS: usize = 64;
const BITS: u32 = PARTS.trailing_zeros();

/// Those below `PARTS`, then those from each power of two to the next.
const OCTAVES: usize = (u64::BITS - BITS) as usize + 1;

/// Lengths in ns.
#[derive(Clone, Debug)]
pub struct Lengths {
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
    octaves: Vec<Option<Box<[u32; PARTS]>>>,
}

impl Default for Lengths {
    fn default() -> Self {
        Lengths {
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
            octaves: Vec::new(),
        }
    }
}

impl Lengths {
    /// Adds one, in ns.
    #[inline]
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
        let (octave, part) = place(ns);
        match self.octaves.get_mut(octave) {
            Some(Some(parts)) => parts[part] = parts[part].saturating_add(1),
            _ => self.octave(octave)[part] = 1,
        }
    }

    /// Adds all of others.
    pub fn add_all(&mut self, other: &Lengths) {
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (octave, its) in other.octaves.iter().enumerate() {
            let Some(its) = its else { continue };
            for (own, its) in self.octave(octave).iter_mut().zip(its.iter()) {
                *own = own.saturating_add(*its);
            }
        }
    }

    #[cold]
    fn octave(&mut self, octave: usize) -> &mut [u32; PARTS] {
        if self.octaves.len() <= octave {
            self.octaves.resize(octave + 1, None);
        }
        self.octaves[octave].get_or_insert_with(|| Box::new([0; PARTS]))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together, in ns.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The longest.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What so many of a hundred do not exceed, in ns: to a hundredth; the shortest and the
    /// longest are exact.
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = percent / 100.0 * self.count as f64;
        self.at_rank(rank.ceil().max(1.0) as u64)
    }

    /// The length of that rank of all, from 1 for the shortest; likewise.
    pub fn at_rank(&self, rank: u64) -> u64 {
        if rank >= self.count {
            return self.max;
        }
        let mut seen = 0;
        for (octave, parts) in self.octaves.iter().enumerate() {
            for (part, count) in parts.iter().flat_map(|parts| parts.iter().enumerate()) {
                seen += u64::from(*count);
                if seen >= rank {
                    return middle(octave, part).clamp(self.min, self.max);
                }
            }
        }
        self.max
    }
}

/// Where a length is counted.
#[inline]
fn place(ns: u64) -> (usize, usize) {
    // The power of two that a length below `PARTS` has does not matter.
    let power = (ns | 1 << (BITS - 1)).ilog2();
    let octave = power + 1 - BITS;
    let part = ns >> octave.saturating_sub(1);
    (octave as usize, part as usize % PARTS)
}

/// The middle of the lengths that are counted in a place.
fn middle(octave: usize, part: usize) -> u64 {
    match octave {
        0 => part as u64,
        _ => {
            let shift = octave - 1;
            let least = (PARTS + part) as u64;
            (least << shift) + ((1 << shift) - 1) / 2
        }
    }
}

const _: () = assert!(OCTAVES == (u64::MAX.ilog2() + 1 - BITS) as usize + 1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_lengths_are_exact_and_large_ones_have_a_place() {
        for ns in [0, 1, 31, 32, 63, 64, 65, 127, 128, u64::MAX / 2, u64::MAX] {
            let (octave, part) = place(ns);
            assert!(octave < OCTAVES && part < PARTS, "{ns}");
            let found = middle(octave, part);
            assert!(found.abs_diff(ns) <= ns / 100, "{ns}: {found}");
        }
        assert_eq!(
            (0..128)
                .map(place)
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            128
        );
    }

    #[test]
    fn nothing_has_no_length() {
        let none = Lengths::default();
        assert_eq!((none.count(), none.max(), none.percentile(50.0)), (0, 0, 0));
    }

    proptest! {
        // What is exact: the length at that rank of all, in order.
        #[test]
        fn percentiles_are_those_of_the_sorted_list_to_a_hundredth(
            mut all in prop::collection::vec(
                prop_oneof![0..100_u64, 100..1_000_000_u64, any::<u64>()], 1..300),
            percent in 0.0..=100.0_f64,
        ) {
            let mut lengths = Lengths::default();
            let (mut first, mut rest) = (Lengths::default(), Lengths::default());
            for (at, ns) in all.iter().enumerate() {
                lengths.add(*ns);
                if at % 2 == 0 { first.add(*ns) } else { rest.add(*ns) }
            }
            first.add_all(&rest);
            all.sort_unstable();
            let rank = (percent / 100.0 * all.len() as f64).ceil().max(1.0) as usize;
            let exact = all[rank - 1];
            for lengths in [&lengths, &first] {
                let found = lengths.percentile(percent);
                prop_assert!(found.abs_diff(exact) <= exact / 100, "{found} for {exact}");
                prop_assert_eq!(lengths.max(), all[all.len() - 1]);
                prop_assert_eq!(lengths.count(), all.len() as u64);
            }
        }
    }
}
