//! As many operations as possible in a short time, from several processes; they
//! are counted, not written down.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::keeper;
use crate::kinds::NEWUTS;
use crate::sys::{self, Call, End};

/// Does `ops` operations and prints how many it did.
pub fn run(ops: u64, processes: u64, pause: Duration) -> Result<()> {
    let done: &'static AtomicU64 = sys::shared()?;
    let mut children = Vec::new();
    for _ in 0..processes {
        let pid = sys::spawn(Call::Fork, 0, || {
            keeper::status(work(done, ops / processes, pause))
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

fn work(done: &AtomicU64, ops: u64, pause: Duration) -> Result<()> {
    // Who kills the storm means all of it.
    // SAFETY: changes no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let own = File::open("/proc/self/ns/uts")?;
    let count = |ret: i64| {
        ensure!(ret >= 0, "an operation of the storm failed: {ret}");
        done.fetch_add(1, Relaxed);
        Ok(ret)
    };
    for round in 0..ops {
        match round % 8 {
            0 => {
                let child = count(sys::spawn(Call::Clone, NEWUTS, || 0))?;
                sys::wait(child)?;
            }
            1 | 2 => drop(count(sys::unshare(NEWUTS))?),
            _ => drop(count(sys::setns(own.as_raw_fd(), NEWUTS))?),
        }
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    Ok(())
}
