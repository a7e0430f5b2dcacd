//! The state of a world as bytes: a recording has one now and then, so that a moment in its
//! middle is found without what came before (docs/trace-format.md, "States").
//!
//! A file may say anything. What is read is a world that could have come of events: numbers
//! are unique, tasks are in living namespaces of the kind that their place has, and what is
//! above a namespace stands before it.

use nstrace_common::{
    kind::Kind,
    wire::{Op, PID_LEVELS, PidAt},
};

use super::{
    Interval, Known, NsKey, Options, Start, World,
    arena::{FIRST, Key, NONE},
    model::{Link, Maker, Namespace, OwnedHolder, Pin, SLOTS, Task, membership},
    snapshot::Snapshot,
};
use crate::{
    event::{SnapshotEnd, Unseen, comm_len},
    trace::{
        bytes::{Bytes, put, put_bytes, put_option},
        found::{put_holder, put_unseen, read_holder, read_unseen},
    },
};

/// What a namespace is below of, where that is forgotten: a key that nothing has.
const FORGOTTEN: NsKey = NsKey(Key {
    index: NONE,
    generation: 0,
});

/// Numbers of a reference to a namespace: none, to one that is forgotten, or from here on
/// its place in the list.
const NO_NS: u64 = 0;
const FORGOTTEN_NS: u64 = 1;
const FIRST_NS: u64 = 2;

impl World {
    /// Appends everything that is known; if it is to redact, without names of commands and
    /// paths.
    pub fn save(&self, out: &mut Vec<u8>, redacts: bool) {
        let order = self.order();
        let mut places = vec![NO_NS; self.namespaces.end() as usize];
        for (place, index) in order.iter().enumerate() {
            places[*index as usize] = place as u64 + FIRST_NS;
        }
        let mut save = Save {
            out,
            now: self.now,
            places: &places,
            world: self,
            redacts,
        };
        put(save.out, self.now);
        put(save.out, order.len() as u64);
        for (place, index) in order.iter().enumerate() {
            save.namespace(&self.namespaces[*index], place as u64 + FIRST_NS);
        }
        put(save.out, self.dead.len() as u64);
        self.dead.iter().for_each(|(key, _)| save.reference(*key));
        put(save.out, self.tasks.len() as u64);
        self.tasks.iter().for_each(|(_, task)| save.task(task));
        for told in [self.ns_graves.told(), self.task_graves.told()] {
            put(save.out, told.len() as u64);
            for (number, time) in told {
                put(save.out, (*number).into());
                save.time(*time);
            }
        }
        save.snapshot(&self.snapshot);
        put(save.out, self.doubtful.len() as u64);
        self.doubtful.iter().for_each(|what| save.holder(what));
        put_option(save.out, self.loss.map(|loss| loss.from));
        put(save.out, self.loss.map_or(0, |loss| loss.until));
        put(save.out, self.whole_until);
    }

