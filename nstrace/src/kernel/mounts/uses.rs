//! Who uses mounts: what all tasks have open or mapped, where they stand, what they run.
//!
//! An open file's mount is told by `/proc/PID/fdinfo`, without a look at the file. Of other
//! files it is asked by statx through the links of proc; of what no namespace has, the file
//! system is asked what it is. All of that can hang, for as long as a server does not answer
//! (d_weak_revalidate of NFS), or a task does not let go of its memory. So a thread looks,
//! process by process; when it hangs, it is left behind and another one goes on.

mod written;

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use foldhash::{HashMap, HashSet};

use super::{
    internal::{self, Internal},
    maps, sockets, sys,
};
use crate::{
    kernel::snapshot::{SnapshotError, open_proc, parse, sys as calls, text::Text},
    mounts::{
        Device, Mounts, Name,
        uses::{Detached, Found, How, Search, Uses, below_roots},
    },
};

use written::is_for_writing;
pub use written::{all_tasks, compare};

/// So long a process may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many may take longer; what comes after them is left out.
const HUNG_MAX: usize = 8;

/// So many finds are on the way at a time.
const ON_THE_WAY: usize = 1024;

/// So many mapped files are remembered.
const MAPPED_MAX: usize = 1 << 16;

/// No link of proc is longer (fs/proc/base.c, do_proc_readlink).
const LINK_MAX: usize = 4096;

/// A task whose files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its process.
    pub pid: u32,
    /// Its thread id.
    pub tid: u32,
    /// Its mount namespace.
    pub mnt: u32,
    /// Its net namespace.
    pub net: u32,
}

enum Message {
    Found(Found),
    Detached(Detached),
    /// The files of a process may not be looked at.
    Unseen(u32),
    /// A process was looked at: the first so many tasks are done.
    Done(usize),
    /// There is much to look at, and nothing hangs.
    Alive,
}

/// What a thread that looks needs.
#[derive(Clone)]
struct Job {
    tasks: Arc<[Task]>,
    mounts: Arc<Mounts>,
    search: Arc<Search>,
    internal: Internal,
    below_roots: Arc<HashSet<u32>>,
}

/// Looks at the files of all these tasks, which come process by process.
pub fn find(tasks: Vec<Task>, mounts: &Arc<Mounts>, search: Search) -> Result<Uses, SnapshotError> {
    let job = Job {
        tasks: tasks.into(),
        mounts: Arc::clone(mounts),
        search: Arc::new(search),
        internal: Internal::new(),
        below_roots: Arc::new(below_roots(mounts)),
    };
    let mut uses = Uses::default();
    let mut from = 0;
    while from < job.tasks.len() {
        from = watch(&job, from, &mut uses)?;
        if uses.hung.len() > HUNG_MAX {
            let left = job.tasks[from..].chunk_by(|one, next| one.pid == next.pid);
            uses.left_out = left.count();
            break;
        }
    }
    uses.uses.sort_by_key(|one| (one.pid, one.tid, one.mount));
    Ok(uses)
}

/// Has a thread look from one task on, and gives up to where it came: to the end, or to the
/// process that it hangs at.
fn watch(job: &Job, from: usize, uses: &mut Uses) -> Result<usize, SnapshotError> {
    let proc = open_proc()?;
    let (sender, messages) = mpsc::sync_channel(ON_THE_WAY);
    let looker = job.clone();
    let looked = thread::Builder::new().spawn(move || {
        let mut looker = Looker {
            proc,
            job: looker,
            out: sender,
            unknown: HashMap::default(),
            mapped: HashMap::default(),
            sockets: sockets::Bound::default(),
        };
        looker.run(from);
    });
    looked.map_err(SnapshotError::NoProc)?;
    let mut done = from;
    loop {
        match messages.recv_timeout(PATIENCE) {
            Ok(Message::Found(found)) if job.search.written => uses.written.push(found),
            Ok(Message::Found(found)) => uses.add(found),
            Ok(Message::Detached(mount)) => uses.add_detached(mount),
            Ok(Message::Unseen(pid)) => uses.add_unseen(pid),
            Ok(Message::Done(len)) => done = len,
            Ok(Message::Alive) => {}
            Err(RecvTimeoutError::Timeout) => {
                // The thread ends when it comes to send again, or with us.
                let left = job.tasks.get(done..).unwrap_or_default();
                let hung = left.chunk_by(|one, next| one.pid == next.pid).next();
                let Some(hung) = hung else { return Ok(done) };
                uses.hung.extend(hung.first().map(|task| task.pid));
                return Ok(done + hung.len());
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(job.tasks.len()),
        }
    }
}

/// What a mount that no namespace has turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// It is the kernel's own.
    Internal,
    /// It was unmounted, or is not mounted yet.
    Detached(Device),
}

