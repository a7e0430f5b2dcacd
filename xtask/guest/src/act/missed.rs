//! Clones that fail while the kernel has no kretprobe to tell of their ends: a kretprobe has
//! a few instances for the calls that are under way (twice as many as there are CPUs, or one
//! for each, kernel/kprobes.c, register_kretprobe), and each vfork that waits for its child
//! has one.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Result, ensure};

use crate::book::Book;
use crate::keeper;
use crate::kinds::{NEWPID, NEWUTS, SIGHAND, THREAD, VFORK};
use crate::procfs::Procfs;
use crate::recorder::{Recorder, wait_for_release};
use crate::sys::{self, Call, End};

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

/// A child: says that it is there, and waits.
fn wait(mut begin: &File, hold: &File) -> Result<()> {
    begin.write_all(b"!")?;
    wait_for_release(hold.try_clone()?)?;
    Ok(())
}
