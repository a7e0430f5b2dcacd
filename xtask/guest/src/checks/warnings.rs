//! The kernel's own warning about a mount that dies with a writer count that is not zero: that
//! the tests' module brings it about, and what nstrace does then.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Suite, Verdict};
use crate::harness::kernel_log::{KernelLog, Unbalanced};
use crate::harness::module::Inserted;
use crate::harness::report::Report;
use crate::harness::tracer::Tracer;
use crate::harness::watch::{self, Watch};
use crate::procfs::{self, Procfs};
use crate::sys;

/// The commands of xtask/modules/writers.
const COMMANDS: &str = "/sys/kernel/debug/nstrace_writers";

const MOUNT: &str = "/run/nstrace-unbalanced";

const PATIENCE: Duration = Duration::from_secs(60);

/// What to have the module do, and the count that is left.
const CASES: [(&str, i32); 10] = [
    ("drop 4", -4),
    ("take 3", 3),
    ("pair 5", 0),
    ("split 5", 0),
    ("forget 5", 1),
    ("deep 2", 2),
    ("takefile 2", 2),
    ("dropfile 1", -1),
    ("pairfile 3", 0),
    // As a truth for the others: a mount that nothing was done to.
    ("pair 0", 0),
];

/// Has the module do something to a new mount, and lets the mount die.
fn unbalance(command: &str) -> Result<()> {
    sys::mount("tmpfs", MOUNT, "tmpfs", 0).context("cannot mount a tmpfs")?;
    let done = fs::write(COMMANDS, format!("{command} {MOUNT}"));
    sys::unmount(MOUNT).with_context(|| format!("{MOUNT}: cannot unmount"))?;
    done.with_context(|| format!("{COMMANDS}: {command}"))
}

/// Runs the test.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let module = Inserted::new("nstrace_writers")?;
    fs::create_dir_all(MOUNT)?;
    truth(&mut report)?;
    tail(suite, &mut report)?;
    flight(suite, &mut report)?;
    fs::remove_dir(MOUNT)?;
    module.remove()?;
    Ok(Verdict::Ran(report))
}

/// The kernel warns of what is left, and of nothing else.
fn truth(report: &mut Report) -> Result<()> {
    let mut log = KernelLog::open()?;
    for (command, left) in CASES {
        unbalance(command)?;
        let lines = log.read()?;
        let found = Unbalanced::all(&lines);
        let is_right = match found.as_slice() {
            [] => left == 0,
            [one] => left != 0 && one.is_of(left),
            _ => false,
        };
        report.check(is_right, || {
            format!("{command}: the kernel warned of {found:?}, not of {left}")
        });
    }
    Ok(())
}

/// Whether lines of JSON tell of one mount that died with so many writers, and where it was, and
/// of the kernel's warning about it.
fn is_told(lines: &[String], left: i32, ns: u32) -> bool {
    let left = format!("\"writers\":{left},");
    let was_at = format!("\"point\":\"{MOUNT}\",\"mnt\":{ns},");
    let count = |of: &str, holds: &dyn Fn(&str) -> bool| {
        let kind = format!("{{\"type\":\"{of}\",");
        let lines = lines.iter().filter(|line| line.starts_with(&kind));
        lines.filter(|line| holds(line)).count()
    };
    let at = "\"at\":\"fs/namespace.c:";
    // Who unmounts is this thread.
    let comm = fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
    let comm = format!("\"comm\":\"{}\"", comm.trim_end());
    let is_whole = |line: &str| line.contains(&left) && line.contains(&was_at);
    count("mount_death", &is_whole) == 1
        && count("kernel_warning", &|line| {
            // The kernel log has them behind the line itself.
            line.contains(at)
                && line.contains("\"function\":\"cleanup_mnt+")
                && line.contains(&comm)
                && line.contains("\"stack\":[\"cleanup_mnt+")
                && line.contains(",\"task_work_run+")
        }) == 1
}

fn own_mnt_ns() -> Result<u32> {
    let link = Procfs::open()?.link("thread-self/ns/mnt")?;
    procfs::inum_of_link(&link).context("a link of a namespace")
}

/// The tail prints the mount, and what the kernel says of it.
fn tail(suite: &Suite, report: &mut Report) -> Result<()> {
    let ns = own_mnt_ns()?;
    let words = suite.words(&["--json"]);
    let nstrace = Watch::start(&[&["tail"], &words[..]].concat())?;
    nstrace.wait_for(PATIENCE, |said| said.is_ready())?;
    unbalance("pair 5")?;
    unbalance("take 3")?;
    nstrace.wait_for(PATIENCE, |said| is_told(&said.stdout, 3, ns))?;
    nstrace.signal(libc::SIGINT)?;
    let ended = nstrace.finish(PATIENCE)?;
    report.same("code of tail", ended.code, Some(0));
    report.check(is_told(&ended.stdout, 3, ns), || {
        format!("the tail printed {:?}", ended.stdout)
    });
    Ok(())
}

/// The flight recorder writes when the kernel warns, once, and says why.
fn flight(suite: &Suite, report: &mut Report) -> Result<()> {
    let dir = Path::new("/run/nstrace-warned");
    fs::create_dir_all(dir)?;
    let name = dir.join("warned.nst").to_string_lossy().into_owned();
    let words = ["-o", &name, "--flight", "30s"];
    let words = [&["record"], &suite.words(&words)[..]].concat();
    let ns = own_mnt_ns()?;
    let recorder = Tracer::start(&words)?;
    let files = || -> Result<Vec<String>> {
        let entries = fs::read_dir(dir)?.flatten();
        Ok(entries
            .map(|entry| entry.path().to_string_lossy().into_owned())
            .collect())
    };
    unbalance("pair 5")?;
    // Had it a reason to write, it would write within a second.
    thread::sleep(Duration::from_secs(2));
    report.same("files before a warning", files()?, vec![]);
    unbalance("drop 4")?;
    let enough = Instant::now() + PATIENCE;
    while files()?.is_empty() {
        ensure!(Instant::now() < enough, "no file after a warning");
        thread::sleep(Duration::from_millis(100));
    }
    let ended = recorder.stop(libc::SIGINT)?;
    report.same("code of record --flight", ended.code(), 0);
    let written = files()?;
    report.same("files", written.len(), 1);
    let is_said = |line: &&String| line.contains("the kernel warned in cleanup_mnt");
    let told = ended.seen.stderr.iter().filter(is_said).count();
    report.check(told == 1, || format!("it said {:?}", ended.seen.stderr));
    for file in &written {
        let tree = watch::run(&["tree", "--from", file], PATIENCE)?;
        report.same(format!("code of tree --from {file}"), tree.code, Some(0));
        let summed = watch::run(&["report", "--json", file], PATIENCE)?;
        report.check(is_told(&summed.stdout, -4, ns), || {
            format!("the report has {:?}", summed.stdout)
        });
    }
    Ok(fs::remove_dir_all(dir)?)
}
