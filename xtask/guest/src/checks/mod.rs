//! The tests: what nstrace says of operations that are known, held against what
//! was done, and how it behaves as a program.

mod cases;
mod descriptors;
mod ends;
mod failures;
mod kept;
mod load;
mod loss;
mod missed;
mod mount_ops;
mod mounts;
mod recorded;
mod reuse;
mod runc;
mod stall;
mod storm;
mod text;
mod tools;
mod tree_runc;
mod warnings;
mod why;
mod writers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::book::{self, Contents};
use crate::harness::module;
use crate::harness::report::Report;
use crate::harness::tracer::{Seen, Tracer};

/// The words of `nstrace-guest test`.
#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// Only this way of attaching
    #[arg(long, value_parser = ["fentry", "kprobe"])]
    attach: Option<String>,
    /// Leave out what attaches nothing: another run does it
    #[arg(long)]
    again: bool,
    /// Name the tests and do nothing
    #[arg(long)]
    list: bool,
    /// Name the kernel modules that the tests need and do nothing
    #[arg(long)]
    modules: bool,
    /// The operations of the load
    #[arg(long, default_value_t = 2000)]
    ops: u64,
    /// The seed of the load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only tests whose name contains this
    name: Option<String>,
}

/// How a test ended that did not break off.
pub enum Verdict {
    /// It ran; nothing may be in the report.
    Ran(Report),
    /// This machine cannot run it.
    Ignored(String),
}

struct Test {
    name: &'static str,
    run: fn(&mut Suite) -> Result<Verdict>,
}

/// In an order in which one running nstrace serves as many as possible.
const TESTS: &[Test] = &[
    Test {
        name: "operations",
        run: load::operations,
    },
    Test {
        name: "lives",
        run: load::lives,
    },
    Test {
        name: "failures",
        run: failures::run,
    },
    Test {
        name: "missed",
        run: missed::run,
    },
    Test {
        name: "descriptors",
        run: descriptors::run,
    },
    Test {
        name: "runc",
        run: runc::run,
    },
    Test {
        name: "tools",
        run: tools::run,
    },
    Test {
        name: "sigint",
        run: ends::sigint,
    },
    Test {
        name: "ends",
        run: ends::commands,
    },
    Test {
        name: "end in a storm",
        run: ends::in_a_storm,
    },
    Test {
        name: "refusals",
        run: ends::refusals,
    },
    Test {
        name: "pipe",
        run: ends::closed_pipe,
    },
    Test {
        name: "two",
        run: ends::two_at_once,
    },
    Test {
        name: "loss",
        run: loss::run,
    },
    Test {
        name: "stall",
        run: stall::run,
    },
    Test {
        name: "text",
        run: text::run,
    },
    Test {
        name: "storm truth",
        run: storm::agrees,
    },
    Test {
        name: "tree storm",
        run: storm::live,
    },
    Test {
        name: "tree loss",
        run: storm::loss,
    },
    Test {
        name: "tree recorded",
        run: storm::recorded,
    },
    Test {
        name: "tail recorded",
        run: recorded::tail,
    },
    Test {
        name: "mount ops tail",
        run: mount_ops::tail,
    },
    Test {
        name: "mount ops loss",
        run: mount_ops::loss,
    },
    Test {
        name: "mount ops kept",
        run: mount_ops::kept::run,
    },
    Test {
        name: "record kills",
        run: kept::kills,
    },
    Test {
        name: "record ends",
        run: kept::ends,
    },
    Test {
        name: "record parts",
        run: kept::parts,
    },
    Test {
        name: "mount warnings",
        run: warnings::run,
    },
    Test {
        name: "writers module",
        run: writers::module,
    },
    Test {
        name: "writers parts",
        run: writers::parts::run,
    },
    Test {
        name: "writers killed",
        run: writers::parts::killed,
    },
    Test {
        name: "writers flight",
        run: writers::parts::flight,
    },
    Test {
        name: "writers limits",
        run: writers::limits,
    },
    Test {
        name: "writers overlay",
        run: writers::overlay,
    },
    Test {
        name: "writers container",
        run: writers::container::run,
    },
    Test {
        name: "writers busy",
        run: writers::busy,
    },
    Test {
        name: "writers many",
        run: writers::many,
    },
    Test {
        name: "writers now",
        run: writers::now,
    },
    Test {
        name: "writers balanced",
        run: writers::balanced,
    },
    Test {
        name: "tree one look",
        run: storm::one_look,
    },
    Test {
        name: "tree reuse",
        run: reuse::run,
    },
    Test {
        name: "tree runc",
        run: tree_runc::run,
    },
    Test {
        name: "why holders",
        run: why::holders,
    },
    Test {
        name: "why absent",
        run: why::absent,
    },
    Test {
        name: "tree in part",
        run: why::part,
    },
    Test {
        name: "leaks",
        run: storm::leaks,
    },
    Test {
        name: "mounts",
        run: mounts::storm,
    },
    Test {
        name: "mounts many",
        run: mounts::many,
    },
    Test {
        name: "mounts held",
        run: mounts::held,
    },
    Test {
        name: "cases",
        run: cases::run,
    },
];

