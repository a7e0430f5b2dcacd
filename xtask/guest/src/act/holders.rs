//! Holders: whatever can keep a namespace alive, each made alone, with everything
//! else that was in the namespace gone.
//!
//! Whoever makes them is in the first pid, user and net namespaces, has one thread,
//! and adopts the orphans below it.

mod child;
mod serve;

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};

use crate::kinds::{COUNT, Inums, KINDS, NEWNET, NEWNS, NEWPID, NEWTIME, NEWUSER, NEWUTS};
use crate::left::{self, By, Left};
use crate::procfs::{self, Procfs};
use crate::sys::{self, Call};

pub use serve::run as serve;

/// One sort of holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Task,
    /// Tasks at every level of nested pid and user namespaces.
    Nested,
    Thread,
    PidForChildren,
    TimeForChildren,
    /// As `PidForChildren`, but no process ever was in the namespace.
    Unborn,
    Descriptor,
    Mount,
    /// A bind mount in another mount namespace than ours.
    MountElsewhere,
    ChildPid,
    ChildUser,
    /// A namespace of another kind that is owned by a user namespace.
    Owned,
    Socket,
    Proc,
    /// A socket that a thread alone has: its process has another table of open files.
    ThreadSocket,
    /// A bind mount in a mount namespace that is held by a descriptor: no task shows it.
    MountInNone,
}

/// The sorts that storms use, with the names that the tests call them by.
pub const SORTS: [(&str, Sort); 14] = [
    ("task", Sort::Task),
    ("nested", Sort::Nested),
    ("thread", Sort::Thread),
    ("pid_for_children", Sort::PidForChildren),
    ("time_for_children", Sort::TimeForChildren),
    ("unborn", Sort::Unborn),
    ("descriptor", Sort::Descriptor),
    ("mount", Sort::Mount),
    ("mount elsewhere", Sort::MountElsewhere),
    ("child pid", Sort::ChildPid),
    ("child user", Sort::ChildUser),
    ("owned", Sort::Owned),
    ("socket", Sort::Socket),
    ("proc", Sort::Proc),
];

/// Those that are hard to see.
pub const HARD: [(&str, Sort); 2] = [
    ("thread's socket", Sort::ThreadSocket),
    ("mount in none", Sort::MountInNone),
];

/// Where holders are made: a directory with a tmpfs of its own, and us.
#[derive(Debug)]
pub struct Place {
    procfs: Procfs,
    dir: PathBuf,
    own: Inums,
    pid: u32,
    serial: Cell<u32>,
}

/// A holder. It goes by [`Held::release`] only, or with us.
#[derive(Debug, Default)]
pub struct Held {
    /// The namespaces that are alive for it; the first is the one that is meant.
    pub lines: Vec<Left>,
    /// To be killed and waited for in this order.
    children: Vec<i64>,
    files: Vec<File>,
    mounts: Vec<String>,
}

impl Held {
    /// Lets go of everything.
    pub fn release(self) -> Result<()> {
        drop(self.files);
        for path in self.mounts {
            sys::unmount(&path).with_context(|| format!("{path}: cannot unmount"))?;
        }
        end(&self.children);
        Ok(())
    }
}

/// Kills these and waits for those of them that are ours, or become it.
fn end(children: &[i64]) {
    for child in children {
        // It may have gone with the first of its pid namespace.
        let _ = sys::kill(*child, libc::SIGKILL);
    }
    for child in children {
        let _ = sys::wait(*child);
    }
}

impl Place {
    /// Mounts a tmpfs on `dir`, in our mount namespace.
    pub fn new(procfs: Procfs, dir: &Path) -> Result<Self> {
        let shown = dir.to_string_lossy();
        fs::create_dir_all(dir)
            .and_then(|()| sys::mount("tmpfs", &shown, "tmpfs", 0))
            .with_context(|| format!("{shown}: no tmpfs"))?;
        let own = namespaces(&procfs, "thread-self")?;
        Ok(Place {
            pid: procfs.own_ids()?.0,
            procfs,
            dir: dir.to_owned(),
            own,
            serial: Cell::new(0),
        })
    }

    /// Our own mount namespace, which is alive for us.
    pub fn own_mounts(&self) -> Left {
        left(0, self.own[0], By::Task { tid: self.pid })
    }

    /// Takes the tmpfs away, with what is mounted in it.
    pub fn remove(self) -> Result<()> {
        sys::unmount(&self.dir.to_string_lossy()).context("cannot unmount")
    }

