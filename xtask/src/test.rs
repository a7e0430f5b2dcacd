//! Everything that must pass: format, lints, the tests of this machine, and the
//! tests in guests over the matrix of kernels.
//!
//! A step that fails does not stop the others; whoever reads the report wants to
//! know all of it. The last line is `N passed, N failed`, for people and for
//! machines that look at nothing else.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kernel::{self, Kernel};
use crate::qemu::Machine;
use crate::tally::{self, Lines, Row, Tally, Tests};
use crate::vm::{self, Guest, Outcome};
use crate::{build, exports, fuzz, kbuild, process, project, setup};

/// As many as CI has cores, while the host's part is at work, and one more then: a guest keeps
/// three quarters of one busy.
const GUESTS_AT_ONCE: usize = 2;

/// The ways of attaching.
pub const ATTACH: [&str; 2] = ["fentry", "kprobe"];

/// What stands before lines of the host's part.
const HOST: &str = "host     ";

/// How long each fuzz target runs, and how many inputs it tries in the long mode.
const FUZZ_SECONDS: u32 = 30;
const FUZZ_RUNS: u32 = 1_000_000;

/// Below this, the matrix proves too little.
const SERIES_MIN: usize = 4;

/// What the tests need that is not in the kernels themselves: interfaces for the
/// namespaces of docs/cases/slow-container-start.sh.
const MODULES: &[&str] = &["dummy"];

/// The kernels for which the tests' own modules must be there: a test that is skipped on all
/// others, because Debian has no headers for them, proves nothing.
const OWN_MODULES_ON: &[&str] = &["6.1", "6.12", kernel::NEWEST];

/// Long enough for all tests on the slowest kernel, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(2400);

/// What to run.
pub struct Options {
    /// Series to test on; empty for the matrix.
    pub kernels: Vec<String>,
    /// Only this way of attaching.
    pub attach: Option<String>,
    /// Run the host's part.
    pub host: bool,
    /// Run the guests.
    pub vm: bool,
    /// Only tests whose name contains this.
    pub name: Option<String>,
    /// Take more time where more shows more.
    pub long: bool,
}

/// Runs the tests; true if all passed. The host's part and the guests run side by side:
/// linking keeps one processor busy, a guest does not always keep one.
pub fn run(options: &Options) -> Result<bool> {
    setup::all()?;
    // Nothing is sent: it is closed when the host's part has ended.
    let (at_work, host_ended) = mpsc::channel::<()>();
    let (host, guests) = thread::scope(|scope| {
        let host = move || {
            let _at_work = at_work;
            host_rows(options)
        };
        let host = options.host.then(|| scope.spawn(host));
        let guests = options.vm.then(|| guest_rows(options, host_ended));
        let host = host.map(|thread| thread.join().expect("a panic has been reported"));
        (host, guests)
    });
    let mut rows = host.transpose()?.unwrap_or_default();
    rows.extend(guests.transpose()?.unwrap_or_default());
    let sum = tally::print(&rows, &mut io::stdout())?;
    Ok(sum.failed == 0)
}

/// Prints what `run` would do.
pub fn list(options: &Options) -> Result<()> {
    let mut out = io::stdout().lock();
    if options.host {
        for words in host_steps(options) {
            writeln!(out, "host   cargo {}", words.join(" "))?;
        }
    }
    if options.vm {
        for (series, run) in pairs(&matrix(options), options) {
            writeln!(out, "guest  {series}: {}", guest_command(options, run))?;
        }
    }
    Ok(())
}

/// The kernel side is left out: it is another target's, and nstrace's build
/// script builds it.
fn host_steps(options: &Options) -> Vec<Vec<&str>> {
    let workspace = ["--workspace", "--exclude", "nstrace-ebpf"];
    let lint = [
        &["clippy", "--quiet"],
        &workspace[..],
        &["--all-targets", "--", "-D", "warnings"],
    ];
    let mut test = [&["test"], &workspace[..]].concat();
    test.extend(options.name.as_deref());
    vec![vec!["fmt", "--all", "--check"], lint.concat(), test]
}

fn host_rows(options: &Options) -> Result<Vec<Row>> {
    let steps = host_steps(options);
    let rows: Result<Vec<Row>> = steps.iter().map(|words| host_row(words)).collect();
    let mut rows = rows?;
    rows.extend(export_rows(options));
    rows.extend(fuzz_rows(options));
    Ok(rows)
}

/// Whether a step of the host's part is wanted.
fn is_wanted(options: &Options, name: &str) -> bool {
    let part = options.name.as_ref();
    part.is_none_or(|part| name.contains(part))
}

/// What other programs make of exports.
fn export_rows(options: &Options) -> Vec<Row> {
    let wanted = exports::Check::ALL
        .into_iter()
        .filter(|check| is_wanted(options, check.name()));
    wanted
        .map(|check| step_row(check.name().to_owned(), || check.run()))
        .collect()
}

