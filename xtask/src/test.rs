//! Everything that must pass: format, lints, the tests of this machine, and the
//! tests in guests over the matrix of kernels.
//!
//! A step that fails does not stop the others; whoever reads the report wants to
//! know all of it. The last line is `N passed, N failed`, for people and for
//! machines that look at nothing else.

use std::io::{self, BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kernel::{self, Kernel};
use crate::qemu::Machine;
use crate::tally::{self, Lines, Row, Tally};
use crate::vm::{self, Guest, Outcome};
use crate::{build, setup};

/// As many as CI has cores; each guest keeps more than one busy at times.
const GUESTS_AT_ONCE: usize = 2;

/// Below this, the matrix proves too little.
const SERIES_MIN: usize = 4;

/// What the tests need that is not in the kernels themselves: interfaces for the
/// namespaces of docs/cases/slow-container-start.sh.
const MODULES: &[&str] = &["dummy"];

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
}

/// Runs the tests; true if all passed.
pub fn run(options: &Options) -> Result<bool> {
    let mut rows = Vec::new();
    if options.host {
        setup::all()?;
        rows.extend(host_rows(options)?);
    }
    if options.vm {
        setup::all()?;
        rows.extend(guest_rows(options)?);
    }
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
        for series in matrix(options) {
            writeln!(out, "guest  {series}: {}", guest_command(options))?;
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
    host_steps(options)
        .iter()
        .map(|words| host_row(words))
        .collect()
}

fn host_row(words: &[&str]) -> Result<Row> {
    let place = format!("cargo {}", words[0]);
    println!("{place}");
    let started = Instant::now();
    let mut child = build::cargo(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{place}: cannot start"))?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        tally.count_cargo_line(&line);
        println!("{line}");
    }
    let status = child.wait()?;
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

fn guest_command(options: &Options) -> String {
    let mut command = format!("exec {} test", build::GUEST_PROGRAM);
    if let Some(attach) = &options.attach {
        command += &format!(" --attach {}", vm::quote(attach));
    }
    if let Some(name) = &options.name {
        command += &format!(" {}", vm::quote(name));
    }
    command
}

fn guest_rows(options: &Options) -> Result<Vec<Row>> {
    build::build(&[build::NSTRACE, build::GUEST_PROGRAM], true)?;
    let (kernels, mut rows) = kernels(options);
    let command = guest_command(options);
    let next = Mutex::new(kernels.iter());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || {
            // The lock is for taking one, not for the whole of the body.
            while let Some((series, kernel)) = { next.lock().unwrap().next() } {
                let row = guest_row(series, kernel, &command, options.name.is_some());
                done.lock().unwrap().push(row);
            }
        };
        for _ in 0..GUESTS_AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut ran = done.into_inner().unwrap();
    ran.sort_by_key(|row| kernels.iter().position(|(s, k)| row.place == place(s, k)));
    rows.extend(ran);
    Ok(rows)
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
    }
}

fn place(series: &str, kernel: &Kernel) -> String {
    match kernel.version().starts_with(series) {
        true => format!("Linux {}", kernel.version()),
        false => format!("Linux {} ({series})", kernel.version()),
    }
}

fn guest_row(series: &str, kernel: &Kernel, command: &str, is_narrowed: bool) -> Row {
    let started = Instant::now();
    let mut tally = Tally::default();
    let result = run_guest(kernel, command, &mut tally);
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
        place: place(series, kernel),
        tally,
        took: started.elapsed(),
        note,
    }
}

fn run_guest(kernel: &Kernel, command: &str, tally: &mut Tally) -> Result<Outcome> {
    let guest = Guest {
        kernel: kernel.clone(),
        machine: Machine::default(),
        timeout: TIMEOUT,
        adds: Vec::new(),
        modules: MODULES.iter().map(|name| name.to_string()).collect(),
        command: Some(command.to_owned()),
    };
    let prefix = format!("{:9} ", kernel.version());
    let mut out = Lines::new(io::stdout(), prefix.clone(), |line| {
        tally.count_guest_line(line)
    });
    let mut err = Lines::new(io::stderr(), prefix, |_| ());
    let outcome = vm::run(&guest, &mut out, &mut err)?;
    out.finish()?;
    err.finish()?;
    Ok(outcome)
}
