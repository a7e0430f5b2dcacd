//! What nstrace costs, beside bpftrace on the same load, and whether that is within
//! the budgets.
//!
//! Guests count instructions instead of time, so a busy machine changes nothing.
//! One guest per tracer and seed, one after the other: nothing that a tracer leaves
//! behind in the kernel reaches the next row.

mod budget;
mod figures;
pub mod readers;
mod table;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kernel::{self, Kernel};
use crate::qemu::Machine;
use crate::vm::{self, Guest, Outcome};
use crate::{build, packages, process, setup};

use figures::Figures;
use table::Row;

/// On a busy machine: a guest takes 20 to 45 s on an idle one.
const TIMEOUT: Duration = Duration::from_secs(600);

/// bpftrace's libraries alone are 200 MB.
const MEMORY_MB: u32 = 1536;

const PEER: &str = "bpftrace";

/// What to measure.
pub struct Options {
    /// On this series.
    pub kernel: String,
    /// One run each; the figures are medians.
    pub seeds: Vec<u64>,
    /// A nstrace that is there, instead of a new build.
    pub nstrace: Option<PathBuf>,
}

/// Who is measured, and how it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracer {
    NstraceFentry,
    NstraceKprobe,
    BpftraceFentry,
    BpftraceKprobe,
}

impl Tracer {
    /// As `nstrace-guest bench tracer` calls it.
    fn word(self) -> &'static str {
        match self {
            Tracer::NstraceFentry => "nstrace-fentry",
            Tracer::NstraceKprobe => "nstrace-kprobe",
            Tracer::BpftraceFentry => "bpftrace-fentry",
            Tracer::BpftraceKprobe => "bpftrace-kprobe",
        }
    }
}

/// Measures and prints the tables; true if all budgets are met.
pub fn run(options: &Options) -> Result<bool> {
    let programs = programs(options)?;
    let kernel = kernel::get(&options.kernel)?;
    let mut rows = Vec::new();
    for tracer in [Tracer::NstraceFentry, Tracer::NstraceKprobe] {
        rows.push(row(tracer, &kernel, &programs, &options.seeds)?);
    }
    let mut title = format!("Linux {}", kernel.version());
    match peer_rows(&kernel, programs, &options.seeds, &mut rows) {
        Ok(version) => title += &format!(", {version}"),
        // The budgets do not need it.
        Err(error) => eprintln!("xtask: without {PEER}: {error:#}"),
    }
    let seeds: Vec<String> = options.seeds.iter().map(u64::to_string).collect();
    println!("{title}, seed {}", seeds.join(" "));
    let verdicts = budget::verdicts(&rows)?;
    table::print(&rows, &verdicts, &mut io::stdout())?;
    Ok(verdicts.iter().all(|verdict| verdict.is_met()))
}

/// Adds the rows of bpftrace; returns its name and version (`bpftrace v0.17.0`).
fn peer_rows(
    kernel: &Kernel,
    mut programs: Vec<Copied>,
    seeds: &[u64],
    rows: &mut Vec<Row>,
) -> Result<String> {
    if process::find(PEER).is_none() {
        packages::install(&[PEER], "nstrace is measured beside it")?;
    }
    let path = process::find(PEER).context("installed, and not there")?;
    let version = process::text(process::command(PEER).arg("--version"))?;
    programs.push((path, format!("/usr/bin/{PEER}")));
    for tracer in [Tracer::BpftraceFentry, Tracer::BpftraceKprobe] {
        rows.push(row(tracer, kernel, &programs, seeds)?);
    }
    Ok(version.trim().to_owned())
}

fn row(tracer: Tracer, kernel: &Kernel, programs: &[Copied], seeds: &[u64]) -> Result<Row> {
    let mut runs = Vec::new();
    for seed in seeds {
        let name = format!("{}, seed {seed}", tracer.word());
        eprintln!("xtask: {name}");
        runs.push(measure(tracer, kernel, programs, *seed).context(name)?);
    }
    let figures = Figures::medians(&runs).context("no seed")?;
    Ok(Row { tracer, figures })
}

/// What goes into a guest: here, there.
type Copied = (PathBuf, String);

/// Our own programs. Given by name, because a guest by itself gets the newest build,
/// which may be one that is not optimised.
fn programs(options: &Options) -> Result<Vec<Copied>> {
    let mut packages = vec![build::GUEST_PROGRAM];
    match options.nstrace {
        Some(_) => setup::guests()?,
        None => {
            setup::all()?;
            packages.push(build::NSTRACE);
        }
    }
    let mut paths = build::build(&packages, true)?;
    paths.extend(options.nstrace.clone());
    let names = [build::GUEST_PROGRAM, build::NSTRACE];
    Ok(paths
        .into_iter()
        .zip(names.map(|name| format!("/usr/bin/{name}")))
        .collect())
}

fn measure(tracer: Tracer, kernel: &Kernel, adds: &[Copied], seed: u64) -> Result<Figures> {
    let guest = Guest {
        kernel: kernel.clone(),
        machine: Machine {
            memory_mb: MEMORY_MB,
            icount_seed: Some(seed),
            ..Machine::default()
        },
        timeout: TIMEOUT,
        adds: adds.to_vec(),
        modules: Vec::new(),
        command: Some(format!(
            "exec {} bench tracer {}",
            build::GUEST_PROGRAM,
            tracer.word()
        )),
    };
    let mut printed = Vec::new();
    match vm::run(&guest, &mut printed, &mut io::stderr())? {
        Outcome::Exit(0) => Figures::parse(&String::from_utf8_lossy(&printed)),
        Outcome::Exit(code) => bail!("exit status {code}; its own words are above"),
        Outcome::Failed(failure) => bail!("{failure}"),
    }
}
