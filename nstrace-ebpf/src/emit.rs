//! How a record gets to user space, or is counted as lost.
//!
//! To wake a reader costs more than all the rest, so a record wakes it only if it
//! said that it sleeps; it then reads on for a while before it sleeps again.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_ktime_get_ns,
    maps::{PerCpuArray, RingBuf},
};
use nstrace_common::wire::{Head, RECORD_KINDS, RecordKind};

use crate::{
    maps::{ASLEEP, LOST},
    slot,
};

/// The head of a record of this kind, now.
#[inline(always)]
pub fn head(kind: RecordKind) -> Head {
    Head {
        kind: kind as u32,
        pad: 0,
        // SAFETY: no precondition.
        time: unsafe { bpf_ktime_get_ns() },
    }
}

/// Sends `len` bytes from `record` on; says whether there was room.
///
/// # Safety
///
/// They must all be initialised: the verifier sees to it.
#[inline(always)]
pub unsafe fn send<T>(ring: &RingBuf, kind: RecordKind, record: *const T, len: usize) -> bool {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(record.cast::<u8>(), len) };
    let sent = ring.output::<[u8]>(bytes, wakeup()).is_ok();
    if !sent {
        count_lost(kind as u32);
    }
    sent
}

/// Counts a record of this kind as lost; kind 0 is an operation without a slot.
#[inline(always)]
pub fn count_lost(kind: u32) {
    const _: () = assert!(RECORD_KINDS > RecordKind::Cgroup as usize);
    count(&LOST, kind);
}

/// Counts one in a map of counters.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: this CPU's own counter; but another task may be preempted just here.
        slot::add(unsafe { &mut *counter }, 1);
    }
}

/// The flag with which to hand a record over.
#[inline(always)]
pub fn wakeup() -> u64 {
    if let Some(asleep) = ASLEEP.get_ptr_mut(0) {
        // SAFETY: in the map. Two records that both see 1 wake the reader twice.
        unsafe {
            if core::ptr::read_volatile(asleep) != 0 {
                core::ptr::write_volatile(asleep, 0);
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}
