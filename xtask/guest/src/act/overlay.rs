//! Everything that takes write access to the upper layer of an overlay and gives it back: for
//! what nstrace says of writers, and when it must say nothing.
//!
//! A round is an overlay on an upper layer of its own. Workers, each on a processor of its own,
//! do all actions at once, some of them to the same files; then it is unmounted, in every other
//! round lazily, while files are open and mapped that are used once more before they are closed.

mod actions;
pub mod calls;
pub mod place;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use crate::keeper;
use crate::sys::{self, Call, End};

use actions::{ACTIONS, Done, Kept, Worker};
use place::Place;

/// The words of `act overlay-load`.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Where to mount
    #[arg(long, default_value = "/run/nstrace-overlay")]
    dir: PathBuf,
    /// Overlays, one after the other
    #[arg(long, default_value_t = 8)]
    rounds: u64,
    /// Processes at the same time
    #[arg(long, default_value_t = 2)]
    workers: u64,
    /// Of the order of actions
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The words of `act copy-up`.
#[derive(Args, Clone, Debug)]
pub struct CopyUpArgs {
    /// Where to mount
    #[arg(long, default_value = "/run/nstrace-overlay")]
    dir: PathBuf,
    /// Files of the lower layer that are appended to
    #[arg(long, default_value_t = 3)]
    files: u64,
    /// Remove an extended attribute from so many others
    #[arg(long, default_value_t = 0)]
    attributes: u64,
    /// Unmount with MNT_DETACH
    #[arg(long)]
    lazy: bool,
    /// Wait for a line on stdin before it is unmounted; says `done` before
    #[arg(long)]
    wait: bool,
}

/// What takes turns; with the first, directories of the lower layer are renamed by a redirect.
const OPTIONS: [(&str, bool); 4] = [
    ("redirect_dir=on", true),
    ("redirect_dir=on,metacopy=on", true),
    ("redirect_dir=on,index=on", true),
    ("redirect_dir=off,index=off", false),
];

/// Each worker does each action so often in a round.
const PASSES: usize = 2;

/// How often each action was done, and how often it is not there.
struct Counts([[AtomicU64; 2]; ACTIONS.len()]);

impl Default for Counts {
    fn default() -> Self {
        Counts(std::array::from_fn(|_| Default::default()))
    }
}

/// Does everything; prints what was done, as JSON.
pub fn load(args: &LoadArgs) -> Result<()> {
    let counts: &'static Counts = sys::shared()?;
    let place = Place::new(&args.dir)?;
    place.fill(args.workers)?;
    for round in 0..args.rounds {
        one_round(args, &place, round, counts).with_context(|| format!("round {round}"))?;
    }
    full_upper(&place).context("a copy-up that finds no room")?;
    place.remove()?;
    let mut done = BTreeMap::new();
    let mut unsupported = Vec::new();
    for (action, [well, not]) in ACTIONS.iter().zip(&counts.0) {
        done.insert(action.name, well.load(Relaxed));
        unsupported.extend((not.load(Relaxed) > 0).then_some(action.name));
    }
    println!("{}", json!({ "done": done, "unsupported": unsupported }));
    Ok(())
}

fn one_round(args: &LoadArgs, place: &Place, round: u64, counts: &'static Counts) -> Result<()> {
    let (options, redirects) = OPTIONS[round as usize % OPTIONS.len()];
    // Both ways of unmounting come with all options.
    let is_lazy = round / OPTIONS.len() as u64 % 2 == 1;
    let name = round.to_string();
    let merged = place.mount(&name, options)?;
    let (mut ready, say_ready) = sys::pipe()?;
    let mut say_ready = Some(say_ready);
    let mut ends = Some(sys::pipe()?);
    let mut workers = Vec::new();
    for number in 0..args.workers {
        let pid = sys::spawn(Call::Fork, 0, || {
            sys::die_with_parent();
            let seed = args.seed.wrapping_mul(1000) + round * args.workers + number;
            let worker = Worker::new(&merged, number, redirects, seed);
            let unmounted = ends.take().map(|(unmounted, _)| unmounted);
            let worked = work(worker, number, counts)
                .and_then(|kept| keep(kept, is_lazy, say_ready.take(), unmounted))
                .with_context(|| format!("overlay with {options}: worker {number}"));
            keeper::status(worked)
        });
        ensure!(pid > 0, "cannot fork a worker: errno {}", -pid);
        workers.push(pid);
    }
    drop(say_ready);
    let mut said = Vec::new();
    ready.read_to_end(&mut said)?;
    // If not, it has told why, and so do those that wait now.
    let are_ready = said.len() == workers.len();
    let unmounted = if are_ready {
        check_writers(&merged, is_lazy).and_then(|()| unmount(&merged, is_lazy))
    } else {
        Ok(())
    };
    drop(ends);
    let ends: io::Result<Vec<End>> = workers.into_iter().map(sys::wait).collect();
    unmounted?;
    let is_good = ends?.iter().all(|end| *end == End::Code(0));
    ensure!(are_ready && is_good, "a worker failed");
    place.forget(&name)
}

