//! Does an operation and writes down what it did: the way in which the load and
//! the provoked failures call the kernel.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, anyhow, bail};
use libc::c_long;
use serde::{Deserialize, Serialize};

use crate::book::{Book, Entry, Exit, Facts, Line, NewTask, Skip};
use crate::keeper::{self, Asker};
use crate::kinds::{Inums, KINDS, MNT, NEW_ALL, NEWPID, PID, VFORK, VM};
use crate::procfs::Procfs;
use crate::sys::{self, Call, End};

/// The order in which setns with a pidfd enters namespaces (validate_nsset of
/// kernel/nsproxy.c), by index of the kind.
const ENTERED_IN_ORDER: [usize; 8] = [5, 0, 1, 2, 3, 6, 4, 7];

/// A task that does operations and records them. A child has its parent's copy.
#[derive(Debug)]
pub struct Recorder {
    pub procfs: Procfs,
    asker: Asker,
    book: Book,
    uid: u32,
    comm: String,
    cgroup: String,
    first_pid_ns: u32,
    /// The uid that we had in our user namespace before the last operation.
    id_before: u32,
    /// Put into the entries that follow.
    pub note: String,
    pub words: Vec<String>,
    /// The first processes of the pid namespaces that we unshared.
    pub anchors: Vec<Child>,
}

/// A child that waits or works.
#[derive(Debug)]
pub struct Child {
    /// As its parent sees it.
    pub pid: i64,
    /// Its id in the first pid namespace.
    pub tid: u32,
    pub inums: Inums,
    pids: Vec<(u32, u32)>,
    release: File,
}

/// What a child says of itself to its parent.
#[derive(Debug, Serialize, Deserialize)]
struct Birth {
    pid: u32,
    tid: u32,
    inums: Inums,
    facts: Facts,
}

/// How an attempt to make a child ended: the errno is negative.
pub type Made = std::result::Result<Child, i64>;

impl Recorder {
    /// For a task in the first namespaces; its cgroup may be any.
    pub fn new(procfs: Procfs, asker: Asker, book: Book, comm: &str) -> Result<Self> {
        sys::set_comm(comm.as_bytes());
        let first_pid_ns = procfs.inums("1")?[PID];
        let cgroup = procfs.cgroup("thread-self")?;
        Ok(Recorder {
            procfs,
            asker,
            book,
            uid: 0,
            comm: comm.to_owned(),
            cgroup,
            first_pid_ns,
            id_before: 0,
            note: String::new(),
            words: Vec::new(),
            anchors: Vec::new(),
        })
    }

    /// Becomes an ordinary user.
    pub fn become_user(&mut self, uid: u32) -> Result<()> {
        sys::become_user(uid).with_context(|| format!("cannot become user {uid}"))?;
        self.uid = uid;
        Ok(())
    }

    /// Our own namespaces.
    pub fn inums(&self) -> Result<Inums> {
        self.procfs
            .inums("thread-self")
            .context("cannot read our own namespaces")
    }

    /// Whether our children are in the first pid namespace.
    pub fn forks_into_first(&self) -> Result<bool> {
        Ok(self.inums()?[PID] == self.first_pid_ns)
    }

    /// To be called when another cgroup was entered.
    pub fn cgroup_changed(&mut self) -> Result<()> {
        self.cgroup = self.procfs.cgroup("thread-self")?;
        Ok(())
    }

    /// Writes down that this kernel does not have the case.
    pub fn skip(&self, reason: &str) -> Result<()> {
        let skip = Skip {
            note: self.note.clone(),
            reason: reason.to_owned(),
        };
        self.book.write(&Line::Skip(skip))
    }

    /// An entry for an operation that comes now; [`done`] completes it.
    fn begin(&mut self, op: &str, flags: u64) -> Result<Entry> {
        let (pid, tid) = self.procfs.own_ids()?;
        let before = self.inums()?;
        self.id_before = sys::effective_uid();
        Ok(Entry {
            note: self.note.clone(),
            words: self.words.clone(),
            op: op.to_owned(),
            flags,
            pid,
            tid,
            uid: self.uid,
            comm: self.comm.clone(),
            cgroup: self.cgroup.clone(),
            before,
            after: before,
            begin_ns: sys::monotonic_ns(),
            ..Entry::default()
        })
    }

    fn write(&self, entry: Entry) -> Result<()> {
        self.book.write(&Line::Op(Box::new(entry)))
    }

    /// A system call that gives a new mount namespace as a descriptor. Left out if
    /// the kernel does not know how.
    pub fn descriptor(&mut self, op: &str, call: impl FnOnce() -> c_long) -> Result<()> {
        let entry = self.begin(op, 0)?;
        let ret = call();
        if ret < 0 {
            return self.skip(&std::io::Error::last_os_error().to_string());
        }
        let mut entry = done(entry, 0);
        // SAFETY: a new descriptor, which nobody else owns.
        let ns = unsafe { OwnedFd::from_raw_fd(ret as RawFd) };
        entry.after[MNT] = sys::inode(&ns)? as u32;
        entry.facts.owner = Some(sys::inode(&sys::ns_owner(&ns)?)? as u32);
        self.write(entry)
    }