/// The kernel modules that tests need (xtask/src/kbuild.rs has them), by the test's name: the
/// guest is given them, and where there is none for its kernel the test is not run.
const MODULES: &[(&str, &[&str])] = &[
    ("mount warnings", &["nstrace_writers"]),
    ("writers module", &["nstrace_writers"]),
    ("writers parts", &["nstrace_writers"]),
    ("writers killed", &["nstrace_writers"]),
    ("writers flight", &["nstrace_writers"]),
    ("writers limits", &["nstrace_writers"]),
    ("writers busy", &["nstrace_writers"]),
    ("writers many", &["nstrace_writers"]),
    ("writers now", &["nstrace_writers"]),
    (
        "writers overlay",
        &["overlay_copy_up_drop", "overlay_xattr_leak"],
    ),
    ("writers container", &["overlay_copy_up_drop"]),
    ("writers balanced", &["overlay"]),
];

impl Test {
    fn modules(&self) -> impl Iterator<Item = &'static str> {
        let own = MODULES.iter().filter(|(name, _)| *name == self.name);
        own.flat_map(|(_, modules)| modules.iter().copied())
    }

    /// Why this kernel cannot run it.
    fn obstacle(&self) -> Result<Option<String>> {
        for name in self.modules() {
            if let Some(why) = module::absence(name)? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }
}

/// The tests with one way of attaching, and what they share.
pub struct Suite {
    attach: &'static str,
    args: TestArgs,
    tracer: Option<Tracer>,
    loaded: Option<(usize, Contents)>,
    /// Whether the tests have run with the other way.
    is_again: bool,
}

/// Runs the tests; whether all that ran passed.
pub fn run(args: &TestArgs) -> Result<bool> {
    let wanted = |test: &&Test| {
        args.name
            .as_ref()
            .is_none_or(|part| test.name.contains(part))
    };
    let tests: Vec<&Test> = TESTS.iter().filter(wanted).collect();
    if args.list {
        tests.iter().for_each(|test| println!("{}", test.name));
        return Ok(true);
    }
    if args.modules {
        let modules: BTreeSet<&str> = tests.iter().flat_map(|test| test.modules()).collect();
        modules.iter().for_each(|name| println!("{name}"));
        return Ok(true);
    }
    if tests.is_empty() {
        bail!(
            "no test has {:?} in its name",
            args.name.as_deref().unwrap_or_default()
        );
    }
    let mut is_good = true;
    let mut is_again = args.again;
    for attach in ["fentry", "kprobe"] {
        if args.attach.as_ref().is_none_or(|only| only == attach) {
            let mut suite = Suite {
                attach,
                args: args.clone(),
                tracer: None,
                loaded: None,
                is_again,
            };
            is_again = true;
            for test in &tests {
                is_good &= suite.run(test);
            }
        }
    }
    Ok(is_good)
}

impl Suite {
    fn run(&mut self, test: &Test) -> bool {
        let started = Instant::now();
        let result = match test.obstacle() {
            Ok(None) => (test.run)(self),
            Ok(Some(why)) => Ok(Verdict::Ignored(why)),
            Err(error) => Err(error),
        };
        let seconds = started.elapsed().as_secs_f32();
        let title = format!("test {} ({}) ...", test.name, self.attach);
        match result {
            Ok(Verdict::Ran(report)) if report.is_empty() => println!("{title} ok ({seconds:.1}s)"),
            Ok(Verdict::Ran(report)) => {
                print!("{title} FAILED ({seconds:.1}s)\n{report}");
                return false;
            }
            Ok(Verdict::Ignored(why)) => println!("{title} ignored: {why}"),
            Err(error) => {
                let mut report = Report::default();
                report.add(format!("{error:#}"));
                print!("{title} FAILED ({seconds:.1}s)\n{report}");
                return false;
            }
        }
        true
    }

