//! Namespaces that processes have open, and sockets of other namespaces than their own.
//!
//! What a descriptor is says the text of its link. Only what looks like a namespace is
//! opened: the files of others may be anything.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use foldhash::HashMap;
use nstrace_common::kind::Kind;

use super::{Looker, mounts::Mounts, parse, quota::Quota, sys, tasks::Seen, text::Text};
use crate::{event::Holder, kernel::clock::monotonic_ns};

/// So many sockets are remembered: they are many, and few are told.
const SOCKETS_MAX: usize = 1 << 16;

/// No link of proc is longer (fs/proc/base.c, do_proc_readlink).
const LINK_MAX: usize = 4096;

/// All processes are looked at so often at most.
const PASSES_MAX: usize = 4;

/// So many tables of open files of one process are told apart.
const TABLES_MAX: usize = 16;

/// What is used again for each process.
struct Scratch<'a> {
    dir: Vec<u8>,
    quota: Quota,
    /// The net namespaces of sockets by their number, if they are asked for; 0 for what
    /// cannot be learnt.
    sockets: Option<HashMap<u64, u32>>,
    mounts: &'a mut Mounts,
}

/// A process whose descriptors are looked at.
struct Process {
    pid: u32,
    net: u32,
    /// The task whose table it is now.
    tid: u32,
    /// That task, open since the first of the table's sockets was met.
    pidfd: Option<io::Result<OwnedFd>>,
    time: u64,
}

/// Looks at the descriptors of all processes.
pub fn find(looker: &mut Looker, tasks: &[Seen], with_sockets: bool, mounts: &mut Mounts) {
    let mut scratch = Scratch {
        dir: vec![0; 32 << 10],
        quota: Quota::default(),
        sockets: with_sockets.then(HashMap::default),
        mounts,
    };
    let unseen = looker.unseen.descriptors;
    for _ in 0..PASSES_MAX {
        let points = scratch.mounts.points();
        // What cannot be read is so each time, and counts once.
        looker.unseen.descriptors = unseen;
        for threads in tasks.chunk_by(|one, next| one.pid == next.pid) {
            process(looker, &mut scratch, threads);
        }
        // A mount namespace that only a descriptor holds says where more are mounted: who
        // had one of these open before that was known is asked again.
        if scratch.mounts.points() == points {
            break;
        }
    }
}

/// Looks at each table of open files of a process once.
fn process(looker: &mut Looker, scratch: &mut Scratch, threads: &[Seen]) {
    let Some(first) = threads.first() else { return };
    let mut process = Process {
        pid: first.pid,
        net: first.net,
        tid: first.tid,
        pidfd: None,
        time: monotonic_ns(),
    };
    scratch.quota.clear();
    let mut tables: Vec<u32> = Vec::new();
    for thread in threads {
        let tid = thread.tid;
        // Where it cannot be told (without CONFIG_KCMP), all are read.
        let is_known =
            |other: &u32| sys::has_same(sys::Shared::Files, *other, tid).unwrap_or(false);
        if tables.iter().any(is_known) {
            continue;
        }
        if tables.len() < TABLES_MAX {
            tables.push(tid);
        }
        process.tid = tid;
        process.pidfd = None;
        if let Err(error) = table(looker, scratch, &mut process)
            && !sys::is_gone(&error)
        {
            looker.unseen.descriptors += 1;
        }
    }
}

