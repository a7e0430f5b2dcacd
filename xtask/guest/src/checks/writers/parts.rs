//! Parts of a recording, and one without its end: who unbalanced a mount is named by what is
//! there, be it before a part began, or while the mount lives.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{COMMANDS, Death, MOUNT, PATIENCE, command, mount, named, read, unmount};
use crate::checks::{Suite, Verdict, may_skip};
use crate::harness::kernel_log::{KernelLog, Unbalanced};
use crate::harness::module::Inserted;
use crate::harness::report::Report;
use crate::harness::watch::{self, Watch};

const DIR: &str = "/run/nstrace-writer-parts";

/// What the module gives back too often.
const EXTRA: i64 = 4;

/// In the last part alone, in a cut of it and of all, and in what is put together again, the
/// module's function has the balance of which the kernel warned.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    with_module(suite, rotated)
}

/// So it has in what the flight recorder has when that has forgotten where it was, without names
/// of commands and paths.
pub fn flight(suite: &mut Suite) -> Result<Verdict> {
    with_module(suite, flown)
}

/// So it has, of the mount that lives, in a recording whose recorder was killed.
pub fn killed(suite: &mut Suite) -> Result<Verdict> {
    with_module(suite, cut_off)
}

fn with_module(
    suite: &mut Suite,
    act: fn(&str, bool, &mut Report) -> Result<()>,
) -> Result<Verdict> {
    let mut report = Report::default();
    let module = Inserted::new("nstrace_writers")?;
    fs::create_dir_all(MOUNT)?;
    fs::create_dir_all(DIR)?;
    act(suite.attach, may_skip(suite.attach), &mut report)?;
    fs::remove_dir_all(DIR)?;
    fs::remove_dir(MOUNT)?;
    module.remove()?;
    Ok(Verdict::Ran(report))
}

fn record(attach: &str, words: &[&str]) -> Result<Watch> {
    let own = ["record", "--writers", "fs:tmpfs", "--attach", attach];
    let watch = Watch::start(&[&own[..], words].concat())?;
    watch.wait_for(PATIENCE, |said| said.is_ready())?;
    Ok(watch)
}

/// Leaves a mount unbalanced, and says what lives.
fn unbalance() -> Result<()> {
    ensure!(Path::new(COMMANDS).exists(), "{COMMANDS} is not there");
    mount()?;
    command("pair 3")?;
    command(&format!("drop {EXTRA}"))
}

