//! An operation that hangs is told while it hangs.

use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Suite, Verdict};
use crate::act;
use crate::harness::line::Op;
use crate::harness::report::Report;
use crate::harness::tracer::Tracer;
use crate::kinds;

/// NEWUTS, NEWIPC and PIDFD.
const FLAGS: u64 = kinds::NEWUTS | kinds::NEWIPC | kinds::PIDFD;

/// Two reports of a stall of a second each, and some delay.
const PATIENCE: Duration = Duration::from_secs(20);

/// Hangs a clone until nstrace has reported it twice.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let tracer = Tracer::start(&suite.words(&["--json", "--stall", "1s"]))?;
    let mut hang = act::start(&["act", "hang"])?;
    let mut lines = BufReader::new(hang.stdout.take().context("no stdout")?).lines();
    let tid: u32 = lines.next().context("nothing hangs")??.parse()?;
    let stalls = |tracer: &Tracer| -> Vec<Op> {
        let all = tracer.seen().stalls(0);
        all.into_iter().filter(|stall| stall.tid == tid).collect()
    };
    let told_twice = tracer.wait_for(PATIENCE, |seen| {
        seen.stalls(0)
            .iter()
            .filter(|stall| stall.tid == tid)
            .count()
            >= 2
    });
    let while_it_hung = stalls(&tracer);
    let mut stdin = hang.stdin.take().context("no stdin")?;
    stdin.write_all(b"\n")?;
    let ret: i64 = lines.next().context("it hangs for ever")??.parse()?;
    hang.wait()?;
    tracer.catch_up()?;
    let ops = tracer.seen().ops(0);
    tracer.stop(libc::SIGINT)?;
    let mut report = Report::default();
    if let Err(error) = told_twice {
        report.add(format!("two stall lines of thread {tid}: {error:#}"));
    }
    check_stalls(&while_it_hung, &mut report);
    let done: Vec<&Op> = ops.iter().filter(|op| op.tid == tid).collect();
    report.same("lines when it had ended", done.len(), 1);
    for op in done {
        report.same("ret", op.ret, Some(ret));
        let longest = while_it_hung.iter().map(|stall| stall.took_ns).max();
        report.check(Some(op.took_ns) >= longest, || {
            format!(
                "took {} ns, less than while it hung: {longest:?}",
                op.took_ns
            )
        });
    }
    Ok(Verdict::Ran(report))
}

fn check_stalls(stalls: &[Op], report: &mut Report) {
    for stall in stalls {
        report.same("op of the stall", stall.op.as_str(), "clone3");
        report.same("comm of the stall", stall.comm.as_str(), "hang");
        report.same("flags_raw of the stall", stall.flags_raw, FLAGS);
        let mut flags = stall.flags.clone();
        flags.sort();
        report.same("flags of the stall", flags, kinds::flag_names(FLAGS));
        report.same("ret of the stall", stall.ret, None);
        report.same(
            "stage and its length",
            stall.stage.is_some(),
            stall.stage_took_ns.is_some(),
        );
        report.check(stall.took_ns >= 1_000_000_000, || {
            format!("a stall after {} ns only", stall.took_ns)
        });
    }
    let grows = stalls
        .windows(2)
        .all(|pair| pair[0].took_ns < pair[1].took_ns);
    report.check(grows, || {
        "took_ns does not grow from stall to stall".to_owned()
    });
}
