//! What processes have used of the processor, to the nanosecond.
//!
//! /proc/PID/stat counts ticks of 10 ms and /proc/PID/schedstat one thread. The
//! clock of a process (clock_getcpuclockid(3)) counts all its threads, those that
//! have ended too.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A process is at rest when it used less than this in that time: one that wakes up
/// ten times a second and finds nothing is.
const QUIET_NS: u64 = 200_000;
const QUIET_MS: u64 = 300;

/// So long that a tracer that never rests is an error, not a hang.
const QUIET_TRIES: u32 = 400;

/// Another process.
#[derive(Clone, Copy, Debug)]
pub struct Pid(pub u32);

impl Pid {
    /// What it has used since it began.
    pub fn cpu_ns(self) -> Result<u64> {
        let mut clock = 0;
        // SAFETY: the kernel fills `clock`.
        let ret = unsafe { libc::clock_getcpuclockid(self.0 as i32, &raw mut clock) };
        ensure!(ret == 0, "process {}: errno {ret}", self.0);
        let mut time = MaybeUninit::<libc::timespec>::zeroed();
        // SAFETY: the kernel fills the structure, of which zeroes are a value.
        let (ret, time) = unsafe {
            let ret = libc::clock_gettime(clock, time.as_mut_ptr());
            (ret, time.assume_init())
        };
        ensure!(
            ret == 0,
            "process {}: {}",
            self.0,
            io::Error::last_os_error()
        );
        Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// Waits until it does nothing any more; returns what it has used then.
    pub fn rest(self) -> Result<u64> {
        let mut before = self.cpu_ns()?;
        for _ in 0..QUIET_TRIES {
            sleep_ms(QUIET_MS);
            let now = self.cpu_ns()?;
            if now - before < QUIET_NS {
                return Ok(now);
            }
            before = now;
        }
        anyhow::bail!("process {} does not come to rest", self.0)
    }

    /// What it has in memory.
    pub fn rss_kb(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| format!("{path}: cannot read"))?;
        vm_rss_kb(&status).with_context(|| format!("{path}: no VmRSS"))
    }
}

/// `VmRSS:      9876 kB` in /proc/PID/status.
fn vm_rss_kb(status: &str) -> Option<u64> {
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

/// What we and the children that we waited for have used, user and system time. The
/// kernel divides the sum among the two by its ticks, but the sum is exact.
pub fn own_and_children_ns() -> Result<u64> {
    Ok(usage_ns(libc::RUSAGE_SELF)? + usage_ns(libc::RUSAGE_CHILDREN)?)
}

fn usage_ns(who: i32) -> Result<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, of which zeroes are a value.
    let (ret, usage) = unsafe {
        let ret = libc::getrusage(who, usage.as_mut_ptr());
        (ret, usage.assume_init())
    };
    ensure!(ret == 0, "getrusage: {}", io::Error::last_os_error());
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    Ok(ns(usage.ru_utime) + ns(usage.ru_stime))
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rss_is_read_from_status() {
        let status = "Name:\tx\nVmHWM:\t   99 kB\nVmRSS:\t    1234 kB\nRssAnon:\t 5 kB\n";
        assert_eq!(vm_rss_kb(status), Some(1234));
        assert_eq!(vm_rss_kb("Name:\tx\n"), None);
    }

    /// A process that ends must not look as if it had come to rest.
    #[test]
    fn our_own_clock_runs_and_that_of_nobody_is_an_error() {
        assert!(Pid(std::process::id()).cpu_ns().unwrap() > 0);
        // Above PID_MAX_LIMIT, include/linux/threads.h.
        assert!(Pid(5_000_000).cpu_ns().is_err());
    }
}
