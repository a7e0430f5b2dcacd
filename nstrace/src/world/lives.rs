//! Births and deaths of namespaces, and what else shows that one lives.

use nstrace_common::kind::Kind;

use super::{
    Change, Known, World,
    arena::NONE,
    model::{Maker, Namespace, NsKey, PID_CHILDREN, TIME_CHILDREN},
};
use crate::event::{Life, Ns, Operation};

/// So many deaths whose births were not told yet are remembered.
const EARLY_MAX: usize = 64;

/// What the living namespace of a number is to a birth that is told.
enum Who {
    /// Itself, and its birth is known.
    Known,
    /// Itself, known from something else before.
    Found,
    /// One that had the number before, and whose death was not told.
    Before,
    /// One that has the number now: the birth is told late.
    After,
}

impl World {
    /// The births of an operation, from the outside in: user namespaces own the others.
    pub(super) fn births(&mut self, op: &Operation, changes: &mut Vec<Change>) {
        let record = op.record;
        let flags = op.made_flags();
        if flags == 0 || record.ret < 0 {
            return;
        }
        let user = Kind::User.flag();
        if flags & user != 0 {
            for life in op.born_of(user) {
                self.born_of(op, &life, changes);
            }
        }
        for life in op.born_of(flags & !user) {
            self.born_of(op, &life, changes);
        }
        if !self.early.is_empty() {
            for life in op.born_of(flags) {
                self.end_if_over(&life, changes);
            }
        }
    }

    #[inline(always)]
    fn born_of(&mut self, op: &Operation, life: &Life, changes: &mut Vec<Change>) {
        let record = op.record;
        let index = self.birth(life, record.start, changes);
        if index == NONE {
            return;
        }
        let ns = &mut self.namespaces[index];
        ns.maker.get_or_insert_with(|| Maker::of(op));
        if ns.born != Some(life.time) {
            return;
        }
        let (parent, owner) = match ns.kind {
            Kind::User => (record.user_parent, record.user_parent),
            Kind::Pid => (record.pid_parent, record.owner),
            _ => (0, record.owner),
        };
        if ns.kind == Kind::User {
            ns.owner_uid = Some(record.owner_uid);
        }
        self.unlink_dead(index);
        self.set_parents(index, parent, owner, record.start, changes);
    }

    /// Notes a birth that is told by itself.
    pub(super) fn birth_alone(&mut self, life: &Life, changes: &mut Vec<Change>) {
        self.birth(life, life.time, changes);
        self.end_if_over(life, changes);
    }

    /// Ends a namespace whose death was told before its birth.
    fn end_if_over(&mut self, birth: &Life, changes: &mut Vec<Change>) {
        let Some(at) = self.early_death(birth) else {
            return;
        };
        let index = self.living_index(birth.inum);
        let early = self.early.remove(at);
        if index != NONE && self.namespaces[index].born == Some(birth.time) {
            let death = early.map_or(birth.time, |death| death.time);
            self.die(index, death, Known::Told, changes);
        }
    }

    /// Which of the deaths that were told too early is that of who was born then.
    fn early_death(&self, birth: &Life) -> Option<usize> {
        if !self.ns_graves.has(birth.inum, birth.time) {
            return None;
        }
        let mut early = self.early.iter();
        early.position(|death| death.can_be_of(birth))
    }

    /// Notes a birth that happened after `start` and before it was told. Gives the index
    /// of the namespace, unless it is known to be dead again.
    fn birth(&mut self, life: &Life, start: u64, changes: &mut Vec<Change>) -> u32 {
        let Some(kind) = life.kind else { return NONE };
        let index = self.living_index(life.inum);
        let is_over = self.ns_graves.has(life.inum, life.time);
        if is_over && (index == NONE || life.id != 0 && self.namespaces[index].id == life.id) {
            if index != NONE {
                // What was told of it later than its death was not so.
                self.die(index, life.time, Known::Inferred, changes);
                return NONE;
            }
            if self.early_death(life).is_none() {
                return NONE;
            }
        }
        if index != NONE {
            match self.who(index, kind, life, start) {
                Who::Known => return index,
                Who::Found => {
                    let ns = &mut self.namespaces[index];
                    ns.born = Some(life.time);
                    ns.first = ns.first.min(start);
                    ns.seen = ns.seen.max(life.time);
                    ns.address = life.address.unwrap_or(ns.address);
                    self.learn_id(index, life.id);
                    changes.push(Change::BirthTold(self.ns_key(index)));
                    return index;
                }
                Who::After => return NONE,
                Who::Before => self.die(index, start, Known::Inferred, changes),
            }
        }
        // A snapshot that has begun later did not find it.
        let confirmed = !self.snapshot.is_after(life.time);
        let index = self.add(life.inum, life.id, || Namespace {
            born: Some(life.time),
            address: life.address.unwrap_or(0),
            confirmed,
            ..Namespace::new(kind, life.inum, life.id, start, life.time)
        });
        changes.push(Change::Born(self.ns_key(index)));
        index
    }

