//! Who unbalanced the writer count of a mount: what `nstrace writers` says, held against what
//! a module was told to do, and what an overlayfs with a known mistake does.

pub mod container;
pub mod parts;

use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Suite, Verdict, may_skip};
use crate::act;
use crate::act::overlay::calls::Mapping;
use crate::harness::held::Held;
use crate::harness::kernel_log::{KernelLog, Unbalanced};
use crate::harness::module::Inserted;
use crate::harness::report::Report;
use crate::harness::watch::Watch;
use crate::sys;

/// The commands of xtask/modules/writers.
const COMMANDS: &str = "/sys/kernel/debug/nstrace_writers";

const MOUNT: &str = "/run/nstrace-writers";

const PATIENCE: Duration = Duration::from_secs(300);

/// Functions, and what they take more than they give back.
type Functions = &'static [(&'static str, i64)];

/// What to have the module do, the count that is left, and the functions that do not pair.
const CASES: [(&[&str], i64, Functions); 9] = [
    (&["drop 4"], -4, &[("nswtest_extra_drop", -4)]),
    (&["take 3"], 3, &[("nswtest_leak_take", 3)]),
    (&["pair 5"], 0, &[]),
    (&["split 5"], 0, &[]),
    (&["forget 5"], 1, &[("nswtest_forget", 1)]),
    (&["takefile 2"], 2, &[("nswtest_leak_take_file", 2)]),
    (&["dropfile 1"], -1, &[("nswtest_extra_drop_file", -1)]),
    (&["pairfile 3"], 0, &[]),
    (
        &["pair 7", "drop 4", "split 2", "forget 5"],
        -3,
        &[("nswtest_extra_drop", -4), ("nswtest_forget", 1)],
    ),
];

/// A line of `nstrace writers --json`, as far as it matters.
#[derive(Debug, Deserialize)]
struct Death {
    #[serde(rename = "type")]
    kind: String,
    writers: i64,
    fs: String,
    #[serde(default)]
    private: bool,
    #[serde(default)]
    comm: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    root: String,
    #[serde(default)]
    point: String,
    verdict: Option<Verdicts>,
}

#[derive(Debug, Deserialize)]
struct Verdicts {
    guilty: Vec<Guilty>,
    sum: i64,
    doubts: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Guilty {
    function: String,
    balance: i64,
    path: Vec<String>,
}

/// nstrace writers, at work.
struct Ledger(Watch);

impl Ledger {
    fn start(suite: &Suite, words: &[&str]) -> Result<Self> {
        let own = ["writers", "--json", "--attach", suite.attach];
        let watch = Watch::start(&[&own[..], words].concat())?;
        watch.wait_for(PATIENCE, |said| {
            said.stderr.iter().any(|line| line.contains("ready"))
        })?;
        Ok(Ledger(watch))
    }

