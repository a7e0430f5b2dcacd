//! The mount namespaces that a worker leaves behind, each kept in another way.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, ensure};

use super::calls::mount;
use super::own::Own;
use super::{bytes, wait_for_end};
use crate::kinds::{NEWNS, NEWUSER};
use crate::procfs::{self, Procfs};
use crate::sys::{self, Call, End};

/// A namespace that was left.
pub struct Left {
    pub inum: u32,
    ns: Ns,
    /// The task that is in it, if one is.
    task: Option<i64>,
    /// Whether that task's root is the namespace's.
    is_at_root: bool,
}

/// Where a namespace is opened to be entered.
enum Ns {
    Open(File),
    /// It is mounted there, and nothing else holds it.
    At(Vec<u8>),
}

/// How a namespace is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Task,
    /// By a task with a root of its own.
    Confined,
    /// By a task of another user namespace.
    Owned,
    Descriptor,
    Mount,
}

/// Leaves a namespace with a task, and one that is kept in another way.
pub fn leave(procfs: &Procfs, worker: u64, own: &mut Own, hold: &File) -> Result<Vec<Left>> {
    let other = [Kept::Descriptor, Kept::Mount, Kept::Confined, Kept::Owned];
    let other = other[worker as usize % other.len()];
    let mut left = Vec::new();
    for kept in [Kept::Task, other] {
        left.push(make(procfs, own, hold, kept)?);
    }
    Ok(left)
}

fn make(procfs: &Procfs, own: &mut Own, hold: &File, kept: Kept) -> Result<Left> {
    let flags = match kept {
        Kept::Owned => NEWNS | NEWUSER,
        Kept::Task | Kept::Confined | Kept::Descriptor | Kept::Mount => NEWNS,
    };
    let dir = own.dir().to_vec();
    let (mut said, say) = sys::pipe()?;
    let mut ends = Some(said.try_clone()?);
    let pid = sys::spawn(Call::Fork, 0, || {
        ends = None;
        crate::keeper::status(live(&dir, kept, flags, &say, hold))
    });
    ensure!(pid > 0, "cannot fork: errno {}", -pid);
    drop((say, ends));
    let mut word = String::new();
    // One byte says that it is there; its end, that it failed.
    ensure!(
        (&mut said).take(1).read_to_string(&mut word)? == 1,
        "a namespace was not made"
    );
    let path = format!("{pid}/ns/mnt");
    let inum = procfs::inum_of_link(&procfs.link(&path)?).context("a link")?;
    let mut ns = Ns::Open(procfs.file(&path)?);
    if kept == Kept::Mount {
        let place = [own.dir(), b"/namespace"].concat();
        File::create(OsStr::from_bytes(&place))?;
        let source = format!("/proc/{pid}/ns/mnt");
        match mount(source.as_bytes(), &place, b"", libc::MS_BIND, b"") {
            Ok(()) => {
                own.note(place.clone());
                ns = Ns::At(place);
            }
            // One that has a lower id than that where it is mounted may hold that: v6.18
            // fs/namespace.c, mnt_ns_loop. CPUs give ids out of stocks of their own.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error).context("bind of a namespace"),
        }
    }
    let has_task = !matches!(kept, Kept::Descriptor | Kept::Mount);
    if !has_task {
        sys::kill(pid, libc::SIGKILL)?;
        ensure!(
            sys::wait(pid)? == End::Signal(libc::SIGKILL),
            "it ended itself"
        );
    }
    Ok(Left {
        inum,
        ns,
        task: has_task.then_some(pid),
        is_at_root: kept != Kept::Confined,
    })
}

/// The first task of a namespace.
fn live(dir: &[u8], kept: Kept, flags: u64, mut say: &File, hold: &File) -> Result<()> {
    sys::die_with_parent();
    let ret = sys::unshare(flags);
    ensure!(ret == 0, "unshare: errno {}", -ret);
    mount(b"left", dir, b"tmpfs", 0, b"size=4k").context("a mount of one that is left")?;
    if kept == Kept::Confined {
        let sub = [dir, b"/root"].concat();
        fs::create_dir(OsStr::from_bytes(&sub))?;
        mount(b"confined", &sub, b"tmpfs", 0, b"")?;
        let path = CString::new(sub)?;
        // SAFETY: the path ends with a NUL.
        ensure!(unsafe { libc::chroot(path.as_ptr()) } == 0, "chroot failed");
    }
    say.write_all(b".")?;
    wait_for_end(hold)
}

impl Left {
    /// Its mountinfo, as who is at its root has it.
    pub fn mountinfo(&self, procfs: &Procfs) -> Result<Vec<u8>> {
        if let Some(pid) = self.task.filter(|_| self.is_at_root) {
            return bytes(procfs, &format!("{pid}/mountinfo"));
        }
        let opened;
        let ns = match &self.ns {
            Ns::Open(ns) => ns,
            Ns::At(path) => {
                opened = File::open(OsStr::from_bytes(path))?;
                &opened
            }
        };
        let (mut from, mut to) = sys::pipe()?;
        let pid = sys::spawn(Call::Fork, 0, || {
            crate::keeper::status((|| {
                let ret = sys::setns(ns.as_raw_fd(), NEWNS);
                ensure!(ret == 0, "setns: errno {}", -ret);
                to.write_all(&bytes(procfs, "thread-self/mountinfo")?)?;
                Ok(())
            })())
        });
        ensure!(pid > 0, "cannot fork: errno {}", -pid);
        drop(to);
        let mut text = Vec::new();
        from.read_to_end(&mut text)?;
        ensure!(sys::wait(pid)? == End::Code(0), "it could not be entered");
        Ok(text)
    }

    /// Lets it go.
    pub fn release(self) -> Result<()> {
        match self.task.map(sys::wait).transpose()? {
            None | Some(End::Code(0)) => Ok(()),
            Some(end) => Err(anyhow::anyhow!("a task ended with {end:?}")),
        }
    }
}