/// Does every action, as often as is wanted.
fn work(mut worker: Worker, number: u64, counts: &Counts) -> Result<Kept> {
    let cpus = std::thread::available_parallelism()?;
    calls::pin(number as usize % cpus)?;
    for _ in 0..PASSES {
        for (index, action) in worker.shuffled() {
            let done = (action.run)(&mut worker).context(action.name)?;
            let counter = match done {
                Done::Well => &counts.0[index][0],
                Done::Unsupported => &counts.0[index][1],
            };
            counter.fetch_add(1, Relaxed);
        }
    }
    Ok(worker.into_kept())
}

/// Uses what was kept once more after the unmount, or lets it go before.
fn keep(kept: Kept, is_lazy: bool, ready: Option<File>, unmounted: Option<File>) -> Result<()> {
    let mut kept = is_lazy.then_some(kept);
    ready.context("no pipe")?.write_all(b"r")?;
    // Ends when it is unmounted.
    unmounted.context("no pipe")?.read_to_end(&mut Vec::new())?;
    if let Some(kept) = &mut kept {
        kept.use_again().context("after the unmount")?;
    }
    Ok(())
}

/// The kernel says whether a mount has writers: while it has, it cannot be made read-only.
fn check_writers(merged: &Path, are_expected: bool) -> Result<()> {
    match calls::remount(merged, false) {
        Ok(()) => {
            ensure!(!are_expected, "read-only, with files open to be written");
            calls::remount(merged, true).context("cannot be made writable again")
        }
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            ensure!(are_expected, "cannot be made read-only: it has writers");
            Ok(())
        }
        Err(error) => Err(error).context("cannot be made read-only"),
    }
}

fn unmount(merged: &Path, is_lazy: bool) -> Result<()> {
    calls::unmount(merged, is_lazy).with_context(|| format!("{}: cannot unmount", merged.display()))
}

/// The way out of a copy-up that fails in the middle.
fn full_upper(place: &Place) -> Result<()> {
    fs::write(place.lower().join("big"), vec![b'b'; 256 << 10])?;
    let small = place.directory("small")?;
    calls::mount("tmpfs", &small, "size=64k").context("cannot mount a small tmpfs")?;
    let merged = place.directory("merged-small")?;
    place.mount_on(&small, &merged, "")?;
    let appended = File::options().append(true).open(merged.join("big"));
    let errno = appended.err().and_then(|error| error.raw_os_error());
    ensure!(
        errno == Some(libc::ENOSPC),
        "a large file on a small tmpfs: errno {errno:?}"
    );
    ensure!(
        fs::metadata(merged.join("big"))?.len() == 256 << 10,
        "length"
    );
    unmount(&merged, false)?;
    unmount(&small, false)
}

/// Appends to files of the lower layer, and unmounts.
pub fn copy_up(args: &CopyUpArgs) -> Result<()> {
    let place = Place::new(&args.dir)?;
    let path = |dir: &Path, sort: &str, number: u64| dir.join(format!("{sort}{number}"));
    for number in 0..args.files {
        fs::write(path(&place.lower(), "appended", number), "lower")?;
    }
    for number in 0..args.attributes {
        let file = path(&place.lower(), "attribute", number);
        fs::write(&file, "lower")?;
        calls::set_xattr(&file, place::ATTRIBUTE, b"lower")?;
    }
    let merged = place.mount("copy-up", "")?;
    for number in 0..args.files {
        let file = File::options()
            .append(true)
            .open(path(&merged, "appended", number));
        file?.write_all(b"upper")?;
    }
    for number in 0..args.attributes {
        calls::remove_xattr(&path(&merged, "attribute", number), place::ATTRIBUTE)?;
    }
    if args.wait {
        println!("done");
        io::stdout().flush()?;
        io::stdin().read_line(&mut String::new())?;
    }
    unmount(&merged, args.lazy)?;
    place.forget("copy-up")?;
    place.remove()
}
