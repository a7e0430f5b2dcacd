//! What a snapshot found, and what it did not find.

use foldhash::HashSet;
use nstrace_common::kind::Kind;

use super::{
    Change, Known, Start, World,
    arena::NONE,
    model::{NsKey, OwnedHolder, PID_CHILDREN, Pin, TIME_CHILDREN},
    tasks::Identity,
};
use crate::event::{FoundFree, FoundHolder, FoundNamespace, FoundTask, Ns, SnapshotEnd, Unseen};

/// The last snapshot, which may be going on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Snapshot {
    pub begin: Option<u64>,
    pub end: Option<SnapshotEnd>,
}

impl Snapshot {
    /// Whether it has ended, and had begun after that time: what lived then and still
    /// does, it has found.
    pub fn is_after(&self, time: u64) -> bool {
        self.end.is_some() && self.begin.is_some_and(|begin| time < begin)
    }

    /// Whether a task that it has not found, and which ran at that time, has exited.
    pub fn had_no_task(&self, time: u64) -> bool {
        self.is_after(time) && self.end.is_some_and(|end| end.unseen.tasks == 0)
    }

    /// Whether both times are in it.
    pub fn spans(&self, found: u64, time: u64) -> bool {
        self.begin.is_some_and(|begin| found >= begin)
            && self.end.is_none_or(|end| time <= end.time)
    }
}

impl World {
    pub(super) fn snapshot_begin(&mut self, time: u64) {
        self.advance(time);
        // One that is applied again says nothing new.
        if self.snapshot.begin.is_none_or(|begin| begin < time) {
            self.doubtful.clear();
            self.snapshot = Snapshot {
                begin: Some(time),
                end: None,
            };
        }
    }

    pub(super) fn found_namespace(&mut self, found: &FoundNamespace, changes: &mut Vec<Change>) {
        let time = found.time;
        let known = self.living_index(found.ns.inum);
        if known != NONE {
            self.unlink_dead(known);
            if found.ns.id != 0 && self.namespaces[known].id == found.ns.id {
                self.unlink_others(known, found.parent, found.owner);
            }
        }
        if known != NONE && self.is_another(known, found) {
            if time <= self.namespaces[known].seen {
                return;
            }
            self.die(known, time, Known::Inferred, changes);
        }
        let index = self.shown(found.kind, found.ns, time, changes);
        if index == NONE {
            return;
        }
        self.set_parents(index, found.parent, found.owner, time, changes);
        let ns = &mut self.namespaces[index];
        ns.owner_uid = ns.owner_uid.or(found.owner_uid);
    }

    /// Whether what was found has another parent or owner than what is known to have the
    /// number: these never change, and live as long as what they hold.
    fn is_another(&self, index: u32, found: &FoundNamespace) -> bool {
        let differs = |known: Option<NsKey>, inum: u32| {
            let known = known.map(|key| self.namespaces.get(key.0));
            inum != 0
                && known.is_some_and(|ns| ns.is_none_or(|ns| ns.inum != inum || !ns.is_alive()))
        };
        let ns = &self.namespaces[index];
        let same_id = ns.id != 0 && ns.id == found.ns.id;
        ns.kind == found.kind
            && !same_id
            && (differs(ns.parent, found.parent) || differs(ns.owner, found.owner))
    }

    pub(super) fn found_task(&mut self, found: &FoundTask, changes: &mut Vec<Change>) {
        let time = found.time;
        let mut comm = [0; 16];
        let len = found.comm.len().min(comm.len());
        comm[..len].copy_from_slice(&found.comm[..len]);
        let who = Identity {
            pid: found.pid,
            tid: found.tid,
            start: match found.start {
                0 => Start::Before(time),
                start => Start::About(start),
            },
            cgroup: found.cgroup,
            comm,
            pids: found.pids,
        };
        let task = self.running(&who, time, changes);
        if task == NONE {
            return;
        }
        let known = &mut self.tasks[task];
        let is_news = known.updated < time;
        if is_news {
            known.updated = time;
            known.comm = comm;
            // A thread that executed a program has the place of its leader, which had exited.
            known.exited &= found.exited;
            if found.cgroup != 0 {
                known.cgroup = found.cgroup;
            }
        }
        self.found_in(task, found, is_news, changes);
        if is_news && found.exited {
            self.exited(task, changes);
        }
    }

