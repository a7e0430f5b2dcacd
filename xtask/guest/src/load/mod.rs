//! The load: several workers that do operations of all kinds, mixed and nested,
//! among plain forks and threads that are none, and write down what they did.

mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::book::Book;
use crate::keeper;
use crate::procfs::Procfs;
use crate::recorder::Recorder;
use crate::rng::Rng;
use crate::sys::{self, Call, End};

use session::Session;

/// The words of `nstrace-guest load`.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Processes that work at the same time
    #[arg(long, default_value_t = 4)]
    pub workers: u64,
    /// Operations of all workers together
    #[arg(long, default_value_t = 2000)]
    pub ops: u64,
    /// The same seed gives the same operations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to write down what was done
    #[arg(long)]
    pub book: PathBuf,
}

/// The cgroup that the load runs in.
const CGROUP: &str = "/sys/fs/cgroup/nstrace-load";

/// What the tasks of a worker share.
#[derive(Debug, Default)]
struct Shared {
    rng: Rng,
    done: AtomicU64,
    quota: AtomicU64,
}

impl Shared {
    fn is_done(&self) -> bool {
        self.done.load(Relaxed) >= self.quota.load(Relaxed)
    }

    fn count(&self) {
        self.done.fetch_add(1, Relaxed);
    }
}

/// Runs the load.
pub fn run(args: &LoadArgs) -> Result<()> {
    ensure!(args.workers > 0, "no workers");
    enter_cgroup(Path::new(CGROUP))?;
    let mut workers = Vec::new();
    for worker in 0..args.workers {
        let ops = args.ops / args.workers + u64::from(worker < args.ops % args.workers);
        let pid = sys::spawn(Call::Fork, 0, || keeper::status(work(args, worker, ops)));
        ensure!(pid > 0, "cannot fork a worker: errno {}", -pid);
        workers.push(pid);
    }
    let ends: std::io::Result<Vec<End>> = workers.into_iter().map(sys::wait).collect();
    if ends?.iter().any(|end| *end != End::Code(0)) {
        bail!("a worker failed");
    }
    Ok(())
}

/// Moves this process into a cgroup, so that there is a path to be seen.
fn enter_cgroup(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::write(path.join("cgroup.procs"), "0"))
        .with_context(|| format!("{}: cannot enter", path.display()))
}

fn work(args: &LoadArgs, worker: u64, ops: u64) -> Result<()> {
    let shared: &'static Shared = sys::shared()?;
    shared.rng.seed(args.seed.wrapping_mul(1000) + worker);
    shared.quota.store(ops, Relaxed);
    let comm = format!("load-{worker}");
    let procfs = Procfs::open()?;
    while !shared.is_done() {
        keeper::keep(&procfs, |asker| {
            let book = Book::append(&args.book)?;
            let mut recorder = Recorder::new(Procfs::open()?, asker, book, &comm)?;
            Session::first(&mut recorder, shared)?.run()
        })?;
    }
    Ok(())
}
