//! Tasks: who starts, who ends, and who goes where.

use std::collections::hash_map::Entry;

use nstrace_common::{
    flags::{CLONE_INTO_CGROUP, CLONE_THREAD, CLONE_VM},
    kind::{KINDS, Kind},
    wire::{Op, PidAt},
};

use super::{
    Change, Known, Start, World,
    arena::NONE,
    model::{Link, PID_CHILDREN, SLOTS, TIME_CHILDREN, Task},
};
use crate::{
    event::{self, Ns, Operation},
    stages,
};

/// How far a start from `/proc/PID/stat` can be from the one that is told: it is rounded
/// down to 10 ms, and its clock is another one.
const START_SLACK_NS: u64 = 20_000_000;

/// Who a task is.
pub(super) struct Identity<'a> {
    pub pid: u32,
    pub tid: u32,
    pub start: Start,
    pub cgroup: u64,
    pub comm: [u8; 16],
    pub pids: &'a [PidAt],
}

impl Start {
    /// An exit before that is not its own.
    fn alive_from(self) -> u64 {
        match self {
            Start::At(time) | Start::About(time) | Start::Before(time) => time,
        }
    }

    /// Whether two are of one task; if not, whether `other` is the later one.
    fn is_same(self, other: Start) -> Result<(), bool> {
        let (own, its) = (self.alive_from(), other.alive_from());
        let slack = match (self, other) {
            (Start::About(_), _) | (_, Start::About(_)) => START_SLACK_NS,
            _ => 0,
        };
        let same = match (self, other) {
            (Start::Before(_), Start::Before(_)) => true,
            (Start::Before(_), _) => its <= own.saturating_add(slack),
            (_, Start::Before(_)) => own <= its.saturating_add(slack),
            _ => own.abs_diff(its) <= slack,
        };
        if same { Ok(()) } else { Err(its > own) }
    }
}

impl World {
    /// What a successful operation says of its task, or of the new one; and what a failed
    /// one says of where its task is.
    pub(super) fn operation(&mut self, op: &Operation, changes: &mut Vec<Change>) {
        match op.op {
            Op::Clone | Op::Clone3 | Op::Fork | Op::Vfork if op.record.ret >= 0 => {
                self.cloned(op, changes);
            }
            Op::Unshare | Op::Setns if op.record.ret >= 0 => self.moved(op, changes),
            // They make a namespace that nobody is in, or nothing.
            _ => {}
        }
    }

    /// A task went into other namespaces.
    fn moved(&mut self, op: &Operation, changes: &mut Vec<Change>) {
        let record = op.record;
        let time = record.head.time;
        let caller = Identity {
            pid: record.pid,
            tid: record.tid,
            start: Start::Before(record.start),
            cgroup: record.cgroup,
            comm: record.comm,
            pids: &[],
        };
        let task = self.running(&caller, time, changes);
        if task == NONE || self.tasks[task].updated >= time {
            return;
        }
        self.tasks[task].updated = time;
        self.tasks[task].cgroup = record.cgroup;
        self.tasks[task].comm = record.comm;
        for kind in Kind::ALL {
            let slot = match kind {
                Kind::Pid => PID_CHILDREN,
                Kind::Time => TIME_CHILDREN,
                kind => kind as usize,
            };
            self.goes(task, slot, kind, op.after(kind), time, changes);
        }
        // setns is in a time namespace at once, unlike unshare (kernel/time/namespace.c,
        // timens_install).
        if op.op == Op::Setns && stages::installed(op).any(|kind| kind == Kind::Time) {
            let (slot, ns) = (Kind::Time as usize, op.after(Kind::Time));
            self.goes(task, slot, Kind::Time, ns, time, changes);
        }
        self.diverges(task);
    }

    /// Where a task is may not be where the other threads of its process are.
    fn diverges(&mut self, task: u32) {
        if let Some(process) = self.processes.get_mut(&self.tasks[task].pid) {
            process.diverged = true;
        }
    }