struct Looker {
    proc: OwnedFd,
    job: Job,
    out: SyncSender<Message>,
    unknown: HashMap<u32, Unknown>,
    /// Through which mount a file is mapped, by mount namespace, file system, number, path.
    mapped: HashMap<(u32, Device, u64, Name), u32>,
    sockets: sockets::Bound,
}

/// Nobody listens any more.
struct Unheard;

/// A file that was found, before it is known whether it is looked for.
struct Seen<'a> {
    task: Task,
    how: How,
    /// The id of its mount; 0 if it is not known.
    mount: u32,
    path: &'a [u8],
}

impl Looker {
    fn run(&mut self, from: usize) {
        let tasks = Arc::clone(&self.job.tasks);
        let mut done = from;
        for threads in tasks[from..].chunk_by(|one, next| one.pid == next.pid) {
            done += threads.len();
            let looked = self.process(threads);
            if looked
                .and_then(|()| self.tell(Message::Done(done)))
                .is_err()
            {
                return;
            }
        }
    }

    fn tell(&self, message: Message) -> Result<(), Unheard> {
        self.out.send(message).map_err(|_| Unheard)
    }

    /// Looks at each thing that threads of a process can have for themselves once.
    fn process(&mut self, threads: &[Task]) -> Result<(), Unheard> {
        let (mut files, mut places) = (Vec::new(), Vec::new());
        let mut has_memory = false;
        for task in threads {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let dir = calls::open(self.proc.as_fd(), Text::new().number(task.tid).get(), flags);
            let Ok(dir) = dir else { continue };
            let dir = dir.as_fd();
            if !has_memory {
                has_memory = self.memory(*task, dir)?;
            }
            if !self.job.search.written && is_new(calls::Shared::Fs, &mut places, task.tid) {
                self.link(*task, dir, c"cwd", How::Cwd)?;
                self.link(*task, dir, c"root", How::Root)?;
            }
            if is_new(calls::Shared::Files, &mut files, task.tid) {
                self.descriptors(*task, dir)?;
            }
        }
        Ok(())
    }

    /// Looks at what a link of proc leads to.
    fn link(&mut self, task: Task, dir: BorrowedFd, name: &CStr, how: How) -> Result<(), Unheard> {
        let stat = match sys::stat(dir, name) {
            Ok(stat) => stat,
            Err(error) if is_forbidden(&error) => return self.tell(Message::Unseen(task.pid)),
            Err(_) => return Ok(()),
        };
        let mut path = [0; LINK_MAX];
        let path = calls::read_link(dir, name, &mut path).unwrap_or_default();
        // That of the namespace itself, as every task of it has.
        if how == How::Root && path == b"/" && self.job.mounts.by_id(stat.mount).is_some() {
            return Ok(());
        }
        let seen = Seen {
            task,
            how,
            mount: stat.mount,
            path,
        };
        self.seen(&seen, stat.device, dir, name)
    }

    /// Tells of a file if it is looked for.
    fn seen(
        &mut self,
        seen: &Seen,
        device: Device,
        dir: BorrowedFd,
        link: &CStr,
    ) -> Result<(), Unheard> {
        let known = self.job.mounts.by_id(seen.mount);
        let known = known.and_then(|key| self.job.mounts.get(key));
        let device = match known.map(|mount| mount.device) {
            Some(device) if self.job.search.wants(seen.mount, device) => device,
            Some(_) => return Ok(()),
            None => {
                let Unknown::Detached(device) = self.unknown(seen.mount, device, dir, link)? else {
                    return Ok(());
                };
                if !self.job.search.wants_detached(device) {
                    return Ok(());
                }
                device
            }
        };
        self.found(seen, device)
    }

    fn found(&self, seen: &Seen, device: Device) -> Result<(), Unheard> {
        self.tell(Message::Found(Found {
            pid: seen.task.pid,
            tid: seen.task.tid,
            how: seen.how,
            mount: seen.mount,
            device,
            path: seen.path.into(),
        }))
    }

