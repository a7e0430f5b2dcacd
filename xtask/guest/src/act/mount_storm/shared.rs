//! What workers do in the directory that they share. What comes of it the kernel alone knows:
//! much of it is refused, or undone by others.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;

use super::calls::{mount, unmount};
use super::{SHARED, bytes};
use crate::procfs::Procfs;
use crate::rng::Rng;

/// From so many mounts on, they become less.
const MOUNTS_MAX: usize = 120;

/// Ways of passing on what happens.
const WAYS: [u64; 4] = [
    libc::MS_SHARED,
    libc::MS_SLAVE,
    libc::MS_PRIVATE,
    libc::MS_UNBINDABLE,
];

/// Does something, or tries to.
pub fn step(procfs: &Procfs, rng: &Rng) -> Result<()> {
    let mounts = mounts(procfs)?;
    let any = |rng: &Rng| mounts.get(rng.below(mounts.len().max(1)));
    let Some(target) = any(rng) else {
        return Ok(());
    };
    if mounts.len() > MOUNTS_MAX {
        let _ = unmount(target, true);
        return Ok(());
    }
    let name = format!("/{}", rng.below(40));
    let place = [target, name.as_bytes()].concat();
    // It may be there, or another worker has unmounted all of it.
    let _ = fs::create_dir(OsStr::from_bytes(&place));
    let source = any(rng).unwrap_or(target);
    let recursive = if rng.one_in(3) { libc::MS_REC } else { 0 };
    let _ = match rng.below(12) {
        0..3 => mount(b"shared", &place, b"tmpfs", 0, b"size=16k"),
        3..5 => mount(source, &place, b"", libc::MS_BIND | recursive, b""),
        5 => mount(source, &place, b"", libc::MS_MOVE, b""),
        6..9 => {
            let way = WAYS[rng.below(WAYS.len())];
            mount(b"", target, b"", way | recursive, b"")
        }
        9 => {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOEXEC;
            mount(b"", target, b"", flags, b"")
        }
        10 => unmount(target, false),
        _ => unmount(target, rng.one_in(4)),
    };
    Ok(())
}

/// The mount points of this namespace in the shared directory, whose names are plain.
fn mounts(procfs: &Procfs) -> Result<Vec<Vec<u8>>> {
    let text = bytes(procfs, "thread-self/mountinfo")?;
    let lines = text.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let shared = points.filter(|point| point.starts_with(SHARED.as_bytes()));
    Ok(shared.map(<[u8]>::to_vec).collect())
}