    /// The indices of all namespaces, each behind those that it is below of.
    fn order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.namespaces.len());
        let mut is_seen = vec![false; self.namespaces.end() as usize];
        let mut left: Vec<(u32, bool)> = Vec::new();
        for (key, _) in self.namespaces.iter() {
            left.push((key.index, false));
            while let Some((index, is_below_all)) = left.pop() {
                if is_below_all {
                    order.push(index);
                } else if !std::mem::replace(&mut is_seen[index as usize], true) {
                    left.push((index, true));
                    let ns = &self.namespaces[index];
                    let above = [ns.parent, ns.owner].into_iter().flatten();
                    let known = above.filter(|key| self.namespace(*key).is_some());
                    left.extend(known.map(|key| (key.0.index, false)));
                }
            }
        }
        order
    }

    /// The world that [`World::save`] has written; none if this is none. What is behind it
    /// is left.
    pub fn restore(bytes: &mut Bytes) -> Option<World> {
        let mut world = World::new(Options::default());
        world.now = bytes.number()?;
        let now = world.now;
        let namespaces = len(bytes)?;
        for _ in 0..namespaces {
            world.read_namespace(bytes)?;
        }
        for _ in 0..len(bytes)? {
            let key = reference(bytes, world.namespaces.end())?.filter(|key| *key != FORGOTTEN)?;
            let (death, _) = world.namespace(key)?.death?;
            world.dead.push_back((key, death));
        }
        world.is_sound_dead().then_some(())?;
        world.count_dependents();
        for _ in 0..len(bytes)? {
            world.read_task(bytes)?;
        }
        for at in 0..2 {
            for _ in 0..len(bytes)? {
                let (number, time) = (bytes.small()?, time(bytes, now)?);
                match at {
                    0 => world.ns_graves.put(number, time),
                    _ => world.task_graves.put(number, time),
                }
            }
        }
        world.snapshot = read_snapshot(bytes, now)?;
        for _ in 0..len(bytes)? {
            let what = read_holder(bytes)?;
            let what = OwnedHolder::new(&what);
            world.holding.extend(what.mnt());
            world.doubtful.push(what);
        }
        let (from, until) = (bytes.option()?, bytes.number()?);
        world.loss = from.map(|from| Interval { from, until });
        world.whole_until = bytes.number()?;
        Some(world)
    }

    /// Counts of each what lives below it.
    fn count_dependents(&mut self) {
        for index in self.living_indices() {
            let ns = &self.namespaces[index];
            // The owner of a user namespace is its parent.
            let owner = ns.owner.filter(|_| ns.kind != Kind::User);
            for above in [ns.parent, owner].into_iter().flatten() {
                if let Some(above) = self.namespaces.get_mut(above.0) {
                    above.dependents += 1;
                }
            }
        }
    }

    /// Whether each that has died is among the dead once, and none that lives.
    fn is_sound_dead(&self) -> bool {
        let mut is_told = vec![false; self.namespaces.end() as usize];
        let mut told = self.dead.iter().map(|(key, _)| key.0.index);
        let are_dead = told.all(|index| {
            let is_again = std::mem::replace(&mut is_told[index as usize], true);
            !is_again && !self.namespaces[index].is_alive()
        });
        let dead = self.namespaces.iter().filter(|(_, ns)| !ns.is_alive());
        are_dead && dead.count() == self.dead.len()
    }

    fn read_namespace(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (now, place) = (self.now, self.namespaces.end());
        let kind = Kind::from_index(bytes.byte()?)?;
        let (inum, id) = (bytes.small()?, bytes.number()?);
        let (first, seen) = (time(bytes, now)?, time(bytes, now)?);
        let mut ns = Namespace::new(kind, inum, id, first, seen);
        ns.born = time_option(bytes, now)?;
        ns.parent = reference(bytes, place)?;
        ns.owner = reference(bytes, place)?;
        ns.owner_uid = bytes.small_option()?;
        ns.death = match bytes.byte()? {
            0 => None,
            how @ 1..=2 => Some((time(bytes, now)?, known(how == 1))),
            _ => return None,
        };
        ns.confirmed = bytes.flag()?;
        ns.address = bytes.number()?;
        if bytes.flag()? {
            ns.maker = Some(read_maker(bytes)?);
        }
        for _ in 0..len(bytes)? {
            let time = time(bytes, now)?;
            let what = OwnedHolder::new(&read_holder(bytes)?);
            self.holding.extend(what.mnt());
            ns.pins.push(Pin { time, what });
        }
        let is_alive = ns.is_alive();
        let index = self.namespaces.insert(|| ns);
        let is_again = is_alive && self.by_inum.set(inum, index) != NONE;
        if id != 0 {
            self.by_id.insert(id, index);
        }
        (!is_again && inum != 0).then_some(())
    }

    fn read_task(&mut self, bytes: &mut Bytes) -> Option<()> {
        let now = self.now;
        let (pid, tid, cgroup) = (bytes.small()?, bytes.small()?, bytes.number()?);
        let how = bytes.byte()?;
        let start = time(bytes, now)?;
        let start = match how {
            0 => Start::At(start),
            1 => Start::About(start),
            2 => Start::Before(start),
            _ => return None,
        };
        let (exited, has_found_children) = (bytes.flag()?, bytes.flag()?);
        let levels = len(bytes)?;
        if levels > PID_LEVELS {
            return None;
        }
        let mut pids = Vec::with_capacity(levels);
        for _ in 0..levels {
            let (nr, ns) = (bytes.small()?, bytes.small()?);
            pids.push(PidAt { nr, ns });
        }
        let task = Task {
            pid,
            tid,
            cgroup,
            start,
            exited,
            pids: pids.into(),
            comm: read_comm(bytes)?,
            updated: time(bytes, now)?,
            told: time(bytes, now)?,
            has_found_children,
            links: [Link::NONE; SLOTS],
        };
        let index = self.tasks.insert(|| task);
        let is_again = self.by_tid.set(tid, index) != NONE;
        for slot in 0..SLOTS {
            let Some(key) = reference(bytes, self.namespaces.end())? else {
                continue;
            };
            let ns = self.namespace(key)?;
            let wanted = match membership(slot) {
                super::Membership::In(kind) | super::Membership::Children(kind) => kind,
            };
            if ns.kind != wanted || !ns.is_alive() {
                return None;
            }
            self.enter(index, slot, key.0.index, &mut Vec::new());
        }
        (!is_again).then_some(())
    }
}

/// Writes a world.
struct Save<'a> {
    out: &'a mut Vec<u8>,
    now: u64,
    /// What refers to the namespace at each index.
    places: &'a [u64],
    world: &'a World,
    redacts: bool,
}