    /// Notes whether a task, whose place has become known, is where the other threads of
    /// its process are.
    pub(super) fn compare_threads(&mut self, task: u32) {
        let Task { pid, tid, .. } = self.tasks[task];
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let places = self.tasks[task].places();
        let leader = self.by_tid.get(&pid).filter(|_| pid != tid);
        let others = match leader {
            Some(leader) => self.tasks[*leader].places(),
            None => *process.places.get_or_insert(places),
        };
        process.diverged |= places != others;
    }

    /// An operation made a task.
    fn cloned(&mut self, op: &Operation, changes: &mut Vec<Change>) {
        let record = op.record;
        let time = record.head.time;
        let Some(first) = op.pids.first() else { return };
        let is_thread = record.flags & CLONE_THREAD != 0;
        let child = Identity {
            pid: if is_thread { record.pid } else { first.nr },
            tid: first.nr,
            start: Start::At(time),
            cgroup: match record.flags & CLONE_INTO_CGROUP {
                0 => record.cgroup,
                _ => 0,
            },
            comm: record.comm,
            pids: op.pids,
        };
        let task = self.running(&child, time, changes);
        if task == NONE || self.tasks[task].updated >= time {
            return;
        }
        self.tasks[task].updated = time;
        for kind in Kind::ALL {
            let ns = op.after(kind);
            match kind {
                Kind::Pid => self.goes(task, PID_CHILDREN, kind, ns, time, changes),
                Kind::Time => {
                    self.goes(task, TIME_CHILDREN, kind, ns, time, changes);
                    // kernel/nsproxy.c, copy_namespaces: it stays where its maker is
                    // as long as they share memory.
                    if record.flags & CLONE_VM == 0 {
                        self.goes(task, kind as usize, kind, ns, time, changes);
                    } else if let Some(maker) = self.by_tid.get(&record.tid) {
                        let ns = self.tasks[*maker].links[kind as usize].ns;
                        self.enter(task, kind as usize, ns, changes);
                    }
                }
                kind => self.goes(task, kind as usize, kind, ns, time, changes),
            }
        }
        self.enter_pid_ns(task, op.pids, time, changes);
        self.compare_threads(task);
    }

    /// A plain fork made a task: it is where its maker is.
    pub(super) fn task_new(&mut self, new: &event::Task, changes: &mut Vec<Change>) {
        let record = new.record;
        let time = record.head.time;
        let child = Identity {
            pid: record.pid,
            tid: record.tid,
            start: Start::At(time),
            cgroup: record.cgroup,
            comm: record.comm,
            pids: new.pids,
        };
        let task = self.running(&child, time, changes);
        if task == NONE || self.tasks[task].updated >= time {
            return;
        }
        self.tasks[task].updated = time;
        // A process, not a thread of it, is told as the maker.
        let maker = self.by_tid.get(&record.parent).copied();
        if let Some(maker) = maker.filter(|maker| *maker != task) {
            self.inherit(task, maker, new.is_thread(), time, changes);
        } else {
            self.tasks[task].inferred = true;
        }
        self.enter_pid_ns(task, new.pids, time, changes);
    }

    fn inherit(
        &mut self,
        task: u32,
        maker: u32,
        is_thread: bool,
        time: u64,
        changes: &mut Vec<Change>,
    ) {
        let from = &self.tasks[maker];
        let diverged = self
            .processes
            .get(&from.pid)
            .is_some_and(|process| process.diverged);
        let inferred = from.inferred || diverged || from.updated > time;
        let links = from.links;
        for (slot, link) in links.iter().enumerate() {
            let ns = match slot {
                // The ids say it.
                _ if slot == Kind::Pid as usize => continue,
                // A vfork's child is there once it executes a program.
                _ if slot == Kind::Time as usize && !is_thread => links[TIME_CHILDREN].ns,
                _ => link.ns,
            };
            self.enter(task, slot, ns, changes);
        }
        self.tasks[task].inferred |= inferred;
    }

