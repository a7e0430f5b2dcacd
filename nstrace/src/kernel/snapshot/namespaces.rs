//! The namespaces that a snapshot has found so far, and what an open one says of itself.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use foldhash::{HashMap, HashSet};
use nstrace_common::kind::Kind;

use super::{sys, text::Text};
use crate::event::{FoundNamespace, Ns};

/// `PROC_USER_INIT_INO` of include/linux/proc_ns.h.
const FIRST_USER_NS: u32 = 0xEFFF_FFFD;

/// What has been found, by number.
#[derive(Debug, Default)]
pub struct Namespaces {
    by_inum: HashMap<u32, Known>,
    ids: HashSet<u64>,
    /// Whether uids are those of the first user namespace.
    has_first_uids: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    kind: Kind,
    id: u64,
    parent: u32,
    /// Whether it was asked for its parent and its owner.
    is_whole: bool,
}

impl Namespaces {
    /// None yet, for a reader in a user namespace.
    pub fn new(own_user_ns: u32) -> Namespaces {
        Namespaces {
            has_first_uids: own_user_ns == FIRST_USER_NS,
            ..Namespaces::default()
        }
    }

    /// Whether all of it is known that it can say.
    pub fn knows(&self, kind: Kind, inum: u32) -> bool {
        let known = self.by_inum.get(&inum);
        known.is_some_and(|known| known.kind == kind && known.is_whole)
    }

    /// Whether one of that id is known.
    pub fn knows_id(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Its number and its id.
    pub fn ns(&self, inum: u32) -> Ns {
        let id = self.by_inum.get(&inum).map_or(0, |known| known.id);
        Ns { inum, id }
    }

    /// The inum of its parent; 0 if there is none, or it is not known.
    pub fn parent(&self, inum: u32) -> u32 {
        self.by_inum.get(&inum).map_or(0, |known| known.parent)
    }

    /// Notes one of which nothing but its number can be learnt.
    pub fn note(&mut self, kind: Kind, inum: u32, time: u64, found: &mut Vec<FoundNamespace>) {
        let is_known = self.by_inum.get(&inum).is_some_and(|own| own.kind == kind);
        if !is_known {
            self.put(FoundNamespace::bare(kind, inum, time), false, found);
        }
    }

    /// Asks an open one what it is, and gives its kind and number. Appends it to what was
    /// found, if it is news, after what is above it.
    pub fn learn(
        &mut self,
        ns: BorrowedFd,
        time: u64,
        found: &mut Vec<FoundNamespace>,
    ) -> io::Result<(Kind, u32)> {
        let inum = inum_of(ns)?;
        let kind = Kind::from_flag(sys::ns_type(ns)?).ok_or(io::ErrorKind::InvalidData)?;
        if self.knows(kind, inum) {
            return Ok((kind, inum));
        }
        // The kernel knows at most 32 levels, so this ends.
        let mut above = |this: &mut Self, ns: io::Result<OwnedFd>| {
            let learnt = ns.and_then(|ns| this.learn(ns.as_fd(), time, found));
            learnt.map_or(0, |(_, inum)| inum)
        };
        // Neither is told if it is above the reader's own, as for the first ones.
        let (parent, owner) = match kind {
            Kind::User => {
                let parent = above(self, sys::ns_parent(ns));
                (parent, parent)
            }
            Kind::Pid => (
                above(self, sys::ns_parent(ns)),
                above(self, sys::ns_owner(ns)),
            ),
            Kind::Mnt | Kind::Uts | Kind::Ipc | Kind::Net | Kind::Cgroup | Kind::Time => {
                (0, above(self, sys::ns_owner(ns)))
            }
        };
        let asks_uid = kind == Kind::User && self.has_first_uids;
        let news = FoundNamespace {
            ns: Ns {
                inum,
                id: sys::ns_id(ns).unwrap_or(0),
            },
            parent,
            owner,
            owner_uid: asks_uid.then(|| sys::ns_owner_uid(ns).ok()).flatten(),
            ..FoundNamespace::bare(kind, inum, time)
        };
        self.put(news, true, found);
        Ok((kind, inum))
    }

    fn put(&mut self, news: FoundNamespace, is_whole: bool, found: &mut Vec<FoundNamespace>) {
        let known = Known {
            kind: news.kind,
            id: news.ns.id,
            parent: news.parent,
            is_whole,
        };
        self.by_inum.insert(news.ns.inum, known);
        if news.ns.id != 0 {
            self.ids.insert(news.ns.id);
        }
        found.push(news);
    }
}

impl FoundNamespace {
    fn bare(kind: Kind, inum: u32, time: u64) -> FoundNamespace {
        FoundNamespace {
            time,
            kind,
            ns: Ns { inum, id: 0 },
            parent: 0,
            owner: 0,
            owner_uid: None,
        }
    }
}

/// The number of a namespace; an error for any other file.
fn inum_of(file: BorrowedFd) -> io::Result<u32> {
    if sys::magic(file)? != sys::NSFS_MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    u32::try_from(sys::stat(file)?.st_ino).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The kind and the number of an open file if it is a namespace.
pub fn seen_as(proc: BorrowedFd, dir: BorrowedFd, path: &CStr) -> io::Result<(Kind, u32)> {
    let seen = sys::open(dir, path, libc::O_PATH)?;
    let inum = inum_of(seen.as_fd())?;
    let ns = open_seen(proc, seen.as_fd(), inum)?;
    let kind = Kind::from_flag(sys::ns_type(ns.as_fd())?).ok_or(io::ErrorKind::InvalidData)?;
    Ok((kind, inum))
}

/// Opens the namespace that a file is, which was opened for a look only (`O_PATH`): to open
/// another file than that of a namespace can block, or do something. The number is checked.
pub fn open_seen(proc: BorrowedFd, seen: BorrowedFd, inum: u32) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    if inum_of(seen)? != inum {
        return Err(io::ErrorKind::NotFound.into());
    }
    let fd = u32::try_from(seen.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidData)?;
    let path = Text::new().text("thread-self/fd/").number(fd);
    sys::open(proc, path.get(), libc::O_RDONLY)
}

/// Opens the namespace behind a link of proc.
pub fn open_link(proc: BorrowedFd, dir: BorrowedFd, path: &CStr, inum: u32) -> io::Result<OwnedFd> {
    let seen = sys::open(dir, path, libc::O_PATH)?;
    open_seen(proc, seen.as_fd(), inum)
}