    /// Puts a task where it was found. If more is known of it already, that is only where
    /// nothing is known: an operation does not say in which pid namespace its task is.
    fn found_in(&mut self, task: u32, found: &FoundTask, is_news: bool, changes: &mut Vec<Change>) {
        let own = Kind::ALL.map(|kind| (kind as usize, kind, found.namespaces[kind as usize]));
        let for_children = [
            (PID_CHILDREN, Kind::Pid, found.pid_for_children),
            (TIME_CHILDREN, Kind::Time, found.time_for_children),
        ];
        for (slot, kind, inum) in own.into_iter().chain(for_children) {
            let is_blank = self.tasks[task].links[slot].ns == NONE && !self.tasks[task].exited;
            if inum != 0 && (is_news || is_blank) {
                self.goes(task, slot, kind, Ns { inum, id: 0 }, found.time, changes);
            }
        }
        if !is_news || found.exited {
            return;
        }
        let is_seen = found.pid_for_children != 0;
        let was_found = std::mem::replace(&mut self.tasks[task].has_found_children, is_seen);
        let ns = self.tasks[task].links[PID_CHILDREN].ns;
        let can_be_seen = |ns: u32| was_found || self.namespaces[ns].inside.len > 0;
        // Whether its other namespaces may be looked at, that of its own children cannot.
        let is_out_of_sight = !is_seen && found.namespaces[Kind::Pid as usize] != 0;
        if is_out_of_sight && ns != NONE && can_be_seen(ns) {
            self.leave(task, PID_CHILDREN, changes);
        }
    }

    pub(super) fn found_holder(&mut self, found: &FoundHolder, changes: &mut Vec<Change>) {
        let what = OwnedHolder::new(&found.holder);
        if what.mnt().is_some_and(|mnt| self.is_over(mnt, found.time)) {
            return;
        }
        if found.ns.inum == 0 {
            return self.found_doubtful(what);
        }
        let index = self.shown(found.kind, found.ns, found.time, changes);
        if index == NONE {
            return;
        }
        let pins = &mut self.namespaces[index].pins;
        if let Some(pin) = pins.iter_mut().find(|pin| pin.what == what) {
            pin.time = pin.time.max(found.time);
            return;
        }
        self.holding.extend(what.mnt());
        let time = found.time;
        pins.push(Pin { time, what });
        if pins.len() == 1 {
            changes.push(Change::Pinned(self.ns_key(index)));
        }
    }

    /// Whether what had a number at that time is dead by now.
    fn is_over(&self, inum: u32, time: u64) -> bool {
        match self.living_index(inum) {
            NONE => self.ns_graves.has(inum, time),
            index => self.namespaces[index].born.is_some_and(|born| born > time),
        }
    }

    /// A mount namespace has died, and its mounts are gone: nothing is held through them.
    pub(super) fn let_go_through(&mut self, mnt: u32, death: u64, changes: &mut Vec<Change>) {
        if !self.holding.remove(&mnt) {
            return;
        }
        self.doubtful.retain(|what| what.mnt() != Some(mnt));
        for index in self.living_indices() {
            let pins = &mut self.namespaces[index].pins;
            let len = pins.len();
            pins.retain(|pin| pin.what.mnt() != Some(mnt) || pin.time > death);
            let is_last = pins.is_empty() && len > 0;
            if pins.iter().any(|pin| pin.what.mnt() == Some(mnt)) {
                self.holding.insert(mnt);
            }
            if is_last {
                changes.push(Change::Unpinned(self.ns_key(index)));
            }
        }
    }

    /// Something holds a namespace, and it is not known which.
    fn found_doubtful(&mut self, what: OwnedHolder) {
        self.holding.extend(what.mnt());
        if !self.doubtful.contains(&what) {
            self.doubtful.push(what);
        }
    }

    pub(super) fn snapshot_end(&mut self, end: &SnapshotEnd, changes: &mut Vec<Change>) {
        let Some(begin) = self.snapshot.begin.filter(|begin| *begin <= end.time) else {
            return;
        };
        if self.snapshot.end.is_some() {
            return;
        }
        self.advance(end.time);
        self.snapshot.end = Some(*end);
        if end.unseen.tasks == 0 {
            self.tasks_not_found(begin, changes);
        }
        self.namespaces_not_found(begin, end.unseen, changes);
        let is_whole = end.unseen.tasks == 0;
        if is_whole && self.loss.is_none_or(|loss| loss.until < begin) {
            self.whole_until = begin;
            changes.extend(self.loss.take().map(Change::Healed));
        }
    }

