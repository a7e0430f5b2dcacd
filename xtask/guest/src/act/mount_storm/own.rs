//! What a worker does in a directory that nobody else has: it knows what comes of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};

use super::calls::{mount, unmount};
use crate::rng::Rng;

/// More mounts than these are not made.
const MOUNTS_MAX: usize = 60;

/// Names that are hard to read.
const NAMES: &[&[u8]] = &[
    b"plain",
    b"with blank",
    b"new\nline",
    b"tab\tand\\backslash",
    b"\\040",
    b"\xff\xfe",
    b"\x1b[2J",
    b"#hash",
    b"Gr\xc3\xbc\xc3\x9fe",
    b"-",
];

/// A worker's own directory, and the mount points in it.
pub struct Own {
    dir: Vec<u8>,
    mounts: BTreeSet<Vec<u8>>,
    names: usize,
}

/// What is done.
#[derive(Clone, Copy)]
enum What {
    Tmpfs,
    Bind,
    BindAll,
    Move,
    Remount,
    Unmount,
    Detach,
}

impl Own {
    /// A file system of its own on a new directory.
    pub fn new(dir: &[u8]) -> Result<Own> {
        fs::create_dir_all(OsStr::from_bytes(dir))?;
        mount(b"own", dir, b"tmpfs", 0, b"size=1m")?;
        mount(b"", dir, b"", libc::MS_PRIVATE, b"")?;
        Ok(Own {
            dir: dir.to_vec(),
            mounts: BTreeSet::from([dir.to_vec()]),
            names: 0,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &[u8] {
        &self.dir
    }

    /// The mount points, each with a NUL behind it.
    pub fn book(&self) -> Vec<u8> {
        let with_nul = |point: &Vec<u8>| [point, &b"\0"[..]].concat();
        self.mounts.iter().flat_map(with_nul).collect()
    }

    /// Notes that something is mounted on a path in it.
    pub fn note(&mut self, point: Vec<u8>) {
        self.mounts.insert(point);
    }

    /// Does something.
    pub fn step(&mut self, rng: &Rng) -> Result<()> {
        let what = rng.choose(&[
            (6, What::Tmpfs),
            (4, What::Bind),
            (3, What::BindAll),
            (3, What::Move),
            (3, What::Remount),
            (2, What::Unmount),
            (2, What::Detach),
        ]);
        let is_full = self.mounts.len() >= MOUNTS_MAX;
        match what {
            What::Tmpfs | What::Bind | What::BindAll if is_full => self.detach(rng),
            What::Tmpfs => self.tmpfs(rng),
            What::Bind => self.bind(rng, false),
            What::BindAll => self.bind(rng, true),
            What::Move => self.shift(rng),
            What::Remount => self.remount(rng),
            What::Unmount => self.unmount(rng),
            What::Detach => self.detach(rng),
        }
    }

    fn any(&self, rng: &Rng) -> Vec<u8> {
        let at = rng.below(self.mounts.len());
        self.mounts.iter().nth(at).cloned().unwrap_or_default()
    }

    /// One that is not the directory itself.
    fn other(&self, rng: &Rng) -> Option<Vec<u8>> {
        Some(self.any(rng)).filter(|mount| *mount != self.dir)
    }

    fn below<'a>(&'a self, mount: &'a [u8]) -> impl Iterator<Item = &'a Vec<u8>> {
        self.mounts.iter().filter(|other| is_below(other, mount))
    }

    /// A new directory on one of the mounts; none if that is read-only.
    fn place(&mut self, rng: &Rng) -> Result<Option<Vec<u8>>> {
        self.names += 1;
        let name = NAMES[rng.below(NAMES.len())];
        let number = self.names.to_string();
        let path = [&self.any(rng), &b"/"[..], name, number.as_bytes()].concat();
        match fs::create_dir(OsStr::from_bytes(&path)) {
            Ok(()) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(None),
            Err(error) => Err(error).context("a directory of the storm"),
        }
    }

    fn tmpfs(&mut self, rng: &Rng) -> Result<()> {
        let Some(place) = self.place(rng)? else {
            return Ok(());
        };
        let flags = flags(rng)
            | if rng.one_in(8) {
                libc::MS_SYNCHRONOUS
            } else {
                0
            };
        let source = NAMES[rng.below(NAMES.len())];
        let data: &[u8] = if rng.one_in(2) {
            b"size=64k,mode=711"
        } else {
            b""
        };
        mount(source, &place, b"tmpfs", flags, data).context("mount of a tmpfs")?;
        self.mounts.insert(place);
        Ok(())
    }

    fn bind(&mut self, rng: &Rng, is_whole: bool) -> Result<()> {
        let source = self.any(rng);
        let copies: Vec<Vec<u8>> = self.below(&source).cloned().collect();
        if is_whole && self.mounts.len() + copies.len() > MOUNTS_MAX {
            return Ok(());
        }
        let Some(place) = self.place(rng)? else {
            return Ok(());
        };
        let recursive = if is_whole { libc::MS_REC } else { 0 };
        mount(&source, &place, b"", libc::MS_BIND | recursive, b"").context("bind")?;
        if is_whole {
            let moved = copies.iter().map(|copy| moved(copy, &source, &place));
            self.mounts.extend(moved);
        }
        self.mounts.insert(place);
        Ok(())
    }

    fn shift(&mut self, rng: &Rng) -> Result<()> {
        let (Some(source), Some(place)) = (self.other(rng), self.place(rng)?) else {
            return Ok(());
        };
        // Into itself it cannot go.
        if is_below(&place, &source) {
            return Ok(());
        }
        mount(&source, &place, b"", libc::MS_MOVE, b"").context("move")?;
        let below: Vec<Vec<u8>> = self.below(&source).cloned().collect();
        for old in below.into_iter().chain([source.clone()]) {
            self.mounts.remove(&old);
            self.mounts.insert(moved(&old, &source, &place));
        }
        Ok(())
    }

    fn remount(&self, rng: &Rng) -> Result<()> {
        let Some(target) = self.other(rng) else {
            return Ok(());
        };
        let flags = libc::MS_REMOUNT | libc::MS_BIND | flags(rng);
        mount(b"", &target, b"", flags, b"").context("remount")
    }

    fn unmount(&mut self, rng: &Rng) -> Result<()> {
        let Some(target) = self.other(rng) else {
            return Ok(());
        };
        if self.below(&target).next().is_none() {
            unmount(&target, false).context("umount")?;
            self.mounts.remove(&target);
        }
        Ok(())
    }

    fn detach(&mut self, rng: &Rng) -> Result<()> {
        let Some(target) = self.other(rng) else {
            return Ok(());
        };
        unmount(&target, true).context("umount -l")?;
        self.mounts
            .retain(|mount| *mount != target && !is_below(mount, &target));
        Ok(())
    }
}

/// Flags that a mount can have for itself.
fn flags(rng: &Rng) -> u64 {
    let all = [
        libc::MS_NOSUID,
        libc::MS_NODEV,
        libc::MS_NOEXEC,
        libc::MS_NOATIME,
        libc::MS_NODIRATIME,
        libc::MS_STRICTATIME,
    ];
    let some = all.into_iter().filter(|_| rng.one_in(3));
    let read_only = if rng.one_in(12) { libc::MS_RDONLY } else { 0 };
    some.fold(read_only, |flags, flag| flags | flag)
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| rest.starts_with(b"/"))
}

/// The path of what is below something that has another path now.
fn moved(path: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    [to, path.strip_prefix(from).unwrap_or_default()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_moves_with_it() {
        assert!(is_below(b"/a/b", b"/a"));
        assert!(!is_below(b"/ab", b"/a"));
        assert!(!is_below(b"/a", b"/a"));
        assert_eq!(moved(b"/a/b/c", b"/a/b", b"/x"), b"/x/c");
        assert_eq!(moved(b"/a/b", b"/a/b", b"/x"), b"/x");
    }
}
