//! The tree as it changes: a line for each change, for people or as JSON.
//!
//! A change may be of what is gone when it is told: a task that exits leaves its
//! namespaces, and its key is no longer good. So what lines need of it is remembered from
//! the time when it was there.

mod json;
mod text;

use foldhash::HashMap;
use jiff::tz::TimeZone;
use nstrace_common::kind::Kind;

use super::{
    super::{Clock, Text},
    Page, TreeView, words,
};
use crate::world::{Change, NsKey, TaskKey, World};

/// Prints changes.
#[derive(Clone, Debug)]
pub struct Changes {
    json: bool,
    clock: Clock,
    tasks: HashMap<TaskKey, Who>,
    namespaces: HashMap<NsKey, What>,
}

/// What is remembered of a task.
#[derive(Clone, Debug)]
struct Who {
    pid: u32,
    tid: u32,
    cgroup: u64,
    comm: Box<[u8]>,
}

/// What is remembered of a namespace.
#[derive(Clone, Debug)]
struct What {
    kind: Kind,
    inum: u32,
    id: u64,
    /// What held it when it was pinned last, in words.
    holder: Option<Box<str>>,
}

impl Changes {
    /// Lines with the time of day of `zone`; JSON lines have UTC.
    pub fn new(json: bool, zone: TimeZone) -> Changes {
        Changes {
            json,
            clock: Clock::new(if json { TimeZone::UTC } else { zone }),
            tasks: HashMap::default(),
            namespaces: HashMap::default(),
        }
    }

    /// Remembers all that is there, whose changes were not printed.
    pub fn remember(&mut self, world: &World) {
        world
            .tasks()
            .for_each(|(key, _)| self.note_task(world, key));
        let all = world.namespaces();
        all.for_each(|(key, _)| self.note_namespace(world, key));
    }

    /// Appends what an event changed: `changes` are those of one call of [`World::apply`],
    /// and `world` is as it is after it.
    pub fn print(&mut self, out: &mut Text, world: &World, changes: &[Change], view: &TreeView) {
        self.clock.set_offset(view.wall_offset_ns);
        changes.iter().for_each(|change| self.note(world, change));
        match self.json {
            true => self.objects(out, world, changes, view),
            false => self.lines(out, world, changes, view),
        }
        changes.iter().for_each(|change| self.forget(change));
    }

    fn note(&mut self, world: &World, change: &Change) {
        match *change {
            Change::Born(ns)
            | Change::Found(ns)
            | Change::BirthTold(ns)
            | Change::Died { ns, .. }
            | Change::Pinned(ns)
            | Change::Unpinned(ns)
            | Change::Unconfirmed(ns)
            | Change::Confirmed(ns) => self.note_namespace(world, ns),
            Change::Started(task) => self.note_task(world, task),
            Change::Joined { task, ns, .. } | Change::Left { task, ns, .. } => {
                self.note_task(world, task);
                self.note_namespace(world, ns);
            }
            Change::Exited { .. }
            | Change::Reaped { .. }
            | Change::Forgotten(_)
            | Change::Lost(_)
            | Change::Healed(_) => {}
        }
    }

    fn note_task(&mut self, world: &World, key: TaskKey) {
        if let Some(task) = world.task(key) {
            let who = Who {
                pid: task.pid,
                tid: task.tid,
                cgroup: task.cgroup,
                comm: task.comm().into(),
            };
            self.tasks.insert(key, who);
        }
    }

    fn note_namespace(&mut self, world: &World, key: NsKey) {
        let Some(ns) = world.namespace(key) else {
            return;
        };
        let known = self.namespaces.entry(key).or_insert(What {
            kind: ns.kind,
            inum: ns.inum,
            id: ns.id,
            holder: None,
        });
        known.id = ns.id;
        if let Some(holder) = ns.holders().next() {
            let mut out = Text::new();
            words::holder(&mut Page::new(&mut out, None, false), world, &holder);
            known.holder = Some(out.to_string().into());
        }
    }

    fn forget(&mut self, change: &Change) {
        match change {
            Change::Reaped { task, .. } => {
                self.tasks.remove(task);
            }
            Change::Forgotten(ns) => {
                self.namespaces.remove(ns);
            }
            Change::Unpinned(ns) => {
                if let Some(known) = self.namespaces.get_mut(ns) {
                    known.holder = None;
                }
            }
            Change::Born(_)
            | Change::Found(_)
            | Change::BirthTold(_)
            | Change::Died { .. }
            | Change::Started(_)
            | Change::Exited { .. }
            | Change::Joined { .. }
            | Change::Left { .. }
            | Change::Pinned(_)
            | Change::Unconfirmed(_)
            | Change::Confirmed(_)
            | Change::Lost(_)
            | Change::Healed(_) => {}
        }
    }

    fn is_shown(&self, world: &World, change: &Change, view: &TreeView) -> bool {
        match change {
            Change::Born(ns)
            | Change::Found(ns)
            | Change::Died { ns, .. }
            | Change::Pinned(ns)
            | Change::Unpinned(ns)
            | Change::Unconfirmed(ns)
            | Change::Confirmed(ns) => self.shows_namespace(world, *ns, view),
            Change::Started(task) | Change::Exited { task, .. } | Change::Reaped { task, .. } => {
                self.shows_task(*task, view)
            }
            Change::Joined { task, ns, .. } | Change::Left { task, ns, .. } => {
                let of_kind = |what: &What| view.filter.has_kind(what.kind);
                self.shows_task(*task, view) && self.namespaces.get(ns).is_some_and(of_kind)
            }
            // It has its line, and lives on.
            Change::BirthTold(_) | Change::Forgotten(_) => false,
            Change::Lost(_) | Change::Healed(_) => true,
        }
    }

    /// Of one that nobody was asked for by kind, who made it or holds it decides, or is in it.
    fn shows_namespace(&self, world: &World, key: NsKey, view: &TreeView) -> bool {
        let Some(what) = self.namespaces.get(&key) else {
            return false;
        };
        if !view.filter.has_kind(what.kind) {
            return false;
        }
        let is_related = |ns| {
            view.is_related(ns)
                || world
                    .members(key)
                    .any(|task| world.task(task).is_some_and(|task| view.has_task(task)))
        };
        !view.filter.is_about_tasks() || world.namespace(key).is_some_and(is_related)
    }

    fn shows_task(&self, key: TaskKey, view: &TreeView) -> bool {
        let Some(who) = self.tasks.get(&key) else {
            return !view.filter.is_about_tasks();
        };
        view.has_who(who.pid, who.cgroup)
    }
}
