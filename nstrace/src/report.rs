//! What many events come to: lengths, failures and lives, gathered one by one.
//!
//! Pure, and of bounded memory: lengths go into histograms that are right to a hundredth,
//! and of single operations only the slowest are kept, as they are printed.

use std::collections::BTreeMap;

use foldhash::HashMap;
use hdrhistogram::Histogram;
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{Op, RecordKind},
};

use crate::{
    cgroups::Cgroups,
    event::{Event, Operation},
    explain::{Facts, explain},
    stages::{self, Function},
    world::{Change, World},
};

/// So many of the slowest operations are kept.
pub const SLOWEST: usize = 10;

/// So many sorts of failures, and containers, are told apart; the rest is one.
const SORTS_MAX: usize = 1000;

/// How long something took, of many.
#[derive(Clone, Debug)]
pub struct Lengths(Histogram<u64>);

impl Default for Lengths {
    fn default() -> Self {
        // Two digits is a value that it knows.
        let histogram = Histogram::new(2);
        Lengths(histogram.unwrap_or_else(|_| unreachable!("two digits")))
    }
}

impl Lengths {
    /// Adds one, in ns.
    pub fn add(&mut self, ns: u64) {
        // It grows to hold any number.
        let _ = self.0.record(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// What so many of a hundred do not exceed, in ns: to a hundredth, and never more than
    /// the longest.
    pub fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent).min(self.max())
    }

    /// The longest, to a hundredth.
    pub fn max(&self) -> u64 {
        self.0.max()
    }
}

/// A sort of failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failure {
    /// The name of the operation.
    pub op: &'static str,
    /// What it failed with, positive.
    pub errno: i32,
    /// The function that failed, if that is known.
    pub stage: Option<&'static str>,
    /// Why, if that is certain.
    pub reason: Option<String>,
}

/// The namespaces of a kind.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// Those that were there before.
    pub found: u64,
    /// Those whose birth was seen.
    pub born: u64,
    /// Those that died, and of these how old they became where that is known.
    pub died: u64,
    /// How old they became.
    pub ages: Lengths,
}

/// One of the slowest operations.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Its length, in ns.
    pub took_ns: u64,
    /// As text and as JSON, whole lines.
    pub text: String,
    /// See above.
    pub json: String,
}

/// Prints an operation as a call tree and as JSON.
pub type Print<'p> = dyn FnMut(&Operation) -> (String, String) + 'p;

/// What has been gathered.
#[derive(Debug)]
pub struct Report {
    /// Times of the first and of the last event, `CLOCK_MONOTONIC` in ns.
    pub span: Option<[u64; 2]>,
    /// How many operations there were.
    pub operations: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Lengths of operations by what they are.
    pub ops: Vec<(Op, Lengths)>,
    /// Lengths of the functions that they passed.
    pub stages: HashMap<Function, Lengths>,
    /// Lengths of operations by the id of the container; none for those in no container.
    pub containers: BTreeMap<Option<Box<[u8]>>, Lengths>,
    /// How often what has failed.
    pub failures: BTreeMap<Failure, u64>,
    /// The slowest, the slowest first.
    pub slowest: Vec<Slow>,
    /// By kind.
    pub lives: [Lives; KINDS],
    /// Records that were lost, by kind of record.
    pub lost: Vec<(RecordKind, u64)>,
}

impl Default for Report {
    fn default() -> Self {
        Report {
            span: None,
            operations: 0,
            failed: 0,
            ops: Op::ALL.map(|op| (op, Lengths::default())).into(),
            stages: HashMap::default(),
            containers: BTreeMap::new(),
            failures: BTreeMap::new(),
            slowest: Vec::new(),
            lives: Default::default(),
            lost: Vec::new(),
        }
    }
}

impl Report {
    /// Adds an event.
    pub fn event(&mut self, event: &Event, cgroups: &Cgroups, facts: &Facts, print: &mut Print) {
        if let Some(time) = event.time() {
            let [first, last] = self.span.unwrap_or([time; 2]);
            self.span = Some([first.min(time), last.max(time)]);
        }
        match event {
            Event::Op(op) => self.operation(op, cgroups, facts, print),
            Event::Lost(lost) => {
                match self.lost.iter_mut().find(|(kind, _)| *kind == lost.record) {
                    Some((_, count)) => *count += lost.count,
                    None => self.lost.push((lost.record, lost.count)),
                }
            }
            _ => {}
        }
    }

    fn operation(&mut self, op: &Operation, cgroups: &Cgroups, facts: &Facts, print: &mut Print) {
        let took_ns = op.took_ns();
        self.operations += 1;
        if let Some((_, lengths)) = self.ops.iter_mut().find(|(own, _)| *own == op.op) {
            lengths.add(took_ns);
        }
        for stage in stages::stages(op).iter() {
            self.stages
                .entry(stage.function)
                .or_default()
                .add(stage.took_ns);
        }
        let container = cgroups.container(op.record.cgroup);
        let container = container.map(Box::from);
        if let Some(lengths) = self.containers.get_mut(&container) {
            lengths.add(took_ns);
        } else if self.containers.len() < SORTS_MAX {
            self.containers.entry(container).or_default().add(took_ns);
        }
        if let Some(errno) = op.errno() {
            self.failed += 1;
            self.failure(op, errno, facts);
        }
        let is_slow = self.slowest.len() < SLOWEST
            || self
                .slowest
                .last()
                .is_some_and(|slow| slow.took_ns < took_ns);
        if is_slow {
            let (text, json) = print(op);
            let at = self.slowest.partition_point(|slow| slow.took_ns >= took_ns);
            let slow = Slow {
                took_ns,
                text,
                json,
            };
            self.slowest.insert(at, slow);
            self.slowest.truncate(SLOWEST);
        }
    }

