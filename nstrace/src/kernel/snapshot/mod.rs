//! What is there already: the namespaces, the tasks in them, and what else holds them.
//!
//! [`take`] looks at the whole machine and tells what it finds as events, for
//! [`crate::world`]. Taken after the probes are attached, nothing falls between the two.
//! The tail needs less: [`namespaces`] and [`cgroups`].
//!
//! # Where it looks
//!
//! | | |
//! | --- | --- |
//! | `/proc/PID/task/TID/ns` | where the tasks are, and their children will be |
//! | `/proc/PID/fd` | open descriptors of namespaces, and sockets of others than the own |
//! | `mountinfo`, in each mount namespace | bind mounts of namespaces, and instances of proc |
//! | listns(2), from v6.19 | what is in use; only its holder may have been out of sight |
//! | `NS_GET_PARENT`, `NS_GET_USERNS` | what is above all these |
//!
//! A mount namespace that no task is in shows its mounts to none but those who enter it. So
//! it is entered, by a thread that ends after it ([`Options::enter`]).
//!
//! # What it cannot see
//!
//! - Namespaces that are held by a descriptor in flight (`SCM_RIGHTS`), by a pidfd or a
//!   mapped file, or by a network device that is in two of them. From v6.19 listns knows
//!   most of these.
//! - Pid namespaces for children that have had no task yet.
//! - The pid namespace of an instance of proc whose first process has ended: it is counted.
//!
//! # What it does to the machine
//!
//! It reads, and does not wait for the traced: what is opened is first looked at (`O_PATH`),
//! links of others are not followed, file systems in user space are not asked (before v5.12
//! they are, on the way to a mount point: there is no `RESOLVE_CACHED`). A socket that its
//! owner closes while its copy is here is closed by the snapshot, with the owner's
//! `SO_LINGER`.
//!
//! What it keeps is in proportion to what it tells, but for the numbers of sockets, of which
//! it remembers a bounded number. The thread that enters mount namespaces makes setns
//! operations like any other, which a trace shows.

mod cgroups;
mod descriptors;
mod living;
mod mounts;
pub(super) mod namespaces;
pub(super) mod parse;
mod quota;
pub(super) mod sys;
mod tasks;
#[cfg(test)]
mod tests;
pub(super) mod text;

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nstrace_common::kind::Kind;

pub use self::living::{cgroups, namespaces};
pub(super) use self::tasks::is_at_root;
use self::{
    mounts::Mounts,
    namespaces::{Namespaces, Opener},
    tasks::Tasks,
};
use super::clock::monotonic_ns;
use crate::event::{Event, FoundHolder, FoundNamespace, Holder, Now, SnapshotEnd, Unseen};

/// Where the cgroup v2 hierarchy is mounted: alone, or beside those of version 1.
const CGROUP_MOUNTS: [&CStr; 2] = [c"/sys/fs/cgroup/unified", c"/sys/fs/cgroup"];

/// So often at most are those looked at who were forked while others were.
const GENERATIONS: usize = 4;

/// What a snapshot is to look at beside the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sockets of other net namespaces than that of their process. Each socket is copied
    /// for it (`pidfd_getfd`).
    pub sockets: bool,
    /// Mount namespaces without tasks: a thread enters them.
    pub enter: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sockets: true,
            enter: true,
        }
    }
}

/// Why there is no snapshot at all.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is nothing to read.
    #[error("/proc cannot be read: {0}: is it mounted?")]
    NoProc(#[source] io::Error),
    /// Something else is there.
    #[error("/proc is not an instance of proc: mount one (mount -t proc proc /proc)")]
    NotProc,
}

/// What looks.
struct Looker<'a> {
    proc: BorrowedFd<'a>,
    opener: Opener<'a>,
    own_pid_ns: u32,
    namespaces: Namespaces,
    unseen: Unseen,
    each: &'a mut dyn FnMut(Event),
    news: Vec<FoundNamespace>,
}

