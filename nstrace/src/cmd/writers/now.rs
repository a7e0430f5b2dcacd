//! `nstrace writers --now`: which mounts have a writer count that open files do not explain.
//!
//! The count is asked for before and after all files are looked at, and several times: what is
//! only on the way does not stay.

use std::os::fd::AsFd as _;
use std::{collections::HashMap, fs, os::fd::OwnedFd, process::ExitCode, sync::Arc, thread};

use anyhow::{anyhow, bail};
use jiff::tz::TimeZone;

use super::{
    super::{
        model::Model,
        mounts::{self as all_mounts, by_kernel},
        output::{self, colored, say},
    },
    SETTLE,
    wanted::number,
};
use crate::{
    cli::Writers,
    kernel::{
        clock,
        error::{in_first_pid_namespace, shows_all},
        mounts::{self, By, Points, uses},
        writers::{Counter, Wanted},
    },
    mounts::{
        Mount, MountKey, MountNs, Mounts,
        uses::{Found, Search, Uses},
    },
    render::{Clock, Text, WritersNow, writers_now, writers_now_json},
    writers::now::{Files, Unexplained, files},
};

/// What is unexplained in so many looks is told: where much is written, something is on its way
/// in most of them.
const LOOKS: usize = 12;

/// What stays the same in so many looks one behind the other is not on its way.
const STEADY: usize = 3;

/// A mount that is looked at.
struct Suspect {
    key: MountKey,
    id: u32,
    file: OwnedFd,
    /// Loop devices and swap may have so many of its files open.
    kernel: usize,
    /// What was found.
    unexplained: Option<Unexplained>,
    found: Vec<Found>,
}

/// Looks, and tells what is unexplained: of all mounts if none is named, since nothing is watched.
pub fn run(mut args: Writers) -> anyhow::Result<ExitCode> {
    args.mounts.all_mounts |= args.mounts.is_empty();
    if !in_first_pid_namespace() && !shows_all() {
        bail!(
            "it cannot be told here which files are open: /proc is not that of the first pid \
             namespace: run nstrace there (with docker, --pid=host)"
        );
    }
    let wanted = super::wanted(&args.mounts)?;
    let counter = Counter::load()?;
    let model = Model::of(None, None)?;
    let (mounts, roots) = mounts::read_with_roots(all_mounts::wanted(&model.world), By::Auto)?;
    let mounts = Arc::new(mounts);
    let by_kernel = by_kernel(&mounts);
    let mut points = Points::default();
    let (mut suspects, mut closed) = (Vec::new(), 0);
    for (key, mount) in mounts.iter() {
        let Some(ns) = mounts.namespaces.get(key.ns) else {
            continue;
        };
        if !is_wanted(&wanted, ns, mount) {
            continue;
        }
        let root = roots.get(&ns.inum);
        match root.and_then(|root| points.open(root.as_fd(), mount)) {
            Some(file) => suspects.push(Suspect {
                key,
                id: mount.id,
                file,
                kernel: by_kernel.get(&mount.id).copied().unwrap_or(0),
                unexplained: None,
                found: Vec::new(),
            }),
            None => closed += 1,
        }
    }
    drop(roots);
    if points.is_full() {
        say(
            "no more files may be open at once (ulimit -n): not all mounts are asked; name some, or \
             raise it",
        );
    }
    let asked = suspects.len();
    let (mut unseen, mut same) = (0, 0);
    for look in 0..LOOKS {
        if suspects.is_empty() {
            break;
        }
        if look > 0 {
            thread::sleep(SETTLE);
        }
        let differences = |suspects: &[Suspect]| -> Vec<_> {
            suspects
                .iter()
                .map(|one| (one.id, one.unexplained))
                .collect()
        };
        let before = differences(&suspects);
        unseen = self::look(&counter, &mounts, &mut suspects)?;
        same = if before == differences(&suspects) {
            same + 1
        } else {
            0
        };
        if same >= STEADY {
            break;
        }
    }
    print(&args, &mounts, &suspects)?;
    summary(&wanted, asked, closed, suspects.len(), unseen);
    Ok(ExitCode::SUCCESS)
}

