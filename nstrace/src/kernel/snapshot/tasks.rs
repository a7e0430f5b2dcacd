//! Where the tasks are.
//!
//! A task that starts while the others are looked at is not told of if it is in the first
//! pid namespace. So `/proc` is read again, until there is none that is new. What is new is
//! known by the number of its inode in proc, which the directory gives for nothing: proc
//! makes another one for the next task with that id.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use foldhash::HashMap;
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{PID_LEVELS, PidAt},
};

use super::{Looker, cgroups::CgroupIds, parse, sys, text::Text};
use crate::{
    event::{Event, FoundTask},
    kernel::clock::monotonic_ns,
};

/// At most so often is `/proc` read: a machine that forks all the time is never done.
pub const PASSES: usize = 10;

/// A hundredth of a second, in which `/proc/PID/stat` counts on every machine (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// `TASK_COMM_LEN` without its NUL. proc makes those of kernel workers longer.
const COMM_LEN: usize = 15;

/// The links of `/proc/PID/ns` in the order of [`Kind`], then those for children.
const LINKS: [(Kind, &CStr); KINDS + 2] = [
    (Kind::Mnt, c"ns/mnt"),
    (Kind::Uts, c"ns/uts"),
    (Kind::Ipc, c"ns/ipc"),
    (Kind::Pid, c"ns/pid"),
    (Kind::Net, c"ns/net"),
    (Kind::User, c"ns/user"),
    (Kind::Cgroup, c"ns/cgroup"),
    (Kind::Time, c"ns/time"),
    (Kind::Pid, c"ns/pid_for_children"),
    (Kind::Time, c"ns/time_for_children"),
];
const PID_FOR_CHILDREN: usize = KINDS;
const TIME_FOR_CHILDREN: usize = KINDS + 1;

/// A task that was found, as far as what is looked at later needs it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its process.
    pub pid: u32,
    /// Its thread id.
    pub tid: u32,
    /// Its mount namespace; 0 if it is not known.
    pub mnt: u32,
    /// Its net namespace; likewise.
    pub net: u32,
    ino: u64,
}

/// The tasks that were found.
#[derive(Debug, Default)]
pub struct Tasks {
    by_tid: HashMap<u32, Seen>,
    /// Those that the last look has found.
    news: Vec<Seen>,
    /// For each mount namespace, a task in it.
    pub members: HashMap<u32, Member>,
}

/// A task in a mount namespace, through which its mounts can be seen.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The task.
    pub tid: u32,
    /// Whether its root is that of the namespace, so that it sees all mounts.
    pub is_at_root: bool,
}

impl Tasks {
    fn note(&mut self, [pid, tid, mnt, net]: [u32; 4], ino: u64) {
        let seen = Seen {
            pid,
            tid,
            mnt,
            net,
            ino,
        };
        self.by_tid.insert(tid, seen);
        self.news.push(seen);
    }

    fn knows(&self, tid: u32, ino: u64) -> bool {
        self.by_tid.get(&tid).is_some_and(|seen| seen.ino == ino)
    }
}

/// What is used again for each task.
struct Scratch {
    dir: Vec<u8>,
    file: Vec<u8>,
    threads: Vec<(u32, u64)>,
    cgroups: CgroupIds,
    suspended_ns: u64,
}

/// Finds all tasks, but those that are known, in so many passes at most. Gives them process by
/// process, the leader first where it lives.
pub fn find(looker: &mut Looker, tasks: &mut Tasks, passes: usize) -> Vec<Seen> {
    let mut scratch = Scratch {
        dir: vec![0; 32 << 10],
        file: vec![0; 32 << 10],
        threads: Vec::new(),
        cgroups: CgroupIds::new(),
        suspended_ns: sys::suspended_ns(),
    };
    let mut processes = Vec::new();
    for _ in 0..passes {
        if entries(looker.proc, c".", &mut scratch.dir, &mut processes).is_err() {
            looker.unseen.tasks += 1;
        }
        let news = processes.iter().fold(0, |news, (pid, ino)| {
            news + process(looker, tasks, &mut scratch, *pid, *ino)
        });
        if news == 0 {
            break;
        }
    }
    let mut news = std::mem::take(&mut tasks.news);
    news.sort_unstable_by_key(|task| (task.pid, task.tid != task.pid, task.tid));
    news
}

