//! What is printed of the events, and what has to be known for it.
//!
//! The tail without its terminal: no output, no clock, nothing of the machine. The
//! text gathers here, and whoever has the terminal writes it out.

use jiff::tz::TimeZone;
use nstrace_common::{
    kind::Kind,
    mount_ops::Call,
    wire::{Op, RecordKind},
};

use crate::{
    cgroups::Cgroups,
    event::{Event, Life, Lost, Maker, Operation, Past},
    explain::Facts,
    filter::Filter,
    lives::Lives,
    mount_ops::{MountOp, origins::Origins},
    render::{Format, Printer, Text, View},
    trace::State,
};

/// What to print, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// As what.
    pub format: Format,
    /// Whether to use colours.
    pub color: bool,
    /// Whether text has births of namespaces and threads too.
    pub all: bool,
    /// Which events.
    pub filter: Filter,
    /// Whether mount operations, too.
    pub mounts: bool,
    /// Whether the kernel side leaves something out that `filter` does not know of: a
    /// command is followed.
    pub follows: bool,
    /// What the machine says about an operation that has just failed.
    pub facts: fn(&Operation, &Cgroups) -> Facts,
}

/// How many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that were printed.
    pub operations: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Operations that did not get through.
    pub lost: u64,
    /// Other records that did not.
    pub lost_others: u64,
    /// Mount operations that were printed.
    pub mounts: u64,
    /// Those of them that failed.
    pub mount_failures: u64,
}

/// What is printed, and what is known for it.
#[derive(Debug)]
pub struct Screen {
    options: Options,
    /// Whether the filter leaves anything out.
    filters: bool,
    /// Whether something is left out, and so are the deaths of what was not seen.
    partial: bool,
    /// Paths of cgroups.
    pub cgroups: Cgroups,
    /// The living namespaces.
    pub lives: Lives,
    /// What to add to `CLOCK_MONOTONIC` for the time of day, in ns.
    pub wall_offset_ns: i64,
    printer: Printer,
    /// Whole lines that nobody has written out yet.
    pub text: Text,
    /// Up to now.
    pub counts: Counts,
    /// Where mounts come from.
    origins: Origins,
    /// Deaths that the kernel skipped: seen the last time, and told.
    skipped_before: u64,
    skipped_told: u64,
    /// What the machine said at failures, if it is not to be asked.
    told: Option<Facts>,
}

impl Screen {
    /// A screen whose lines have the time of day of `zone`.
    pub fn new(options: Options, zone: TimeZone) -> Screen {
        let filters = options.filter.is_set();
        Screen {
            filters,
            partial: options.follows || filters,
            options,
            cgroups: Cgroups::default(),
            lives: Lives::default(),
            wall_offset_ns: 0,
            printer: Printer::new(zone),
            text: Text::new(),
            counts: Counts::default(),
            origins: Origins::default(),
            skipped_before: 0,
            skipped_told: 0,
            told: None,
        }
    }

    /// What the machine said about failures that come next; it is not asked any more.
    pub fn facts(&mut self, facts: Facts) {
        self.told = Some(facts);
    }

    /// What is known where a recording begins.
    pub fn begin_with(&mut self, state: State) {
        self.lives.begin_with(&state.world);
        self.cgroups = state.cgroups;
        self.wall_offset_ns = state.wall_offset_ns;
    }

    /// Prints the head of the columns.
    pub fn header(&mut self) {
        let Options { format, color, .. } = self.options;
        self.printer.header(format, &mut self.text, color);
    }