    fn finish(self) -> Result<Vec<Death>> {
        self.0.signal(libc::SIGINT)?;
        let ended = self.0.finish(PATIENCE)?;
        anyhow::ensure!(ended.code == Some(0), "it ended with {:?}", ended.code);
        read(&ended.stdout)
    }
}

fn read(lines: &[String]) -> Result<Vec<Death>> {
    let deaths = lines.iter().map(|line| {
        serde_json::from_str(line).with_context(|| format!("no line of docs/json.md: {line}"))
    });
    deaths.collect()
}

/// The function's name alone, without its module.
fn named(death: &Death) -> Vec<(&str, i64)> {
    let guilty = death.verdict.iter().flat_map(|verdict| &verdict.guilty);
    guilty
        .map(|guilty| {
            let name = guilty.function.split(' ').next().unwrap_or_default();
            (name, guilty.balance)
        })
        .collect()
}

/// Has the module do something to a new mount.
fn command(command: &str) -> Result<()> {
    let done = fs::write(COMMANDS, format!("{command} {MOUNT}/file"));
    done.with_context(|| format!("{COMMANDS}: {command}"))
}

fn mount() -> Result<()> {
    sys::mount("tmpfs", MOUNT, "tmpfs", 0).context("cannot mount a tmpfs")?;
    Ok(fs::write(format!("{MOUNT}/file"), "x")?)
}

fn unmount() -> Result<()> {
    sys::unmount(MOUNT).with_context(|| format!("{MOUNT}: cannot unmount"))
}

/// Does all cases; gives how often the kernel warned.
fn provoke() -> Result<usize> {
    let mut log = KernelLog::open()?;
    let mut warned = 0;
    for (commands, _, _) in CASES {
        mount()?;
        for words in commands {
            command(words)?;
        }
        unmount()?;
        warned += Unbalanced::all(&log.read()?).len();
    }
    Ok(warned)
}

/// Each mistake of the module is told with its count and its function; no mistake is not told.
pub fn module(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let module = Inserted::new("nstrace_writers")?;
    fs::create_dir_all(MOUNT)?;
    let may_skip = may_skip(suite.attach);
    // One after the other: up to v5.14 a stack that two kretprobes have changed has no callers.
    let ledger = Ledger::start(suite, &["--fs", "tmpfs"])?;
    let warned = provoke()?;
    check(&mut report, "live", &ledger.finish()?, warned, may_skip);
    let file = "/run/nstrace-writers.nst";
    let words = [
        "-o",
        file,
        "--writers",
        "fs:tmpfs",
        "--mounts",
        "--attach",
        suite.attach,
    ];
    let recorder = Watch::start(&[&["record"], &words[..]].concat())?;
    recorder.wait_for(PATIENCE, |said| {
        said.stderr.iter().any(|line| line.contains("ready"))
    })?;
    let warned = provoke()?;
    recorder.signal(libc::SIGINT)?;
    recorder.finish(PATIENCE)?;
    let replayed = crate::harness::watch::run(&["writers", "--json", "--from", file], PATIENCE)?;
    let replayed = read(&replayed.stdout)?;
    check(&mut report, "replayed", &replayed, warned, may_skip);
    after_umounts(file, &mut report)?;
    fs::remove_file(file)?;
    fs::remove_dir(MOUNT)?;
    module.remove()?;
    Ok(Verdict::Ran(report))
}

/// In a recording each death of a mount stands behind the umount that took it away, and before
/// the next.
fn after_umounts(file: &str, report: &mut Report) -> Result<()> {
    let words = ["tail", "--json", "--mounts", "--from", file];
    let lines = crate::harness::watch::run(&words, PATIENCE)?.stdout;
    let (mut last, mut deaths) = (0, 0);
    for line in &lines {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let number = |name: &str| line[name].as_u64().unwrap_or(0);
        let is_death = line["type"] == "mount_death";
        if is_death || line["type"] == "mount" && line["op"] == "umount" {
            let time = number("mono_ns") + number("took_ns");
            report.check(time >= last, || format!("not in the order of time: {line}"));
            (last, deaths) = (time, deaths + u32::from(is_death));
        }
    }
    report.check(deaths > 0, || format!("no death in {lines:?}"));
    Ok(())
}

/// Where the ledger has no room for all stacks, where stacks are deeper than what is kept of
/// them, and where the module has gone before its mount dies: the right function is named, or
/// why none can be.
pub fn limits(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    fs::create_dir_all(MOUNT)?;
    let full = &["full", "sum"][..];
    for (words, done, left, function, doubts) in [
        (
            &["--stacks", "3"][..],
            "drop 4",
            -4,
            "nswtest_extra_drop",
            full,
        ),
        (&[], "deep 2", 2, "nswtest_leak_take", &["cut"]),
        (&[], "drop 4", -4, "nswtest_extra_drop", &[]),
    ] {
        let module = Inserted::new("nstrace_writers")?;
        let ledger = Ledger::start(suite, &[&["--fs", "tmpfs"], words].concat())?;
        mount()?;
        command(done)?;
        module.remove()?;
        unmount()?;
        let deaths = ledger.finish()?;
        let what = format!("{words:?} {done}");
        let of = deaths.iter().map(|death| death.writers);
        report.same(
            format!("{what}: writers"),
            of.collect::<Vec<_>>(),
            vec![left],
        );
        let Some(verdict) = deaths.first().and_then(|death| death.verdict.as_ref()) else {
            report.add(format!("{what}: no verdict"));
            continue;
        };
        let is_right = match named(&deaths[0])[..] {
            [] => verdict.doubts.iter().any(|doubt| {
                doubts.contains(&doubt.as_str()) || may_skip(suite.attach) && doubt == "skipped"
            }),
            [one] => one == (function, left),
            _ => false,
        };
        report.check(is_right, || format!("{what}: {verdict:?}"));
    }
    fs::remove_dir(MOUNT)?;
    Ok(Verdict::Ran(report))
}

/// Begun while write access is taken and given back all the time: who unbalances a mount later
/// is named all the same, and of one that lives balanced nothing is said.
pub fn busy(suite: &mut Suite) -> Result<Verdict> {
    const OTHER: &str = "/run/nstrace-writers-other";
    let mut report = Report::default();
    let module = Inserted::new("nstrace_writers")?;
    fs::create_dir_all(MOUNT)?;
    mount()?;
    fs::create_dir_all(OTHER)?;
    sys::mount("tmpfs", OTHER, "tmpfs", 0).context("cannot mount a tmpfs")?;
    let stop = AtomicBool::new(false);
    let ledger = thread::scope(|scope| {
        for dir in [MOUNT, OTHER, MOUNT, OTHER] {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    // Both take access, of either kind; that they succeed the ledger does not ask.
                    let _ = fs::write(format!("{dir}/busy"), "x");
                    let _ = fs::remove_file(format!("{dir}/busy"));
                }
            });
        }
        let ledger = Ledger::start(suite, &["--fs", "tmpfs"]);
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Relaxed);
        ledger
    })?;
    command("take 3")?;
    unmount()?;
    let told = ledger.finish()?;
    let counts = told
        .iter()
        .map(|mount| (mount.kind.as_str(), mount.writers));
    report.same("told", counts.collect(), vec![("mount_death", 3)]);
    for death in &told {
        let has_skipped = death
            .verdict
            .as_ref()
            .is_some_and(|verdict| verdict.doubts.iter().any(|doubt| doubt == "skipped"));
        if !(may_skip(suite.attach) && has_skipped) {
            report.same("named", named(death), vec![("nswtest_leak_take", 3)]);
        }
    }
    sys::unmount(OTHER)?;
    fs::remove_dir(OTHER)?;
    fs::remove_dir(MOUNT)?;
    module.remove()?;
    Ok(Verdict::Ran(report))
}

