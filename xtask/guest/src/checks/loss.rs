//! A ring of one page and a storm: what was reported and what was lost are
//! together what was done, exactly.

use anyhow::{Context, Result};

use super::{Suite, Verdict, may_skip, uncounted};
use crate::act;
use crate::harness::report::Report;
use crate::harness::tracer::{Ended, Tracer};
use crate::sys;

const OPS: &str = "2000";

/// Runs the storm, during one half of which nstrace stands still: then there must
/// be losses.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let tracer = Tracer::start(&suite.words(&["--json", "--ring-size", "4096"]))?;
    let mut done = storm()?;
    sys::kill(i64::from(tracer.pid()), libc::SIGSTOP)?;
    let stood_still = storm();
    sys::kill(i64::from(tracer.pid()), libc::SIGCONT)?;
    done += stood_still?;
    let ended = tracer.stop(libc::SIGINT)?;
    let mut report = Report::default();
    let unknown = match may_skip(suite.attach) {
        true => uncounted(done),
        false => 0,
    };
    check(done, unknown, &ended, &mut report);
    Ok(Verdict::Ran(report))
}

fn storm() -> Result<u64> {
    let done = act::perform(&["act", "storm", "--ops", OPS])?;
    done.trim()
        .parse()
        .with_context(|| format!("the storm says {done:?}"))
}

fn check(done: u64, unknown: u64, ended: &Ended, report: &mut Report) {
    let seen = &ended.seen;
    for wrong in &seen.wrong {
        report.add(format!("not a line of docs/json.md: {wrong}"));
    }
    let ops = seen.ops(0).len() as u64;
    let lost = seen.lost(0);
    let lost_ops: u64 = lost
        .iter()
        .filter(|lost| lost.record == "op")
        .map(|lost| lost.count)
        .sum();
    report.check(lost_ops > 0, || {
        format!("nothing lost of {done}: this proves nothing")
    });
    let told = format!("{ops} reported + {lost_ops} lost");
    report.check((done - unknown..=done).contains(&(ops + lost_ops)), || {
        format!("{told}, but {done} done")
    });
    let lost_all: u64 = lost.iter().map(|lost| lost.count).sum();
    match seen.summary() {
        Some([summary_ops, _, summary_lost]) => {
            report.same("operations in the summary", summary_ops, ops);
            report.check([lost_ops, lost_all].contains(&summary_lost), || {
                format!("{summary_lost} lost in the summary, {lost_all} ({lost_ops} ops) in lines")
            });
        }
        None => report.add(format!("no summary: {:?}", seen.stderr)),
    }
    report.same("exit code", ended.code(), 0);
}
