//! Beginnings and ends of nstrace as a program: its exit codes, and that nothing
//! of it stays in the kernel.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Suite, Verdict, may_skip, uncounted};
use crate::act;
use crate::harness::line::Op;
use crate::harness::report::Report;
use crate::harness::tracer::{Ended, Seen, Tracer, nstrace};

/// The kernel detaches what a closed descriptor held a moment later.
const DETACH_DELAY: Duration = Duration::from_secs(10);

/// An ordinary user.
const USER_ID: u32 = 1000;

/// What is attached to functions or pinned, as the kernel lists it.
fn attached() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for list in [
        "/sys/kernel/debug/kprobes/list",
        "/sys/kernel/tracing/enabled_functions",
    ] {
        let text = fs::read_to_string(list).with_context(|| list)?;
        all.extend(text.lines().map(|line| format!("{list}: {line}")));
    }
    for entry in fs::read_dir("/sys/fs/bpf")? {
        all.push(entry?.path().display().to_string());
    }
    Ok(all)
}

/// Nothing may be left of a nstrace that has ended.
fn check_detached(report: &mut Report) -> Result<()> {
    let deadline = Instant::now() + DETACH_DELAY;
    loop {
        let left = attached()?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            for one in left.iter().take(3) {
                report.add(format!("still there: {one}"));
            }
            return Ok(());
        }
        std::thread::yield_now();
    }
}

fn check_summary(ended: &Ended, report: &mut Report) {
    let ops = ended.seen.ops(0);
    let failed = ops.iter().filter(|op| op.errno.is_some()).count();
    let lost = ended.seen.lost(0);
    let lost = lost.iter().filter(|lost| lost.record == "op");
    let lost = lost.map(|lost| lost.count).sum();
    let counted = [ops.len() as u64, failed as u64, lost];
    report.same("summary on stderr", ended.seen.summary(), Some(counted));
}

/// SIGINT ends the nstrace that the tests before shared.
pub fn sigint(suite: &mut Suite) -> Result<Verdict> {
    suite.tracer()?.catch_up()?;
    let mut report = Report::default();
    report.check(!attached()?.is_empty(), || {
        "nothing attached while it runs".to_owned()
    });
    let ended = suite
        .tracer
        .take()
        .context("no nstrace")?
        .stop(libc::SIGINT)?;
    suite.loaded = None;
    report.same("exit code", ended.code(), 0);
    check_summary(&ended, &mut report);
    check_detached(&mut report)?;
    Ok(Verdict::Ran(report))
}

/// SIGINT in the middle of a storm: what is shown is whole, though the programs are
/// detached one after the other, and what came later is not counted as lost.
pub fn in_a_storm(suite: &mut Suite) -> Result<Verdict> {
    let tracer = Tracer::start(&suite.words(&["--json"]))?;
    let words = ["--ops", "1000000", "--processes", "1", "--pause-us", "1000"];
    let mut storm = act::start(&[&["act", "storm"], &words[..]].concat())?;
    let enough = |seen: &mut Seen| seen.ops(0).len() >= 300;
    let waited = tracer.wait_for(Duration::from_secs(30), enough);
    let ended = tracer.stop(libc::SIGINT);
    storm.kill()?;
    storm.wait()?;
    waited?;
    let ended = ended?;
    let mut report = Report::default();
    report.same("exit code", ended.code(), 0);
    check_summary(&ended, &mut report);
    let ops = ended.seen.ops(0);
    let last_stage = |op: &Op| op.stages.last().map(|stage| stage.stage.clone());
    let is_cut = |op: &&Op| match op.op.as_str() {
        "clone" => last_stage(op).as_deref() != Some("alloc_pid"),
        _ => last_stage(op).as_deref() != Some("switch_task_namespaces"),
    };
    let cut = ops.iter().filter(is_cut).count();
    if may_skip(suite.attach) {
        let few = uncounted(ops.len() as u64) as usize;
        report.check(cut <= few, || {
            format!("{cut} of {} lack a stage", ops.len())
        });
    } else {
        report.same("operations that lack a stage", cut, 0);
        report.check(ended.seen.lost(0).is_empty(), || {
            format!("lost: {:?}", ended.seen.lost(0))
        });
    }
    check_detached(&mut report)?;
    Ok(Verdict::Ran(report))
}

