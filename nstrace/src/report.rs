//! What many events come to: lengths, failures and lives, gathered one by one.
//!
//! Pure, and of bounded memory: lengths are counted ([`Lengths`]), and of single operations
//! only the slowest are kept, as they are printed. An operation is counted once, in the sums
//! of its container; what all come to is made of these at the end.

mod failures;
mod lengths;
mod mounts;
mod tally;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use foldhash::{HashMap, HashSet};
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{Op, RecordKind},
};

pub use self::{
    failures::{Comm, Failure, Failures, Group, Met, What, Why},
    lengths::Lengths,
    mounts::{MountKind, MountOps, MountSums},
    tally::Tally,
};
use crate::{
    cgroups::Cgroups,
    event::{Event, Lost, Operation},
    explain::{Facts, explain},
    filter::{Filter, about},
    mount_ops::MountOp,
    stages::{self, FUNCTIONS_LEN, Function},
    world::{self, Change, NsKey, World},
};

/// So many of the slowest operations are kept.
pub const SLOWEST: usize = 10;

/// So many containers are told apart; the rest is one.
const CONTAINERS_MAX: usize = 1000;

/// So many times of losses are kept; those after them are joined with the last.
const LOSSES_MAX: usize = 100;

/// So many warnings about mounts are kept.
const WARNINGS_MAX: usize = 100;

/// Operations that have something in common.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Their lengths by what they are, as in [`Op::ALL`].
    ops: [Lengths; Op::ALL.len()],
    /// By the kinds that they are about; one of several kinds is in each.
    kinds: [Lengths; KINDS],
    /// Those of the functions that they passed, as in [`Function::ALL`].
    stages: [Lengths; FUNCTIONS_LEN],
    /// How many failed.
    pub failed: u64,
}

impl Sums {
    fn add(&mut self, op: &Operation) {
        let took_ns = op.took_ns();
        self.ops[op.op as usize - 1].add(took_ns);
        let mut kinds = about(op);
        while kinds != 0 {
            self.kinds[kinds.trailing_zeros() as usize % KINDS].add(took_ns);
            kinds &= kinds - 1;
        }
        stages::lengths(op, |place, took_ns| self.stages[place].add(took_ns));
        self.failed += u64::from(op.errno().is_some());
    }

    fn add_all(&mut self, other: &Sums) {
        let Sums {
            ops,
            kinds,
            stages,
            failed,
        } = other;
        let pairs = self.ops.iter_mut().zip(ops);
        let pairs = pairs.chain(self.kinds.iter_mut().zip(kinds));
        for (own, its) in pairs.chain(self.stages.iter_mut().zip(stages)) {
            own.add_all(its);
        }
        self.failed += failed;
    }

    /// By what they are; those that there were.
    pub fn ops(&self) -> impl Iterator<Item = (Op, &Lengths)> {
        some(Op::ALL.into_iter().zip(&self.ops))
    }

    /// By kind; those that there were.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &Lengths)> {
        some(Kind::ALL.into_iter().zip(&self.kinds))
    }

    /// The functions that they passed, in the order in which operations pass them.
    pub fn stages(&self) -> impl Iterator<Item = (Function, &Lengths)> {
        some(Function::ALL.into_iter().zip(&self.stages))
    }

    /// All of them.
    pub fn all(&self) -> Lengths {
        let mut all = Lengths::default();
        self.ops.iter().for_each(|lengths| all.add_all(lengths));
        all
    }

    /// How long they took together, in ns.
    pub fn time(&self) -> u64 {
        let times = self.ops.iter().map(Lengths::sum);
        times.fold(0, u64::saturating_add)
    }
}

fn some<'l, T>(
    all: impl Iterator<Item = (T, &'l Lengths)>,
) -> impl Iterator<Item = (T, &'l Lengths)> {
    all.filter(|(_, lengths)| lengths.count() > 0)
}

