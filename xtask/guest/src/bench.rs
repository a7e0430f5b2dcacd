//! The load whose cost `cargo xtask bench` measures, and the measuring of one
//! tracer. Meant for a guest that counts instructions (`vm --icount`), where a
//! nanosecond is an instruction; elsewhere the figures are nanoseconds.
//!
//! Two figures per operation. In path: the time of the load and its children. Wall:
//! the time that passes on one processor, the tracer's work included. The tracer
//! gathers records and does part of its work when a short load is over; that part
//! is added, or a tracer would look better the later it works.

mod clock;
mod tracer;
mod writers;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::sys::{self, Call, End};
use clock::{Pid, sleep_ms};
use tracer::{Kind, Reports, Tracer};

/// For this long the kernel still works off its boot: a fork costs 277,000
/// instructions before and 153,000 after. An idle guest that counts takes no time.
const SETTLE_MS: u64 = 20_000;

/// How long after its start a tracer counts as at rest.
const REST_MS: u64 = 1_000;

/// Operations as fast as possible, more than the default ring can hold.
const BURST_OPS: u64 = 42_000;

/// What a load does again and again, and how often when a tracer is measured.
const LOADS: [(Load, u64); 3] = [
    (Load::Fork, 1_000),
    (Load::Unshare, 2_000),
    (Load::Setns, 2_000),
];

/// The words of `nstrace-guest bench`.
#[derive(Subcommand)]
pub enum Bench {
    /// Fork a child that exits at once, and wait for it
    Fork(LoadArgs),
    /// unshare(CLONE_NEWUTS)
    Unshare(LoadArgs),
    /// Two setns: to a uts namespace and back
    Setns(LoadArgs),
    /// Open, append and close, with and without the ledger of write access
    Writers,
    /// Measure one tracer with all loads
    Tracer {
        /// Which
        kind: Kind,
    },
}

/// How much load, and who is watched.
#[derive(Args)]
pub struct LoadArgs {
    /// Operations, after as many to warm up
    ops: u64,
    /// The process that traces: what its work costs is printed too
    #[arg(long, value_name = "PID")]
    watch: Option<u32>,
}

#[derive(Clone, Copy)]
enum Load {
    Fork,
    Unshare,
    Setns,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Fork => "fork",
            Load::Unshare => "unshare",
            Load::Setns => "setns",
        }
    }
}

/// Runs a load, or measures a tracer; prints what came out.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Fork(args) => print_cost(Load::Fork, args),
        Bench::Unshare(args) => print_cost(Load::Unshare, args),
        Bench::Setns(args) => print_cost(Load::Setns, args),
        Bench::Tracer { kind } => measure(*kind),
        Bench::Writers => writers::measure(),
    }
}

/// What an operation costs, in ns or instructions.
struct Cost {
    wall: u64,
    cpu: u64,
    /// Of the tracer, during the load and after it.
    tracer: Option<u64>,
}

fn print_cost(load: Load, args: &LoadArgs) -> Result<()> {
    let cost = cost(load, args)?;
    print!("wall {} cpu {}", cost.wall, cost.cpu);
    match cost.tracer {
        Some(tracer) => println!(" tracer {tracer}"),
        None => println!(),
    }
    Ok(())
}

fn cost(load: Load, args: &LoadArgs) -> Result<Cost> {
    ensure!(args.ops > 0, "no operations");
    let work = prepare(load)?;
    let watched = args.watch.map(Pid);
    let quiet = || watched.map(Pid::rest).transpose();
    work(args.ops)?;
    let tracer_before = quiet()?;
    let cpu_before = clock::own_and_children_ns()?;
    let started = sys::monotonic_ns();
    work(args.ops)?;
    let wall = sys::monotonic_ns() - started;
    let cpu = clock::own_and_children_ns()? - cpu_before;
    let tracer_then = watched.map(Pid::cpu_ns).transpose()?;
    let tracer_after = quiet()?;
    let late = difference(tracer_then, tracer_after).unwrap_or(0);
    let per_op = |ns: u64| (ns + args.ops / 2) / args.ops;
    Ok(Cost {
        wall: per_op(wall + late),
        cpu: per_op(cpu),
        tracer: difference(tracer_before, tracer_after).map(per_op),
    })
}

