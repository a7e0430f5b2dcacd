//! What differs between two recordings: what came to pass in each ([`Report`]), and what was
//! there at its end ([`World`]).
//!
//! # What counts as changed
//!
//! Two recordings of the same load differ by chance. A percentile has changed if what is
//! likely of it in one recording is all below what is likely in the other, and it is a tenth
//! more at least. Likely is what lies between the lengths of the ranks
//! nq ± 3√(nq(1 - q)), as it does for 997 of 1000 samples of n lengths of which q are shorter:
//! nothing is assumed of how lengths are spread, and of few lengths hardly anything is said.
//! That lengths do not depend on each other is assumed, though a machine that is busy for a
//! while makes many longer at once.
//!
//! A failure comes more often, or less, if its share of all operations differs by more than
//! three standard deviations; one that the other recording does not have is new, or gone.

use std::cmp::Ordering;

use foldhash::HashMap;
use nstrace_common::kind::{KINDS, Kind};

use crate::{
    names::Names,
    report::{Comm, Lengths, Place, Report, Sums, Tally},
    stages::Function,
    world::{Namespace, World},
};

/// So many standard deviations are more than chance.
const DEVIATIONS: f64 = 3.0;

/// Less is no change that matters.
const LEAST: f64 = 1.1;

/// A recording that is compared.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What came to pass.
    pub report: &'a Report,
    /// What was there at its end.
    pub world: &'a World,
    /// Names of containers.
    pub names: &'a Names,
    /// The boot of the machine.
    pub boot_id: &'a str,
}

/// What two lists of lengths are of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Of {
    /// All operations of that name.
    Op(&'static str),
    /// Those on a kind of namespaces.
    Kind(Kind),
    /// A function of the kernel.
    Stage(Function),
    /// Those of a container: its name if an engine says one, else its id; none for those in no
    /// container.
    Container(Option<Box<[u8]>>),
}

impl Of {
    /// Which of the parts it belongs to: operations, kinds, functions, containers.
    pub fn part(&self) -> usize {
        self.order().0
    }

    /// Operations, kinds and functions have an order of their own; containers that of names.
    fn order(&self) -> (usize, usize) {
        match self {
            Of::Op(_) => (0, 0),
            Of::Kind(kind) => (1, *kind as usize),
            Of::Stage(function) => (2, function.index()),
            Of::Container(_) => (3, 0),
        }
    }
}

/// Lengths in both.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Of what.
    pub of: Of,
    /// In the first recording, and in the second.
    pub sides: [Lengths; 2],
}

impl Pair {
    /// How a percentile has changed, if it has by more than chance.
    pub fn change(&self, percent: f64) -> Option<Ordering> {
        let [a, b] = &self.sides;
        change(a, b, percent)
    }
}

/// The operations of a container in both.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name if an engine says one, else its id; none for those in no container.
    pub name: Option<Box<[u8]>>,
    /// Their lengths, by operation, kind and stage.
    pub lengths: Vec<Pair>,
}

impl Container {
    /// How long its operations took together in each, in ns.
    pub fn times(&self) -> [u64; 2] {
        let ops = self
            .lengths
            .iter()
            .filter(|pair| matches!(pair.of, Of::Op(_)));
        ops.fold([0; 2], |[a, b], pair| {
            let [of_a, of_b] = pair.sides.each_ref().map(Lengths::sum);
            [a.saturating_add(of_a), b.saturating_add(of_b)]
        })
    }

    /// Whether it did something in both.
    pub fn is_in_both(&self) -> bool {
        let has = |at: usize| self.lengths.iter().any(|pair| pair.sides[at].count() > 0);
        has(0) && has(1)
    }
}

/// How often something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// With what, positive.
    pub errno: i32,
    /// In which function, if that is known.
    pub stage: Option<Function>,
    /// Why, without numbers of namespaces.
    pub reason: Option<String>,
    /// How often in each.
    pub counts: [u64; 2],
    /// What that says.
    pub verdict: Verdict,
}

/// How often something is, compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It was not there before.
    New,
    /// It is more frequent.
    More,
    /// It is there no more.
    Gone,
    /// It is less frequent.
    Fewer,
    /// As far as can be told it is as it was.
    Same,
}

impl Verdict {
    /// As a word.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::New => "new",
            Verdict::More => "more",
            Verdict::Gone => "gone",
            Verdict::Fewer => "fewer",
            Verdict::Same => "same",
        }
    }
}

/// The namespaces of a kind.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// Those that live at the end of each.
    pub alive: [u64; 2],
    /// Those that live at the end of both; only known for recordings of one boot.
    pub both: u64,
    /// How many were born in each.
    pub born: [u64; 2],
    /// How many died.
    pub died: [u64; 2],
    /// Who made how many in each, those of most first.
    pub makers: Vec<(Comm, [u64; 2])>,
}