/// A step that is a test by itself.
fn step_row(place: String, run: impl FnOnce() -> Result<()>) -> Row {
    println!("{HOST} {place}");
    let started = Instant::now();
    let failure = run().map_err(report).err();
    Row {
        place,
        tally: match failure {
            None => Tally::SUCCESS,
            Some(_) => Tally::FAILURE,
        },
        took: started.elapsed(),
        note: String::new(),
        failures: lines_of(failure),
    }
}

fn lines_of(failure: Option<String>) -> Vec<String> {
    let lines = failure.iter().flat_map(|text| text.lines());
    lines.map(str::to_owned).collect()
}

/// Hostile bytes, for as long as is asked.
fn fuzz_rows(options: &Options) -> Vec<Row> {
    let effort = match options.long {
        true => fuzz::Effort::Runs(FUZZ_RUNS),
        false => fuzz::Effort::Seconds(FUZZ_SECONDS),
    };
    let named = fuzz::TARGETS
        .iter()
        .map(|target| (target, format!("fuzz {}", target.name)));
    let mut wanted = named
        .filter(|(_, name)| is_wanted(options, name))
        .peekable();
    if wanted.peek().is_none() {
        return Vec::new();
    }
    let mut rows = vec![step_row("fuzz build".to_owned(), fuzz::build)];
    if rows[0].tally == Tally::SUCCESS {
        rows.extend(wanted.map(|(target, name)| step_row(name, || fuzz::run(target, effort))));
    }
    rows
}

fn report(error: anyhow::Error) -> String {
    let text = format!("{error:#}");
    eprintln!("xtask: {text}");
    text
}

fn host_row(words: &[&str]) -> Result<Row> {
    let place = format!("cargo {}", words[0]);
    println!("{HOST} {place}");
    let started = Instant::now();
    let mut child = build::cargo(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{place}: cannot start"))?;
    let mut tests = Tests::default();
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        tests.take_cargo_line(&line);
        println!("{HOST} {line}");
    }
    let status = child.wait()?;
    let Tests {
        mut tally,
        failures,
        ..
    } = tests;
    let mut note = String::new();
    if !status.success() && tally.failed == 0 {
        tally += Tally::FAILURE;
        note = status.to_string();
    } else if tally.total() == 0 {
        tally += Tally::SUCCESS;
    }
    Ok(Row {
        place,
        tally,
        took: started.elapsed(),
        note,
        failures,
    })
}

/// The series to test on. Newer kernels have more to do and take longer: they
/// start first, so that no long one is left alone at the end.
fn matrix(options: &Options) -> Vec<String> {
    match options.kernels.as_slice() {
        [] => kernel::MATRIX
            .iter()
            .rev()
            .map(|series| series.to_string())
            .collect(),
        some => some.to_vec(),
    }
}

/// What one guest runs: the tests with one way of attaching. As many guests as that, so
/// that none is long and the last ones end together.
#[derive(Clone, Copy)]
struct Run<'a> {
    attach: &'a str,
    /// Another guest of this kernel does what attaches nothing.
    is_again: bool,
}

fn runs(options: &Options) -> Vec<Run<'_>> {
    let ways = match &options.attach {
        Some(only) => vec![only.as_str()],
        None => ATTACH.to_vec(),
    };
    let numbered = ways.into_iter().enumerate();
    let run = |(index, attach)| Run {
        attach,
        is_again: index > 0,
    };
    numbered.map(run).collect()
}

/// Each of them with each run.
fn pairs<'a, T>(all: &'a [T], options: &'a Options) -> Vec<(&'a T, Run<'a>)> {
    let with_runs = |one| runs(options).into_iter().map(move |run| (one, run));
    all.iter().flat_map(with_runs).collect()
}

fn guest_command(options: &Options, run: Run<'_>) -> String {
    let mut command = format!("exec {} test --attach {}", build::GUEST_PROGRAM, run.attach);
    if run.is_again {
        command += " --again";
    }
    if let Some(name) = &options.name {
        command += &format!(" {}", vm::quote(name));
    }
    command
}

fn guest_rows(options: &Options, host_ended: mpsc::Receiver<()>) -> Result<Vec<Row>> {
    build::build(&[build::NSTRACE, build::GUEST_PROGRAM], true)?;
    let modules = own_modules(options)?;
    let (kernels, mut rows) = kernels(options);
    let all = pairs(&kernels, options);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || {
            loop {
                let at = next.fetch_add(1, Relaxed);
                let Some(((series, kernel), run)) = all.get(at) else {
                    break;
                };
                let command = guest_command(options, *run);
                let is_narrowed = options.name.is_some();
                let row = guest_row(series, kernel, run.attach, &command, &modules, is_narrowed);
                done.lock().unwrap().push((at, row));
            }
        };
        for _ in 0..GUESTS_AT_ONCE {
            scope.spawn(work);
        }
        scope.spawn(move || {
            let _closed = host_ended.recv();
            work();
        });
    });
    let mut ran = done.into_inner().unwrap();
    ran.sort_by_key(|(at, _)| *at);
    rows.extend(ran.into_iter().map(|(_, row)| row));
    Ok(rows)
}

