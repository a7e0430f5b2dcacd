//! The tree of namespaces, kept up from events.
//!
//! [`World::apply`] takes one event after the other, from the rings, a snapshot or a
//! recording, and says what each changed. It is pure: nothing here knows the machine.
//!
//! # What can be relied on
//!
//! Attach the probes, take a snapshot, then apply what came in between, and go on. The
//! snapshot is events too. What it found may be older or newer than the events that are
//! read after it, and an event may come twice; so nothing goes by the order of arrival
//! alone:
//!
//! - A namespace is known by its number *and* from when to when it is known to have lived;
//!   a task by its thread id and its start. What is told of a time in which something else
//!   had the number does not touch who has it now.
//! - Where a task is, is what is known of the latest time.
//! - What ended is remembered for a while ([`Options`]): what is told late of it does not
//!   bring it back.
//!
//! Only a death that is told, or a number that is seen with somebody else, ends a
//! namespace. One that a snapshot does not find is [`Namespace::confirmed`] no more, but
//! lives: what holds it may be where nobody looked. Unless its parent or its owner has
//! died, which lives as long as what is below it, or the kernel says that its number is not
//! in use. Tasks are all in `/proc`: one that a
//! complete snapshot does not find has exited.
//!
//! It wants every task to be told of ([`nstrace_common::config::Tasks::All`]).
//!
//! # Example
//!
//! `examples/replay.rs` replays a list of events and prints the tree.

mod arena;
mod change;
mod graves;
mod lives;
mod members;
mod model;
mod numbers;
mod snapshot;
mod state;
mod tasks;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;

use foldhash::{HashMap, HashSet};
use nstrace_common::{kind::Kind, wire::RecordKind};

use self::{
    arena::{Arena, NONE},
    graves::Graves,
    model::OwnedHolder,
    numbers::{INUMS, Numbers, TIDS},
    snapshot::Snapshot,
};
pub use self::{
    change::{Change, Interval, Known},
    model::{Maker, Membership, Namespace, NsKey, Start, Task, TaskKey},
};
use crate::event::{Event, Holder, Life, Lost};

/// How much is remembered of the dead, and what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// At most so many.
    pub dead_max: usize,
    /// At most for so long, in ns.
    pub dead_age_max_ns: u64,
    /// Whether it is told which tasks come and go, and where.
    pub tells_tasks: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            dead_max: 16384,
            dead_age_max_ns: 600_000_000_000,
            tells_tasks: true,
        }
    }
}

/// This part of the dead is forgotten at once, if they are too many: it is looked for those that
/// are when so many have come.
const FORGOTTEN_SHARE: usize = 64;

/// So many ends of numbers are remembered at least, however few dead namespaces: events
/// of several CPUs do not come in the exact order of time.
const GRAVES_MIN: usize = 1024;

/// The living namespaces and their members, and the dead of the last while.
#[derive(Clone, Debug, Default)]
pub struct World {
    options: Options,
    namespaces: Arena<Namespace>,
    /// The living. Numbers are unique among those of all kinds: one allocator gives them
    /// (fs/proc/generic.c, proc_alloc_inum; from v6.18 kernel/nscommon.c).
    by_inum: Numbers<u32, INUMS>,
    /// Those whose id is known, the dead too.
    by_id: HashMap<u64, u32>,
    tasks: Arena<Task>,
    by_tid: Numbers<u32, TIDS>,
    /// In the order in which their deaths were told, and when they died.
    dead: VecDeque<(NsKey, u64)>,
    ns_graves: Graves<INUMS>,
    /// Deaths of those whose birth may be told yet. A state does not have them.
    early: VecDeque<Life>,
    task_graves: Graves<TIDS>,
    snapshot: Snapshot,
    /// What holds namespaces of kind pid that are not known.
    doubtful: Vec<OwnedHolder>,
    /// The numbers of the mount namespaces through whose mounts something is held.
    holding: HashSet<u32>,
    loss: Option<Interval>,
    /// Up to when nothing has been lost that was not made good.
    whole_until: u64,
    /// The latest time of an event.
    now: u64,
    /// How many ends there were when it was last looked which are to be forgotten, and up to
    /// when none of these is.
    looked_at: usize,
    none_until: u64,
}

