//! The storm of namespaces: workers make, nest, enter, leave, pin and destroy sets of
//! them, processes are killed in the middle, and along the way something of each sort is
//! left alive. Then all is at rest until the storm is told to go.
//!
//! On stdout it says `begun`, `at rest` and `gone`; a line on stdin, or its end, lets it
//! go. A seed gives the same decisions; who is killed when is up to the scheduler.

mod family;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::holders::{self, Held, Place, SORTS};
use crate::keeper;
use crate::kinds::{KINDS, NEWNET, NEWNS, NEWTIME};
use crate::procfs::Procfs;
use crate::rng::Rng;
use crate::sys::{self, Call, End};

use family::Family;

/// The words of `act tree-storm`.
#[derive(Args, Clone, Debug)]
pub struct StormArgs {
    /// The same seed gives the same decisions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sets of namespaces that are made, of all workers together
    #[arg(long, default_value_t = 5000)]
    sets: u64,
    /// Processes that work at the same time
    #[arg(long, default_value_t = 8)]
    workers: u64,
    /// Holders that are left
    #[arg(long, default_value_t = 100)]
    left: u64,
    /// Where to write down what is left
    #[arg(long)]
    book: PathBuf,
    /// Goes on after the first half until this file is there
    #[arg(long)]
    until: Option<PathBuf>,
}

/// Where the workers have their directories.
const DIR: &str = "/run/nstrace-storm";

/// How far we stand back.
const NICE: i32 = 5;

/// How long the storm goes on until the file is there.
const LONGEST: Duration = Duration::from_secs(90);

/// Runs the storm.
pub fn run(args: &StormArgs) -> Result<()> {
    ensure!(args.workers > 0, "no workers");
    // There are so many of us that whoever looks at us would hardly get a processor.
    sys::set_nice(NICE)?;
    let started = Instant::now();
    let (said, say) = sys::pipe()?;
    let (hold, release) = sys::pipe()?;
    let mut ends = Some((said, release));
    let mut workers = Vec::new();
    for worker in 0..args.workers {
        let pid = sys::spawn(Call::Fork, 0, || {
            ends = None;
            sys::die_with_parent();
            let worked = work(args, worker, &say, &hold);
            if worked.is_err() {
                // The others wait; nobody would hear of it.
                let _ = (&say).write_all(b"failed\n");
            }
            keeper::status(worked)
        });
        ensure!(pid > 0, "cannot fork a worker: errno {}", -pid);
        workers.push(pid);
    }
    drop((say, hold));
    let (said, release) = ends.context("no pipes")?;
    tell("begun")?;
    let done: u64 = BufReader::new(said)
        .lines()
        .take(workers.len())
        .map(|line| line?.parse::<u64>().context("a worker failed"))
        .sum::<Result<u64>>()?;
    let seconds = started.elapsed().as_secs_f32();
    tell(&format!("at rest: {done} sets in {seconds:.1} s"))?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    drop(release);
    let ends: std::io::Result<Vec<End>> = workers.into_iter().map(sys::wait).collect();
    ensure!(
        ends?.iter().all(|end| *end == End::Code(0)),
        "a worker failed"
    );
    tell("gone")
}

fn tell(word: &str) -> Result<()> {
    println!("{word}");
    std::io::stdout().flush()?;
    Ok(())
}

/// How far a worker is. Its families count in it.
struct Progress<'a> {
    args: &'a StormArgs,
    done: &'static AtomicU64,
    quota: u64,
    started: Instant,
    /// The sets that were done when the second half began.
    second: Option<u64>,
}

impl Progress<'_> {
    /// Sets of the quota that are done; those between the halves do not count.
    fn counted(&mut self) -> u64 {
        let (done, half) = (self.done.load(Relaxed), self.quota / 2);
        if self.second.is_none() && done >= half && self.may_go_on() {
            self.second = Some(done);
        }
        match self.second {
            None => done.min(half),
            Some(begun) => half + (done - begun),
        }
    }

    fn may_go_on(&self) -> bool {
        let is_there = |path: &PathBuf| path.exists();
        self.args.until.as_ref().is_none_or(is_there) || self.started.elapsed() > LONGEST
    }
}