fn difference(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

/// A function that does so many operations.
fn prepare(load: Load) -> Result<Box<dyn Fn(u64) -> Result<()>>> {
    Ok(match load {
        Load::Fork => Box::new(|ops| (0..ops).try_for_each(|_| fork_and_wait())),
        Load::Unshare => Box::new(|ops| (0..ops).try_for_each(|_| unshare_uts())),
        Load::Setns => {
            let there = own_uts()?;
            unshare_uts()?;
            let back = own_uts()?;
            Box::new(move |ops| {
                (0..ops).try_for_each(|_| setns(&there).and_then(|()| setns(&back)))
            })
        }
    })
}

fn fork_and_wait() -> Result<()> {
    let pid = sys::spawn(Call::Fork, 0, || 0);
    ensure!(pid > 0, "fork: errno {}", -pid);
    let end = sys::wait(pid).context("waitpid")?;
    ensure!(end == End::Code(0), "a child ended with {end:?}");
    Ok(())
}

fn unshare_uts() -> Result<()> {
    let ret = sys::unshare(libc::CLONE_NEWUTS as u64);
    ensure!(ret == 0, "unshare: errno {}", -ret);
    Ok(())
}

fn own_uts() -> Result<File> {
    File::open("/proc/self/ns/uts").context("/proc/self/ns/uts: cannot open")
}

fn setns(target: &File) -> Result<()> {
    let ret = sys::setns(target.as_raw_fd(), 0);
    ensure!(ret == 0, "setns: errno {}", -ret);
    Ok(())
}

/// Prints a line per figure: what is measured, then pairs of a word and a number.
///
/// What the loads cost with nothing attached is measured in the same guest: between two
/// guests a fork differs by 1,000 instructions, which is as much as a tracer may add. Before
/// and after, because within one guest it drifts by as much: a fork that follows others
/// costs more, whoever is attached.
fn measure(kind: Kind) -> Result<()> {
    sleep_ms(SETTLE_MS);
    measure_loads("bare-", None)?;
    let tracer = Tracer::start(kind)?;
    println!("start cpu {} wall {}", tracer.start_cpu, tracer.start_wall);
    sleep_ms(REST_MS);
    println!("memory kb {}", tracer.pid.rss_kb()?);
    // The kernel works off the start of a tracer too.
    sleep_ms(SETTLE_MS);
    measure_loads("", Some(tracer.pid))?;
    tracer.stop()?;
    sleep_ms(SETTLE_MS);
    measure_loads("after-", None)?;
    measure_burst(kind)
}

fn measure_burst(kind: Kind) -> Result<()> {
    let tracer = Tracer::start(kind)?;
    sleep_ms(REST_MS);
    (0..BURST_OPS).try_for_each(|_| unshare_uts())?;
    tracer.pid.rest()?;
    let Reports { reported, lost } = tracer.stop()?;
    println!("burst done {BURST_OPS} reported {reported} lost {lost}");
    Ok(())
}

/// Each in a process of its own, that is small and has no other children.
fn measure_loads(prefix: &str, watched: Option<Pid>) -> Result<()> {
    for (load, ops) in LOADS {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", load.name(), &ops.to_string()]);
        // Who watches has touched more pages, which each fork then copies: without a
        // tracer the init is watched, which does nothing.
        let Pid(pid) = watched.unwrap_or(Pid(1));
        command.args(["--watch", &pid.to_string()]);
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(
            output.status.success(),
            "{}: {}",
            load.name(),
            output.status
        );
        print!(
            "{prefix}{} {}",
            load.name(),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}