/// Where operations were done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// In no container.
    #[default]
    None,
    /// In the container of that id.
    Container(Box<[u8]>),
    /// In one of those that were too many to be told apart.
    Others,
}

/// The operations of a container.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Which.
    pub place: Place,
    /// What they come to.
    pub sums: Sums,
}

/// The namespaces of a kind.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// Those that were there before.
    pub found: u64,
    /// Those whose birth was seen.
    pub born: u64,
    /// Those that died.
    pub died: u64,
    /// How old those became whose birth and death were told.
    pub ages: Lengths,
    /// Who made them, by name.
    pub makers: Tally<Comm>,
}

/// Records that were lost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What they were.
    pub record: RecordKind,
    /// How many.
    pub count: u64,
    /// When nothing had been lost yet; 0 if that is not known.
    pub since: u64,
    /// When it was seen.
    pub until: u64,
}

/// One of the slowest operations.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Its length, in ns.
    pub took_ns: u64,
    /// As it is printed, whole lines.
    pub text: String,
}

/// What is known beside an event.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The tree, after it.
    pub world: &'a World,
    /// What it changed in that.
    pub changes: &'a [Change],
    /// Paths of cgroups.
    pub cgroups: &'a Cgroups,
    /// What the machine said about failures.
    pub facts: &'a Facts,
}

/// Prints an operation.
pub type Print<'p> = dyn FnMut(&Event) -> String + 'p;

/// What has been gathered.
#[derive(Debug)]
pub struct Report {
    filter: Filter,
    filters: bool,
    /// The living namespaces that are counted, if not all are.
    counted: Option<HashSet<NsKey>>,
    /// Times of the first and of the last event, `CLOCK_MONOTONIC` in ns.
    pub span: Option<[u64; 2]>,
    /// How many operations there were.
    pub operations: u64,
    /// How many of them failed.
    pub failed: u64,
    /// By container: first those in none, then in the order in which they were met.
    pub containers: Vec<Container>,
    /// Where in these.
    places: HashMap<Box<[u8]>, usize>,
    /// The one of the last operation in one: they come in runs.
    last: usize,
    /// What failed.
    pub failures: Failures,
    /// The slowest, the slowest first.
    pub slowest: Vec<Slow>,
    /// By kind.
    pub lives: [Lives; KINDS],
    /// Mount operations, if they were recorded.
    pub mounts: MountOps,
    /// Mounts that died with writers, and what the kernel said of mounts, as the tail prints it:
    /// the first.
    pub warnings: Vec<String>,
    /// How many there were.
    pub warned: u64,
    /// Records that were lost.
    pub losses: Vec<Loss>,
}

impl Default for Report {
    fn default() -> Self {
        Report {
            filter: Filter::default(),
            filters: false,
            counted: None,
            span: None,
            operations: 0,
            failed: 0,
            containers: vec![Container::default()],
            places: HashMap::default(),
            last: 0,
            failures: Failures::default(),
            slowest: Vec::new(),
            lives: Default::default(),
            mounts: MountOps::default(),
            warnings: Vec::new(),
            warned: 0,
            losses: Vec::new(),
        }
    }
}

impl Report {
    /// Of the operations that pass a filter, and of the namespaces that these made; of all
    /// namespaces of its kinds, if it is about nothing else.
    pub fn new(filter: Filter) -> Report {
        Report {
            filters: filter.is_set(),
            counted: filter.is_set_beside_kinds().then(HashSet::default),
            filter,
            ..Report::default()
        }
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Event, known: &Known, print: &mut Print) {
        if let Some(time) = event.time() {
            let [first, last] = self.span.unwrap_or([time; 2]);
            self.span = Some([first.min(time), last.max(time)]);
        }
        let makes = match event {
            Event::Op(_) | Event::Births(_) => {
                !self.filters || self.filter.matches(event, known.cgroups)
            }
            _ => false,
        };
        match event {
            Event::Op(op) if makes => self.operation(op, known, print),
            Event::Lost(lost) => self.loss(lost),
            Event::MountOp(op) => self.mount_op(op, event, known),
            Event::MountDied(mount) if mount.record.count != 0 => self.warning(event, print),
            Event::Warning(_) => self.warning(event, print),
            _ => {}
        }
        if !known.changes.is_empty() {
            self.changes(known.world, known.changes, makes);
        }
    }

