//! Recordings that end badly, that are in parts, or that somebody reads while they grow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Suite, Verdict, may_skip, uncounted};
use crate::act;
use crate::book;
use crate::harness::compare;
use crate::harness::line::Op;
use crate::harness::report::Report;
use crate::harness::tracer::{self, Ended, Tracer};
use crate::harness::watch;
use crate::rng::Rng;
use crate::sys;

/// So many times on each kernel and with each way of attaching: twenty in all.
const KILLS: u64 = 2;

/// What was recorded is on the disk after a second; later, on a machine that is emulated, in a
/// storm, beside other guests.
const DELAY_NS: u64 = 3_000_000_000;

const PATIENCE: Duration = Duration::from_secs(60);

/// Operations all the time, until it is dropped.
struct Storm(Child);

impl Storm {
    fn start() -> Result<Self> {
        let words = ["--ops", "10000000", "--processes", "2", "--pause-us", "500"];
        Ok(Storm(act::start(
            &[&["act", "storm"], &words[..]].concat(),
        )?))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn record(suite: &Suite, words: &[&str]) -> Result<Tracer> {
    Tracer::start(&[&["record"], &suite.words(words)[..]].concat())
}

fn replay(file: &str) -> Result<Ended> {
    Tracer::spawn(tracer::nstrace(&["--json", "--from", file]))?.finish()
}

/// What it said on stderr but for the last line, which counts.
fn said(ended: &Ended) -> &[String] {
    ended.seen.stderr.split_last().map_or(&[], |(_, rest)| rest)
}

/// What of operations must be the same wherever they are read.
fn told(ops: &[Op]) -> Vec<String> {
    ops.iter().map(|op| format!("{op:?}")).collect()
}

/// Where two lists differ first: in what is the same there is nothing to be seen.
fn first_difference(one: &[String], other: &[String]) -> (Option<String>, Option<String>) {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    (one.get(same).cloned(), other.get(same).cloned())
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Killed at random moments: all that is older than a second is there, and what is missing
/// is told.
pub fn kills(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let file = format!("/run/nstrace-killed-{}.nst", suite.attach);
    let storm = Storm::start()?;
    let rng = Rng::default();
    rng.seed(suite.args.seed);
    for round in 0..KILLS {
        let recorder = record(suite, &["-o", &file])?;
        let ready = monotonic_ns();
        // Long enough that what was recorded since it was ready must be there.
        let least = Duration::from_nanos(DELAY_NS);
        thread::sleep(least + Duration::from_millis(100 + rng.below(2400) as u64));
        let killed = monotonic_ns();
        let ended = recorder.stop(libc::SIGKILL)?;
        report.same(format!("{round}: code of record"), ended.code(), 137);
        let replay = replay(&file)?;
        report.same(format!("{round}: code of tail"), replay.code(), 0);
        let is_told = said(&replay).len() == 1 && said(&replay)[0].contains("cut off");
        report.check(is_told, || {
            format!("{round}: tail said {:?}", said(&replay))
        });
        for wrong in &replay.seen.wrong {
            report.add(format!("{round}: no line of docs/json.md: {wrong}"));
        }
        let last = replay.seen.ops(0).last().map_or(ready, |op| op.mono_ns);
        report.check(last + DELAY_NS >= killed, || {
            let missing = (killed - last) / 1_000_000;
            format!("{round}: the last {missing} ms are missing")
        });
        let tree = watch::run(&["tree", "--from", &file], PATIENCE)?;
        report.same(format!("{round}: code of tree"), tree.code, Some(0));
    }
    drop(storm);
    fs::remove_file(&file)?;
    Ok(Verdict::Ran(report))
}

/// A full disk, a request to end, a reader that follows, and what is no recording.
pub fn ends(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    full_disk(suite, &mut report)?;
    followed(suite, &mut report)?;
    if suite.done_already().is_none() {
        refusals(&mut report)?;
    }
    Ok(Verdict::Ran(report))
}

fn full_disk(suite: &Suite, report: &mut Report) -> Result<()> {
    let dir = format!("/run/nstrace-small-{}", suite.attach);
    fs::create_dir_all(&dir)?;
    run(&["mount", "-t", "tmpfs", "-o", "size=128k", "none", &dir])?;
    let file = format!("{dir}/full.nst");
    let storm = Storm::start()?;
    let ended = record(suite, &["-o", &file])?.finish()?;
    drop(storm);
    report.same("code of a full disk", ended.code(), 1);
    let last = ended.seen.stderr.last();
    let is_told = last.is_some_and(|line| line.contains(&file) && line.contains("no room is left"));
    report.check(is_told, || format!("of a full disk it said {last:?}"));
    let replay = replay(&file)?;
    report.same("code of tail of a full disk", replay.code(), 0);
    report.check(!replay.seen.ops(0).is_empty(), || {
        "nothing on a full disk".to_owned()
    });
    report.check(said(&replay).len() <= 1, || {
        format!("tail said {:?}", said(&replay))
    });
    run(&["umount", &dir])?;
    Ok(())
}

/// A reader at work while the file grows, until it is ended by SIGTERM.
fn followed(suite: &Suite, report: &mut Report) -> Result<()> {
    let file = format!("/run/nstrace-followed-{}.nst", suite.attach);
    let recorder = record(suite, &["-o", &file, "--flush", "100ms"])?;
    let words = ["--json", "--from", &file, "--follow"];
    let follower = Tracer::spawn(tracer::nstrace(&words))?;
    let path = suite.new_book("followed");
    let book = path.to_string_lossy();
    act::perform(&["load", "--workers", "2", "--ops", "100", "--book", &book])?;
    let caught_up = follower.catch_up();
    let ended = recorder.stop(libc::SIGTERM)?;
    report.same("code of record at SIGTERM", ended.code(), 0);
    let follower = follower.finish()?;
    caught_up?;
    report.same("code of who followed", follower.code(), 0);
    let replay = replay(&file)?;
    report.same("what tail said", said(&replay), &[]);
    let (live, again) = (told(&follower.seen.ops(0)), told(&replay.seen.ops(0)));
    let (one, other) = first_difference(&live, &again);
    report.same("what was followed", one, other);
    let mut own = replay.seen.ops_of_others(0);
    own.retain(|op| op.comm != "nstrace");
    let lost = replay
        .seen
        .lost(0)
        .into_iter()
        .filter(|lost| lost.record == "op");
    let lost = may_skip(suite.attach).then_some(lost.map(|lost| lost.count).sum());
    compare::operations(&book::read(&path)?, &own, lost, report);
    fs::remove_file(&file)?;
    Ok(())
}

/// One line each, and exit code 1.
fn refusals(report: &mut Report) -> Result<()> {
    let empty = "/run/nstrace-empty.nst";
    fs::write(empty, "")?;
    let cases = [
        ("/bin/busybox", "it is not a recording of nstrace"),
        (empty, "it is empty"),
        ("/run", "it is a directory"),
        ("/run/nothing.nst", "there is no such file"),
    ];
    for (file, expected) in cases {
        for words in [&["tail"][..], &["tree"], &["leaks"], &["why", "1"]] {
            let words = [words, &["--from", file]].concat();
            let ended = watch::run(&words, PATIENCE)?;
            report.same(format!("code of {words:?}"), ended.code, Some(1));
            let is_told = ended.stderr.len() == 1
                && ended.stderr[0].contains(file)
                && ended.stderr[0].contains(expected);
            report.check(is_told, || format!("{words:?} said {:?}", ended.stderr));
        }
    }
    Ok(fs::remove_file(empty)?)
}

fn run(words: &[&str]) -> Result<()> {
    let status = Command::new(words[0]).args(&words[1..]).status()?;
    ensure!(status.success(), "{}: {status}", words.join(" "));
    Ok(())
}

/// Files behind each other, the flight recorder, and what is left out.
pub fn parts(suite: &mut Suite) -> Result<Verdict> {
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let mut report = Report::default();
    let dir = PathBuf::from("/run/nstrace-parts");
    fs::create_dir_all(&dir)?;
    rotated(suite, &dir, &mut report)?;
    counted(suite, &dir, &mut report)?;
    flight(suite, &dir, &mut report)?;
    redacted(suite, &dir, &mut report)?;
    fs::remove_dir_all(&dir)?;
    Ok(Verdict::Ran(report))
}

/// The files of a directory whose names begin so, in order.
fn files(dir: &Path, stem: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.flatten();
    let names = entries.map(|entry| entry.path().to_string_lossy().into_owned());
    let stem = dir.join(stem).to_string_lossy().into_owned();
    let mut files: Vec<String> = names.filter(|name| name.starts_with(&stem)).collect();
    files.sort();
    Ok(files)
}

/// Each part is a recording, and all together are the whole.
fn rotated(suite: &Suite, dir: &Path, report: &mut Report) -> Result<()> {
    let name = dir.join("rotated.nst").to_string_lossy().into_owned();
    let own = [
        "-o", &name, "--rotate", "24K", "--keep", "4", "--flush", "100ms",
    ];
    let recorder = record(suite, &own)?;
    let storm = Storm::start()?;
    let enough = Instant::now() + 3 * PATIENCE;
    while !Path::new(&name.replace(".nst", ".000006.nst")).exists() {
        ensure!(Instant::now() < enough, "no sixth part");
        thread::sleep(Duration::from_millis(100));
    }
    drop(storm);
    let ended = recorder.stop(libc::SIGINT)?;
    report.same("code of record --rotate", ended.code(), 0);
    let parts = files(dir, "rotated")?;
    report.same("parts that are kept", parts.len(), 4);
    let mut ops = Vec::new();
    for part in &parts {
        let replay = replay(part)?;
        report.same(format!("what tail said of {part}"), said(&replay), &[]);
        ops.extend(told(&replay.seen.ops(0)));
        let tree = watch::run(&["tree", "--from", part], PATIENCE)?;
        report.same(format!("code of tree of {part}"), tree.code, Some(0));
        report.same(format!("what tree said of {part}"), tree.stderr, Vec::new());
    }
    let all = dir.join("all.nst").to_string_lossy().into_owned();
    let mut words = vec!["cat", "-o", &all];
    words.extend(parts.iter().map(String::as_str));
    let joined = watch::run(&words, PATIENCE)?;
    report.same("code of cat", joined.code, Some(0));
    let joined = told(&replay(&all)?.seen.ops(0));
    let (one, other) = first_difference(&joined, &ops);
    report.same("operations of all parts", one, other);
    let last = parts.last().context("no part")?;
    let trees = [&all, last].map(|file| watch::run(&["tree", "--json", "--from", file], PATIENCE));
    let [all, last] = trees.map(|tree| tree.map(|ended| ended.stdout));
    report.same("the tree of all, and of the last", all?, last?);
    Ok(())
}

/// All parts together have as many operations as were done.
fn counted(suite: &Suite, dir: &Path, report: &mut Report) -> Result<()> {
    let name = dir.join("counted.nst").to_string_lossy().into_owned();
    let own = ["-o", &name, "--rotate", "24K", "--flush", "100ms"];
    let recorder = record(suite, &own)?;
    let done = act::perform(&["act", "storm", "--ops", "3000"])?;
    let ended = recorder.stop(libc::SIGINT)?;
    report.same("code of record", ended.code(), 0);
    let parts = files(dir, "counted")?;
    report.check(parts.len() > 1, || format!("{} parts", parts.len()));
    let (mut told, mut lost) = (0, 0);
    for part in &parts {
        let replay = replay(part)?;
        let ops = replay.seen.ops(0);
        told += ops.iter().filter(|op| op.comm == "nstrace-guest").count() as u64;
        let ops = replay
            .seen
            .lost(0)
            .into_iter()
            .filter(|lost| lost.record == "op");
        lost += ops.map(|lost| lost.count).sum::<u64>();
    }
    let done: u64 = done.trim().parse()?;
    let unknown = if may_skip(suite.attach) {
        uncounted(done)
    } else {
        0
    };
    report.check((done - unknown..=done).contains(&(told + lost)), || {
        format!("{told} reported + {lost} lost, but {done} done")
    });
    Ok(())
}

/// What was before a failure is written when it comes, and at SIGUSR1.
fn flight(suite: &Suite, dir: &Path, report: &mut Report) -> Result<()> {
    let name = dir.join("flight.nst").to_string_lossy().into_owned();
    let recorder = record(suite, &["-o", &name, "--flight", "4s", "--failed"])?;
    let begun = Instant::now();
    let path = suite.new_book("flight");
    let book = path.to_string_lossy();
    let wait = |count: usize| -> Result<Vec<String>> {
        let enough = Instant::now() + PATIENCE;
        loop {
            let files = files(dir, "flight")?;
            if files.len() >= count {
                return Ok(files);
            }
            ensure!(
                Instant::now() < enough,
                "{} files, not {count}",
                files.len()
            );
            thread::sleep(Duration::from_millis(100));
        }
    };
    thread::sleep(Duration::from_secs(1));
    report.same(
        "files before something happens",
        files(dir, "flight")?.len(),
        0,
    );
    act::perform(&["act", "few", "--book", &book])?;
    wait(1)?;
    // A name that somebody else has, and does not get back with something in it.
    let (taken, target) = (dir.join("flight.000002.nst"), dir.join("precious"));
    std::os::unix::fs::symlink(&target, &taken)?;
    thread::sleep(Duration::from_secs(6));
    sys::kill(i64::from(recorder.pid()), libc::SIGUSR1)?;
    wait(3)?;
    fs::remove_file(&taken)?;
    report.check(!target.exists(), || {
        "it wrote through a symbolic link".to_owned()
    });
    let (age, files) = (begun.elapsed(), wait(2)?);
    let sum = watch::run(&["report", "--json", &files[1]], PATIENCE)?;
    let sum: serde_json::Value = serde_json::from_str(sum.stdout.first().context("a report")?)?;
    let span = Duration::from_nanos(sum["span_ns"].as_u64().unwrap_or(0));
    let is_last_while = span >= Duration::from_secs(4) && span + Duration::from_secs(2) < age;
    report.check(is_last_while, || {
        format!("the file is {span:?} long, after {age:?}")
    });
    let ended = recorder.stop(libc::SIGINT)?;
    report.same("code of record --flight", ended.code(), 0);
    let why = |file: &str| {
        ended
            .seen
            .stderr
            .iter()
            .find(|line| line.contains(file))
            .cloned()
    };
    let first = replay(&files[0])?;
    report.same("what tail said of it", said(&first), &[]);
    let few = first.seen.ops(0).into_iter().filter(|op| op.comm == "few");
    let few: Vec<bool> = few.map(|op| op.errno.is_some()).collect();
    report.same(
        "what failed, and what was before",
        few,
        vec![false, false, true],
    );
    let is_told = why(&files[0]).is_some_and(|line| line.contains("unshare of process"));
    report.check(is_told, || format!("it said {:?}", ended.seen.stderr));
    let is_told = why(&files[1]).is_some_and(|line| line.contains("SIGUSR1"));
    report.check(is_told, || format!("it said {:?}", ended.seen.stderr));
    Ok(())
}

/// No name of a command and no path, and of operations only those that are wanted.
fn redacted(suite: &Suite, dir: &Path, report: &mut Report) -> Result<()> {
    let name = dir.join("redacted.nst").to_string_lossy().into_owned();
    let recorder = record(suite, &["-o", &name, "--redact", "--op", "unshare"])?;
    let path = suite.new_book("redacted");
    let book = path.to_string_lossy();
    act::perform(&["act", "few", "--book", &book, "--comm", "secretive"])?;
    let ended = recorder.stop(libc::SIGINT)?;
    report.same("code of record --redact", ended.code(), 0);
    let replay = replay(&name)?;
    let ops = replay.seen.ops(0);
    let names = ops
        .iter()
        .filter(|op| op.op != "unshare" || !op.comm.is_empty());
    report.same("operations with a name, or others", names.count(), 0);
    report.check(!ops.is_empty(), || "no operations".to_owned());
    let raw = String::from_utf8_lossy(&fs::read(&name)?).into_owned();
    let tree = watch::run(&["tree", "--json", "--from", &name], PATIENCE)?;
    report.same("code of tree", tree.code, Some(0));
    let text = tree.stdout.concat() + &raw;
    for secret in ["secretive", "nstrace-guest", "kthreadd", "\"path\":\"/"] {
        report.check(!text.contains(secret), || format!("{secret:?} is in it"));
    }
    Ok(())
}
