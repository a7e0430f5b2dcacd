//! The kernel side's clock and the clock on the wall.

/// Nanoseconds to add to `CLOCK_MONOTONIC` for the time of day (Unix time). Taken
/// anew for each batch of events: the wall clock may be set while nstrace runs.
pub fn wall_offset_ns() -> i64 {
    now(libc::CLOCK_REALTIME) - now(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_MONOTONIC`, in ns.
pub fn monotonic_ns() -> u64 {
    now(libc::CLOCK_MONOTONIC) as u64
}

fn now(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer. It cannot fail for these clocks.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
