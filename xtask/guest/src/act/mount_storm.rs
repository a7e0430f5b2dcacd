//! The storm of mounts: workers in mount namespaces of their own mount, bind, move, remount and
//! unmount; what they do in a directory that is shared goes from one to the other. Each leaves
//! namespaces behind: with a task, with a task whose root is another one, with another owner,
//! and such that only a descriptor or a bind mount holds. Then all is at rest until the storm
//! is told to go.
//!
//! On stdout it says `at rest` and `gone`; a line on stdin, or its end, lets it go. A seed gives
//! the same decisions, but for what comes from others in between.
//!
//! In a directory are then, for each namespace: `INUM.mountinfo`, which is that of who is at
//! its root; and for those of workers `INUM.own`, the mount points that must be below the
//! worker's own directory, by its own book, each with a NUL behind it.

mod calls;
mod left;
mod own;
mod shared;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::keeper;
use crate::kinds::NEWNS;
use crate::procfs::{self, Procfs};
use crate::rng::Rng;
use crate::sys::{self, Call, End};

use calls::mount;
use left::Left;
use own::Own;

/// The words of `act mount-storm`.
#[derive(Args, Clone, Debug)]
pub struct StormArgs {
    /// The same seed gives the same decisions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Processes that work at the same time
    #[arg(long, default_value_t = 6)]
    workers: u64,
    /// What each of them does
    #[arg(long, default_value_t = 150)]
    ops: u64,
    /// Where to write down what there is then
    #[arg(long)]
    book: PathBuf,
}

/// Where the storm is.
const DIR: &str = "/run/nstrace-mounts";

/// Below it: what is shared, and what each worker has alone.
pub const SHARED: &str = "/run/nstrace-mounts/shared";
pub const OWN: &str = "/run/nstrace-mounts/own";

/// Runs the storm.
pub fn run(args: &StormArgs) -> Result<()> {
    ensure!(args.workers > 0, "no workers");
    fs::create_dir_all(&args.book)?;
    fs::create_dir_all(DIR)?;
    mount(b"storm", DIR.as_bytes(), b"tmpfs", 0, b"mode=755")?;
    mount(b"", DIR.as_bytes(), b"", libc::MS_PRIVATE, b"")?;
    for dir in [SHARED, OWN] {
        fs::create_dir(dir)?;
        mount(b"storm", dir.as_bytes(), b"tmpfs", 0, b"")?;
    }
    mount(b"", SHARED.as_bytes(), b"", libc::MS_SHARED, b"")?;
    let (said, say) = sys::pipe()?;
    let (calm, go_on) = sys::pipe()?;
    let (hold, release) = sys::pipe()?;
    let mut ends = Some((said, go_on, release));
    let mut workers = Vec::new();
    for worker in 0..args.workers {
        let pid = sys::spawn(Call::Fork, 0, || {
            ends = None;
            sys::die_with_parent();
            let worked = work(args, worker, &say, &calm, &hold);
            if worked.is_err() {
                // The others wait; nobody would hear of it.
                let _ = (&say).write_all(b"failed\n");
            }
            keeper::status(worked)
        });
        ensure!(pid > 0, "cannot fork a worker: errno {}", -pid);
        workers.push(pid);
    }
    drop((say, calm, hold));
    let (said, go_on, release) = ends.context("no pipes")?;
    let mut lines = BufReader::new(said).lines();
    let mut all_say = |word: &str| -> Result<()> {
        for _ in &workers {
            let line = lines.next().context("a worker is gone")??;
            ensure!(line == word, "a worker {line}");
        }
        Ok(())
    };
    all_say("worked")?;
    drop(go_on);
    all_say("booked")?;
    tell("at rest")?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    drop(release);
    let ends: std::io::Result<Vec<End>> = workers.into_iter().map(sys::wait).collect();
    let is_good = ends?.iter().all(|end| *end == End::Code(0));
    calls::unmount(DIR.as_bytes(), true).context("umount of the storm")?;
    fs::remove_dir(DIR).context(DIR)?;
    ensure!(is_good, "a worker failed");
    tell("gone")
}

fn tell(word: &str) -> Result<()> {
    println!("{word}");
    std::io::stdout().flush()?;
    Ok(())
}

/// Waits until nobody has the other end of a pipe.
fn wait_for_end(mut pipe: &fs::File) -> Result<()> {
    ensure!(pipe.read(&mut [0])? == 0, "a word where none is said");
    Ok(())
}

fn work(
    args: &StormArgs,
    worker: u64,
    mut say: &fs::File,
    calm: &fs::File,
    hold: &fs::File,
) -> Result<()> {
    sys::set_comm(format!("mounts-{worker}").as_bytes());
    let procfs = Procfs::open()?;
    // The first stays where it is.
    if worker > 0 {
        let ret = sys::unshare(NEWNS);
        ensure!(ret == 0, "unshare of a worker: errno {}", -ret);
    }
    match worker % 4 {
        1 => mount(b"", b"/", b"", libc::MS_REC | libc::MS_SLAVE, b"")?,
        2 => mount(b"", b"/", b"", libc::MS_REC | libc::MS_PRIVATE, b"")?,
        _ => {}
    }
    let rng = Rng::default();
    rng.seed(args.seed.wrapping_mul(1000) + worker);
    let mut own = Own::new(format!("{OWN}/{worker}").as_bytes())?;
    for _ in 0..args.ops {
        match rng.one_in(2) {
            true => own.step(&rng)?,
            false => shared::step(&procfs, &rng)?,
        }
    }
    let left = left::leave(&procfs, worker, &mut own, hold)?;
    say.write_all(b"worked\n")?;
    wait_for_end(calm)?;
    book(args, &procfs, &own, &left)?;
    say.write_all(b"booked\n")?;
    wait_for_end(hold)?;
    left.into_iter().try_for_each(Left::release)
}

/// Writes down what there is, now that all is at rest.
fn book(args: &StormArgs, procfs: &Procfs, own: &Own, left: &[Left]) -> Result<()> {
    let inum = procfs::inum_of_link(&procfs.link("thread-self/ns/mnt")?).context("a link")?;
    write_mounts(&args.book, inum, &bytes(procfs, "thread-self/mountinfo")?)?;
    fs::write(args.book.join(format!("{inum}.own")), own.book())?;
    for one in left {
        write_mounts(&args.book, one.inum, &one.mountinfo(procfs)?)?;
    }
    Ok(())
}

fn write_mounts(book: &Path, inum: u32, mountinfo: &[u8]) -> Result<()> {
    Ok(fs::write(
        book.join(format!("{inum}.mountinfo")),
        mountinfo,
    )?)
}

/// A file of proc, whatever bytes it has.
fn bytes(procfs: &Procfs, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    procfs.file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
