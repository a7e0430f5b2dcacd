//! Tasks: who starts, who ends, and who goes where.

use nstrace_common::{
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

/// The places of a task that an operation tells.
const MOVED_PLACES: [(usize, Kind); KINDS] = [
    (Kind::Mnt as usize, Kind::Mnt),
    (Kind::Uts as usize, Kind::Uts),
    (Kind::Ipc as usize, Kind::Ipc),
    (PID_CHILDREN, Kind::Pid),
    (Kind::Net as usize, Kind::Net),
    (Kind::User as usize, Kind::User),
    (Kind::Cgroup as usize, Kind::Cgroup),
    (TIME_CHILDREN, Kind::Time),
];

/// Those that a record of the task itself does.
const TOLD_PLACES: [(usize, Kind); KINDS + 1] = [
    (Kind::Mnt as usize, Kind::Mnt),
    (Kind::Uts as usize, Kind::Uts),
    (Kind::Ipc as usize, Kind::Ipc),
    (PID_CHILDREN, Kind::Pid),
    (Kind::Net as usize, Kind::Net),
    (Kind::User as usize, Kind::User),
    (Kind::Cgroup as usize, Kind::Cgroup),
    (Kind::Time as usize, Kind::Time),
    (TIME_CHILDREN, Kind::Time),
];

/// Who a task is.
pub(super) struct Identity<'a> {
    pub pid: u32,
    pub tid: u32,
    pub start: Start,
    pub cgroup: u64,
    pub comm: [u8; 16],
    pub pids: &'a [PidAt],
}

/// Who a task is that is told; `start` counts if the kernel does not say when it started.
fn identity<'a>(told: &event::Task<'a>, start: Start) -> Identity<'a> {
    Identity {
        pid: told.record.pid,
        tid: told.record.tid,
        start: match told.record.start {
            0 => start,
            told => Start::At(told),
        },
        cgroup: told.record.cgroup,
        comm: told.record.comm,
        pids: told.pids,
    }
}

impl Start {
    /// An exit before that is not its own.
    fn alive_from(self) -> u64 {
        match self {
            Start::At(time) | Start::About(time) | Start::Before(time) => time,
        }
    }