    /// Learns what a mount is that no namespace has, by a file on it.
    fn unknown(
        &mut self,
        mount: u32,
        device: Device,
        dir: BorrowedFd,
        link: &CStr,
    ) -> Result<Unknown, Unheard> {
        if let Some(known) = self.unknown.get(&mount) {
            return Ok(*known);
        }
        if self.job.below_roots.contains(&mount) || self.job.internal.has(mount) {
            return Ok(Unknown::Internal);
        }
        let file = calls::open(dir, link, libc::O_PATH);
        let fs = file
            .as_ref()
            .ok()
            .and_then(|file| sys::fs(file.as_fd()).ok());
        if fs.is_some_and(|fs| Internal::has_magic(fs.magic)) {
            self.unknown.insert(mount, Unknown::Internal);
            return Ok(Unknown::Internal);
        }
        if self.job.search.wants_detached(device) {
            let in_memory = fs.filter(|fs| internal::is_in_memory(fs.magic));
            let name = fs.map_or_else(String::new, |fs| internal::type_name(fs.magic));
            self.tell(Message::Detached(Detached {
                id: mount,
                unique: file
                    .ok()
                    .and_then(|file| sys::unique_mount(file.as_fd()))
                    .unwrap_or(0),
                device,
                fs: name.as_bytes().into(),
                bytes: in_memory.map(|fs| fs.used),
            }))?;
        }
        let verdict = Unknown::Detached(device);
        // Before v5.8 none has an id: each file is asked for itself.
        if mount != 0 {
            self.unknown.insert(mount, verdict);
        }
        Ok(verdict)
    }