    /// Learns from an event, and prints it if it is shown.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Op(op) => self.operation(event, op),
            Event::Cgroup(cgroup) => self.cgroups.made(cgroup),
            Event::Birth(life) => {
                self.born(life, Past::default());
                self.over(life);
            }
            Event::Births(op) => {
                if self.options.filter.matches(event, &self.cgroups) {
                    op.born().for_each(|life| self.born(&life, past(op, &life)));
                    op.born().for_each(|life| self.over(&life));
                }
            }
            Event::Death(life) => {
                if let Some(life) = self.lives.died(life) {
                    self.died(life);
                }
            }
            Event::Warning(_) => self.print(event, None),
            Event::MountDied(mount) => {
                if mount.record.count != 0 {
                    self.print_mount(event);
                }
            }
            Event::Lost(lost) => {
                let sum = match lost.record {
                    RecordKind::Op => &mut self.counts.lost,
                    RecordKind::TaskNew
                    | RecordKind::TaskExit
                    | RecordKind::TaskChange
                    | RecordKind::TaskFree
                    | RecordKind::Birth
                    | RecordKind::Death
                    | RecordKind::MountDeath
                    | RecordKind::MountOp
                    | RecordKind::MountBirths
                    | RecordKind::Cgroup => &mut self.counts.lost_others,
                };
                // A recording may say anything.
                *sum = sum.saturating_add(lost.count);
                self.print(event, None);
            }
            Event::TaskNew(task) => {
                if let Some(own) = task.pids.last() {
                    self.lives.entered(own.ns);
                }
                if self.options.filter.matches(event, &self.cgroups) {
                    self.print(event, None);
                }
            }
            Event::TaskExit(_) | Event::Stall(..) => {
                if self.options.filter.matches(event, &self.cgroups) {
                    self.print(event, None);
                }
            }
            Event::MountOp(op) => self.mount(event, op),
            Event::MountBirths(_) => {
                self.origins.apply(event);
                if self.options.mounts && self.options.filter.matches(event, &self.cgroups) {
                    self.print(event, None);
                }
            }
            Event::TaskChange(_)
            | Event::TaskFree(_)
            | Event::SnapshotBegin(_)
            | Event::FoundNamespace(_)
            | Event::FoundTask(_)
            | Event::FoundHolder(_)
            | Event::SnapshotEnd(_)
            | Event::MountWatched(_)
            | Event::Access(_)
            | Event::Balance(_)
            | Event::Unfiled(_)
            | Event::FoundFree(_) => {}
        }
    }

    fn born(&mut self, life: &Life, past: Past) {
        self.lives.born(life, past);
        let shown = self.options.all || self.options.format == Format::Json;
        if shown && self.asked_for(life) {
            self.print(&Event::Birth(*life), None);
        }
    }

    fn died(&mut self, life: Life) {
        if (!self.partial || life.age.is_some()) && self.asked_for(&life) {
            self.print(&Event::Death(life), None);
        }
    }

    /// Tells of a death that came before its birth, now that there was one.
    fn over(&mut self, birth: &Life) {
        if let Some(life) = self.lives.over(birth) {
            self.died(life);
        }
    }

    /// Notes where setns brought its task. Into a pid namespace it brings only children.
    fn entered(&mut self, op: &Operation) {
        for kind in op.changed().filter(|kind| *kind != Kind::Pid) {
            self.lives.entered(op.after(kind).inum);
        }
    }

    /// Whether a namespace is of a kind that was asked for.
    fn asked_for(&self, life: &Life) -> bool {
        let kinds = &self.options.filter.kinds;
        kinds.is_empty() || life.kind.is_some_and(|kind| kinds.contains(&kind))
    }

    fn operation(&mut self, event: &Event, op: &Operation) {
        if self.filters && !self.options.filter.matches(event, &self.cgroups) {
            return;
        }
        self.counts.operations += 1;
        for life in op.born() {
            self.born(&life, past(op, &life));
        }
        if op.op == Op::Setns && op.errno().is_none() {
            self.entered(op);
        }
        let facts = op.errno().map(|_| match &self.told {
            Some(told) => told.clone(),
            None => (self.options.facts)(op, &self.cgroups),
        });
        self.counts.failures += u64::from(facts.is_some());
        self.print(event, facts.as_ref());
        if self.lives.may_be_over(op.record.head.time) {
            op.born().for_each(|life| self.over(&life));
        }
    }

    fn mount(&mut self, event: &Event, op: &MountOp) {
        // A recording may have what is not asked for.
        self.origins.apply(event);
        if !self.options.mounts || !self.options.filter.matches(event, &self.cgroups) {
            return;
        }
        // What copies the mounts of a namespace is part of another operation.
        if op.call != Call::CopyMntNs {
            self.counts.mounts += 1;
            self.counts.mount_failures += u64::from(op.errno().is_some());
        }
        self.print_mount(event);
    }

    fn print(&mut self, event: &Event, facts: Option<&Facts>) {
        self.print_with(event, facts, false);
    }

    /// The same of what concerns a mount whose origin may be known.
    fn print_mount(&mut self, event: &Event) {
        self.print_with(event, None, true);
    }

    #[inline(always)]
    fn print_with(&mut self, event: &Event, facts: Option<&Facts>, is_of_mount: bool) {
        let view = View {
            wall_offset_ns: self.wall_offset_ns,
            cgroups: &self.cgroups,
            facts,
            origin: match event {
                Event::MountOp(op) if is_of_mount => self.origins.taken_by(op),
                Event::MountDied(mount) if is_of_mount => self.origins.of(mount.record),
                _ => None,
            },
            color: self.options.color,
            all: self.options.all,
        };
        self.printer
            .event(self.options.format, &mut self.text, event, &view);
    }

    /// Tells of deaths that the kernel has skipped a program for, less those that were
    /// heard of all the same. The second word of a death takes a moment: what is new is
    /// told the next time, or at the end.
    pub fn skipped(&mut self, skipped: u64, at_end: bool, now_ns: u64) {
        let missing = skipped.saturating_sub(self.lives.recovered());
        let count = match at_end {
            true => missing,
            false => missing.min(self.skipped_before),
        }
        .saturating_sub(self.skipped_told);
        self.skipped_before = missing;
        if count > 0 && !self.partial {
            self.skipped_told += count;
            self.event(&Event::Lost(Lost {
                time: now_ns,
                since: 0,
                record: RecordKind::Death,
                count,
            }));
        }
    }
}

/// What is known of a namespace when an operation has made it.
fn past(op: &Operation, life: &Life) -> Past {
    let is_for_children = match op.op {
        Op::Clone | Op::Clone3 | Op::Fork | Op::Vfork => false,
        Op::Unshare => matches!(life.kind, Some(Kind::Pid | Kind::Time)),
        // Of these nobody is in it yet.
        Op::Setns | Op::OpenTree | Op::Fsmount => true,
    };
    Past {
        maker: Some(Maker::of(op)),
        entered: u32::from(op.errno().is_none() && !is_for_children),
        mounts: match life.kind {
            Some(Kind::Mnt) => op.record.mounts,
            _ => 0,
        },
    }
}