    /// Makes a holder; for the sorts that hold any kind, of the kinds in `flags`.
    pub fn make(&self, sort: Sort, flags: u64) -> Result<Held> {
        let made = match sort {
            Sort::Task => self.task(flags),
            Sort::Nested => self.nested(1 + flags.count_ones()),
            Sort::Thread => self.thread(flags & !(NEWUSER | NEWPID | NEWTIME)),
            Sort::PidForChildren => self.for_children(NEWPID, true),
            Sort::TimeForChildren => self.for_children(NEWTIME, true),
            Sort::Unborn => self.for_children(NEWPID, false),
            Sort::Descriptor => self.descriptor(flags),
            Sort::Mount => self.mount(flags),
            Sort::MountElsewhere => self.mount_elsewhere(flags),
            Sort::ChildPid => self.child_of("pid", NEWPID),
            Sort::ChildUser => self.child_of("user", NEWUSER),
            Sort::Owned => self.owned(),
            Sort::Socket => self.socket(),
            Sort::Proc => self.proc(),
            Sort::ThreadSocket => self.thread_socket(),
            Sort::MountInNone => self.mount_in_none(flags),
        };
        made.with_context(|| format!("cannot make a holder of the sort {sort:?}"))
    }

    /// A child that says a line when it is ready, and waits to be killed: its id, and
    /// the line. It has no descriptor of ours.
    fn child(
        &self,
        flags: u64,
        prepare: impl FnOnce(&Procfs) -> Result<String>,
    ) -> Result<(i64, String)> {
        child::spawn_ready(&self.procfs, flags, prepare)
    }

    /// Lines for the namespaces of a task that are not ours.
    fn lines_of_task(&self, tid: u32) -> Result<Vec<Left>> {
        let inums = namespaces(&self.procfs, &tid.to_string())?;
        let others = (0..COUNT).filter(|kind| inums[*kind] != self.own[*kind]);
        Ok(others
            .map(|kind| left(kind, inums[kind], By::Task { tid }))
            .collect())
    }

    fn task(&self, flags: u64) -> Result<Held> {
        let (child, line) = self.child(flags & !NEWTIME, own_tid)?;
        Ok(Held {
            lines: self.lines_of_task(line.parse()?)?,
            children: vec![child],
            ..Held::default()
        })
    }

    fn nested(&self, depth: u32) -> Result<Held> {
        let (child, line) =
            self.child(NEWUSER | NEWPID, |procfs| child::nest(procfs, depth - 1))?;
        let mut held = Held {
            children: vec![child],
            ..Held::default()
        };
        for tid in line.split(' ') {
            held.lines.extend(self.lines_of_task(tid.parse()?)?);
        }
        Ok(held)
    }

    fn thread(&self, flags: u64) -> Result<Held> {
        let flags = if flags == 0 { NEWUTS } else { flags };
        let (child, line) = self.child(0, |procfs| {
            let (say, said) = mpsc::channel();
            let procfs = procfs.try_clone()?;
            std::thread::spawn(move || {
                let ret = sys::unshare(flags);
                let tid = procfs.own_ids().map(|ids| ids.1);
                drop(procfs);
                let _ = say.send((ret, tid));
                loop {
                    std::thread::park();
                }
            });
            let (ret, tid) = said.recv()?;
            ensure!(ret == 0, "unshare in a thread: errno {}", -ret);
            Ok(tid?.to_string())
        })?;
        Ok(Held {
            lines: self.lines_of_task(line.parse()?)?,
            children: vec![child],
            ..Held::default()
        })
    }

    fn for_children(&self, flag: u64, is_born: bool) -> Result<Held> {
        let (child, line) = self.child(0, |procfs| {
            let ret = sys::unshare(flag);
            ensure!(ret == 0, "unshare: errno {}", -ret);
            if flag == NEWPID && is_born {
                sys::wait(sys::spawn(Call::Fork, 0, || 0))?;
            }
            own_tid(procfs)
        })?;
        let tid: u32 = line.parse()?;
        let kind = kind_of(flag);
        let inum = self.inum(&format!("{tid}/{}", KINDS[kind].file)).ok();
        ensure!(
            inum.is_some() || !is_born,
            "{} is not shown",
            KINDS[kind].file
        );
        let by = match flag {
            NEWPID => By::PidForChildren { tid },
            _ => By::TimeForChildren { tid },
        };
        Ok(Held {
            lines: vec![Left {
                kind: KINDS[kind].name.to_owned(),
                inum,
                by,
            }],
            children: vec![child],
            ..Held::default()
        })
    }

    fn inum(&self, path: &str) -> Result<u32> {
        let link = self.procfs.link(path).with_context(|| path.to_owned())?;
        procfs::inum_of_link(&link).context("a link of another form")
    }