/// What differs.
#[derive(Debug, Default)]
pub struct Diff<'a> {
    /// Whether both are of one boot of one machine.
    pub same_boot: bool,
    /// Lengths, in the order in which they are shown.
    pub lengths: Vec<Pair>,
    /// By container: first those that took most time.
    pub containers: Vec<Container>,
    /// Failures: first what has changed most.
    pub failures: Vec<Failure>,
    /// By kind.
    pub lives: [Lives; KINDS],
    /// Namespaces of one boot that live at the end of one alone, in the order of their kinds.
    pub only: [Vec<&'a Namespace>; 2],
}

/// Compares two recordings.
pub fn diff<'a>(sides: [Side<'a>; 2]) -> Diff<'a> {
    let [a, b] = sides;
    let same_boot = !a.boot_id.is_empty() && a.boot_id == b.boot_id;
    let (both, only) = match same_boot {
        true => living(a, b),
        false => Default::default(),
    };
    Diff {
        same_boot,
        lengths: lengths(sides),
        containers: containers(sides),
        failures: failures(sides),
        lives: lives(sides, both),
        only,
    }
}

/// Whether, and how, a percentile has changed by more than chance.
pub fn change(a: &Lengths, b: &Lengths, percent: f64) -> Option<Ordering> {
    let [of_a, of_b] = [a, b].map(|lengths| lengths.percentile(percent) as f64);
    let [(low_a, high_a), (low_b, high_b)] = [a, b].map(|lengths| likely(lengths, percent));
    if high_a.is_some_and(|high| high < low_b) && of_b >= of_a * LEAST {
        Some(Ordering::Greater)
    } else if high_b.is_some_and(|high| high < low_a) && of_a >= of_b * LEAST {
        Some(Ordering::Less)
    } else {
        None
    }
}

/// Between what a percentile lies; it may be more than any that there is.
fn likely(lengths: &Lengths, percent: f64) -> (u64, Option<u64>) {
    let (count, share) = (lengths.count() as f64, percent / 100.0);
    let deviation = DEVIATIONS * (count * share * (1.0 - share)).sqrt();
    let low = (count * share - deviation).floor();
    let high = (count * share + deviation).ceil() + 1.0;
    let at = |rank: f64| lengths.at_rank(rank as u64);
    (
        if low < 1.0 { 0 } else { at(low) },
        (high <= count).then(|| at(high)),
    )
}

/// Whether shares differ by more than chance.
fn verdict(counts: [u64; 2], of: [u64; 2]) -> Verdict {
    let [a, b] = counts;
    match (a, b) {
        (0, 0) => return Verdict::Same,
        (0, _) => return Verdict::New,
        (_, 0) => return Verdict::Gone,
        _ => {}
    }
    let of = of.map(|of| of.max(1) as f64);
    let [share_a, share_b] = [a as f64 / of[0], b as f64 / of[1]];
    let all = ((a + b) as f64 / (of[0] + of[1])).min(1.0);
    let deviation = (all * (1.0 - all) * (1.0 / of[0] + 1.0 / of[1])).sqrt();
    let difference = share_b - share_a;
    if difference.abs() <= DEVIATIONS * deviation {
        Verdict::Same
    } else if difference > 0.0 {
        Verdict::More
    } else {
        Verdict::Fewer
    }
}

/// Lengths that are gathered, of both.
#[derive(Default)]
struct Found(HashMap<Of, [Lengths; 2]>);

impl Found {
    fn add(&mut self, at: usize, of: Of, lengths: &Lengths) {
        self.0.entry(of).or_default()[at].add_all(lengths);
    }

    fn add_all(&mut self, at: usize, sums: &Sums) {
        sums.ops()
            .for_each(|(op, own)| self.add(at, Of::Op(op.name()), own));
        sums.kinds()
            .for_each(|(kind, own)| self.add(at, Of::Kind(kind), own));
        sums.stages()
            .for_each(|(stage, own)| self.add(at, Of::Stage(stage), own));
    }

    fn pairs(self) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = self
            .0
            .into_iter()
            .map(|(of, sides)| Pair { of, sides })
            .collect();
        pairs.sort_unstable_by(|one, other| {
            let key = |pair: &Pair| pair.of.order();
            key(one)
                .cmp(&key(other))
                .then_with(|| one.of.cmp(&other.of))
        });
        pairs
    }
}

/// What a container is called in the other recording, too; none for those that are not told
/// apart.
fn container_name(side: &Side, place: &Place) -> Option<Option<Box<[u8]>>> {
    match place {
        Place::None => Some(None),
        Place::Container(id) => Some(Some(match side.names.get(id) {
            Some(name) => name.as_bytes().into(),
            None => id.clone(),
        })),
        Place::Others => None,
    }
}

fn lengths(sides: [Side; 2]) -> Vec<Pair> {
    let mut found = Found::default();
    for (at, side) in sides.iter().enumerate() {
        found.add_all(at, &side.report.sums());
        for container in side.report.by_time() {
            if let Some(name) = container_name(side, &container.place) {
                found.add(at, Of::Container(name), &container.sums.all());
            }
        }
    }
    found.pairs()
}

