//! `nstrace record`, read again by `tail --from`: what is replayed is what was done, and the
//! same as a tail beside it printed.

use std::time::Duration;

use anyhow::Result;

use super::{Suite, Verdict, check_form, failures, may_skip};
use crate::book::Contents;
use crate::harness::compare;
use crate::harness::line::{Op, Task};
use crate::harness::report::Report;
use crate::harness::tracer::{self, Tracer};
use crate::harness::watch;

const PATIENCE: Duration = Duration::from_secs(60);

/// Known operations, and each failure that can be provoked, with its reason.
pub fn tail(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let seed = suite.args.seed.to_string();
    let load = ["load", "--workers", "4", "--ops", "400", "--seed", &seed];
    let own = recorded(suite, "load", &load, &mut report)?;
    compare::operations(&own.book, &own.replayed, own.lost, &mut report);
    let (new, exits) = &own.tasks;
    let skipped = may_skip(suite.attach).then_some(own.skipped);
    compare::tasks(&own.book, new, exits, skipped, &mut report);
    let own = recorded(suite, "failures", &["act", "failures"], &mut report)?;
    if own.lost.unwrap_or(0) == 0 {
        failures::compare_all(&own.book, &own.replayed, &mut report);
    }
    Ok(Verdict::Ran(report))
}

/// What was done while it was recorded.
struct Recorded {
    book: Contents,
    replayed: Vec<Op>,
    /// New tasks and ends of tasks.
    tasks: (Vec<Task>, Vec<Task>),
    /// Where operations may be lost, how many were.
    lost: Option<u64>,
    /// How many runs of its probes the kernel skipped, as it was said at the end.
    skipped: usize,
}

/// Records an act that writes a book.
fn recorded(suite: &mut Suite, name: &str, act: &[&str], report: &mut Report) -> Result<Recorded> {
    let file = format!("/run/nstrace-tail-{name}-{}.nst", suite.attach);
    let words = suite.words(&["-o", &file]);
    let recorder = Tracer::start(&[&["record"], &words[..]].concat())?;
    let (from, book) = suite.with_book(&format!("recorded-{name}"), act)?;
    let ended = recorder.stop(libc::SIGINT)?;
    report.same("exit code of record", ended.code(), 0);
    let said = ended.seen.stderr.iter().find_map(|line| {
        let (count, _) = line.split_once(" skipped ")?.1.split_once(' ')?;
        count.parse().ok()
    });
    let replay = Tracer::spawn(tracer::nstrace(&["--json", "--from", &file]))?.finish()?;
    report.same("exit code of tail", replay.code(), 0);
    let may_skip = may_skip(suite.attach);
    let live = suite.tracer()?.seen();
    let skipped = [
        check_form(&replay.seen, 0, &mut Report::default()),
        check_form(&live, from, &mut Report::default()),
    ];
    // What nstrace itself does to look at the machine is told, too.
    let mut replayed = replay.seen.ops_of_others(0);
    replayed.retain(|op| op.comm != "nstrace");
    if skipped.iter().all(|skipped| skipped.ops == 0) {
        let (replayed, live) = (all(&replayed), all(&live.ops_of_others(from)));
        for (told, others, who) in [(&replayed, &live, "tail"), (&live, &replayed, "record")] {
            let is_told = |op: &Told| others.iter().any(|other| op.is_as(other, may_skip));
            for op in told.iter().filter(|op| !is_told(op)) {
                report.add(format!("{name}: not told by {who}: {op:?}"));
            }
        }
    }
    drop(live);
    let text = watch::run(&["--from", &file], PATIENCE)?;
    let lines = text.stdout.iter().skip(1);
    let wrong = lines.filter(|line| !line.starts_with(' ') && !line.starts_with(char::is_numeric));
    report.same("lines of text without a time", wrong.count(), 0);
    std::fs::remove_file(&file)?;
    let lost = may_skip.then_some(skipped[0].ops);
    let skipped = said.unwrap_or(0);
    Ok(Recorded {
        book,
        replayed,
        tasks: replay.seen.tasks(0),
        lost,
        skipped,
    })
}

/// What must be the same of two tracers' lines.
#[derive(Debug)]
struct Told {
    what: String,
    /// The stage that failed, and why.
    failed: (Option<String>, Option<String>),
}

impl Told {
    /// Whether another tells the same. Where the kernel may skip a program, one of the two may
    /// not know the stage.
    fn is_as(&self, other: &Told, may_skip: bool) -> bool {
        let skips = |told: &Told| may_skip && told.failed.0.is_none();
        self.what == other.what && (self.failed == other.failed || skips(self) || skips(other))
    }
}

fn all(ops: &[Op]) -> Vec<Told> {
    let told = |op: &Op| {
        let Op {
            pid,
            tid,
            op,
            flags,
            ret,
            errno,
            failed_stage,
            reason,
            before,
            after,
            pids,
            ..
        } = op;
        // Which limit it was each asks the machine at its own time.
        let is_limit = errno.as_deref() == Some("EAGAIN");
        let reason = reason.clone().filter(|_| !is_limit);
        Told {
            what: format!(
                "{pid} {tid} {op} {flags:?} {ret:?} {errno:?} {before:?} {after:?} {pids:?}"
            ),
            failed: (failed_stage.clone(), reason),
        }
    };
    let of_others = ops.iter().filter(|op| op.comm != "nstrace");
    of_others.map(told).collect()
}