impl World {
    /// An empty world.
    pub fn new(options: Options) -> World {
        World {
            options,
            ..World::default()
        }
    }

    /// What is remembered and told.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Sets what is remembered and told from now on.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
        self.none_until = 0;
    }

    /// Applies an event, and appends what it changed. An event that was applied before
    /// changes nothing.
    pub fn apply(&mut self, event: &Event, changes: &mut Vec<Change>) {
        match event {
            // What of an operation found room, its births, says where its task went too.
            Event::Op(op) | Event::Births(op) => {
                self.advance(op.record.head.time);
                self.births(op, changes);
                self.operation(op, changes);
            }
            Event::Birth(life) => {
                self.advance(life.time);
                self.birth_alone(life, changes);
            }
            Event::Death(life) => {
                self.advance(life.time);
                self.death(life, changes);
            }
            Event::TaskNew(task) => {
                self.advance(task.record.head.time);
                self.task_told(task, Start::At(task.record.head.time), changes);
            }
            Event::TaskChange(task) => {
                self.advance(task.record.head.time);
                self.task_change(task, changes);
            }
            Event::TaskExit(task) => {
                self.advance(task.record.head.time);
                self.task_exit(task, changes);
            }
            Event::TaskFree(task) => {
                self.advance(task.record.head.time);
                self.task_free(task, changes);
            }
            Event::Lost(lost) => self.lost(lost, changes),
            Event::SnapshotBegin(now) => self.snapshot_begin(now.time),
            Event::FoundNamespace(found) => self.found_namespace(found, changes),
            Event::FoundTask(found) => self.found_task(found, changes),
            Event::FoundHolder(found) => self.found_holder(found, changes),
            Event::SnapshotEnd(end) => self.snapshot_end(end, changes),
            Event::FoundFree(free) => self.found_free(free, changes),
            Event::Cgroup(_) => {}
            // They change nothing, but a state behind them is of their time.
            Event::Stall(..)
            | Event::Warning(_)
            | Event::MountOp(_)
            | Event::MountBirths(_)
            | Event::MountDied(_)
            | Event::MountWatched(_)
            | Event::Access(_)
            | Event::Balance(_)
            | Event::Unfiled(_) => self.advance(event.time().unwrap_or(0)),
        }
        self.forget(changes);
    }

    fn advance(&mut self, time: u64) {
        self.now = self.now.max(time);
    }

    /// Forgets the dead that are too many or too old.
    #[inline]
    fn forget(&mut self, changes: &mut Vec<Change>) {
        let more = self.ends_len().saturating_sub(self.looked_at);
        if more > self.options.dead_max / FORGOTTEN_SHARE || self.now > self.none_until {
            self.forget_some(changes);
        }
    }

    /// How many ends are remembered.
    fn ends_len(&self) -> usize {
        self.dead.len() + self.ns_graves.told().len() + self.task_graves.told().len()
    }

    fn forget_some(&mut self, changes: &mut Vec<Change>) {
        let Options {
            dead_max,
            dead_age_max_ns,
            ..
        } = self.options;
        let oldest = self.now.saturating_sub(dead_age_max_ns);
        // Of too many some more are forgotten, because what was long ago is slow to look at
        // one by one.
        let most = match self.dead.len() > dead_max {
            true => dead_max - dead_max / FORGOTTEN_SHARE,
            false => dead_max,
        };
        while let Some((key, death)) = self.dead.front().copied() {
            if death >= oldest && self.dead.len() <= most {
                break;
            }
            self.dead.pop_front();
            let id = self.namespaces.remove(key.0.index).map_or(0, |ns| ns.id);
            if id != 0 && self.by_id.get(&id) == Some(&key.0.index) {
                self.by_id.remove(&id);
            }
            changes.push(Change::Forgotten(key));
        }
        let graves = dead_max.max(GRAVES_MIN);
        self.ns_graves.forget(oldest, graves);
        self.task_graves.forget(oldest, graves);
        self.looked_at = self.ends_len();
        let or_never = |front: Option<u64>| front.unwrap_or(u64::MAX);
        let first = or_never(self.dead.front().map(|(_, death)| *death))
            .min(or_never(self.ns_graves.first()))
            .min(or_never(self.task_graves.first()))
            // What dies later does so from now on.
            .min(self.now);
        self.none_until = first.saturating_add(dead_age_max_ns);
    }

    fn lost(&mut self, lost: &Lost, changes: &mut Vec<Change>) {
        match lost.record {
            RecordKind::Op
            | RecordKind::TaskNew
            | RecordKind::TaskExit
            | RecordKind::TaskChange
            | RecordKind::TaskFree
            | RecordKind::Birth
            | RecordKind::Death => {}
            RecordKind::Cgroup
            | RecordKind::MountDeath
            | RecordKind::MountOp
            | RecordKind::MountBirths => return,
        }
        self.advance(lost.time);
        if self.loss.is_none() && lost.time <= self.whole_until {
            return;
        }
        let since = lost.since.max(self.whole_until);
        let from = self.loss.map_or(since, |loss| loss.from.min(since));
        let until = self.loss.map_or(0, |loss| loss.until).max(lost.time);
        let loss = Interval { from, until };
        if self.loss != Some(loss) {
            self.loss = Some(loss);
            changes.push(Change::Lost(loss));
        }
    }

    /// The interval in which events were lost, until a snapshot has made that good.
    pub fn loss(&self) -> Option<Interval> {
        self.loss
    }

    /// The latest time of an event, `CLOCK_MONOTONIC` in ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// A namespace, alive or remembered.
    pub fn namespace(&self, key: NsKey) -> Option<&Namespace> {
        self.namespaces.get(key.0)
    }

    /// The living namespace of that kind and number.
    pub fn living(&self, kind: Kind, inum: u32) -> Option<NsKey> {
        let index = self.living_index(inum);
        (index != NONE && self.namespaces[index].kind == kind).then(|| self.ns_key(index))
    }

    /// The namespace of that id, alive or remembered, where the kernel has ids.
    pub fn by_id(&self, id: u64) -> Option<NsKey> {
        self.by_id.get(&id).map(|index| self.ns_key(*index))
    }

    /// All namespaces, alive and remembered, in no order that means anything.
    pub fn namespaces(&self) -> impl Iterator<Item = (NsKey, &Namespace)> {
        self.namespaces.iter().map(|(key, ns)| (NsKey(key), ns))
    }

    /// Living namespaces of which nothing is known that keeps them alive: they are about to
    /// die, or something that is not told of holds them.
    pub fn unheld(&self) -> impl Iterator<Item = NsKey> {
        let alive = self.namespaces().filter(|(_, ns)| ns.is_alive());
        alive.filter(|(_, ns)| !ns.is_held()).map(|(key, _)| key)
    }

    /// What the last snapshot found to hold a pid namespace each, and could not learn which:
    /// instances of proc, whose pid namespaces have no process any more.
    pub fn doubtful_holders(&self) -> impl Iterator<Item = Holder<'_>> {
        self.doubtful.iter().map(OwnedHolder::get)
    }

    /// How many namespaces live.
    pub fn living_len(&self) -> usize {
        self.by_inum.len()
    }

    /// A task.
    pub fn task(&self, key: TaskKey) -> Option<&Task> {
        self.tasks.get(key.0)
    }

    /// The task with that thread id in the first pid namespace.
    pub fn by_tid(&self, tid: u32) -> Option<TaskKey> {
        let index = self.by_tid.get(tid);
        (index != NONE).then(|| self.task_key(index))
    }

    /// All tasks, in no order that means anything.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskKey, &Task)> {
        self.tasks.iter().map(|(key, task)| (TaskKey(key), task))
    }

    /// How many tasks there are.
    pub fn tasks_len(&self) -> usize {
        self.tasks.len()
    }

    fn ns_key(&self, index: u32) -> NsKey {
        NsKey(self.namespaces.key(index))
    }

    fn task_key(&self, index: u32) -> TaskKey {
        TaskKey(self.tasks.key(index))
    }

    /// The index of the living namespace of a number, or [`NONE`].
    fn living_index(&self, inum: u32) -> u32 {
        self.by_inum.get(inum)
    }
}