    /// Whether two are of one task; if not, whether `other` is the later one.
    #[inline]
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
    /// What a successful operation says of its task.
    pub(super) fn operation(&mut self, op: &Operation, changes: &mut Vec<Change>) {
        match op.op {
            Op::Unshare | Op::Setns if op.record.ret >= 0 => self.moved(op, changes),
            // The new task is told by itself; others make a namespace that nobody is in.
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
        if task == NONE {
            return;
        }
        let known = &mut self.tasks[task];
        if known.updated >= time {
            return self.told_late(task, op.after(Kind::Pid), time, changes);
        }
        known.updated = time;
        known.told = time;
        known.has_found_children = false;
        known.exited = false;
        known.cgroup = record.cgroup;
        known.comm = record.comm;
        let numbers = |at: usize| Ns {
            inum: record.after[at % KINDS],
            id: 0,
        };
        let after = |at: usize| op.after(Kind::ALL[at % KINDS]);
        match op.ids {
            // Before v6.18: eight looks for ids are left out.
            [] => self.all_go(task, &MOVED_PLACES, numbers, time, changes),
            _ => self.all_go(task, &MOVED_PLACES, after, time, changes),
        }
        // setns is in a time namespace at once, unlike unshare (kernel/time/namespace.c,
        // timens_install).
        if op.op == Op::Setns && stages::installed_kinds(op) >> Kind::Time as u8 & 1 != 0 {
            let (slot, ns) = (Kind::Time as usize, op.after(Kind::Time));
            self.goes(task, slot, Kind::Time, ns, time, changes);
        }
    }

    /// A task that was found since. A snapshot does not see a pid namespace for children
    /// before it has had a process: what was told of that holds.
    fn told_late(&mut self, task: u32, children: Ns, time: u64, changes: &mut Vec<Change>) {
        let known = &self.tasks[task];
        if known.told < time && !known.exited && !known.has_found_children {
            self.tasks[task].told = time;
            self.goes(task, PID_CHILDREN, Kind::Pid, children, time, changes);
            let ns = self.tasks[task].links[PID_CHILDREN].ns;
            if ns != NONE && !std::mem::replace(&mut self.namespaces[ns].confirmed, true) {
                changes.push(Change::Confirmed(self.ns_key(ns)));
            }
        }
    }

    /// A task was born, or another thing happened to it that it survived.
    pub(super) fn task_told(
        &mut self,
        told: &event::Task,
        start: Start,
        changes: &mut Vec<Change>,
    ) {
        let time = told.record.head.time;
        let task = self.running(&identity(told, start), time, changes);
        if task == NONE {
            return;
        }
        let known = &mut self.tasks[task];
        if known.updated >= time {
            let inum = told.record.namespaces[Kind::Pid as usize];
            return self.told_late(task, Ns { inum, id: 0 }, time, changes);
        }
        known.updated = time;
        known.told = time;
        known.has_found_children = false;
        // It may have been found when it had exited, with the time from before.
        known.exited = false;
        known.comm = told.record.comm;
        if told.record.cgroup != 0 {
            known.cgroup = told.record.cgroup;
        }
        self.is_in(task, told, changes);
    }

    /// A task executes a program, has another name, or is in another cgroup.
    pub(super) fn task_change(&mut self, told: &event::Task, changes: &mut Vec<Change>) {
        let (time, before) = (told.record.head.time, told.record.parent);
        if before != 0 && before != told.record.tid {
            // fs/exec.c, de_thread: a thread takes the place of its leader, which has
            // exited and is gone.
            self.end(before, time, changes);
        }
        self.task_told(told, Start::Before(time), changes);
    }

    /// A task exits: it leaves its namespaces but those of its ids and credentials, until
    /// its parent has taken notice.
    pub(super) fn task_exit(&mut self, told: &event::Task, changes: &mut Vec<Change>) {
        let time = told.record.head.time;
        if told.is_thread() {
            // Nobody waits for threads.
            return self.end(told.record.tid, time, changes);
        }
        self.task_told(told, Start::Before(time), changes);
        let index = self.by_tid.get(told.record.tid);
        if index != NONE && self.tasks[index].updated == time {
            self.exited(index, changes);
        }
    }

    pub(super) fn exited(&mut self, task: u32, changes: &mut Vec<Change>) {
        if std::mem::replace(&mut self.tasks[task].exited, true) {
            return;
        }
        for slot in 0..SLOTS {
            if slot != Kind::Pid as usize && slot != Kind::User as usize {
                self.leave(task, slot, changes);
            }
        }
        if self.options.tells_tasks {
            changes.push(Change::Exited {
                task: self.task_key(task),
                tid: self.tasks[task].tid,
                known: Known::Told,
            });
        }
    }

    /// What was left of a task that had exited is gone.
    pub(super) fn task_free(&mut self, told: &event::Task, changes: &mut Vec<Change>) {
        let (tid, time) = (told.record.tid, told.record.head.time);
        let index = self.by_tid.get(tid);
        // Its id may be another's by now, which has not exited.
        if index == NONE || self.tasks[index].exited {
            self.end(tid, time, changes);
        }
    }

    /// The task of that id is no more, if it is the one that had it then.
    fn end(&mut self, tid: u32, time: u64, changes: &mut Vec<Change>) {
        let index = self.by_tid.get(tid);
        if index != NONE && self.tasks[index].start.alive_from() <= time {
            self.remove(index, Known::Told, changes);
        }
        self.task_graves.put(tid, time);
    }

    /// Puts a task where it is told to be.
    fn is_in(&mut self, task: u32, told: &event::Task, changes: &mut Vec<Change>) {
        let (record, time) = (told.record, told.record.head.time);
        let ns = |at: usize| Ns {
            inum: match record.namespaces.get(at) {
                Some(inum) => *inum,
                None => record.time_for_children,
            },
            id: 0,
        };
        self.all_go(task, &TOLD_PLACES, ns, time, changes);
        self.enter_pid_ns(task, told.pids, time, changes);
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

    /// Puts a task into the namespaces in which it is told to be.
    #[inline(always)]
    fn all_go<const N: usize>(
        &mut self,
        task: u32,
        places: &[(usize, Kind); N],
        told: impl Fn(usize) -> Ns,
        time: u64,
        changes: &mut Vec<Change>,
    ) {
        let mut left = self.elsewhere(task, places, &told, time);
        let mut at = left.trailing_zeros() as usize;
        while let Some((slot, kind)) = places.get(at).copied() {
            self.goes_elsewhere(task, slot, kind, told(at), time, changes);
            left &= left - 1;
            at = left.trailing_zeros() as usize;
        }
    }

    /// The places in which a task is not for sure where it was before, a bit for each; the
    /// others are noted as shown. Nearly always it is all of them, so no place waits for another.
    #[inline(always)]
    fn elsewhere<const N: usize>(
        &mut self,
        task: u32,
        places: &[(usize, Kind); N],
        told: &impl Fn(usize) -> Ns,
        time: u64,
    ) -> u32 {
        let links = &self.tasks[task].links;
        let mut elsewhere = 0;
        for (at, (slot, _)) in places.iter().enumerate() {
            let own = self.namespaces.at_mut(links[*slot].ns);
            if !own.is_some_and(|own| own.is_shown_again(told(at), time)) {
                elsewhere |= 1 << at;
            }
        }
        elsewhere
    }

    /// Puts a task into the namespace in which it is told to be.
    #[inline(always)]
    pub(super) fn goes(
        &mut self,
        task: u32,
        slot: usize,
        kind: Kind,
        ns: Ns,
        time: u64,
        changes: &mut Vec<Change>,
    ) {
        let was = self.namespaces.at_mut(self.tasks[task].links[slot].ns);
        if !was.is_some_and(|was| was.is_shown_again(ns, time)) {
            self.goes_elsewhere(task, slot, kind, ns, time, changes);
        }
    }

    #[inline(never)]
    fn goes_elsewhere(
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
    #[inline(always)]
    pub(super) fn running(&mut self, who: &Identity, time: u64, changes: &mut Vec<Change>) -> u32 {
        let index = self.by_tid.get(who.tid);
        // Of an operation nothing is learnt of who its task is.
        if let Start::Before(before) = who.start
            && who.pids.is_empty()
            && index != NONE
            && self.tasks[index].start.alive_from() <= before
        {
            return index;
        }
        self.running_or_new(index, who, time, changes)
    }

    #[inline(never)]
    fn running_or_new(
        &mut self,
        index: u32,
        who: &Identity,
        time: u64,
        changes: &mut Vec<Change>,
    ) -> u32 {
        if index != NONE {
            match self.tasks[index].start.is_same(who.start) {
                Ok(()) => {
                    self.learn(index, who);
                    return index;
                }
                Err(false) => return NONE,
                Err(true) => self.remove(index, Known::Inferred, changes),
            }
        }
        self.started(who, time, changes)
    }

    /// The same of a task that was not known.
    #[inline(never)]
    fn started(&mut self, who: &Identity, time: u64, changes: &mut Vec<Change>) -> u32 {
        if self.task_graves.has(who.tid, who.start.alive_from()) || self.snapshot.had_no_task(time)
        {
            return NONE;
        }
        let index = self.tasks.insert(|| Task {
            pid: who.pid,
            tid: who.tid,
            cgroup: who.cgroup,
            start: who.start,
            exited: false,
            pids: who.pids.into(),
            comm: who.comm,
            updated: 0,
            told: 0,
            has_found_children: false,
            links: [Link::NONE; SLOTS],
        });
        self.by_tid.set(who.tid, index);
        if self.options.tells_tasks {
            changes.push(Change::Started(self.task_key(index)));
        }
        index
    }

    /// Notes what is known better of a task now.
    #[inline]
    fn learn(&mut self, index: u32, who: &Identity) {
        let task = &mut self.tasks[index];
        match (task.start, who.start) {
            (Start::At(_), _) | (Start::About(_), Start::About(_)) | (_, Start::Before(_)) => {}
            (_, start) => task.start = start,
        }
        if task.pids.is_empty() && !who.pids.is_empty() {
            task.pids = who.pids.into();
        }
    }

    /// Forgets a task.
    pub(super) fn remove(&mut self, index: u32, known: Known, changes: &mut Vec<Change>) {
        for slot in 0..SLOTS {
            self.leave(index, slot, changes);
        }
        let key = self.task_key(index);
        let Some(task) = self.tasks.remove(index) else {
            return;
        };
        let (tid, has_exited) = (task.tid, task.exited);
        self.by_tid.set(tid, NONE);
        if !self.options.tells_tasks {
            return;
        }
        if !has_exited {
            let task = key;
            changes.push(Change::Exited { task, tid, known });
        }
        changes.push(Change::Reaped { task: key, tid });
    }
}

const _: () = assert!(PID_CHILDREN >= KINDS && TIME_CHILDREN >= KINDS);