fn is_wanted(wanted: &Wanted, ns: &MountNs, mount: &Mount) -> bool {
    // Behind the dot is what the server of a FUSE calls it.
    let fs = mount.fs.split(|byte| *byte == b'.').next();
    let is_named = |name: &[u8; 16]| Some(crate::event::until_nul(name)) == fs;
    let device = number(mount.device);
    wanted.all
        || wanted.fs.iter().any(is_named)
        || wanted.devices.contains(&device)
        || wanted.ids.contains(&mount.id)
        || wanted.namespaces.contains(&ns.inum)
}

/// Looks once: what is explained is left out. Gives how many processes could not be looked at.
fn look(
    counter: &Counter,
    mounts: &Arc<Mounts>,
    suspects: &mut Vec<Suspect>,
) -> anyhow::Result<usize> {
    let count = |suspect: &Suspect| {
        counter.writers(suspect.file.as_fd()).ok_or_else(|| {
            anyhow!(
                "the kernel does not tell how many writers a mount has: Linux 5.10 and newer do; \
                 `nstrace doctor` lists what this one lacks"
            )
        })
    };
    let before: Vec<i32> = suspects.iter().map(count).collect::<Result<_, _>>()?;
    let search = Search {
        mounts: suspects.iter().map(|suspect| suspect.id).collect(),
        written: true,
        ..Search::default()
    };
    let uses = uses::find(uses::all_tasks(), mounts, search)?;
    let unseen = uses.unseen + uses.hung.len() + uses.left_out;
    let mut found = by_mount(uses);
    let after: Vec<i32> = suspects.iter().map(count).collect::<Result<_, _>>()?;
    let mut counts = before.into_iter().zip(after);
    suspects.retain_mut(|suspect| {
        let Some((before, after)) = counts.next() else {
            return false;
        };
        let own = found.remove(&suspect.id).unwrap_or_default();
        let mut files = files(own.iter(), uses::compare);
        files += Files {
            least: 0,
            most: suspect.kernel,
        };
        let now = Unexplained::of(before, after, files);
        let less = match suspect.unexplained {
            Some(last) => now.and_then(|now| last.less(now)),
            None => now,
        };
        if less != suspect.unexplained {
            suspect.unexplained = less;
            suspect.found = own;
        }
        less.is_some()
    });
    Ok(unseen)
}

fn by_mount(uses: Uses) -> HashMap<u32, Vec<Found>> {
    let mut by_mount: HashMap<u32, Vec<Found>> = HashMap::new();
    for found in uses.written {
        by_mount.entry(found.mount).or_default().push(found);
    }
    by_mount
}

fn print(args: &Writers, mounts: &Mounts, suspects: &[Suspect]) -> anyhow::Result<()> {
    let zone = TimeZone::UTC;
    let mut clock = Clock::new(zone);
    clock.set_offset(clock::wall_offset_ns());
    let mut text = Text::new();
    for suspect in suspects {
        let (Some(mount), Some(ns), Some(unexplained)) = (
            mounts.get(suspect.key),
            mounts.namespaces.get(suspect.key.ns),
            suspect.unexplained,
        ) else {
            continue;
        };
        let view = WritersNow {
            mount,
            ns: ns.inum,
            unexplained,
            found: &suspect.found,
            comm: &|pid| {
                let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
                comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec()
            },
        };
        match args.json {
            true => writers_now_json(&mut text, &view, clock::monotonic_ns(), &mut clock),
            false => writers_now(&mut text, &view, colored(args.color)),
        }
        output::write(&mut text)?;
    }
    Ok(())
}

fn summary(wanted: &Wanted, asked: usize, closed: usize, unexplained: usize, unseen: usize) {
    if wanted.private || !wanted.private_roots.is_empty() {
        say(
            "private clones that overlay makes of its upper layers are on no path, and cannot be \
             asked: without --now they are watched",
        );
    }
    if unseen > 0 {
        let what = match unseen {
            1 => "a process could not be looked at: what it has".to_owned(),
            _ => format!("{unseen} processes could not be looked at: what they have"),
        };
        say(&format!("{what} open is missing here"));
    }
    let closed = match closed {
        0 => String::new(),
        closed => format!(
            ", {closed} could not be (another is mounted there, it is gone, or its path does not answer)"
        ),
    };
    let noun = if asked == 1 { "mount" } else { "mounts" };
    say(&format!(
        "{asked} {noun} asked{closed}, {unexplained} with writers that are no open files"
    ));
}