    fn tasks_not_found(&mut self, begin: u64, changes: &mut Vec<Change>) {
        for index in 0..self.tasks.end() {
            if self.tasks.holds(index) && self.tasks[index].updated < begin {
                self.remove(index, Known::Inferred, changes);
            }
        }
    }

    fn namespaces_not_found(&mut self, begin: u64, unseen: Unseen, changes: &mut Vec<Change>) {
        let mut held = Vec::new();
        for index in self.living_indices() {
            self.drop_pins(index, begin, unseen, changes);
            let ns = &self.namespaces[index];
            if ns.seen >= begin || ns.has_members() || !ns.pins.is_empty() {
                held.push(index);
            }
        }
        // What is parent or owner of a namespace that lives does too.
        while let Some(index) = held.pop() {
            let ns = &mut self.namespaces[index];
            ns.seen = ns.seen.max(begin);
            for key in [ns.parent, ns.owner].into_iter().flatten() {
                let above = self.namespaces.get(key.0);
                if above.is_some_and(|ns| ns.is_alive() && ns.seen < begin) {
                    held.push(key.0.index);
                }
            }
        }
        for index in self.living_indices() {
            let key = self.ns_key(index);
            let ns = &self.namespaces[index];
            if !ns.is_alive() || ns.seen >= begin {
                continue;
            }
            if let Some(time) = self.death_above(index) {
                self.die(index, time, Known::Inferred, changes);
            } else if ns.confirmed {
                self.namespaces[index].confirmed = false;
                changes.push(Change::Unconfirmed(key));
            }
        }
    }

    /// A number is not in use: whoever had it is dead, and what was told of it before but
    /// comes later changes nothing.
    pub(super) fn found_free(&mut self, free: &FoundFree, changes: &mut Vec<Change>) {
        self.advance(free.time);
        self.ns_graves.put(free.inum, free.time);
        let index = self.living_index(free.inum);
        if index != NONE && self.namespaces[index].seen < free.time {
            self.die(index, free.time, Known::Inferred, changes);
        }
    }

    /// When something died that is above a namespace and would live if that did. A recording
    /// may say anything, that one is above itself, too.
    fn death_above(&self, index: u32) -> Option<u64> {
        let (mut left, mut seen) = (vec![index], HashSet::default());
        let mut deaths = None;
        while let Some(index) = left.pop() {
            let ns = &self.namespaces[index];
            for key in [ns.parent, ns.owner].into_iter().flatten() {
                let death = match self.namespaces.get(key.0).map(|above| above.death) {
                    None => Some(ns.seen),
                    Some(Some((time, _))) => Some(time).filter(|time| *time >= ns.seen),
                    Some(None) => {
                        if seen.insert(key.0.index) {
                            left.push(key.0.index);
                        }
                        None
                    }
                };
                deaths = deaths.into_iter().chain(death).min();
            }
        }
        deaths
    }

    /// Drops the holders that were not found again.
    fn drop_pins(&mut self, index: u32, begin: u64, unseen: Unseen, changes: &mut Vec<Change>) {
        let ns = &mut self.namespaces[index];
        if ns.pins.is_empty() {
            return;
        }
        ns.pins.retain(|pin| {
            pin.time >= begin
                || match pin.what {
                    OwnedHolder::Descriptor { .. } => unseen.descriptors > 0,
                    OwnedHolder::Mount { .. } => unseen.mounts > 0,
                    OwnedHolder::Socket { .. } => unseen.sockets > 0,
                    OwnedHolder::Proc { .. } => unseen.mounts > 0 || unseen.procs > 0,
                }
        });
        if ns.pins.is_empty() {
            changes.push(Change::Unpinned(self.ns_key(index)));
        }
    }

    pub(super) fn living_indices(&self) -> impl Iterator<Item = u32> + use<> {
        let living: Vec<u32> = self.by_inum.values().collect();
        living.into_iter()
    }
}
