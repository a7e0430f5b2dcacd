//! A family of the storm: tasks that do at random what can be done to namespaces. What
//! the kernel refuses is refused, as it may be. Nothing of a family stays.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;

use super::flag;
use crate::kinds::{COUNT, KINDS, NEWNET, NEWNS, NEWPID, NEWTIME, NEWUSER, NEWUTS, USER};
use crate::procfs::Procfs;
use crate::rng::Rng;
use crate::sys::{self, Call};

/// How deep families nest.
const DEPTH: u32 = 5;

/// An ordinary user.
const USER_ID: u32 = 1000;

/// How likely each kind is, of 64. A net namespace takes some 10 ms to make, and more in
/// the background to free.
const LIKELY: [usize; COUNT] = [10, 24, 8, 16, 1, 16, 16, 12];

/// A random set of CLONE_NEW* flags that is not empty and in `allowed`.
pub fn flags(rng: &Rng, allowed: u64) -> u64 {
    loop {
        let drawn = (0..COUNT).filter(|kind| rng.below(64) < LIKELY[*kind]);
        let flags = drawn.map(flag).sum::<u64>() & allowed;
        if flags != 0 {
            return flags;
        }
    }
}

#[derive(Clone, Copy)]
enum Action {
    Clone,
    Keep,
    Deep,
    Unshare,
    ForChildren,
    Thread,
    EnterFile,
    EnterPidfd,
    PinFile,
    PinMount,
    PinSocket,
    Kill,
}

const ACTIONS: &[(usize, Action)] = &[
    (12, Action::Clone),
    (6, Action::Keep),
    (2, Action::Deep),
    (8, Action::Unshare),
    (3, Action::ForChildren),
    (4, Action::Thread),
    (4, Action::EnterFile),
    (3, Action::EnterPidfd),
    (5, Action::PinFile),
    (2, Action::PinMount),
    (1, Action::PinSocket),
    (3, Action::Kill),
];

/// One task of a family.
pub struct Family {
    procfs: Procfs,
    rng: Rng,
    /// Sets that were made.
    done: &'static AtomicU64,
    depth: u32,
    /// Children that wait, in the order in which they were made. Those of a pid
    /// namespace must be waited for before its first, which was made before them.
    kept: Vec<Kept>,
    /// Children that were waited for while we waited for another.
    reaped: BTreeSet<i64>,
    files: Vec<File>,
    sockets: Vec<std::os::fd::OwnedFd>,
}

struct Kept {
    /// As we see it.
    pid: i64,
    /// Its id in the first pid namespace.
    tid: u32,
    /// The child waits until this is closed.
    _release: File,
}

impl Family {
    /// The first task, sometimes an ordinary user.
    pub fn first(seed: u64, done: &'static AtomicU64) -> Result<Self> {
        let rng = Rng::default();
        rng.seed(seed);
        if rng.one_in(6) {
            sys::become_user(USER_ID)?;
        }
        sys::die_with_parent();
        Ok(Family {
            procfs: Procfs::open()?,
            rng,
            done,
            depth: 0,
            kept: Vec::new(),
            reaped: BTreeSet::new(),
            files: Vec::new(),
            sockets: Vec::new(),
        })
    }