    fn failure(&mut self, op: &Operation, errno: i32, facts: &Facts) {
        let mut failure = Failure {
            op: op.op.name(),
            errno,
            stage: stages::failed(op).map(Function::name),
            reason: explain(op, facts).map(|reason| reason.to_string()),
        };
        if self.failures.len() >= SORTS_MAX && !self.failures.contains_key(&failure) {
            failure.reason = None;
        }
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Adds what an event has changed.
    pub fn changes(&mut self, world: &World, changes: &[Change]) {
        let kind = |key| world.namespace(key).map(|ns| ns.kind as usize);
        for change in changes {
            match *change {
                Change::Born(ns) => {
                    if let Some(kind) = kind(ns) {
                        self.lives[kind].born += 1;
                    }
                }
                Change::Found(ns) => {
                    if let Some(kind) = kind(ns) {
                        self.lives[kind].found += 1;
                    }
                }
                Change::Died { ns, age_ns, .. } => {
                    if let Some(kind) = kind(ns) {
                        let lives = &mut self.lives[kind];
                        lives.died += 1;
                        if let Some(age_ns) = age_ns {
                            lives.ages.add(age_ns);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The functions that were passed, in the order in which operations pass them.
    pub fn functions(&self) -> Vec<(Function, &Lengths)> {
        let mut all: Vec<(Function, &Lengths)> = self
            .stages
            .iter()
            .map(|(function, lengths)| (*function, lengths))
            .collect();
        all.sort_unstable_by_key(|(function, _)| order(*function));
        all
    }
}

fn order(function: Function) -> (u8, u8) {
    match function {
        Function::CreateUserNs => (0, 0),
        Function::CopyNamespaces => (1, 0),
        Function::CreateNewNamespaces => (2, 0),
        Function::Copy(kind) => (3, kind as u8),
        Function::AllocPid => (4, 0),
        Function::Install(kind) => (5, kind as u8),
        Function::Switch => (6, 0),
    }
}

/// The kinds of namespaces, with their lives.
pub fn kinds(report: &Report) -> impl Iterator<Item = (Kind, &Lives)> {
    Kind::ALL.into_iter().zip(&report.lives)
}

#[cfg(test)]
mod tests {
    use nstrace_common::flags::{CLONE_NEWNET, CLONE_NEWUTS};

    use super::*;
    use crate::render::testing::{Built, op};

    /// Unshares of so many ns.
    fn report(lengths: &[u64]) -> Report {
        let mut report = Report::default();
        for took_ns in lengths {
            let built = op(Op::Unshare, CLONE_NEWUTS).took(*took_ns);
            add(&mut report, &built);
        }
        report
    }

    fn add(report: &mut Report, built: &Built) {
        let event = Event::Op(built.get());
        report.event(&event, &Cgroups::default(), &Facts::NONE, &mut |op| {
            (format!("{}\n", op.took_ns()), String::new())
        });
    }

    #[test]
    fn percentiles_are_right_to_a_hundredth() {
        let lengths: Vec<u64> = (1..=1000).map(|at| at * 1000).collect();
        let report = report(&lengths);
        let (_, lengths) = &report.ops[Op::Unshare as usize - 1];
        assert_eq!((report.operations, lengths.count()), (1000, 1000));
        for (percent, expected) in [(50.0, 500_000), (90.0, 900_000), (99.0, 990_000)] {
            let found = lengths.percentile(percent);
            assert!(
                found.abs_diff(expected) <= expected / 100,
                "{percent}: {found}"
            );
        }
        assert!(lengths.max().abs_diff(1_000_000) <= 10_000);
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let lengths: Vec<u64> = (0..100).map(|at| at * 7919 % 101 * 1000).collect();
        let report = report(&lengths);
        let kept: Vec<u64> = report.slowest.iter().map(|slow| slow.took_ns).collect();
        let mut expected = lengths;
        expected.sort_unstable_by_key(|ns| std::cmp::Reverse(*ns));
        assert_eq!(kept, expected[..SLOWEST]);
        assert_eq!(report.slowest[0].text, format!("{}\n", kept[0]));
    }

    #[test]
    fn failures_of_one_sort_are_counted_together() {
        let mut report = report(&[1000]);
        for _ in 0..3 {
            add(
                &mut report,
                &op(Op::Unshare, CLONE_NEWNET).failed(libc::EPERM),
            );
        }
        add(
            &mut report,
            &op(Op::Unshare, CLONE_NEWNET).failed(libc::ENOSPC),
        );
        assert_eq!((report.operations, report.failed), (5, 4));
        let counts: Vec<(i32, u64)> = report
            .failures
            .iter()
            .map(|(failure, count)| (failure.errno, *count))
            .collect();
        assert_eq!(counts, [(libc::EPERM, 3), (libc::ENOSPC, 1)]);
    }
}