fn containers(sides: [Side; 2]) -> Vec<Container> {
    let mut found: HashMap<Option<Box<[u8]>>, Found> = HashMap::default();
    for (at, side) in sides.iter().enumerate() {
        for container in side.report.by_time() {
            if let Some(name) = container_name(side, &container.place) {
                found.entry(name).or_default().add_all(at, &container.sums);
            }
        }
    }
    let mut all: Vec<Container> = found
        .into_iter()
        .map(|(name, found)| Container {
            name,
            lengths: found.pairs(),
        })
        .collect();
    all.sort_by_cached_key(|own| {
        let [a, b] = own.times();
        (std::cmp::Reverse(a.max(b)), own.name.clone())
    });
    all
}

fn failures(sides: [Side; 2]) -> Vec<Failure> {
    type Sort = (i32, Option<Function>, Option<String>);
    let mut found: HashMap<Sort, [u64; 2]> = HashMap::default();
    for (at, side) in sides.iter().enumerate() {
        for group in side.report.failures.groups() {
            for why in group.reasons {
                let count = why.met.count;
                let sort = (group.errno, group.stage, why.shape);
                found.entry(sort).or_default()[at] += count;
            }
        }
    }
    let of = sides.map(|side| side.report.operations);
    let mut all: Vec<Failure> = found
        .into_iter()
        .map(|((errno, stage, reason), counts)| Failure {
            errno,
            stage,
            reason,
            counts,
            verdict: verdict(counts, of),
        })
        .collect();
    all.sort_unstable_by(|one, other| {
        let key = |own: &Failure| {
            (
                own.verdict,
                std::cmp::Reverse(own.counts[0].max(own.counts[1])),
            )
        };
        let names = |own: &Failure| (own.errno, own.stage, own.reason.clone());
        key(one)
            .cmp(&key(other))
            .then_with(|| names(one).cmp(&names(other)))
    });
    all
}

fn lives(sides: [Side; 2], both: [u64; KINDS]) -> [Lives; KINDS] {
    Kind::ALL.map(|kind| {
        let own = sides.map(|side| &side.report.lives[kind as usize]);
        Lives {
            alive: sides.map(|side| counted(side).filter(|ns| ns.kind == kind).count() as u64),
            both: both[kind as usize],
            born: own.map(|lives| lives.born),
            died: own.map(|lives| lives.died),
            makers: makers(own.map(|lives| &lives.makers)),
        }
    })
}

/// The namespaces that live at the end, of those that count.
fn counted<'a>(side: Side<'a>) -> impl Iterator<Item = &'a Namespace> {
    let all = side.world.namespaces().filter(|(_, ns)| ns.is_alive());
    all.filter(move |(key, ns)| side.report.counts(*key, ns.kind))
        .map(|(_, ns)| ns)
}

fn makers(sides: [&Tally<Comm>; 2]) -> Vec<(Comm, [u64; 2])> {
    let mut found: HashMap<Comm, [u64; 2]> = HashMap::default();
    for (at, tally) in sides.into_iter().enumerate() {
        for (comm, count) in tally.ranked() {
            found.entry(comm).or_default()[at] += count;
        }
    }
    let mut all: Vec<_> = found.into_iter().collect();
    all.sort_unstable_by_key(|(comm, [a, b])| (std::cmp::Reverse(*a.max(b)), *comm));
    all
}

/// Of one boot: how many namespaces live at both ends, and which at one alone.
fn living<'a>(a: Side<'a>, b: Side<'a>) -> ([u64; KINDS], [Vec<&'a Namespace>; 2]) {
    let mut left: HashMap<(Kind, u32), &Namespace> =
        counted(b).map(|ns| ((ns.kind, ns.inum), ns)).collect();
    let mut both = [0; KINDS];
    let mut only = [Vec::new(), Vec::new()];
    for ns in counted(a) {
        let key = (ns.kind, ns.inum);
        match left.get(&key).filter(|other| is_same(ns, other)) {
            Some(_) => {
                left.remove(&key);
                both[ns.kind as usize] += 1;
            }
            None => only[0].push(ns),
        }
    }
    only[1].extend(left.into_values());
    for list in &mut only {
        list.sort_unstable_by_key(|ns| (ns.kind, ns.since(), ns.inum));
    }
    (both, only)
}

/// Whether two with one number are one, as far as can be told: by their ids, else by their
/// births. One whose birth was not seen is from before it was found.
fn is_same(one: &Namespace, other: &Namespace) -> bool {
    if one.id != 0 && other.id != 0 {
        return one.id == other.id;
    }
    match (one.born, other.born) {
        (Some(born), Some(also)) => born == also,
        (Some(born), None) => born <= other.since(),
        (None, Some(born)) => born <= one.since(),
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests;
