//! As many mount operations as possible in a short time, from several processes; they are
//! counted, not written down.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Result, ensure};

use crate::keeper;
use crate::kinds::NEWNS;
use crate::sys::{self, Call, End};

/// What its tasks are called.
pub const COMM: &str = "mount-op-storm";

/// Does `ops` operations below `dir`, and prints how many it did. That each process copies
/// its mount namespace is one, too.
pub fn run(dir: &Path, ops: u64, processes: u64) -> Result<()> {
    sys::set_comm(COMM.as_bytes());
    let done: &'static AtomicU64 = sys::shared()?;
    let mut children = Vec::new();
    for process in 0..processes {
        let dir = dir.join(process.to_string());
        fs::create_dir_all(&dir)?;
        let pid = sys::spawn(Call::Fork, 0, || {
            keeper::status(work(done, &dir, ops / processes))
        });
        ensure!(pid > 0, "cannot fork: errno {}", -pid);
        children.push(pid);
    }
    for child in children {
        ensure!(
            sys::wait(child)? == End::Code(0),
            "a process of the storm failed"
        );
    }
    println!("{}", done.load(Relaxed));
    Ok(())
}

fn work(done: &AtomicU64, dir: &Path, ops: u64) -> Result<()> {
    sys::die_with_parent();
    let count = |is_as_expected: bool| {
        ensure!(is_as_expected, "an operation of the storm went otherwise");
        done.fetch_add(1, Relaxed);
        Ok(())
    };
    count(sys::unshare(NEWNS) == 0)?;
    let shown = dir.to_string_lossy();
    count(sys::mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE).is_ok())?;
    let target = CString::new(dir.as_os_str().as_bytes())?;
    for round in 2..ops {
        match round % 4 {
            0 => count(sys::mount("tmpfs", &shown, "tmpfs", 0).is_ok())?,
            1 => count(sys::mount(&shown, &shown, "none", libc::MS_BIND).is_ok())?,
            2 if round == 2 => count(sys::mount("x", "/nowhere", "none", 0).is_err())?,
            3 if round == 3 => count(sys::mount("x", "/nowhere", "none", 0).is_err())?,
            _ => {
                // SAFETY: the path ends with a NUL.
                let ret = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
                count(ret == 0)?;
            }
        }
    }
    Ok(())
}
