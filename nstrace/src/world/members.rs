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
        let was = self.tasks[task].links[slot];
        if was.ns == ns {
            return;
        }
        if was.ns != NONE {
            self.unlink(was, slot);
        }
        match ns {
            NONE => self.tasks[task].links[slot] = Link::NONE,
            ns => self.link(task, slot, ns),
        }
        if self.options.tells_tasks {
            self.tell(task, slot, [was.ns, ns], changes);
        }
    }

    /// Takes a task out of the namespace that it is in, if it is in one.
    #[inline(always)]
    pub(super) fn leave(&mut self, task: u32, slot: usize, changes: &mut Vec<Change>) {
        self.enter(task, slot, NONE, changes);
    }

    /// That a task has left one and is in the other, if there are such.
    #[inline(never)]
    fn tell(&self, task: u32, slot: usize, [was, is]: [u32; 2], changes: &mut Vec<Change>) {
        let (task, membership) = (self.task_key(task), membership(slot));
        if was != NONE {
            changes.push(Change::Left {
                task,
                ns: self.ns_key(was),
                membership,
            });
        }
        if is != NONE {
            changes.push(Change::Joined {
                task,
                ns: self.ns_key(is),
                membership,
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
