//! What people run: ip netns, unshare, nsenter. lsns and /proc say what is right.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Suite, Verdict};
use crate::harness::line::{Op, PidAt};
use crate::harness::report::Report;
use crate::kinds::{self, KINDS, MNT, NET, NEWNET, NEWNS, NEWPID, NEWUSER, NEWUTS, PID, USER, UTS};
use crate::procfs::inum_of_link;
use crate::sys;

/// How long a worker may take to free a namespace.
const DEATH_DELAY: Duration = Duration::from_secs(20);

/// All of them, under the shared nstrace.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    netns(suite, &mut report).context("ip netns")?;
    unshare(suite, &mut report).context("unshare -Urpf")?;
    nsenter(suite, &mut report).context("nsenter")?;
    Ok(Verdict::Ran(report))
}

fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "{program} {}: {}: {}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The operations of commands of that name since a mark.
fn ops(suite: &mut Suite, from: usize, comm: &str) -> Result<Vec<Op>> {
    let tracer = suite.tracer()?;
    tracer.catch_up()?;
    let ops = tracer.seen().ops(from);
    Ok(ops.into_iter().filter(|op| op.comm == comm).collect())
}

fn netns(suite: &mut Suite, report: &mut Report) -> Result<()> {
    let from = suite.tracer()?.mark();
    output("ip", &["netns", "add", "nstrace-a"])?;
    let inum = sys::inode(&File::open("/run/netns/nstrace-a")?)? as u32;
    output("ip", &["netns", "del", "nstrace-a"])?;
    // It goes back by setns.
    let mut made = ops(suite, from, "ip")?;
    made.retain(|op| op.op == "unshare" && op.flags_raw == NEWNET);
    report.same("ip netns add: unshare(NEWNET)", made.len(), 1);
    for op in &made {
        report.same("ip netns add: net after", op.after[NET], inum);
    }
    let tracer = suite.tracer()?;
    // A worker frees it.
    let died = tracer.wait_for(DEATH_DELAY, |seen| {
        seen.lives(from).1.iter().any(|life| life.inum == inum)
    });
    report.check(died.is_ok(), || {
        format!("no ns_death of net:{inum} after ip netns del")
    });
    Ok(())
}

fn unshare(suite: &mut Suite, report: &mut Report) -> Result<()> {
    let from = suite.tracer()?.mark();
    let script = "for kind in user mnt pid; do readlink /proc/self/ns/$kind; done";
    let words = ["-Urpf", "--mount-proc", "sh", "-c", script];
    let said = output("unshare", &words)?;
    let said: Vec<u32> = said.lines().filter_map(inum_of_link).collect();
    ensure!(said.len() == 3, "it printed {said:?}");
    let ops = ops(suite, from, "unshare")?;
    let made = |kind: usize| {
        let op = ops
            .iter()
            .find(|op| op.op == "unshare" && op.flags_raw & KINDS[kind].flag != 0);
        op.map(|op| op.after[kind])
    };
    report.same("unshare -U: user after", made(USER), Some(said[0]));
    report.same("unshare --mount-proc: mnt after", made(MNT), Some(said[1]));
    report.same("unshare -p: pid after", made(PID), Some(said[2]));
    let flags = ops
        .iter()
        .filter(|op| op.op == "unshare")
        .fold(0, |all, op| all | op.flags_raw);
    report.same(
        "unshare -Urpf --mount-proc: flags",
        flags,
        NEWUSER | NEWNS | NEWPID,
    );
    let (new, _) = suite.tracer()?.seen().tasks(from);
    let first = new.iter().find(|task| {
        task.pids.last()
            == Some(&PidAt {
                ns: said[2],
                pid: 1,
            })
    });
    report.check(first.is_some(), || {
        format!("no task_new of pid 1 in pid:{}", said[2])
    });
    Ok(())
}

fn nsenter(suite: &mut Suite, report: &mut Report) -> Result<()> {
    // It prints when its namespaces are there, and stays until its stdin ends.
    let mut command = Command::new("unshare");
    command.args(["-umn", "sh", "-c", "echo $$; read line"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let pid = BufReader::new(stdout)
        .lines()
        .next()
        .context("no unshare")??;
    let lsns = output("lsns", &["-n", "-o", "TYPE,NS", "-p", &pid])?;
    let from = suite.tracer()?.mark();
    let entered = output("nsenter", &["-t", &pid, "-u", "-m", "-n", "true"]);
    child.stdin.take().context("no stdin")?.write_all(b"\n")?;
    child.wait()?;
    entered?;
    let ops = ops(suite, from, "nsenter")?;
    let entered: u64 = ops.iter().fold(0, |all, op| all | op.flags_raw);
    report.same("nsenter: kinds", entered, NEWNS | NEWUTS | NEWNET);
    for kind in [MNT, UTS, NET] {
        let listed = lsns_inum(&lsns, KINDS[kind].name);
        let reached = ops.last().map(|op| op.after[kind]);
        report.same(
            format!("nsenter: {} after", KINDS[kind].name),
            reached,
            listed,
        );
        let target = ops.iter().find(|op| op.flags_raw == KINDS[kind].flag);
        if let Some(op) = target {
            report.same(
                format!("nsenter: target {}", KINDS[kind].name),
                op.target,
                listed,
            );
        }
    }
    Ok(())
}

/// The number of a kind in `lsns -n -o TYPE,NS`.
fn lsns_inum(text: &str, kind: &str) -> Option<u32> {
    debug_assert!(kinds::index(kind).is_some());
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(kind))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_is_read() {
        let text = "time   4026531834\nmnt    4026532221\n";
        assert_eq!(lsns_inum(text, "mnt"), Some(4026532221));
        assert_eq!(lsns_inum(text, "net"), None);
    }
}