/// `-- COMMAND`: its descendants only, and its status.
pub fn commands(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    follow(suite, &mut report)?;
    let killed = ["--json", "--", "sh", "-c", "kill -9 $$"];
    let ended = Tracer::spawn(nstrace(&suite.words(&killed)))?.finish()?;
    report.same("a command that a signal kills", ended.code(), 137);
    let missing = ["--json", "--", "/nonexistent/program"];
    let ended = Tracer::spawn(nstrace(&suite.words(&missing)))?.finish()?;
    report.same("a command that is not there", ended.code(), 127);
    check_detached(&mut report)?;
    Ok(Verdict::Ran(report))
}

fn follow(suite: &Suite, report: &mut Report) -> Result<()> {
    let fifo = "/run/nstrace-fifo";
    if !fs::exists(fifo)? {
        ensure!(
            Command::new("mkfifo").arg(fifo).status()?.success(),
            "{fifo}: cannot make"
        );
    }
    let script = format!("read line <{fifo}; unshare -u true; exit 7");
    let words = ["--json", "--", "sh", "-c", &script];
    let tracer = Tracer::start(&suite.words(&words))?;
    let other = act::marker()?;
    fs::write(fifo, "go\n")?;
    let ended = tracer.finish()?;
    report.same("exit code of sh -c 'exit 7'", ended.code(), 7);
    let ops = ended.seen.ops(0);
    report.check(ops.iter().all(|op| op.tid != other), || {
        "an operation of another process is shown".to_owned()
    });
    let names: Vec<(&str, &str)> = ops
        .iter()
        .map(|op| (op.comm.as_str(), op.op.as_str()))
        .collect();
    report.same(
        "what is shown of the command",
        names,
        vec![("unshare", "unshare")],
    );
    Ok(())
}

/// Wrong words, and no rights.
pub fn refusals(_: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    for words in [
        &["--nonsense"][..],
        &["--kind", "nonsense"],
        &["--op", "nonsense"],
    ] {
        let ended = Tracer::spawn(nstrace(words))?.finish()?;
        report.same(
            format!("exit code of nstrace {}", words.join(" ")),
            ended.code(),
            2,
        );
    }
    let mut command = nstrace(&[]);
    command.uid(USER_ID).gid(USER_ID);
    let ended = Tracer::spawn(command)?.finish()?;
    report.same("exit code of nstrace as a user", ended.code(), 1);
    report.check(ended.seen.stderr.len() == 1, || {
        format!("not one line for a user, but {:?}", ended.seen.stderr)
    });
    Ok(Verdict::Ran(report))
}

/// A reader that goes, as in `nstrace | head -1`, is no error.
pub fn closed_pipe(suite: &mut Suite) -> Result<Verdict> {
    let mut command = nstrace(&suite.words(&["--json"]));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take().context("no stderr")?;
    let mut said = BufReader::new(stderr).lines();
    let is_ready = |line: std::io::Result<String>| line.is_ok_and(|line| line.contains("ready"));
    ensure!(said.by_ref().any(is_ready), "nstrace was not ready");
    act::marker()?;
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    stdout.read_line(&mut String::new())?;
    drop(stdout);
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        // Each writes to the pipe that nobody reads.
        act::marker()?;
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                bail!("it does not end when nobody reads");
            }
            None => {}
        }
    };
    let mut report = Report::default();
    report.same("exit code", status.code(), Some(0));
    for line in said.map_while(Result::ok).filter(|line| !is_summary(line)) {
        report.add(format!("on stderr: {line}"));
    }
    check_detached(&mut report)?;
    Ok(Verdict::Ran(report))
}

fn is_summary(line: &str) -> bool {
    line.contains(" operation")
}

/// A second one beside the first: both see everything. SIGTERM ends one.
pub fn two_at_once(suite: &mut Suite) -> Result<Verdict> {
    let words = suite.words(&["--json"]);
    let (first, second) = (Tracer::start(&words)?, Tracer::start(&words)?);
    first.catch_up()?;
    second.catch_up()?;
    let mut report = Report::default();
    for (name, signal, tracer) in [
        ("SIGTERM", libc::SIGTERM, first),
        ("SIGINT", libc::SIGINT, second),
    ] {
        let ended = tracer.stop(signal)?;
        report.same(format!("exit code after {name}"), ended.code(), 0);
        report.same(
            format!("operations seen until {name}"),
            ended.seen.ops(0).len(),
            2,
        );
        check_summary(&ended, &mut report);
    }
    check_detached(&mut report)?;
    Ok(Verdict::Ran(report))
}