    /// Runs `take` on each new namespace of a child, which is then gone.
    fn with_kinds(
        &self,
        flags: u64,
        mut take: impl FnMut(&mut Held, usize, &str) -> Result<By>,
    ) -> Result<Held> {
        let flags = flags & !NEWTIME;
        let (child, line) = self.child(flags, own_tid)?;
        let mut held = Held::default();
        for kind in (0..COUNT).filter(|kind| flags & KINDS[*kind].flag != 0) {
            let path = format!("{line}/ns/{}", KINDS[kind].name);
            let inum = self.inum(&path)?;
            let by = take(&mut held, kind, &path)?;
            held.lines.push(left(kind, inum, by));
        }
        end(&[child]);
        Ok(held)
    }

    fn open(&self, held: &mut Held, path: &str) -> Result<By> {
        let file = self.procfs.file(path)?;
        let by = By::Descriptor {
            pid: self.pid,
            fd: file.as_raw_fd(),
        };
        held.files.push(file);
        Ok(by)
    }

    fn descriptor(&self, flags: u64) -> Result<Held> {
        self.with_kinds(flags, |held, _, path| self.open(held, path))
    }

    fn mount(&self, flags: u64) -> Result<Held> {
        self.with_kinds(flags, |held, kind, path| {
            let target = self.new_path(KINDS[kind].name);
            File::create(&target)?;
            let bound = sys::mount(&format!("/proc/{path}"), &target, "", libc::MS_BIND);
            // A mount namespace can be bound only in one with a smaller id, and from v6.18
            // each CPU gives ids of its own (fs/namespace.c, mnt_ns_loop).
            let is_loop = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
            if KINDS[kind].flag == NEWNS && bound.as_ref().is_err_and(is_loop) {
                return self.open(held, path);
            }
            bound.with_context(|| format!("{target}: cannot bind"))?;
            held.mounts.push(target.clone());
            Ok(By::Mount {
                mnt: self.own[0],
                path: target,
            })
        })
    }

    fn new_path(&self, name: &str) -> String {
        self.serial.set(self.serial.get() + 1);
        format!("{}/{name}-{}", self.dir.display(), self.serial.get())
    }

    fn mount_elsewhere(&self, flags: u64) -> Result<Held> {
        let dir = PathBuf::from(self.new_path("elsewhere"));
        let (child, line) = self.child(NEWNS, |procfs| {
            sys::adopt_orphans();
            let place = Place::new(procfs.try_clone()?, &dir)?;
            let mut held = place.make(Sort::Mount, flags)?;
            // The mounts stay when what describes them is gone; what is held by a descriptor
            // instead, until this process ends.
            for file in held.files.drain(..) {
                keep_open(file.into());
            }
            let lines = [&held.lines[..], &[left(0, place.own[0], own_task(procfs)?)]].concat();
            Ok(serde_json::to_string(&lines)?)
        })?;
        Ok(Held {
            lines: serde_json::from_str(&line)?,
            children: vec![child],
            ..Held::default()
        })
    }

    /// A pid or user namespace whose child is held by a descriptor.
    fn child_of(&self, name: &str, flag: u64) -> Result<Held> {
        let (child, line) = self.child(flag, |procfs| child::nest_flag(procfs, flag))?;
        let (above, below) = line.split_once(' ').context("no child of a child")?;
        let mut held = Held::default();
        let (kind, path) = (kind_of(flag), format!("{below}/ns/{name}"));
        let (upper, lower) = (self.inum(&format!("{above}/ns/{name}"))?, self.inum(&path)?);
        let by = self.open(&mut held, &path)?;
        let below_kind = name.to_owned();
        held.lines = vec![
            left(
                kind,
                upper,
                By::Below {
                    below_kind,
                    below: lower,
                },
            ),
            left(kind, lower, by),
        ];
        end(&[child, below.parse()?]);
        Ok(held)
    }

    fn owned(&self) -> Result<Held> {
        let (child, line) = self.child(NEWUSER | NEWUTS, own_tid)?;
        let mut held = Held::default();
        let path = format!("{line}/ns/uts");
        let (user, uts) = (self.inum(&format!("{line}/ns/user"))?, self.inum(&path)?);
        let by = self.open(&mut held, &path)?;
        let below = By::Below {
            below_kind: "uts".to_owned(),
            below: uts,
        };
        held.lines = vec![
            left(kind_of(NEWUSER), user, below),
            left(kind_of(NEWUTS), uts, by),
        ];
        end(&[child]);
        Ok(held)
    }