/// Looks at a table of open files, through a task that has it.
fn table(looker: &mut Looker, scratch: &mut Scratch, process: &mut Process) -> io::Result<()> {
    // By its thread id alone a thread is found too.
    let path = Text::new().number(process.tid).text("/fd");
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let dir = sys::open(looker.proc, path.get(), flags)?;
    let mut buf = std::mem::take(&mut scratch.dir);
    let result = loop {
        match sys::read_dir(dir.as_fd(), &mut buf) {
            Ok(0) => break Ok(()),
            Ok(len) => {
                let mut fds = parse::entries(&buf[..len]);
                let look = |(fd, _)| descriptor(looker, scratch, process, dir.as_fd(), fd);
                if let Err(error) = fds.try_for_each(look) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    scratch.dir = buf;
    result
}

/// Looks at a descriptor. An error says that those of this process may not be looked at:
/// to list them is another right than to read them.
fn descriptor(
    looker: &mut Looker,
    scratch: &mut Scratch,
    process: &mut Process,
    dir: BorrowedFd,
    fd: u32,
) -> io::Result<()> {
    let mut link = [0; LINK_MAX];
    let path = Text::new().number(fd);
    let link = match sys::read_link(dir, path.get(), &mut link) {
        Ok(link) => link,
        Err(error) if sys::is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some((kind, inum)) = parse::namespace(link) {
        namespace(looker, scratch, process, dir, fd, (kind, inum));
    } else if link.starts_with(b"/") {
        if scratch.mounts.may_be_at(link)
            && let Ok((kind, inum)) = looker.opener.identify(dir, path.get())
        {
            namespace(looker, scratch, process, dir, fd, (kind, inum));
        }
    } else if scratch.sockets.is_some()
        && let Some(number) = parse::socket(link)
    {
        socket(looker, scratch, process, fd, number);
    }
    Ok(())
}

fn namespace(
    looker: &mut Looker,
    scratch: &mut Scratch,
    process: &Process,
    dir: BorrowedFd,
    fd: u32,
    (kind, inum): (Kind, u32),
) {
    if !scratch.quota.admits(inum) {
        return;
    }
    let is_unknown = !looker.namespaces.knows(kind, inum);
    if is_unknown || scratch.mounts.wants(kind, inum) {
        let path = Text::new().number(fd);
        let opened = looker.opener.open(dir, path.get(), inum);
        match opened {
            Ok(ns) => {
                looker.learn(&ns, process.time);
                scratch.mounts.found(looker, kind, inum, &ns);
            }
            // It was closed.
            Err(error) if sys::is_gone(&error) => return,
            Err(error) => looker.found(kind, inum, Err(error), process.time),
        }
    }
    let pid = process.pid;
    looker.holds(kind, inum, Holder::Descriptor { pid, fd }, process.time);
}

fn socket(looker: &mut Looker, scratch: &mut Scratch, process: &mut Process, fd: u32, number: u64) {
    let Some(sockets) = &mut scratch.sockets else {
        return;
    };
    let net = match sockets.get(&number) {
        Some(net) => *net,
        None => {
            let net = match net_of(looker, process, fd) {
                Ok(net) => net,
                Err(error) if is_closed(&error) => return,
                Err(_) => {
                    looker.unseen.sockets += 1;
                    0
                }
            };
            if sockets.len() >= SOCKETS_MAX {
                sockets.clear();
            }
            sockets.insert(number, net);
            net
        }
    };
    if net != 0 && net != process.net && scratch.quota.admits(net) {
        let pid = process.pid;
        looker.holds(Kind::Net, net, Holder::Socket { pid, fd }, process.time);
    }
}

/// The net namespace of a socket.
fn net_of(looker: &mut Looker, process: &mut Process, fd: u32) -> io::Result<u32> {
    let Process { pid, tid, .. } = *process;
    let pidfd = process
        .pidfd
        .get_or_insert_with(|| sys::pidfd_open(tid, tid != pid));
    let pidfd = match pidfd {
        Ok(pidfd) => pidfd,
        Err(error) => {
            return Err(error
                .raw_os_error()
                .map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error));
        }
    };
    let socket = sys::pidfd_getfd(pidfd.as_fd(), fd)?;
    let ns = sys::socket_net_ns(socket.as_fd())?;
    let learnt = looker.learn(&ns, process.time);
    let (_, inum) = learnt.ok_or(io::ErrorKind::InvalidData)?;
    Ok(inum)
}

/// Whether it was closed meanwhile, or is another file now.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTTY)) || sys::is_gone(error)
}