    #[inline(never)]
    fn operation(&mut self, op: &Operation, known: &Known, print: &mut Print) {
        let took_ns = op.took_ns();
        self.operations += 1;
        let container = self.container(known.cgroups.container(op.record.cgroup));
        self.containers[container].sums.add(op);
        if let Some(errno) = op.errno() {
            self.failed += 1;
            self.failure(op, errno, container, known.facts);
        }
        let is_slow = self.slowest.len() < SLOWEST
            || self
                .slowest
                .last()
                .is_some_and(|slow| slow.took_ns < took_ns);
        if is_slow {
            let text = print(&Event::Op(*op));
            let at = self.slowest.partition_point(|slow| slow.took_ns >= took_ns);
            self.slowest.insert(at, Slow { took_ns, text });
            self.slowest.truncate(SLOWEST);
        }
    }

    /// Where the sums of a container are.
    fn container(&mut self, id: Option<&[u8]>) -> usize {
        let Some(id) = id else { return 0 };
        if let Some(Place::Container(last)) = self.containers.get(self.last).map(|own| &own.place)
            && **last == *id
        {
            return self.last;
        }
        if let Some(at) = self.places.get(id) {
            self.last = *at;
            return *at;
        }
        let last = self.containers.len();
        let place = match last.cmp(&CONTAINERS_MAX) {
            Ordering::Less => {
                self.places.insert(id.into(), last);
                Place::Container(id.into())
            }
            Ordering::Equal => Place::Others,
            Ordering::Greater => return last - 1,
        };
        self.containers.push(Container {
            place,
            sums: Sums::default(),
        });
        last
    }

    fn failure(&mut self, op: &Operation, errno: i32, container: usize, facts: &Facts) {
        let what = What {
            op: op.op,
            errno,
            stage: stages::failed(op),
        };
        let reason = explain(op, facts);
        let comm = Comm(op.record.comm);
        self.failures.add(what, reason, comm, container);
    }

    #[inline(never)]
    fn mount_op(&mut self, op: &MountOp, event: &Event, known: &Known) {
        if !self.filters || self.filter.matches(event, known.cgroups) {
            self.mounts.add(op);
        }
    }

