//! What `nstrace mounts` says: the mounts of each mount namespace as a tree, and what keeps
//! those of one file system.
//!
//! ```text
//! MOUNT POINT                     ID    FS       DEVICE  PROPAGATION COPIES OPTIONS, SOURCE
//! mnt:4026531841 (first), 38 mounts
//!   112 tasks: systemd[1], sshd[812], …
//!   /                             27    ext4     8:1     shared:1         2 rw /dev/sda1
//!     /proc                       22    proc     0:21    shared:12        2 rw,nosuid,nodev,noexec
//! ```

mod json;
mod list;
mod steps;
mod who;
mod who_json;

#[cfg(test)]
mod tests;

use nstrace_common::kind::Kind;

pub use self::{
    json::{head as mounts_json, namespace as mounts_json_of},
    list::{head as mounts, namespace as mounts_of},
    who::{WhoView, who as mounts_who},
    who_json::who as mounts_who_json,
};
use super::{
    TreeView,
    tree::first,
    why::{NotFound, Target, find_tasks},
};
use crate::{
    mount_ops::origins::Origins as Makers,
    mounts::{Births, Copies, Mounts},
    world::{Membership, NsKey, World},
};

/// What a rendering of mounts needs to know.
#[derive(Clone, Copy, Debug)]
pub struct MountsView<'a> {
    /// The mounts.
    pub mounts: &'a Mounts,
    /// Their copies.
    pub copies: &'a Copies,
    /// How namespaces came about, as far as a recording was given.
    pub births: &'a Births,
    /// Who made mounts, if a recording says it.
    pub makers: &'a Makers,
    /// The namespaces and the tasks in them.
    pub world: &'a World,
    /// The same as for the tree.
    pub tree: &'a TreeView<'a>,
}

impl MountsView<'_> {
    /// A mount namespace as the tree has it, if it is known there.
    fn key(&self, inum: u32) -> Option<NsKey> {
        self.world.living(Kind::Mnt, inum)
    }

    /// Whether it is the first.
    fn is_first(&self, inum: u32) -> bool {
        let key = self.key(inum);
        key.is_some() && first(self.world).contains(&key)
    }
}

/// A number above this is one of a namespace: process ids are no larger (`PID_MAX_LIMIT` of
/// include/linux/threads.h).
const PID_MAX: u32 = 4 << 20;

/// Which of the namespaces were asked for: those of a process or a container, or one by its
/// number.
pub fn mount_namespaces(view: &MountsView, targets: &[Target]) -> Result<Vec<usize>, NotFound> {
    let mut chosen = Vec::new();
    for target in targets {
        match *target {
            Target::Namespace(kind, inum) => chosen.push(by_inum(view, kind, inum)?),
            Target::Process(inum) if inum > PID_MAX => {
                chosen.push(by_inum(view, Kind::Mnt, inum)?);
            }
            Target::Process(_) | Target::Container(_) => {
                let before = chosen.len();
                for task in find_tasks(view.world, target, view.tree)? {
                    let ns = view.world.membership(task, Membership::In(Kind::Mnt));
                    let inum = ns.and_then(|ns| Some(view.world.namespace(ns)?.inum));
                    chosen.extend(inum.and_then(|inum| view.mounts.namespace(inum)));
                }
                if chosen.len() == before {
                    return Err(NotFound::NoMounts);
                }
            }
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

fn by_inum(view: &MountsView, kind: Kind, inum: u32) -> Result<usize, NotFound> {
    if kind != Kind::Mnt {
        return Err(NotFound::HasNoMounts(kind));
    }
    let found = view.mounts.namespace(inum);
    found.ok_or(NotFound::Namespace { kind, inum })
}
