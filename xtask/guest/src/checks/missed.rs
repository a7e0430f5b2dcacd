//! An operation whose end the kernel did not tell is counted, and nothing else is told as its
//! end.

use anyhow::Result;

use super::{Suite, Verdict, may_skip};
use crate::harness::compare;
use crate::harness::report::Report;

/// Clones that fail where the kernel has no kretprobe for them.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let attach = suite.attach;
    let (from, book) = suite.with_book("missed", &["act", "missed"])?;
    let mut report = Report::default();
    let seen = suite.tracer()?.seen();
    let ops = seen.ops_of_others(from);
    let all_lost = seen.lost(from);
    let lost_ops = all_lost.iter().filter(|lost| lost.record == "op");
    let lost = lost_ops.map(|lost| lost.count).sum();
    if attach == "kprobe" {
        let failures = book.ops.iter().filter(|entry| entry.ret < 0).count();
        report.same("clones that failed and are lost", lost, failures as u64);
    }
    let lost = may_skip(attach).then_some(lost);
    compare::operations(&book, &ops, lost, &mut report);
    Ok(Verdict::Ran(report))
}