    fn who(&self, index: u32, kind: Kind, life: &Life, start: u64) -> Who {
        let ns = &self.namespaces[index];
        let is_like = ns.is_like(kind, life.id);
        let same_id = is_like && ns.id != 0 && ns.id == life.id;
        match ns.born {
            Some(born) if is_like && (same_id || born == life.time) => Who::Known,
            Some(born) if born >= life.time => Who::After,
            Some(_) => Who::Before,
            None if same_id => Who::Found,
            // What is found has the time from before it was looked for: it may be born
            // between the two.
            None if is_like && (start <= ns.first || self.snapshot.spans(ns.first, start)) => {
                Who::Found
            }
            None if ns.seen >= life.time => Who::After,
            None => Who::Before,
        }
    }

    /// The index of the living namespace that something shows to live at that time; it is
    /// noted if it was not known. [`NONE`] without a number, and if it is dead by now.
    #[inline(always)]
    pub(super) fn shown(
        &mut self,
        kind: Kind,
        shown: Ns,
        time: u64,
        changes: &mut Vec<Change>,
    ) -> u32 {
        let index = self.living_index(shown.inum);
        let living = self.namespaces.at_mut(index);
        let living = living.filter(|living| living.kind == kind && shown.id == 0);
        match living.is_some_and(|living| living.is_shown_again(shown, time)) {
            true => index,
            false => self.shown_anew(kind, shown, time, changes),
        }
    }

    #[inline(never)]
    fn shown_anew(&mut self, kind: Kind, shown: Ns, time: u64, changes: &mut Vec<Change>) -> u32 {
        if shown.inum == 0 || self.is_told_dead(shown.id) {
            return NONE;
        }
        let index = self.living_index(shown.inum);
        if index != NONE {
            let ns = &mut self.namespaces[index];
            if ns.is_like(kind, shown.id) {
                if ns.born.is_some() && time < ns.first {
                    return NONE;
                }
                ns.seen = ns.seen.max(time);
                if ns.id == 0 {
                    self.learn_id(index, shown.id);
                }
                self.confirm(index, time, changes);
                return index;
            }
            if time <= ns.seen {
                return NONE;
            }
            self.die(index, time, Known::Inferred, changes);
        } else if self.ns_graves.has(shown.inum, time) {
            return NONE;
        }
        let confirmed = !self.snapshot.is_after(time);
        let index = self.add(shown.inum, shown.id, || Namespace {
            confirmed,
            ..Namespace::new(kind, shown.inum, shown.id, time, time)
        });
        changes.push(Change::Found(self.ns_key(index)));
        index
    }

    /// Whether the namespace of an id has died for sure: ids do not come again.
    fn is_told_dead(&self, id: u64) -> bool {
        if id == 0 {
            return false;
        }
        let index = self.by_id.get(&id);
        let death = index.and_then(|index| self.namespaces[*index].death);
        matches!(death, Some((_, Known::Told)))
    }

    /// Something shows that a namespace lives, and so what is above it.
    fn confirm(&mut self, index: u32, time: u64, changes: &mut Vec<Change>) {
        if self.namespaces[index].confirmed || self.snapshot.is_after(time) {
            return;
        }
        let mut left = vec![index];
        while let Some(index) = left.pop() {
            let key = self.ns_key(index);
            let ns = &mut self.namespaces[index];
            if ns.confirmed || !ns.is_alive() {
                continue;
            }
            ns.confirmed = true;
            changes.push(Change::Confirmed(key));
            let above = [ns.parent, ns.owner].into_iter().flatten();
            left.extend(
                above
                    .filter(|key| self.namespaces.get(key.0).is_some())
                    .map(|key| key.0.index),
            );
        }
    }

    fn learn_id(&mut self, index: u32, id: u64) {
        if id != 0 {
            self.namespaces[index].id = id;
            self.by_id.insert(id, index);
        }
    }

    /// Notes one that is new.
    #[inline(always)]
    fn add(&mut self, inum: u32, id: u64, make: impl FnOnce() -> Namespace) -> u32 {
        let index = self.namespaces.insert(make);
        self.by_inum.set(inum, index);
        self.learn_id(index, id);
        index
    }

