//! Bind mounts of namespaces, and instances of proc, in every mount namespace.
//!
//! A mount namespace with tasks shows its mounts through one of them whose root is that of
//! the namespace: others see less. One without tasks is entered, and so is one whose tasks
//! all have roots of their own. What is found there can be a mount namespace again, which
//! is looked at at once, so that few descriptors are open at a time.

use std::{
    ffi::CString,
    hash::BuildHasher as _,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::mpsc::{self, SyncSender},
    thread,
};

use foldhash::{HashMap, HashSet};
use nstrace_common::kind::Kind;

use super::{
    Looker,
    namespaces::{Namespaces, Opener},
    parse::{self, Mount},
    quota::Quota,
    sys,
    tasks::{Member, Seen, is_at_root},
    text::Text,
};
use crate::{
    event::{Event, FoundHolder, FoundNamespace, Holder, Ns},
    kernel::clock::monotonic_ns,
};

/// The longest line of mountinfo that is read: of its two paths and its options each byte
/// of a page can take four.
const LINE_MAX: usize = 64 << 10;

/// So many mounts of one instance of proc are named whose pid namespace is not known.
const UNKNOWN_MAX: usize = 4;

/// Mounts of an instance of proc.
#[derive(Debug, Default)]
struct Unknown {
    count: u32,
    /// When each was found, in which mount namespace, and where.
    named: Vec<(u64, u32, Box<[u8]>)>,
}

/// Mount namespaces that hold each other are followed so deep.
const DEPTH_MAX: usize = 64;

/// What is known of mounts so far.
#[derive(Debug)]
pub struct Mounts {
    may_enter: bool,
    /// Mount namespaces that were looked at, or will be, through a task.
    seen: HashSet<u32>,
    /// Those whose bind mount cannot be opened: another mount lies on top of it.
    hidden: HashSet<u32>,
    /// The pid namespaces of instances of proc, by device.
    procs: HashMap<(u32, u32), u32>,
    /// Mounts of instances of proc whose pid namespace is not known, by device.
    unknown_procs: HashMap<(u32, u32), Unknown>,
    /// Hashes of the paths where namespaces are mounted.
    points: HashSet<u64>,
    hasher: foldhash::fast::RandomState,
}

/// What a look into mount namespaces finds.
#[derive(Debug)]
enum Item {
    Namespaces(Vec<FoundNamespace>),
    Mount {
        time: u64,
        /// In which mount namespace.
        mnt: u32,
        /// What is mounted.
        kind: Kind,
        ns: Ns,
        is_proc: bool,
        path: Vec<u8>,
    },
}

/// Where it goes. What is told may run anything, which is not for a thread in another
/// mount namespace.
trait Out: Sized {
    fn tell(&mut self, item: Item);

    /// Enters a mount namespace and looks at its mounts.
    fn enter(look: &mut Look<Self>, ns: BorrowedFd, mnt: u32) -> io::Result<()>;
}

/// It is told.
struct Here<'a>(&'a mut dyn FnMut(Event));

/// So many finds are on the way out of a thread at a time.
const ON_THE_WAY: usize = 16;

/// This is a thread that may go where it likes.
struct There(SyncSender<Item>);

/// A mount namespace that is looked at.
struct Place {
    mnt: u32,
    root: OwnedFd,
    mountinfo: OwnedFd,
    time: u64,
}

/// A look into a mount namespace, and into those that are mounted there.
struct Look<'a, O> {
    mounts: &'a mut Mounts,
    namespaces: &'a mut Namespaces,
    proc: BorrowedFd<'a>,
    opener: Opener<'a>,
    out: O,
    unseen: &'a mut u32,
    depth: usize,
}