    fn mount_in_none(&self, flags: u64) -> Result<Held> {
        let mut held = self.mount_elsewhere(flags)?;
        let mut mnt = held.lines.pop().context("no mount namespace")?;
        if let By::Task { tid } = mnt.by {
            mnt.by = self.open(&mut held, &format!("{tid}/ns/mnt"))?;
        }
        held.lines.push(mnt);
        end(&std::mem::take(&mut held.children));
        Ok(held)
    }

    fn socket(&self) -> Result<Held> {
        let (child, line) = self.child(0, socket_elsewhere)?;
        Self::held_by_socket(child, &line)
    }

    fn thread_socket(&self) -> Result<Held> {
        let (child, line) = self.child(0, |procfs| {
            let (say, said) = mpsc::channel();
            let own = procfs.try_clone()?;
            std::thread::spawn(move || {
                let ret = sys::unshare(libc::CLONE_FILES as u64);
                let line = match ret {
                    0 => socket_elsewhere(&own),
                    _ => Err(anyhow::anyhow!("no table of open files: errno {}", -ret)),
                };
                drop(own);
                let _ = say.send(line);
                loop {
                    std::thread::park();
                }
            });
            let line = said.recv()??;
            let (_, rest) = line.split_once(' ').context("no number")?;
            Ok(format!("{} {rest}", procfs.own_ids()?.0))
        })?;
        Self::held_by_socket(child, &line)
    }

    /// What [`socket_elsewhere`] says, in a child.
    fn held_by_socket(child: i64, line: &str) -> Result<Held> {
        let mut words = line.split(' ').map(str::parse::<u32>);
        let mut next = || Ok::<u32, anyhow::Error>(words.next().context("too few words")??);
        let (pid, inum, fd) = (next()?, next()?, next()? as i32);
        Ok(Held {
            lines: vec![left(kind_of(NEWNET), inum, By::Socket { pid, fd })],
            children: vec![child],
            ..Held::default()
        })
    }

    fn proc(&self) -> Result<Held> {
        let path = self.new_path("proc");
        fs::create_dir(&path)?;
        let (child, line) = self.child(NEWPID, |procfs| {
            sys::mount("proc", &path, "proc", 0)?;
            own_tid(procfs)
        })?;
        let inum = self.inum(&format!("{line}/ns/pid"))?;
        end(&[child]);
        let by = By::Proc {
            mnt: self.own[0],
            path: path.clone(),
        };
        Ok(Held {
            lines: vec![left(kind_of(NEWPID), inum, by)],
            mounts: vec![path],
            ..Held::default()
        })
    }
}

fn left(kind: usize, inum: u32, by: By) -> Left {
    Left {
        kind: KINDS[kind].name.to_owned(),
        inum: Some(inum),
        by,
    }
}

fn kind_of(flag: u64) -> usize {
    KINDS.iter().position(|kind| kind.flag == flag).unwrap_or(0)
}

/// Leaves a descriptor open until the process ends.
fn keep_open(fd: OwnedFd) -> i32 {
    std::os::fd::IntoRawFd::into_raw_fd(fd)
}

/// Makes a socket in a net namespace that nothing else keeps alive. Says the thread, the
/// namespace, and the descriptor.
fn socket_elsewhere(procfs: &Procfs) -> Result<String> {
    let own = procfs.file("thread-self/ns/net")?;
    ensure!(sys::unshare(NEWNET) == 0, "no new net namespace");
    let (_, inum) = procfs.namespace("thread-self/ns/net")?;
    let fd = keep_open(sys::socket()?);
    ensure!(sys::setns(own.as_raw_fd(), NEWNET) == 0, "no way back");
    Ok(format!("{} {inum} {fd}", own_tid(procfs)?))
}

fn own_tid(procfs: &Procfs) -> Result<String> {
    Ok(procfs.own_ids()?.1.to_string())
}

fn own_task(procfs: &Procfs) -> Result<By> {
    Ok(By::Task {
        tid: procfs.own_ids()?.1,
    })
}

/// The namespaces that a task is in itself.
pub fn namespaces(procfs: &Procfs, task: &str) -> Result<Inums> {
    let mut inums = Inums::default();
    for (inum, kind) in inums.iter_mut().zip(&KINDS) {
        let link = procfs.link(&format!("{task}/ns/{}", kind.name))?;
        *inum = procfs::inum_of_link(&link).context("a link of another form")?;
    }
    Ok(inums)
}

/// Writes what holders keep alive to the book, and that we are in our mount namespace.
pub fn book(path: &Path, place: &Place, held: &[Held]) -> Result<()> {
    let mut lines = vec![place.own_mounts()];
    lines.extend(held.iter().flat_map(|held| held.lines.clone()));
    left::append(path, &lines)
}
