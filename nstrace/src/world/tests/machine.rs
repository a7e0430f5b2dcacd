//! A kernel of a page: tasks and namespaces in maps, the truth; and what is told of them.
//!
//! It shares nothing with the model but the events: no lists, no times of lives.

use std::collections::{BTreeMap, BTreeSet};

use nstrace_common::{
    flags::CLONE_THREAD,
    kind::{KINDS, Kind},
    wire::{Op, PidAt},
};

use super::owned::{Found, Owned, death};
use crate::{
    event::{FoundNamespace, Ns, SnapshotEnd, Unseen},
    render::testing::{self, BuiltTask},
};

/// As the model has them: eight kinds, pid and time for children.
pub const SLOTS: usize = KINDS + 2;
const PID: usize = Kind::Pid as usize;
const TIME: usize = Kind::Time as usize;
const MS: u64 = 1_000_000;
/// Ids are given in a circle of this length.
const TID_MAX: u32 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub pid: u32,
    /// Only those of kinds pid and user if it has exited.
    pub slots: [u32; SLOTS],
    pub exited: bool,
    start: u64,
    pids: Vec<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub kind: Kind,
    pub parent: u32,
    pub owner: u32,
    /// 0 if the kernel has none.
    id: u64,
}

pub struct Machine {
    pub tasks: BTreeMap<u32, Task>,
    pub namespaces: BTreeMap<u32, Namespace>,
    pinned: BTreeSet<u32>,
    /// Pid namespaces that have had a process: of others proc does not tell whose children
    /// will be in them.
    peopled: BTreeSet<u32>,
    /// The last that was given to a namespace, on a kernel that has ids.
    last_id: Option<u64>,
    now: u64,
    last_tid: u32,
    /// What happened and what was found, in the order in which it was.
    pub log: Vec<Owned>,
    /// The tasks that the snapshot which goes on has looked at, with their starts.
    looked_at: Option<BTreeSet<(u32, u64)>>,
    looked_ns: u64,
}

impl Machine {
    pub fn new(has_ids: bool) -> Machine {
        let mut machine = Machine {
            tasks: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pinned: BTreeSet::new(),
            peopled: BTreeSet::from([PID as u32 + 1]),
            last_id: has_ids.then_some(0),
            now: 1000 * MS,
            last_tid: 1,
            log: Vec::new(),
            looked_at: None,
            looked_ns: 0,
        };
        let mut slots = [0; SLOTS];
        for kind in Kind::ALL {
            slots[kind as usize] = kind as u32 + 1;
            let owner = if kind == Kind::User {
                0
            } else {
                Kind::User as u32 + 1
            };
            let first = Namespace {
                kind,
                parent: 0,
                owner,
                id: machine.next_id(),
            };
            machine.namespaces.insert(kind as u32 + 1, first);
            // The kernel holds them; here a descriptor does.
            machine.pinned.insert(kind as u32 + 1);
        }
        slots[KINDS] = slots[PID];
        slots[KINDS + 1] = slots[TIME];
        let init = Task {
            pid: 1,
            slots,
            exited: false,
            start: 0,
            pids: vec![(1, slots[PID])],
        };
        machine.tasks.insert(1, init);
        machine
    }

    /// Does one of the things that can happen; `what`, `who` and `which` are any numbers.
    pub fn step(&mut self, what: u8, who: usize, which: u32) {
        self.now += MS;
        let running = self.tasks.iter().filter(|(_, task)| !task.exited);
        let tids: Vec<u32> = running.map(|(tid, _)| *tid).collect();
        let tid = tids[who % tids.len()];
        let flags = Kind::ALL
            .into_iter()
            .filter(|kind| which & 1 << *kind as u32 != 0);
        let flags = flags.fold(0, |flags, kind| flags | kind.flag());
        match what % 20 {
            0..=2 => self.fork(tid, false),
            3 => self.fork(tid, true),
            4 | 5 => self.clone(tid, flags),
            6 | 7 => self.unshare(tid, flags),
            8 | 9 => self.setns(tid, which),
            10..=12 => self.exit(tid),
            13 => {
                let all: Vec<u32> = self.namespaces.keys().copied().collect();
                self.pinned.insert(all[which as usize % all.len()]);
            }
            14 => self.unpin(which),
            15..=17 => self.free(who),
            18 => self.execute(tid),
            _ => self.look(),
        }
    }