fn work(args: &StormArgs, worker: u64, mut say: &File, hold: &File) -> Result<()> {
    sys::set_comm(format!("storm-{worker}").as_bytes());
    sys::adopt_orphans();
    if worker % 2 == 1 {
        let ret = sys::unshare(NEWNS);
        ensure!(ret == 0, "unshare of a worker: errno {}", -ret);
    }
    let dir = Path::new(DIR).join(worker.to_string());
    let place = Place::new(Procfs::open()?, &dir)?;
    let rng = Rng::default();
    rng.seed(args.seed.wrapping_mul(1000) + worker);
    let mut progress = Progress {
        args,
        done: sys::shared::<AtomicU64>()?,
        quota: args.sets / args.workers,
        started: Instant::now(),
        second: None,
    };
    let mut held = Vec::new();
    let left = args.left / args.workers + u64::from(worker < args.left % args.workers);
    loop {
        let counted = progress.counted();
        while (held.len() as u64) < left * counted.min(progress.quota) / progress.quota {
            held.push(leave(&place, &rng, worker as usize + held.len())?);
        }
        if counted >= progress.quota {
            break;
        }
        raise_family(&rng, progress.done)?;
    }
    holders::book(&args.book, &place, &held)?;
    // In one write: the others have the same pipe.
    let done = format!("{}\n", progress.done.load(Relaxed));
    say.write_all(done.as_bytes())?;
    // Orphans may still come to us.
    while !sys::is_readable(hold, Duration::from_millis(20)) {
        reap();
    }
    held.into_iter().try_for_each(Held::release)?;
    place.remove()
}

/// Leaves a holder; the sorts take turns.
fn leave(place: &Place, rng: &Rng, turn: usize) -> Result<Held> {
    let (_, sort) = SORTS[turn % SORTS.len()];
    let flags = family::flags(rng, !NEWTIME);
    // Few net namespaces, but some.
    let flags = if rng.one_in(8) { flags | NEWNET } else { flags };
    place.make(sort, flags)
}

/// Waits for all that can be waited for.
fn reap() {
    while sys::wait_any(false).is_ok_and(|child| child.is_some()) {}
}

/// One family from its beginning to its end. Sometimes its first process is killed in
/// the middle, and what it leaves behind comes to us.
fn raise_family(rng: &Rng, done: &'static AtomicU64) -> Result<()> {
    let (alive, end) = sys::pipe()?;
    let mut ends = (Some(alive), Some(end));
    let seed = rng.next();
    let first = sys::spawn(Call::Fork, 0, || {
        // Of our descriptors they need one, by which we see that all of them are gone.
        let alive = ends.1.as_ref().map(AsRawFd::as_raw_fd);
        sys::close_others(alive.as_slice());
        Family::first(seed, done).map_or(1, |mut family| family.live())
    });
    ensure!(first > 0, "cannot fork a family: errno {}", -first);
    ends.1 = None;
    let alive = ends.0.context("no pipe")?;
    let patience = Duration::from_secs(60);
    let killed_after = rng
        .one_in(6)
        .then(|| Duration::from_millis(rng.below(12) as u64));
    if let Some(delay) = killed_after
        && !sys::is_readable(&alive, delay)
    {
        // It may have ended this very moment.
        let _ = sys::kill(first, libc::SIGKILL);
    }
    let started = Instant::now();
    while !sys::is_readable(&alive, Duration::from_millis(10)) {
        reap();
        ensure!(started.elapsed() < patience, "the family of {first} hangs");
    }
    reap();
    Ok(())
}

/// The CLONE_NEW* flag of a kind by its index.
fn flag(kind: usize) -> u64 {
    KINDS[kind].flag
}