    /// Lives until its end; the exit status.
    pub fn live(&mut self) -> i32 {
        for _ in 0..1 + self.rng.below(6) {
            let action = self.rng.choose(ACTIONS);
            // What is refused is no failure of the storm.
            let _ = self.act(action);
        }
        self.end_kept();
        0
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Clone => self.clone(0),
            Action::Keep => self.keep()?,
            Action::Deep => self.clone(NEWUSER | NEWPID),
            Action::Unshare => self.unshare(flags(&self.rng, u64::MAX)),
            Action::ForChildren => self.for_children(),
            Action::Thread => self.thread(),
            Action::EnterFile => self.enter_file()?,
            Action::EnterPidfd => self.enter_pidfd()?,
            Action::PinFile => self.pin_file()?,
            Action::PinMount => self.pin_mount()?,
            Action::PinSocket => self.pin_socket()?,
            Action::Kill => self.kill(),
        }
        Ok(())
    }

    fn count(&self, ret: i64) {
        if ret >= 0 {
            self.done.fetch_add(1, Relaxed);
        }
    }

    /// A call that makes a child, and flags that it knows.
    fn call(&self, wanted: u64) -> (Call, u64) {
        match self.rng.one_in(2) {
            true => (
                Call::Clone,
                (flags(&self.rng, !NEWTIME) | wanted) & !NEWTIME,
            ),
            false => (Call::Clone3, flags(&self.rng, u64::MAX) | wanted),
        }
    }

    /// The ids that we have in our user namespace, to be mapped in a new one.
    fn map(&self, flags: u64, id: u32) {
        if flags & NEWUSER != 0 && !self.rng.one_in(4) {
            let map = format!("0 {id} 1");
            for (file, text) in [("setgroups", "deny"), ("uid_map", &map), ("gid_map", &map)] {
                let _ = self.procfs.write(&format!("thread-self/{file}"), text);
            }
        }
    }

    /// A child with a life of its own; sometimes it is killed in the middle.
    fn clone(&mut self, wanted: u64) {
        let (call, flags) = self.call(wanted);
        let (seed, id) = (self.rng.next(), sys::effective_uid());
        let (is_deep, is_killed) = (wanted != 0, self.rng.one_in(6));
        let lives = self.depth < DEPTH && (is_deep || self.rng.one_in(2));
        let child = sys::spawn(call, flags, || {
            sys::die_with_parent();
            self.become_child(seed);
            self.map(flags, id);
            match (lives, is_deep) {
                (false, _) => return 0,
                (_, true) => self.clone(wanted),
                _ => {}
            }
            self.live()
        });
        self.count(child);
        if child > 0 {
            if is_killed {
                let _ = sys::kill(child, libc::SIGKILL);
            }
            self.wait(child);
        }
    }

    fn become_child(&mut self, seed: u64) {
        self.rng.seed(seed);
        self.depth += 1;
        // Our parent's. Their pipes stay open until it and all of us are gone.
        std::mem::take(&mut self.kept)
            .into_iter()
            .for_each(std::mem::forget);
        self.reaped.clear();
    }

    /// Waits for a child. Others may have come to us by the death of their parent, and
    /// must be waited for too: a pid namespace that one of them is in cannot end before.
    fn wait(&mut self, child: i64) {
        if self.reaped.remove(&child) {
            return;
        }
        while let Ok(Some(ended)) = sys::wait_any(true) {
            if ended == child {
                return;
            }
            self.reaped.insert(ended);
        }
    }

    /// A child that waits.
    fn keep(&mut self) -> Result<()> {
        let (call, flags) = self.call(0);
        let (mut hold, release) = sys::pipe()?;
        let (mut said, say) = sys::pipe()?;
        let mut theirs = Some((release, say));
        let child = sys::spawn(call, flags, || {
            sys::die_with_parent();
            // It may be the first of a pid namespace, to which orphans come.
            sys::ignore_children();
            let Some((release, mut say)) = theirs.take() else {
                return 1;
            };
            drop(release);
            if let Ok((_, tid)) = self.procfs.own_ids() {
                let _ = std::io::Write::write_all(&mut say, &tid.to_ne_bytes());
            }
            drop(say);
            let _ = hold.read(&mut [0]);
            0
        });
        self.count(child);
        let Some((release, say)) = theirs.take() else {
            return Ok(());
        };
        drop(say);
        if child > 0 {
            let mut tid = [0; 4];
            let is_said = said.read_exact(&mut tid).is_ok();
            self.kept.push(Kept {
                pid: child,
                tid: if is_said { u32::from_ne_bytes(tid) } else { 0 },
                _release: release,
            });
        }
        Ok(())
    }

    fn end_kept(&mut self) {
        for kept in &self.kept {
            let _ = sys::kill(kept.pid, libc::SIGKILL);
        }
        while let Some(kept) = self.kept.pop() {
            self.wait(kept.pid);
        }
    }

    fn unshare(&mut self, flags: u64) {
        let id = sys::effective_uid();
        let ret = sys::unshare(flags);
        self.count(ret);
        if ret == 0 {
            self.map(flags, id);
        }
    }

    /// Namespaces for our children, which may never have one in them.
    fn for_children(&mut self) {
        let flag = if self.rng.one_in(2) { NEWPID } else { NEWTIME };
        self.unshare(flag);
        if self.rng.one_in(2) {
            let child = sys::spawn(Call::Fork, 0, || 0);
            if child > 0 {
                self.wait(child);
            }
        }
    }

    /// A thread that unshares alone.
    fn thread(&mut self) {
        let flags = flags(&self.rng, !NEWUSER);
        let done = self.done;
        std::thread::scope(|scope| {
            // Where our children's pid namespace is another, there are no threads.
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                if sys::unshare(flags) == 0 {
                    done.fetch_add(1, Relaxed);
                }
            });
            thread.map(|thread| thread.join()).is_ok()
        });
    }

    fn choose_kept(&self) -> Option<&Kept> {
        let at = self.rng.below(self.kept.len().max(1));
        self.kept.get(at)
    }

    /// A namespace of a child that waits, or one of ours.
    fn any_file(&self) -> Result<(usize, File)> {
        let kind = self.rng.below(COUNT);
        let task = match self.choose_kept() {
            Some(kept) => kept.tid.to_string(),
            None => "thread-self".to_owned(),
        };
        let file = self.procfs.file(&format!("{task}/{}", KINDS[kind].file))?;
        Ok((kind, file))
    }

    fn enter_file(&mut self) -> Result<()> {
        let (kind, file) = self.any_file()?;
        sys::setns(file.as_raw_fd(), flag(kind));
        Ok(())
    }

    fn enter_pidfd(&mut self) -> Result<()> {
        if let Some(kept) = self.choose_kept() {
            let pidfd = sys::pidfd_open(kept.pid)?;
            sys::setns(pidfd.as_raw_fd(), flags(&self.rng, !KINDS[USER].flag));
        }
        Ok(())
    }

    fn pin_file(&mut self) -> Result<()> {
        let (_, file) = self.any_file()?;
        self.files.push(file);
        Ok(())
    }

    /// In a mount namespace that is ours alone, so that the mount goes with us.
    fn pin_mount(&mut self) -> Result<()> {
        let (_, file) = self.any_file()?;
        self.unshare(NEWNS | NEWUTS);
        sys::mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE)?;
        sys::mount("tmpfs", "/mnt", "tmpfs", 0)?;
        let target = format!("/mnt/{}", self.rng.next());
        File::create(&target)?;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(sys::mount(&source, &target, "", libc::MS_BIND)?)
    }

    /// A socket of a net namespace that we are not in any more.
    fn pin_socket(&mut self) -> Result<()> {
        let own = self.procfs.file("thread-self/ns/net")?;
        self.unshare(NEWNET);
        self.sockets.push(sys::socket()?);
        sys::setns(own.as_raw_fd(), NEWNET);
        Ok(())
    }

    /// Kills one that waits, and does not wait for it.
    fn kill(&mut self) {
        if let Some(kept) = self.choose_kept() {
            let _ = sys::kill(kept.pid, libc::SIGKILL);
        }
    }
}