    /// An operation that must fail, by `call`.
    pub fn attempt(&mut self, op: &str, flags: u64, call: impl FnOnce() -> i64) -> Result<()> {
        let entry = self.begin(op, flags)?;
        self.write(done(entry, call()))
    }

    /// unshare(2). A new pid namespace gets a first process, without which its
    /// number is not to be seen.
    pub fn unshare(&mut self, flags: u64) -> Result<i64> {
        let entry = self.begin("unshare", flags)?;
        let mut entry = done(entry, sys::unshare(flags));
        if entry.ret == 0 {
            if flags & NEWPID != 0 {
                let anchor = self.clone(Call::Fork, 0, |_, hold| wait_for_release(hold))?;
                let anchor = anchor.map_err(|ret| anyhow!("no first process: {ret}"))?;
                self.anchors.push(anchor);
            }
            entry.after = self.inums()?;
            entry.facts = self.asker.ask(entry.tid, flags & NEW_ALL)?;
            entry.facts.pids.clear();
        }
        let ret = entry.ret;
        self.write(entry)?;
        Ok(ret)
    }

    /// setns(2) with the descriptor of a namespace or of nothing.
    pub fn setns(&mut self, fd: RawFd, kinds: u64, target: u32) -> Result<i64> {
        let entry = self.begin("setns", kinds)?;
        let mut entry = done(entry, sys::setns(fd, kinds));
        let ret = entry.ret;
        if ret == 0 {
            entry.after = self.inums()?;
            entry.target = target;
        }
        self.write(entry)?;
        Ok(ret)
    }

    /// setns(2) with a pidfd of a child.
    pub fn setns_child(&mut self, child: &Child, kinds: u64) -> Result<i64> {
        let pidfd = sys::pidfd_open(child.pid).context("no pidfd of a child")?;
        let wanted = |kind: &&usize| kinds & KINDS[**kind].flag != 0;
        let last = ENTERED_IN_ORDER.iter().rev().find(wanted);
        self.setns(
            pidfd.as_raw_fd(),
            kinds,
            last.map_or(0, |kind| child.inums[*kind]),
        )
    }

    /// Makes a child with its own memory, which runs `body` and exits with what
    /// that gives; it gets the end of a pipe that [`Recorder::end`] writes to. An
    /// operation if there is a CLONE_NEW* flag, else a plain fork.
    pub fn clone(
        &mut self,
        call: Call,
        flags: u64,
        body: impl FnOnce(&mut Recorder, File) -> Result<i32>,
    ) -> Result<Made> {
        let (mut birth, to_parent) = sys::pipe()?;
        let (hold, release) = sys::pipe()?;
        let mut child_side = Some((to_parent, hold));
        let mut release = Some(release);
        let entry = self.begin(call.name(), flags)?;
        let ret = sys::spawn(call, flags, || {
            release = None;
            self.child(child_side.take(), flags, body)
        });
        let entry = done(entry, ret);
        drop(child_side);
        if entry.ret < 0 {
            let ret = entry.ret;
            self.failed(entry)?;
            return Ok(Err(ret));
        }
        let mut text = String::new();
        birth.read_to_string(&mut text)?;
        let birth: Birth = serde_json::from_str(&text).context("a child did not say who it is")?;
        let release = release.context("no pipe to a child")?;
        self.made(entry, birth, release).map(Ok)
    }

    /// The life of a child: says who it is, then runs `body`.
    fn child(
        &mut self,
        pipes: Option<(File, File)>,
        flags: u64,
        body: impl FnOnce(&mut Recorder, File) -> Result<i32>,
    ) -> i32 {
        let run = || {
            let (mut to_parent, hold) = pipes.context("no pipes")?;
            // They are our parent's.
            self.anchors.clear();
            to_parent.write_all(&serde_json::to_vec(&self.birth(flags)?)?)?;
            drop(to_parent);
            body(self, hold)
        };
        run().unwrap_or_else(|error: anyhow::Error| keeper::status(Err(error)))
    }

    fn birth(&self, flags: u64) -> Result<Birth> {
        let (pid, tid) = self.procfs.own_ids()?;
        let facts = self.asker.ask(tid, flags & NEW_ALL)?;
        Ok(Birth {
            pid,
            tid,
            inums: self.inums()?,
            facts,
        })
    }

    /// A plain fork that fails is one of nstrace's operations only if its pid
    /// namespace may be why.
    fn failed(&self, entry: Entry) -> Result<()> {
        if entry.flags & NEW_ALL == 0 && entry.before[PID] == self.first_pid_ns {
            return Ok(());
        }
        self.write(entry)
    }

