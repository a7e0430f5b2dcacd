//! Which mounts hear of what happens on others.
//!
//! From where a slave's events come, if its master is in another namespace, mountinfo says
//! (`propagate_from`), and so does statmount of one's own namespace; of others it looks from
//! the wrong root (v6.18 fs/namespace.c, statmount_propagate_from). It follows from the mounts
//! of all namespaces: v6.18 fs/pnode.c, get_dominating_id.

use foldhash::{HashMap, HashSet};

use super::{Mount, MountNs, Mounts};

/// Peer groups are followed so far up: a list that was read while mounts changed may lead
/// round in circles.
const STEPS_MAX: usize = 1024;

/// The group that each group is a slave of, 0 for none: all mounts of a group have one master.
fn masters(namespaces: &[MountNs]) -> HashMap<u32, u32> {
    let all = namespaces.iter().flat_map(|ns| &ns.mounts);
    let shared = all.filter(|mount| mount.group != 0);
    shared.map(|mount| (mount.group, mount.master)).collect()
}

/// The groups above one, the nearest first.
fn above(group: u32, masters: &HashMap<u32, u32>) -> impl Iterator<Item = u32> {
    let next = |group: &u32| masters.get(group).copied().filter(|above| *above != 0);
    std::iter::successors(next(&group), next).take(STEPS_MAX)
}

/// Finds for the mounts of which it is not known where their events come from.
pub fn complete(namespaces: &mut [MountNs]) {
    let masters = masters(namespaces);
    for ns in namespaces {
        let here: HashSet<u32> = ns.mounts.iter().map(|mount| mount.group).collect();
        for mount in &mut ns.mounts {
            if mount.master == 0 || mount.from != 0 || here.contains(&mount.master) {
                continue;
            }
            let nearest = above(mount.master, &masters).find(|group| here.contains(group));
            mount.from = nearest.unwrap_or(0);
        }
    }
}

/// Which mounts are mounted on, and unmounted from, together with others.
#[derive(Debug)]
pub struct Receives(HashMap<u32, u32>);

impl Receives {
    /// Of these mounts.
    pub fn new(mounts: &Mounts) -> Receives {
        Receives(masters(&mounts.namespaces))
    }

    /// Whether what is mounted on or unmounted from one mount is from the other, too.
    pub fn from(&self, one: &Mount, other: &Mount) -> bool {
        let is_it = |group: u32| group != 0 && group == one.group;
        let mut above = above(other.master, &self.0);
        is_it(other.group) || is_it(other.master) || above.any(is_it)
    }
}
