//! The namespaces that a snapshot has found so far, and what an open one says of itself.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
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
    /// When it was looked at, or before that.
    time: u64,
    /// Whether it was asked for its parent and its owner.
    is_whole: bool,
}

impl Known {
    /// Whether it was looked at since then. The reader's own pid namespace, of which no parent is
    /// told, is always the same.
    fn is_since(&self, since: u64) -> bool {
        self.time >= since || self.parent == 0
    }
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

    /// Whether a pid namespace and all above it were looked at since then. Who has been in it
    /// since then can rely on that: they have their numbers as long as there is somebody in it.
    pub fn are_since(&self, mut inum: u32, since: u64) -> bool {
        while let Some(known) = self.by_inum.get(&inum) {
            if !known.is_since(since) {
                return false;
            }
            inum = known.parent;
        }
        true
    }

    /// Notes one of which nothing but its number can be learnt.
    pub fn note(&mut self, kind: Kind, inum: u32, time: u64, found: &mut Vec<FoundNamespace>) {
        let is_known = self.by_inum.get(&inum).is_some_and(|own| own.kind == kind);
        if !is_known {
            self.put(FoundNamespace::bare(kind, inum, time), false, found);
        }
    }

    /// Asks an open one, which must be one of nsfs, what it is, and gives its kind and number. Appends it to what was
    /// found, if it is news, after what is above it.
    pub fn learn(
        &mut self,
        ns: BorrowedFd,
        time: u64,
        found: &mut Vec<FoundNamespace>,
    ) -> io::Result<(Kind, u32)> {
        self.learn_anew(ns, time, 0, found)
    }

    /// The same, but asks pid namespaces again that were looked at before that.
    pub fn learn_anew(
        &mut self,
        ns: BorrowedFd,
        time: u64,
        since: u64,
        found: &mut Vec<FoundNamespace>,
    ) -> io::Result<(Kind, u32)> {
        let ino = sys::identity(ns)?.ino;
        let inum = u32::try_from(ino).map_err(|_| io::ErrorKind::InvalidData)?;
        let kind = Kind::from_flag(sys::ns_type(ns)?).ok_or(io::ErrorKind::InvalidData)?;
        let known = self.by_inum.get(&inum);
        let is_since = known.is_some_and(|known| kind != Kind::Pid || known.is_since(since));
        if is_since && self.knows(kind, inum) {
            return Ok((kind, inum));
        }
        // The kernel knows at most 32 levels, so this ends.
        let mut above = |this: &mut Self, ns: io::Result<OwnedFd>| {
            let learnt = ns.and_then(|ns| this.learn_anew(ns.as_fd(), time, since, found));
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
            time: news.time,
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

/// What opens namespaces that others hold, and nothing else: to open another file can block,
/// or do something. So a file is opened for a look first (`O_PATH`), and must be one of
/// nsfs, of the number that is expected.
#[derive(Clone, Copy, Debug)]
pub struct Opener<'a> {
    proc: BorrowedFd<'a>,
    /// Of nsfs, of which there is one instance.
    device: (u32, u32),
}

impl<'a> Opener<'a> {
    /// By the instance of proc of the reader, who has a namespace to learn the device from.
    pub fn new(proc: BorrowedFd<'a>) -> io::Result<Opener<'a>> {
        let own = sys::open(proc, c"thread-self/ns/mnt", libc::O_PATH)?;
        let device = sys::identity(own.as_fd())?.device;
        Ok(Opener { proc, device })
    }

    /// Opens the namespace behind a link of proc.
    pub fn open(&self, dir: BorrowedFd, path: &CStr, inum: u32) -> io::Result<OwnedFd> {
        let seen = sys::open(dir, path, libc::O_PATH)?;
        self.open_seen(seen.as_fd(), inum)
    }

    /// Opens the namespace that was opened for a look.
    pub fn open_seen(&self, seen: BorrowedFd, inum: u32) -> io::Result<OwnedFd> {
        if self.inum(seen)? != inum {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let fd = u32::try_from(seen.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidData)?;
        let path = Text::new().text("thread-self/fd/").number(fd);
        sys::open(self.proc, path.get(), libc::O_RDONLY)
    }

    /// The kind and the number of a namespace behind a link of proc.
    pub fn identify(&self, dir: BorrowedFd, path: &CStr) -> io::Result<(Kind, u32)> {
        let seen = sys::open(dir, path, libc::O_PATH)?;
        let inum = self.inum(seen.as_fd())?;
        let ns = self.open_seen(seen.as_fd(), inum)?;
        let kind = Kind::from_flag(sys::ns_type(ns.as_fd())?);
        Ok((kind.ok_or(io::ErrorKind::InvalidData)?, inum))
    }

    fn inum(&self, seen: BorrowedFd) -> io::Result<u32> {
        let identity = sys::identity(seen)?;
        if identity.device != self.device {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        u32::try_from(identity.ino).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_as_old_as_what_is_above_it() {
        let mut known = Namespaces::new(FIRST_USER_NS);
        let mut found = Vec::new();
        for (inum, parent, time) in [(10, 0, 1), (11, 10, 5), (12, 11, 7), (13, 10, 7)] {
            let bare = FoundNamespace::bare(Kind::Pid, inum, time);
            known.put(FoundNamespace { parent, ..bare }, true, &mut found);
        }
        for (since, left) in [(5, &[10, 11, 12, 13][..]), (6, &[10, 13]), (8, &[10])] {
            let all = (10..14).filter(|inum| known.are_since(*inum, since));
            assert_eq!(all.collect::<Vec<_>>(), left);
        }
    }
}
