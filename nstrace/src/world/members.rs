//! Who is in a namespace: a list for each, through the tasks.

use super::{
    Change, World,
    arena::NONE,
    model::{Link, Membership, NsKey, TaskKey, membership, slot},
};

impl World {
    /// The namespace that a task is in, or its children will be.
    pub fn membership(&self, task: TaskKey, membership: Membership) -> Option<NsKey> {
        let link = self.tasks.get(task.0)?.links[slot(membership)?];
        (link.ns != NONE).then(|| self.ns_key(link.ns))
    }

    /// The tasks that are in a namespace.
    pub fn members(&self, ns: NsKey) -> impl Iterator<Item = TaskKey> {
        let ns = self.namespaces.get(ns.0);
        let way = ns.map(|ns| (ns.inside.head, Membership::In(ns.kind)));
        self.list(way)
    }

    /// The tasks whose future children will be in a namespace of kind pid or time.
    pub fn members_for_children(&self, ns: NsKey) -> impl Iterator<Item = TaskKey> {
        let ns = self.namespaces.get(ns.0);
        let way = ns.map(|ns| (ns.children.head, Membership::Children(ns.kind)));
        self.list(way)
    }

    fn list(&self, way: Option<(u32, Membership)>) -> impl Iterator<Item = TaskKey> {
        let (mut next, slot) = way
            .and_then(|(head, membership)| Some((head, slot(membership)?)))
            .unwrap_or((NONE, 0));
        std::iter::from_fn(move || {
            let task = next;
            if task == NONE {
                return None;
            }
            next = self.tasks[task].links[slot].next;
            Some(self.task_key(task))
        })
    }

    /// Puts a task into a namespace, or into none, out of the one that it was in.
    #[inline(always)]
    pub(super) fn enter(&mut self, task: u32, slot: usize, ns: u32, changes: &mut Vec<Change>) {
        if self.tasks[task].links[slot].ns == ns {
            return;
        }
        self.leave(task, slot, changes);
        if ns == NONE {
            return;
        }
        self.link(task, slot, ns);
        if self.options.tells_members {
            changes.push(Change::Joined {
                task: self.task_key(task),
                ns: self.ns_key(ns),
                membership: membership(slot),
            });
        }
    }

    /// Takes a task out of the namespace that it is in, if it is in one.
    #[inline(always)]
    pub(super) fn leave(&mut self, task: u32, slot: usize, changes: &mut Vec<Change>) {
        let link = std::mem::replace(&mut self.tasks[task].links[slot], Link::NONE);
        if link.ns == NONE {
            return;
        }
        self.unlink(link, slot);
        if self.options.tells_members {
            changes.push(Change::Left {
                task: self.task_key(task),
                ns: self.ns_key(link.ns),
                membership: membership(slot),
            });
        }
    }

    #[inline(always)]
    fn link(&mut self, task: u32, slot: usize, ns: u32) {
        let members = self.namespaces[ns].members(slot);
        let next = std::mem::replace(&mut members.head, task);
        members.len += 1;
        self.tasks[task].links[slot] = Link {
            ns,
            previous: NONE,
            next,
        };
        if next != NONE {
            self.tasks[next].links[slot].previous = task;
        }
    }

    #[inline(always)]
    fn unlink(&mut self, link: Link, slot: usize) {
        if link.next != NONE {
            self.tasks[link.next].links[slot].previous = link.previous;
        }
        let members = self.namespaces[link.ns].members(slot);
        members.len -= 1;
        if link.previous == NONE {
            members.head = link.next;
        } else {
            self.tasks[link.previous].links[slot].next = link.next;
        }
    }
}