impl Mounts {
    /// Nothing yet.
    pub fn new(may_enter: bool, members: &HashMap<u32, Member>) -> Mounts {
        Mounts {
            may_enter,
            seen: members.keys().copied().collect(),
            hidden: HashSet::default(),
            procs: HashMap::default(),
            unknown_procs: HashMap::default(),
            points: HashSet::default(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Whether an open file of that path can be a namespace. One that was opened at a bind
    /// mount of it has the path of the mount, or `/` when that was unmounted (fs/d_path.c,
    /// d_path: the file is the root of its mount).
    pub fn may_be_at(&self, path: &[u8]) -> bool {
        path == b"/" || self.points.contains(&self.hasher.hash_one(path))
    }

    /// How many places are known where namespaces are mounted. When there are more,
    /// [`Mounts::may_be_at`] may say yes to what it said no to.
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// Whether that is a mount namespace that has not been looked at.
    pub fn wants(&self, kind: Kind, inum: u32) -> bool {
        kind == Kind::Mnt && !self.seen.contains(&inum)
    }

    /// Looks into a namespace that was found, if that has not been done.
    pub fn found(&mut self, looker: &mut Looker, kind: Kind, inum: u32, ns: &OwnedFd) {
        if self.wants(kind, inum) {
            self.look(looker, |look| look.go_into(ns.as_fd(), inum));
        }
    }

    /// Looks into the mount namespaces that tasks are in.
    pub fn find(&mut self, looker: &mut Looker, tasks: &[Seen], members: &HashMap<u32, Member>) {
        let mut members: Vec<(u32, Member)> = members.iter().map(|(k, v)| (*k, *v)).collect();
        members.sort_unstable_by_key(|(mnt, _)| *mnt);
        for (mnt, member) in members {
            let others = tasks.iter().filter(|task| task.mnt == mnt);
            let tids = std::iter::once(member.tid).chain(others.map(|task| task.tid));
            self.look(looker, |look| look.through_tasks(mnt, tids));
        }
    }

    /// How many mount namespaces were met and could not be looked into, since what shows
    /// them is hidden.
    pub fn unseen(&self) -> u32 {
        self.hidden.difference(&self.seen).count() as u32
    }

    /// How many mounts of proc have been found whose pid namespace is not known.
    pub fn unseen_procs(&self, looker: &mut Looker) -> u32 {
        let mut count = 0;
        for (device, unknown) in &self.unknown_procs {
            if self.procs.contains_key(device) {
                continue;
            }
            count += unknown.count;
            for (time, mnt, path) in &unknown.named {
                let (time, mnt) = (*time, *mnt);
                (looker.each)(Event::FoundHolder(FoundHolder {
                    time,
                    kind: Kind::Pid,
                    ns: Ns::default(),
                    holder: Holder::Proc { mnt, path },
                }));
            }
        }
        count
    }

    fn look(&mut self, looker: &mut Looker, how: impl FnOnce(&mut Look<Here>)) {
        how(&mut Look {
            mounts: self,
            namespaces: &mut looker.namespaces,
            proc: looker.proc,
            opener: looker.opener,
            out: Here(looker.each),
            unseen: &mut looker.unseen.mounts,
            depth: 0,
        });
    }
}

impl Out for Here<'_> {
    fn tell(&mut self, item: Item) {
        match item {
            Item::Namespaces(found) => {
                for found in found {
                    (self.0)(Event::FoundNamespace(found));
                }
            }
            Item::Mount {
                time,
                mnt,
                kind,
                ns,
                is_proc,
                path,
            } => {
                let path = path.as_slice();
                let holder = match is_proc {
                    true => Holder::Proc { mnt, path },
                    false => Holder::Mount { mnt, path },
                };
                (self.0)(Event::FoundHolder(FoundHolder {
                    time,
                    kind,
                    ns,
                    holder,
                }));
            }
        }
    }

    /// In a thread that ends after it, and shares neither root nor working directory with
    /// the others.
    fn enter(look: &mut Look<Self>, ns: BorrowedFd, mnt: u32) -> io::Result<()> {
        let (sender, items) = mpsc::sync_channel(ON_THE_WAY);
        let mut there = Look {
            mounts: look.mounts,
            namespaces: look.namespaces,
            proc: look.proc,
            opener: look.opener,
            out: There(sender),
            unseen: look.unseen,
            depth: look.depth,
        };
        let enter = move || sys::unshare_fs().and_then(|()| there.enter_here(ns, mnt));
        thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, enter)?;
            for item in items {
                look.out.tell(item);
            }
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Out for There {
    fn tell(&mut self, item: Item) {
        // Who has asked waits for it.
        let _ = self.0.send(item);
    }

    fn enter(look: &mut Look<Self>, ns: BorrowedFd, mnt: u32) -> io::Result<()> {
        look.enter_here(ns, mnt)
    }
}

impl<O: Out> Look<'_, O> {
    /// Looks through the first task that is still in the namespace and at its root.
    fn through_tasks(&mut self, mnt: u32, tids: impl Iterator<Item = u32>) {
        let mut failed = false;
        let mut confined = None;
        for tid in tids {
            match self.place_of(mnt, tid) {
                Ok((place, true)) => return self.read(place),
                Ok((place, false)) if confined.is_none() => confined = Some((place, tid)),
                Ok(_) => {}
                Err(error) => failed |= !is_ended(&error),
            }
        }
        let Some((place, tid)) = confined else {
            if failed {
                *self.unseen += 1;
            } else {
                // Its tasks are gone. What else shows it will do.
                self.mounts.seen.remove(&mnt);
            }
            return;
        };
        let path = Text::new().number(tid).text("/ns/mnt");
        let ns = self.opener.open(self.proc, path.get(), mnt);
        match ns.map(|ns| self.enter(ns.as_fd(), mnt)) {
            Ok(true) => {}
            // What it sees is better than nothing, and not all.
            Ok(false) | Err(_) => {
                *self.unseen += 1;
                self.read(place);
            }
        }
    }

    /// The mount namespace of a task, and whether the task's root is its root.
    fn place_of(&self, mnt: u32, tid: u32) -> io::Result<(Place, bool)> {
        let time = monotonic_ns();
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = sys::open(self.proc, Text::new().number(tid).get(), flags)?;
        let mountinfo = sys::open(dir.as_fd(), c"mountinfo", libc::O_RDONLY)?;
        let root = sys::open(dir.as_fd(), c"root", flags)?;
        let is_at_root = is_at_root(dir.as_fd());
        let mut link = [0; 64];
        let link = sys::read_link(dir.as_fd(), c"ns/mnt", &mut link)?;
        if parse::namespace(link) != Some((Kind::Mnt, mnt)) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let place = Place {
            mnt,
            root,
            mountinfo,
            time,
        };
        Ok((place, is_at_root))
    }

    /// Looks into a mount namespace that no task is in.
    fn go_into(&mut self, ns: BorrowedFd, mnt: u32) {
        if !self.mounts.seen.insert(mnt) {
            return;
        }
        if !self.enter(ns, mnt) {
            *self.unseen += 1;
        }
    }

    /// Enters a mount namespace and looks at its mounts. Gives whether that was possible.
    fn enter(&mut self, ns: BorrowedFd, mnt: u32) -> bool {
        if !self.mounts.may_enter || self.depth >= DEPTH_MAX {
            return false;
        }
        O::enter(self, ns, mnt).is_ok()
    }

    fn enter_here(&mut self, ns: BorrowedFd, mnt: u32) -> io::Result<()> {
        let time = monotonic_ns();
        sys::enter_mount_ns(ns)?;
        let place = Place {
            mnt,
            root: sys::open_path(c"/", libc::O_PATH | libc::O_DIRECTORY)?,
            mountinfo: sys::open(self.proc, c"thread-self/mountinfo", libc::O_RDONLY)?,
            time,
        };
        self.depth += 1;
        self.read(place);
        self.depth -= 1;
        Ok(())
    }

    /// Reads what is mounted in a place.
    fn read(&mut self, place: Place) {
        let mut quota = Quota::default();
        let mut lines = Lines::new(&place.mountinfo);
        loop {
            match lines.next() {
                Ok(Some(line)) => {
                    if let Some(mount) = parse::mount(line) {
                        self.mount(&place, &mount, &mut quota);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    *self.unseen += u32::from(!is_ended(&error));
                    return;
                }
            }
        }
    }

    /// Notes a mount of proc whose pid namespace is not known.
    fn unknown_proc(&mut self, place: &Place, mount: &Mount) {
        let places = self.mounts.unknown_procs.entry(mount.device).or_default();
        places.count += 1;
        if places.named.len() < UNKNOWN_MAX {
            let path = parse::unescape(mount.point);
            places.named.push((place.time, place.mnt, path.into()));
        }
    }

    fn mount(&mut self, place: &Place, mount: &Mount, quota: &mut Quota) {
        let is_proc = mount.fstype == b"proc";
        let (kind, inum) = match mount.fstype {
            b"proc" => {
                let Some(inum) = self.proc_pid_ns(place, mount) else {
                    self.unknown_proc(place, mount);
                    return;
                };
                (Kind::Pid, inum)
            }
            b"nsfs" => match parse::namespace(mount.root) {
                Some(namespace) => namespace,
                None => return,
            },
            _ => return,
        };
        let path = parse::unescape(mount.point);
        if !is_proc {
            let point = self.mounts.hasher.hash_one(path.as_slice());
            self.mounts.points.insert(point);
        }
        if !quota.admits(inum) {
            return;
        }
        if !is_proc {
            self.bind_mount(place, kind, inum, &path);
        }
        self.out.tell(Item::Mount {
            time: place.time,
            mnt: place.mnt,
            kind,
            ns: self.namespaces.ns(inum),
            is_proc,
            path,
        });
    }

    /// Learns what a mounted namespace is, if it is news.
    fn bind_mount(&mut self, place: &Place, kind: Kind, inum: u32, path: &[u8]) {
        let wants = self.mounts.wants(kind, inum);
        if self.namespaces.knows(kind, inum) && !wants {
            return;
        }
        let mut found = Vec::new();
        let seen = below(place, path);
        let ns = seen.and_then(|seen| self.opener.open_seen(seen.as_fd(), inum));
        let learnt = ns.as_ref().ok().and_then(|ns| {
            let learnt = self.namespaces.learn(ns.as_fd(), place.time, &mut found);
            learnt.ok()
        });
        if learnt != Some((kind, inum)) {
            // Another mount may lie on top of it.
            self.namespaces.note(kind, inum, place.time, &mut found);
        }
        self.out.tell(Item::Namespaces(found));
        match ns {
            Ok(ns) if wants => self.go_into(ns.as_fd(), inum),
            Err(_) if wants => {
                self.mounts.hidden.insert(inum);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// The pid namespace of a mounted instance of proc.
    fn proc_pid_ns(&mut self, place: &Place, mount: &Mount) -> Option<u32> {
        let root = self.proc_root(place, mount);
        let Some(root) = root else {
            return self.mounts.procs.get(&mount.device).copied();
        };
        // It may be another one, which has the device of one that is gone.
        self.mounts.procs.remove(&mount.device);
        let inum = self.ask_proc(root.as_fd(), place.time)?;
        self.mounts.procs.insert(mount.device, inum);
        Some(inum)
    }

    /// The root of a mounted instance of proc. A mount of a part of it does not show that,
    /// nor one that another mount lies on.
    fn proc_root(&self, place: &Place, mount: &Mount) -> Option<OwnedFd> {
        if mount.root != b"/" {
            return None;
        }
        let root = below(place, &parse::unescape(mount.point)).ok()?;
        let device = sys::identity(root.as_fd()).ok()?.device;
        (device == mount.device).then_some(root)
    }

    /// The pid namespace of an instance of proc, by its root: that of the first process in
    /// it. When that is gone, so are all others, and nothing tells.
    fn ask_proc(&mut self, root: BorrowedFd, time: u64) -> Option<u32> {
        let mut link = [0; 64];
        let link = sys::read_link(root, c"1/ns/pid", &mut link).ok()?;
        let (_, inum) = parse::namespace(link)?;
        if self.namespaces.knows(Kind::Pid, inum) {
            return Some(inum);
        }
        let ns = self.opener.open(root, c"1/ns/pid", inum).ok()?;
        let mut found = Vec::new();
        let learnt = self.namespaces.learn(ns.as_fd(), time, &mut found);
        self.out.tell(Item::Namespaces(found));
        learnt.ok().map(|(_, inum)| inum)
    }
}

/// Opens the file of a path in a mount namespace for a look.
fn below(place: &Place, path: &[u8]) -> io::Result<OwnedFd> {
    let path = CString::new(path)?;
    sys::look_below(place.root.as_fd(), &path)
}

/// Whether a task has ended: it has no mounts then (fs/proc_namespace.c,
/// mounts_open_common).
fn is_ended(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL) || sys::is_gone(error)
}

/// The lines of a file, each of which is in memory for its time only. One that is too long
/// is left out: what is behind a cut is chosen by the traced, and no line.
struct Lines<'a> {
    file: &'a OwnedFd,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    is_cut: bool,
}

impl Lines<'_> {
    fn new(file: &OwnedFd) -> Lines<'_> {
        Lines {
            file,
            buf: vec![0; LINE_MAX],
            start: 0,
            end: 0,
            is_cut: false,
        }
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let rest = &self.buf[self.start..self.end];
            if let Some(len) = rest.iter().position(|byte| *byte == b'\n') {
                let from = self.start;
                self.start += len + 1;
                if std::mem::take(&mut self.is_cut) {
                    continue;
                }
                return Ok(Some(&self.buf[from..from + len]));
            }
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.end == self.buf.len() {
                self.end = 0;
                self.is_cut = true;
            }
            let len = sys::read(self.file.as_fd(), &mut self.buf[self.end..])?;
            if len == 0 {
                return Ok(None);
            }
            self.end += len;
        }
    }
}