/// The modules of ours that the wanted tests name.
fn own_modules(options: &Options) -> Result<Vec<String>> {
    let mut command = Command::new(project::artefact("release", build::GUEST_PROGRAM));
    command.args(["test", "--modules"]).args(&options.name);
    // It fails if there is no test of that name, which each guest says.
    let said = process::try_output(&mut command)?;
    let names = String::from_utf8_lossy(&said.stdout);
    Ok(names.lines().map(str::to_owned).collect())
}

type Named = (String, Kernel);

/// The kernels that can be had, each once, and rows about those that cannot.
fn kernels(options: &Options) -> (Vec<Named>, Vec<Row>) {
    let mut kernels: Vec<Named> = Vec::new();
    let mut rows = Vec::new();
    let is_matrix = options.kernels.is_empty();
    for series in matrix(options) {
        match kernel::get(&series) {
            Ok(kernel)
                if kernels
                    .iter()
                    .any(|(_, known)| known.release == kernel.release) => {}
            Ok(kernel) => kernels.push((series, kernel)),
            Err(error) => {
                let tally = if is_matrix {
                    Tally::default()
                } else {
                    Tally::FAILURE
                };
                rows.push(note(series, tally, format!("left out: {error:#}")));
            }
        }
    }
    if is_matrix && kernels.len() < SERIES_MIN {
        let what = format!(
            "only {} series could be had, {SERIES_MIN} must",
            kernels.len()
        );
        rows.push(note("matrix".to_owned(), Tally::FAILURE, what));
    }
    (kernels, rows)
}

fn note(place: String, tally: Tally, note: String) -> Row {
    Row {
        place,
        tally,
        took: Duration::ZERO,
        note,
        failures: Vec::new(),
    }
}

fn place(series: &str, kernel: &Kernel) -> String {
    match kernel.version().starts_with(series) {
        true => format!("Linux {}", kernel.version()),
        false => format!("Linux {} ({series})", kernel.version()),
    }
}

fn guest_row(
    series: &str,
    kernel: &Kernel,
    attach: &str,
    command: &str,
    modules: &[String],
    is_narrowed: bool,
) -> Row {
    let started = Instant::now();
    let mut tests = Tests::default();
    let must = OWN_MODULES_ON.contains(&series)
        || OWN_MODULES_ON.contains(&kernel::series_of(&kernel.release));
    let result = kbuild::for_tests(kernel, modules, must)
        .and_then(|adds| run_guest(kernel, attach, command, adds, &mut tests));
    let Tests {
        mut tally,
        failures,
        ..
    } = tests;
    let note = match result {
        Ok(Outcome::Exit(0)) if tally.total() == 0 && is_narrowed => "no such test".to_owned(),
        Ok(Outcome::Exit(0)) if tally.total() > 0 => String::new(),
        Ok(Outcome::Exit(_)) if tally.failed > 0 => String::new(),
        Ok(Outcome::Exit(code)) => {
            tally += Tally::FAILURE;
            format!("exit status {code} after {} tests", tally.total() - 1)
        }
        Ok(Outcome::Failed(failure)) => {
            tally += Tally::FAILURE;
            eprintln!("xtask: {failure}");
            failure.what
        }
        Err(error) => {
            tally += Tally::FAILURE;
            format!("{error:#}")
        }
    };
    Row {
        place: format!("{} {attach}", place(series, kernel)),
        tally,
        took: started.elapsed(),
        note,
        failures,
    }
}

fn run_guest(
    kernel: &Kernel,
    attach: &str,
    command: &str,
    adds: Vec<(PathBuf, String)>,
    tests: &mut Tests,
) -> Result<Outcome> {
    let guest = Guest {
        kernel: kernel.clone(),
        machine: Machine::default(),
        timeout: TIMEOUT,
        adds,
        modules: MODULES.iter().map(|name| name.to_string()).collect(),
        command: Some(command.to_owned()),
    };
    let prefix = format!("{:9} {attach} ", kernel.version());
    let mut out = Lines::new(io::stdout(), prefix.clone(), |line| {
        tests.take_guest_line(line)
    });
    let mut err = Lines::new(io::stderr(), prefix, |_| ());
    let outcome = vm::run(&guest, &mut out, &mut err)?;
    out.finish()?;
    err.finish()?;
    Ok(outcome)
}