    /// Looks at a table of open files.
    fn descriptors(&mut self, task: Task, dir: BorrowedFd) -> Result<(), Unheard> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let tables = calls::open(dir, c"fd", flags)
            .and_then(|fds| Ok((fds, calls::open(dir, c"fdinfo", flags)?)));
        let (fds, infos) = match tables {
            Ok(tables) => tables,
            Err(error) if is_forbidden(&error) => return self.tell(Message::Unseen(task.pid)),
            Err(_) => return Ok(()),
        };
        let mut buf = vec![0; 32 << 10];
        while let Ok(len @ 1..) = calls::read_dir(fds.as_fd(), &mut buf) {
            self.tell(Message::Alive)?;
            for (fd, _) in parse::entries(&buf[..len]) {
                self.descriptor(task, fds.as_fd(), infos.as_fd(), fd)?;
            }
        }
        Ok(())
    }

    fn descriptor(
        &mut self,
        task: Task,
        fds: BorrowedFd,
        infos: BorrowedFd,
        fd: u32,
    ) -> Result<(), Unheard> {
        let name = Text::new().number(fd);
        let mut path = [0; LINK_MAX];
        let path = match calls::read_link(fds, name.get(), &mut path) {
            Ok(path) => path,
            // Proc does not tell it, and the file is open all the same.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => b"/",
            // To list them is another right than to read them.
            Err(error) if is_forbidden(&error) => return self.tell(Message::Unseen(task.pid)),
            Err(_) => return Ok(()),
        };
        if let Some(ino) = parse::socket(path) {
            return self.socket(task, fd, ino);
        }
        let is_read = || self.job.search.written && !is_for_writing(fds, name.get());
        if !path.starts_with(b"/") || is_read() {
            return Ok(());
        }
        self.block(task, fds, fd, path)?;
        let mut info = [0; 256];
        let info = calls::read_file(infos, name.get(), &mut info);
        let Some(mount) = info.ok().and_then(mount_of) else {
            return Ok(());
        };
        if self.job.search.written && !self.has_writer(mount, fds, name.get()) {
            return Ok(());
        }
        // Its file system matters only if no namespace has its mount.
        let device = match self.job.mounts.by_id(mount) {
            Some(_) => Device::default(),
            None if self.is_internal(mount) => return Ok(()),
            None => match sys::stat(fds, name.get()) {
                Ok(stat) if stat.mount == mount => stat.device,
                // It is another file by now.
                Ok(_) | Err(_) => return Ok(()),
            },
        };
        let seen = Seen {
            task,
            how: How::Open(fd),
            mount,
            path,
        };
        self.seen(&seen, device, fds, name.get())
    }

    fn is_internal(&self, mount: u32) -> bool {
        self.unknown.get(&mount) == Some(&Unknown::Internal) || self.job.internal.has(mount)
    }

    /// Tells of a block device that is open.
    fn block(&self, task: Task, fds: BorrowedFd, fd: u32, path: &[u8]) -> Result<(), Unheard> {
        if self.job.search.blocks.is_empty() || !path.starts_with(b"/dev/") {
            return Ok(());
        }
        let stat = sys::stat(fds, Text::new().number(fd).get());
        let device = stat.ok().and_then(|stat| stat.block);
        let device = device.filter(|device| self.job.search.blocks.contains(device));
        let Some(device) = device else { return Ok(()) };
        let seen = Seen {
            task,
            how: How::Block(fd),
            mount: 0,
            path,
        };
        self.found(&seen, device)
    }

    /// Looks at a socket: one that is bound to a file keeps that.
    fn socket(&mut self, task: Task, fd: u32, ino: u64) -> Result<(), Unheard> {
        let bound = self.sockets.file(self.proc.as_fd(), task, fd, ino);
        let Some((path, file)) = bound else {
            return Ok(());
        };
        let Ok(stat) = sys::stat(file.as_fd(), c"") else {
            return Ok(());
        };
        let seen = Seen {
            task,
            how: How::Socket(fd),
            mount: stat.mount,
            path: &path,
        };
        let own = Text::new().text("thread-self/fd/");
        let own = own.number(file.as_raw_fd().unsigned_abs());
        let proc = self.proc.try_clone();
        match proc {
            Ok(proc) => self.seen(&seen, stat.device, proc.as_fd(), own.get()),
            Err(_) => Ok(()),
        }
    }

    /// Looks at what is mapped, and at the program. Gives whether there is anything.
    fn memory(&mut self, task: Task, dir: BorrowedFd) -> Result<bool, Unheard> {
        let maps = match calls::open(dir, c"maps", libc::O_RDONLY) {
            Ok(maps) => maps,
            Err(error) if is_forbidden(&error) => {
                self.tell(Message::Unseen(task.pid))?;
                return Ok(true);
            }
            Err(_) => return Ok(false),
        };
        let is_for_writers = self.job.search.written;
        if !is_for_writers {
            self.link(task, dir, c"exe", How::Exe)?;
        }
        let mut lines = BufReader::with_capacity(64 << 10, File::from(maps));
        let mut line = Vec::new();
        let mut known: HashSet<(Device, u64)> = HashSet::default();
        let mut is_empty = true;
        loop {
            line.clear();
            // When it ends meanwhile there are no more.
            if lines.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return Ok(!is_empty);
            }
            is_empty = false;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let Some(mapped) = maps::line(line) else {
                continue;
            };
            if is_for_writers {
                self.mapped_for_writing(task, dir, &mapped)?;
            } else if known.insert((mapped.device, mapped.ino)) {
                if known.len().is_multiple_of(ON_THE_WAY) {
                    self.tell(Message::Alive)?;
                }
                self.mapped(task, dir, &mapped)?;
            }
        }
    }

    fn mapped(
        &mut self,
        task: Task,
        dir: BorrowedFd,
        mapped: &maps::Mapped,
    ) -> Result<(), Unheard> {
        let search = Arc::clone(&self.job.search);
        let is_wanted = search.devices.contains(&mapped.device);
        let is_below = search.below_devices.contains(&mapped.device);
        if !is_wanted && !is_below && !search.orphans && !search.asks_mapped {
            return Ok(());
        }
        let mut seen = Seen {
            task,
            how: How::Mapped,
            mount: 0,
            path: mapped.path,
        };
        let key = (task.mnt, mapped.device, mapped.ino, mapped.path.into());
        if let Some(mount) = self.mapped.get(&key) {
            seen.mount = *mount;
            return self.seen(&seen, mapped.device, dir, c".");
        }
        let Ok(link) = CString::new(format!("map_files/{}", mapped.range)) else {
            return Ok(());
        };
        match sys::stat(dir, &link) {
            Ok(stat) => {
                seen.mount = stat.mount;
                if self.mapped.len() >= MAPPED_MAX {
                    self.mapped.clear();
                }
                self.seen(&seen, stat.device, dir, &link)?;
                self.mapped.insert(key, stat.mount);
                Ok(())
            }
            Err(error) if calls::is_gone(&error) => Ok(()),
            // Who is not root does not learn more than what is written there.
            Err(_) => {
                let is_orphan = search.orphans
                    && !self.job.mounts.has_device(mapped.device)
                    && !self.job.internal.has_device(mapped.device, mapped.path);
                if is_orphan || (is_wanted && search.mounts.is_empty()) {
                    self.found(&seen, mapped.device)?;
                }
                Ok(())
            }
        }
    }
}

/// Whether a task has something for itself that none of these has; then it is one of them.
fn is_new(what: calls::Shared, known: &mut Vec<u32>, tid: u32) -> bool {
    /// So many of one process are told apart.
    const MOST: usize = 64;
    // Where it cannot be told (without CONFIG_KCMP), all are read.
    let is_same = |other: &u32| calls::has_same(what, *other, tid).unwrap_or(false);
    if known.iter().any(is_same) {
        return false;
    }
    if known.len() < MOST {
        known.push(tid);
    }
    true
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

/// The id of the mount, in what `/proc/PID/fdinfo` says of a descriptor.
fn mount_of(info: &[u8]) -> Option<u32> {
    let mut lines = info.split(|byte| *byte == b'\n');
    let id = lines.find_map(|line| line.strip_prefix(b"mnt_id:\t"))?;
    parse::number(id)
}