    /// The nstrace that tests share: all operations, as JSON.
    fn tracer(&mut self) -> Result<&Tracer> {
        // One that ended is of no use to the tests that follow.
        if self
            .tracer
            .as_ref()
            .is_some_and(|tracer| tracer.seen().has_ended())
        {
            self.tracer = None;
            self.loaded = None;
        }
        if self.tracer.is_none() {
            self.tracer = Some(Tracer::start(&self.words(&["--json"]))?);
        }
        match &self.tracer {
            Some(tracer) => Ok(tracer),
            None => bail!("no nstrace"),
        }
    }

    /// What a test that attaches nothing says instead of doing the same again.
    fn done_already(&self) -> Option<Verdict> {
        let why = "it attaches nothing, and has run already";
        self.is_again.then(|| Verdict::Ignored(why.to_owned()))
    }

    /// Arguments for nstrace, with our way of attaching before them.
    fn words<'a>(&self, args: &[&'a str]) -> Vec<&'a str> {
        [&["--attach", self.attach], args].concat()
    }

    /// A place for a book that is not there yet.
    fn new_book(&self, name: &str) -> PathBuf {
        let path = PathBuf::from(format!("/run/nstrace-{name}-{}.book", self.attach));
        // It is there only if the tests ran before.
        let _ = std::fs::remove_file(&path);
        path
    }

    /// The same, once more if nstrace said that something of it was skipped: of that,
    /// nothing can be told from this run.
    fn with_whole_book(&mut self, name: &str, args: &[&str]) -> Result<(usize, Contents)> {
        for _ in 0..2 {
            let (from, book) = self.with_book(name, args)?;
            if !may_skip(self.attach) || self.tracer()?.seen().lost(from).is_empty() {
                return Ok((from, book));
            }
        }
        self.with_book(name, args)
    }

    /// Runs an act that writes a book under the shared nstrace: where its lines
    /// begin, and the book.
    fn with_book(&mut self, name: &str, args: &[&str]) -> Result<(usize, Contents)> {
        let path = self.new_book(name);
        let tracer = self.tracer()?;
        tracer.catch_up()?;
        let from = tracer.mark();
        let shown = path.to_string_lossy();
        crate::act::perform(&[args, &["--book", &shown]].concat())?;
        let contents = book::read(&path)?;
        tracer.catch_up()?;
        Ok((from, contents))
    }
}

/// Whether the kernel may skip a program of nstrace now and then, so that operations
/// are counted as lost and stages are missing. It skips one that is running on that CPU
/// already: in another task, where a task can be preempted in the kernel (v6.12
/// kernel/bpf/trampoline.c, __bpf_prog_enter_recur). And a kretprobe has only so many
/// instances. Where neither is so, nothing may be lost.
fn may_skip(attach: &str) -> bool {
    let preempt = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    let preemptible = ["(full)", "(lazy)"]
        .iter()
        .any(|model| preempt.contains(model));
    attach == "kprobe" || preemptible
}

/// Of so many, how many may be missed without a word where the kernel may skip programs:
/// what was to count them can be skipped too, and before v6.7 it does not count the
/// kprobes that it skips (bpf_prog_inc_misses_counters of kernel/trace/bpf_trace.c).
fn uncounted(all: u64) -> u64 {
    all / 100
}

/// Reports lines that are not as promised.
fn check_form(seen: &Seen, from: usize, report: &mut Report) -> Skipped {
    for wrong in seen.wrong.iter().chain(&seen.text) {
        report.add(format!("not a line of docs/json.md: {wrong}"));
    }
    let mut skipped = Skipped::default();
    for lost in seen.lost(from) {
        match lost.record.as_str() {
            "op" => skipped.ops += lost.count,
            "ns_death" => skipped.deaths += lost.count,
            _ => report.add(format!("lost {} of {}", lost.count, lost.record)),
        }
    }
    skipped
}

/// What nstrace said it lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skipped {
    pub ops: u64,
    pub deaths: u64,
}

/// Reports lines that are not as promised, and losses where there may be none.
fn check_lines(seen: &Seen, from: usize, attach: &str, report: &mut Report) {
    check_form(seen, from, report);
    if !may_skip(attach) {
        // A death in an interrupt that came while another was told is skipped on any
        // kernel, and counted.
        let lost = seen.lost(from);
        for lost in lost.iter().filter(|lost| lost.record != "ns_death") {
            report.add(format!("lost {} of {}", lost.count, lost.record));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_those_of_tests() {
        for (name, _) in MODULES {
            assert!(TESTS.iter().any(|test| test.name == *name), "{name}");
        }
    }
}
