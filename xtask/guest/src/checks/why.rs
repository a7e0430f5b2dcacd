//! `nstrace why`: it names whatever keeps a namespace alive, each sort of holder alone;
//! and it says so if there is no such namespace, or no right to look.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Suite, Verdict, reuse};
use crate::act::{
    self,
    holders::{HARD, SORTS, Sort},
};
use crate::harness::report::Report;
use crate::harness::tree;
use crate::harness::watch::{self, Watch};
use crate::harness::{against, tracer};
use crate::left::{By, Left};
use crate::procfs::{self, Procfs};

const PATIENCE: Duration = Duration::from_secs(30);

/// An ordinary user.
const USER_ID: u32 = 1000;

/// A running `act holders`.
struct Holders {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Holders {
    fn start() -> Result<Self> {
        let mut child = act::start(&["act", "holders", "--dir", "/run/nstrace-holders"])?;
        let stdout = child.stdout.take().context("no stdout")?;
        let lines = BufReader::new(stdout).lines();
        Ok(Holders { child, lines })
    }

    fn ask(&mut self, word: &str) -> Result<Vec<Left>> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(format!("{word}\n").as_bytes())?;
        let line = self.lines.next().context("the holders broke off")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        // With its stdin it lets go of everything and ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Each sort of holder, alone.
pub fn holders(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let mut holders = Holders::start()?;
    let watch = reuse::watch(suite)?;
    for (name, sort) in SORTS.into_iter().chain(HARD) {
        let lines = holders.ask(&format!("make {name}"))?;
        let mut own = Report::default();
        let left = lines.first().context("nothing is held")?;
        // Nobody can learn its number: there is nothing to ask for.
        let asked = match left.inum {
            Some(inum) => ask(left, inum, out_of_sight(sort), &mut own),
            None => Ok(()),
        };
        holders.ask("drop")?;
        asked?;
        if let Some(inum) = left.inum
            && let Err(error) = reuse::wait_for_deaths(&watch, &left.kind, inum, 1)
        {
            own.add(format!("{error:#}"));
        }
        report.append(name, own);
    }
    watch.signal(libc::SIGINT)?;
    watch.finish(reuse::START)?;
    Ok(Verdict::Ran(report))
}

/// What one look may not be able to see, as the tree counts it.
fn out_of_sight(sort: Sort) -> Option<&'static str> {
    match sort {
        // Which pid namespace an instance of proc is for.
        Sort::Proc => Some("procs"),
        // The descriptors of a thread, before v6.9 (kernel/fork.c, PIDFD_THREAD).
        Sort::ThreadSocket => Some("sockets"),
        _ => None,
    }
}

fn ask(left: &Left, inum: u32, unseen: Option<&str>, report: &mut Report) -> Result<()> {
    let name = format!("{}:{inum}", left.kind);
    let ended = watch::run(&["why", &name, "--json"], PATIENCE)?;
    let tree = match tree::parse(&ended.stdout) {
        Ok(tree) => tree,
        Err(error) => {
            report.add(format!("{error:#}"));
            return Ok(());
        }
    };
    let counts = tree.header.as_ref().map(|header| &header.unseen);
    if unseen.is_some_and(|sort| says_unseen(sort, counts, &ended.stderr)) {
        return Ok(());
    }
    report.same("exit code", ended.code, Some(0));
    report.check(against::is_named(&tree, left), || {
        let (said, stderr) = (ended.stdout.join(" "), ended.stderr.join("; "));
        format!("{name}: {:?} is not named in {said}; {stderr}", left.by)
    });
    let ended = watch::run(&["why", &name], PATIENCE)?;
    report.same("exit code of the text", ended.code, Some(0));
    let text = ended.stdout.join("\n");
    let missing: Vec<String> = words(&left.by)
        .into_iter()
        .filter(|word| !text.contains(word))
        .collect();
    report.check(missing.is_empty(), || {
        format!("{name}: the text has no {missing:?}: {text}")
    });
    Ok(())
}

/// Whether it was counted, or a line says so.
fn says_unseen(sort: &str, counts: Option<&BTreeMap<String, u64>>, stderr: &[String]) -> bool {
    let word = sort.trim_end_matches('s');
    counts.is_some_and(|counts| counts.contains_key(sort))
        || stderr.iter().any(|line| line.contains(word))
}

/// What the text must have.
fn words(by: &By) -> Vec<String> {
    match by {
        By::Task { tid } | By::PidForChildren { tid } | By::TimeForChildren { tid } => {
            vec![tid.to_string()]
        }
        By::Descriptor { pid, fd } | By::Socket { pid, fd } => {
            vec![pid.to_string(), fd.to_string()]
        }
        By::Mount { path, .. } | By::Proc { path, .. } => vec![path.clone()],
        By::Below { below_kind, below } => vec![format!("{below_kind}:{below}")],
    }
}

/// What is not there, and what may not be looked at.
pub fn absent(_: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let asked: [&[&str]; 4] = [
        &["why", "mnt:1"],
        &["why", "999999"],
        &["tree", "--pid", "999999"],
        &["tree", "--container", "nowhere"],
    ];
    for words in asked {
        let (shown, name) = (words.join(" "), words[words.len() - 1]);
        let ended = watch::run(words, PATIENCE)?;
        report.same(format!("exit code of {shown}"), ended.code, Some(1));
        let is_one = ended.stderr.len() == 1 && ended.stderr[0].contains(name);
        report.check(is_one, || {
            format!("{shown}: not one line about it: {:?}", ended.stderr)
        });
        report.same(format!("stdout of {shown}"), ended.stdout, Vec::new());
    }
    let link = Procfs::open()?.link("1/ns/mnt")?;
    let inum = procfs::inum_of_link(&link).context("a link of another form")?;
    let mut command = tracer::nstrace(&["why", &format!("mnt:{inum}")]);
    command.uid(USER_ID).gid(USER_ID);
    let ended = Watch::spawn(command)?.finish(PATIENCE)?;
    let said = ended.stderr.join("; ");
    let words = ["ermission", "root", "CAP_", "privilege", "allowed"];
    report.check(words.iter().any(|word| said.contains(word)), || {
        format!("no word about rights, exit code {:?}: {said}", ended.code)
    });
    Ok(Verdict::Ran(report))
}

/// Where only a part of the machine is seen: one line says so and why, and what is seen is
/// shown all the same.
pub fn part(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let hidden = "mount -o remount,hidepid=2 /proc && exec setpriv --reuid 1000 --regid 1000 \
                  --clear-groups nstrace tree --json";
    let cases = [
        ("hidepid", vec!["-m", "sh", "-c", hidden], "hidepid"),
        (
            "a pid namespace",
            vec!["-p", "-f", "--mount-proc", "nstrace", "tree", "--json"],
            "pid namespace",
        ),
    ];
    for (name, words, reason) in cases {
        let mut command = Command::new("unshare");
        command.args(words).stdin(Stdio::null());
        let ended = Watch::spawn(command)?.finish(PATIENCE)?;
        report.same(format!("{name}: exit code"), ended.code, Some(0));
        let is_one = ended.stderr.len() == 1 && ended.stderr[0].contains(reason);
        report.check(is_one, || format!("{name}: said {:?}", ended.stderr));
        let tree = tree::parse(&ended.stdout)?;
        let own = tree.tasks.iter().filter(|task| task.comm == "nstrace");
        report.same(format!("{name}: nstrace itself"), own.count(), 1);
    }
    let mut command = Command::new("unshare");
    let traced = ["nstrace", "tree", "--attach", suite.attach, "--watch"];
    command.args(["-p", "-f", "--mount-proc"]).args(traced);
    let ended = Watch::spawn(command)?.finish(PATIENCE)?;
    report.same("the live tree in a pid namespace", ended.code, Some(1));
    let is_one = ended.stderr.len() == 1 && ended.stderr[0].contains("--pid=host");
    report.check(is_one, || format!("it said {:?}", ended.stderr));
    Ok(Verdict::Ran(report))
}