    /// Unlinks a namespace from a parent or an owner that died before it was seen: that was
    /// another one with the same number.
    #[inline(always)]
    pub(super) fn unlink_dead(&mut self, index: u32) {
        let ns = &self.namespaces[index];
        if ns.parent.is_none() && ns.owner.is_none() {
            return;
        }
        let was_before = |key: &NsKey| {
            let above = self.namespaces.get(key.0);
            above.is_none_or(|above| above.death.is_some_and(|(time, _)| time < ns.seen))
        };
        let (parent, owner) = (ns.parent.filter(was_before), ns.owner.filter(was_before));
        if parent.is_some() || owner.is_some() {
            self.unlink_above(index, parent, owner);
        }
    }

    /// Unlinks a namespace from a parent or an owner that is dead, or has another number
    /// than these: by its id it is known to live, and below what.
    pub(super) fn unlink_others(&mut self, index: u32, parent: u32, owner: u32) {
        let is_other = |key: &NsKey, inum: u32| {
            let above = self.namespaces.get(key.0);
            above.is_none_or(|above| !above.is_alive() || inum != 0 && above.inum != inum)
        };
        let ns = &self.namespaces[index];
        let parent = ns.parent.filter(|key| is_other(key, parent));
        let owner = ns.owner.filter(|key| is_other(key, owner));
        self.unlink_above(index, parent, owner);
    }

    fn unlink_above(&mut self, index: u32, parent: Option<NsKey>, owner: Option<NsKey>) {
        let ns = &self.namespaces[index];
        let counted = owner.filter(|_| ns.kind != Kind::User);
        for key in parent.into_iter().chain(counted) {
            self.let_go(key);
        }
        let ns = &mut self.namespaces[index];
        ns.parent = ns.parent.filter(|_| parent.is_none());
        ns.owner = ns.owner.filter(|_| owner.is_none());
    }

    /// Notes the parent and the owner of a namespace, by inum; 0 for what is not known.
    #[inline(always)]
    pub(super) fn set_parents(
        &mut self,
        index: u32,
        parent: u32,
        owner: u32,
        time: u64,
        changes: &mut Vec<Change>,
    ) {
        if parent != 0 {
            self.set_parent(index, parent, time, changes);
        }
        let ns = &self.namespaces[index];
        let (kind, own) = (ns.kind, ns.inum);
        if owner != 0 && owner != own && ns.owner.is_none() {
            let owner = self.shown(Kind::User, Ns { inum: owner, id: 0 }, time, changes);
            if owner != NONE {
                // That of a user namespace is its parent.
                self.namespaces[owner].dependents += u32::from(kind != Kind::User);
                self.namespaces[index].owner = Some(self.ns_key(owner));
            }
        }
    }

    #[inline(never)]
    fn set_parent(&mut self, index: u32, parent: u32, time: u64, changes: &mut Vec<Change>) {
        let ns = &self.namespaces[index];
        if parent == ns.inum || ns.parent.is_some() {
            return;
        }
        let parent = self.shown(
            ns.kind,
            Ns {
                inum: parent,
                id: 0,
            },
            time,
            changes,
        );
        if parent != NONE {
            self.namespaces[parent].dependents += 1;
            self.namespaces[index].parent = Some(self.ns_key(parent));
        }
    }

    /// Notes a death of nobody who is known: who made it has perhaps not returned yet.
    fn death_of_nobody(&mut self, death: &Life) {
        if self.ns_graves.has(death.inum, death.time) {
            return;
        }
        self.ns_graves.put(death.inum, death.time);
        if self.early.len() >= EARLY_MAX {
            self.early.pop_front();
        }
        self.early.push_back(*death);
    }

    /// Notes a death. It ends the living namespace of its number only if it can be its
    /// own.
    pub(super) fn death(&mut self, life: &Life, changes: &mut Vec<Change>) {
        let index = self.living_index(life.inum);
        let is_buried = self.ns_graves.knows(life.inum);
        if index == NONE {
            // What an operation made and gave back, because a later stage failed, too.
            return self.death_of_nobody(life);
        }
        let ns = &self.namespaces[index];
        let kind = life.kind.unwrap_or(ns.kind);
        if !ns.is_like(kind, life.id) || life.time < ns.since() {
            return;
        }
        let same_id = ns.id != 0 && ns.id == life.id;
        let same_address = match life.address {
            None => false,
            // The second word of a death, which comes when the number may be in use again.
            Some(address) if ns.address != 0 => {
                if ns.address != address {
                    return;
                }
                true
            }
            Some(_) if is_buried => return,
            Some(_) => false,
        };
        if ns.seen > life.time && !same_id && !same_address {
            self.part(index, life.time, changes);
        }
        self.die(index, life.time, Known::Told, changes);
    }