    /// Puts a new task into the pid namespace that its ids end in.
    fn enter_pid_ns(&mut self, task: u32, pids: &[PidAt], time: u64, changes: &mut Vec<Change>) {
        let Some(own) = pids.last() else { return };
        let ns = Ns {
            inum: own.ns,
            id: 0,
        };
        let slot = Kind::Pid as usize;
        self.goes(task, slot, Kind::Pid, ns, time, changes);
        let ns = self.tasks[task].links[slot].ns;
        if let [.., parent, _] = pids
            && ns != NONE
            && self.namespaces[ns].parent.is_none()
        {
            self.set_parents(ns, parent.ns, 0, time, changes);
        }
    }

    pub(super) fn goes(
        &mut self,
        task: u32,
        slot: usize,
        kind: Kind,
        ns: Ns,
        time: u64,
        changes: &mut Vec<Change>,
    ) {
        let ns = self.shown(kind, ns, time, changes);
        self.enter(task, slot, ns, changes);
    }

    /// The index of a task that ran at that time; it is noted if it was not known.
    /// [`NONE`] if it has exited by now.
    pub(super) fn running(&mut self, who: &Identity, time: u64, changes: &mut Vec<Change>) -> u32 {
        if let Some(&index) = self.by_tid.get(&who.tid) {
            match self.tasks[index].start.is_same(who.start) {
                Ok(()) => {
                    self.learn(index, who);
                    return index;
                }
                Err(false) => return NONE,
                Err(true) => self.exit(index, Known::Inferred, changes),
            }
        }
        if self.task_graves.has(who.tid, who.start.alive_from()) || self.snapshot.had_no_task(time)
        {
            return NONE;
        }
        let index = self.tasks.insert(Task {
            pid: who.pid,
            tid: who.tid,
            cgroup: who.cgroup,
            start: who.start,
            inferred: false,
            pids: who.pids.into(),
            comm: who.comm,
            updated: 0,
            links: [Link::NONE; SLOTS],
        });
        self.by_tid.insert(who.tid, index);
        if who.pid != who.tid {
            self.processes.entry(who.pid).or_default().threads += 1;
        }
        changes.push(Change::Started(self.task_key(index)));
        index
    }

    /// Notes what is known better of a task now.
    fn learn(&mut self, index: u32, who: &Identity) {
        let task = &mut self.tasks[index];
        match (task.start, who.start) {
            (Start::At(_), _) | (Start::About(_), Start::About(_)) | (_, Start::Before(_)) => {}
            (_, start) => task.start = start,
        }
        if task.pids.is_empty() {
            task.pids = who.pids.into();
        }
    }

    /// A task exits, if it is the one that had the id then.
    pub(super) fn task_exit(&mut self, exits: &event::Task, changes: &mut Vec<Change>) {
        let (tid, time) = (exits.record.tid, exits.record.head.time);
        let index = self.by_tid.get(&tid).copied();
        let is_own = |index: &u32| self.tasks[*index].start.alive_from() <= time;
        if let Some(index) = index.filter(is_own) {
            self.exit(index, Known::Told, changes);
        }
        self.task_graves.put(tid, time);
    }

    pub(super) fn exit(&mut self, index: u32, known: Known, changes: &mut Vec<Change>) {
        for slot in 0..SLOTS {
            self.enter(index, slot, NONE, changes);
        }
        let key = self.task_key(index);
        let Some(task) = self.tasks.remove(index) else {
            return;
        };
        self.by_tid.remove(&task.tid);
        if task.is_thread()
            && let Entry::Occupied(mut process) = self.processes.entry(task.pid)
        {
            process.get_mut().threads -= 1;
            if process.get().threads == 0 {
                process.remove();
            }
        }
        changes.push(Change::Exited {
            task: key,
            tid: task.tid,
            known,
        });
    }
}

const _: () = assert!(PID_CHILDREN >= KINDS && TIME_CHILDREN >= KINDS);
