//! What a rendering of the tree needs to know beside the tree.

use nstrace_common::kind::Kind;

use crate::{
    cgroups::Cgroups,
    event::Unseen,
    names::Names,
    world::{Namespace, Task},
};

/// What a rendering needs to know beside the [`crate::world::World`].
#[derive(Clone, Copy, Debug)]
pub struct TreeView<'a> {
    /// When it is, `CLOCK_MONOTONIC` in ns.
    pub now_ns: u64,
    /// What to add to `CLOCK_MONOTONIC` for the time of day, in ns.
    pub wall_offset_ns: i64,
    /// Paths of cgroups, and the ids of containers in them.
    pub cgroups: &'a Cgroups,
    /// Names of containers.
    pub names: &'a Names,
    /// What is shown.
    pub filter: &'a TreeFilter,
    /// What the last look at the machine could not see.
    pub unseen: Unseen,
    /// Whether the kernel was traced from before the first look.
    pub live: bool,
    /// Whether to use colours.
    pub color: bool,
    /// At which column lines are cut; none for never.
    pub width: Option<usize>,
}

/// So much of the beginning of a container's id is taken for it.
const ID_PREFIX_MIN: usize = 3;

/// What is shown. What is not set lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeFilter {
    /// Namespaces of these kinds, as a list; empty for all, as a tree.
    pub kinds: Vec<Kind>,
    /// Those that have to do with this process.
    pub pid: Option<u32>,
    /// Those of the container whose id begins so, or whose name this is.
    pub container: Option<String>,
    /// For [`crate::render::leaks`]: those known to live since then, `CLOCK_MONOTONIC` in
    /// ns.
    pub since: Option<u64>,
}

impl TreeFilter {
    /// Whether namespaces of a kind are shown.
    pub fn has_kind(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether it depends on who is in a namespace.
    pub fn is_about_tasks(&self) -> bool {
        self.pid.is_some() || self.container.is_some()
    }
}

impl<'a> TreeView<'a> {
    /// The container of a cgroup.
    pub fn container(&self, cgroup: u64) -> Option<&'a [u8]> {
        self.cgroups.container(cgroup)
    }

    /// Whether a container is the one that was asked for.
    pub fn is_container(&self, id: Option<&[u8]>, asked: &str) -> bool {
        let is_long = asked.len() >= ID_PREFIX_MIN;
        id.is_some_and(|id| {
            (is_long && id.starts_with(asked.as_bytes())) || self.is_named(id, asked)
        })
    }

    /// Whether a container has that very id or name.
    pub fn is_named(&self, id: &[u8], asked: &str) -> bool {
        id == asked.as_bytes() || self.names.get(id) == Some(asked)
    }

    /// Whether a task passes the filter.
    pub fn has_task(&self, task: &Task) -> bool {
        self.has_who(task.pid, task.cgroup)
    }

    /// Whether a namespace has to do with the process or container that was asked for,
    /// without regard to who is in it: by who made it, and what holds it.
    pub fn is_related(&self, ns: &Namespace) -> bool {
        let made = ns
            .maker
            .is_some_and(|maker| self.has_who(maker.pid, maker.cgroup));
        let asked = self.filter.pid.filter(|_| self.filter.container.is_none());
        made || ns
            .holders()
            .any(|holder| asked.is_some() && super::words::holder_pid(&holder) == asked)
    }

    /// Whether a process of that id and cgroup passes the filter.
    pub(super) fn has_who(&self, pid: u32, cgroup: u64) -> bool {
        let filter = self.filter;
        filter.pid.is_none_or(|asked| asked == pid)
            && filter
                .container
                .as_ref()
                .is_none_or(|asked| self.is_container(self.container(cgroup), asked))
    }
}
