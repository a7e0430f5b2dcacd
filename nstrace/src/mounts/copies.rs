//! How many namespaces have a mount.
//!
//! A copy is a mount of the same part of the same file system in another namespace that is in
//! the same place, or that propagation ties to it: it is in the same peer group, or slave of
//! it, or both are slaves of one. copy_mnt_ns makes such copies; each of them keeps the file
//! system, whatever becomes of the others.

use foldhash::HashMap;

use super::{Device, MountKey, Mounts};

/// For each mount, in which namespaces there are copies.
#[derive(Debug)]
pub struct Copies {
    /// The sets of namespaces that a mount is in, by namespace and mount: that of its place
    /// and those of its groups. Mounts in the same sets share them.
    of: Vec<Vec<[u32; 3]>>,
    /// Which namespaces, ascending.
    sets: Vec<Vec<u32>>,
    counts: HashMap<[u32; 3], usize>,
}

/// There is no such set.
const NONE: u32 = u32::MAX;

#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Place(Device, &'a [u8], &'a [u8]),
    Group(Device, &'a [u8], u32),
}

impl Copies {
    /// Finds them all.
    pub fn new(mounts: &Mounts) -> Copies {
        let mut sets = Sets::default();
        let of = mounts.namespaces.iter().enumerate().map(|(ns, table)| {
            let ns = ns as u32;
            let of = table.mounts.iter().map(|mount| {
                let (device, root) = (mount.device, &*mount.root);
                let mut group = |group| match group {
                    0 => NONE,
                    group => sets.note(Key::Group(device, root, group), ns),
                };
                let groups = [group(mount.group), group(mount.master)];
                let place = sets.note(Key::Place(device, root, &mount.point), ns);
                [place, groups[0], groups[1]]
            });
            of.collect::<Vec<_>>()
        });
        let of: Vec<Vec<[u32; 3]>> = of.collect();
        let mut copies = Copies {
            of,
            sets: sets.sets,
            counts: HashMap::default(),
        };
        let mut counts = HashMap::default();
        for sets in copies.of.iter().flatten() {
            counts
                .entry(*sets)
                // The mount's own namespace is in each of them.
                .or_insert_with(|| copies.union(sets).len().saturating_sub(1));
        }
        copies.counts = counts;
        copies
    }

    /// In how many other namespaces a mount has copies.
    pub fn count(&self, key: MountKey) -> usize {
        let sets = self.of.get(key.ns).and_then(|ns| ns.get(key.mount));
        sets.and_then(|sets| self.counts.get(sets))
            .copied()
            .unwrap_or(0)
    }

    /// All namespaces in which one of these sets is.
    fn union(&self, sets: &[u32; 3]) -> Vec<u32> {
        let all = sets.iter().filter_map(|set| self.sets.get(*set as usize));
        let mut all: Vec<u32> = all.flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[derive(Default)]
struct Sets<'a> {
    known: HashMap<Key<'a>, u32>,
    sets: Vec<Vec<u32>>,
}

impl<'a> Sets<'a> {
    /// Notes that a namespace has what the key says, and gives the set of all that do.
    /// Namespaces come in order.
    fn note(&mut self, key: Key<'a>, ns: u32) -> u32 {
        let next = self.sets.len() as u32;
        let at = *self.known.entry(key).or_insert(next);
        if at == next {
            self.sets.push(Vec::new());
        }
        if let Some(set) = self.sets.get_mut(at as usize)
            && set.last() != Some(&ns)
        {
            set.push(ns);
        }
        at
    }
}