    fn made(&self, mut entry: Entry, birth: Birth, release: File) -> Result<Child> {
        let pids = birth.facts.pids.clone();
        let child = Child {
            pid: entry.ret,
            tid: birth.tid,
            inums: birth.inums,
            pids,
            release,
        };
        if entry.flags & NEW_ALL == 0 {
            self.task(entry.pid, &birth)?;
            return Ok(child);
        }
        entry.after = birth.inums;
        entry.facts = birth.facts;
        self.write(entry)?;
        Ok(child)
    }

    fn task(&self, parent: u32, birth: &Birth) -> Result<()> {
        self.book.write(&Line::Task(NewTask {
            tid: birth.tid,
            is_thread: birth.tid != birth.pid,
            parent,
            pids: birth.facts.pids.clone(),
        }))
    }

    /// clone(2) of a child that shares our memory and holds us up until it exits,
    /// as runtimes do it. It exits at once.
    pub fn clone_vm(&mut self, flags: u64) -> Result<i64> {
        let flags = flags | VM | VFORK;
        let mut birth = None;
        let entry = self.begin("clone", flags)?;
        let ret = sys::spawn_vm(flags, || {
            birth = Some(self.birth(flags));
            0
        });
        let mut entry = done(entry, ret);
        let ret = entry.ret;
        if ret < 0 {
            self.failed(entry)?;
            return Ok(ret);
        }
        let end = sys::wait(ret)?;
        let birth = birth.context("a child without memory in common")??;
        self.exit(birth.tid, end, birth.facts.pids.clone())?;
        entry.after = birth.inums;
        entry.facts = birth.facts;
        self.write(entry)?;
        Ok(ret)
    }

    /// vfork(2) of a child that exits at once. No operation, unless it fails below
    /// the first pid namespace: where it cannot say who it is, so do not call it there.
    pub fn vfork(&mut self) -> Result<()> {
        let ret = sys::vfork(3);
        // Up to v6.2 it fails with EINVAL if our children's time namespace is not
        // ours (copy_process of kernel/fork.c).
        if ret > 0 {
            sys::wait(ret)?;
        }
        Ok(())
    }

    /// Runs `body` in a thread. None if the kernel does not let us have one.
    pub fn thread<T: Send>(
        &mut self,
        body: impl FnOnce(&mut Recorder) -> Result<T> + Send,
    ) -> Result<Option<T>> {
        let (parent, _) = self.procfs.own_ids()?;
        let run = || {
            let birth = self.birth(0)?;
            self.task(parent, &birth)?;
            let result = body(self);
            self.exit(birth.tid, End::Code(0), birth.facts.pids)?;
            result
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, run).ok();
            thread
                .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                .transpose()
        })
    }

    /// Lets a child go, waits for its end and records that.
    pub fn end(&mut self, mut child: Child) -> Result<()> {
        // A child that does not wait is gone already, and its pipe with it.
        let _ = child.release.write_all(b"!");
        let end = sys::wait(child.pid).with_context(|| format!("child {}", child.pid))?;
        self.exit(child.tid, end, child.pids)?;
        match end {
            End::Code(99) => bail!("child {} failed", child.tid),
            _ => Ok(()),
        }
    }

    fn exit(&self, tid: u32, end: End, pids: Vec<(u32, u32)>) -> Result<()> {
        let (code, signal) = match end {
            End::Code(code) => (Some(code), None),
            End::Signal(signal) => (None, Some(signal)),
        };
        self.book.write(&Line::Exit(Exit {
            tid,
            code,
            signal,
            pids,
        }))
    }

    /// Ends the anchors, the last first.
    pub fn end_anchors(&mut self) -> Result<()> {
        while let Some(anchor) = self.anchors.pop() {
            self.end(anchor)?;
        }
        Ok(())
    }

    /// Maps the uid and gid that we had before the operation that gave us a user
    /// namespace to 0 in it.
    pub fn map_ids(&self) -> Result<()> {
        let map = format!("0 {} 1", self.id_before);
        for (file, text) in [("setgroups", "deny"), ("uid_map", &map), ("gid_map", &map)] {
            self.procfs
                .write(&format!("thread-self/{file}"), text)
                .context(file)?;
        }
        Ok(())
    }
}

/// Completes an entry with what the kernel gave.
fn done(entry: Entry, ret: i64) -> Entry {
    Entry {
        ret,
        end_ns: sys::monotonic_ns(),
        ..entry
    }
}

/// The body of a child that is there to be looked at.
pub fn wait_for_release(mut hold: File) -> Result<i32> {
    // The end of the pipe releases it too: its parent is gone.
    let _ = hold.read(&mut [0])?;
    Ok(0)
}