/// Waits for a file; gives it when it is there.
fn wait_for(path: &str) -> Result<()> {
    let enough = Instant::now() + PATIENCE;
    while !Path::new(path).exists() {
        ensure!(Instant::now() < enough, "{path} does not come");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The time of day now, as the reader says it.
fn clock() -> Result<String> {
    const DAY: u64 = 24 * 60 * 60;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (seconds, millis) = (now.as_secs() % DAY, now.subsec_millis());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    Ok(format!(
        "{hours:02}:{minutes:02}:{:02}.{millis:03}",
        seconds % 60
    ))
}

fn deaths(file: &str) -> Result<Vec<Death>> {
    let mut told = told(file)?;
    told.retain(|mount| mount.kind == "mount_death");
    Ok(told)
}

/// The living ones too.
fn told(file: &str) -> Result<Vec<Death>> {
    read(&watch::run(&["writers", "--json", "--from", file], PATIENCE)?.stdout)
}

fn rotated(attach: &str, skips: bool, report: &mut Report) -> Result<()> {
    let mut log = KernelLog::open()?;
    let name = |number: u32| format!("{DIR}/part.{number:06}.nst");
    let recorder = record(
        attach,
        &[
            "-o",
            &format!("{DIR}/part.nst"),
            "--rotate",
            "500ms",
            "--flush",
            "100ms",
        ],
    )?;
    unbalance()?;
    let third = (1..).find(|number| !Path::new(&name(*number)).exists());
    let third = third.context("so many parts")? + 1;
    wait_for(&name(third))?;
    let moment = clock()?;
    thread::sleep(Duration::from_millis(100));
    unmount()?;
    recorder.signal(libc::SIGINT)?;
    recorder.finish(PATIENCE)?;
    warned(&mut log, "rotated", report)?;
    let parts: Vec<String> = (1..)
        .map(name)
        .take_while(|part| Path::new(part).exists())
        .collect();
    let late = parts.iter().filter(|part| **part >= name(third - 1));
    let told = late.map(|part| Ok((part, deaths(part)?)));
    let mut told: Vec<_> = told.collect::<Result<_>>()?;
    told.retain(|(_, deaths)| !deaths.is_empty());
    report.same("parts with a death", told.len(), 1);
    let (last, of_last) = told.first().context("no part has a death")?;
    report.check(**last >= name(third), || format!("it died in {last}"));
    check(report, "the last part", of_last, skips);
    let all = format!("{DIR}/all.nst");
    let mut words = vec!["cat", "-o", &all];
    words.extend(parts.iter().map(String::as_str));
    let done = watch::run(&words, PATIENCE)?;
    report.same("code of cat", done.code, Some(0));
    check(report, "all", &deaths(&all)?, skips);
    for (what, file) in [
        ("a cut of the last part", last.as_str()),
        ("a cut of all", &all),
    ] {
        let to = format!("{DIR}/cut.nst");
        let done = watch::run(&["cut", file, "--from", &moment, "-o", &to], PATIENCE)?;
        report.same(
            format!("code of {what}: {:?}", done.stderr),
            done.code,
            Some(0),
        );
        check(report, what, &deaths(&to)?, skips);
        fs::remove_file(to)?;
    }
    // Each goes on where the last has ended.
    let tail = watch::run(&["tail", "--json", "--from", &all], PATIENCE)?;
    let losses = tail
        .stdout
        .iter()
        .filter(|line| line.contains("\"type\":\"lost\""));
    report.same("losses in all", losses.count(), 0);
    Ok(())
}

fn cut_off(attach: &str, skips: bool, report: &mut Report) -> Result<()> {
    let mut log = KernelLog::open()?;
    let file = format!("{DIR}/killed.nst");
    let recorder = record(attach, &["-o", &file, "--flush", "100ms"])?;
    unbalance()?;
    // Until it stands in the file, as a reader sees it.
    let enough = Instant::now() + PATIENCE;
    while told(&file).map_or(true, |told| told.is_empty()) {
        ensure!(Instant::now() < enough, "{file} does not name the mount");
        thread::sleep(Duration::from_millis(100));
    }
    recorder.signal(libc::SIGKILL)?;
    recorder.finish(PATIENCE)?;
    unmount()?;
    warned(&mut log, "killed", report)?;
    let told = told(&file)?;
    let kinds: Vec<&str> = told.iter().map(|mount| mount.kind.as_str()).collect();
    report.same("killed: lines", kinds, vec!["mount_writers"]);
    check(report, "killed", &told, skips);
    Ok(())
}

fn flown(attach: &str, skips: bool, report: &mut Report) -> Result<()> {
    let mut log = KernelLog::open()?;
    let name = format!("{DIR}/flight.nst");
    let recorder = record(attach, &["-o", &name, "--flight", "1s", "--redact"])?;
    unbalance()?;
    thread::sleep(Duration::from_millis(1500));
    unmount()?;
    let name = format!("{DIR}/flight.000001.nst");
    wait_for(&name)?;
    recorder.signal(libc::SIGINT)?;
    recorder.finish(PATIENCE)?;
    warned(&mut log, "flight", report)?;
    let deaths = deaths(&name)?;
    check(report, "flight", &deaths, skips);
    for death in &deaths {
        let secrets = [&death.comm, &death.point, &death.root, &death.source];
        let are_out = secrets.iter().all(|text| text.is_empty() || *text == "/");
        report.check(are_out, || format!("redacted: {death:?}"));
    }
    Ok(())
}

fn warned(log: &mut KernelLog, what: &str, report: &mut Report) -> Result<()> {
    let warned = Unbalanced::all(&log.read()?);
    report.same(format!("{what}: warnings of the kernel"), warned.len(), 1);
    let is_of = |warning: &Unbalanced| warning.is_of(-EXTRA as i32);
    report.check(warned.iter().all(is_of), || format!("{what}: {warned:?}"));
    Ok(())
}

fn check(report: &mut Report, what: &str, deaths: &[Death], skips: bool) {
    let writers: Vec<i64> = deaths.iter().map(|death| death.writers).collect();
    report.same(format!("{what}: writers"), writers, vec![-EXTRA]);
    let Some(death) = deaths.first() else { return };
    let Some(verdict) = &death.verdict else {
        report.add(format!("{what}: no verdict"));
        return;
    };
    if skips && verdict.doubts.iter().any(|doubt| doubt == "skipped") {
        return;
    }
    report.same(
        format!("{what}: functions"),
        named(death),
        vec![("nswtest_extra_drop", -EXTRA)],
    );
    report.same(format!("{what}: sum"), verdict.sum, -EXTRA);
    report.same(format!("{what}: doubts"), verdict.doubts.len(), 0);
}