    fn unpin(&mut self, which: u32) {
        let others = self.pinned.len() - KINDS;
        let nth = KINDS + which as usize % others.max(1);
        if let Some(inum) = self.pinned.iter().nth(nth).copied() {
            self.pinned.remove(&inum);
            self.reap();
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id = self.last_id.map(|id| id + 1);
        self.last_id.unwrap_or(0)
    }

    fn next_tid(&mut self) -> Option<u32> {
        let next = |tid| if tid >= TID_MAX { 2 } else { tid + 1 };
        let mut tid = next(self.last_tid);
        for _ in 0..TID_MAX {
            if !self.tasks.contains_key(&tid) {
                self.last_tid = tid;
                return Some(tid);
            }
            tid = next(tid);
        }
        None
    }

    fn chain(&self, tid: u32, mut ns: u32) -> Vec<(u32, u32)> {
        let mut chain = Vec::new();
        while ns != 0 {
            chain.push((tid, ns));
            ns = self.namespaces[&ns].parent;
        }
        chain.reverse();
        chain
    }

    fn record(&self, tid: u32) -> BuiltTask {
        let task = &self.tasks[&tid];
        let mut record = testing::task(task.pid, tid, b"task");
        record.record.head.time = self.now;
        record.record.parent = 0;
        record.record.start = task.start;
        record
            .record
            .namespaces
            .copy_from_slice(&task.slots[..KINDS]);
        record.record.namespaces[PID] = task.slots[KINDS];
        record.record.time_for_children = task.slots[KINDS + 1];
        record.pids = task
            .pids
            .iter()
            .map(|(nr, ns)| PidAt { nr: *nr, ns: *ns })
            .collect();
        record.record.pids_len = record.pids.len() as u32;
        record
    }

    fn child_slots(&self, maker: u32, is_thread: bool) -> [u32; SLOTS] {
        let mut slots = self.tasks[&maker].slots;
        if !is_thread {
            slots[PID] = slots[KINDS];
            slots[TIME] = slots[KINDS + 1];
        }
        slots
    }

    fn fork(&mut self, maker: u32, is_thread: bool) {
        let slots = self.child_slots(maker, is_thread);
        let apart = slots[PID] != slots[KINDS];
        if is_thread && apart {
            return;
        }
        let Some(tid) = self.next_tid() else { return };
        let pid = if is_thread {
            self.tasks[&maker].pid
        } else {
            tid
        };
        let pids = self.chain(tid, slots[PID]);
        self.peopled.insert(slots[PID]);
        self.tasks.insert(
            tid,
            Task {
                pid,
                slots,
                exited: false,
                start: self.now,
                pids,
            },
        );
        self.born(maker, tid);
    }

    fn born(&mut self, maker: u32, tid: u32) {
        let mut record = self.record(tid);
        record.record.parent = self.tasks[&maker].pid;
        self.log.push(Owned::New(record));
    }

    fn make(&mut self, slots: &mut [u32; SLOTS], flags: u64) {
        // The user namespace comes first, and owns the others.
        let rest = Kind::ALL.into_iter().filter(|kind| *kind != Kind::User);
        let order = [Kind::User].into_iter().chain(rest);
        for kind in order.filter(|kind| flags & kind.flag() != 0) {
            let slot = match kind {
                Kind::Pid => KINDS,
                Kind::Time => KINDS + 1,
                kind => kind as usize,
            };
            let inum = (1..)
                .find(|inum| !self.namespaces.contains_key(inum))
                .expect("one");
            let parent = match kind {
                Kind::Pid | Kind::User => slots[slot],
                _ => 0,
            };
            let made = Namespace {
                kind,
                parent,
                owner: slots[Kind::User as usize],
                id: self.next_id(),
            };
            self.namespaces.insert(inum, made);
            slots[slot] = inum;
        }
    }

    fn op(&mut self, op: Op, tid: u32, flags: u64, after: &[u32; SLOTS]) -> testing::Built {
        let task = &self.tasks[&tid];
        let mut built = testing::op(op, flags);
        let seen = |slots: &[u32; SLOTS]| {
            let mut inums = [0; KINDS];
            inums.copy_from_slice(&slots[..KINDS]);
            inums[PID] = slots[KINDS];
            inums[TIME] = slots[KINDS + 1];
            inums
        };
        let record = &mut built.record;
        record.pid = task.pid;
        record.tid = tid;
        record.start = self.now - MS / 2;
        record.head.time = self.now;
        record.before = seen(&task.slots);
        record.after = seen(after);
        if self.last_id.is_some() {
            let inums = record.before.into_iter().chain(record.after);
            built.ids = inums
                .map(|inum| self.namespaces.get(&inum).map_or(0, |ns| ns.id))
                .collect();
        }
        if op != Op::Setns {
            let of = |inum: u32| self.namespaces[&inum].parent;
            record.owner = after[Kind::User as usize];
            record.pid_parent = of(after[KINDS]);
            record.user_parent = of(after[Kind::User as usize]);
        }
        built
    }

    fn clone(&mut self, maker: u32, flags: u64) {
        let mut slots = self.child_slots(maker, false);
        let Some(tid) = self.next_tid() else { return };
        if flags == 0 {
            return;
        }
        self.make(&mut slots, flags);
        slots[PID] = slots[KINDS];
        slots[TIME] = slots[KINDS + 1];
        let pids = self.chain(tid, slots[PID]);
        self.peopled.insert(slots[PID]);
        let built = self
            .op(Op::Clone, maker, flags & !CLONE_THREAD, &slots)
            .pids(&pids);
        self.tasks.insert(
            tid,
            Task {
                pid: tid,
                slots,
                exited: false,
                start: self.now,
                pids,
            },
        );
        self.log.push(Owned::Op(Box::new(built)));
        self.born(maker, tid);
    }

    fn unshare(&mut self, tid: u32, flags: u64) {
        let mut slots = self.tasks[&tid].slots;
        if flags == 0 || slots[KINDS] != slots[PID] {
            return;
        }
        self.make(&mut slots, flags);
        let built = self.op(Op::Unshare, tid, flags, &slots);
        self.goes(built, tid, slots);
    }

    fn setns(&mut self, tid: u32, which: u32) {
        let all: Vec<u32> = self.namespaces.keys().copied().collect();
        let inum = all[which as usize % all.len()];
        let mut slots = self.tasks[&tid].slots;
        match self.namespaces[&inum].kind {
            // Only downwards; and nobody could say what is above one that is out of sight
            // and was there before.
            Kind::Pid
                if !self.peopled.contains(&inum)
                    || !self
                        .chain(tid, inum)
                        .iter()
                        .any(|(_, ns)| *ns == slots[PID]) =>
            {
                return;
            }
            Kind::Pid => slots[KINDS] = inum,
            Kind::Time => {
                slots[TIME] = inum;
                slots[KINDS + 1] = inum;
            }
            kind => slots[kind as usize] = inum,
        }
        let mark = testing::install(self.namespaces[&inum].kind);
        let built = self.op(Op::Setns, tid, 0, &slots).marks(&[(1, mark)]);
        self.goes(built, tid, slots);
    }

    fn goes(&mut self, built: testing::Built, tid: u32, slots: [u32; SLOTS]) {
        self.tasks.get_mut(&tid).expect("it runs").slots = slots;
        // What it leaves dies before the operation ends.
        self.reap();
        self.log.push(Owned::Op(Box::new(built)));
    }

    fn has_threads(&self, pid: u32) -> bool {
        let mut tasks = self.tasks.iter();
        tasks.any(|(tid, task)| task.pid == pid && *tid != pid)
    }

    fn exit(&mut self, tid: u32) {
        if tid == 1 {
            return;
        }
        let mut record = self.record(tid);
        // Before what it leaves dies.
        record.record.head.time -= MS / 2;
        self.log.push(Owned::Exit(record));
        if self.tasks[&tid].pid != tid {
            // Nobody waits for threads.
            self.tasks.remove(&tid);
            return self.reap();
        }
        let task = self.tasks.get_mut(&tid).expect("it runs");
        let left = [PID, Kind::User as usize];
        task.exited = true;
        for (slot, ns) in task.slots.iter_mut().enumerate() {
            if !left.contains(&slot) {
                *ns = 0;
            }
        }
        self.reap();
    }

    /// Somebody takes notice of a task that has exited.
    fn free(&mut self, who: usize) {
        let exited = self.tasks.iter().filter(|(_, task)| task.exited);
        let exited: Vec<u32> = exited
            .map(|(tid, _)| *tid)
            .filter(|tid| !self.has_threads(*tid))
            .collect();
        if exited.is_empty() {
            return;
        }
        let tid = exited[who % exited.len()];
        let task = &self.tasks[&tid];
        let mut record = testing::task(task.pid, tid, b"task");
        record.record.head.time = self.now;
        record.pids = Vec::new();
        record.record.pids_len = 0;
        self.log.push(Owned::Free(record));
        self.tasks.remove(&tid);
        self.reap();
    }

    /// A task executes a program; a thread takes the place of its leader, which is all
    /// that is left of the others.
    fn execute(&mut self, tid: u32) {
        let pid = self.tasks[&tid].pid;
        let others = |(other, task): (&u32, &Task)| task.pid == pid && ![tid, pid].contains(other);
        if self.tasks.iter().any(others) || tid != pid && !self.tasks[&pid].exited {
            return;
        }
        let mut task = self.tasks.remove(&tid).expect("it runs");
        if let Some(leader) = self.tasks.remove(&pid) {
            task.start = leader.start;
            task.pids = leader.pids;
        }
        task.slots[TIME] = task.slots[KINDS + 1];
        self.tasks.insert(pid, task);
        let mut record = self.record(pid);
        record.record.parent = tid;
        self.reap();
        self.log.push(Owned::Change(record));
    }

    /// Frees what nothing holds, from the bottom up.
    fn reap(&mut self) {
        loop {
            let is_free = |inum: &u32| {
                let held = self
                    .namespaces
                    .values()
                    .any(|ns| ns.parent == *inum || ns.owner == *inum)
                    || self.tasks.values().any(|task| task.slots.contains(inum));
                *inum > KINDS as u32 && !held && !self.pinned.contains(inum)
            };
            let Some(inum) = self.namespaces.keys().copied().find(is_free) else {
                return;
            };
            self.namespaces.remove(&inum);
            self.peopled.remove(&inum);
            self.log.push(death(self.now - MS / 4, inum));
        }
    }

    /// A snapshot goes on for a task, or begins, or ends.
    pub fn look(&mut self) {
        let Some(looked_at) = &mut self.looked_at else {
            self.looked_at = Some(BTreeSet::new());
            self.looked_ns = self.now;
            return self.log.push(Owned::Begin(self.now));
        };
        // Until there is none that was not looked at.
        let next = self
            .tasks
            .iter()
            .find(|(tid, task)| looked_at.insert((**tid, task.start)));
        let next = next.map(|(tid, task)| (*tid, task.clone()));
        // From before anything since the last look.
        let time = std::mem::replace(&mut self.looked_ns, self.now);
        match next {
            Some((tid, task)) => self.look_at(time, tid, &task),
            None => {
                for inum in self.pinned.clone() {
                    self.find(time, inum);
                    let kind = self.namespaces[&inum].kind;
                    self.log.push(Owned::Descriptor(time, kind, inum, inum));
                }
                self.looked_at = None;
                self.log.push(Owned::End(SnapshotEnd {
                    time: self.now,
                    unseen: Unseen::default(),
                }));
            }
        }
    }

    /// Sees to it that a snapshot can see each pid namespace for children.
    pub fn people(&mut self) {
        let running = self.tasks.iter().filter(|(_, task)| !task.exited);
        let hidden = running.filter(|(_, task)| !self.peopled.contains(&task.slots[KINDS]));
        let tids: Vec<u32> = hidden.map(|(tid, _)| *tid).collect();
        for tid in tids {
            self.now += MS;
            self.fork(tid, false);
        }
    }

    /// A whole snapshot, or the rest of one.
    pub fn look_at_all(&mut self) {
        self.now += MS;
        self.look();
        while self.looked_at.is_some() {
            self.look();
        }
    }

    fn look_at(&mut self, time: u64, tid: u32, task: &Task) {
        let mut slots = task.slots;
        if !self.peopled.contains(&slots[KINDS]) {
            slots[KINDS] = 0;
        }
        for inum in slots.into_iter().filter(|inum| *inum != 0) {
            self.find(time, inum);
        }
        let mut namespaces = [0; KINDS];
        namespaces.copy_from_slice(&task.slots[..KINDS]);
        self.log.push(Owned::Task(Found {
            time,
            start: task.start / (10 * MS) * (10 * MS) + 1,
            pid: task.pid,
            tid,
            exited: task.exited,
            pids: task
                .pids
                .iter()
                .map(|(nr, ns)| PidAt { nr: *nr, ns: *ns })
                .collect(),
            namespaces,
            for_children: [slots[KINDS], slots[KINDS + 1]],
        }));
    }

    /// Finds what is above a namespace, then itself.
    fn find(&mut self, time: u64, inum: u32) {
        let Namespace {
            kind,
            parent,
            owner,
            id,
        } = self.namespaces[&inum];
        for above in [parent, owner] {
            if above != 0 {
                self.find(time, above);
            }
        }
        self.log.push(Owned::Namespace(FoundNamespace {
            time,
            kind,
            ns: Ns { inum, id },
            parent,
            owner,
            owner_uid: None,
        }));
    }

    pub fn now(&self) -> u64 {
        self.now
    }
}
