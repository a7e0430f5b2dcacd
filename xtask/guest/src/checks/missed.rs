//! An operation whose end the kernel did not tell is counted, if it was asked for, and nothing
//! else is told as its end.

use anyhow::Result;

use super::{Suite, Verdict, may_skip};
use crate::act::{self, missed::COPIER, missed::Copy};
use crate::book::{self, Entry};
use crate::harness::compare;
use crate::harness::line::{Line, Mount};
use crate::harness::report::Report;
use crate::harness::tracer::Tracer;
use crate::kinds::NEWUTS;

/// Filters, and what of the book passes them.
type Filter = (&'static [&'static str], fn(&Entry) -> bool);

const FILTERS: [Filter; 3] = [
    (&[], |_| true),
    (&["--kind", "uts"], |entry| entry.flags & NEWUTS != 0),
    (&["--op", "clone"], |entry| entry.op == "clone"),
];

/// Clones that fail where the kernel has no kretprobe for them, with and without filters.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    for (words, passes) in FILTERS {
        let mut part = Report::default();
        filtered(suite, words, passes, &mut part)?;
        report.append(&words.join(" "), part);
    }
    // By fentry no end is missed, but where programs are skipped: a loss of another sort.
    if suite.attach == "kprobe" {
        copies(suite, &mut report)?;
    }
    Ok(Verdict::Ran(report))
}

fn filtered(
    suite: &Suite,
    words: &[&str],
    passes: fn(&Entry) -> bool,
    report: &mut Report,
) -> Result<()> {
    let tracer = Tracer::start(&suite.words(&[&["--json"], words].concat()))?;
    let path = suite.new_book("missed");
    act::perform(&["act", "missed", "--book", &path.to_string_lossy()])?;
    let ended = tracer.stop(libc::SIGINT)?;
    report.same("exit code", ended.code(), 0);
    let mut book = book::read(&path)?;
    book.ops.retain(passes);
    let all_lost = ended.seen.lost(0);
    let lost_ops = all_lost.iter().filter(|lost| lost.record == "op");
    let lost = lost_ops.map(|lost| lost.count).sum();
    if suite.attach == "kprobe" {
        let failures = book.ops.iter().filter(|entry| entry.ret < 0).count();
        report.same("clones that failed and are lost", lost, failures as u64);
    }
    let lost = may_skip(suite.attach).then_some(lost);
    compare::operations(&book, &ended.seen.ops_of_others(0), lost, report);
    Ok(())
}

/// Copies of mount namespaces: each is told as long as it was, or counted.
fn copies(suite: &Suite, report: &mut Report) -> Result<()> {
    let tracer = Tracer::start(&suite.words(&["--json", "--mounts"]))?;
    let dir = format!("/run/nstrace-copies-{}", suite.attach);
    let done = act::perform(&["act", "missed-copies", "--dir", &dir])?;
    let done = done.lines().map(serde_json::from_str);
    let done: Vec<Copy> = done.collect::<Result<_, _>>()?;
    let ended = tracer.stop(libc::SIGINT)?;
    report.same("exit code with --mounts", ended.code(), 0);
    let is_told = |line: &Line| match line {
        Line::Mount(mount) if mount.op == "copy_mnt_ns" && mount.comm == COPIER => {
            Some((**mount).clone())
        }
        _ => None,
    };
    let told: Vec<Mount> = ended.seen.lines.iter().filter_map(is_told).collect();
    for copy in &told {
        let until = copy.mono_ns + copy.took_ns;
        let is_done = done.iter().any(|done| {
            done.tid == copy.tid && done.begin_ns <= copy.mono_ns && until <= done.end_ns
        });
        report.check(is_done, || {
            format!("a copy that was not made, or not until then: {copy:?}")
        });
    }
    let lost = ended.seen.lost(0);
    let lost = lost.iter().filter(|lost| lost.record == "mount");
    let lost: u64 = lost.map(|lost| lost.count).sum();
    let known = told.len() as u64 + lost;
    report.same("copies that are told or lost", known, done.len() as u64);
    Ok(())
}