impl Save<'_> {
    fn namespace(&mut self, ns: &Namespace, place: u64) {
        self.out.push(ns.kind as u8);
        put(self.out, ns.inum.into());
        put(self.out, ns.id);
        self.time(ns.first);
        self.time(ns.seen);
        self.time_option(ns.born);
        for above in [ns.parent, ns.owner] {
            // What a hostile recording has put above itself is above nothing.
            let number = self.number(above);
            put(self.out, if number < place { number } else { NO_NS });
        }
        put_option(self.out, ns.owner_uid.map(u64::from));
        match ns.death {
            None => self.out.push(0),
            Some((time, known)) => {
                self.out.push(if known == Known::Told { 1 } else { 2 });
                self.time(time);
            }
        }
        self.out.push(ns.confirmed.into());
        put(self.out, ns.address);
        self.out.push(ns.maker.is_some().into());
        if let Some(maker) = &ns.maker {
            self.maker(maker);
        }
        put(self.out, ns.pins.len() as u64);
        for pin in &ns.pins {
            self.time(pin.time);
            self.holder(&pin.what);
        }
    }

    fn task(&mut self, task: &Task) {
        put(self.out, task.pid.into());
        put(self.out, task.tid.into());
        put(self.out, task.cgroup);
        let (how, start) = match task.start {
            Start::At(time) => (0, time),
            Start::About(time) => (1, time),
            Start::Before(time) => (2, time),
        };
        self.out.push(how);
        self.time(start);
        self.out.push(task.exited.into());
        self.out.push(task.has_found_children.into());
        put(self.out, task.pids.len() as u64);
        for pid in &task.pids {
            put(self.out, pid.nr.into());
            put(self.out, pid.ns.into());
        }
        self.comm(&task.comm);
        self.time(task.updated);
        self.time(task.told);
        for link in &task.links {
            let number = match link.ns {
                NONE => NO_NS,
                index => self.places[index as usize],
            };
            put(self.out, number);
        }
    }

    fn maker(&mut self, maker: &Maker) {
        self.out.push(maker.op as u8);
        for number in [maker.pid, maker.tid, maker.uid] {
            put(self.out, number.into());
        }
        put(self.out, maker.cgroup);
        self.comm(&maker.comm);
    }

    fn holder(&mut self, holder: &OwnedHolder) {
        let holder = holder.get();
        put_holder(
            self.out,
            &if self.redacts {
                holder.without_path()
            } else {
                holder
            },
        );
    }

    fn snapshot(&mut self, snapshot: &Snapshot) {
        self.time_option(snapshot.begin);
        self.time_option(snapshot.end.map(|end| end.time));
        let unseen = snapshot.end.map_or(Unseen::default(), |end| end.unseen);
        put_unseen(self.out, &unseen);
    }

    /// Of names, what stands before the NUL.
    fn comm(&mut self, comm: &[u8; 16]) {
        let len = if self.redacts { 0 } else { comm_len(comm) };
        put_bytes(self.out, &comm[..len]);
    }

    fn reference(&mut self, key: NsKey) {
        put(self.out, self.number(Some(key)));
    }

    fn number(&self, key: Option<NsKey>) -> u64 {
        match key {
            None => NO_NS,
            Some(key) if self.world.namespace(key).is_none() => FORGOTTEN_NS,
            Some(key) => self.places[key.0.index as usize],
        }
    }

    /// How long ago it was; what will be is so long before 0.
    fn time(&mut self, time: u64) {
        put(self.out, self.now.wrapping_sub(time));
    }

    fn time_option(&mut self, time: Option<u64>) {
        put_option(self.out, time.map(|time| self.now.wrapping_sub(time)));
    }
}

/// How many follow, each of at least a byte.
fn len(bytes: &mut Bytes) -> Option<usize> {
    let len = usize::try_from(bytes.number()?).ok()?;
    (len <= bytes.0.len()).then_some(len)
}

fn time(bytes: &mut Bytes, now: u64) -> Option<u64> {
    Some(now.wrapping_sub(bytes.number()?))
}

fn time_option(bytes: &mut Bytes, now: u64) -> Option<Option<u64>> {
    let ago = bytes.option()?;
    Some(ago.map(|ago| now.wrapping_sub(ago)))
}

/// A namespace of the list, of which there are so many.
fn reference(bytes: &mut Bytes, namespaces: u32) -> Option<Option<NsKey>> {
    Some(match bytes.number()? {
        NO_NS => None,
        FORGOTTEN_NS => Some(FORGOTTEN),
        number => {
            let index = u32::try_from(number - FIRST_NS).ok()?;
            let generation = FIRST;
            let key = NsKey(Key { index, generation });
            Some((index < namespaces).then_some(key)?)
        }
    })
}

fn known(is_told: bool) -> Known {
    match is_told {
        true => Known::Told,
        false => Known::Inferred,
    }
}

fn read_maker(bytes: &mut Bytes) -> Option<Maker> {
    Some(Maker {
        op: Op::from_u8(bytes.byte()?)?,
        pid: bytes.small()?,
        tid: bytes.small()?,
        uid: bytes.small()?,
        cgroup: bytes.number()?,
        comm: read_comm(bytes)?,
    })
}

fn read_comm(bytes: &mut Bytes) -> Option<[u8; 16]> {
    let name = bytes.bytes()?;
    let mut comm = [0; 16];
    comm.get_mut(..name.len())?.copy_from_slice(name);
    Some(comm)
}

fn read_snapshot(bytes: &mut Bytes, now: u64) -> Option<Snapshot> {
    let begin = time_option(bytes, now)?;
    let end = time_option(bytes, now)?;
    let unseen = read_unseen(bytes)?;
    Some(Snapshot {
        begin,
        end: end.map(|time| SnapshotEnd { time, unseen }),
    })
}