/// The numbered entries of a directory, with their inodes.
fn entries(
    parent: BorrowedFd,
    path: &CStr,
    buf: &mut [u8],
    entries: &mut Vec<(u32, u64)>,
) -> io::Result<()> {
    entries.clear();
    let dir = sys::open(parent, path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    loop {
        let len = sys::read_dir(dir.as_fd(), buf)?;
        if len == 0 {
            return Ok(());
        }
        entries.extend(parse::entries(&buf[..len]));
    }
}

/// Looks at those tasks of a process that are new, and gives how many.
fn process(
    looker: &mut Looker,
    tasks: &mut Tasks,
    scratch: &mut Scratch,
    pid: u32,
    ino: u64,
) -> usize {
    let path = Text::new().number(pid).text("/task");
    // It has a link for each thread (fs/proc/base.c, proc_task_getattr) beside its own two.
    let threads = sys::stat_at(looker.proc, path.get(), 0).map(|stat| stat.st_nlink);
    if matches!(threads, Ok(3)) {
        let path = Text::new().number(pid);
        return usize::from(task(looker, tasks, scratch, path, (pid, pid), ino));
    }
    let mut threads = std::mem::take(&mut scratch.threads);
    let listed = entries(looker.proc, path.get(), &mut scratch.dir, &mut threads);
    if listed.is_err_and(|error| !sys::is_gone(&error)) {
        looker.unseen.tasks += 1;
    }
    let mut news = 0;
    for (tid, ino) in threads.iter().copied() {
        let path = path.text("/").number(tid);
        news += usize::from(task(looker, tasks, scratch, path, (pid, tid), ino));
    }
    scratch.threads = threads;
    news
}

/// Looks at a task, and gives whether it is new.
fn task(
    looker: &mut Looker,
    tasks: &mut Tasks,
    scratch: &mut Scratch,
    path: Text,
    (pid, tid): (u32, u32),
    ino: u64,
) -> bool {
    if tasks.knows(tid, ino) {
        return false;
    }
    let time = monotonic_ns();
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let dir = match sys::open(looker.proc, path.get(), flags) {
        Ok(dir) => dir,
        Err(error) => {
            // What is counted once is known from then on.
            let is_there = !sys::is_gone(&error);
            if is_there {
                looker.unseen.tasks += 1;
                tasks.note([pid, tid, 0, 0], ino);
            }
            return is_there;
        }
    };
    let Some((mut links, mut exited)) = links(looker, &dir) else {
        return false;
    };
    let mut stat = [0; 1024];
    let stat = sys::read_file(dir.as_fd(), c"stat", &mut stat);
    let stat = stat.ok().and_then(parse::stat);
    let Some(stat) = stat else {
        return false;
    };
    if stat.is_exiting && !exited {
        // Its exit may have been told before `time`, and it may not have left yet.
        exited = true;
        leave(&mut links);
    }
    let cgroup = scratch.cgroups.of(dir.as_fd(), &mut scratch.file);
    learn(looker, &dir, &links, time);
    let start = stat.start.saturating_mul(TICK_NS);
    let start = start.saturating_sub(scratch.suspended_ns);
    let (pids, pids_len) = pids(
        looker,
        &dir,
        tid,
        links[Kind::Pid as usize],
        [start, time],
        scratch,
    );
    let mut namespaces = [0; KINDS];
    namespaces.copy_from_slice(&links[..KINDS]);
    (looker.each)(Event::FoundTask(FoundTask {
        time,
        start,
        pid,
        tid,
        exited,
        cgroup,
        comm: &stat.comm[..stat.comm.len().min(COMM_LEN)],
        pids: &pids[..pids_len],
        namespaces,
        pid_for_children: links[PID_FOR_CHILDREN],
        time_for_children: links[TIME_FOR_CHILDREN],
    }));
    let (mnt, net) = (links[Kind::Mnt as usize], links[Kind::Net as usize]);
    tasks.note([pid, tid, mnt, net], ino);
    note_member(tasks, &dir, mnt, tid);
    true
}

/// Reads a task's namespaces, and whether it has exited: it has but a user and a pid
/// namespace then, until its parent has taken notice. None if it is gone.
fn links(looker: &mut Looker, dir: &OwnedFd) -> Option<([u32; KINDS + 2], bool)> {
    let mut inums = [0; KINDS + 2];
    for (slot, (kind, path)) in LINKS.into_iter().enumerate() {
        match link(dir.as_fd(), kind, path) {
            Ok(inum) => inums[slot] = inum,
            // Not every kernel has every kind (time from v5.6), and a pid namespace for
            // children is told only when it has its first task (kernel/pid_namespace.c,
            // pidns_for_children_get).
            Err(error) if sys::is_gone(&error) => {}
            // It is there, and may not be looked at.
            Err(_) => {
                looker.unseen.tasks += 1;
                return Some((inums, false));
            }
        }
    }
    let has = |kind: Kind| inums[kind as usize] != 0;
    let is_whole = has(Kind::Mnt) && has(Kind::Uts) && has(Kind::Net);
    let exited = !is_whole && link(dir.as_fd(), Kind::Mnt, c"ns/mnt").is_err();
    if !exited && inums[PID_FOR_CHILDREN] == 0 {
        looker.unseen.children += 1;
    }
    if exited {
        // It may have exited while it was looked at.
        leave(&mut inums);
    }
    has_any(&inums).then_some((inums, exited))
}

/// What has exited has left all namespaces but these.
fn leave(inums: &mut [u32; KINDS + 2]) {
    for (slot, inum) in inums.iter_mut().enumerate() {
        if slot != Kind::Pid as usize && slot != Kind::User as usize {
            *inum = 0;
        }
    }
}

fn has_any(inums: &[u32]) -> bool {
    inums.iter().any(|inum| *inum != 0)
}

/// Reads one of them.
fn link(dir: BorrowedFd, kind: Kind, path: &CStr) -> io::Result<u32> {
    let mut buf = [0; 64];
    let link = parse::namespace(sys::read_link(dir, path, &mut buf)?);
    let link = link.filter(|(own, _)| *own == kind);
    link.map(|(_, inum)| inum)
        .ok_or(io::ErrorKind::InvalidData.into())
}

/// Learns those namespaces of a task that are news.
fn learn(looker: &mut Looker, dir: &OwnedFd, links: &[u32; KINDS + 2], time: u64) {
    for ((kind, path), inum) in LINKS.into_iter().zip(*links) {
        if inum == 0 || looker.namespaces.knows(kind, inum) {
            continue;
        }
        let opened = looker.opener.open(dir.as_fd(), path, inum);
        looker.found(kind, inum, opened, time);
    }
}

/// A task's ids, from the first pid namespace down; none if they are not known.
fn pids(
    looker: &mut Looker,
    dir: &OwnedFd,
    tid: u32,
    pid_ns: u32,
    [start, time]: [u64; 2],
    scratch: &mut Scratch,
) -> ([PidAt; PID_LEVELS], usize) {
    let mut pids = [PidAt::default(); PID_LEVELS];
    pids[0] = PidAt {
        nr: tid,
        ns: pid_ns,
    };
    if pid_ns == looker.own_pid_ns || pid_ns == 0 {
        return (pids, usize::from(pid_ns != 0));
    }
    let status = sys::read_file(dir.as_fd(), c"status", &mut scratch.file);
    let Some((mut pids, len)) = status.ok().and_then(parse::ns_pids) else {
        return (pids, 0);
    };
    // Numbers may have other namespaces than when they were looked at, or could not be then.
    let since = start.saturating_add(TICK_NS);
    let are_known = looker.namespaces.are_since(pid_ns, since);
    if !(are_known && are_below(looker, pid_ns, &mut pids[..len]))
        && let Ok(ns) = looker.opener.open(dir.as_fd(), c"ns/pid", pid_ns)
    {
        looker.learn_anew(&ns, time, since);
    }
    match are_below(looker, pid_ns, &mut pids[..len]) {
        true => (pids, len),
        false => (pids, 0),
    }
}

/// Notes for each id of which namespace it is, the last of this one and the others of those above
/// it; says whether the first is of the reader's own.
fn are_below(looker: &Looker, mut ns: u32, pids: &mut [PidAt]) -> bool {
    for pid in pids.iter_mut().rev() {
        pid.ns = ns;
        ns = looker.namespaces.parent(ns);
    }
    pids.first().is_some_and(|pid| pid.ns == looker.own_pid_ns)
}

/// Notes a task as one through which the mounts of its namespace can be seen.
fn note_member(tasks: &mut Tasks, dir: &OwnedFd, mnt: u32, tid: u32) {
    let known = tasks.members.get(&mnt);
    if mnt == 0 || known.is_some_and(|member| member.is_at_root) {
        return;
    }
    let member = Member {
        tid,
        is_at_root: is_at_root(dir.as_fd()),
    };
    if known.is_none() || member.is_at_root {
        tasks.members.insert(mnt, member);
    }
}

/// Whether a task's root is that of its mount namespace.
pub fn is_at_root(dir: BorrowedFd) -> bool {
    sys::read_link(dir, c"root", &mut [0; 2]).is_ok_and(|root| root == b"/")
}
