//! A session: a task does a handful of operations, and its children have sessions
//! of their own.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::Result;

use super::Shared;
use crate::kinds::{
    CHILD_SETTID, CLEAR_SIGHAND, COUNT, FS, IO, KINDS, NEWIPC, NEWNET, NEWNS, NEWPID, NEWTIME,
    NEWUSER, PARENT_SETTID, PID, SIGHAND, SYSVSEM, THREAD, TIME, USER,
};
use crate::procfs;
use crate::recorder::{Child, Recorder, wait_for_release};
use crate::sys::{self, Call};

/// How deep sessions nest.
const DEPTH: u32 = 5;

/// An ordinary user.
const USER_ID: u32 = 1000;

/// A task that does random operations.
pub struct Session<'a> {
    recorder: &'a mut Recorder,
    shared: &'static Shared,
    depth: u32,
    /// Children that wait, to enter their namespaces; in the order in which they were
    /// made, because the first of a pid namespace cannot end before those are waited for
    /// that we put there after it (v6.12 kernel/pid_namespace.c, zap_pid_ns_processes).
    kept: Vec<Child>,
    /// Namespaces that we or our parents were in: kind, inum, and a descriptor.
    seen: Vec<(usize, u32, File)>,
}

#[derive(Clone, Copy)]
enum Action {
    Clone,
    CloneVm,
    Refused,
    Keep,
    Deep,
    Unshare,
    EnterSeen,
    EnterKept,
    EnterPidfd,
    EnterNothing,
    Fork,
    Vfork,
    Thread,
    Exec,
    DropCapabilities,
}

const ACTIONS: &[(usize, Action)] = &[
    (12, Action::Clone),
    (3, Action::CloneVm),
    (1, Action::Refused),
    (8, Action::Keep),
    (2, Action::Deep),
    (12, Action::Unshare),
    (4, Action::EnterSeen),
    (6, Action::EnterKept),
    (5, Action::EnterPidfd),
    (1, Action::EnterNothing),
    (3, Action::Fork),
    (2, Action::Vfork),
    (4, Action::Thread),
    (1, Action::Exec),
    (1, Action::DropCapabilities),
];

/// How likely each flag is, of 16.
const LIKELY: [(u64, usize); COUNT] = [
    (NEWNS, 4),
    (KINDS[1].flag, 5),
    (NEWIPC, 3),
    (NEWPID, 5),
    // The slowest to make and to free by far.
    (NEWNET, 1),
    (NEWUSER, 4),
    (KINDS[6].flag, 4),
    (NEWTIME, 3),
];