/// Looks at the whole machine, and tells what it finds: [`Event::SnapshotBegin`], then each
/// namespace after its parent and its owner and before the tasks in it, then what holds
/// namespaces, then [`Event::SnapshotEnd`]. Each has the time from before it was looked at.
///
/// Ids of tasks and uids are as the reader sees them: it should be in the first pid and user
/// namespaces, and have the rights of root; what it may not look at is counted.
pub fn take(options: &Options, each: &mut dyn FnMut(Event)) -> Result<(), SnapshotError> {
    let proc = open_proc()?;
    let opener = Opener::new(proc.as_fd()).map_err(SnapshotError::NoProc)?;
    let time = monotonic_ns();
    each(Event::SnapshotBegin(Now { time }));
    let own = |path: &CStr| {
        let mut buf = [0; 64];
        let link = sys::read_link(proc.as_fd(), path, &mut buf);
        let inum = link.ok().and_then(parse::namespace);
        inum.map_or(0, |(_, inum)| inum)
    };
    let mut looker = Looker {
        proc: proc.as_fd(),
        opener,
        own_pid_ns: own(c"self/ns/pid"),
        namespaces: Namespaces::new(own(c"self/ns/user")),
        unseen: Unseen::default(),
        each,
        news: Vec::new(),
    };
    look(&mut looker, options);
    let unseen = looker.unseen;
    let time = monotonic_ns();
    each(Event::SnapshotEnd(SnapshotEnd { time, unseen }));
    Ok(())
}

/// The instance of proc by which the machine is looked at.
pub(super) fn open_proc() -> Result<OwnedFd, SnapshotError> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let proc = sys::open_path(c"/proc", flags).map_err(SnapshotError::NoProc)?;
    match sys::magic(proc.as_fd()).map_err(SnapshotError::NoProc)? {
        sys::PROC_MAGIC => Ok(proc),
        _ => Err(SnapshotError::NotProc),
    }
}

fn look(looker: &mut Looker, options: &Options) {
    let mut tasks = Tasks::default();
    let mut news = tasks::find(looker, &mut tasks, tasks::PASSES);
    let mut mounts = Mounts::new(options.enter, &tasks.members);
    // Where namespaces are mounted says which open files can be namespaces.
    mounts.find(looker, &news, &tasks.members);
    descriptors::find(looker, &news, options.sockets, &mut mounts);
    // Who was forked meanwhile has what its parent had open, which may have ended before that
    // was looked at.
    for _ in 0..GENERATIONS {
        news = tasks::find(looker, &mut tasks, 1);
        if news.is_empty() {
            break;
        }
        descriptors::find(looker, &news, options.sockets, &mut mounts);
    }
    list(looker, &mut mounts);
    looker.unseen.mounts += mounts.unseen();
    looker.unseen.procs += mounts.unseen_procs(looker);
}

/// Opens those namespaces that the kernel lists and that are not known yet.
fn list(looker: &mut Looker, mounts: &mut Mounts) {
    let mut ids = vec![0; 1024];
    let mut after = 0;
    loop {
        let time = monotonic_ns();
        // There is none before v6.19; and at the end of the list it may say ENOENT.
        let len = sys::list_namespaces(after, &mut ids).unwrap_or(0);
        let Some(last) = ids[..len].last().copied().filter(|last| *last > after) else {
            return;
        };
        after = last;
        for id in &ids[..len] {
            if looker.namespaces.knows_id(*id) {
                continue;
            }
            if let Ok(ns) = sys::open_namespace(*id)
                && let Some((kind, inum)) = looker.learn(&ns, time)
            {
                mounts.found(looker, kind, inum, &ns);
            }
        }
    }
}

impl Looker<'_> {
    /// Learns what an open namespace is, and tells it.
    fn learn(&mut self, ns: &OwnedFd, time: u64) -> Option<(Kind, u32)> {
        self.learn_anew(ns, time, 0)
    }

    /// The same, but asks pid namespaces again that were looked at before that.
    fn learn_anew(&mut self, ns: &OwnedFd, time: u64, since: u64) -> Option<(Kind, u32)> {
        let learnt = self
            .namespaces
            .learn_anew(ns.as_fd(), time, since, &mut self.news);
        self.tell();
        learnt.ok()
    }

    /// Tells of a namespace, open or not.
    fn found(&mut self, kind: Kind, inum: u32, opened: io::Result<OwnedFd>, time: u64) {
        let learnt = opened.ok().and_then(|ns| self.learn(&ns, time));
        if learnt != Some((kind, inum)) {
            self.namespaces.note(kind, inum, time, &mut self.news);
            self.tell();
        }
    }

    fn holds(&mut self, kind: Kind, inum: u32, holder: Holder, time: u64) {
        (self.each)(Event::FoundHolder(FoundHolder {
            time,
            kind,
            ns: self.namespaces.ns(inum),
            holder,
        }));
    }

    fn tell(&mut self) {
        for found in self.news.drain(..) {
            (self.each)(Event::FoundNamespace(found));
        }
    }
}
