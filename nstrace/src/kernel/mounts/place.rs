//! A place from which the mounts of a namespace are seen.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    thread,
};

use super::sys;
use crate::{
    kernel::snapshot::{is_at_root, namespaces::Opener, parse, sys as calls, text::Text},
    mounts::{Mount, Names, info},
};

/// So much of mountinfo is read at a time: the kernel gives as much as it can.
const CHUNK: usize = 64 << 10;

/// A root in a mount namespace, and what is mounted below it.
#[derive(Debug)]
pub struct Place {
    /// The root.
    pub root: OwnedFd,
    /// The namespace's id; 0 if it is not known.
    pub ns: u64,
    mountinfo: OwnedFd,
}

impl Place {
    /// That of a task, which must be in the namespace, and whether its root is that of the
    /// namespace.
    pub fn of_task(
        proc: BorrowedFd,
        opener: &Opener,
        inum: u32,
        tid: u32,
    ) -> io::Result<(Place, bool)> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = calls::open(proc, Text::new().number(tid).get(), flags)?;
        let mountinfo = calls::open(dir.as_fd(), c"mountinfo", libc::O_RDONLY)?;
        let root = calls::open(dir.as_fd(), c"root", flags)?;
        let is_at_root = is_at_root(dir.as_fd());
        // Opened after the others: it was in that namespace all the time.
        let ns = opener.open(dir.as_fd(), c"ns/mnt", inum);
        let ns = match ns {
            Ok(ns) => sys::mount_ns_id(ns.as_fd()).unwrap_or(0),
            Err(_) => {
                let mut link = [0; 64];
                let link = calls::read_link(dir.as_fd(), c"ns/mnt", &mut link)?;
                if parse::namespace(link).is_none_or(|(_, own)| own != inum) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                0
            }
        };
        let place = Place {
            root,
            ns,
            mountinfo,
        };
        Ok((place, is_at_root))
    }

    /// That of a namespace that is entered, by a thread that ends after it and shares neither
    /// root nor working directory with the others. What it has opened stays.
    pub fn enter(proc: BorrowedFd, ns: BorrowedFd) -> io::Result<Place> {
        let enter = || {
            calls::unshare_fs()?;
            calls::enter_mount_ns(ns)?;
            Ok(Place {
                root: calls::open_path(c"/", libc::O_PATH | libc::O_DIRECTORY)?,
                mountinfo: calls::open(proc, c"thread-self/mountinfo", libc::O_RDONLY)?,
                ns: sys::mount_ns_id(ns).unwrap_or(0),
            })
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, enter)?;
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Reads the text of its mounts. What is no line of it is left out.
    pub fn mountinfo(&self, names: &mut Names) -> io::Result<Vec<Mount>> {
        let file = File::from(self.mountinfo.try_clone()?);
        let mut lines = BufReader::with_capacity(CHUNK, file);
        let mut mounts = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(mounts);
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            mounts.extend(info::line(line, names));
        }
    }
}