    fn warning(&mut self, event: &Event, print: &mut Print) {
        self.warned += 1;
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(print(event));
        }
    }

    fn loss(&mut self, lost: &Lost) {
        let loss = Loss {
            record: lost.record,
            count: lost.count,
            since: lost.since,
            until: lost.time,
        };
        let is_full = self.losses.len() >= LOSSES_MAX;
        let mut all = self.losses.iter_mut();
        match all.rfind(|last| is_full && last.record == lost.record) {
            Some(last) => {
                last.count = last.count.saturating_add(lost.count);
                last.since = last.since.min(loss.since);
                last.until = last.until.max(loss.until);
            }
            None => self.losses.push(loss),
        }
    }

    /// Adds what was not known before, where something is missing.
    pub fn found(&mut self, world: &World, found: &[Change]) {
        self.changes(world, found, false);
    }

    #[inline(never)]
    fn changes(&mut self, world: &World, changes: &[Change], makes: bool) {
        for change in changes {
            self.change(world, *change, makes);
        }
    }

    /// Adds what was there when a part of a recording begins, if nothing came before it; that
    /// has changed since.
    pub fn begins_before(&mut self, world: &World, changes: &[Change]) {
        if self.span.is_some() || self.counted.is_some() {
            return;
        }
        let is_new =
            |key| changes.contains(&Change::Born(key)) || changes.contains(&Change::Found(key));
        let has_died = |key| {
            let mut all = changes.iter();
            all.any(|change| matches!(change, Change::Died { ns, .. } if *ns == key))
        };
        for (key, ns) in world.namespaces() {
            let was_there = (ns.is_alive() || has_died(key)) && !is_new(key);
            self.lives[ns.kind as usize].found += u64::from(was_there);
        }
    }

    /// Adds what an event has changed, which may be that the namespaces of an operation
    /// were born that is counted.
    fn change(&mut self, world: &World, change: Change, makes: bool) {
        match change {
            Change::Born(key) => self.born(world, key, makes),
            Change::BirthTold(key) => {
                if let Some(ns) = world.namespace(key)
                    && self.counted.is_none()
                {
                    let found = &mut self.lives[ns.kind as usize].found;
                    *found = found.saturating_sub(1);
                }
                self.born(world, key, makes);
            }
            Change::Found(key) => {
                if let Some(ns) = world.namespace(key)
                    && self.counted.is_none()
                {
                    self.lives[ns.kind as usize].found += 1;
                }
            }
            Change::Died {
                ns: key,
                age_ns,
                known,
            } => {
                let counted = self.counted.as_mut();
                if let Some(ns) = world.namespace(key)
                    && counted.is_none_or(|counted| counted.remove(&key))
                {
                    let lives = &mut self.lives[ns.kind as usize];
                    lives.died += 1;
                    if let Some(age_ns) = age_ns.filter(|_| known == world::Known::Told) {
                        lives.ages.add(age_ns);
                    }
                }
            }
            _ => {}
        }
    }

    fn born(&mut self, world: &World, key: NsKey, makes: bool) {
        if let Some(counted) = &mut self.counted {
            if !makes {
                return;
            }
            counted.insert(key);
        }
        let Some(ns) = world.namespace(key) else {
            return;
        };
        let lives = &mut self.lives[ns.kind as usize];
        lives.born += 1;
        if let Some(maker) = &ns.maker {
            lives.makers.add(Comm(maker.comm));
        }
    }

    /// Whether a namespace that lives at the end is one that is counted.
    pub fn counts(&self, key: NsKey, kind: Kind) -> bool {
        let kinds = &self.filter.kinds;
        let of_kind = kinds.is_empty() || kinds.contains(&kind);
        of_kind
            && self
                .counted
                .as_ref()
                .is_none_or(|counted| counted.contains(&key))
    }

    /// What all operations come to.
    pub fn sums(&self) -> Sums {
        let mut all = Sums::default();
        for container in &self.containers {
            all.add_all(&container.sums);
        }
        all
    }

    /// Whether operations were met in a container.
    pub fn has_containers(&self) -> bool {
        self.containers.len() > 1
    }

    /// The containers, and those in none, by the time that their operations took.
    pub fn by_time(&self) -> Vec<&Container> {
        let mut all: Vec<_> = self
            .containers
            .iter()
            .filter(|own| own.sums.ops().next().is_some())
            .collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.sums.time()));
        all
    }

    /// The kinds of namespaces that are counted, with their lives.
    pub fn lives(&self) -> impl Iterator<Item = (Kind, &Lives)> {
        let kinds = &self.filter.kinds;
        let all = Kind::ALL.into_iter().zip(&self.lives);
        all.filter(|(kind, _)| kinds.is_empty() || kinds.contains(kind))
    }

    /// Whether events are missing whose number is not known: the recording was damaged.
    pub fn misses_events(&self) -> bool {
        self.losses.iter().any(|loss| loss.count == 0)
    }

    /// How many records of each kind were lost.
    pub fn lost(&self) -> Vec<(RecordKind, u64)> {
        let mut all: Vec<(RecordKind, u64)> = Vec::new();
        for loss in &self.losses {
            match all.iter_mut().find(|(kind, _)| *kind == loss.record) {
                Some((_, count)) => *count = count.saturating_add(loss.count),
                None => all.push((loss.record, loss.count)),
            }
        }
        all
    }
}
