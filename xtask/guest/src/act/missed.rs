//! Calls of whose ends the kernel has no kretprobe to tell: a kretprobe has a few instances
//! for the calls that are under way (twice as many as there are CPUs, or one for each,
//! kernel/kprobes.c, register_kretprobe). Each vfork that waits for its child has one, and each
//! copy of a mount namespace that waits for another.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::book::Book;
use crate::keeper;
use crate::kinds::{NEWNS, NEWPID, NEWUTS, SIGHAND, THREAD, VFORK};
use crate::procfs::Procfs;
use crate::recorder::{Recorder, wait_for_release};
use crate::sys::{self, Call, End};

/// What those that copy are called.
pub const COPIER: &str = "copier";

/// More than there are instances.
const VFORKS: usize = 64;

/// Failures, each before something that must not be taken for its end.
pub fn run(book: &Path) -> Result<()> {
    let vforks = Vforks::begin()?;
    keeper::keep(&Procfs::open()?, |asker| {
        let book = Book::append(book)?;
        let mut recorder = Recorder::new(Procfs::open()?, asker, book, "missed")?;
        for flags in [0, NEWPID, NEWUTS] {
            // CLONE_THREAD and a new pid namespace exclude each other.
            recorder.note = "failure".into();
            let failed = recorder.clone(Call::Clone3, NEWPID | SIGHAND | THREAD, |_, _| Ok(0))?;
            ensure!(failed.is_err(), "a thread in a pid namespace of its own");
            recorder.note = format!("after it, {flags:#x}");
            if let Ok(child) = recorder.clone(Call::Clone3, flags, |_, _| Ok(0))? {
                recorder.end(child)?;
            }
        }
        recorder.note = "the last".into();
        recorder.unshare(NEWUTS)?;
        Ok(())
    })?;
    vforks.end()
}

/// Vforks that wait for their children.
struct Vforks {
    parents: Vec<i64>,
    /// Closed, it lets the children go.
    release: Option<File>,
}

impl Vforks {
    fn begin() -> Result<Self> {
        let (hold, release) = sys::pipe()?;
        let (mut begun, begin) = sys::pipe()?;
        let mut vforks = Vforks {
            parents: Vec::new(),
            release: Some(release),
        };
        for _ in 0..VFORKS {
            let parent = sys::spawn(Call::Fork, 0, || {
                // Else the children would hold each other.
                vforks.release = None;
                let child = || keeper::status(wait(&begin, &hold));
                i32::from(sys::spawn(Call::Clone, VFORK, child) < 0)
            });
            ensure!(parent > 0, "fork: errno {}", -parent);
            vforks.parents.push(parent);
        }
        drop(begin);
        begun.read_exact(&mut [0; VFORKS])?;
        Ok(vforks)
    }

    fn end(mut self) -> Result<()> {
        self.release = None;
        for parent in self.parents {
            let end = sys::wait(parent)?;
            ensure!(matches!(end, End::Code(0)), "a vfork: {end:?}");
        }
        Ok(())
    }
}

/// A copy of a mount namespace: who made it, and when.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Copy {
    pub tid: u32,
    pub begin_ns: u64,
    pub end_ns: u64,
}

/// So many copy at once, so many mounts each.
const COPIES: usize = 16;
const MOUNTS: usize = 200;

/// Between a copy and what must not be taken for its end; in ms.
const PAUSE: u64 = 300;

/// Copies of mount namespaces, all at once, each before an unshare without one by the same
/// task. Prints them.
pub fn copies(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    ensure!(sys::unshare(NEWNS) == 0, "unshare(NEWNS) failed");
    sys::mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE)?;
    let shown = dir.to_string_lossy();
    sys::mount("tmpfs", &shown, "tmpfs", 0).context("cannot mount a tmpfs")?;
    for number in 0..MOUNTS {
        let point = format!("{shown}/{number}");
        std::fs::create_dir(&point)?;
        sys::mount(&point, &point, "none", libc::MS_BIND).context(point)?;
    }
    let (hold, release) = sys::pipe()?;
    let mut release = Some(release);
    let mut children = Vec::new();
    for _ in 0..COPIES {
        let child = sys::spawn(Call::Fork, 0, || {
            release = None;
            keeper::status(copy(&hold))
        });
        ensure!(child > 0, "fork: errno {}", -child);
        children.push(child);
    }
    drop(release);
    for child in children {
        let end = sys::wait(child)?;
        ensure!(matches!(end, End::Code(0)), "a copy: {end:?}");
    }
    Ok(())
}

fn copy(hold: &File) -> Result<()> {
    sys::set_comm(COPIER.as_bytes());
    wait_for_release(hold.try_clone()?)?;
    let begin_ns = sys::monotonic_ns();
    ensure!(sys::unshare(NEWNS) == 0, "unshare(NEWNS) failed");
    let copy = Copy {
        tid: std::process::id(),
        begin_ns,
        end_ns: sys::monotonic_ns(),
    };
    std::thread::sleep(std::time::Duration::from_millis(PAUSE));
    ensure!(sys::unshare(NEWUTS) == 0, "unshare(NEWUTS) failed");
    println!("{}", serde_json::to_string(&copy)?);
    Ok(())
}

/// A child: says that it is there, and waits.
fn wait(mut begin: &File, hold: &File) -> Result<()> {
    begin.write_all(b"!")?;
    wait_for_release(hold.try_clone()?)?;
    Ok(())
}