impl<'a> Session<'a> {
    /// The session of a worker's child, sometimes as an ordinary user.
    pub fn first(recorder: &'a mut Recorder, shared: &'static Shared) -> Result<Self> {
        if shared.rng.one_in(8) {
            recorder.become_user(USER_ID)?;
        }
        Ok(Session {
            recorder,
            shared,
            depth: 0,
            kept: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<()> {
        self.work()
    }

    fn work(&mut self) -> Result<()> {
        self.remember()?;
        let actions = 2 + self.shared.rng.below(9);
        for _ in 0..actions {
            if self.shared.is_done() {
                break;
            }
            self.act(self.shared.rng.choose(ACTIONS))?;
        }
        let has_anchor = !self.recorder.anchors.is_empty();
        self.end_children()?;
        if has_anchor && !self.shared.is_done() && self.shared.rng.one_in(2) {
            self.fork_into_the_dead()?;
        }
        Ok(())
    }

    /// Ends those that wait. Without that they die with us only if we are the
    /// first of a pid namespace.
    fn end_children(&mut self) -> Result<()> {
        while let Some(child) = self.kept.pop() {
            self.recorder.end(child)?;
        }
        self.recorder.end_anchors()
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Clone => self.clone(0),
            Action::CloneVm => self.clone_vm(),
            Action::Refused => self.refused(),
            Action::Keep => self.keep(),
            Action::Deep => self.deep(),
            Action::Unshare => self.unshare(),
            Action::EnterSeen => self.enter_seen(),
            Action::EnterKept => self.enter_kept(),
            Action::EnterPidfd => self.enter_pidfd(),
            Action::EnterNothing => self.enter(-1, 0, 0),
            Action::Fork => self.fork(),
            Action::Vfork => self.vfork(),
            Action::Thread => self.thread(),
            Action::Exec => self.exec(),
            Action::DropCapabilities => Ok(sys::drop_capabilities()?),
        }
    }

    fn coin(&self) -> bool {
        self.shared.rng.one_in(2)
    }

    /// A random set of CLONE_NEW* flags that is not empty and in `allowed`.
    fn flags(&self, allowed: u64) -> u64 {
        if self.shared.rng.one_in(24) {
            return allowed & LIKELY.iter().map(|(flag, _)| flag).sum::<u64>();
        }
        loop {
            let is_drawn = |likely: usize| self.shared.rng.below(16) < likely;
            let drawn = LIKELY.iter().filter(|(_, likely)| is_drawn(*likely));
            let flags = drawn.map(|(flag, _)| flag).sum::<u64>() & allowed;
            if flags != 0 {
                return flags;
            }
        }
    }

    /// Flags for one of the two calls, with some that have nothing to do with
    /// namespaces.
    fn call(&self, wanted: u64) -> (Call, u64) {
        let rng = &self.shared.rng;
        let (call, allowed, extra) = match rng.one_in(2) {
            true => (Call::Clone, !NEWTIME, IO),
            false => (Call::Clone3, u64::MAX, CLEAR_SIGHAND),
        };
        let mut flags = self.flags(allowed) | wanted;
        for other in [PARENT_SETTID, CHILD_SETTID, SYSVSEM, extra] {
            if rng.one_in(4) {
                flags |= other;
            }
        }
        // They exclude each other; the failures have it.
        if flags & NEWIPC != 0 {
            flags &= !SYSVSEM;
        }
        (call, flags)
    }

    /// A child that has a session or exits at once.
    fn clone(&mut self, wanted: u64) -> Result<()> {
        let (call, flags) = self.call(wanted);
        let code = self.shared.rng.below(4) as i32;
        let works = self.coin() && self.depth < DEPTH;
        self.child(call, flags, |session| {
            if works {
                session.map(flags);
                session.work()?;
            }
            Ok(code)
        })
    }

    /// Makes a child that runs `body` as a session one level deeper, and waits for
    /// its end.
    fn child(
        &mut self,
        call: Call,
        flags: u64,
        body: impl FnOnce(&mut Session) -> Result<i32>,
    ) -> Result<()> {
        self.shared.count();
        let Session {
            recorder,
            shared,
            depth,
            seen,
            ..
        } = self;
        let made = recorder.clone(call, flags, |recorder, _| {
            // The child's memory is its own: what it takes, its parent keeps.
            let mut session = Session {
                recorder,
                shared,
                depth: *depth + 1,
                kept: Vec::new(),
                seen: std::mem::take(seen),
            };
            let code = body(&mut session)?;
            session.end_children()?;
            Ok(code)
        })?;
        match made {
            Ok(child) => self.recorder.end(child),
            Err(_) => Ok(()),
        }
    }

    /// Levels of pid and user namespaces down to the deepest.
    fn deep(&mut self) -> Result<()> {
        if self.depth >= DEPTH || self.shared.is_done() {
            return self.unshare();
        }
        let user = if self.coin() { NEWUSER } else { 0 };
        let (call, flags) = self.call(NEWPID | user);
        self.child(call, flags, |session| {
            session.map(flags);
            session.deep()?;
            session.fork()?;
            Ok(0)
        })
    }

    /// Maps our ids if there is a new user namespace. It is refused where our
    /// parent's are not mapped; without a mapping operations fail, as they may.
    fn map(&self, flags: u64) {
        if flags & NEWUSER != 0 && !self.shared.rng.one_in(4) {
            let _ = self.recorder.map_ids();
        }
    }

    fn clone_vm(&mut self) -> Result<()> {
        let flags = self.flags(!NEWTIME);
        self.shared.count();
        self.recorder.clone_vm(flags)?;
        Ok(())
    }

    /// A clone that the first checks refuse.
    fn refused(&mut self) -> Result<()> {
        let (flags, wrong) =
            self.shared
                .rng
                .choose(&[(1, (NEWNS, FS)), (1, (NEWIPC, SYSVSEM)), (1, (NEWUSER, FS))]);
        self.child(Call::Clone, self.flags(!NEWTIME) | flags | wrong, |_| Ok(0))?;
        self.child(Call::Clone3, NEWPID | THREAD | SIGHAND, |_| Ok(0))
    }

    /// A child that stays until our end.
    fn keep(&mut self) -> Result<()> {
        let (call, flags) = self.call(0);
        self.shared.count();
        let made = self
            .recorder
            .clone(call, flags, |_, hold| wait_for_release(hold))?;
        self.kept.extend(made);
        Ok(())
    }

    fn unshare(&mut self) -> Result<()> {
        let flags = self.flags(u64::MAX);
        self.shared.count();
        if self.recorder.unshare(flags)? == 0 {
            self.map(flags);
        }
        Ok(())
    }

    fn enter(&mut self, fd: i32, kinds: u64, target: u32) -> Result<()> {
        self.shared.count();
        self.recorder.setns(fd, kinds, target)?;
        Ok(())
    }

    /// Keeps descriptors of two of our namespaces.
    fn remember(&mut self) -> Result<()> {
        for _ in 0..2 {
            let kind = self.shared.rng.below(COUNT);
            let path = format!("thread-self/{}", KINDS[kind].file);
            // The first of a pid namespace may not be there yet.
            if let Ok((file, inum)) = self.recorder.procfs.namespace(&path) {
                self.seen.push((kind, inum, file));
            }
        }
        Ok(())
    }

    fn enter_seen(&mut self) -> Result<()> {
        let at = self.shared.rng.below(self.seen.len().max(1));
        let Some((kind, inum, file)) = self.seen.get(at) else {
            return Ok(());
        };
        let (fd, inum) = (file.as_raw_fd(), *inum);
        let kinds = if self.coin() { KINDS[*kind].flag } else { 0 };
        self.enter(fd, kinds, inum)
    }

    /// A child that waits, if there is one.
    fn choose_kept(&self) -> Option<usize> {
        let at = self.shared.rng.below(self.kept.len().max(1));
        (at < self.kept.len()).then_some(at)
    }

    fn enter_kept(&mut self) -> Result<()> {
        let Some(at) = self.choose_kept() else {
            return self.keep();
        };
        let kind = self.shared.rng.below(COUNT);
        let path = format!("{}/{}", self.kept[at].tid, KINDS[kind].file);
        // We may have lost the right to look at it.
        let Ok((file, inum)) = self.recorder.procfs.namespace(&path) else {
            return Ok(());
        };
        let kinds = if self.coin() { KINDS[kind].flag } else { 0 };
        self.enter(file.as_raw_fd(), kinds, inum)
    }

    fn enter_pidfd(&mut self) -> Result<()> {
        let Some(at) = self.choose_kept() else {
            return self.keep();
        };
        let kinds = self.flags(u64::MAX);
        self.shared.count();
        self.recorder.setns_child(&self.kept[at], kinds)?;
        Ok(())
    }

    /// A fork, by one of three calls, of a child that forks once more.
    fn fork(&mut self) -> Result<()> {
        let call = self
            .shared
            .rng
            .choose(&[(2, Call::Fork), (1, Call::Clone), (1, Call::Clone3)]);
        let made = self.recorder.clone(call, 0, |recorder, _| {
            if let Ok(child) = recorder.clone(Call::Fork, 0, |_, _| Ok(0))? {
                recorder.end(child)?;
            }
            Ok(7)
        })?;
        match made {
            Ok(child) => self.recorder.end(child),
            Err(_) => Ok(()),
        }
    }

    /// Whether our children are in the namespaces that we are in: without that
    /// there are no threads.
    fn is_where_children_are(&self) -> bool {
        let number = |file: &str| {
            // Before the first of a pid namespace, pid_for_children leads nowhere.
            let link = self.recorder.procfs.link(file).ok()?;
            procfs::inum_of_link(&link)
        };
        let pairs = [("ns/pid", KINDS[PID].file), ("ns/time", KINDS[TIME].file)];
        pairs.iter().all(|(own, children)| {
            number(&format!("thread-self/{own}")) == number(&format!("thread-self/{children}"))
        })
    }

    fn vfork(&mut self) -> Result<()> {
        if self.recorder.forks_into_first()? {
            self.recorder.vfork()
        } else {
            Ok(())
        }
    }

    /// A thread with an operation of its own.
    fn thread(&mut self) -> Result<()> {
        if !self.is_where_children_are() {
            return Ok(());
        }
        let flags = self.flags(!KINDS[USER].flag & !NEWPID & !NEWTIME);
        let shared = self.shared;
        self.recorder.thread(|recorder| {
            shared.count();
            recorder.unshare(flags)
        })?;
        Ok(())
    }

    /// A program started by a task whose children have another time namespace: exec
    /// makes a new nsproxy (exec_task_namespaces of kernel/nsproxy.c), and that is
    /// no operation.
    fn exec(&mut self) -> Result<()> {
        self.shared.count();
        let made = self.recorder.clone(Call::Fork, 0, |recorder, _| {
            recorder.unshare(NEWTIME)?;
            let program = recorder.procfs.file("thread-self/exe")?;
            Err(sys::exec(&program, &[c"nstrace-guest", c"act", c"nothing"]).into())
        })?;
        match made {
            Ok(child) => self.recorder.end(child),
            Err(_) => Ok(()),
        }
    }

    /// The anchors are gone: what we fork now has no init.
    fn fork_into_the_dead(&mut self) -> Result<()> {
        if let Ok(child) = self.recorder.clone(Call::Fork, 0, |_, _| Ok(0))? {
            self.recorder.end(child)?;
        } else {
            self.shared.count();
        }
        Ok(())
    }
}