    /// Parts what was taken for one life into two: a death is told of a time between the
    /// birth and something later that was found. What is known of later times belongs to
    /// the next life of the number.
    fn part(&mut self, index: u32, death: u64, changes: &mut Vec<Change>) {
        let ns = &mut self.namespaces[index];
        let (kind, inum, seen) = (ns.kind, ns.inum, ns.seen);
        let (later, pins) = std::mem::take(&mut ns.pins)
            .into_iter()
            .partition(|pin| pin.time > death);
        ns.pins = pins;
        // An id that came with the birth is the first one's, else what was found has it.
        let id = match ns.born {
            Some(_) => 0,
            None => std::mem::take(&mut ns.id),
        };
        let next = self.add(inum, id, || Namespace {
            pins: later,
            ..Namespace::new(kind, inum, id, seen, seen)
        });
        changes.push(Change::Found(self.ns_key(next)));
        for slot in slots(kind) {
            let mut task = self.namespaces[index].members(slot).head;
            while task != NONE {
                let following = self.tasks[task].links[slot].next;
                if self.tasks[task].updated > death {
                    self.enter(task, slot, next, changes);
                }
                task = following;
            }
        }
        self.move_dependents(index, next, death);
        if !self.namespaces[next].pins.is_empty() {
            changes.push(Change::Pinned(self.ns_key(next)));
        }
    }

    /// What lives later than a namespace that it was thought to be below is below the next.
    fn move_dependents(&mut self, index: u32, next: u32, death: u64) {
        if self.namespaces[index].dependents == 0 {
            return;
        }
        let (old, new) = (self.ns_key(index), self.ns_key(next));
        for below in self.living_indices() {
            let ns = &mut self.namespaces[below];
            if ns.seen <= death {
                continue;
            }
            let is_below = [ns.parent, ns.owner].contains(&Some(old));
            for above in [&mut ns.parent, &mut ns.owner] {
                if *above == Some(old) {
                    *above = Some(new);
                }
            }
            let moved = u32::from(is_below);
            self.namespaces[index].dependents -= moved;
            self.namespaces[next].dependents += moved;
        }
    }

    /// Ends a namespace. Members that are still noted have gone without being told, or
    /// are about to be: a setns frees what it leaves before it ends.
    pub(super) fn die(&mut self, index: u32, time: u64, known: Known, changes: &mut Vec<Change>) {
        let key = self.ns_key(index);
        if self.namespaces[index].has_members() {
            self.all_leave(index, changes);
        }
        let ns = &mut self.namespaces[index];
        ns.death = Some((time, known));
        ns.pins = Vec::new();
        let age_ns = ns.born.map(|born| time.saturating_sub(born));
        let owner = ns.owner.filter(|_| ns.kind != Kind::User);
        let (kind, inum, held) = (ns.kind, ns.inum, [ns.parent, owner]);
        if self.by_inum.get(inum) == index {
            self.by_inum.set(inum, NONE);
        }
        for key in held.into_iter().flatten() {
            self.let_go(key);
        }
        if known == Known::Told {
            self.ns_graves.put(inum, time);
        }
        if kind == Kind::Mnt {
            self.let_go_through(inum, time, changes);
        }
        self.dead.push_back((key, time));
        changes.push(Change::Died {
            ns: key,
            age_ns,
            known,
        });
    }

    fn all_leave(&mut self, index: u32, changes: &mut Vec<Change>) {
        for slot in slots(self.namespaces[index].kind) {
            loop {
                let task = self.namespaces[index].members(slot).head;
                if task == NONE {
                    break;
                }
                self.leave(task, slot, changes);
            }
        }
    }

    fn let_go(&mut self, key: NsKey) {
        if let Some(ns) = self.namespaces.get_mut(key.0) {
            ns.dependents = ns.dependents.saturating_sub(1);
        }
    }
}

/// The ways to be a member of a namespace of a kind.
fn slots(kind: Kind) -> impl Iterator<Item = usize> {
    let children = match kind {
        Kind::Pid => Some(PID_CHILDREN),
        Kind::Time => Some(TIME_CHILDREN),
        Kind::Mnt | Kind::Uts | Kind::Ipc | Kind::Net | Kind::User | Kind::Cgroup => None,
    };
    std::iter::once(kind as usize).chain(children)
}