/// Where the ledger has no room for the stacks of all mounts, one that lives with a count below
/// zero is told all the same, without a name; nothing is said of the others.
pub fn many(suite: &mut Suite) -> Result<Verdict> {
    const DIR: &str = "/run/nstrace-many";
    let mut report = Report::default();
    let module = Inserted::new("nstrace_writers")?;
    let ledger = Ledger::start(suite, &["--fs", "tmpfs", "--stacks", "1000"])?;
    let args = ["--dir", DIR, "--mounts", "1000", "--namespaces", "3"];
    let mut act = Held::start(&[&["act", "many-mounts"], &args[..]].concat())?;
    act.wait_for("at rest")?;
    act.go_on()?;
    act.wait_for("appended")?;
    let point = format!("{DIR}/tree/999");
    let unbalance = |words: &str| fs::write(COMMANDS, format!("{words} {point}/file"));
    unbalance("drop 4")?;
    let living = ledger.finish()?;
    let told = living
        .iter()
        .map(|mount| (mount.kind.as_str(), mount.point.as_str(), mount.writers));
    report.same(
        "mounts",
        told.collect::<Vec<_>>(),
        vec![("mount_writers", point.as_str(), -4)],
    );
    for mount in &living {
        report.same("named", named(mount), vec![]);
        let doubts = mount.verdict.iter().flat_map(|verdict| &verdict.doubts);
        let doubts: Vec<&str> = doubts.map(String::as_str).collect();
        report.check(doubts.contains(&"full"), || format!("doubts: {doubts:?}"));
    }
    unbalance("take 4")?;
    act.end()?;
    module.remove()?;
    Ok(Verdict::Ran(report))
}

/// A line of `nstrace writers --now --json`, as far as it matters.
#[derive(Debug, Deserialize, PartialEq)]
struct Now {
    #[serde(rename = "type")]
    kind: String,
    point: String,
    writers: i64,
    difference: i64,
    open_least: u64,
    open_most: u64,
    files: Vec<Open>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Open {
    pid: u32,
    path: String,
}

fn look(words: &[&str]) -> Result<Vec<Now>> {
    let ended =
        crate::harness::watch::run(&[&["writers", "--now", "--json"], words].concat(), PATIENCE)?;
    anyhow::ensure!(
        ended.code == Some(0),
        "it ended with {:?}: {:?}",
        ended.code,
        ended.stderr
    );
    let lines = ended.stdout.iter().map(|line| {
        serde_json::from_str(line).with_context(|| format!("no line of docs/json.md: {line}"))
    });
    lines.collect()
}

/// What is left of a mount that lives is told without a ledger, and what is open for writing
/// is not: by one descriptor, by several, mapped when no descriptor is left.
pub fn now(suite: &mut Suite) -> Result<Verdict> {
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let mut report = Report::default();
    let module = Inserted::new("nstrace_writers")?;
    fs::create_dir_all(MOUNT)?;
    mount()?;
    let words = ["--mount", MOUNT];
    let path = format!("{MOUNT}/file");
    let mut told = |what: &str, words: &[&str], expected: Option<(i64, i64, u64, u64)>| {
        let told = look(words)?;
        let numbers = told
            .iter()
            .map(|now| (now.writers, now.difference, now.open_least, now.open_most));
        report.same(
            what,
            numbers.collect::<Vec<_>>(),
            expected.into_iter().collect(),
        );
        anyhow::Ok(told)
    };
    told("nothing", &words, None)?;
    let open = fs::OpenOptions::new().append(true).open(&path)?;
    let same = open.try_clone()?;
    let read = fs::File::open(&path)?;
    told("two descriptors of a file", &words, None)?;
    command("take 3")?;
    let with_file = told("taken, and a file", &words, Some((4, 3, 1, 1)))?;
    let by_type = told("by its type", &["--fs", "tmpfs"], Some((4, 3, 1, 1)))?;
    let of_all = told("among all", &[], Some((4, 3, 1, 1)))?;
    drop((open, same, read));
    told("taken", &words, Some((3, 3, 0, 0)))?;
    // Opened once more, mapped, and closed: the mapping keeps it.
    let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let mapped = Mapping::new(&file)?;
    drop(file);
    told("taken, and mapped", &words, Some((4, 3, 1, 1)))?;
    command("drop 3")?;
    told("mapped", &words, None)?;
    drop(mapped);
    told("given back", &words, None)?;
    command("drop 2")?;
    told("given back too often", &words, Some((-2, -2, 0, 0)))?;
    command("take 2")?;
    for told in [with_file, by_type, of_all] {
        let right = Now {
            kind: "writers_now".to_owned(),
            point: MOUNT.to_owned(),
            writers: 4,
            difference: 3,
            open_least: 1,
            open_most: 1,
            files: (0..2)
                .map(|_| Open {
                    pid: std::process::id(),
                    path: path.clone(),
                })
                .collect(),
        };
        report.same("the line", told, vec![right]);
    }
    unmount()?;
    fs::remove_dir(MOUNT)?;
    module.remove()?;
    Ok(Verdict::Ran(report))
}

fn check(report: &mut Report, how: &str, deaths: &[Death], warned: usize, may_skip: bool) {
    let unbalanced = CASES.iter().filter(|(_, left, _)| *left != 0);
    report.same(
        format!("{how}: deaths, as the kernel warned"),
        deaths.len(),
        warned,
    );
    for ((commands, left, guilty), death) in unbalanced.zip(deaths) {
        let what = format!("{how}: {commands:?}");
        report.same(format!("{what}: type"), death.kind.as_str(), "mount_death");
        report.same(format!("{what}: writers"), death.writers, *left);
        report.same(format!("{what}: file system"), death.fs.as_str(), "tmpfs");
        let named = named(death);
        let Some(verdict) = &death.verdict else {
            report.add(format!("{what}: no verdict"));
            continue;
        };
        // What was skipped is said, and nobody is named for it.
        let is_doubtful = |doubt: &String| ["skipped", "sum"].contains(&doubt.as_str());
        if may_skip && verdict.doubts.iter().any(is_doubtful) {
            let is_right = named.iter().all(|one| guilty.contains(one));
            report.check(is_right, || {
                format!("{what}: {named:?} of {guilty:?}: {verdict:?}")
            });
            continue;
        }
        report.same(format!("{what}: functions"), named, guilty.to_vec());
        report.same(format!("{what}: sum"), verdict.sum, *left);
        report.same(format!("{what}: doubts"), verdict.doubts.len(), 0);
    }
}

/// An overlayfs with a mistake, and a part of the name of the function that has it.
const MISTAKES: [(&str, &[&str], &str); 2] = [
    ("overlay_copy_up_drop", &["--files", "4"], "copy_up"),
    (
        "overlay_xattr_leak",
        &["--files", "1", "--attributes", "3"],
        "xattr",
    ),
];

/// The mistake of an overlayfs is told, of the private clone of its upper layer.
pub fn overlay(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    for (name, words, part) in MISTAKES {
        let module = Inserted::new(name)?;
        let mut log = KernelLog::open()?;
        let ledger = Ledger::start(suite, &["--fs", "overlay"])?;
        run_act(&[&["act", "copy-up"], words].concat())?;
        let deaths = ledger.finish()?;
        let warnings = Unbalanced::all(&log.read()?);
        report.same(
            format!("{name}: deaths, as the kernel warned"),
            deaths.len(),
            warnings.len(),
        );
        report.check(!deaths.is_empty(), || format!("{name}: no death"));
        for death in &deaths {
            report.check(death.private, || {
                format!("{name}: of no private clone: {death:?}")
            });
            let is_of = |warning: &Unbalanced| {
                i32::try_from(death.writers).is_ok_and(|count| warning.is_of(count))
            };
            report.check(warnings.iter().any(is_of), || {
                format!(
                    "{name}: the kernel counts {warnings:?}, not {}",
                    death.writers
                )
            });
            let found = named(death);
            let is_named = found.len() == 1 && found[0].0.contains(part);
            report.check(
                is_named && found.first().is_some_and(|one| one.1 == death.writers),
                || format!("{name}: named {found:?}: {:?}", death.verdict),
            );
            let guilty = death.verdict.iter().flat_map(|verdict| &verdict.guilty);
            for guilty in guilty {
                let is_call = guilty
                    .path
                    .iter()
                    .any(|name| name.starts_with("__x64_sys_"))
                    || guilty
                        .path
                        .iter()
                        .any(|name| name.contains("do_syscall_64"));
                report.check(is_call, || format!("{name}: path {:?}", guilty.path));
            }
        }
        module.remove()?;
    }
    Ok(Verdict::Ran(report))
}

/// Everything that can be done to an overlay that has no mistake: nobody is named, and no
/// access is missed.
pub fn balanced(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let module = Inserted::new("overlay")?;
    let mut log = KernelLog::open()?;
    let ledger = Ledger::start(suite, &["--fs", "overlay,tmpfs"])?;
    run_act(&["act", "overlay-load", "--rounds", "4"])?;
    let deaths = ledger.finish()?;
    let warnings = Unbalanced::all(&log.read()?);
    report.same("warnings of the kernel", warnings.len(), 0);
    report.check(deaths.is_empty(), || format!("it told {deaths:?}"));
    module.remove()?;
    Ok(Verdict::Ran(report))
}

/// Runs an act to its end.
fn run_act(words: &[&str]) -> Result<()> {
    let mut child = act::start(words)?;
    let mut said = String::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_string(&mut said)?;
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "{words:?}: {status}: {said}");
    Ok(())
}
